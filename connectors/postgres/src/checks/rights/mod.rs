//! What our role must be allowed to do, right by right, each with its GRANT.
//!
//! `docs/GRANTS.md` has all of them together. A superuser passes every check here.

pub(super) mod belongings;
pub(super) mod database;
pub(super) mod origins;
pub(super) mod ownership;
pub(super) mod replica_role;
pub(super) mod replication;
pub(super) mod row_security;
pub(super) mod schemas;
pub(super) mod sequences;
pub(super) mod statistics;
pub(super) mod tables;

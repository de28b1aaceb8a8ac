//! Both roles of a PostgreSQL database: source and target.
//!
//! # Layout
//!
//! - `connect`: addresses, TLS, ordinary sessions with pinned settings, the replication session.
//! - `sql`: quoting, and the names of what a run creates on a server.
//! - `shelf`: sessions kept open between uses.
//! - `patience`: locks on many tables, for which nobody waits long.
//! - `catalog`: tables and inventory as the catalog describes them.
//! - `ddl`: changes of definitions, seen by event triggers and made again on the other side.
//! - `pgoutput`: message bytes to events, nothing else.
//! - `source`: publication, slot, stream.
//! - `snapshot`: reading rows and digests under one snapshot.
//! - `sink`: COPY in, and apply with progress in the same transaction.
//! - `schema`: definitions by `pg_dump` and `pg_restore`.
//! - `primary`: the fence and the counters.
//! - `checks`: one file per reason not to start.

mod catalog;
mod checks;
pub mod connect;
mod database;
mod ddl;
mod patience;
mod pgoutput;
mod primary;
pub mod schema;
mod shelf;
mod sink;
mod snapshot;
mod source;
pub mod sql;

pub use database::Database;
pub use snapshot::LiveReader;

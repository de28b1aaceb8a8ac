//! What reading from a standby needs, of both servers. Nothing where none is read.

pub(super) mod conflicts;
pub(super) mod follows;
pub(super) mod running;

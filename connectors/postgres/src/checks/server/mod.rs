//! The server: its version, its settings, and room for what a run needs.

pub(super) mod connections;
pub(super) mod decoding;
pub(super) mod defaults;
pub(super) mod failover;
pub(super) mod lock_table;
pub(super) mod origins;
pub(super) mod retention;
pub(super) mod sender_timeout;
pub(super) mod senders;
pub(super) mod slots;
pub(super) mod standby;
pub(super) mod synchronous;
pub(super) mod version;
pub(super) mod wal_level;

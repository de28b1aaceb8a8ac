//! The server: its version, its settings, and room for what a run needs.

use cutover_core::model::finding::Scope;

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

/// Slots, and senders that read them: one for the stream, one at a time for a snapshot at a position.
/// A move reads what its streams bring, and opens no snapshot.
fn of_streams(scope: Scope) -> i64 {
    match scope {
        Scope::Start => 2,
        Scope::Move => 1,
    }
}

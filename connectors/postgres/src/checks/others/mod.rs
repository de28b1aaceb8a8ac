//! Who else is at work here: transactions, other runs, other replication, extensions.

pub(super) mod consumers;
pub(super) mod event_triggers;
pub(super) mod extensions;
pub(super) mod leftovers;
pub(super) mod long_transactions;
pub(super) mod prepared;
pub(super) mod publication;
pub(super) mod sessions;
pub(super) mod subscriptions;

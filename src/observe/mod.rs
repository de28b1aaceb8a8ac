//! What we say about ourselves: logs, metrics, progress. Knows no other room.

pub mod logs;
pub mod metrics;
pub mod progress;

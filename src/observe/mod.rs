//! What we say about ourselves.

pub mod logs;
pub mod progress;

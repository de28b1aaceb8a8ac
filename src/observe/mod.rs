//! What we say about ourselves.

pub mod progress;

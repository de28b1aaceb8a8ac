//! One migration from start to finish.

pub mod command;
pub mod socket;

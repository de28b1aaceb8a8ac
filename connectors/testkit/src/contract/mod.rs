//! Promises of the ports as tests. An implementation passes them through a harness of its own.

pub mod reader;
pub mod switch;
mod traffic;

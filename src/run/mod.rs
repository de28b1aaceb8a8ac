//! One migration from start to finish.

pub mod command;
pub mod fact;
pub mod pipes;
pub mod ports;
pub mod proof;
pub mod standing;
pub mod socket;

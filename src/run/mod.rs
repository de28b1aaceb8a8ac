//! One migration from start to finish.

pub mod book;
pub mod command;
pub mod error;
pub mod fact;
pub mod pipes;
pub mod ports;
pub mod prepare;
pub mod proof;
pub mod standing;
pub mod socket;

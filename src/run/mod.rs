//! One migration from start to finish.

mod at_start;
pub mod book;
pub mod command;
pub mod ends;
pub mod error;
mod every;
pub mod fact;
mod given;
mod history;
mod lend;
pub mod live;
mod lost;
mod moves;
pub mod owed;
mod pairs;
mod perform;
pub mod pipes;
pub mod ports;
pub mod prepare;
pub mod proof;
pub mod recovery;
mod removal;
mod rows;
pub mod serve;
pub mod socket;
pub mod standing;
pub mod status;

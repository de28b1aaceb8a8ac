//! What travels between databases, and how we name it. Pure data.

pub mod counter;
pub mod digest;
pub mod event;
pub mod finding;
pub mod inventory;
pub mod position;
pub mod ranges;
pub mod run;
pub mod schema;
pub mod selection;
pub mod side;
pub mod value;

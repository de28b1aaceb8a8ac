//! What a connector must be able to do. Trait objects: connectors are chosen at run time, and
//! calls are per batch, not per row.

mod answers;
pub mod copy;
pub mod error;
pub mod examine;
pub mod primary;
pub mod reader;
pub mod schema;
pub mod sink;
pub mod source;
pub mod switch;

pub use error::{PortError, Result};

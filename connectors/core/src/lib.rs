//! The language all connectors speak: the model and the ports. No I/O, no driver.
//!
//! # Layout
//!
//! - [`model`]: what travels and what is compared (values, tables, events, positions).
//! - [`port`]: what a connector must be able to do for the engine.

pub mod model;
pub mod port;

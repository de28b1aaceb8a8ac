//! Addresses, TLS, ordinary sessions with pinned settings, and the replication session.
//!
//! One place opens streams and settles TLS for both kinds of session, and one place decides
//! which failures are worth repeating. Knows no table and no run beyond its name.

mod config;
mod der;
mod error;
mod replication;
mod session;
mod socket;
mod stream;
mod tls;

pub use config::{ConfigError, Host, PgConfig, SslMode};
pub(crate) use error::{ServerError, port_error};
pub(crate) use replication::{CopyBoth, Frame, Replication, WireError};
pub use session::Session;

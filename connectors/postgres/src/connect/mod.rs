//! Addresses, TLS, ordinary sessions with pinned settings, and the replication session.
//!
//! One place opens streams and settles TLS for both kinds of session, and one place decides
//! which failures are worth repeating. Knows no table and no run beyond its name.

mod config;
mod der;
mod error;
mod pulse;
mod replication;
mod session;
mod socket;
mod stream;
mod tls;
mod worker;

pub use config::{ConfigError, Host, PgConfig, SslMode};
pub(crate) use error::{
    NO_PRIVILEGE, NOT_CONVERTIBLE, REFUSED, ServerError, is_about_encoding, is_of_a_function,
    port_error, row_error,
};
pub(crate) use replication::{CopyBoth, Frame, Replication, WireError};
pub(crate) use session::Hashing;
pub use session::Session;
pub(crate) use worker::Left;

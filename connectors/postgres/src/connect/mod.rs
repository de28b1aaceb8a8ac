//! Addresses, TLS, sessions.

/// Address and credentials of one database.
pub struct PgConfig {}

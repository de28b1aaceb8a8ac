//! Throwaway servers on loopback, for the demo and for tests.
//!
//! Finds PostgreSQL and PgBouncer on this machine, starts them in a temporary folder on a free
//! port, and makes sure that they end with the process that started them, however that ends.
//! Run as root, the servers run as an unprivileged user. Linux only (it reads `/proc`).
//!
//! Knows nothing of replication, migrations or the rest of the project, and makes no load.
//! Start with [`find_postgres`], [`Postgres::start`] and [`PgBouncer::start`].

mod error;
mod find;
mod keeper;
mod owner;
mod pgbouncer;
mod port;
mod postgres;
mod process;
mod secret;
pub mod shop;
mod wait;

pub use error::SandboxError;
pub use find::{
    PgInstall, Program, find_pgbouncer, find_postgres, find_program, postgres, servers_folders,
};
pub use pgbouncer::{PgBouncer, PgBouncerDatabase, PgBouncerOptions};
pub use postgres::{PgOptions, Postgres, STANDBY_SLOT, StopMode, TlsOptions};
pub use wait::{wait_for, wait_until};

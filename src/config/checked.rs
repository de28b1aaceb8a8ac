//! The configuration after every rule: nothing optional that cannot be missing.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use cutover_core::model::{run::RunId, selection::Selection, side::Side};

use super::{
    Home,
    secret::{Address, Secret},
};

/// What the user wants.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// Name of the run.
    pub run: RunId,
    /// Folder of the journal, the control socket and the reports.
    pub state_dir: PathBuf,
    /// The database that owns the writes when the run begins.
    pub blue: Database,
    /// Its successor.
    pub green: Database,
    /// Which tables are moved.
    pub tables: Selection,
    /// Where green's tables come from.
    pub schema: Schema,
    /// What happens when definitions change during the run.
    pub ddl: Ddl,
    /// How the initial rows are copied.
    pub copy: Copy,
    /// How the two sides are compared.
    pub verify: Verify,
    /// What decides where writes go; may be empty.
    pub switches: Vec<Switch>,
    /// The bounds of a move.
    pub moves: Move,
    /// The way back.
    pub rollback: Rollback,
    /// Status over HTTP; `None`: nothing listens.
    pub http: Option<Http>,
    /// Logs.
    pub log: Log,
}

/// Address and password of one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Its address, maybe with a password in it.
    pub url: Address,
    /// A standby of it that is read in its place; never of an admin console.
    pub read_from: Option<Address>,
    /// The password that wins over those in the addresses.
    pub password: Option<Credential>,
}

/// A secret and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The secret.
    pub secret: Secret,
    /// `env NAME`, `file PATH` or `the configuration file`.
    pub origin: String,
}

/// Where green's tables come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schema {
    /// Blue's definitions are copied.
    Copy,
    /// They are there already.
    Provided,
    /// They are copied, then these commands run (`/bin/sh -c`); never empty.
    Run(Vec<String>),
}

/// What happens when definitions change on the side that owns the writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ddl {
    /// The stream stops.
    Stop,
    /// What is safe is made on the other side too.
    Apply,
    /// The stream goes on.
    Ignore,
}

/// How the initial rows are copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Ranges at the same time, 1 to 64.
    pub workers: usize,
    /// Bytes of a table in one range, at least 64 KiB.
    pub chunk: u64,
    /// Bytes per second of all workers together; `None`: no bound.
    pub rate: Option<u64>,
}

/// How the two sides are compared while the run waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verify {
    /// Again and again, not only when asked.
    pub continuous: bool,
}

/// One traffic switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    /// Unique in the run, for example `pgbouncer[0]`.
    pub name: String,
    /// Which kind, and its settings.
    pub kind: SwitchKind,
}

/// The kinds of switches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwitchKind {
    /// A PgBouncer.
    PgBouncer {
        /// Its admin console.
        admin: Database,
        /// The entries of `[databases]`; never empty.
        databases: Vec<String>,
        /// Its configuration file.
        config: PathBuf,
        /// Blue as it reaches it, when that differs from `blue.url`.
        blue: Option<Target>,
        /// The same of green.
        green: Option<Target>,
    },
    /// A program; `argv` is never empty.
    Command {
        /// The program and its arguments.
        argv: Vec<String>,
        /// How long it may take beyond what a pause allows.
        timeout: Duration,
        /// Environment variables that are passed on.
        env: Vec<String>,
    },
    /// A service.
    Webhook {
        /// Where it is told what to do.
        url: Address,
        /// Where it is asked where the writes go.
        observe_url: Option<Address>,
        /// Key of the signature.
        secret: Option<Credential>,
        /// How long an answer may take beyond what a pause allows.
        timeout: Duration,
    },
}

/// One database as a pooler reaches it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Target {
    /// Host name, address, or folder of a Unix socket.
    pub host: String,
    /// TCP port; never 0.
    pub port: u16,
    /// Name of the database.
    pub dbname: String,
}

/// The bounds of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Longest time in which clients wait.
    pub pause_budget: Duration,
    /// Largest lag with which a move may begin.
    pub max_lag: Duration,
}

/// The way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollback {
    /// How long `run --until finished` keeps it open after the switch.
    pub window: Duration,
}

/// Status over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where it listens.
    pub listen: SocketAddr,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// What is logged.
    pub filter: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Config {
    /// Address and password of one side.
    #[must_use]
    pub fn database(&self, side: Side) -> &Database {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }

    /// Where the run lives.
    #[must_use]
    pub fn home(&self) -> Home {
        Home { file: self.file.clone(), run: self.run.clone(), state_dir: self.state_dir.clone() }
    }
}

//! Traffic switches: what decides where clients' writes go.
//!
//! One room per kind of device: `pgbouncer`, `command` (a program of the user), `webhook` (a
//! service of the user). All pass the same contract test. Knows the core and nothing else; when
//! to switch, and what to do when a switch gives no answer, is decided elsewhere.

pub mod command;
mod config;
pub mod duration;
mod failure;
pub mod pgbouncer;
pub mod webhook;
mod wire;

pub use command::{CommandConfig, CommandSwitch};
pub use config::BadConfig;
pub use pgbouncer::{PgBouncerConfig, PgBouncerSwitch, Target, Targets};
pub use webhook::{WebhookConfig, WebhookSwitch};

//! The `switch` section as the user writes it, one entry per device.

use serde::Deserialize;

use crate::{CommandConfig, PgBouncerConfig, WebhookConfig};

/// One entry of the list, for example `- pgbouncer: { admin: ..., database: ... }`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SwitchConfig {
    /// PgBouncer.
    Pgbouncer(PgBouncerConfig),
    /// A program.
    Command(CommandConfig),
    /// A service.
    Webhook(WebhookConfig),
}

impl SwitchConfig {
    /// `pgbouncer`, `command` or `webhook`: with its place in the list the name of the switch.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Pgbouncer(_) => "pgbouncer",
            Self::Command(_) => "command",
            Self::Webhook(_) => "webhook",
        }
    }
}

/// A section that cannot work, found before anything is touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct BadConfig {
    /// What is wrong; never holds a credential.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

impl BadConfig {
    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

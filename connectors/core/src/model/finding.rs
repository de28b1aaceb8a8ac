//! Reasons to stop or to think, found before anything is touched.

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// The run works, something is at risk or will be slow.
    Warning,
    /// The run must not start (or the move must not begin).
    Error,
}

/// One reason: a code with a page, what, and the exact remedy (SQL, setting or command).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable code with a page under `docs/errors/`, for example `CUT0101`.
    pub code: String,
    /// How bad.
    pub severity: Severity,
    /// Where: `blue`, `green`, one of them with `.read_from`, a switch name, or `config`.
    pub place: String,
    /// What was found, without row values or credentials.
    pub what: String,
    /// What to do, copyable.
    pub remedy: String,
}

/// When a check applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Before anything is created.
    Start,
    /// Right before clients are held, in either direction.
    Move,
}

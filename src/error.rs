//! How a failure is told: message, causes, code with its page, remedy, exit status.
//!
//! Rooms have their own error types; here is what all of them can be asked ([`Explain`]) and the
//! one form in which they reach the edge ([`Failure`]). Nothing here prints.

use std::{error::Error, fmt};

use cutover_core::port::{error::PortError, switch::SwitchError};
use serde::{Deserialize, Serialize};

/// How a command ends. The numbers are a promise to scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u8", from = "u8")]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The answer is no: findings, differences, not ready, refused, or aborted within the budget
    /// with the traffic back where it was.
    No = 1,
    /// Wrong usage or configuration; nothing was done.
    Usage = 2,
    /// Failed.
    Failed = 3,
    /// An operator must decide (`cutover resolve`).
    Undecided = 4,
}

impl From<Exit> for u8 {
    fn from(exit: Exit) -> Self {
        exit as Self
    }
}

impl From<u8> for Exit {
    /// A number that no version of ours has sent is a failure.
    fn from(number: u8) -> Self {
        match number {
            0 => Self::Done,
            1 => Self::No,
            2 => Self::Usage,
            4 => Self::Undecided,
            _ => Self::Failed,
        }
    }
}

/// What an error of ours says beside its message and its causes.
pub trait Explain: Error {
    /// Stable code with a page under `docs/errors/`.
    fn code(&self) -> Option<&str> {
        None
    }

    /// What to do, copyable.
    fn remedy(&self) -> Option<String> {
        None
    }

    /// How the command ends that met it.
    fn exit(&self) -> Exit {
        Exit::Failed
    }

    /// The message without its code; the cause is never part of it.
    fn headline(&self) -> String {
        self.to_string()
    }
}

impl Explain for PortError {
    fn code(&self) -> Option<&str> {
        Self::code(self)
    }

    fn remedy(&self) -> Option<String> {
        Self::remedy(self).map(str::to_owned)
    }

    fn headline(&self) -> String {
        match self {
            Self::Transient { .. } => self.to_string(),
            Self::Definite { doing, what, .. } => format!("{doing}: {what}"),
        }
    }
}

impl Explain for SwitchError {
    fn exit(&self) -> Exit {
        match self {
            Self::Refused { .. } => Exit::Failed,
            Self::Ambiguous { .. } => Exit::Undecided,
        }
    }
}

/// A failure on its way to the person who typed the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable code with a page under `docs/errors/`.
    pub code: Option<String>,
    /// What happened and where.
    pub what: String,
    /// Where, when it is a place in a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// The lines in question, ready to print.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<String>,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do.
    pub remedy: Option<String>,
    /// How the command ends.
    pub exit: Exit,
    /// What else is wrong and was met at the same time, as further mistakes of one file are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Self>,
}

impl Failure {
    /// A failure without a cause.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            code: None,
            what: what.into(),
            place: None,
            excerpt: None,
            causes: vec![],
            remedy: None,
            exit: Exit::Failed,
            also: vec![],
        }
    }

    /// Adds the code of a page.
    #[must_use]
    pub fn code(mut self, code: &str) -> Self {
        self.code = Some(code.to_owned());
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Sets how the command ends.
    #[must_use]
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Adds a cause and its causes.
    #[must_use]
    pub fn caused_by(mut self, cause: &dyn Error) -> Self {
        self.causes.push(cause.to_string());
        self.causes.extend(causes(cause));
        self
    }

    /// Path of the page that explains the code, relative to the project.
    #[must_use]
    pub fn page(&self) -> Option<String> {
        self.code.as_ref().map(|code| format!("docs/errors/{code}.md"))
    }
}

impl<E: Explain> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            code: error.code().map(str::to_owned),
            what: error.headline(),
            place: None,
            excerpt: None,
            causes: causes(&error),
            remedy: error.remedy(),
            exit: error.exit(),
            also: vec![],
        }
    }
}

impl fmt::Display for Failure {
    /// One line, for logs: message and causes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

/// The causes of an error, outermost first, without repeating what the line above says already:
/// some libraries print their cause in their own message.
#[must_use]
pub fn causes(error: &dyn Error) -> Vec<String> {
    let mut above = error.to_string();
    let mut out = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !above.contains(&text) {
            out.push(text.clone());
        }
        above = text;
        next = cause.source();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_survive_the_wire() {
        for exit in [Exit::Done, Exit::No, Exit::Usage, Exit::Failed, Exit::Undecided] {
            assert_eq!(Exit::from(u8::from(exit)), exit);
        }
        assert_eq!(Exit::from(77), Exit::Failed);
    }

    #[test]
    fn a_definite_port_error_keeps_code_remedy_and_causes() {
        let error =
            PortError::definite("CUT0501", "taking the lease on green", "held", "stop the other")
                .caused_by(std::io::Error::other("lock not available"));
        let failure = Failure::from(error);
        assert_eq!(failure.code.as_deref(), Some("CUT0501"));
        assert_eq!(failure.what, "taking the lease on green: held");
        assert_eq!(failure.causes, ["lock not available"]);
        assert_eq!(failure.remedy.as_deref(), Some("stop the other"));
        assert_eq!(failure.page().as_deref(), Some("docs/errors/CUT0501.md"));
        assert_eq!(failure.to_string(), "taking the lease on green: held: lock not available");
    }

    #[test]
    fn a_cause_that_is_in_the_message_above_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}")]
        struct Outer(#[source] std::io::Error);
        assert!(causes(&Outer(std::io::Error::other("inner"))).is_empty());
    }
}

//! Why a run cannot go on, and what is worth trying again.

use cutover_core::port::PortError;

use crate::{
    cutover::driver::DriveError,
    error::{Exit, Failure},
    journal::JournalError,
    preflight::Report,
};

/// Why a run cannot go on.
#[derive(Debug)]
pub enum RunError {
    /// A port failed.
    Port(PortError),
    /// The journal failed; nothing may happen any more.
    Journal(JournalError),
    /// Preflight found reasons not to start.
    Findings(Box<Report>),
    /// Anything else, ready for the edge.
    Failure(Box<Failure>),
}

impl RunError {
    /// Whether the same thing may succeed a moment later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Port(e) if e.is_transient())
    }

    /// The form for the edge.
    #[must_use]
    pub fn into_failure(self) -> Failure {
        match self {
            Self::Port(e) => e.into(),
            Self::Journal(e) => e.into(),
            Self::Failure(f) => *f,
            Self::Findings(report) => Failure::new(format!(
                "preflight found {} reason(s) not to start",
                report.counts.errors
            ))
            .code("CUT0503")
            .remedy("run `cutover check` and follow the remedies")
            .exit(Exit::No),
        }
    }
}

impl From<PortError> for RunError {
    fn from(e: PortError) -> Self {
        Self::Port(e)
    }
}

impl From<JournalError> for RunError {
    fn from(e: JournalError) -> Self {
        Self::Journal(e)
    }
}

impl From<DriveError> for RunError {
    fn from(e: DriveError) -> Self {
        match e {
            DriveError::Journal(e) => Self::Journal(e),
            DriveError::OutOfOrder(_) => Failure::from(e).into(),
        }
    }
}

impl From<Failure> for RunError {
    fn from(f: Failure) -> Self {
        Self::Failure(Box::new(f))
    }
}

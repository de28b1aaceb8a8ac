//! What a move stands on: everything a step does outside of the journal.
//!
//! [`Ground`] is one method per step and one per way back, without policy; [`live`] is the one
//! over real ports, [`work`] what the run lends it, [`refuse`] the pure part of `Recheck`.

pub mod live;
pub mod refuse;
#[cfg(test)]
mod tests;
pub mod work;

use std::time::Duration;

use async_trait::async_trait;
use cutover_core::port::{PortError, switch::SwitchError};

use super::fact::{Answer, Details, Outcome};
use crate::error::causes;

/// Why an action failed, in words that may be journaled: no row values, no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whether it may have taken effect all the same; only meaningful for requests to a switch.
    pub ambiguous: bool,
    /// What happened.
    pub why: String,
    /// Code with a page, when there is one.
    pub code: Option<String>,
    /// What to do, when somebody must.
    pub remedy: Option<String>,
}

impl Failure {
    /// A failure that somebody can do something about.
    pub fn definite(code: &str, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            ambiguous: false,
            why: why.into(),
            code: Some(code.into()),
            remedy: Some(remedy.into()),
        }
    }

    /// A step that did not come to its end.
    pub fn late(step: impl std::fmt::Display, within: Duration) -> Self {
        Self {
            ambiguous: false,
            why: format!("{step} did not end within {} ms", within.as_millis()),
            code: None,
            remedy: Some(
                "look for whoever holds a lock on either side (pg_locks), then try again".into(),
            ),
        }
    }

    /// A request without an answer.
    pub fn ambiguous(why: impl Into<String>) -> Self {
        Self { ambiguous: true, why: why.into(), code: None, remedy: None }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    std::iter::once(error.to_string()).chain(causes(error)).collect::<Vec<_>>().join(": ")
}

impl From<PortError> for Failure {
    fn from(error: PortError) -> Self {
        Self {
            ambiguous: false,
            why: with_causes(&error),
            code: error.code().map(str::to_owned),
            remedy: error.remedy().map(str::to_owned),
        }
    }
}

impl From<SwitchError> for Failure {
    fn from(error: SwitchError) -> Self {
        let ambiguous = matches!(error, SwitchError::Ambiguous { .. });
        Self { ambiguous, why: with_causes(&error), code: None, remedy: None }
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        if failure.ambiguous {
            Self::Ambiguous { why: failure.why }
        } else {
            Self::Failed { why: failure.why, code: failure.code, remedy: failure.remedy }
        }
    }
}

/// What an action found out, or why it failed.
pub type Did = Result<Details, Failure>;

/// Performs single actions. Every one states a target, so that repeating it is harmless.
///
/// `within` is a wish to come back by oneself with a clear answer; a little later the future is
/// dropped, and that counts as a failure (of a request to a switch: as no answer).
#[async_trait]
pub trait Ground: Send + Sync {
    /// Opens every connection that an action needs, so that none has to be opened while clients
    /// wait.
    ///
    /// # Errors
    ///
    /// One does not open.
    async fn warm_up(&self) -> Result<(), Failure>;

    /// [`Step::Recheck`](super::plan::Step::Recheck).
    async fn recheck(&self, within: Duration) -> Did;
    /// [`Step::ArmReverse`](super::plan::Step::ArmReverse).
    async fn arm_reverse(&self, within: Duration) -> Did;
    /// [`Step::Guard`](super::plan::Step::Guard): comes back when the guard is ready.
    async fn start_guard(&self, within: Duration) -> Did;
    /// Tells the guard that clients are held from now on, for at most `budget` and its grace.
    /// Called once, before the first [`Ground::pause`]; may wait for a good moment first, while
    /// nobody is held.
    async fn pausing(&self, budget: Duration) -> Result<(), Failure>;
    /// Tells the guard that this process is at work on freeing the traffic, and will say so again
    /// within `within` if that is not done by then.
    async fn alive(&self, within: Duration);
    /// [`Step::Pause`](super::plan::Step::Pause) of one switch.
    async fn pause(&self, switch: &str, within: Duration) -> Did;
    /// [`Step::Fence`](super::plan::Step::Fence).
    async fn fence(&self, within: Duration) -> Did;
    /// [`Step::Drain`](super::plan::Step::Drain).
    async fn drain(&self, within: Duration) -> Did;
    /// [`Step::Verify`](super::plan::Step::Verify).
    async fn verify(&self, within: Duration) -> Did;
    /// [`Step::Counters`](super::plan::Step::Counters).
    async fn counters(&self, within: Duration) -> Did;
    /// [`Step::Unfence`](super::plan::Step::Unfence).
    async fn unfence(&self, within: Duration) -> Did;
    /// [`Step::Point`](super::plan::Step::Point) of one switch.
    async fn point(&self, switch: &str, within: Duration) -> Did;
    /// [`Step::StreamReverse`](super::plan::Step::StreamReverse).
    async fn stream_reverse(&self, within: Duration) -> Did;

    /// Takes [`Ground::arm_reverse`] back.
    async fn undo_arm_reverse(&self, within: Duration) -> Did;
    /// Takes [`Ground::start_guard`] back.
    async fn undo_guard(&self, within: Duration) -> Did;
    /// Takes [`Ground::pause`] back: lets the clients of one switch go on where they were.
    async fn undo_pause(&self, switch: &str, within: Duration) -> Did;
    /// Takes [`Ground::fence`] back.
    async fn undo_fence(&self, within: Duration) -> Did;

    /// Asks a switch where writes go now.
    async fn observe(&self, switch: &str, within: Duration) -> Result<Answer, Failure>;

    /// Nothing is left for the guard to do: the journal says how it ended, or an operator must
    /// decide.
    async fn release_guard(&self);
}

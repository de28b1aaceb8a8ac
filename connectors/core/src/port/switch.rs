//! What decides where clients' writes go.

use std::{error::Error, time::Duration};

use async_trait::async_trait;

use crate::model::{finding::Finding, side::Side};

/// Where writes go now, as the device itself says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routing {
    /// The side it points at; `None` when the device cannot say or says something else.
    pub side: Option<Side>,
    /// Whether it holds clients at the moment; `None` when it cannot say.
    pub paused: Option<bool>,
}

/// Something in front of the databases that decides where writes go.
///
/// Every method states a target and not a step, so repeating it is harmless.
#[async_trait]
pub trait TrafficSwitch: Send + Sync {
    /// Short name for journals and messages, unique in a run, for example `pgbouncer[0]`.
    fn name(&self) -> &str;

    /// Says what `point_at(side)` would do, without doing it.
    fn describe(&self, side: Side) -> String;

    /// Asks the device where writes go now. Recovery relies on this.
    async fn observe(&self) -> Result<Routing, SwitchError>;

    /// Holds new writes and waits until none is in flight, at most `within`. When it fails with
    /// `Refused`, clients are not held.
    async fn pause(&self, within: Duration) -> Result<(), SwitchError>;

    /// Sends writes to `side` and lets them flow.
    async fn point_at(&self, side: Side) -> Result<(), SwitchError>;

    /// Prepares whatever can be done ahead of the pause so that [`TrafficSwitch::pause`] and
    /// [`TrafficSwitch::point_at`] are fast (connections opened, files checked). Optional.
    async fn warm_up(&self) -> Result<(), SwitchError> {
        Ok(())
    }

    /// Proves, by a change that means nothing to anybody, that what [`TrafficSwitch::point_at`] changes
    /// is what the device goes by: else that would be learned when clients are held. Comes before a
    /// move, after [`TrafficSwitch::warm_up`]. Optional.
    async fn prove(&self) -> Result<(), SwitchError> {
        Ok(())
    }

    /// Gets rid of what nobody needs and a pause would have to get rid of while clients wait, for
    /// example idle connections. Takes less than a second, and clients hardly notice. Optional:
    /// when it fails a pause takes longer, and nothing else. What a crash in the middle of it leaves
    /// is put back by [`TrafficSwitch::warm_up`].
    async fn shed(&self) -> Result<(), SwitchError> {
        Ok(())
    }

    /// Waits for a moment at which a pause would not have to wait for long: few transactions under
    /// way. Comes right before [`TrafficSwitch::pause`], takes a fraction of a second, holds nobody.
    /// Optional: when it fails a pause takes longer, and nothing else. What a crash in the middle of
    /// it leaves is put back by [`TrafficSwitch::warm_up`].
    async fn quiet(&self) -> Result<(), SwitchError> {
        Ok(())
    }

    /// Reasons why this switch would fail later.
    async fn examine(&self) -> Vec<Finding>;
}

/// Why a switch failed, by what is known about traffic afterwards.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The device refused; routing is as it was.
    #[error("{switch} refused: {what}")]
    Refused {
        /// Which switch.
        switch: String,
        /// What it said, or what was checked.
        what: String,
        /// Why.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// The request may or may not have taken effect. Never retried blindly.
    #[error("{switch} gave no answer to: {what}")]
    Ambiguous {
        /// Which switch.
        switch: String,
        /// What was asked of it.
        what: String,
        /// Why.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
}

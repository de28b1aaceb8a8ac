//! A switch without a device behind it, for tests of the engine.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use cutover_core::{
    model::{finding::Finding, side::Side},
    port::switch::{Routing, SwitchError, TrafficSwitch},
};

use crate::{Fault, Faults, Gate};

/// Kinds of calls, for faults and for what was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchCall {
    /// [`TrafficSwitch::observe`].
    Observe,
    /// [`TrafficSwitch::pause`].
    Pause,
    /// [`TrafficSwitch::point_at`].
    PointAt(Side),
    /// [`TrafficSwitch::warm_up`].
    WarmUp,
}

/// What outlives a switch object: where writes go, and the faults that wait.
#[derive(Debug, Clone)]
pub struct FakeDevice {
    gate: Arc<Gate>,
    faults: Arc<Faults<SwitchCall>>,
}

impl FakeDevice {
    /// A device that sends writes to `side`.
    #[must_use]
    pub fn new(side: Side) -> Self {
        Self { gate: Gate::new(side), faults: Arc::default() }
    }

    /// Clients write through this.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// What shall go wrong, and what was called.
    #[must_use]
    pub fn faults(&self) -> &Faults<SwitchCall> {
        &self.faults
    }

    /// A switch for it; several share one device, as after a restart.
    #[must_use]
    pub fn switch(&self, name: &str) -> FakeSwitch {
        FakeSwitch { name: name.to_owned(), device: self.clone() }
    }
}

/// A switch that does what it is told, or fails as ordered.
#[derive(Debug, Clone)]
pub struct FakeSwitch {
    name: String,
    device: FakeDevice,
}

impl FakeSwitch {
    async fn carry_out<T>(
        &self,
        call: SwitchCall,
        effect: impl Future<Output = Result<T, SwitchError>>,
    ) -> Result<T, SwitchError> {
        match self.device.faults.take(&call) {
            None => effect.await,
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                effect.await
            }
            Some(Fault::Refuse(what)) => Err(self.refused(&what)),
            Some(Fault::Ambiguous { happens }) => {
                if happens {
                    effect.await?;
                }
                let what = format!("{call:?}");
                Err(SwitchError::Ambiguous { switch: self.name.clone(), what, source: None })
            }
            Some(Fault::Hang { happens }) => {
                if happens {
                    effect.await?;
                }
                std::future::pending().await
            }
        }
    }

    fn refused(&self, what: &str) -> SwitchError {
        SwitchError::Refused { switch: self.name.clone(), what: what.to_owned(), source: None }
    }
}

#[async_trait]
impl TrafficSwitch for FakeSwitch {
    fn name(&self) -> &str {
        &self.name
    }

    fn describe(&self, side: Side) -> String {
        format!("point the fake at {side}")
    }

    async fn observe(&self) -> Result<Routing, SwitchError> {
        self.carry_out(SwitchCall::Observe, async {
            let (side, paused) = self.device.gate.observe();
            Ok(Routing { side: Some(side), paused: Some(paused) })
        })
        .await
    }

    async fn pause(&self, within: Duration) -> Result<(), SwitchError> {
        self.carry_out(SwitchCall::Pause, async {
            match self.device.gate.pause(within).await {
                true => Ok(()),
                false => Err(self.refused("a write stays in flight")),
            }
        })
        .await
    }

    async fn point_at(&self, side: Side) -> Result<(), SwitchError> {
        self.carry_out(SwitchCall::PointAt(side), async {
            self.device.gate.point_at(side);
            Ok(())
        })
        .await
    }

    async fn warm_up(&self) -> Result<(), SwitchError> {
        self.carry_out(SwitchCall::WarmUp, async { Ok(()) }).await
    }

    async fn examine(&self) -> Vec<Finding> {
        Vec::new()
    }
}

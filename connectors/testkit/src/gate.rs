//! The heart of a device: which side writes go to, whether they are held, how many are in flight.

use std::{sync::Arc, time::Duration};

use cutover_core::model::side::Side;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// Lets writes through to one side, or holds them.
#[derive(Debug)]
pub struct Gate {
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    side: Side,
    paused: bool,
    in_flight: usize,
}

/// One write on its way; it has arrived when this is dropped.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    side: Side,
}

impl Gate {
    /// Open, towards `side`.
    #[must_use]
    pub fn new(side: Side) -> Arc<Self> {
        Arc::new(Self { state: watch::Sender::new(State { side, paused: false, in_flight: 0 }) })
    }

    /// Waits until writes flow and begins one.
    pub async fn enter(self: &Arc<Self>) -> Pass {
        let mut changes = self.state.subscribe();
        loop {
            let mut side = None;
            self.state.send_if_modified(|state| {
                if !state.paused {
                    state.in_flight += 1;
                    side = Some(state.side);
                }
                side.is_some()
            });
            if let Some(side) = side {
                return Pass { gate: Arc::clone(self), side };
            }
            // The sender is our own field.
            let open = changes.wait_for(|state| !state.paused).await;
            drop(open);
        }
    }

    /// Holds new writes and waits for those in flight. `false`: some stayed, and writes flow again.
    pub async fn pause(&self, within: Duration) -> bool {
        let end = Instant::now() + within;
        let mut changes = self.state.subscribe();
        self.state.send_modify(|state| state.paused = true);
        let drained = timeout_at(end, changes.wait_for(|state| state.in_flight == 0)).await.is_ok();
        if !drained {
            self.state.send_modify(|state| state.paused = false);
        }
        drained
    }

    /// Sends writes to `side` and lets them flow.
    pub fn point_at(&self, side: Side) {
        self.state.send_modify(|state| {
            state.side = side;
            state.paused = false;
        });
    }

    /// Where writes go, and whether they are held.
    #[must_use]
    pub fn observe(&self) -> (Side, bool) {
        let state = self.state.borrow();
        (state.side, state.paused)
    }

    /// Writes that have begun and not arrived.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.state.borrow().in_flight
    }
}

impl Pass {
    /// Where the write goes.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.state.send_modify(|state| state.in_flight -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn holds_and_lets_go() {
        let gate = Gate::new(Side::Blue);
        let first = gate.enter().await;
        assert!(!gate.pause(Duration::from_millis(20)).await, "one is in flight");
        assert_eq!(gate.observe(), (Side::Blue, false));
        drop(first);
        assert!(gate.pause(Duration::ZERO).await);
        let held = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter().await.side() }
        });
        tokio::task::yield_now().await;
        assert_eq!((gate.in_flight(), gate.observe()), (0, (Side::Blue, true)));
        gate.point_at(Side::Green);
        assert_eq!(held.await.unwrap(), Side::Green);
        assert_eq!(gate.in_flight(), 0);
    }
}

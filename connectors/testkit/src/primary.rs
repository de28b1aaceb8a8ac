//! A database as the owner of writes without a database behind it, for tests of the engine.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use cutover_core::{
    model::{
        counter::Counter, position::Position, run::RunId, schema::Table, selection::Selection,
    },
    port::{
        PortError, Result,
        primary::{Fence, OpenTransaction, Primary},
    },
};

use crate::{Fault, Faults, faults::lock};

/// What a closed [`FakePrimary`] says covers all that others have written.
pub const CLOSED_AT: Position = Position::Postgres { timeline: 1, lsn: 15 };

/// Kinds of calls, for faults and for what was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrimaryCall {
    /// [`Primary::lay_fence`].
    LayFence,
    /// [`Primary::wake_fence`].
    WakeFence,
    /// [`Primary::install_fence`].
    InstallFence,
    /// [`Primary::close_to_clients`].
    Close,
    /// [`Primary::open_to_clients`].
    Open,
    /// [`Primary::fence`].
    Fence,
    /// [`Primary::remove_fence`].
    RemoveFence,
    /// [`Primary::open_transactions`].
    OpenTransactions,
    /// [`Primary::counters`].
    Counters,
    /// [`Primary::advance`].
    Advance,
    /// [`Primary::fingerprint`].
    Fingerprint,
    /// [`Primary::round_trip`].
    RoundTrip,
    /// [`Primary::warm_up`].
    WarmUp,
}

/// A primary that does what it is told, or fails as ordered. Clones share one database.
///
/// [`Fault::Refuse`] becomes a definite error, [`Fault::Ambiguous`] a transient one.
#[derive(Debug, Clone, Default)]
pub struct FakePrimary {
    state: Arc<Mutex<State>>,
    faults: Arc<Faults<PrimaryCall>>,
}

#[derive(Debug, Default)]
struct State {
    laid: bool,
    installed: bool,
    closed: bool,
    counters: BTreeMap<String, Counter>,
    unfollowed: u64,
    open: Vec<OpenTransaction>,
    fingerprint: BTreeMap<String, String>,
}

impl FakePrimary {
    /// An open database without counters.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What shall go wrong, and what was called.
    #[must_use]
    pub fn faults(&self) -> &Faults<PrimaryCall> {
        &self.faults
    }

    /// Whether a client's write would be taken now.
    #[must_use]
    pub fn takes_writes(&self) -> bool {
        !lock(&self.state).closed
    }

    /// Sets a counter as a client's insert would.
    pub fn set_counter(&self, counter: Counter) {
        lock(&self.state).counters.insert(counter.name.to_string(), counter);
    }

    /// Sets how many things there are that no change log carries.
    pub fn set_unfollowed(&self, count: u64) {
        lock(&self.state).unfollowed = count;
    }

    /// Sets the transactions that are open; one that `blocks_fence` makes closing fail.
    pub fn set_open_transactions(&self, open: Vec<OpenTransaction>) {
        lock(&self.state).open = open;
    }

    /// Sets the definition of a table.
    pub fn set_fingerprint(&self, table: &str, text: &str) {
        lock(&self.state).fingerprint.insert(table.to_owned(), text.to_owned());
    }

    async fn carry_out<T>(
        &self,
        call: PrimaryCall,
        effect: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        let doing = format!("{call:?} on a fake");
        let effect = || effect(&mut lock(&self.state));
        match self.faults.take(&call) {
            None => effect(),
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                effect()
            }
            Some(Fault::Refuse(what)) => {
                Err(PortError::definite("CUT0000", doing, what, "nothing"))
            }
            Some(Fault::Ambiguous { happens }) => {
                if happens {
                    effect()?;
                }
                Err(PortError::transient(doing, "no answer"))
            }
            Some(Fault::Hang { happens }) => {
                if happens {
                    effect()?;
                }
                std::future::pending().await
            }
        }
    }
}

#[async_trait]
impl Primary for FakePrimary {
    async fn lay_fence(&self, _: &RunId, _: &[Table]) -> Result<()> {
        self.carry_out(PrimaryCall::LayFence, |state| {
            state.laid = true;
            Ok(())
        })
        .await
    }

    async fn wake_fence(&self, _: &RunId) -> Result<()> {
        self.carry_out(PrimaryCall::WakeFence, |state| {
            if !state.laid {
                let what = "the fence is not installed";
                return Err(PortError::definite("CUT0000", "waking", what, "install it"));
            }
            state.installed = true;
            Ok(())
        })
        .await
    }

    async fn install_fence(&self, _: &RunId, _: &[Table]) -> Result<()> {
        self.carry_out(PrimaryCall::InstallFence, |state| {
            state.laid = true;
            state.installed = true;
            Ok(())
        })
        .await
    }

    async fn close_to_clients(&self, _: &RunId, _: Duration) -> Result<()> {
        self.carry_out(PrimaryCall::Close, |state| {
            if !state.installed {
                let what = "the fence is not installed";
                return Err(PortError::definite("CUT0000", "closing", what, "install it"));
            }
            if state.open.iter().any(|one| one.blocks_fence) {
                return Err(PortError::transient("closing", "a transaction stays open"));
            }
            state.closed = true;
            Ok(())
        })
        .await
    }

    async fn close_with_message(
        &self,
        run: &RunId,
        within: Duration,
        _: &str,
        _: &str,
    ) -> Result<Option<Position>> {
        self.close_to_clients(run, within).await.map(|()| Some(CLOSED_AT))
    }

    async fn open_to_clients(&self, _: &RunId) -> Result<()> {
        self.carry_out(PrimaryCall::Open, |state| {
            state.closed = false;
            Ok(())
        })
        .await
    }

    async fn fence(&self, _: &RunId) -> Result<Fence> {
        let now = |state: &mut State| Ok(if state.closed { Fence::Closed } else { Fence::Open });
        self.carry_out(PrimaryCall::Fence, now).await
    }

    async fn remove_fence(&self, _: &RunId) -> Result<()> {
        self.carry_out(PrimaryCall::RemoveFence, |state| {
            state.laid = false;
            state.installed = false;
            state.closed = false;
            Ok(())
        })
        .await
    }

    async fn open_transactions(&self, _: &RunId) -> Result<Vec<OpenTransaction>> {
        self.carry_out(PrimaryCall::OpenTransactions, |state| Ok(state.open.clone())).await
    }

    async fn counters(&self, _: &Selection) -> Result<Vec<Counter>> {
        let all = |state: &mut State| Ok(state.counters.values().cloned().collect());
        self.carry_out(PrimaryCall::Counters, all).await
    }

    async fn unfollowed(&self) -> Result<u64> {
        Ok(lock(&self.state).unfollowed)
    }

    async fn advance(&self, counters: &[Counter]) -> Result<()> {
        self.carry_out(PrimaryCall::Advance, |state| {
            for counter in counters {
                let now = state.counters.entry(counter.name.to_string());
                let now = now.or_insert_with(|| counter.clone());
                if !now.covers(counter) {
                    *now = counter.clone();
                }
            }
            Ok(())
        })
        .await
    }

    async fn fingerprint(&self, _: &Selection) -> Result<BTreeMap<String, String>> {
        let all = |state: &mut State| Ok(state.fingerprint.clone());
        self.carry_out(PrimaryCall::Fingerprint, all).await
    }

    async fn round_trip(&self) -> Result<Duration> {
        self.carry_out(PrimaryCall::RoundTrip, |_| Ok(Duration::from_micros(200))).await
    }

    async fn warm_up(&self) -> Result<()> {
        self.carry_out(PrimaryCall::WarmUp, |_| Ok(())).await
    }
}

#[cfg(test)]
mod tests {
    use cutover_core::model::schema::TableName;

    use super::*;

    #[tokio::test]
    async fn the_fence_and_its_faults() {
        let (primary, run) = (FakePrimary::new(), RunId::new("r").unwrap());
        assert!(primary.close_to_clients(&run, Duration::ZERO).await.is_err(), "not installed");
        primary.lay_fence(&run, &[]).await.unwrap();
        assert!(primary.close_to_clients(&run, Duration::ZERO).await.is_err(), "asleep");
        primary.wake_fence(&run).await.unwrap();
        primary.faults().push(PrimaryCall::Close, Fault::Ambiguous { happens: true });
        let error = primary.close_to_clients(&run, Duration::ZERO).await.unwrap_err();
        assert!(error.is_transient() && !primary.takes_writes());
        assert_eq!(primary.clone().fence(&run).await.unwrap(), Fence::Closed);
        primary.open_to_clients(&run).await.unwrap();
        let blocker = OpenTransaction {
            who: "1".into(),
            application: "psql".into(),
            age_seconds: 9.0,
            blocks_fence: true,
            blocks_waking: false,
            prepared: false,
        };
        primary.set_open_transactions(vec![blocker]);
        assert!(primary.close_to_clients(&run, Duration::ZERO).await.is_err());
        assert!(primary.takes_writes());
    }

    #[tokio::test]
    async fn counters_never_go_back() {
        let primary = FakePrimary::new();
        let at = |last_value| Counter {
            name: TableName::new("public", "ids"),
            last_value,
            is_called: true,
            increment: 1,
            cycle: false,
        };
        primary.set_counter(at(5));
        primary.advance(&[at(9)]).await.unwrap();
        primary.advance(&[at(2)]).await.unwrap();
        assert_eq!(primary.counters(&Selection::default()).await.unwrap(), [at(9)]);
    }
}

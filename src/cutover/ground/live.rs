//! The ground over real ports.
//!
//! Everything that can be done before clients wait is done in `recheck`; what has no effect that
//! would have to be taken back does not wait for its step: once the origin is closed its counters
//! are read and the drain is begun, while changed rows are still being compared. The drain's marker
//! is written with the closing itself: one commit instead of two in the pause.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use cutover_core::{
    model::{counter::Counter, run::RunId, selection::Selection, side::Side},
    port::{PortError, Result, primary::Primary, switch::TrafficSwitch},
};
use futures_util::future::{join_all, try_join_all};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{
    Did, Failure, Ground,
    refuse::{Learned, refuse},
    work::{Drained, Pipes, Proof, Ready},
};
use crate::{
    cutover::{
        fact::{Answer, Details, HELD_US},
        guard::{Handle, Summons},
    },
    verify::Verdict,
};

/// How long everything rests between the preparations and the pause.
const SETTLE: Duration = Duration::from_millis(100);

/// How long switches may take to put their settings back after a move that was not made.
const PUT_BACK: Duration = Duration::from_millis(500);

/// How long the guard may take to say goodbye before it is left alone.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the run lends to the steps that are made forward.
#[derive(Clone)]
pub struct Work {
    /// Both directions of replication.
    pub pipes: Arc<dyn Pipes>,
    /// The proof of equality.
    pub proof: Arc<dyn Proof>,
    /// The measurements.
    pub ready: Arc<dyn Ready>,
}

/// What a ground is made of.
#[derive(Clone)]
pub struct Parts {
    /// The run.
    pub run: RunId,
    /// Where the move comes from.
    pub from: Side,
    /// The pause budget.
    pub budget: Duration,
    /// What is moved.
    pub selection: Selection,
    /// In the order of the configuration.
    pub switches: Vec<Arc<dyn TrafficSwitch>>,
    /// The origin as owner of writes.
    pub origin: Arc<dyn Primary>,
    /// The target as owner of writes.
    pub target: Arc<dyn Primary>,
    /// `None` in a process that can only free the traffic.
    pub work: Option<Work>,
    /// How to start a guard; `None` where none can be started.
    pub guard: Option<Summons>,
}

/// What was begun ahead of its step. It ends when nobody wants its answer any more.
struct Ahead<T>(JoinHandle<Result<T>>);

impl<T: Send + 'static> Ahead<T> {
    fn begin(work: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }

    async fn answer(mut self, doing: &str) -> Result<T> {
        (&mut self.0).await.map_err(|e| PortError::transient(doing, e))?
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Counters of the origin, and how many things no log carries.
type Read = (Vec<Counter>, u64);

/// What can begin as soon as the origin is closed.
#[derive(Default)]
struct Begun {
    read: Option<Ahead<Read>>,
    drain: Option<Ahead<Drained>>,
    look: Option<Ahead<()>>,
}

/// What is read of the origin behind the fence.
async fn read_origin(origin: &dyn Primary, selection: &Selection) -> Result<Read> {
    // One after the other: a second session would have to be opened inside the pause.
    Ok((origin.counters(selection).await?, origin.unfollowed().await?))
}

/// Why a move may not go on when there are `count` things on `side` that no change log carries.
#[must_use]
pub fn unfollowed(count: u64, side: Side) -> Option<Failure> {
    let failure = Failure::definite(
        "CUT0130",
        format!("{count} large object(s) on {side} would be lost"),
        "keep the contents in a bytea column (lo_get), then remove them with lo_unlink, and try \
         again",
    );
    (count > 0).then_some(failure)
}

/// The ground over real ports, for one move.
pub struct LiveGround {
    parts: Parts,
    begun: Mutex<Begun>,
    guard: tokio::sync::Mutex<Option<Handle>>,
}

impl LiveGround {
    /// A ground for a move from `parts.from`.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { parts, begun: Mutex::default(), guard: tokio::sync::Mutex::new(None) }
    }

    fn to(&self) -> Side {
        self.parts.from.other()
    }

    fn work(&self) -> std::result::Result<&Work, Failure> {
        self.parts.work.as_ref().ok_or_else(|| {
            Failure::definite(
                "CUT0737",
                "this process only frees the traffic; the streams are not running here",
                "start `cutover run`, which goes on with the move",
            )
        })
    }

    fn switch(&self, name: &str) -> std::result::Result<&Arc<dyn TrafficSwitch>, Failure> {
        self.parts.switches.iter().find(|s| s.name() == name).ok_or_else(|| {
            Failure::definite(
                "CUT0736",
                format!("the open move knows a switch {name} that the configuration lacks"),
                format!("put {name} back into the configuration until the move has ended"),
            )
        })
    }

    /// Whatever fails here is compared behind the fence.
    async fn compare_ahead(&self) {
        if let Some(work) = &self.parts.work
            && let Err(error) = work.proof.catch_up().await
        {
            tracing::debug!(%error, "changed rows are left for the fence");
        }
    }

    async fn dismiss_guard(&self) {
        if let Some(guard) = self.guard.lock().await.take() {
            guard.released(GOODBYE).await;
        }
    }

    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn details(value: Value) -> Details {
    match value {
        Value::Object(map) => map,
        _ => Details::new(),
    }
}

#[async_trait]
impl Ground for LiveGround {
    async fn warm_up(&self) -> std::result::Result<(), Failure> {
        let parts = &self.parts;
        let switches = try_join_all(parts.switches.iter().map(|s| s.warm_up()));
        let databases = async {
            tokio::try_join!(parts.origin.warm_up(), parts.target.warm_up()).map_err(Failure::from)
        };
        let switches = async { switches.await.map_err(Failure::from) };
        tokio::try_join!(switches, databases).map(|_| ())
    }

    async fn recheck(&self, _within: Duration) -> Did {
        let parts = &self.parts;
        let work = self.work()?;
        let routings = async {
            let ask = parts.switches.iter().map(|s| async {
                let routing = s.observe().await.map_err(Failure::from)?;
                Ok::<_, Failure>((s.name().to_owned(), routing))
            });
            try_join_all(ask).await
        };
        let asked = async {
            tokio::try_join!(
                work.ready.ready(parts.from),
                work.proof.nearly_ready(),
                parts.origin.fence(&parts.run),
                parts.target.fence(&parts.run),
            )
            .map_err(Failure::from)
        };
        // First: a RELOAD can change what is looked at.
        self.warm_up().await?;
        let (switches, (readiness, missing, origin_fence, target_fence)) =
            tokio::try_join!(routings, asked)?;
        let learned = Learned {
            from: parts.from,
            budget: parts.budget,
            readiness: &readiness,
            missing_proof: missing.as_deref(),
            origin_fence,
            target_fence,
            switches: &switches,
        };
        if let Some(failure) = refuse(&learned) {
            return Err(failure);
        }
        // One after the other: two of them may share a file.
        for switch in &parts.switches {
            switch.prove().await?;
        }
        // Clients feel it a little, so not before everything else is fine.
        parts.origin.wake_fence(&parts.run).await?;
        Ok(details(json!({
            "lag": readiness.lag,
            "estimate": readiness.estimate,
            "findings": readiness.preflight.findings,
        })))
    }

    async fn arm_reverse(&self, _within: Duration) -> Did {
        let position = self.work()?.pipes.arm_reverse(self.parts.from).await?;
        Ok(details(json!({ "position": position.to_string() })))
    }

    async fn start_guard(&self, within: Duration) -> Did {
        let Some(summons) = &self.parts.guard else {
            return Err(Failure::definite(
                "CUT0737",
                "no guard can be started here",
                "start `cutover run` from its own program file",
            ));
        };
        let handle = Handle::start(summons, within).await?;
        let process = handle.id();
        *self.guard.lock().await = Some(handle);
        // Checks, the first comparison and a new process took processor time from the clients. PAUSE
        // waits for the transactions that are under way, so let them get as fast as they were.
        self.compare_ahead().await;
        let shed = join_all(self.parts.switches.iter().map(|switch| switch.shed()));
        let (shed, ()) = tokio::join!(shed, tokio::time::sleep(SETTLE));
        for error in shed.into_iter().filter_map(std::result::Result::err) {
            tracing::debug!(%error, "idle connections are left for the pause to close");
        }
        // The last step before clients wait: what changed during the preparations.
        self.compare_ahead().await;
        if let Some(work) = &self.parts.work {
            let within = within.min(self.parts.budget);
            work.pipes.hold_reverse(self.parts.from, within).await?;
        }
        Ok(details(json!({ "process": process })))
    }

    async fn pausing(&self, budget: Duration) -> std::result::Result<(), Failure> {
        let quiet = join_all(self.parts.switches.iter().map(|switch| switch.quiet())).await;
        for error in quiet.into_iter().filter_map(std::result::Result::err) {
            tracing::debug!(%error, "the pause does not wait for a quiet moment");
        }
        match self.guard.lock().await.as_mut() {
            Some(guard) => guard.pausing(budget).await,
            None => Err(Failure::definite(
                "CUT0737",
                "there is no guard",
                "try again; if it stays so, see the log of the guard",
            )),
        }
    }

    async fn alive(&self, within: Duration) {
        if let Some(guard) = self.guard.lock().await.as_mut() {
            guard.alive(within).await;
        }
    }

    async fn pause(&self, switch: &str, within: Duration) -> Did {
        // The step began earlier: it waited for a quiet moment while nobody was held.
        let began = Instant::now();
        self.switch(switch)?.pause(within).await?;
        let held = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(details(json!({ (HELD_US): held })))
    }

    async fn fence(&self, within: Duration) -> Did {
        let parts = &self.parts;
        let from = parts.from;
        let pipes = parts.work.as_ref().map(|work| &work.pipes);
        let close = async {
            let (run, origin) = (&parts.run, &parts.origin);
            let written = match pipes.map(|pipes| pipes.await_marker(from)) {
                None => {
                    origin.close_to_clients(run, within).await?;
                    None
                }
                Some(marker) => origin
                    .close_with_message(run, within, marker.prefix, &marker.content)
                    .await?
                    .map(|position| (marker, position)),
            };
            // Neither a read nor a marker has to be taken back, so they need no journal line.
            let (origin, selection) = (origin.clone(), parts.selection.clone());
            let read = Ahead::begin(async move { read_origin(&*origin, &selection).await });
            let drain = pipes.map(|pipes| {
                let pipes = Arc::clone(pipes);
                Ahead::begin(async move { pipes.drain(from, written, within).await })
            });
            let look = parts.work.as_ref().map(|work| {
                let proof = Arc::clone(&work.proof);
                Ahead::begin(async move { proof.look().await })
            });
            *self.begun() = Begun { read: Some(read), drain, look };
            Ok::<_, Failure>(())
        };
        // Most of what changed is on the other side already and needs no fence to be compared.
        let compare = async {
            if let Some(work) = &parts.work
                && let Err(error) = work.proof.glance().await
            {
                tracing::debug!(%error, "changed rows are left for the comparison behind the fence");
            }
        };
        let (closed, ()) = tokio::join!(close, compare);
        closed.map(|()| Details::new())
    }

    async fn drain(&self, within: Duration) -> Did {
        let work = self.work()?;
        let from = self.parts.from;
        let drain = self.begun().drain.take();
        let drained = match drain {
            Some(drain) => drain.answer("draining").await?,
            None => work.pipes.drain(from, None, within).await?,
        };
        Ok(details(json!({
            "position": drained.position.to_string(),
            "marker_ms": drained.took.as_secs_f64() * 1000.0,
        })))
    }

    async fn verify(&self, within: Duration) -> Did {
        let proof = &self.work()?.proof;
        let look = self.begun().look.take();
        match look {
            Some(look) => look.answer("looking at tables").await?,
            None => proof.look().await?,
        }
        let certificate = proof.behind_fence(within).await?;
        let remedy = "run `cutover verify`; `cutover verify --repair` copies differing rows again";
        match certificate.verdict {
            Verdict::Equal => Ok(details(json!({ "certificate": certificate }))),
            // The way back is refused for a difference, never for want of a comparison.
            Verdict::Inconclusive if self.parts.from == Side::Green => {
                Ok(details(json!({ "certificate": certificate })))
            }
            Verdict::Different => {
                let tables: Vec<_> =
                    certificate.different.iter().map(ToString::to_string).collect();
                Err(Failure::definite(
                    "CUT0733",
                    format!("rows of {} differ behind the fence", tables.join(", ")),
                    remedy,
                ))
            }
            Verdict::Inconclusive => Err(Failure::definite(
                "CUT0733",
                "the comparison behind the fence came to no answer",
                remedy,
            )),
        }
    }

    async fn counters(&self, _within: Duration) -> Did {
        let parts = &self.parts;
        let begun = self.begun().read.take();
        let read = match begun {
            Some(read) => read.answer("reading counters").await.ok(),
            None => None,
        };
        let (counters, count) = match read {
            Some(read) => read,
            None => read_origin(&*parts.origin, &parts.selection).await?,
        };
        if let Some(failure) = unfollowed(count, parts.from) {
            return Err(failure);
        }
        parts.target.advance(&counters).await?;
        Ok(details(json!({ "counters": counters.len() })))
    }

    async fn unfence(&self, _within: Duration) -> Did {
        self.parts.target.open_to_clients(&self.parts.run).await?;
        Ok(Details::new())
    }

    async fn point(&self, switch: &str, _within: Duration) -> Did {
        self.switch(switch)?.point_at(self.to()).await?;
        Ok(Details::new())
    }

    async fn stream_reverse(&self, _within: Duration) -> Did {
        self.work()?.pipes.reverse(self.to()).await?;
        Ok(Details::new())
    }

    async fn undo_arm_reverse(&self, _within: Duration) -> Did {
        self.work()?.pipes.disarm_reverse(self.parts.from).await?;
        Ok(Details::new())
    }

    async fn undo_guard(&self, _within: Duration) -> Did {
        self.dismiss_guard().await;
        // Puts back what a crash in the middle of shedding may have left. Nothing depends on it.
        let ready = join_all(self.parts.switches.iter().map(|switch| switch.warm_up()));
        if tokio::time::timeout(PUT_BACK, ready).await.is_err() {
            tracing::debug!("a switch does not answer; the next move makes it ready");
        }
        Ok(Details::new())
    }

    async fn undo_pause(&self, switch: &str, _within: Duration) -> Did {
        self.switch(switch)?.point_at(self.parts.from).await?;
        Ok(Details::new())
    }

    async fn undo_fence(&self, _within: Duration) -> Did {
        *self.begun() = Begun::default();
        self.parts.origin.open_to_clients(&self.parts.run).await?;
        Ok(Details::new())
    }

    async fn observe(
        &self,
        switch: &str,
        _within: Duration,
    ) -> std::result::Result<Answer, Failure> {
        Ok(self.switch(switch)?.observe().await?.into())
    }

    async fn release_guard(&self) {
        self.dismiss_guard().await;
    }
}

/// Measures one question to every switch, for the pause estimate; `None` where it failed.
pub async fn switch_round_trips(switches: &[Arc<dyn TrafficSwitch>]) -> Vec<Option<Duration>> {
    join_all(switches.iter().map(|switch| async {
        let begun = Instant::now();
        switch.observe().await.ok().map(|_| begun.elapsed())
    }))
    .await
}

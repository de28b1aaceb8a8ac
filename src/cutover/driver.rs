//! Performs what the machine decides; decides nothing.
//!
//! Every effect has its journal line before it. Outcomes go into the journal together with the
//! beginnings that follow from them, so that a step costs one sync. Clients are held for at most
//! the pause budget: what is not done by then is cancelled and counts as failed.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use cutover_core::model::side::Side;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::{
    fact::{Answer, Details, Ending, Fact, Outcome},
    ground::{Failure, Ground},
    machine::{Act, Next, State, Verb},
    plan::{Phase, Step},
};
use crate::{
    error::{Exit, Explain},
    journal::{Journal, JournalError, Unsynced},
};

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The pause: from the first held write to `Decide`.
    pub budget: Duration,
    /// A step before the pause.
    pub preparation: Duration,
    /// One attempt to take a step back, to go forward after `Decide`, or to ask a switch.
    pub attempt: Duration,
}

impl Limits {
    /// The usual limits around a pause budget.
    #[must_use]
    pub fn new(budget: Duration) -> Self {
        Self { budget, preparation: Duration::from_secs(120), attempt: Duration::from_secs(2) }
    }
}

/// What the facts of a move take in its journal at most, in bytes.
pub(crate) const ROOM: u64 = 32 * 1024;
/// How often the guard hears that a step behind the decision is being worked on.
const AT_WORK_EVERY: Duration = Duration::from_millis(300);

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Until nothing is left to do.
    Finished,
    /// Until no client waits because of us: the duty of a guard.
    TrafficFree,
}

/// Where it stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Nothing is left to do.
    Ended(Ending),
    /// The traffic is free; the rest is for the next run.
    TrafficFree,
    /// Only an operator can say how it goes on.
    NeedsOperator {
        /// The switches nobody could ask.
        switches: Vec<String>,
        /// What is unknown.
        why: String,
    },
}

/// How long clients were held, as measured by this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// When the first switch began to hold, in microseconds of this process's part of the move.
    pub began_us: u64,
    /// When the first switch let its clients go.
    pub first_resumed_us: Option<u64>,
    /// When the last switch let its clients go.
    pub last_resumed_us: Option<u64>,
}

impl Pause {
    /// From the first held write to the first switch that lets clients go, in milliseconds.
    #[must_use]
    pub fn ms(&self) -> Option<f64> {
        self.first_resumed_us.map(|end| end.saturating_sub(self.began_us) as f64 / 1000.0)
    }

    /// From the first held write until every switch let its clients go, in milliseconds.
    #[must_use]
    pub fn longest_ms(&self) -> Option<f64> {
        self.last_resumed_us.map(|end| end.saturating_sub(self.began_us) as f64 / 1000.0)
    }
}

/// Something took longer than it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overrun {
    /// What: an action, or `pause`.
    pub what: String,
    /// Milliseconds it was allowed.
    pub allowed_ms: u64,
    /// Milliseconds it took.
    pub took_ms: u64,
}

/// What happened.
#[derive(Debug, Clone)]
pub struct Report {
    /// Where it stopped.
    pub stop: Stop,
    /// Who owns the writes.
    pub owner: Side,
    /// The facts of this move, those of earlier processes included.
    pub facts: Vec<Fact>,
    /// How long clients were held; `None` when this process held nobody.
    pub pause: Option<Pause>,
    /// What took longer than it may.
    pub overruns: Vec<Overrun>,
}

/// Why a move cannot go on in this process.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The journal failed. What happens next is decided by whoever opens it again.
    #[error("the move cannot go on without its journal")]
    Journal(#[source] JournalError),
    /// Such a beginning does not fit what the journal says.
    #[error("{0}")]
    OutOfOrder(String),
}

impl Explain for DriveError {
    fn code(&self) -> Option<&str> {
        match self {
            Self::Journal(e) => e.code(),
            Self::OutOfOrder(_) => Some("CUT0739"),
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Journal(e) => e.remedy(),
            Self::OutOfOrder(_) => {
                Some("see `cutover status` for the owner of the writes and the open move".into())
            }
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Journal(e) => e.exit(),
            Self::OutOfOrder(_) => Exit::No,
        }
    }
}

/// Told about every fact as it becomes known.
pub type Watcher<'a> = &'a (dyn Fn(&Fact) + Send + Sync);

/// Performs a move, or goes on with one.
///
/// `history` is what the journal says, `start` the fact with which this process takes part:
/// [`Fact::MoveBegan`] for a new move, [`Fact::Restarted`] by a process that finds an open one,
/// [`Fact::Resolved`] with an operator's word.
///
/// # Errors
///
/// [`DriveError::OutOfOrder`], and nothing was done; or the journal failed. Then, before the
/// decision, the traffic was let go where it was as well as this process could; after it the
/// caller must give up the journal and end, so that the guard or the next run goes on.
pub async fn drive(
    journal: &mut dyn Journal<Fact>,
    history: &[Fact],
    start: Fact,
    goal: Goal,
    ground: &dyn Ground,
    limits: &Limits,
    watcher: Watcher<'_>,
) -> Result<Report, DriveError> {
    let mut state = State::of(history);
    state.takes(&start).map_err(DriveError::OutOfOrder)?;
    let began = history.iter().rposition(|f| matches!(f, Fact::MoveBegan { .. })).unwrap_or(0);
    let mut facts = match start {
        Fact::MoveBegan { .. } => vec![],
        _ => history[began..].to_vec(),
    };
    // Nothing during the pause may make the file grow. Who goes on with a move has to, room or not.
    match start {
        Fact::MoveBegan { .. } => journal.reserve(ROOM).map_err(DriveError::Journal)?,
        _ => journal.reserve_ahead(ROOM),
    }
    state.apply(&start);
    facts.push(start.clone());
    watcher(&start);
    let driver = Driver {
        journal,
        ground,
        limits,
        watcher,
        state,
        facts,
        pending: vec![start],
        began: Instant::now(),
        held_since: None,
        resumed: Mutex::new(vec![]),
        overruns: Mutex::new(vec![]),
    };
    driver.run(goal).await
}

struct Driver<'a> {
    journal: &'a mut dyn Journal<Fact>,
    ground: &'a dyn Ground,
    limits: &'a Limits,
    watcher: Watcher<'a>,
    state: State,
    /// The facts of this move.
    facts: Vec<Fact>,
    /// Those that are not in the journal yet.
    pending: Vec<Fact>,
    began: Instant,
    /// When the first switch began to hold.
    held_since: Option<Instant>,
    /// When switches let their clients go.
    resumed: Mutex<Vec<Instant>>,
    overruns: Mutex<Vec<Overrun>>,
}

impl Driver<'_> {
    async fn run(mut self, goal: Goal) -> Result<Report, DriveError> {
        loop {
            if goal == Goal::TrafficFree && self.state.traffic_is_free() {
                self.append().await?;
                return Ok(self.report(Stop::TrafficFree));
            }
            match self.state.next() {
                Next::Idle => {
                    return Err(DriveError::OutOfOrder("no move was begun".into()));
                }
                Next::Finished(ending) => {
                    if self.state.is_open() {
                        self.learn(Fact::Ended { ending: ending.clone(), at_ms: now_ms() });
                    }
                    self.append().await?;
                    self.ground.release_guard().await;
                    return Ok(self.report(Stop::Ended(ending)));
                }
                Next::NeedsOperator { switches, why } => {
                    self.append().await?;
                    // It could not do more than we can, and must not end us at its deadline.
                    self.ground.release_guard().await;
                    return Ok(self.report(Stop::NeedsOperator { switches, why }));
                }
                Next::Act(acts) if acts.iter().any(|act| act.step == Step::Decide) => {
                    self.decide();
                }
                Next::Act(acts) => self.perform(&acts).await?,
            }
        }
    }

    /// The line itself is the effect, and it goes into the journal with what follows from it.
    fn decide(&mut self) {
        let outcome = match self.left() {
            Some(left) if left.is_zero() => Outcome::from(self.used_up("decide")),
            _ => Outcome::Done { details: Details::new() },
        };
        self.learn(Fact::Step {
            step: Step::Decide,
            switch: None,
            outcome,
            at_us: self.since_began(Instant::now()),
        });
    }

    async fn perform(&mut self, acts: &[Act]) -> Result<(), DriveError> {
        let pauses = acts.iter().any(|a| a.verb == Verb::Do && a.step == Step::Pause);
        let delays: Vec<_> = acts.iter().map(|act| self.backoff(act)).collect();
        for act in acts.iter().filter(|act| act.verb != Verb::Observe) {
            let fact = self.fact(act, Outcome::Started, Instant::now());
            self.learn(fact);
        }
        let beside = acts.iter().all(|act| act.verb == Verb::Do && act.step.traceless());
        let unsynced = if beside { self.write().await? } else { None };
        self.append().await?;
        let mut refused = None;
        if pauses {
            refused = self.ground.pausing(self.limits.budget).await.err();
            if refused.is_none() {
                self.held_since.get_or_insert_with(Instant::now);
            }
        }
        if acts.iter().any(|act| act.verb != Verb::Do || act.attempt > 0) {
            self.ground.alive(self.limits.attempt + delays.iter().sum::<Duration>()).await;
        }
        let this = &*self;
        let attempts = acts.iter().zip(delays).map(|(act, delay)| {
            let refused = refused.clone();
            async move {
                match refused {
                    Some(failure) => (Err(failure), Instant::now()),
                    None => {
                        // Sleeping for no time still waits for the next tick of a millisecond.
                        if !delay.is_zero() {
                            sleep(delay).await;
                        }
                        this.attempt(act).await
                    }
                }
            }
        });
        let synced = async {
            match unsynced {
                Some(unsynced) => tokio::task::spawn_blocking(unsynced).await.ok(),
                None => Some(Ok(())),
            }
        };
        // There is only forward: who works on it does not hang, however slow a switch is.
        let forward = acts.iter().any(|act| act.step.phase() == Phase::Forward);
        let (outcomes, synced) = {
            let work = async { tokio::join!(join_all(attempts), synced) };
            tokio::pin!(work);
            loop {
                tokio::select! {
                    done = &mut work => break done,
                    () = sleep(AT_WORK_EVERY), if forward => this.ground.alive(AT_WORK_EVERY).await,
                }
            }
        };
        for (act, (outcome, at)) in acts.iter().zip(outcomes) {
            let fact = match (act.verb, outcome) {
                (Verb::Observe, answer) => Fact::Observed {
                    switch: self.name(act).unwrap_or_default(),
                    answer: answer.map_or(Answer::Silent, |done| done.answer),
                    at_us: self.since_began(at),
                },
                (_, Ok(done)) => self.fact(act, Outcome::Done { details: done.details }, at),
                (_, Err(failure)) => self.fact(act, failure.into(), at),
            };
            self.learn(fact);
        }
        match synced {
            Some(Err(error)) => {
                self.journal.give_up();
                Err(self.let_go(error).await)
            }
            // Nobody knows whether it reached the disk; the next append says so.
            None => {
                self.journal.give_up();
                Ok(())
            }
            Some(Ok(())) => Ok(()),
        }
    }

    /// One attempt within its time, and when it came to an end.
    async fn attempt(&self, act: &Act) -> (Result<Found, Failure>, Instant) {
        let allowed = match (act.verb, act.step.phase()) {
            (Verb::Do, Phase::Before) => self.limits.preparation,
            (Verb::Do, Phase::Pause) => self.left().unwrap_or(self.limits.budget),
            _ => self.limits.attempt,
        };
        if allowed.is_zero() {
            return (Err(self.used_up(act.step.name())), Instant::now());
        }
        // Time to come back by oneself before the future is dropped.
        let within = allowed - (allowed / 10).min(Duration::from_millis(10));
        let started = Instant::now();
        let result = timeout(allowed, self.call(act, within)).await;
        let ended = Instant::now();
        let took = ended - started;
        if took > allowed + Duration::from_millis(20) {
            self.overrun(format!("{:?} {}", act.verb, act.step).to_lowercase(), allowed, took);
        }
        let result = result.unwrap_or_else(|_| {
            let at = self.name(act).map(|name| format!(" {name}")).unwrap_or_default();
            let ms = allowed.as_millis();
            Err(if act.switch.is_some() {
                Failure::ambiguous(format!("{}{at}: no answer within {ms} ms", act.step))
            } else if act.verb == Verb::Do && act.step.phase() == Phase::Pause {
                self.used_up(act.step.name())
            } else {
                Failure::late(act.step, allowed)
            })
        });
        let lets_go = matches!((act.verb, act.step), (Verb::Do, Step::Point))
            || matches!((act.verb, act.step), (Verb::Undo, Step::Pause));
        if lets_go && result.is_ok() {
            lock(&self.resumed).push(ended);
        }
        (result, ended)
    }

    async fn call(&self, act: &Act, within: Duration) -> Result<Found, Failure> {
        let name = self.name(act).unwrap_or_default();
        let ground = self.ground;
        let details = match (act.verb, act.step) {
            (Verb::Observe, _) => {
                let answer = ground.observe(&name, within).await?;
                return Ok(Found { details: Details::new(), answer });
            }
            (Verb::Do, Step::Recheck) => ground.recheck(within).await,
            (Verb::Do, Step::ArmReverse) => ground.arm_reverse(within).await,
            (Verb::Do, Step::Guard) => ground.start_guard(within).await,
            (Verb::Do, Step::Pause) => ground.pause(&name, within).await,
            (Verb::Do, Step::Fence) => ground.fence(within).await,
            (Verb::Do, Step::Drain) => ground.drain(within).await,
            (Verb::Do, Step::Verify) => ground.verify(within).await,
            (Verb::Do, Step::Counters) => ground.counters(within).await,
            (Verb::Do, Step::Unfence) => ground.unfence(within).await,
            (Verb::Do, Step::Point) => ground.point(&name, within).await,
            (Verb::Do, Step::StreamReverse) => ground.stream_reverse(within).await,
            (Verb::Undo, Step::ArmReverse) => ground.undo_arm_reverse(within).await,
            (Verb::Undo, Step::Guard) => ground.undo_guard(within).await,
            (Verb::Undo, Step::Pause) => ground.undo_pause(&name, within).await,
            (Verb::Undo, Step::Fence) => ground.undo_fence(within).await,
            // The machine takes back only what leaves traces, and decides by a line alone.
            (Verb::Undo, _) | (Verb::Do, Step::Decide) => Ok(Details::new()),
        }?;
        Ok(Found { details, answer: Answer::Silent })
    }

    /// Puts everything pending into the journal.
    async fn append(&mut self) -> Result<(), DriveError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        match self.journal.append_all(&self.pending) {
            Ok(()) => {
                self.pending.clear();
                Ok(())
            }
            Err(error) => Err(self.let_go(error).await),
        }
    }

    /// Writes everything pending; what is returned must be run before the next append.
    async fn write(&mut self) -> Result<Option<Unsynced>, DriveError> {
        match self.journal.write_all(&self.pending) {
            Ok(unsynced) => {
                self.pending.clear();
                Ok(unsynced)
            }
            Err(error) => Err(self.let_go(error).await),
        }
    }

    /// The journal has failed. Before the decision everybody who reads it would let the clients
    /// go where they were, so doing it without a line of its own is harmless. After it nobody
    /// knows whether the line is there.
    async fn let_go(&self, error: JournalError) -> DriveError {
        if !self.state.decided() && !self.state.traffic_is_free() {
            let within = self.limits.attempt;
            let open = timeout(within, self.ground.undo_fence(within)).await;
            if !matches!(open, Ok(Ok(_))) {
                tracing::error!("the fence could not be opened without a journal");
            }
            for name in self.state.switches() {
                let free = timeout(within, self.ground.undo_pause(name, within)).await;
                if !matches!(free, Ok(Ok(_))) {
                    tracing::error!(switch = name, "clients could not be let go");
                }
            }
        }
        DriveError::Journal(error)
    }

    fn learn(&mut self, fact: Fact) {
        (self.watcher)(&fact);
        self.state.apply(&fact);
        self.facts.push(fact.clone());
        self.pending.push(fact);
    }

    fn name(&self, act: &Act) -> Option<String> {
        act.switch.and_then(|i| self.state.switches().get(i).cloned())
    }

    fn fact(&self, act: &Act, outcome: Outcome, at: Instant) -> Fact {
        let (step, switch, at_us) = (act.step, self.name(act), self.since_began(at));
        match act.verb {
            Verb::Undo => Fact::Undo { step, switch, outcome, at_us },
            Verb::Do | Verb::Observe => Fact::Step { step, switch, outcome, at_us },
        }
    }

    fn since_began(&self, at: Instant) -> u64 {
        micros(at.saturating_duration_since(self.began))
    }

    /// What is left of the budget; `None` while nobody is held.
    fn left(&self) -> Option<Duration> {
        self.held_since.map(|since| self.limits.budget.saturating_sub(since.elapsed()))
    }

    fn used_up(&self, during: &str) -> Failure {
        Failure::definite(
            "CUT0735",
            format!(
                "the pause budget of {} ms was used up during {during}",
                self.limits.budget.as_millis()
            ),
            "clients go on where they were; see the timeline of the report, then try in a \
             quieter moment or raise move.pause_budget",
        )
    }

    /// Waiting before another attempt: short while somebody waits for it, long when nobody does.
    fn backoff(&self, act: &Act) -> Duration {
        if act.attempt == 0 {
            return Duration::ZERO;
        }
        let longest = if self.state.traffic_is_free() { 30_000 } else { 1000 };
        Duration::from_millis((10 << act.attempt.min(12)).min(longest))
    }

    fn overrun(&self, what: String, allowed: Duration, took: Duration) {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        lock(&self.overruns).push(Overrun { what, allowed_ms: ms(allowed), took_ms: ms(took) });
    }

    fn report(self, stop: Stop) -> Report {
        let resumed = lock(&self.resumed).clone();
        let pause = self.held_since.map(|since| Pause {
            began_us: self.since_began(since),
            first_resumed_us: resumed.iter().min().map(|at| self.since_began(*at)),
            last_resumed_us: resumed.iter().max().map(|at| self.since_began(*at)),
        });
        if let (Some(since), Some(last)) = (self.held_since, resumed.iter().max()) {
            let took = *last - since;
            if took > self.limits.budget {
                self.overrun("pause".into(), self.limits.budget, took);
            }
        }
        let overruns = lock(&self.overruns).clone();
        Report { stop, owner: self.state.owner(), facts: self.facts, pause, overruns }
    }
}

/// What an attempt found out.
struct Found {
    details: Details,
    /// Only meaningful after asking a switch.
    answer: Answer,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970-01-01 UTC, for people.
#[must_use]
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// How long each step took in milliseconds, by the facts of one process's part of a move: the
/// longest when it was made at several switches or several times.
#[must_use]
pub fn durations(facts: &[Fact]) -> Vec<(String, f64)> {
    let mut order = Vec::new();
    let mut begun: HashMap<(bool, Step, Option<String>), u64> = HashMap::new();
    let mut longest: HashMap<String, f64> = HashMap::new();
    for fact in facts {
        let (undo, step, switch, outcome, at_us) = match fact {
            Fact::Step { step, switch, outcome, at_us } => (false, step, switch, outcome, at_us),
            Fact::Undo { step, switch, outcome, at_us } => (true, step, switch, outcome, at_us),
            Fact::Restarted { .. } => {
                begun.clear();
                continue;
            }
            _ => continue,
        };
        let key = (undo, *step, switch.clone());
        if *outcome == Outcome::Started {
            begun.insert(key, *at_us);
        } else if let Some(start) = begun.remove(&key) {
            let name = if undo { format!("undo {step}") } else { step.to_string() };
            let ms = at_us.saturating_sub(start) as f64 / 1000.0;
            if !longest.contains_key(&name) {
                order.push(name.clone());
            }
            let entry = longest.entry(name).or_insert(0.0);
            *entry = entry.max(ms);
        }
    }
    order.into_iter().map(|name| (name.clone(), longest[&name])).collect()
}

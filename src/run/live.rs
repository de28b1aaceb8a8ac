//! A run whose streams flow: samples, comparisons, watches. Commands are in `serve`, moves in
//! `moves`, and whether one would be accepted in `ready`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use cutover_core::{
    model::{position::Position, run::RunId, selection::Selection, side::Side},
    port::Result,
};

use tokio::sync::Notify;

use super::{
    book::Book,
    changed::Compared,
    command::Answer,
    every::every,
    foreign::Foreign,
    moves,
    pipes::Pipes,
    ports::Ports,
    proof::{BothLogs, Proof},
    socket::Responder,
    status::{Alarm, LagView, MoveView},
};
use crate::{
    error::{Exit, Explain as _, Failure},
    lag::{
        Converge, Estimate, Measured, Sample, Samples, Speed, Thresholds, USUAL_BACKLOG, converge,
        estimate,
    },
    observe::progress::Progress,
    stream::{Health, Policy},
    verify::pace,
};

/// How often positions are sampled.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// How often what is not known yet is looked for, and how long after the beginning and after a
/// change of direction: until then somebody may wait for nothing else.
const SOON: Duration = Duration::from_millis(50);
const SOON_FOR: Duration = Duration::from_secs(2);
/// How often a marker keeps a quiet log moving and measures the drain.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// How long a marker may take before the measurement is given up.
const MARKER_WITHIN: Duration = Duration::from_secs(30);
/// How long lag samples are kept, in seconds.
const SAMPLES_SECONDS: f64 = 600.0;
/// How often definitions are compared with those at the beginning.
const DEFINITIONS_EVERY: Duration = Duration::from_secs(5);
/// What is asked for all the time, and takes longer the more tables there are, takes at most this
/// part of it.
pub(super) const SELDOM: u32 = 50;
/// How often a failed or empty comparison is tried again.
const VERIFY_EVERY: Duration = Duration::from_millis(500);
/// Lag, in seconds, up to which a full pass may begin.
const PASS_BELOW: f64 = 2.0;
/// Head samples kept for the lag in seconds.
const SAMPLES: usize = 1200;

/// What the user wants of a flowing run.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// Compare all the time.
    pub continuous: bool,
    /// Ranges read at the same time by a full pass.
    pub workers: usize,
    /// Longest pause.
    pub pause_budget: Duration,
    /// Largest lag a move may begin with.
    pub max_lag: Duration,
    /// Whether we made green's definitions.
    pub copies_schema: bool,
    /// Configuration without secrets, for the evidence.
    pub effective: serde_json::Value,
}

/// A run whose streams flow.
pub struct Live {
    pub(super) run: RunId,
    pub(super) selection: Selection,
    pub(super) ports: Ports,
    pub(super) book: Arc<Book>,
    pub(super) pipes: Arc<Pipes>,
    pub(super) proof: Arc<Proof>,
    pub(super) progress: Arc<Progress>,
    pub(super) wishes: Wishes,
    pub(super) told: [bool; 2],
    /// What happens when definitions change.
    pub(super) policy: Policy,
    /// Of the owner's definitions, taken before they were compared for a move.
    pub(super) mark: Mutex<Option<String>>,
    pub(super) state_dir: std::path::PathBuf,
    pub(super) config_file: std::path::PathBuf,
    /// Why this process has to end: a journal has failed, and nothing may happen without it.
    pub(super) broken: OnceLock<Failure>,
    began: Instant,
    /// Says that nothing is known about the lag any more.
    forgotten: Notify,
    state: Mutex<State>,
}

pub(super) struct State {
    /// Since when streams flow in the present direction.
    since: Instant,
    lag: LagView,
    retained: Option<u64>,
    alarms: BTreeMap<String, Alarm>,
    busy: Option<String>,
    moves: Vec<MoveView>,
    heads: VecDeque<(Instant, Position)>,
    samples: Samples,
    measured: Measured,
    whole_again: Option<Instant>,
    /// Why the last comparison of every row, or of tables as a whole, came to no end.
    pub(super) uncompared_for: Option<String>,
    /// Of blue and of green.
    pub(super) definitions_seen: [Option<Compared>; 2],
    /// When definitions are looked at again, and sequences counted.
    pub(super) definitions_due: Option<Instant>,
    sequences_due: Option<Instant>,
    /// What was applied at a moment, and whether a backlog was left.
    applied: Option<(Instant, Option<Position>, bool)>,
    speed: Speed,
    /// Rows of others that a later comparison found to do no harm.
    pub(super) foreign_known: Foreign,
    doubt: Option<Doubt>,
}

/// A move that waits for an operator's word.
struct Doubt {
    about: crate::cutover::machine::State,
    word: tokio::sync::oneshot::Sender<Side>,
}

/// What a [`Live`] is made of.
pub struct Parts {
    /// The run.
    pub run: RunId,
    /// What is moved.
    pub selection: Selection,
    /// The machinery.
    pub ports: Ports,
    /// The journal.
    pub book: Arc<Book>,
    /// Both streams.
    pub pipes: Arc<Pipes>,
    /// The comparison.
    pub proof: Arc<Proof>,
    /// Counters of the copy.
    pub progress: Arc<Progress>,
    /// What the user wants.
    pub wishes: Wishes,
    /// Whether the streams of blue and of green tell of every change of definitions.
    pub told: [bool; 2],
    /// What happens when definitions change.
    pub policy: Policy,
    /// Folder of journals and reports.
    pub state_dir: std::path::PathBuf,
    /// The configuration, which the guard reads as well.
    pub config_file: std::path::PathBuf,
}

impl Live {
    /// Puts it together; nothing runs yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            run: parts.run,
            selection: parts.selection,
            ports: parts.ports,
            book: parts.book,
            pipes: parts.pipes,
            proof: parts.proof,
            progress: parts.progress,
            wishes: parts.wishes,
            told: parts.told,
            policy: parts.policy,
            mark: Mutex::default(),
            state_dir: parts.state_dir,
            config_file: parts.config_file,
            broken: OnceLock::new(),
            began: Instant::now(),
            forgotten: Notify::new(),
            state: Mutex::new(State {
                since: Instant::now(),
                lag: LagView::default(),
                retained: None,
                alarms: BTreeMap::new(),
                busy: None,
                moves: Vec::new(),
                heads: VecDeque::new(),
                samples: Samples::new(SAMPLES_SECONDS),
                measured: Measured::default(),
                whole_again: None,
                uncompared_for: None,
                definitions_seen: [None, None],
                definitions_due: None,
                sequences_due: None,
                applied: None,
                speed: Speed::default(),
                foreign_known: Foreign::default(),
                doubt: None,
            }),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who owns the writes, by the journal.
    #[must_use]
    pub fn owner(&self) -> Side {
        self.book.standing().owner
    }

    /// How far the other side is behind.
    #[must_use]
    pub fn lag(&self) -> LagView {
        self.state().lag
    }

    /// Whether the other side is close enough behind for a comparison of every row.
    pub(super) fn caught_up(&self) -> bool {
        self.lag().seconds.is_some_and(|s| s <= PASS_BELOW)
    }

    /// Bytes of log the owner keeps for us.
    #[must_use]
    pub fn retained(&self) -> Option<u64> {
        self.state().retained
    }

    /// What somebody must know, oldest code first.
    #[must_use]
    pub fn alarms(&self) -> Vec<Alarm> {
        let mut alarms: Vec<Alarm> = self.state().alarms.values().cloned().collect();
        for side in [Side::Blue, Side::Green] {
            let view = self.pipes.from(side).view();
            if let Health::Stopped { code, what, remedy, .. } = view.health {
                alarms.push(Alarm { code, what, remedy });
            }
            alarms.extend(self.foreign_alarm(side));
        }
        let different = self.proof.view();
        if different.different > 0 {
            alarms.push(Alarm {
                code: "CUT0601".into(),
                what: format!(
                    "{} row(s) differ in {}",
                    different.different,
                    different.different_tables.join(", ")
                ),
                remedy: "cutover verify --repair".into(),
            });
        }
        alarms
    }

    /// Raises or clears an alarm.
    pub fn alarm(&self, code: &str, alarm: Option<(String, String)>) {
        let mut state = self.state();
        match alarm {
            None => {
                state.alarms.remove(code);
            }
            Some((what, remedy)) => {
                let alarm = Alarm { code: code.to_owned(), what, remedy };
                if state.alarms.get(code) != Some(&alarm) {
                    tracing::error!("{code}: {}", alarm.what);
                    state.alarms.insert(code.to_owned(), alarm);
                }
            }
        }
    }

    pub(super) fn set_busy(&self, busy: Option<String>) {
        self.state().busy = busy;
    }

    pub(super) fn busy(&self) -> Option<String> {
        self.state().busy.clone()
    }

    /// The command under way is a comparison, which may be left at any time.
    pub(super) fn compares(&self) -> bool {
        self.busy().as_deref() == Some("verify")
    }

    pub(super) fn add_move(&self, view: MoveView, predicted: &Estimate) {
        let mut state = self.state();
        // A pause that was cut short, or waited out its budget, says nothing about the next one.
        if let Some(real) = view.pause_ms.filter(|_| view.ending != "aborted") {
            state.measured.history.push((predicted.by_parts(), real));
        }
        state.moves.push(view);
    }

    pub(super) fn set_moves(&self, moves: Vec<MoveView>) {
        self.state().moves = moves;
    }

    pub(super) fn moves(&self) -> Vec<MoveView> {
        self.state().moves.clone()
    }

    /// The direction has changed: what was measured says nothing about the new one.
    pub(super) fn forget_samples(&self) {
        let mut state = self.state();
        state.samples.clear();
        state.heads.clear();
        state.applied = None;
        state.speed = Speed::default();
        state.measured.drain_bytes_per_second = None;
        state.lag = LagView::default();
        state.since = Instant::now();
        self.forgotten.notify_one();
    }

    /// An operator says who owns the writes, to whoever waits for it.
    pub(super) fn resolve(&self, owner: Side, responder: Responder) {
        let mut state = self.state();
        let answer = match &state.doubt {
            None => Answer::failed(
                Failure::new("nothing is in doubt: the journal knows who owns the writes")
                    .code("CUT0508")
                    .exit(Exit::No),
            ),
            Some(doubt) => match moves::word(&doubt.about, owner) {
                Err(failure) => Answer::failed(failure),
                Ok(noted) => {
                    if let Some(doubt) = state.doubt.take() {
                        // Nobody waits when the process is ending; the next one asks again.
                        doubt.word.send(owner).ok();
                    }
                    noted
                }
            },
        };
        responder.done(answer);
    }

    /// Whether a move waits for an operator's word.
    pub(super) fn undecided(&self) -> bool {
        self.state().doubt.is_some()
    }

    pub(super) async fn resolved(&self, about: crate::cutover::machine::State) -> Side {
        loop {
            let (word, said) = tokio::sync::oneshot::channel();
            self.state().doubt = Some(Doubt { about: about.clone(), word });
            if let Ok(owner) = said.await {
                return owner;
            }
        }
    }

    /// Everything that goes on while nobody asks for anything. Never returns.
    pub async fn background(&self) {
        let sampled = || self.soon_unless(self.lag().seconds.is_some(), SAMPLE_EVERY);
        let passed = || self.soon_unless(self.proof.passed(), VERIFY_EVERY);
        let complete = || self.soon_unless(self.proof.late.missing().is_none(), VERIFY_EVERY);
        let nobody = Notify::new();
        tokio::join!(
            every(&self.forgotten, sampled, || self.sample()),
            every(&nobody, || MEASURE_EVERY, || self.measure()),
            every(&nobody, || DEFINITIONS_EVERY, || self.watch_definitions()),
            every(&nobody, passed, || self.compare()),
            every(&nobody, complete, || self.watch_late()),
        );
    }

    /// When something is looked at again that is `known` by now, or is not.
    fn soon_unless(&self, known: bool, every: Duration) -> Duration {
        if known || self.state().since.elapsed() > SOON_FOR { every } else { SOON }
    }

    pub(super) async fn sample(&self) -> Result<()> {
        let owner = self.owner();
        let view = self.pipes.from(owner).view();
        let source = &self.ports.side(owner).source;
        let asked = Instant::now();
        let head = source.head().await?;
        let retained = source.retained(&self.run).await?;
        let open = self.ports.side(owner).primary.open_transactions(&self.run).await?;
        let mut state = self.state();
        state.retained = retained;
        state.measured.open = open;
        state.heads.push_back((asked, head.clone()));
        if state.heads.len() > SAMPLES {
            state.heads.pop_front();
        }
        // Behind by as long as it is since the newest head that has been applied completely.
        let applied = view.applied.as_ref();
        let covered = state
            .heads
            .iter()
            .rev()
            .find(|(_, h)| applied.is_some_and(|a| a.covers(h) == Ok(true)))
            .map(|(at, _)| *at);
        let behind = applied.and_then(|a| head.bytes_since(a));
        let backlog = behind.is_some_and(|bytes| bytes > USUAL_BACKLOG);
        let passed = state.applied.as_ref().map(|(at, ..)| asked.saturating_duration_since(*at));
        if passed.is_none_or(Speed::is_long) {
            let before = state.applied.replace((asked, view.applied.clone(), backlog));
            if let (Some((_, Some(before), still)), Some(now)) = (before, applied)
                && let Some(bytes) = now.bytes_since(&before)
            {
                let passed = passed.unwrap_or_default();
                state.speed = state.speed.after(bytes, passed, backlog && still);
                state.measured.drain_bytes_per_second = state.speed.bytes_per_second();
            }
        }
        let flowing = matches!(view.health, Health::Flowing | Health::Held);
        state.lag = LagView {
            bytes: behind,
            seconds: covered.map(|at| if at == asked { 0.0 } else { at.elapsed().as_secs_f64() }),
            transactions: flowing.then_some(view.in_hand),
        };
        let sample = Sample {
            at: self.began.elapsed().as_secs_f64(),
            bytes: state.lag.bytes,
            seconds: state.lag.seconds,
            in_hand: state.lag.transactions,
        };
        state.samples.push(sample);
        state.measured.lag_bytes = sample.bytes;
        Ok(())
    }

    /// A marker in each log: keeps a quiet log moving, and measures what a drain would take. What
    /// else a pause is made of is measured along with it.
    pub(super) async fn measure(&self) -> Result<()> {
        let owner = self.owner();
        if let Some(_still) = self.pipes.try_still() {
            self.proof.keep();
        }
        self.pipes.heartbeat(owner.other()).await?;
        let (_, marker) = self.pipes.marker(owner, MARKER_WITHIN).await?;
        let here = self.ports.side(owner).primary.round_trip().await?;
        let there = self.ports.side(owner.other()).primary.round_trip().await?;
        let asked = Instant::now();
        let due = self.state().sequences_due.is_none_or(|due| asked >= due);
        let sequences = match due {
            true => Some(self.ports.side(owner).primary.counters(&self.selection).await?.len()),
            false => None,
        };
        let counted = asked.elapsed();
        let mut switches = Vec::new();
        for switch in &self.ports.switches {
            let asked = Instant::now();
            switches.push(switch.observe().await.is_ok().then(|| asked.elapsed()));
        }
        let mut state = self.state();
        let m = &mut state.measured;
        m.journal_append = self.book.append_time();
        m.origin_round_trip = Some(here);
        m.target_round_trip = Some(there);
        m.switches = switches;
        m.marker = Some(marker);
        m.sequences = sequences.unwrap_or(m.sequences);
        m.tables = self.book.standing().definitions(Side::Blue).len();
        if due {
            state.sequences_due = Some(asked + counted * SELDOM);
        }
        Ok(())
    }

    /// The pause a move would need now.
    #[must_use]
    pub fn estimate(&self) -> Estimate {
        estimate(&self.measured())
    }

    /// All that an estimate rests on.
    pub(super) fn measured(&self) -> Measured {
        let mut measured = self.state().measured.clone();
        measured.changed_rows = Some(self.proof.view().pending);
        measured.rows_compared_per_second = self.proof.rate();
        measured.read_whole = self.proof.read_behind_fence(self.owner());
        measured
    }

    /// What the samples say.
    #[must_use]
    pub fn converge(&self) -> Converge {
        let now = self.began.elapsed().as_secs_f64();
        let thresholds = Thresholds {
            max_lag_seconds: self.wishes.max_lag.as_secs_f64(),
            ..Thresholds::default()
        };
        converge(&self.state().samples.all(), now, &thresholds)
    }

    /// The newest sample.
    #[must_use]
    pub fn latest(&self) -> Option<Sample> {
        self.state().samples.latest().copied()
    }

    /// The proof: a full pass once the streams have caught up, then changed rows.
    async fn compare(&self) -> Result<()> {
        if !self.wishes.continuous || !self.caught_up() {
            return Ok(());
        }
        let owner = self.owner();
        let again = self.proof.passed();
        // A table without a key needs it again as soon as it changes.
        let due = !again || self.state().whole_again.is_none_or(|at| Instant::now() >= at);
        let chosen = if due { self.proof.due() } else { Vec::new() };
        if !chosen.is_empty() {
            let began = Instant::now();
            let compared = self.compare_whole(owner, chosen, again).await;
            self.state().uncompared_for = compared.as_ref().err().map(|e| e.headline());
            compared?;
            let rest = pace::rest_of_passes(began.elapsed());
            self.state().whole_again = Some(Instant::now() + rest);
        }
        let until = Instant::now() + VERIFY_EVERY;
        while Instant::now() < until {
            let took = {
                // A move compares what is left by itself, and must find it in the ledger.
                let Some(_still) = self.pipes.try_still() else { return Ok(()) };
                let began = Instant::now();
                let compared = self.proof.step(&BothLogs(&self.pipes)).await?;
                self.proof.keep_owed();
                if !compared {
                    return Ok(());
                }
                began.elapsed()
            };
            tokio::time::sleep(pace::rest(took, self.proof.filled())).await;
        }
        Ok(())
    }
}

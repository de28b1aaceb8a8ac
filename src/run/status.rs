//! What a running process says about itself.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cutover_core::model::{run::RunId, side::Side};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{book::Book, command::Answer, live::Live, standing::Phase};
use crate::{
    config::units::{human_duration, human_size},
    error::Exit,
    observe::progress::{CopyProgress, Progress},
    verify::reading::ReadingView,
};

/// Something a person must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Code with a page.
    pub code: String,
    /// What.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// How far the other side is behind the owner of the writes. `None`: unknown, which is not zero.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LagView {
    /// Bytes of log.
    pub bytes: Option<u64>,
    /// Seconds by commit time.
    pub seconds: Option<f64>,
    /// Complete transactions in hand.
    pub transactions: Option<u64>,
}

/// Everything `cutover status` shows. What belongs to other rooms is already data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The run.
    pub run: String,
    /// Its phase.
    pub phase: Phase,
    /// Who owns the clients' writes.
    pub owner: Side,
    /// What is being done, in words.
    pub doing: String,
    /// The command under way, when there is one.
    pub busy: Option<String>,
    /// Whether a switch would be accepted now, or why not.
    pub ready: Readiness,
    /// How far behind.
    pub lag: LagView,
    /// Bytes of log that the owner's server keeps for us.
    pub retained_bytes: Option<u64>,
    /// Expected pause of a move now, in milliseconds, with its parts.
    pub pause_estimate: Option<Value>,
    /// The copy.
    pub copy: CopyProgress,
    /// Both streams, `forward` and `back`.
    pub streams: Option<Value>,
    /// What is proven.
    pub proof: Option<Value>,
    /// What somebody must know.
    pub alarms: Vec<Alarm>,
    /// Moves and rehearsals of this run, oldest first.
    pub moves: Vec<MoveView>,
}

/// Whether a move would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Readiness {
    /// Yes.
    Ready,
    /// Not yet.
    NotYet {
        /// Why.
        why: String,
        /// Seconds until it may be, when somebody can tell.
        eta_seconds: Option<u64>,
    },
    /// Not at this rate, or not before somebody does something.
    Never {
        /// Why.
        why: String,
    },
}

/// One ended move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MoveView {
    /// Number, as in file names.
    pub id: String,
    /// `switch`, `rollback` or `rehearsal`.
    pub kind: String,
    /// `moved`, `aborted` or `rehearsed`.
    pub ending: String,
    /// Who owned the writes afterwards.
    pub owner: Side,
    /// Pause in milliseconds, when clients waited.
    pub pause_ms: Option<f64>,
    /// The evidence, relative to the state folder.
    pub evidence: Option<String>,
}

/// Where everybody who asks for the status gets it, at any time of the process.
pub struct Board {
    run: String,
    book: Arc<Book>,
    progress: Arc<Progress>,
    live: Mutex<Option<Arc<Live>>>,
    trouble: Mutex<Option<Alarm>>,
}

impl Board {
    /// A board without streams.
    #[must_use]
    pub fn new(run: &RunId, book: Arc<Book>, progress: Arc<Progress>) -> Self {
        let (live, trouble) = (Mutex::new(None), Mutex::new(None));
        Self { run: run.to_string(), book, progress, live, trouble }
    }

    fn live(&self) -> MutexGuard<'_, Option<Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_live(&self, live: Arc<Live>) {
        *self.live() = Some(live);
    }

    /// What somebody must know while no streams are there to tell it.
    pub(super) fn set_trouble(&self, trouble: Option<Alarm>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    pub(super) fn clear_live(&self) {
        *self.live() = None;
    }

    /// What is being done, in words.
    #[must_use]
    pub fn doing(&self) -> String {
        self.progress.view().doing
    }

    /// The status now.
    #[must_use]
    pub fn status(&self) -> Status {
        let standing = self.book.standing();
        let copy = self.progress.view();
        let live = self.live().clone();
        let mut status = Status {
            run: self.run.clone(),
            phase: standing.phase(),
            owner: standing.owner,
            doing: copy.doing.clone(),
            busy: None,
            ready: Readiness::NotYet { why: copy.doing.clone(), eta_seconds: None },
            lag: LagView::default(),
            retained_bytes: None,
            pause_estimate: None,
            copy,
            streams: None,
            proof: None,
            alarms: self
                .trouble
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .cloned()
                .collect(),
            moves: Vec::new(),
        };
        if let Some(live) = live {
            status.busy = live.busy();
            status.ready = live.readiness();
            status.lag = live.lag();
            status.retained_bytes = live.retained();
            status.pause_estimate = serde_json::to_value(live.forecast()).ok();
            status.streams = Some(json!({
                "forward": live.pipes.from(Side::Blue).view(),
                "back": live.pipes.from(Side::Green).view(),
            }));
            status.proof = serde_json::to_value(live.proof.view()).ok();
            status.alarms.extend(live.alarms());
            status.moves = live.moves();
        }
        status
    }

    /// The status as the answer to a command.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let status = self.status();
        let value = serde_json::to_value(&status).unwrap_or_default();
        Answer::new(Exit::Done, value, status.text())
    }
}

/// How far a full comparison is, for a person.
#[must_use]
pub fn far(reading: &ReadingView) -> String {
    let eta = reading.eta_seconds.map(|s| human_duration(Duration::from_secs(s)));
    format!(
        "{} % of {} read, to go: {}",
        reading.percent(),
        human_size(reading.of),
        eta.unwrap_or_else(|| "unknown".into())
    )
}

impl Status {
    /// A few lines for a person.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = vec![
            format!("run      {}", self.run),
            format!("phase    {} ({})", self.phase.as_str(), self.doing),
            format!("owner    {}", self.owner),
        ];
        if let Some(busy) = &self.busy {
            lines.push(format!("busy     {busy}"));
        }
        let unknown = || "unknown".to_owned();
        if self.streams.is_some() {
            lines.push(format!(
                "lag      {} bytes, {} s, {} transactions in hand",
                self.lag.bytes.map_or_else(unknown, |b| b.to_string()),
                self.lag.seconds.map_or_else(unknown, |s| format!("{s:.1}")),
                self.lag.transactions.map_or_else(unknown, |t| t.to_string()),
            ));
        }
        lines.push(match &self.ready {
            Readiness::Ready => "ready    yes".to_owned(),
            Readiness::NotYet { why, eta_seconds: Some(eta) } => {
                format!("ready    not yet, about {eta} s: {why}")
            }
            Readiness::NotYet { why, .. } => format!("ready    not yet: {why}"),
            Readiness::Never { why } => format!("ready    no: {why}"),
        });
        if let Some(ms) = self.pause_estimate.as_ref().and_then(|e| e["ms"].as_f64()) {
            lines.push(format!("pause    about {ms:.0} ms expected"));
        }
        for alarm in &self.alarms {
            lines.push(format!("ALARM    {}: {} ({})", alarm.code, alarm.what, alarm.remedy));
        }
        for m in &self.moves {
            let pause = m.pause_ms.map_or_else(String::new, |ms| format!(", pause {ms:.1} ms"));
            lines.push(format!(
                "move {}   {}: {}, owner {}{pause}",
                m.id, m.kind, m.ending, m.owner
            ));
        }
        lines.join("\n")
    }
}

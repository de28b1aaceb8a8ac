//! Moves and rehearsals of a run: begun on command, gone on with after a crash, told in evidence.
//!
//! The journal of moves decides who owns the writes; the run's journal only repeats it. Both are
//! written by the running process, or the former by the guard after our death.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cutover_core::model::{
    finding::{Finding, Severity},
    run::RunId,
    side::Side,
};
use serde_json::json;

use super::{
    beside,
    command::{Answer, Request},
    error::RunError,
    fact, history, interrupted,
    live::Live,
    lost,
    prepare::now_ms,
    recovery::{self, Site},
    socket::Responder,
    status::MoveView,
};
use crate::{
    config::reference::move_mark,
    cutover::{
        driver::{self, DriveError, Goal, Limits, Report, Stop},
        evidence::{About, Evidence},
        fact::{Details, Ending, Fact, KIND, Outcome},
        ground::{
            Ground,
            live::{LiveGround, Parts as GroundParts, Work},
        },
        guard::Summons,
        machine::State,
        plan::Step,
    },
    error::{Exit, Failure},
    journal::{FileJournal, Journal as _, JournalError},
    lag::Estimate,
};

/// Name of the journal of moves in the state folder.
pub(super) const FILE: &str = "moves.journal";
/// Folder of the evidence in the state folder.
pub(super) const EVIDENCE: &str = "moves";
/// How long a guard that is freeing traffic is waited for.
const GUARD_WITHIN: Duration = Duration::from_secs(30);
/// How long after the budget the guard acts while we are alive.
const GUARD_GRACE: Duration = Duration::from_secs(1);
/// How long the streams may take to hear who owns the writes when a move has ended.
const STREAMS_ANSWER: Duration = Duration::from_secs(5);

/// Moves that have ended, by the journal in `state_dir`.
///
/// # Errors
///
/// The journal is damaged.
pub(super) fn ended(state_dir: &Path) -> Result<Vec<MoveView>, JournalError> {
    let facts = FileJournal::<Fact>::read_only(&state_dir.join(FILE), KIND)?;
    Ok(history::views(&facts.unwrap_or_default()))
}

/// Opens the journal of moves; a guard may still hold it for a moment.
pub(super) async fn open(state_dir: &Path) -> Result<(FileJournal<Fact>, Vec<Fact>), JournalError> {
    let deadline = Instant::now() + GUARD_WITHIN;
    loop {
        match FileJournal::open(&state_dir.join(FILE), KIND) {
            Err(JournalError::Locked { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            other => return other,
        }
    }
}

/// Begins a journal with a first fact: it is there with that, or not at all.
pub(super) fn begin(state_dir: &Path, fact: &Fact) -> Result<(), JournalError> {
    let (path, new) = (state_dir.join(FILE), state_dir.join(format!("{FILE}.new")));
    let io = |source| JournalError::Io { doing: "beginning", path: path.clone(), source };
    // Of a process that was killed here.
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(e)),
        _ => {}
    }
    let (mut journal, _) = FileJournal::open(&new, KIND)?;
    journal.append(fact)?;
    drop(journal);
    std::fs::rename(&new, &path).map_err(io)?;
    std::fs::File::open(state_dir).and_then(|folder| folder.sync_all()).map_err(io)
}

pub(super) fn undecided(why: &str) -> Failure {
    Failure::new(format!("nobody can say where the writes go: {why}"))
        .code("CUT0718")
        .remedy(
            "look where each switch sends the writes, then `cutover resolve --owner blue` or \
             `cutover resolve --owner green`",
        )
        .exit(Exit::Undecided)
}

/// What an operator's word is answered with: noted, or why it cannot be taken.
pub(super) fn word(doubt: &State, owner: Side) -> Result<Answer, Failure> {
    doubt
        .may_resolve(owner)
        .map(|()| {
            Answer::new(
                Exit::Done,
                json!({ "owner": owner }),
                format!("noted: {owner} owns the writes; going on"),
            )
        })
        .map_err(|why| Failure::new(why).code("CUT0739").exit(Exit::No))
}

impl Live {
    /// A switch, a rollback or a rehearsal.
    pub(super) async fn make_move(
        self: &Arc<Self>,
        request: &Request,
        responder: &Responder,
    ) -> Answer {
        let from = self.owner();
        match (request, from) {
            (Request::Switch, Side::Green) => return already(Side::Green),
            (Request::Rollback, Side::Blue) => return already(Side::Blue),
            _ => {}
        }
        let rehearsal = *request == Request::Rehearse;
        self.follow_ends_before(from).await;
        // Whoever compares or repairs lets go first: before any client waits.
        let _still = self.pipes.still().await;
        match self.drive(from, rehearsal, responder).await {
            Ok(answer) => answer,
            Err(e) => {
                let journal = matches!(&e, RunError::Journal(j) if !j.is_locked());
                let failure = e.into_failure();
                if journal {
                    // Whoever opens it next goes on: the guard, or the next process.
                    self.broken.set(failure.clone()).ok();
                }
                Answer::failed(failure)
            }
        }
    }

    /// What green is like when clients are sent there is what a rollback compares with.
    async fn remember_definitions(&self) -> Result<(), RunError> {
        let definitions = match self.ports.green.primary.fingerprint(&self.selection).await {
            Ok(definitions) => definitions,
            // The checks say why green does not answer. What is known is older, and refuses more.
            Err(error) => {
                tracing::debug!(%error, "green's definitions are those of the last look");
                return Ok(());
            }
        };
        if definitions != **self.book.standing().definitions(Side::Green) {
            self.book.note(fact::Fact::Redefined { of: Side::Green, definitions })?;
        }
        Ok(())
    }

    async fn drive(
        self: &Arc<Self>,
        from: Side,
        rehearsal: bool,
        responder: &Responder,
    ) -> Result<Answer, RunError> {
        let number = self.book.standing().moves + 1;
        if number > 1 && !self.state_dir.join(FILE).exists() {
            return Err(lost::gone(&self.state_dir).into());
        }
        let (mut journal, history) = open(&self.state_dir).await?;
        let ground: Box<dyn Ground> = self.ground(from)?;
        let id = format!("{number:04}");
        if from == Side::Blue && !rehearsal {
            self.remember_definitions().await?;
        }
        // It counts when the move is made, and costs nothing then.
        let sides: &[Side] = if rehearsal { &[] } else { &[Side::Blue, Side::Green] };
        let beside = beside::facts(&self.ports, &self.selection, sides).await;
        let begun = Fact::MoveBegan {
            id: id.clone(),
            from,
            rehearsal,
            budget_ms: u64::try_from(self.wishes.pause_budget.as_millis()).unwrap_or(u64::MAX),
            switches: self.ports.switches.iter().map(|s| s.name().to_owned()).collect(),
            at_ms: now_ms(),
        };
        // What would not begin leaves no line: until its end nothing is copied, and nothing closed.
        State::of(&history).takes(&begun).map_err(DriveError::OutOfOrder)?;
        journal.reserve(driver::ROOM)?;
        self.book.note(fact::Fact::MoveBegan { id: number, from, rehearsal, at_ms: now_ms() })?;
        let predicted = self.estimate();
        let limits = Limits::new(self.wishes.pause_budget);
        // What fails again for the same reason is told once.
        let last = Mutex::new(String::new());
        let tell = |fact: &Fact| {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(text) = told(fact).filter(|text| *text != *last) {
                last.clone_from(&text);
                responder.progress(text);
            }
            if let Some(alarm) = interrupted::trouble(fact) {
                self.alarm(interrupted::NOT_FREE, Some((alarm.what, alarm.remedy)));
            }
        };
        let mut report = driver::drive(
            &mut journal,
            &history,
            begun,
            Goal::Finished,
            ground.as_ref(),
            &limits,
            &tell,
        )
        .await?;
        while let Stop::NeedsOperator { why, .. } = &report.stop {
            let mut all = history.clone();
            all.extend(report.facts.clone());
            let owner = self.wait_for_resolve(why, State::of(&all), responder).await;
            let word = Fact::Resolved { owner, at_ms: now_ms() };
            report = driver::drive(
                &mut journal,
                &all,
                word,
                Goal::Finished,
                ground.as_ref(),
                &limits,
                &tell,
            )
            .await?;
        }
        self.alarm(interrupted::NOT_FREE, None);
        let owner = report.owner;
        let mut ended = vec![fact::Fact::MoveEnded { id: number, owner, at_ms: now_ms() }];
        if owner != from {
            ended.extend(beside);
        }
        self.book.note_all(&ended)?;
        // The steps have done so where it was needed. A stream that hangs keeps nobody waiting for
        // an answer.
        if report.facts.iter().any(reaches_streams) {
            match tokio::time::timeout(STREAMS_ANSWER, self.pipes.owned_by(report.owner)).await {
                Ok(done) => done?,
                Err(_) => tracing::warn!("a stream that is to apply no more does not answer yet"),
            }
        }
        self.forget_samples();
        let predicted = admitted(&report.facts).unwrap_or(predicted);
        let evidence = write_evidence(&self.state_dir, self.about(), &report, Some(&predicted));
        Ok(self.tell_end(&id, &report, &predicted, evidence))
    }

    /// The ground of a move of ours: with streams, and with a guard.
    fn ground(self: &Arc<Self>, from: Side) -> Result<Box<dyn Ground>, Failure> {
        let site = Site {
            run: &self.run,
            selection: &self.selection,
            ports: &self.ports,
            budget: self.wishes.pause_budget,
        };
        let program = this_program()?;
        let config = self.config_file.clone();
        let mark = move_mark(&self.wishes.effective);
        let command = move || {
            let mut command = tokio::process::Command::new(&program);
            command.arg0("cutover").arg("--config").arg(&config).args(["guard", "--of", &mark]);
            command
        };
        Ok(Box::new(LiveGround::new(GroundParts {
            work: Some(Work {
                pipes: Arc::clone(self) as _,
                proof: Arc::clone(self) as _,
                ready: Arc::clone(self) as _,
            }),
            guard: Some(Summons {
                command: Arc::new(command),
                journal: self.state_dir.join(FILE),
                grace: GUARD_GRACE,
            }),
            ..recovery::parts(&site, from)
        })))
    }

    /// Waits until an operator says who owns the writes. Whoever asked for the move does not wait
    /// for that.
    async fn wait_for_resolve(&self, why: &str, doubt: State, responder: &Responder) -> Side {
        let failure = undecided(why);
        let remedy = failure.remedy.clone().unwrap_or_default();
        self.alarm("CUT0718", Some((failure.what.clone(), remedy)));
        responder.early(Answer::failed(failure));
        let owner = self.resolved(doubt).await;
        self.alarm("CUT0718", None);
        owner
    }

    fn about(&self) -> About {
        about(&self.run, &self.wishes.effective)
    }

    /// What the move came to. It has ended, with or without a file that tells of it.
    fn tell_end(
        &self,
        id: &str,
        report: &Report,
        predicted: &Estimate,
        evidence: Result<PathBuf, Failure>,
    ) -> Answer {
        let view = history::views(&report.facts).into_iter().last();
        let pause_ms = report.pause.and_then(|p| p.ms());
        let (exit, text) = match &report.stop {
            Stop::Ended(Ending::Moved { owner }) => {
                (Exit::Done, format!("{owner} owns the writes; clients waited {}", ms(pause_ms)))
            }
            Stop::Ended(Ending::Rehearsed { owner }) => (
                Exit::Done,
                format!(
                    "rehearsed; {owner} owns the writes as before; clients waited {}",
                    ms(pause_ms)
                ),
            ),
            Stop::Ended(Ending::Aborted { owner, why, .. }) => {
                let hint = remedy(&report.facts).map(|r| format!("\nhint: {r}"));
                let text = format!("taken back, {owner} owns the writes as before: {why}");
                (Exit::No, text + &hint.unwrap_or_default())
            }
            Stop::NeedsOperator { why, .. } => (Exit::Undecided, why.clone()),
            Stop::TrafficFree => (Exit::Failed, "the move has no end".to_owned()),
        };
        let value = json!({
            "id": id,
            "owner": report.owner,
            "ending": view.as_ref().map(|v| v.ending.clone()),
            "why": match &report.stop {
                Stop::Ended(Ending::Aborted { why, .. }) | Stop::NeedsOperator { why, .. } => {
                    Some(why)
                }
                _ => None,
            },
            "remedy": remedy(&report.facts),
            "pause_ms": pause_ms,
            "longest_pause_ms": report.pause.and_then(|p| p.longest_ms()),
            "predicted_ms": predicted.ms,
            "steps_ms": driver::durations(&report.facts),
            "evidence": evidence.as_ref().ok().map(|path| path.display().to_string()),
        });
        if let Some(view) = view {
            self.add_move(MoveView { pause_ms, ..view }, predicted);
        }
        let where_told = match evidence {
            Ok(path) => format!("evidence: {}", path.display()),
            Err(failure) => {
                tracing::error!("{failure}");
                format!("{failure}; `cutover status` and the journal of moves tell the same")
            }
        };
        Answer::new(exit, value, format!("{text}\n{where_told}"))
    }
}

/// Whether a step began that streams hear of: all but the first, which only looks.
fn reaches_streams(fact: &Fact) -> bool {
    matches!(fact, Fact::Step { step, .. } if *step != Step::Recheck)
}

/// What helps against the first failure of a move that was taken back.
fn remedy(facts: &[Fact]) -> Option<&str> {
    facts.iter().find_map(|fact| match fact {
        Fact::Step { outcome: Outcome::Failed { remedy, .. }, .. } => remedy.as_deref(),
        _ => None,
    })
}

/// Writes the evidence of a move, for machines and for people; returns the former's path.
pub(super) fn write_evidence(
    state_dir: &Path,
    about: About,
    report: &Report,
    predicted: Option<&Estimate>,
) -> Result<PathBuf, Failure> {
    let evidence = Evidence::new(about, report, predicted)
        .ok_or_else(|| Failure::new("the facts of the move do not begin with its beginning"))?;
    let folder = state_dir.join(EVIDENCE);
    let path = folder.join(format!("{}.json", evidence.id));
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&path, evidence.json()))
        .and_then(|()| std::fs::write(path.with_extension("html"), evidence.html()))
        .map_err(|e| {
            Failure::new(format!("the evidence {} cannot be written", path.display()))
                .code("CUT0514")
                .caused_by(&e)
                .remedy("check space and health of the disk under state_dir")
        })?;
    Ok(path)
}

/// This very program, also when its file was replaced or removed since it was started: the guard
/// must be of the same version.
fn this_program() -> Result<PathBuf, Failure> {
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() {
        return Ok(running);
    }
    std::env::current_exe()
        .map_err(|e| Failure::new("this program cannot find itself").caused_by(&e))
}

/// What a report does not know by itself.
pub(super) fn about(run: &RunId, configuration: &serde_json::Value) -> About {
    About {
        run: run.to_string(),
        program: concat!("cutover ", env!("CARGO_PKG_VERSION")).into(),
        configuration: configuration.clone(),
    }
}

fn already(owner: Side) -> Answer {
    Answer::failed(
        Failure::new(format!("{owner} owns the writes already"))
            .code("CUT0508")
            .remedy("`cutover status` shows the owner")
            .exit(Exit::No),
    )
}

fn ms(pause: Option<f64>) -> String {
    pause.map_or_else(|| "not at all".to_owned(), |ms| format!("{ms:.1} ms"))
}

/// What a person who waits for a move is told of it.
fn told(fact: &Fact) -> Option<String> {
    let at =
        |switch: &Option<String>| switch.as_ref().map_or_else(String::new, |s| format!(" {s}"));
    match fact {
        Fact::Step { step, switch, outcome, at_us } => match outcome {
            Outcome::Started => None,
            Outcome::Done { details } => Some(format!(
                "{:>9.1} ms  {step}{}{}",
                *at_us as f64 / 1000.0,
                at(switch),
                warnings(details)
            )),
            Outcome::Failed { why, .. } => Some(format!("{step}{} failed: {why}", at(switch))),
            Outcome::Ambiguous { why } => Some(format!("{step}{}: no answer: {why}", at(switch))),
        },
        Fact::Undo { step, switch, outcome: Outcome::Done { .. }, at_us } => {
            Some(format!("{:>9.1} ms  undo {step}{}", *at_us as f64 / 1000.0, at(switch)))
        }
        Fact::Undo { step, switch, outcome: Outcome::Failed { why, .. }, .. } => {
            Some(format!("undo {step}{} failed, and is tried again: {why}", at(switch)))
        }
        _ => None,
    }
}

/// The estimate that the move was admitted with: what was compared before its pause is no part of it.
fn admitted(facts: &[Fact]) -> Option<Estimate> {
    facts.iter().rev().find_map(|fact| match fact {
        Fact::Step { step: Step::Recheck, outcome: Outcome::Done { details }, .. } => {
            serde_json::from_value(details.get("estimate")?.clone()).ok()
        }
        _ => None,
    })
}

/// What the checks before a move warn of, in lines of their own.
fn warnings(details: &Details) -> String {
    let findings = details.get("findings").cloned().unwrap_or_default();
    let findings: Vec<Finding> = serde_json::from_value(findings).unwrap_or_default();
    findings
        .iter()
        .filter(|f| f.severity == Severity::Warning)
        .map(|f| {
            let remedy = f.remedy.replace('\n', "\n         ");
            format!("\nwarning  {} {}: {}\n         {remedy}", f.code, f.place, f.what)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_remedy_stands_below_its_warning() {
        let finding = json!({ "code": "CUT0127", "severity": "warning", "place": "blue",
                              "what": "so it is", "remedy": "first;\nsecond;" });
        let note = json!({ "code": "CUT0135", "severity": "info", "place": "blue", "what": "",
                           "remedy": "" });
        let serde_json::Value::Object(details) = json!({ "findings": [finding, note] }) else {
            unreachable!("it is one")
        };
        assert_eq!(
            warnings(&details),
            "\nwarning  CUT0127 blue: so it is\n         first;\n         second;"
        );
    }
}

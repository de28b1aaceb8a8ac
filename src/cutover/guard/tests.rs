//! The guard over a real journal and a scripted ground, and the pipe to real processes.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cutover_core::model::side::Side;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex},
    process::Command,
    task::JoinHandle,
};

use super::{GuardEnd, GuardError, Handle, Summons, serve, watch::Line};
use crate::{
    cutover::{
        fact::{Fact, KIND, Outcome, Process},
        ground::{Failure, Ground},
        machine::State,
        plan::Step,
        trial::{Act, Disk, Scripted, began},
    },
    journal::{FileJournal, Journal as _},
};

fn done(step: Step, switch: Option<&str>) -> Fact {
    let outcome = Outcome::Done { details: Default::default() };
    Fact::Step { step, switch: switch.map(str::to_owned), outcome, at_us: 0 }
}

/// What the journal says after the fence was closed.
fn fenced() -> Vec<Fact> {
    vec![
        began(false),
        done(Step::Recheck, None),
        done(Step::ArmReverse, None),
        done(Step::Guard, None),
        done(Step::Pause, Some("a")),
        done(Step::Pause, Some("b")),
        done(Step::Fence, None),
    ]
}

fn decided() -> Vec<Fact> {
    let mut facts = fenced();
    facts.extend(
        [Step::Drain, Step::Verify, Step::Counters, Step::Decide].map(|step| done(step, None)),
    );
    facts
}

/// The world as `facts` left it.
fn ground(facts: &[Fact], script: &[(&'static str, &[Act])]) -> Arc<Scripted> {
    let ground = Scripted::new(&Disk::default(), script).lenient();
    if facts.len() > 3 {
        ground.hold_all_and_close();
    }
    Arc::new(ground)
}

struct Trial {
    folder: tempfile::TempDir,
    ground: Arc<Scripted>,
    to_guard: DuplexStream,
    answers: tokio::io::Lines<BufReader<DuplexStream>>,
    kills: Arc<AtomicUsize>,
    /// How many kills do nothing, as while a disk does not answer.
    lost_kills: Arc<AtomicUsize>,
    /// The run's hold on the journal; a kill ends it.
    holder: Arc<Mutex<Option<FileJournal<Fact>>>>,
    guard: JoinHandle<Result<GuardEnd, GuardError>>,
}

fn path(folder: &Path) -> std::path::PathBuf {
    folder.join("moves.journal")
}

/// A guard that was told nothing yet, beside a run that holds the journal.
fn begin(facts: &[Fact], script: &[(&'static str, &[Act])]) -> Trial {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = FileJournal::open(&path(folder.path()), KIND).unwrap();
    journal.append_all(facts).unwrap();
    let holder = Arc::new(Mutex::new(Some(journal)));
    let (to_guard, input) = duplex(1024);
    let (output, from_guard) = duplex(1024);
    let ground = ground(facts, script);
    let (kills, lost_kills) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let guard = {
        let (ground, kills, holder) = (ground.clone(), kills.clone(), holder.clone());
        let lost = lost_kills.clone();
        tokio::spawn(async move {
            let make = move |from: Side| -> Result<Arc<dyn Ground>, Failure> {
                assert_eq!(from, Side::Blue);
                Ok(ground)
            };
            let kill = move || {
                if kills.fetch_add(1, Ordering::SeqCst) >= lost.load(Ordering::SeqCst) {
                    holder.lock().unwrap().take();
                }
            };
            serve(BufReader::new(input), output, make, &kill).await
        })
    };
    let answers = BufReader::new(from_guard).lines();
    Trial { folder, ground, to_guard, answers, kills, lost_kills, holder, guard }
}

impl Trial {
    async fn say(&mut self, line: &Line) {
        self.to_guard.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn armed(&mut self) {
        let journal = path(self.folder.path());
        self.say(&Line::Armed { journal, grace: Duration::from_secs(1) }).await;
        assert_eq!(self.answers.next_line().await.unwrap().unwrap(), "ready");
        assert!(self.ground.calls().contains(&"warm_up".to_owned()));
    }

    async fn pausing(&mut self) {
        self.say(&Line::Pausing { budget: Duration::from_secs(1) }).await;
    }

    /// The run dies: its lock and its end of the pipe are gone.
    async fn dies(self) -> (Result<GuardEnd, GuardError>, usize, Arc<Scripted>, Vec<Fact>) {
        self.holder.lock().unwrap().take();
        drop(self.to_guard);
        let end = self.guard.await.unwrap();
        let facts = FileJournal::read_only(&path(self.folder.path()), KIND).unwrap().unwrap();
        (end, self.kills.load(Ordering::SeqCst), self.ground, facts)
    }
}

#[tokio::test(start_paused = true)]
async fn released_it_ends_and_touches_nothing() {
    let mut trial = begin(&fenced(), &[]);
    trial.armed().await;
    trial.pausing().await;
    trial.say(&Line::Released).await;
    assert_eq!(trial.guard.await.unwrap().unwrap(), GuardEnd::Released);
    assert_eq!(trial.ground.calls(), ["warm_up"]);
    assert!(trial.holder.lock().unwrap().is_some(), "the run keeps its journal");
}

#[tokio::test(start_paused = true)]
async fn the_run_dies_before_the_decision_and_clients_go_on_with_blue() {
    let mut trial = begin(&fenced(), &[]);
    trial.armed().await;
    trial.pausing().await;
    let (end, kills, ground, facts) = trial.dies().await;
    assert_eq!(end.unwrap(), GuardEnd::Freed(Side::Blue));
    assert_eq!((kills, ground.free_on()), (0, Some(Side::Blue)));
    assert_eq!(ground.calls(), ["warm_up", "undo fence", "undo pause.a", "undo pause.b"]);
    assert!(facts.iter().any(|f| matches!(f, Fact::Restarted { by: Process::Guard, .. })));
    let state = State::of(&facts);
    assert!(state.is_open() && state.traffic_is_free(), "the rest is for the next run");
}

#[tokio::test(start_paused = true)]
async fn the_run_dies_after_the_decision_and_clients_go_on_with_green() {
    let mut trial = begin(&decided(), &[("point.b", &[Act::NoAnswerDone])]);
    trial.armed().await;
    trial.pausing().await;
    let (end, _, ground, facts) = trial.dies().await;
    assert_eq!(end.unwrap(), GuardEnd::Freed(Side::Green));
    assert_eq!(ground.free_on(), Some(Side::Green));
    assert_eq!(State::of(&facts).owner(), Side::Green);
    let calls = ground.calls();
    assert!(calls.contains(&"observe.b".into()) && !calls.contains(&"stream_reverse".into()));
}

#[tokio::test(start_paused = true)]
async fn the_run_hangs_and_is_killed_after_budget_and_grace() {
    let mut trial = begin(&fenced(), &[]);
    trial.armed().await;
    let told = tokio::time::Instant::now();
    trial.pausing().await;
    // Neither the pipe nor the lock is let go.
    let end = (&mut trial.guard).await.unwrap();
    assert_eq!(end.unwrap(), GuardEnd::Freed(Side::Blue));
    assert_eq!(trial.kills.load(Ordering::SeqCst), 1);
    assert_eq!(trial.ground.free_on(), Some(Side::Blue));
    let took = told.elapsed();
    assert!(
        (Duration::from_secs(2)..Duration::from_millis(2050)).contains(&took),
        "freed after {took:?}"
    );
}

/// It left after ten seconds, and nobody freed the clients when the disk came back.
#[tokio::test(start_paused = true)]
async fn a_run_that_does_not_die_at_once_is_waited_for() {
    let mut trial = begin(&fenced(), &[]);
    trial.lost_kills.store(30, Ordering::SeqCst);
    trial.armed().await;
    trial.pausing().await;
    assert_eq!((&mut trial.guard).await.unwrap().unwrap(), GuardEnd::Freed(Side::Blue));
    assert_eq!(trial.kills.load(Ordering::SeqCst), 31);
    assert_eq!(trial.ground.free_on(), Some(Side::Blue));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_lets_go_of_the_pipe_alone_is_killed_only_at_the_deadline() {
    let mut trial = begin(&fenced(), &[]);
    trial.armed().await;
    let told = tokio::time::Instant::now();
    trial.pausing().await;
    drop(trial.to_guard);
    assert_eq!(trial.guard.await.unwrap().unwrap(), GuardEnd::Freed(Side::Blue));
    assert_eq!(trial.kills.load(Ordering::SeqCst), 1);
    assert!(told.elapsed() >= Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn dead_before_anybody_was_held_there_is_nothing_to_do() {
    for facts in [&fenced()[..1], &fenced()[..3]] {
        let mut trial = begin(facts, &[]);
        trial.armed().await;
        let (end, _, ground, after) = trial.dies().await;
        assert_eq!(end.unwrap(), GuardEnd::NothingToDo);
        assert_eq!(ground.calls(), ["warm_up"]);
        assert_eq!(after, facts);
    }
}

#[tokio::test(start_paused = true)]
async fn it_says_when_only_an_operator_knows() {
    let mut trial = begin(&decided(), &[("point.b", &[Act::NoAnswer]), ("mute", &[])]);
    trial.armed().await;
    trial.pausing().await;
    let (end, _, _, facts) = trial.dies().await;
    assert!(matches!(end.unwrap(), GuardEnd::NeedsOperator(why) if why.contains('b')));
    assert!(State::of(&facts).may_resolve(Side::Green).is_ok());
}

#[tokio::test(start_paused = true)]
async fn not_ready_is_said_and_no_move_begins() {
    let mut trial = begin(&fenced(), &[("warm_up", &[Act::Refuses])]);
    let journal = path(trial.folder.path());
    trial.say(&Line::Armed { journal, grace: Duration::ZERO }).await;
    assert_eq!(trial.answers.next_line().await.unwrap().unwrap(), "refused");
    assert!(matches!(trial.guard.await.unwrap(), Err(GuardError::NotReady(_))));

    let mut trial = begin(&[], &[]);
    let journal = path(trial.folder.path());
    trial.say(&Line::Armed { journal, grace: Duration::ZERO }).await;
    let answer = trial.answers.next_line().await.unwrap().unwrap();
    assert!(answer.contains("no open move"), "{answer}");
}

// --- real processes --------------------------------------------------------------------------

fn summons(script: &'static str) -> Summons {
    Summons {
        command: Arc::new(move || {
            let mut command = Command::new("/bin/sh");
            command.arg("-c").arg(script);
            command
        }),
        journal: "/nowhere/moves.journal".into(),
        grace: Duration::from_secs(1),
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_guard_that_answers_is_told_everything() {
    let folder = tempfile::tempdir().unwrap();
    let heard = folder.path().join("heard");
    let heard_by = heard.clone();
    let mut it = summons("");
    it.command = Arc::new(move || {
        let mut command = Command::new("/bin/sh");
        let script = "read a; echo ready; read b; read c; printf '%s\n' \"$a\" \"$b\" \"$c\" > ";
        command.arg("-c").arg(format!("{script}'{}'", heard_by.display()));
        command
    });
    let mut guard = Handle::start(&it, PATIENCE).await.unwrap();
    assert!(guard.id().is_some());
    guard.pausing(Duration::from_millis(250)).await.unwrap();
    guard.released(PATIENCE).await;
    assert_eq!(
        std::fs::read_to_string(heard).unwrap(),
        "armed \"/nowhere/moves.journal\" 1000\npausing 250\nreleased\n"
    );
}

#[tokio::test]
async fn a_guard_that_is_not_ready_or_gone_stops_the_move() {
    for (script, want) in [
        ("read a; echo 'no password'", "no password"),
        ("read a", "ended before it was ready"),
        ("exec 0<&-; exit 3", "guard"),
    ] {
        let failure = Handle::start(&summons(script), PATIENCE).await.unwrap_err();
        assert!(failure.why.contains(want), "{script}: {}", failure.why);
        assert_eq!(failure.code.as_deref(), Some("CUT0737"));
        assert!(!failure.ambiguous);
    }
    let mut missing = summons("");
    missing.command = Arc::new(|| Command::new("/nowhere/cutover"));
    assert!(Handle::start(&missing, PATIENCE).await.unwrap_err().why.contains("cannot start"));

    let slow = Handle::start(&summons("read a; read b"), Duration::from_millis(50)).await;
    assert!(slow.unwrap_err().why.contains("not ready within"));

    let mut dead = Handle::start(&summons("read a; echo ready"), PATIENCE).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while dead.pausing(Duration::from_millis(1)).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "its end is not noticed");
        tokio::task::yield_now().await;
    }
}

//! The real driver over a scripted ground, on a clock that waits for nobody: budgets, cancelled
//! steps, a journal that fails at every append.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use cutover_core::model::side::Side;
use tokio::time::{Instant, sleep};

use super::{
    driver::{Goal, Limits, Report, Stop, drive, durations},
    fact::{Answer, Details, Ending, Fact, Outcome, Process},
    ground::{Did, Failure, Ground},
    plan::Step,
};
use crate::journal::{Journal, JournalError, Unsynced};

// --- the script ------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Act {
    Works,
    Takes(u64),
    Refuses,
    NoAnswer,
    /// It took effect, but the answer got lost.
    NoAnswerDone,
    Hangs,
}

/// Facts that survive, and a point of failure.
#[derive(Clone, Default)]
pub(super) struct Disk {
    facts: Arc<Mutex<Vec<Fact>>>,
    appends: Arc<Mutex<usize>>,
    fails_at: Option<usize>,
    /// Which sync beside a step fails.
    loses: usize,
    beside: usize,
}

impl Disk {
    fn facts(&self) -> Vec<Fact> {
        self.facts.lock().unwrap().clone()
    }
}

impl Journal<Fact> for Disk {
    fn append_all(&mut self, facts: &[Fact]) -> Result<(), JournalError> {
        let mut appends = self.appends.lock().unwrap();
        *appends += 1;
        if self.fails_at.is_some_and(|at| *appends >= at) {
            return Err(JournalError::Poisoned { path: "disk".into() });
        }
        self.facts.lock().unwrap().extend_from_slice(facts);
        Ok(())
    }

    fn write_all(&mut self, facts: &[Fact]) -> Result<Option<Unsynced>, JournalError> {
        self.append_all(facts)?;
        self.beside += 1;
        Ok((self.beside == self.loses).then(|| {
            let lost = || Err(JournalError::Poisoned { path: "disk".into() });
            Box::new(lost) as Unsynced
        }))
    }

    fn replay(&self) -> Result<Vec<Fact>, JournalError> {
        Ok(self.facts())
    }

    fn reserve(&mut self, _bytes: u64) -> Result<(), JournalError> {
        Ok(())
    }

    fn reserve_ahead(&mut self, _bytes: u64) {}
}

#[derive(Debug, Default)]
struct World {
    calls: Vec<(String, Duration)>,
    script: HashMap<&'static str, VecDeque<Act>>,
    origin_closed: bool,
    target_open: bool,
    armed: bool,
    guard: bool,
    streaming_back: bool,
    held: HashMap<String, bool>,
    moved: HashMap<String, bool>,
}

pub(super) struct Scripted {
    world: Mutex<World>,
    disk: Disk,
    began: Instant,
    can_say: bool,
    /// Calls without a journal line are allowed: letting clients go after the journal failed.
    lenient: bool,
}

impl Scripted {
    pub(super) fn new(disk: &Disk, script: &[(&'static str, &[Act])]) -> Self {
        let mut world = World::default();
        for (name, acts) in script {
            world.script.insert(name, acts.iter().copied().collect());
        }
        Self {
            world: Mutex::new(world),
            disk: disk.clone(),
            began: Instant::now(),
            can_say: !script.iter().any(|(name, _)| *name == "mute"),
            lenient: false,
        }
    }

    /// The journal is somewhere else.
    pub(super) fn lenient(mut self) -> Self {
        self.lenient = true;
        self
    }

    /// As after a fence.
    pub(super) fn hold_all_and_close(&self) {
        let mut world = self.world.lock().unwrap();
        world.held.extend([("a".to_owned(), true), ("b".to_owned(), true)]);
        world.origin_closed = true;
    }

    async fn act(&self, name: &str, effect: impl FnOnce(&mut World)) -> Did {
        let act = {
            let mut world = self.world.lock().unwrap();
            world.calls.push((name.to_owned(), self.began.elapsed()));
            let act = world.script.get_mut(name).and_then(VecDeque::pop_front);
            act.unwrap_or(Act::Works)
        };
        self.check_journaled(name);
        match act {
            Act::Works => {}
            Act::Takes(ms) => sleep(Duration::from_millis(ms)).await,
            Act::Refuses => return Err(Failure::definite("CUT0000", "refused", "try again")),
            Act::NoAnswer => return Err(Failure::ambiguous("lost")),
            Act::NoAnswerDone => {
                effect(&mut self.world.lock().unwrap());
                return Err(Failure::ambiguous("lost"));
            }
            Act::Hangs => std::future::pending::<()>().await,
        }
        effect(&mut self.world.lock().unwrap());
        Ok(Details::new())
    }

    /// The last line about this action says that it is started.
    fn check_journaled(&self, name: &str) {
        let (undo, rest) = name.strip_prefix("undo ").map_or((false, name), |r| (true, r));
        let (wanted, of) = rest.split_once('.').map_or((rest, None), |(n, s)| (n, Some(s)));
        let facts = self.disk.facts();
        let last = facts.iter().rev().find_map(|fact| match fact {
            Fact::Step { step, switch, outcome, .. }
                if !undo && step.name() == wanted && switch.as_deref() == of =>
            {
                Some(outcome)
            }
            Fact::Undo { step, switch, outcome, .. }
                if undo && step.name() == wanted && switch.as_deref() == of =>
            {
                Some(outcome)
            }
            _ => None,
        });
        assert!(self.lenient || last == Some(&Outcome::Started), "{name} without its line");
    }

    pub(super) fn calls(&self) -> Vec<String> {
        self.world.lock().unwrap().calls.iter().map(|(name, _)| name.clone()).collect()
    }

    fn at(&self, name: &str) -> Duration {
        let world = self.world.lock().unwrap();
        world.calls.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}")).1
    }

    /// Clients are free on exactly one side; which one.
    pub(super) fn free_on(&self) -> Option<Side> {
        let world = self.world.lock().unwrap();
        let held = world.held.values().any(|held| *held);
        let moved: Vec<bool> =
            ["a", "b"].iter().map(|n| world.moved.get(*n).copied().unwrap_or(false)).collect();
        match (held, world.origin_closed, world.target_open, &moved[..]) {
            (false, false, false, [false, false]) => Some(Side::Blue),
            (false, true, true, [true, true]) => Some(Side::Green),
            _ => None,
        }
    }
}

#[async_trait]
impl Ground for Scripted {
    async fn warm_up(&self) -> Result<(), Failure> {
        self.act("warm_up", |_| {}).await.map(|_| ())
    }
    async fn recheck(&self, _: Duration) -> Did {
        self.act("recheck", |_| {}).await
    }
    async fn arm_reverse(&self, _: Duration) -> Did {
        self.act("arm_reverse", |w| w.armed = true).await
    }
    async fn start_guard(&self, _: Duration) -> Did {
        self.act("guard", |w| w.guard = true).await
    }
    async fn alive(&self, _: Duration) {}

    async fn pausing(&self, _: Duration) -> Result<(), Failure> {
        if self.world.lock().unwrap().script.contains_key("pausing") {
            return Err(Failure::definite("CUT0737", "the guard is gone", "try again"));
        }
        Ok(())
    }
    async fn pause(&self, switch: &str, _: Duration) -> Did {
        let name = switch.to_owned();
        self.act(&format!("pause.{switch}"), |w| {
            w.held.insert(name, true);
        })
        .await
    }
    async fn fence(&self, _: Duration) -> Did {
        self.act("fence", |w| w.origin_closed = true).await
    }
    async fn drain(&self, _: Duration) -> Did {
        self.act("drain", |_| {}).await
    }
    async fn verify(&self, _: Duration) -> Did {
        self.act("verify", |_| {}).await
    }
    async fn counters(&self, _: Duration) -> Did {
        self.act("counters", |_| {}).await
    }
    async fn unfence(&self, _: Duration) -> Did {
        self.act("unfence", |w| w.target_open = true).await
    }
    async fn point(&self, switch: &str, _: Duration) -> Did {
        let name = switch.to_owned();
        self.act(&format!("point.{switch}"), |w| {
            w.held.insert(name.clone(), false);
            w.moved.insert(name, true);
        })
        .await
    }
    async fn stream_reverse(&self, _: Duration) -> Did {
        self.act("stream_reverse", |w| w.streaming_back = true).await
    }
    async fn undo_arm_reverse(&self, _: Duration) -> Did {
        self.act("undo arm_reverse", |w| w.armed = false).await
    }
    async fn undo_guard(&self, _: Duration) -> Did {
        self.act("undo guard", |w| w.guard = false).await
    }
    async fn undo_pause(&self, switch: &str, _: Duration) -> Did {
        let name = switch.to_owned();
        self.act(&format!("undo pause.{switch}"), |w| {
            w.held.insert(name, false);
        })
        .await
    }
    async fn undo_fence(&self, _: Duration) -> Did {
        self.act("undo fence", |w| w.origin_closed = false).await
    }
    async fn observe(&self, switch: &str, _: Duration) -> Result<Answer, Failure> {
        let mut world = self.world.lock().unwrap();
        world.calls.push((format!("observe.{switch}"), self.began.elapsed()));
        if !self.can_say {
            return Ok(Answer::Said { side: None, paused: None });
        }
        let moved = world.moved.get(switch).copied().unwrap_or(false);
        Ok(Answer::Said {
            side: Some(if moved { Side::Green } else { Side::Blue }),
            paused: Some(world.held.get(switch).copied().unwrap_or(false)),
        })
    }
    async fn release_guard(&self) {
        self.world.lock().unwrap().guard = false;
    }
}

pub(super) fn began(rehearsal: bool) -> Fact {
    Fact::MoveBegan {
        id: "1".into(),
        from: Side::Blue,
        rehearsal,
        budget_ms: 1000,
        switches: vec!["a".into(), "b".into()],
        at_ms: 0,
    }
}

fn limits() -> Limits {
    Limits::new(Duration::from_secs(1))
}

async fn run(ground: &Scripted, start: Fact, goal: Goal) -> Report {
    let mut disk = Disk { fails_at: None, ..ground.disk.clone() };
    let history = disk.facts();
    drive(&mut disk, &history, start, goal, ground, &limits(), &|_| {}).await.unwrap()
}

async fn whole(script: &[(&'static str, &[Act])], rehearsal: bool) -> (Scripted, Report) {
    let ground = Scripted::new(&Disk::default(), script);
    let report = run(&ground, began(rehearsal), Goal::Finished).await;
    (ground, report)
}

// --- tests -----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_move_makes_every_step_once_and_in_order() {
    let (ground, report) = whole(
        &[("fence", &[Act::Takes(7)]), ("drain", &[Act::Takes(9)]), ("point.b", &[Act::Takes(4)])],
        false,
    )
    .await;
    let order = "recheck arm_reverse guard pause.a pause.b fence drain verify counters unfence \
                 point.a point.b stream_reverse";
    assert_eq!(ground.calls(), order.split_whitespace().collect::<Vec<_>>());
    assert_eq!(report.stop, Stop::Ended(Ending::Moved { owner: Side::Green }));
    assert_eq!((report.owner, ground.free_on()), (Side::Green, Some(Side::Green)));
    let pause = report.pause.unwrap();
    assert_eq!(pause.ms().unwrap().round(), 16.0);
    assert_eq!(pause.longest_ms().unwrap().round(), 20.0);
    assert!(report.overruns.is_empty());
    assert_eq!(report.facts, ground.disk.facts(), "the report is what the journal says");
    assert!(!ground.world.lock().unwrap().guard && ground.world.lock().unwrap().streaming_back);
    let steps = durations(&report.facts);
    assert!(steps.contains(&("drain".into(), 9.0)), "{steps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_step_costs_one_append() {
    let (ground, _) = whole(&[], false).await;
    // Begun with recheck, then one per beginning; the decision goes with unfence; the ending.
    assert_eq!(*ground.disk.appends.lock().unwrap(), 12);
    let facts = ground.disk.facts();
    let decided = facts.iter().position(|f| {
        matches!(f, Fact::Step { step: Step::Decide, outcome: Outcome::Done { .. }, .. })
    });
    assert!(decided.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_rehearsal_leaves_nothing_and_measures_the_pause() {
    let (ground, report) = whole(&[("drain", &[Act::Takes(12)])], true).await;
    assert_eq!(report.stop, Stop::Ended(Ending::Rehearsed { owner: Side::Blue }));
    assert_eq!(ground.free_on(), Some(Side::Blue));
    assert_eq!(report.pause.unwrap().ms().unwrap().round(), 12.0);
    let world = ground.world.lock().unwrap();
    assert!(!world.armed && !world.guard && !world.target_open);
    let calls: Vec<_> = world.calls.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(
        calls[9..],
        ["undo fence", "undo pause.a", "undo pause.b", "undo guard", "undo arm_reverse"]
    );
}

#[tokio::test(start_paused = true)]
async fn whatever_hangs_in_the_pause_clients_are_back_within_the_budget() {
    for step in ["pause.a", "pause.b", "fence", "drain", "verify", "counters"] {
        let (ground, report) = whole(&[(step, &[Act::Hangs])], false).await;
        assert_eq!(ground.free_on(), Some(Side::Blue), "{step}");
        let Stop::Ended(Ending::Aborted { step: Some(failed), .. }) = &report.stop else {
            panic!("{step}: {:?}", report.stop)
        };
        assert!(step.starts_with(failed.name()), "{step}");
        let pause = report.pause.unwrap().longest_ms().unwrap();
        assert!((1000.0..1010.0).contains(&pause), "{step}: {pause} ms");
        assert!(!ground.world.lock().unwrap().armed, "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_but_working_pause_is_not_decided_past_its_budget() {
    let slow: &[(&'static str, &[Act])] =
        &[("fence", &[Act::Takes(600)]), ("drain", &[Act::Takes(500)])];
    let (ground, report) = whole(slow, false).await;
    assert_eq!(ground.free_on(), Some(Side::Blue));
    let Stop::Ended(Ending::Aborted { step: Some(Step::Drain), why, .. }) = &report.stop else {
        panic!("{:?}", report.stop)
    };
    assert!(why.contains("1000 ms"), "{why}");
    let (ground, report) =
        whole(&[("fence", &[Act::Takes(600)]), ("drain", &[Act::Takes(300)])], false).await;
    assert_eq!(ground.free_on(), Some(Side::Green));
    assert_eq!(report.pause.unwrap().ms().unwrap().round(), 900.0);
}

#[tokio::test(start_paused = true)]
async fn every_refusal_before_the_decision_ends_where_it_began() {
    for step in [
        "recheck",
        "arm_reverse",
        "guard",
        "pause.a",
        "pause.b",
        "fence",
        "drain",
        "verify",
        "counters",
        "pausing",
    ] {
        let (ground, report) = whole(&[(step, &[Act::Refuses])], false).await;
        assert_eq!(ground.free_on(), Some(Side::Blue), "{step}");
        assert!(matches!(report.stop, Stop::Ended(Ending::Aborted { .. })), "{step}");
        let world = ground.world.lock().unwrap();
        assert!(!world.armed && !world.guard, "{step}");
        let undid_b = world.calls.iter().any(|(n, _)| n == "undo pause.b");
        if step == "pause.b" {
            assert!(!undid_b, "a switch that refused holds nobody");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_decision_it_goes_forward_until_it_works() {
    for step in ["unfence", "point.a", "point.b", "stream_reverse"] {
        let acts = [Act::Refuses, Act::Hangs, Act::Refuses];
        let (ground, report) = whole(&[(step, &acts)], false).await;
        assert_eq!(report.stop, Stop::Ended(Ending::Moved { owner: Side::Green }), "{step}");
        assert_eq!(ground.free_on(), Some(Side::Green), "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_switch_is_asked_and_not_told_twice() {
    let (ground, _) = whole(&[("point.b", &[Act::NoAnswerDone])], false).await;
    let calls = ground.calls();
    assert_eq!(calls.iter().filter(|c| *c == "point.b").count(), 1, "{calls:?}");
    assert!(calls.contains(&"observe.b".to_owned()));
    assert_eq!(ground.free_on(), Some(Side::Green));

    let (ground, _) = whole(&[("point.b", &[Act::NoAnswer])], false).await;
    let calls = ground.calls().join(" ");
    assert!(calls.contains("point.b observe.b point.b"), "{calls}");
    assert_eq!(ground.free_on(), Some(Side::Green));
}

#[tokio::test(start_paused = true)]
async fn a_switch_that_cannot_say_needs_an_operator_and_goes_on_with_the_answer() {
    let mut ground = Scripted::new(&Disk::default(), &[("point.b", &[Act::NoAnswerDone])]);
    ground.can_say = false;
    let report = run(&ground, began(false), Goal::Finished).await;
    let Stop::NeedsOperator { switches, .. } = &report.stop else { panic!("{:?}", report.stop) };
    assert_eq!(switches, &["b"]);
    assert!(!ground.world.lock().unwrap().guard, "the guard must not end us meanwhile");
    let word = Fact::Resolved { owner: Side::Green, at_ms: 0 };
    let report = run(&ground, word, Goal::Finished).await;
    assert_eq!(report.stop, Stop::Ended(Ending::Moved { owner: Side::Green }));
}

#[tokio::test(start_paused = true)]
async fn beginnings_that_do_not_fit_are_refused_and_nothing_is_done() {
    let restarted = Fact::Restarted { by: Process::Run, at_ms: 0 };
    let resolved = Fact::Resolved { owner: Side::Blue, at_ms: 0 };
    let owned_by_green = vec![Fact::Resolved { owner: Side::Green, at_ms: 0 }];
    for (history, start) in [
        (vec![], restarted),
        (vec![], resolved.clone()),
        (vec![began(false)], began(false)),
        (vec![began(false)], resolved),
        (owned_by_green, began(false)),
        (vec![], Fact::Ended { ending: Ending::Moved { owner: Side::Green }, at_ms: 0 }),
    ] {
        let mut disk = Disk::default();
        let ground = Scripted::new(&disk, &[]);
        let refused =
            drive(&mut disk, &history, start.clone(), Goal::Finished, &ground, &limits(), &|_| {})
                .await;
        assert!(refused.is_err(), "{start:?}");
        assert!(ground.calls().is_empty() && disk.facts().is_empty(), "{start:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_journal_fails_at_every_append_and_another_process_ends_it() {
    for rehearsal in [false, true] {
        for fails_at in 1.. {
            let disk = Disk { fails_at: Some(fails_at), ..Disk::default() };
            let mut first = Scripted::new(&disk, &[]);
            first.lenient = true;
            let mut journal = disk.clone();
            let start = began(rehearsal);
            let result =
                drive(&mut journal, &[], start, Goal::Finished, &first, &limits(), &|_| {}).await;
            if result.is_ok() {
                assert!(fails_at > 10, "it failed at {fails_at} appends only");
                break;
            }
            let facts = disk.facts();
            let decided = super::machine::State::of(&facts).decided();
            let unknown = first.calls().contains(&"counters".to_owned()) && !rehearsal;
            if !unknown {
                assert_eq!(first.free_on(), Some(Side::Blue), "append {fails_at}: let go at once");
            }
            // The guard goes on over what is on the disk, then the next run.
            let mut ground =
                Scripted { disk: Disk { fails_at: None, ..disk }, lenient: false, ..first };
            if super::machine::State::of(&facts).is_open() {
                for (by, goal) in
                    [(Process::Guard, Goal::TrafficFree), (Process::Run, Goal::Finished)]
                {
                    let restarted = Fact::Restarted { by, at_ms: 0 };
                    let report = run(&ground, restarted, goal).await;
                    let owner = if decided { Side::Green } else { Side::Blue };
                    assert_eq!(report.owner, owner, "append {fails_at}");
                    assert_eq!(ground.free_on(), Some(owner), "append {fails_at} {by:?}");
                    if by == Process::Guard {
                        let world = ground.world.lock().unwrap();
                        assert!(!world.streaming_back || decided);
                    }
                }
            } else {
                ground.lenient = true;
                assert_eq!(ground.free_on(), Some(Side::Blue));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_that_does_not_reach_the_disk_beside_its_step_lets_the_clients_go() {
    for (loses, step) in [(1, "recheck"), (2, "drain"), (3, "verify"), (4, "counters")] {
        let disk = Disk { loses, ..Disk::default() };
        let ground = Scripted::new(&disk, &[]).lenient();
        let (mut journal, start) = (disk.clone(), began(false));
        let result =
            drive(&mut journal, &[], start, Goal::Finished, &ground, &limits(), &|_| {}).await;
        assert!(result.is_err(), "{step}");
        let calls = ground.calls();
        let last = calls.iter().rfind(|call| !call.starts_with("undo")).unwrap();
        assert_eq!(last, step, "nothing follows from a lost line");
        assert_eq!(ground.free_on(), Some(Side::Blue), "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn switches_are_paused_at_the_same_time() {
    let (ground, report) =
        whole(&[("pause.a", &[Act::Takes(30)]), ("pause.b", &[Act::Takes(30)])], false).await;
    assert_eq!(report.pause.unwrap().ms().unwrap().round(), 30.0);
    assert_eq!(ground.at("pause.a"), ground.at("pause.b"));
}

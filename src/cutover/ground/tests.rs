//! The ground over fakes of the ports: what each step asks of them, and what it makes of no.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cutover_core::{
    model::{
        counter::Counter, finding::Scope, position::Position, run::RunId, schema::TableName,
        selection::Selection, side::Side,
    },
    port::{PortError, Result, primary::Primary as _},
};
use cutover_testkit::{CLOSED_AT, FakeDevice, FakePrimary, Fault, PrimaryCall, SwitchCall};

use super::{
    Ground,
    live::{LiveGround, Parts, Work},
    work::{Awaited, Drained, Pipes, Proof, Readiness, Ready},
};
use crate::{
    cutover::{
        driver::{Goal, Limits, Report, Stop, drive},
        fact::{Ending, Fact, Outcome},
        guard::Summons,
        plan::Step,
    },
    journal::MemoryJournal,
    lag::{Converge, Estimate},
    preflight,
    verify::{Certificate, Verdict},
};

/// The run: everything is ready, everything is equal.
struct Run {
    target: FakePrimary,
    verdict: Mutex<Verdict>,
    missing: Mutex<Option<String>>,
    /// No marker arrives.
    stuck: AtomicBool,
    log: Mutex<Vec<String>>,
}

/// Says when nobody waits any more.
struct Waiting<'a>(&'a Run);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.note("drain given up".into());
    }
}

impl Run {
    fn note(&self, text: String) {
        self.log.lock().unwrap().push(text);
    }
}

fn at(lsn: u64) -> Position {
    Position::Postgres { timeline: 1, lsn }
}

#[async_trait]
impl Pipes for Run {
    async fn arm_reverse(&self, from: Side) -> Result<Position> {
        self.note(format!("armed for {from}"));
        Ok(at(10))
    }

    async fn disarm_reverse(&self, from: Side) -> Result<()> {
        self.note(format!("disarmed for {from}"));
        Ok(())
    }

    fn await_marker(&self, from: Side) -> Awaited {
        let (_, arrived) = tokio::sync::oneshot::channel();
        Awaited { prefix: "cutover", content: format!("closed {from}"), arrived }
    }

    async fn hold_reverse(&self, from: Side, _: Duration) -> Result<()> {
        self.note(format!("held for {from}"));
        Ok(())
    }

    async fn drain(
        &self,
        from: Side,
        written: Option<(Awaited, Position)>,
        _: Duration,
    ) -> Result<Drained> {
        let (marker, position) = written.expect("the marker is written with the closing");
        assert_eq!((marker.content, position), (format!("closed {from}"), CLOSED_AT));
        assert!(!self.target.takes_writes(), "the target is closed while it drains");
        if self.stuck.load(Ordering::Relaxed) {
            let _waiting = Waiting(self);
            std::future::pending::<()>().await;
        }
        self.note(format!("drained {from}"));
        Ok(Drained { position: at(20), took: Duration::from_millis(7) })
    }

    async fn reverse(&self, owner: Side) -> Result<()> {
        self.note(format!("reversed for {owner}"));
        Ok(())
    }
}

#[async_trait]
impl Proof for Run {
    async fn nearly_ready(&self) -> Result<Option<String>> {
        Ok(self.missing.lock().unwrap().clone())
    }

    async fn behind_fence(&self, _: Duration) -> Result<Certificate> {
        Ok(Certificate {
            full_pass: Some(at(5)),
            rows: 42,
            tables: 2,
            changed_rows: 3,
            behind_fence: 1,
            unproven: vec![],
            different: vec![],
            verdict: *self.verdict.lock().unwrap(),
        })
    }
}

#[async_trait]
impl Ready for Run {
    async fn ready(&self, _: Side) -> Result<Readiness> {
        Ok(Readiness {
            preflight: preflight::Report::new(Scope::Move, vec![]),
            lag: None,
            converge: Converge::Ready,
            estimate: Estimate { ms: 20.0, parts: vec![], unknown: vec![] },
        })
    }
}

struct World {
    origin: FakePrimary,
    target: FakePrimary,
    devices: [FakeDevice; 2],
    run: Arc<Run>,
    ground: LiveGround,
}

fn counter(last_value: i64) -> Counter {
    Counter {
        name: TableName::new("public", "orders_id_seq"),
        last_value,
        is_called: true,
        increment: 1,
        cycle: false,
    }
}

fn world() -> World {
    let (origin, target) = (FakePrimary::new(), FakePrimary::new());
    let devices = [FakeDevice::new(Side::Blue), FakeDevice::new(Side::Blue)];
    let run = Arc::new(Run {
        target: target.clone(),
        verdict: Mutex::new(Verdict::Equal),
        missing: Mutex::new(None),
        stuck: AtomicBool::new(false),
        log: Mutex::new(vec![]),
    });
    let ground = LiveGround::new(Parts {
        run: RunId::new("shop").unwrap(),
        from: Side::Blue,
        budget: Duration::from_secs(1),
        selection: Selection::default(),
        switches: vec![Arc::new(devices[0].switch("a")), Arc::new(devices[1].switch("b"))],
        origin: Arc::new(origin.clone()),
        target: Arc::new(target.clone()),
        work: Some(Work { pipes: run.clone(), proof: run.clone(), ready: run.clone() }),
        guard: Some(Summons {
            command: Arc::new(|| {
                let mut command = tokio::process::Command::new("/bin/sh");
                command.arg("-c").arg("read a; echo ready; while read b; do :; done");
                command
            }),
            journal: "/nowhere/moves.journal".into(),
            grace: Duration::from_secs(1),
        }),
    });
    World { origin, target, devices, run, ground }
}

impl World {
    async fn go(&self, rehearsal: bool) -> Report {
        let run = RunId::new("shop").unwrap();
        for side in [&self.origin, &self.target] {
            side.install_fence(&run, &[]).await.unwrap();
        }
        self.target.close_to_clients(&run, Duration::from_secs(1)).await.unwrap();
        self.origin.set_counter(counter(700));
        let began = Fact::MoveBegan {
            id: "1".into(),
            from: Side::Blue,
            rehearsal,
            budget_ms: 1000,
            switches: vec!["a".into(), "b".into()],
            at_ms: 0,
        };
        let mut journal = MemoryJournal::default();
        let limits = Limits::new(Duration::from_secs(1));
        drive(&mut journal, &[], began, Goal::Finished, &self.ground, &limits, &|_| {})
            .await
            .unwrap()
    }

    fn sides(&self) -> [Side; 2] {
        [0, 1].map(|i| self.devices[i].gate().observe().0)
    }

    fn held(&self) -> bool {
        self.devices.iter().any(|d| d.gate().observe().1)
    }

    fn free_on(&self, side: Side) -> bool {
        self.sides() == [side; 2]
            && !self.held()
            && self.origin.takes_writes() == (side == Side::Blue)
            && self.target.takes_writes() == (side == Side::Green)
    }
}

#[tokio::test]
async fn a_whole_move_over_the_ports() {
    let world = world();
    let report = world.go(false).await;
    assert_eq!(report.stop, Stop::Ended(Ending::Moved { owner: Side::Green }), "{report:#?}");
    assert!(world.free_on(Side::Green));
    assert_eq!(
        *world.run.log.lock().unwrap(),
        ["armed for blue", "held for blue", "drained blue", "reversed for green"]
    );
    let counters = world.target.counters(&Selection::default()).await.unwrap();
    assert_eq!(counters, [counter(700)], "sequences go on where they were");
    // Everything was warm before anybody was held, and counters are read right behind the fence.
    let calls = world.origin.faults().calls();
    let place = |call: PrimaryCall| calls.iter().position(|c| *c == call).unwrap();
    assert!(place(PrimaryCall::WarmUp) < place(PrimaryCall::Close));
    assert_eq!(calls.iter().filter(|c| **c == PrimaryCall::Counters).count(), 1);
    for device in &world.devices {
        let calls = device.faults().calls();
        let place = |call: SwitchCall| calls.iter().position(|c| *c == call).unwrap();
        assert!(place(SwitchCall::WarmUp) < place(SwitchCall::Pause));
        assert!(place(SwitchCall::Pause) < place(SwitchCall::PointAt(Side::Green)));
    }
    // What the journal says of positions and proof.
    let told = serde_json::to_string(&report.facts).unwrap();
    for word in ["0/14 (timeline 1)", "marker_ms", "\"rows\":42", "\"counters\":1", "0/A"] {
        assert!(told.contains(word), "{word}");
    }
}

#[tokio::test]
async fn a_rehearsal_leaves_everything_as_it_was() {
    let world = world();
    let report = world.go(true).await;
    assert_eq!(report.stop, Stop::Ended(Ending::Rehearsed { owner: Side::Blue }));
    assert!(world.free_on(Side::Blue));
    assert!(report.pause.unwrap().ms().is_some());
    assert_eq!(world.run.log.lock().unwrap().last().unwrap(), "disarmed for blue");
    // Also what a crash before the pause may have left is put back.
    let calls = world.devices[0].faults().calls();
    let place = |call: SwitchCall| calls.iter().rposition(|c| *c == call).unwrap();
    assert!(place(SwitchCall::WarmUp) > place(SwitchCall::PointAt(Side::Blue)), "{calls:?}");
}

#[tokio::test]
async fn every_no_before_the_decision_leaves_the_traffic_where_it_was() {
    type Spoil = fn(&World);
    let cases: [(&str, Spoil, Step); 10] = [
        (
            "not proven",
            |w| *w.run.missing.lock().unwrap() = Some("no full comparison".into()),
            Step::Recheck,
        ),
        (
            "no warm session",
            |w| w.origin.faults().push(PrimaryCall::WarmUp, Fault::Refuse("no".into())),
            Step::Recheck,
        ),
        (
            "a switch that does not answer",
            |w| w.devices[1].faults().push(SwitchCall::Observe, Fault::Refuse("no".into())),
            Step::Recheck,
        ),
        (
            "a switch that points elsewhere",
            |w| w.devices[1].gate().point_at(Side::Green),
            Step::Recheck,
        ),
        (
            "one switch refuses to pause",
            |w| w.devices[1].faults().push(SwitchCall::Pause, Fault::Refuse("no".into())),
            Step::Pause,
        ),
        (
            "one switch pauses and does not say so",
            |w| w.devices[1].faults().push(SwitchCall::Pause, Fault::Ambiguous { happens: true }),
            Step::Pause,
        ),
        (
            "the fence fails",
            |w| w.origin.faults().push(PrimaryCall::Close, Fault::Refuse("no".into())),
            Step::Fence,
        ),
        (
            "the fence closes and does not say so",
            |w| w.origin.faults().push(PrimaryCall::Close, Fault::Ambiguous { happens: true }),
            Step::Fence,
        ),
        ("rows differ", |w| *w.run.verdict.lock().unwrap() = Verdict::Different, Step::Verify),
        (
            "counters cannot be set",
            |w| w.target.faults().push(PrimaryCall::Advance, Fault::Refuse("no".into())),
            Step::Counters,
        ),
    ];
    for (name, spoil, want) in cases {
        let world = world();
        spoil(&world);
        let report = world.go(false).await;
        let Stop::Ended(Ending::Aborted { step, .. }) = report.stop else {
            panic!("{name}: {:?}", report.stop)
        };
        assert_eq!(step, Some(want), "{name}");
        if name == "a switch that points elsewhere" {
            world.devices[1].gate().point_at(Side::Blue);
        }
        assert!(world.free_on(Side::Blue), "{name}");
    }
}

#[tokio::test]
async fn an_inconclusive_comparison_is_not_equal() {
    let world = world();
    *world.run.verdict.lock().unwrap() = Verdict::Inconclusive;
    let report = world.go(false).await;
    let failed = report.facts.iter().any(|f| {
        matches!(f, Fact::Step { step: Step::Verify, outcome: Outcome::Failed { code: Some(c), .. }, .. }
            if c == "CUT0733")
    });
    assert!(failed && world.free_on(Side::Blue));
}

#[tokio::test]
async fn counters_that_could_not_be_read_ahead_are_read_again() {
    let world = world();
    world.origin.faults().push(PrimaryCall::Counters, Fault::Refuse("busy".into()));
    assert!(matches!(world.go(false).await.stop, Stop::Ended(Ending::Moved { .. })));
    let calls = world.origin.faults().calls();
    assert_eq!(calls.iter().filter(|c| **c == PrimaryCall::Counters).count(), 2);
}

/// It is begun ahead of its step, and must not go on when the move has been taken back.
#[tokio::test]
async fn a_drain_that_does_not_end_is_given_up_with_the_move() {
    let world = world();
    world.run.stuck.store(true, Ordering::Relaxed);
    let report = world.go(false).await;
    let Stop::Ended(Ending::Aborted { step, .. }) = report.stop else {
        panic!("{:?}", report.stop)
    };
    assert_eq!(step, Some(Step::Drain));
    assert!(world.free_on(Side::Blue));
    assert_eq!(
        *world.run.log.lock().unwrap(),
        ["armed for blue", "held for blue", "drain given up", "disarmed for blue"]
    );
}

#[tokio::test]
async fn what_no_log_carries_is_found_behind_the_fence() {
    let world = world();
    world.origin.set_unfollowed(1);
    let report = world.go(false).await;
    let found = report.facts.iter().any(|f| {
        matches!(f, Fact::Step { step: Step::Counters, outcome: Outcome::Failed { code: Some(c), .. }, .. }
            if c == "CUT0130")
    });
    assert!(found && world.free_on(Side::Blue), "{:?}", report.facts);
}

#[tokio::test]
async fn a_process_without_streams_can_free_the_traffic_and_nothing_else() {
    let world = world();
    let run = RunId::new("shop").unwrap();
    world.origin.install_fence(&run, &[]).await.unwrap();
    world.origin.close_to_clients(&run, Duration::from_secs(1)).await.unwrap();
    let ground = LiveGround::new(Parts {
        run,
        from: Side::Blue,
        budget: Duration::from_secs(1),
        selection: Selection::default(),
        switches: vec![Arc::new(world.devices[0].switch("a"))],
        origin: Arc::new(world.origin.clone()),
        target: Arc::new(world.target.clone()),
        work: None,
        guard: None,
    });
    let within = Duration::from_secs(1);
    assert_eq!(ground.drain(within).await.unwrap_err().code.as_deref(), Some("CUT0737"));
    assert!(ground.start_guard(within).await.is_err());
    assert!(ground.pausing(within).await.is_err());
    ground.warm_up().await.unwrap();
    ground.undo_fence(within).await.unwrap();
    ground.undo_pause("a", within).await.unwrap();
    assert!(world.origin.takes_writes());
    let unknown = ground.undo_pause("gone", within).await.unwrap_err();
    assert_eq!(unknown.code.as_deref(), Some("CUT0736"));
}

#[test]
fn what_a_port_says_is_kept() {
    let failure = super::Failure::from(
        PortError::definite("CUT0501", "closing", "held", "wait")
            .caused_by(std::io::Error::other("locked")),
    );
    assert_eq!(failure.why, "CUT0501: closing: held: locked");
    assert_eq!(failure.remedy.as_deref(), Some("wait"));
    assert!(!failure.ambiguous);
}

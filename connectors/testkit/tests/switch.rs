//! The contract of switches passes on a sound switch and fails on unsound ones.

use std::{sync::Arc, thread, time::Duration};

use async_trait::async_trait;
use cutover_core::{
    model::{
        finding::{Finding, Severity},
        side::Side,
    },
    port::switch::{Routing, SwitchError, TrafficSwitch},
};
use cutover_testkit::{
    FakeDevice, Fault, Ledger, LineClient, Redirector, SwitchCall,
    contract::switch::{self, Client, SwitchHarness},
};
use tokio::runtime::Builder;

/// A defect of a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    None,
    /// Says "paused" and holds nobody.
    PauseHoldsNobody,
    /// Does not wait for writes in flight.
    PauseDoesNotWait,
    /// Clients stay held after a refusal.
    RefusalHolds,
    /// Says "refused" where nobody knows.
    CertainWithoutAnswer,
    /// Moves, and lets nobody through.
    PointKeepsHolding,
    /// Says "done" and does nothing.
    PointDoesNothing,
    /// Remembers instead of asking.
    ObservesItself,
}

/// A switch in the same process, over the gate of a redirector.
struct Direct {
    rig: Arc<Rig>,
    defect: Defect,
    remembers: std::sync::Mutex<(Side, bool)>,
}

struct Rig {
    blue: Ledger,
    green: Ledger,
    device: Redirector,
    defect: Defect,
    there: tokio::sync::watch::Sender<bool>,
}

impl Direct {
    async fn there(&self, what: &str) -> Result<(), SwitchError> {
        let (switch, what) = (self.name().to_owned(), what.to_owned());
        if !*self.rig.there.borrow() {
            return Err(SwitchError::Refused { switch, what, source: None });
        }
        let awake = tokio::time::timeout(Duration::from_millis(500), self.rig.device.awake());
        if awake.await.is_err() {
            return Err(match self.defect {
                Defect::CertainWithoutAnswer => SwitchError::Refused { switch, what, source: None },
                _ => SwitchError::Ambiguous { switch, what, source: None },
            });
        }
        Ok(())
    }
}

#[async_trait]
impl TrafficSwitch for Direct {
    fn name(&self) -> &str {
        "direct[0]"
    }

    fn describe(&self, side: Side) -> String {
        side.to_string()
    }

    async fn observe(&self) -> Result<Routing, SwitchError> {
        self.there("observe").await?;
        let (side, paused) = match self.defect {
            Defect::ObservesItself => *self.remembers.lock().unwrap(),
            _ => self.rig.device.gate().observe(),
        };
        Ok(Routing { side: Some(side), paused: Some(paused) })
    }

    async fn pause(&self, within: Duration) -> Result<(), SwitchError> {
        self.there("pause").await?;
        let gate = self.rig.device.gate();
        match self.defect {
            Defect::PauseHoldsNobody => return Ok(()),
            Defect::PauseDoesNotWait => {
                let paused = gate.pause(within).await;
                assert!(paused || gate.in_flight() > 0);
                return Ok(());
            }
            _ => {}
        }
        if gate.pause(within).await {
            self.remembers.lock().unwrap().1 = true;
            return Ok(());
        }
        if self.defect == Defect::RefusalHolds {
            // Waits for the write in flight and holds all others.
            let gate = Arc::clone(gate);
            tokio::spawn(async move { gate.pause(Duration::from_secs(60)).await });
        }
        let what = "a write stays in flight".to_owned();
        Err(SwitchError::Refused { switch: self.name().to_owned(), what, source: None })
    }

    async fn point_at(&self, side: Side) -> Result<(), SwitchError> {
        self.there("point").await?;
        *self.remembers.lock().unwrap() = (side, false);
        let gate = self.rig.device.gate();
        match self.defect {
            Defect::PointDoesNothing => gate.point_at(gate.observe().0),
            Defect::PointKeepsHolding => {
                gate.point_at(side);
                gate.pause(Duration::ZERO).await;
            }
            _ => gate.point_at(side),
        }
        Ok(())
    }

    async fn examine(&self) -> Vec<Finding> {
        let gone = Finding {
            code: "CUT0000".into(),
            severity: Severity::Error,
            place: self.name().into(),
            what: "gone".into(),
            remedy: "start it".into(),
        };
        self.there("examine").await.map_or_else(|_| vec![gone], |()| Vec::new())
    }
}

struct Lines(LineClient);

#[async_trait]
impl Client for Lines {
    async fn write(&mut self) -> Result<Side, String> {
        side(self.0.ask("write").await)
    }

    async fn begin(&mut self) -> Result<(), String> {
        self.0.ask("open").await.map(drop).map_err(|error| error.to_string())
    }

    async fn finish(&mut self) -> Result<Side, String> {
        side(self.0.ask("close").await)
    }
}

fn side(answer: std::io::Result<String>) -> Result<Side, String> {
    match &*answer.map_err(|error| error.to_string())? {
        "blue" => Ok(Side::Blue),
        "green" => Ok(Side::Green),
        other => Err(other.to_owned()),
    }
}

struct Harness(Arc<Rig>);

#[async_trait(?Send)]
impl SwitchHarness for Harness {
    fn switch(&self) -> Arc<dyn TrafficSwitch> {
        Arc::new(Direct {
            rig: Arc::clone(&self.0),
            defect: self.0.defect,
            remembers: std::sync::Mutex::new((Side::Blue, false)),
        })
    }

    async fn client(&self) -> Box<dyn Client> {
        Box::new(Lines(LineClient::connect(self.0.device.clients()).await.unwrap()))
    }

    async fn in_flight(&self) -> usize {
        self.0.blue.in_flight() + self.0.green.in_flight()
    }

    async fn written(&self, side: Side) -> u64 {
        match side {
            Side::Blue => self.0.blue.written(),
            Side::Green => self.0.green.written(),
        }
    }

    async fn stop(&self) {
        self.0.there.send_replace(false);
    }

    async fn start(&self) {
        self.0.there.send_replace(true);
    }

    async fn freeze(&self) {
        self.0.device.freeze(true);
    }

    async fn thaw(&self) {
        self.0.device.freeze(false);
    }
}

async fn rig(defect: Defect) -> Harness {
    let (blue, green) =
        (Ledger::start(Side::Blue).await.unwrap(), Ledger::start(Side::Green).await.unwrap());
    let device = Redirector::start(&blue, &green).await.unwrap();
    let there = tokio::sync::watch::Sender::new(true);
    Harness(Arc::new(Rig { blue, green, device, defect, there }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_switch_passes() {
    switch::check(&rig(Defect::None).await).await;
}

/// Runs one part of the contract where its panic can be caught.
fn breaks(defect: Defect, part: &'static str) -> thread::JoinHandle<()> {
    let run = move || {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let harness = rig(defect).await;
            match part {
                "moves" => switch::moves_there_and_back(&harness).await,
                "refuses" => switch::a_pause_that_cannot_be_had(&harness).await,
                "crash" => switch::a_caller_that_dies_in_a_pause(&harness).await,
                _ => switch::a_device_that_does_not_answer(&harness).await,
            }
        });
    };
    thread::spawn(run)
}

#[test]
fn unsound_switches_do_not() {
    // Together: most of the time goes into waiting for what does not come.
    let all = [
        (Defect::PauseHoldsNobody, "moves"),
        (Defect::PauseDoesNotWait, "refuses"),
        (Defect::RefusalHolds, "refuses"),
        (Defect::CertainWithoutAnswer, "frozen"),
        (Defect::PointKeepsHolding, "crash"),
        (Defect::PointDoesNothing, "moves"),
        (Defect::ObservesItself, "crash"),
    ];
    for (defect, part, test) in all.map(|(defect, part)| (defect, part, breaks(defect, part))) {
        assert!(test.join().is_err(), "{defect:?} passes {part:?}");
    }
}

#[tokio::test]
async fn the_fake_switch_does_what_is_ordered() {
    let device = FakeDevice::new(Side::Blue);
    let switch = device.switch("fake[0]");
    let limit = Duration::from_millis(20);
    device.faults().push(SwitchCall::Pause, Fault::Refuse("busy".into()));
    device.faults().push(SwitchCall::PointAt(Side::Green), Fault::Ambiguous { happens: true });
    device.faults().push(SwitchCall::Observe, Fault::Hang { happens: false });
    let refused = switch.pause(limit).await.unwrap_err();
    assert_eq!(refused.to_string(), "fake[0] refused: busy");
    switch.pause(limit).await.unwrap();
    assert_eq!(device.gate().observe(), (Side::Blue, true));
    let unknown = switch.point_at(Side::Green).await.unwrap_err();
    assert!(matches!(unknown, SwitchError::Ambiguous { .. }));
    assert!(tokio::time::timeout(limit, switch.observe()).await.is_err(), "no hang");
    let after_restart = device.switch("fake[0]").observe().await.unwrap();
    assert_eq!(after_restart, Routing { side: Some(Side::Green), paused: Some(false) });
    assert_eq!(device.faults().left(), 0);
    let pass = device.gate().enter().await;
    assert!(switch.pause(limit).await.is_err(), "a write is in flight");
    drop(pass);
}

//! What every traffic switch promises, seen by clients that write all the time.
//!
//! [`check`] runs it all against a device that points at blue and lets writes flow, and leaves it
//! so. What the device is and how clients write is up to the [`SwitchHarness`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use cutover_core::{
    model::side::Side,
    port::switch::{Routing, SwitchError, TrafficSwitch},
};

use super::traffic::{Traffic, longest, went_to};
use crate::{wait_until, within};

/// How long anything may take that should take no time, on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// How long a pause may take that nothing hinders.
const AMPLE: Duration = Duration::from_secs(30);

/// How long a pause may take that cannot succeed.
const SHORT: Duration = Duration::from_millis(300);

/// How long to watch that nothing happens.
const WATCH: Duration = Duration::from_millis(150);

/// Clients that write while switches are tried.
const CLIENTS: usize = 8;

/// A client of the databases behind the device. It connects through the device only.
#[async_trait]
pub trait Client: Send {
    /// One write; the side that has it.
    async fn write(&mut self) -> Result<Side, String>;

    /// Begins a write and leaves it in flight.
    async fn begin(&mut self) -> Result<(), String>;

    /// Finishes what [`Client::begin`] began; the side that has it.
    async fn finish(&mut self) -> Result<Side, String>;
}

/// A device with clients in front and two databases behind it.
#[async_trait(?Send)]
pub trait SwitchHarness {
    /// A new switch object for the device, as a process has after a restart.
    fn switch(&self) -> Arc<dyn TrafficSwitch>;

    /// A new client.
    async fn client(&self) -> Box<dyn Client>;

    /// Writes of clients that are in flight, as the databases themselves say.
    async fn in_flight(&self) -> usize;

    /// Writes of clients that a database has, as it says itself.
    async fn written(&self, side: Side) -> u64;

    /// Takes the device away: nobody listens. Its clients may fail.
    async fn stop(&self);

    /// Brings it back, pointing where it did, not paused.
    async fn start(&self);

    /// The device is there and answers nobody.
    async fn freeze(&self);

    /// It answers again.
    async fn thaw(&self);
}

/// How long things took in one move there and back.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Times of [`TrafficSwitch::pause`].
    pub pauses: Vec<Duration>,
    /// Times of [`TrafficSwitch::point_at`] after a pause.
    pub points: Vec<Duration>,
    /// From the end of `point_at` to the first write on the new side.
    pub first_writes: Vec<Duration>,
    /// The longest write of any client.
    pub longest_write: Duration,
}

/// Runs the whole contract.
///
/// # Panics
///
/// When a promise is broken, saying which.
pub async fn check(harness: &dyn SwitchHarness) {
    moves_there_and_back(harness).await;
    a_pause_that_cannot_be_had(harness).await;
    a_caller_that_dies_in_a_pause(harness).await;
    a_caller_that_gives_up_waiting(harness).await;
    a_device_that_is_not_there(harness).await;
    a_device_that_does_not_answer(harness).await;
}

/// Writes are held, move, flow, and repeating anything is harmless.
///
/// # Panics
///
/// When a promise is broken.
pub async fn moves_there_and_back(harness: &dyn SwitchHarness) {
    let switch = harness.switch();
    observes(&*switch, Side::Blue, false, "at first").await;
    let traffic = Traffic::start(harness, CLIENTS).await;
    let begun = Instant::now();
    switch.warm_up().await.expect("warm_up");
    switch.point_at(Side::Blue).await.expect("point_at where it points already");
    traffic.flows(Instant::now()).await;
    let mut old_until = begun;
    for side in [Side::Green, Side::Blue] {
        switch.pause(AMPLE).await.expect("pause");
        let paused = Instant::now();
        went_to(&traffic.finished(old_until, paused), side.other(), "before the pause");
        let left = written(harness).await;
        let late = held(harness).await;
        observes(&*switch, side.other(), true, "paused").await;
        switch.pause(AMPLE).await.expect("pause when paused already");
        observes(&*harness.switch(), side.other(), true, "paused twice").await;
        assert_eq!(written(harness).await, left, "writes went through a pause");

        switch.point_at(side).await.expect("point_at");
        traffic.flows(Instant::now()).await;
        observes(&*switch, side, false, "after point_at").await;
        let written = within("a held client", PATIENCE, late).await.expect("a task");
        assert_eq!(written, Ok(side), "a client that came during the pause");
        switch.point_at(side).await.expect("point_at again");
        traffic.flows(Instant::now()).await;
        observes(&*harness.switch(), side, false, "after point_at again").await;
        let old = harness.written(side.other()).await;
        let before = if side == Side::Green { left.0 } else { left.1 };
        assert_eq!(old, before, "writes reached {} after the pause", side.other());
        old_until = Instant::now();
    }
    // Without a pause new writes move as well.
    for side in [Side::Green, Side::Blue] {
        switch.point_at(side).await.expect("point_at without a pause");
        let moved = Instant::now();
        traffic.flows(moved).await;
        went_to(&traffic.began_after(moved), side, "after point_at without a pause");
    }
    traffic.stop().await;
}

/// A write that stays in flight: refused, and clients flow on.
///
/// # Panics
///
/// When a promise is broken.
pub async fn a_pause_that_cannot_be_had(harness: &dyn SwitchHarness) {
    let switch = harness.switch();
    let traffic = Traffic::start(harness, CLIENTS - 1).await;
    switch.warm_up().await.expect("warm_up");
    let mut open = harness.client().await;
    open.begin().await.expect("begin");
    // Twice, so that nothing is left of the first.
    for _ in 0..2 {
        let begun = Instant::now();
        let error = switch.pause(SHORT).await.expect_err("a pause with a write in flight");
        let took = begun.elapsed();
        assert!(matches!(error, SwitchError::Refused { .. }), "not Refused: {error:?}");
        assert!(took < SHORT + Duration::from_secs(5), "took {took:?} where {SHORT:?} was allowed");
        traffic.flows(Instant::now()).await;
        observes(&*harness.switch(), Side::Blue, false, "after a pause that failed").await;
    }
    assert_eq!(open.finish().await, Ok(Side::Blue), "the write in flight");
    // And what was refused is possible now.
    switch.pause(AMPLE).await.expect("pause after a refusal");
    switch.point_at(Side::Blue).await.expect("point_at");
    traffic.flows(Instant::now()).await;
    went_to(&traffic.stop().await, Side::Blue, "no move");
}

/// Whoever comes after a crash can see the pause and end it, either way.
///
/// # Panics
///
/// When a promise is broken.
pub async fn a_caller_that_dies_in_a_pause(harness: &dyn SwitchHarness) {
    let traffic = Traffic::start(harness, CLIENTS).await;
    for (before, after) in
        [(Side::Blue, Side::Blue), (Side::Blue, Side::Green), (Side::Green, Side::Blue)]
    {
        let first = harness.switch();
        first.warm_up().await.expect("warm_up");
        first.pause(AMPLE).await.expect("pause");
        drop(first);
        let second = harness.switch();
        observes(&*second, before, true, "after a crash in a pause").await;
        second.point_at(after).await.expect("point_at by another object");
        let moved = Instant::now();
        traffic.flows(moved).await;
        went_to(&traffic.began_after(moved), after, "after a repair");
        observes(&*second, after, false, "after a repair").await;
    }
    traffic.stop().await;
}

/// A pause whose future is dropped ends by itself, or can be ended.
///
/// # Panics
///
/// When a promise is broken.
pub async fn a_caller_that_gives_up_waiting(harness: &dyn SwitchHarness) {
    let traffic = Traffic::start(harness, CLIENTS - 1).await;
    let mut open = harness.client().await;
    open.begin().await.expect("begin");
    let first = harness.switch();
    first.warm_up().await.expect("warm_up");
    let given_up = tokio::time::timeout(SHORT / 3, first.pause(SHORT * 2)).await;
    assert!(given_up.is_err(), "a pause with a write in flight returned: {given_up:?}");
    drop(first);
    let second = harness.switch();
    within("another object frees clients", PATIENCE, async {
        second.point_at(Side::Blue).await.expect("point_at while a pause is waiting");
        traffic.flows(Instant::now()).await;
    })
    .await;
    assert_eq!(open.finish().await, Ok(Side::Blue), "the write in flight");
    // The abandoned pause must not come back and hold clients.
    let over = Instant::now() + SHORT * 2 + WATCH;
    wait_until("the time of the abandoned pause", PATIENCE, async || Instant::now() > over).await;
    within("what is left can be ended", PATIENCE, async {
        second.point_at(Side::Blue).await.expect("point_at");
        traffic.flows(Instant::now()).await;
    })
    .await;
    observes(&*second, Side::Blue, false, "after an abandoned pause").await;
    went_to(&traffic.stop().await, Side::Blue, "no move");
}

/// Nothing can be sent: refused, and nothing has changed.
///
/// # Panics
///
/// When a promise is broken.
pub async fn a_device_that_is_not_there(harness: &dyn SwitchHarness) {
    harness.stop().await;
    let switch = harness.switch();
    within("an absent device", PATIENCE, async {
        switch.observe().await.expect_err("observe of an absent device");
        for error in [
            switch.pause(SHORT).await.expect_err("pause of an absent device"),
            switch.point_at(Side::Green).await.expect_err("point_at of an absent device"),
        ] {
            assert!(matches!(error, SwitchError::Refused { .. }), "not Refused: {error:?}");
        }
        assert!(!switch.examine().await.is_empty(), "examine of an absent device finds nothing");
    })
    .await;
    harness.start().await;
    let traffic = Traffic::start(harness, 2).await;
    observes(&*switch, Side::Blue, false, "back again").await;
    went_to(&traffic.stop().await, Side::Blue, "no move");
}

/// A question without an answer: ambiguous, in bounded time, and repaired by stating the target.
///
/// # Panics
///
/// When a promise is broken.
pub async fn a_device_that_does_not_answer(harness: &dyn SwitchHarness) {
    let switch = harness.switch();
    switch.warm_up().await.expect("warm_up");
    observes(&*switch, Side::Blue, false, "at first").await;
    harness.freeze().await;
    within("a device that does not answer", PATIENCE, async {
        let error = switch.pause(SHORT).await.expect_err("pause of a frozen device");
        assert!(matches!(error, SwitchError::Ambiguous { .. }), "not Ambiguous: {error:?}");
    })
    .await;
    harness.thaw().await;
    let second = harness.switch();
    wait_until("it answers again", PATIENCE, async || second.observe().await.is_ok()).await;
    second.point_at(Side::Blue).await.expect("point_at after a thaw");
    let traffic = Traffic::start(harness, 2).await;
    observes(&*second, Side::Blue, false, "after a thaw").await;
    went_to(&traffic.stop().await, Side::Blue, "no move");
}

/// Measures `moves` moves, there and back in turn, under `clients` clients.
///
/// # Panics
///
/// When a write fails.
pub async fn measure(harness: &dyn SwitchHarness, clients: usize, moves: usize) -> Measured {
    let switch = harness.switch();
    let traffic = Traffic::start(harness, clients).await;
    let mut measured = Measured::default();
    for number in 0..moves {
        let side = if number % 2 == 0 { Side::Green } else { Side::Blue };
        switch.warm_up().await.expect("warm_up");
        traffic.flows(Instant::now()).await;
        let begun = Instant::now();
        switch.pause(AMPLE).await.expect("pause");
        let paused = Instant::now();
        switch.point_at(side).await.expect("point_at");
        let pointed = Instant::now();
        traffic.flows(pointed).await;
        let first = traffic.finished(paused, Instant::now()).iter().map(|write| write.ended).min();
        measured.pauses.push(paused - begun);
        measured.points.push(pointed - paused);
        measured
            .first_writes
            .push(first.map(|at| at.saturating_duration_since(pointed)).unwrap_or_default());
    }
    measured.longest_write = longest(&traffic.stop().await);
    measured
}

/// A pause holds: nothing in flight, nothing finished, and a new client waits.
async fn held(harness: &dyn SwitchHarness) -> tokio::task::JoinHandle<Result<Side, String>> {
    assert_eq!(harness.in_flight().await, 0, "writes in flight after a pause");
    let mut client = within("a client comes during a pause", PATIENCE, harness.client()).await;
    let mut late = tokio::spawn(async move { client.write().await });
    let early = tokio::time::timeout(WATCH, &mut late).await;
    assert!(early.is_err(), "a new client got through a pause: {early:?}");
    late
}

/// Counted by the databases: what a client has noticed yet says nothing.
async fn written(harness: &dyn SwitchHarness) -> (u64, u64) {
    (harness.written(Side::Blue).await, harness.written(Side::Green).await)
}

/// The device says where writes go, and whether they are held.
#[track_caller]
fn observes<'a>(
    switch: &'a dyn TrafficSwitch,
    side: Side,
    paused: bool,
    when: &'a str,
) -> impl Future<Output = ()> + 'a {
    let place = std::panic::Location::caller();
    async move {
        let now = switch.observe().await;
        let want = Routing { side: Some(side), paused: Some(paused) };
        assert!(matches!(now, Ok(now) if now == want), "{place}: {when}: {now:?}, not {want:?}");
    }
}

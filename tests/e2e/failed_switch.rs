//! Switches that are not there, say no, say nothing, or cannot be asked; and a full disk, which
//! keeps the program from writing down what it asks of them.
#![allow(clippy::print_stderr, reason = "a story that cannot be told here says so")]

use std::fs;

use cutover_core::model::side::Side;
use cutover_sandbox::{shop::Load, wait_until};
use serde_json::Value;

use crate::{
    program::{COMMAND_WITHIN, Desk, Run, can_fill_disks, limit_files, processes},
    world::{Options, SERVED_WITHIN, World},
};

/// A device with its memory in files: `side` and `paused` beside this program. What `behave` says
/// for an action is done before: `refuse`, `hang`, `shrug-paused`, which shrugs once it was paused, or
/// `refuse-twice`; `mute` does what is asked and never says so. What was asked is in `calls`.
const DEVICE: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
read -r question
echo "$CUTOVER_ACTION" >>calls
mute=
case $(sed -n "s/^$CUTOVER_ACTION //p" behave) in
refuse) echo "not today" >&2; exit 1 ;;
hang) exec sleep 60 ;;
mute) mute=yes ;;
shrug-paused) [ "$(cat paused)" = false ] || { echo '{"side": null, "paused": null}'; exit 0; } ;;
refuse-twice)
    echo x >>"refused-$CUTOVER_ACTION"
    [ "$(wc -l <"refused-$CUTOVER_ACTION")" -gt 2 ] || { echo "not yet" >&2; exit 1; } ;;
esac
case $CUTOVER_ACTION in
observe) printf '{"side": "%s", "paused": %s}\n' "$(cat side)" "$(cat paused)" ;;
pause) echo true >paused ;;
point_at) echo "$CUTOVER_SIDE" >side; echo false >paused ;;
examine) echo '{"findings": []}' ;;
esac
[ -z "$mute" ] || exec sleep 60
"#;

/// A world with two switches: the pooler that clients use, and a device of ours.
pub(crate) struct TwoSwitches {
    pub(crate) world: World,
    pub(crate) load: Load,
    pub(crate) run: Run,
}

impl TwoSwitches {
    pub(crate) async fn new() -> Self {
        let device = "  - command: { argv: [/bin/sh, FOLDER/device.sh], timeout: 1s }\n";
        let world =
            World::with(Options { more_switches: device.into(), ..Options::default() }).await;
        for (name, text) in
            [("device.sh", DEVICE), ("side", "blue\n"), ("paused", "false\n"), ("behave", "\n")]
        {
            fs::write(world.desk.folder().join(name), text).expect("a file");
        }
        let load = world.load();
        let mut run = world.desk.run();
        run.ready().await;
        Self { world, load, run }
    }

    pub(crate) fn behave(&self, text: &str) {
        fs::write(self.world.desk.folder().join("behave"), text).expect("a file");
    }

    pub(crate) fn device(&self) -> (String, String) {
        let read = |name| {
            let text = fs::read_to_string(self.world.desk.folder().join(name)).expect("a file");
            text.trim().to_owned()
        };
        (read("side"), read("paused"))
    }

    pub(crate) async fn is_on(&self, owner: Side) {
        self.world.traffic_flows(&self.load, SERVED_WITHIN).await;
        self.world.only_takes_writes(owner).await;
        assert_eq!(self.device(), (owner.as_str().to_owned(), "false".to_owned()));
    }
}

/// Waits until the journal of moves holds such a fact.
pub(crate) async fn comes_to(desk: &Desk, such: impl Fn(&Value) -> bool) {
    wait_until("the move to come so far", COMMAND_WITHIN, async || {
        let facts = desk.facts("moves.journal");
        let rehearsed = facts.iter().rposition(|f| f["ending"]["ending"] == "rehearsed");
        facts.iter().skip(rehearsed.map_or(0, |at| at + 1)).any(&such)
    })
    .await
    .expect("it does");
}

/// Waits until the run asks for an operator.
async fn is_undecided(desk: &Desk) {
    wait_until("an operator to be asked for", COMMAND_WITHIN, async || {
        desk.ask(&["status"]).await.said.contains("CUT0718")
    })
    .await
    .expect("it is asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_does_not_pause_leaves_everything_on_blue() {
    let mut two = TwoSwitches::new().await;
    for behave in ["pause refuse", "pause hang"] {
        two.behave(behave);
        two.world.desk.refuses("switch", "command[0]").await;
        two.is_on(Side::Blue).await;
        two.run.ready().await;
    }
    // A device that is gone before the move is found before any client waits.
    two.behave("observe refuse");
    let refused = two.world.desk.refuses("switch", "command[0]").await;
    assert!(refused.value["pause_ms"].is_null(), "{}", refused.said);
    two.is_on(Side::Blue).await;

    two.behave("");
    two.run.ready().await;
    two.world.desk.moves("switch").await.exits(0);
    two.is_on(Side::Green).await;
    two.world.close_the_books(two.load, Side::Green).await;
}

/// Each attempt may hold clients for as long as a pause may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_a_run_makes_by_itself_is_not_tried_again_at_once() {
    let mut two = TwoSwitches::new().await;
    assert!(two.run.terminate().await.success());
    two.behave("pause refuse");
    two.run = two.world.desk.run_with(&["--until", "switched"]);
    let times = |facts: &[Value], name: &str| -> Vec<i64> {
        let such = facts.iter().filter(|f| f["fact"] == name);
        such.filter_map(|f| f["at_ms"].as_i64()).collect()
    };
    let desk = &two.world.desk;
    wait_until("a second move", COMMAND_WITHIN, async || {
        times(&desk.facts("moves.journal"), "ended").len() > 1
    })
    .await
    .expect("it is tried again");
    let facts = desk.facts("moves.journal");
    let (began, ended) = (times(&facts, "move_began"), times(&facts, "ended"));
    let rest = began[1] - ended[0];
    assert!(rest >= 9_000, "clients rest for {rest} ms: {facts:?}");
    two.behave("");
    assert!(two.run.ended(COMMAND_WITHIN).await.success());
    two.is_on(Side::Green).await;
    // Somebody has to follow the way back.
    two.run = two.world.desk.run();
    two.run.streams().await;
    two.world.close_the_books(two.load, Side::Green).await;
}

/// After the decision there is only forward: what was refused is asked for again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_refuses_to_point_is_asked_again() {
    let two = TwoSwitches::new().await;
    two.behave("point_at refuse-twice");
    two.world.desk.moves("switch").await.exits(0);
    two.is_on(Side::Green).await;
    two.world.close_the_books(two.load, Side::Green).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_gives_no_answer_needs_an_operator() {
    let mut two = TwoSwitches::new().await;
    two.run.ready().await;
    // It is lost between the check and the order.
    two.behave("point_at hang\nobserve shrug-paused");
    let undecided = two.world.desk.begin_switch().await.expect("the command ends");
    undecided.exits(4).says("CUT0718").says("cutover resolve");
    is_undecided(&two.world.desk).await;
    // The pooler's clients are served by green; the word of the operator ends the rest.
    two.world.traffic_flows(&two.load, SERVED_WITHIN).await;
    two.world.only_takes_writes(Side::Green).await;
    two.world.desk.ask(&["rollback"]).await.exits(1);

    // The operator sees that the device still sends writes to blue: the order is given again.
    two.behave("");
    two.world.desk.ask(&["resolve", "--owner", "blue"]).await.exits(0);
    two.run.phase("switched").await;
    two.run.ready().await;
    two.is_on(Side::Green).await;
    two.world.desk.ask(&["resolve", "--owner", "green"]).await.exits(1).says("CUT0508");
    two.world.close_the_books(two.load, Side::Green).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_dies_leaves_the_writes_on_blue() {
    let mut world = World::new().await;
    world.desk.waits_for_open_transactions();
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    // Before the move: refused before anybody waits.
    world.shop.pooler.kill9().await.expect("it dies");
    world.desk.refuses("switch", "pgbouncer[0]").await;
    world.only_takes_writes(Side::Blue).await;
    world.shop.pooler.start_again().await.expect("it starts");
    world.traffic_flows(&load, SERVED_WITHIN).await;
    run.ready().await;

    // In the pause: blue takes writes again at once, and the pooler is told so when it is back.
    world.desk.wakes_the_fence(&mut run).await;
    let (switch, writer) = world.held_in_the_fence().await;
    world.shop.pooler.kill9().await.expect("it dies");
    comes_to(&world.desk, |f| f["fact"] == "undo" && f["outcome"] == "failed").await;
    drop(writer);
    world.only_takes_writes(Side::Blue).await;
    assert!(run.exit().is_none(), "nothing hangs, so the guard has nobody to end");
    world.shop.pooler.start_again().await.expect("it starts");
    switch.await.expect("the command ends").exits(1);
    world.traffic_flows(&load, SERVED_WITHIN).await;
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.traffic_flows(&load, SERVED_WITHIN).await;
    let view = load.stop(SERVED_WITHIN).await;
    world.books_are_right(&view, Side::Green).await;
}

/// No file of the program can be written from here on, or all can again.
fn disk_is_full(desk: &Desk, full: bool) {
    for (pid, _) in processes(desk) {
        limit_files(pid, if full { "0" } else { "unlimited" });
    }
}

/// A full disk ends the process: nobody may go on without a journal. Nothing is decided, so that
/// clients go on where they were at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_before_the_decision_lets_clients_go_on_blue() {
    if !can_fill_disks() {
        eprintln!("skipped: `prlimit` (util-linux) is not here");
        return;
    }
    let world = World::new().await;
    world.desk.waits_for_open_transactions();
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.wakes_the_fence(&mut run).await;
    let (switch, writer) = world.held_in_the_fence().await;
    disk_is_full(&world.desk, true);
    drop(writer);
    switch.await.expect("the command ends").exits(3).says("CUT0514");
    assert_eq!(run.ended(COMMAND_WITHIN).await.code(), Some(3));
    world.traffic_flows(&load, SERVED_WITHIN).await;
    world.only_takes_writes(Side::Blue).await;
    disk_is_full(&world.desk, false);
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.close_the_books(load, Side::Green).await;
}

/// Past the decision the clients wait for the journal; as soon as there is space the guard lets
/// them go, without anybody's help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_after_the_decision_is_waited_for_by_the_guard() {
    if !can_fill_disks() {
        eprintln!("skipped: `prlimit` (util-linux) is not here");
        return;
    }
    let mut two = TwoSwitches::new().await;
    two.behave("point_at refuse");
    let switch = two.world.desk.begin_switch();
    comes_to(&two.world.desk, |f| f["step"] == "point" && f["outcome"] == "failed").await;
    disk_is_full(&two.world.desk, true);
    switch.await.expect("the command ends").exits(3).says("CUT0514");
    assert_eq!(two.run.ended(COMMAND_WITHIN).await.code(), Some(3));
    two.behave("");
    let guard = processes(&two.world.desk);
    assert!(guard.iter().any(|(_, guard)| *guard), "the guard has gone: {guard:?}");
    assert_eq!(two.device().0, "blue", "nobody may act without a journal");
    disk_is_full(&two.world.desk, false);
    wait_until("the guard to point the device", SERVED_WITHIN, async || {
        two.device() == ("green".to_owned(), "false".to_owned())
    })
    .await
    .expect("it does");
    two.is_on(Side::Green).await;
    two.run = two.world.desk.run();
    two.run.ready().await;
    two.world.close_the_books(two.load, Side::Green).await;
}

/// A move that waited for a writer until its budget was used up must not count as experience with
/// pauses: the next one would be refused for its estimate, and so would all after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_was_taken_back_does_not_spoil_the_estimate_of_the_next() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    let (switch, writer) = world.held_in_the_fence().await;
    let taken_back = switch.await.expect("the command ends");
    drop(writer);
    taken_back.exits(1);
    assert!(taken_back.value["pause_ms"].is_number(), "nobody was held: {}", taken_back.said);
    let status = run.ready().await;
    let parts = status["pause_estimate"]["parts"].as_array().expect("an estimate");
    assert!(parts.iter().all(|part| part["name"] != "experience"), "{parts:#?}");
    world.desk.moves("switch").await.exits(0);
}

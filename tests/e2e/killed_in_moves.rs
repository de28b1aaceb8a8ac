//! `kill -9` of `cutover run` in the middle of a move, at every step, in both directions: the
//! guard frees the traffic on exactly one side, and the next `cutover run` ends the move.
#![allow(clippy::print_stderr, reason = "which steps a run of the test hit")]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use cutover_core::model::side::Side;
use cutover_sandbox::{shop::Load, wait_until};
use serde_json::Value;

use crate::{
    program::{COMMAND_WITHIN, LONG_BUDGET, Run, send},
    world::{BUDGET, World},
};

const MOVES: &str = "moves.journal";
/// From a kill until every client is served, without anybody's help.
const FREE_WITHIN: Duration = BUDGET.saturating_add(Duration::from_secs(2));

fn reached(facts: &[Value], step: &str) -> bool {
    facts.iter().any(|f| f["fact"] == "step" && f["step"] == step)
}

fn decided(facts: &[Value]) -> bool {
    facts.iter().any(|f| f["step"] == "decide" && f["outcome"] == "done")
}

/// The step that was under way when the process died: what comes after `restarted` is the guard's.
fn hit(facts: &[Value]) -> String {
    let end = facts.iter().position(|f| f["fact"] == "restarted").unwrap_or(facts.len());
    let last = facts[..end].iter().rfind(|f| f["outcome"] == "started");
    last.map_or_else(String::new, |f| {
        let undo = if f["fact"] == "undo" { "undo " } else { "" };
        format!("{undo}{}", f["step"].as_str().unwrap_or_default())
    })
}

fn command(from: Side) -> &'static [&'static str] {
    match from {
        Side::Blue => &["switch"],
        Side::Green => &["rollback"],
    }
}

/// The run goes on: the move has an end, and `owner` owns the writes.
async fn taken_up(world: &World, owner: Side) -> Run {
    let mut run = world.desk.run();
    let status = run.ready().await;
    assert_eq!(status["owner"], owner.as_str(), "{status}");
    let facts = world.desk.facts(MOVES);
    assert_eq!(facts.last().map(|f| &f["fact"]), Some(&Value::from("ended")), "{facts:?}");
    run
}

/// Kills the run at a step of a move from `from`. Returns the owner, and the step that was hit.
async fn killed_at(
    world: &World,
    load: &Load,
    run: Run,
    from: Side,
    step: &'static str,
) -> (Side, String) {
    let asked = world.desk.begin(command(from));
    let mut facts = run.kill_when(MOVES, step, move |facts| reached(facts, step)).await;
    let killed = Instant::now();
    let hit = hit(&facts);
    world.traffic_flows(load, FREE_WITHIN).await;
    let owner = if decided(&facts) { from.other() } else { from };
    // A kill before the pause leaves nobody held and nothing to be freed.
    world.only_takes_writes(owner).await;
    facts = world.desk.facts(MOVES);
    eprintln!(
        "killed at {hit} from {from}: free after {:?}, {owner} owns, {}",
        killed.elapsed(),
        facts.len()
    );
    let asked = asked.await.expect("the command ends");
    // Who asked is told that nobody answers any more, unless the move ended before the kill.
    assert!(matches!(asked.exit, 0 | 3), "{}", asked.said);
    (owner, hit)
}

/// Kills a run at each of these steps in turn, each time in a move away from the owner. Returns
/// what was hit, with the side the move came from.
async fn killed_at_each(steps: &[&'static str]) -> BTreeSet<(Side, String)> {
    let world = World::new().await;
    let load = world.load();
    let mut owner = Side::Blue;
    let mut run = world.desk.run();
    run.ready().await;
    let mut hits = BTreeSet::new();
    for step in steps {
        let from = owner;
        let hit;
        (owner, hit) = killed_at(&world, &load, run, from, step).await;
        hits.insert((from, hit));
        run = taken_up(&world, owner).await;
    }
    world.close_the_books(load, owner).await;
    world.desk.ask(&["verify"]).await.exits(0);
    let end = if owner == Side::Green { "finish" } else { "abort" };
    world.desk.ask(&[end, "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
    hits
}

/// A step of a millisecond may be over when it is seen on a busy machine, so not each of them is
/// asked for by name.
fn met(hits: &BTreeSet<(Side, String)>, from: Side, steps: &[&str]) -> bool {
    steps.iter().any(|step| hits.contains(&(from, (*step).to_owned())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_decision_the_move_is_taken_back() {
    let steps = ["recheck", "guard", "pause", "fence", "drain", "verify", "counters"];
    let hits = killed_at_each(&steps).await;
    assert!(met(&hits, Side::Blue, &["recheck", "arm_reverse"]), "{hits:?}");
    assert!(met(&hits, Side::Blue, &["guard"]), "{hits:?}");
    assert!(met(&hits, Side::Blue, &["pause", "fence", "drain", "verify", "counters"]), "{hits:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_decision_the_move_is_completed_in_both_directions() {
    let steps =
        ["unfence", "pause", "fence", "verify", "unfence", "point", "point", "stream_reverse"];
    let hits = killed_at_each(&steps).await;
    let decided = ["unfence", "point", "stream_reverse"];
    assert!(met(&hits, Side::Blue, &decided) || met(&hits, Side::Green, &decided), "{hits:?}");
    assert!(hits.iter().any(|(from, _)| *from == Side::Green), "{hits:?}");
}

/// Nobody is left to free the traffic: the next run does, before anything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_guard_the_next_run_frees_the_traffic() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    let mut owner = Side::Blue;
    for step in ["fence", "unfence", "verify"] {
        let from = owner;
        let asked = world.desk.begin(command(from));
        let before = world.desk.facts(MOVES).len();
        let (stopped, facts) =
            run.signal_when("STOP", MOVES, step, move |facts| reached(facts, step)).await;
        let guard = facts.iter().find_map(|f| f["details"]["process"].as_u64());
        send("KILL", guard.expect("the guard's process is in the journal"));
        drop(stopped);
        asked.await.expect("the command ends").exits(3);
        owner = if decided(&world.desk.facts(MOVES)[before..]) { from.other() } else { from };
        run = taken_up(&world, owner).await;
        world.traffic_flows(&load, FREE_WITHIN).await;
        world.only_takes_writes(owner).await;
    }
    world.close_the_books(load, owner).await;
}

/// A run that hangs while clients wait is ended by the guard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_hangs_in_the_pause_is_ended_by_the_guard() {
    let world = World::new().await;
    world.desk.waits_for_open_transactions();
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.wakes_the_fence(&mut run).await;
    // The fence waits for whoever is writing, so that the run is met in the pause for certain.
    let (asked, writer) = world.held_in_the_fence().await;
    send("STOP", u64::from(run.id()));
    drop(writer);
    let within = LONG_BUDGET + Duration::from_secs(7);
    wait_until("the guard to end the run", within, async || run.exit().is_some())
        .await
        .expect("the guard acts");
    world.traffic_flows(&load, FREE_WITHIN).await;
    world.only_takes_writes(Side::Blue).await;
    asked.await.expect("the command ends").exits(3);
    let _run = taken_up(&world, Side::Blue).await;
    world.close_the_books(load, Side::Blue).await;
}

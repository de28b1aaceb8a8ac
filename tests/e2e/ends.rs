//! How runs end: unattended, given up half-way, and killed while they clean up.

use cutover_core::model::side::Side;
use cutover_sandbox::wait_for;
use serde_json::Value;

use crate::{
    program::{COMMAND_WITHIN, READY_WITHIN},
    world::{Options, World},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_to_its_goal_by_itself() {
    let more = "rollback: { window: 1s }\n".to_owned();
    let world = World::with(Options { more, ..Options::default() }).await;
    let load = world.load();
    let mut run = world.desk.run_with(&["--until", "converged"]);
    assert!(run.ended(READY_WITHIN).await.success());
    world.only_takes_writes(Side::Blue).await;
    let mut run = world.desk.run_with(&["--until", "switched"]);
    assert!(run.ended(READY_WITHIN).await.success());
    world.only_takes_writes(Side::Green).await;
    let mut run = world.desk.run_with(&["--until", "finished"]);
    assert!(run.ended(READY_WITHIN).await.success());
    world.nothing_is_left().await;
    // Blue is free as well now, and nothing is followed any more; the traffic is on green.
    let view = load.stop(COMMAND_WITHIN).await;
    assert_eq!(view.failed, 0, "{:?}", view.first_error);
    let green = world.superuser(Side::Green).await;
    let books = cutover_sandbox::shop::check(&green, &view.acknowledged, &view.unknown).await;
    assert!(books.as_ref().is_ok_and(|books| books.are_right()), "{books:?}");
    // It is over, and says so.
    world.desk.ask(&["run"]).await.exits(1).says("CUT0506");
}

/// Somebody brings clients back while the way back is open: they stay, also when the process is
/// started again with the same words, until somebody switches again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_brought_back_is_not_switched_again_by_itself() {
    let more = "rollback: { window: 1h }\n".to_owned();
    let world = World::with(Options { more, ..Options::default() }).await;
    let mut run = world.desk.run_with(&["--until", "finished"]);
    run.phase("switched").await;
    world.desk.moves("rollback").await.exits(0);
    says_so(&world, 1).await;
    world.only_takes_writes(Side::Blue).await;
    run.terminate().await;

    let mut run = world.desk.run_with(&["--until", "switched"]);
    says_so(&world, 2).await;
    run.ready().await;
    world.only_takes_writes(Side::Blue).await;
    world.desk.moves("switch").await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.only_takes_writes(Side::Green).await;
}

/// So many processes have said that they switch nothing by themselves any more.
async fn says_so(world: &World, times: usize) {
    let told = || world.desk.log().matches("clients were brought back to blue").count();
    let what = "it says that it leaves them there";
    wait_for(what, COMMAND_WITHIN, async || (told() == times).then_some(()))
        .await
        .unwrap_or_else(|e| panic!("{e}\n{}", world.desk.log()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_given_up_leaves_nothing() {
    let copy = "{ workers: 2, chunk: 1MiB, rate: 1MiB }".to_owned();
    let world = World::with(Options { copy, ..Options::default() }).await;
    let load = world.load();
    let mut run = world.desk.run();
    run.phase("copying").await;
    world.desk.ask(&["finish", "--yes"]).await.exits(1);
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
    let view = load.stop(COMMAND_WITHIN).await;
    assert_eq!(view.failed, 0, "{:?}", view.first_error);
}

/// Killed in the middle of removing what it created, in both ways to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_end_is_ended_by_the_next_run() {
    for (command, owner) in [(FINISH, Side::Green), (ABORT, Side::Blue)] {
        let world = World::new().await;
        let mut run = world.desk.run();
        run.ready().await;
        if owner == Side::Green {
            world.desk.moves("switch").await.exits(0);
        }
        // Blue comes first, and its fence cannot be removed as long as somebody reads there.
        let reader = world.direct(Side::Blue).await;
        reader.batch_execute("BEGIN; SELECT FROM accounts").await.expect("a reader");
        let asked = world.desk.begin(command);
        let facts = run.kill_when("run.journal", "removing", removing).await;
        asked.await.expect("the command ends");
        drop(reader);
        let over = facts.iter().any(|f| f["fact"] == "removed");
        let again = world.desk.ask(&["run"]).await;
        // It says that the run is over, whether or not something was left to do.
        again.exits(1).says("CUT0506");
        assert!(!over, "it was removed although somebody was in the way");
        world.nothing_is_left().await;
        assert!(world.takes_writes(owner).await);
    }
}

const FINISH: &[&str] = &["finish", "--yes"];
const ABORT: &[&str] = &["abort", "--yes"];

fn removing(facts: &[Value]) -> bool {
    facts.iter().any(|f| f["fact"] == "removing")
}

//! What an operator does at the wrong moment, or with the wrong file, and what becomes of it.

use std::time::Duration;

use cutover_core::model::side::Side;
use cutover_sandbox::{StopMode, wait_until};

use crate::{
    program::{COMMAND_WITHIN, send},
    world::{Options, World},
};

/// After the switch blue's machine is taken away, and only then the run is ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_keeps_nothing_on_green() {
    let mut world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.shop.blue.stop(StopMode::Immediate).await.expect("it stops");
    world.desk.ask(&["finish", "--yes"]).await.exits(3);
    world.nothing_is_left_on(Side::Green).await;
    assert!(!run.ended(COMMAND_WITHIN).await.success());
    // Blue is back, and has it still.
    world.shop.blue.start_again().await.expect("it starts");
    world.desk.ask(&["finish", "--yes"]).await.exits(0);
    world.nothing_is_left().await;
}

/// The same of green before a switch, while no process works on the run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_keeps_nothing_on_blue() {
    let mut world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    assert!(run.terminate().await.success());
    world.shop.green.stop(StopMode::Immediate).await.expect("it stops");
    world.desk.ask(&["abort", "--yes"]).await.exits(3);
    world.nothing_is_left_on(Side::Blue).await;
    world.shop.green.start_again().await.expect("it starts");
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    world.nothing_is_left().await;
}

/// After the switch green is lost for good, while no process works on the run: blue was not to be had
/// back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn green_that_is_gone_after_the_switch_keeps_nobody_from_blue() {
    let mut world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    assert!(run.terminate().await.success());
    world.shop.green.stop(StopMode::Immediate).await.expect("it stops");
    world.desk.ask(&["finish", "--yes"]).await.exits(3);
    world.nothing_is_left_on(Side::Blue).await;
    let blue = world.direct(Side::Blue).await;
    blue.batch_execute("UPDATE products SET stock = stock + 1").await.expect("it takes writes");
    world.shop.green.start_again().await.expect("it starts");
    world.desk.ask(&["finish", "--yes"]).await.exits(0);
    world.nothing_is_left().await;
}

/// A move that is taken back has an end although the stream hangs in a commit on green, and the run
/// can be stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_hangs_in_a_commit_does_not_keep_a_move_open() {
    let world = World::new().await;
    world.desk.waits_for_open_transactions();
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.wakes_the_fence(&mut run).await;
    let (asked, writer) = world.held_in_the_fence().await;
    let green = world.superuser(Side::Green).await;
    let nobody = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'";
    green.batch_execute(nobody).await.expect("a setting");
    green.batch_execute("SELECT pg_reload_conf()").await.expect("a reload");
    // What it held is applied now, or tried to.
    writer.batch_execute("COMMIT").await.expect("a commit");
    asked.await.expect("the command ends").exits(1);
    assert!(run.terminate().await.success());
    green.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.expect("a setting");
    green.batch_execute("SELECT pg_reload_conf()").await.expect("a reload");
    let mut run = world.desk.run();
    run.ready().await;
    world.sides_are_equal().await;
}

/// Whoever sends the signal in the middle of a move gets what he asked for, a moment later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_the_middle_of_a_move_is_not_forgotten() {
    let world = World::new().await;
    world.desk.waits_for_open_transactions();
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.wakes_the_fence(&mut run).await;
    let (asked, writer) = world.held_in_the_fence().await;
    send("TERM", u64::from(run.id()));
    wait_until("the signal to be heard", COMMAND_WITHIN, async || {
        world.desk.log().contains("told to stop")
    })
    .await
    .expect("it is told");
    drop(writer);
    asked.await.expect("the command ends");
    assert!(run.ended(COMMAND_WITHIN).await.success());
}

/// Both a run and its guard are gone in the pause, and so is blue: whoever comes next can do nothing
/// yet, says so to everybody who asks, and can be stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_cannot_be_taken_back_is_told() {
    let mut world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    let asked = world.desk.begin(&["switch"]);
    let reached = |f: &serde_json::Value| f["fact"] == "step" && f["step"] == "fence";
    let (stopped, facts) = run
        .signal_when("STOP", "moves.journal", "fence", move |facts| facts.iter().any(reached))
        .await;
    let guard = facts.iter().find_map(|f| f["details"]["process"].as_u64());
    send("KILL", guard.expect("the guard's process is in the journal"));
    drop(stopped);
    asked.await.expect("the command ends").exits(3);
    world.shop.blue.stop(StopMode::Immediate).await.expect("it stops");

    let mut run = world.desk.run();
    let told = |status: &serde_json::Value| {
        status["alarms"].as_array().is_some_and(|all| all.iter().any(|a| a["code"] == "CUT0738"))
    };
    run.status("the alarm", COMMAND_WITHIN, told).await;
    world.desk.ask(&["abort", "--yes"]).await.exits(1).says("CUT0507");
    assert!(!run.terminate().await.success(), "clients are held");
    assert!(world.desk.log().contains("CUT0738"), "{}", world.desk.log());

    world.shop.blue.start_again().await.expect("it starts");
    let mut run = world.desk.run();
    run.ready().await;
    world.traffic_flows(&load, Duration::from_secs(10)).await;
    world.only_takes_writes(Side::Blue).await;
    world.close_the_books(load, Side::Blue).await;
}

/// The file is made ready for the next migration while this one goes on: the guard, which reads it
/// again, could not free the traffic of this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_with_another_configuration_does_not_stand_by() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    let more = "tables: { exclude: [\"public.nothing\"] }\n";
    world.desk.reconfigure(|yaml| format!("{yaml}{more}"));
    world.desk.refuses("switch", "is not the one that").await;
    world.only_takes_writes(Side::Blue).await;
    // What a move does not depend on may be prepared for the next start.
    world.desk.reconfigure(|yaml| yaml.replace(more, "rollback: { window: 1h }\n"));
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.only_takes_writes(Side::Green).await;
}

/// Nothing is removed, or said to be, in the name of another run or on another database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_of_another_run_is_left_alone() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    assert!(run.terminate().await.success());
    let name = format!("run: {}\n", crate::world::RUN);
    world.desk.reconfigure(|yaml| yaml.replace(&name, "run: another\n"));
    for command in [&["abort", "--yes"][..], &["run"]] {
        world.desk.ask(command).await.exits(2).says("CUT0504");
    }
    world.desk.reconfigure(|yaml| yaml.replace("run: another\n", &name));
    let green = |database: &str| {
        format!(
            "green: {{ url: \"postgres://cutover@127.0.0.1:{}/{database}\"",
            world.shop.green.port()
        )
    };
    let (right, wrong) = (green(&world.database), green("postgres"));
    world.desk.reconfigure(|yaml| yaml.replace(&right, &wrong));
    world.desk.ask(&["abort", "--yes"]).await.exits(2).says("CUT0504");
    world.desk.reconfigure(|yaml| yaml.replace(&wrong, &right));
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    world.nothing_is_left().await;
}

/// Nobody waits for what never comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goal_that_is_never_reached_is_refused() {
    let more = "verify: { continuous: false }\n".to_owned();
    let world = World::with(Options { more, ..Options::default() }).await;
    for goal in ["converged", "switched", "finished"] {
        let ended = world.desk.ask(&["run", "--yes", "--until", goal]).await;
        ended.exits(2).says("never reached").says("continuous");
    }
    // Without a switch nobody can be moved; to converge nobody has to be.
    world.desk.reconfigure(|yaml| {
        let (before, rest) = yaml.split_once("switch:\n").expect("a switch");
        let (_, behind) = rest.split_once("move:").expect("a move");
        format!("{before}move:{}", behind.replace("verify: { continuous: false }\n", ""))
    });
    world.desk.ask(&["run", "--yes", "--until", "switched"]).await.exits(2).says("`switch`");
    let mut run = world.desk.run_with(&["--until", "converged"]);
    assert!(run.ended(crate::program::READY_WITHIN).await.success());
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    world.nothing_is_left().await;
}

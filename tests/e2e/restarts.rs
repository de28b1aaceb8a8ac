//! Servers and the pooler stop and come back while rows are copied, while changes are followed,
//! and in the middle of a move. Clients may see errors then; nothing they were told is lost.

use cutover_core::model::side::Side;
use cutover_sandbox::{StopMode, shop::Load};

use crate::{
    program::{COMMAND_WITHIN, PROGRAM},
    world::{Options, SERVED_WITHIN, World, held_in_the_fence},
};

/// What goes away and comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Blue,
    Green,
    Pooler,
}

const PARTS: [Part; 3] = [Part::Green, Part::Blue, Part::Pooler];

impl World {
    async fn restart(&mut self, part: Part, mode: StopMode) {
        let server = match part {
            Part::Blue => &mut self.shop.blue,
            Part::Green => &mut self.shop.green,
            Part::Pooler => {
                self.shop.pooler.kill9().await.expect("the pooler ends");
                return self.shop.pooler.start_again().await.expect("the pooler starts");
            }
        };
        server.stop(mode).await.expect("the server stops");
        server.start_again().await.expect("the server starts");
    }

    /// Ends the load where clients may have seen errors.
    async fn close_the_books_after_errors(&self, load: Load, owner: Side) {
        let view = load.stop(SERVED_WITHIN).await;
        self.books_are_right(&view, owner).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_outlives_restarts_of_both_servers() {
    let copy = "{ workers: 2, chunk: 1MiB, rate: 1MiB }".to_owned();
    let mut world = World::with(Options { copy, ..Options::default() }).await;
    let load = world.load();
    let mut run = world.desk.run();
    for (part, mode) in [
        (Part::Green, StopMode::Fast),
        (Part::Blue, StopMode::Immediate),
        (Part::Green, StopMode::Immediate),
    ] {
        run.phase("copying").await;
        world.restart(part, mode).await;
    }
    run.ready().await;
    world.traffic_flows(&load, SERVED_WITHIN).await;
    world.desk.ask(&["verify"]).await.exits(0);
    world.desk.moves("switch").await.exits(0);
    world.close_the_books_after_errors(load, Side::Green).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_restarts_of_everything() {
    let mut world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    for (owner, back) in [(Side::Blue, "switch"), (Side::Green, "rollback")] {
        for (part, mode) in
            PARTS.into_iter().zip([StopMode::Immediate, StopMode::Immediate, StopMode::Fast])
        {
            world.restart(part, mode).await;
            world.traffic_flows(&load, SERVED_WITHIN).await;
            run.ready().await;
            world.only_takes_writes(owner).await;
        }
        world.desk.moves(back).await.exits(0);
        world.traffic_flows(&load, SERVED_WITHIN).await;
    }
    run.ready().await;
    world.desk.ask(&["verify"]).await.exits(0);
    world.close_the_books_after_errors(load, Side::Blue).await;
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_loses_a_server_or_the_pooler_is_taken_back_or_completed() {
    let mut world = World::new().await;
    world.desk.waits_for_open_transactions();
    let load = world.load();
    let mut run = world.desk.run();
    let mut owner = Side::Blue;
    run.ready().await;
    world.desk.wakes_the_fence(&mut run).await;
    for part in PARTS {
        run.ready().await;
        assert_eq!(owner, Side::Blue);
        // Holds the move inside the pause: the fence waits for whoever is writing.
        let (asked, writer) = world.held_in_the_fence().await;
        world.restart(part, StopMode::Immediate).await;
        drop(writer);
        let asked = asked.await.expect("the command ends");
        assert!(matches!(asked.exit, 0 | 1), "{part:?}: {}", asked.said);
        if let Some(now) = asked.value["owner"].as_str() {
            owner = if now == "green" { Side::Green } else { Side::Blue };
        }
        world.traffic_flows(&load, SERVED_WITHIN).await;
        world.only_takes_writes(owner).await;
        if owner == Side::Green {
            run.ready().await;
            world.desk.moves("rollback").await.exits(0);
            owner = Side::Blue;
        }
    }
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.close_the_books_after_errors(load, Side::Green).await;
    world.desk.ask(&["verify"]).await.exits(0);
    world.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

/// The first full comparison after a restart does not hold up the way back; one that has waited
/// for a move reads from the side that owns the writes now, or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_that_waited_for_a_move_does_not_take_lag_for_a_difference() {
    let world = World::new().await;
    world.desk.waits_for_open_transactions();
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    // Keeps the comparison of the next process from beginning, and is in no fence's way.
    let open = world.superuser(Side::Green).await;
    open.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.expect("a transaction");
    drop(run);
    let mut run = world.desk.run();
    run.streams().await;
    run.status("the comparison to wait", COMMAND_WITHIN, |s| s["doing"] == "comparing every row")
        .await;
    let writer = world.direct(Side::Green).await;
    let write = "BEGIN; INSERT INTO audit_log (what) VALUES ('held')";
    let pooler = world.shop.pooler_url();
    let asked = held_in_the_fence(&world.desk, &pooler, (&writer, write), "rollback").await;
    // Now the comparison may begin, and finds the move under way.
    drop(open);
    cutover_sandbox::wait_until("the open transaction to end", COMMAND_WITHIN, async || {
        let green = world.superuser(Side::Green).await;
        let sql = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_current_xact_id()'";
        green.query_opt(sql, &[]).await.expect("activity").is_none()
    })
    .await
    .expect("it ends");
    drop(writer);
    asked.await.expect("the command ends").exits(0);
    run.ready().await;
    assert!(!world.desk.log().contains("verdict=Different"), "lag was taken for a difference");
    world.close_the_books(load, Side::Blue).await;
}

/// An upgrade of the package while a run is under way: its guard is of the same version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_was_replaced_while_it_runs_has_a_guard() {
    let world = World::new().await;
    let program = world.desk.folder().join("cutover");
    std::fs::copy(PROGRAM, &program).expect("a copy of the program");
    let mut run = world.desk.run_of(&program, &[]);
    run.ready().await;
    std::fs::remove_file(&program).expect("the old version goes");
    std::fs::write(&program, "the new version").expect("the new version comes");
    world.desk.moves("switch").await.exits(0);
    world.only_takes_writes(Side::Green).await;
}

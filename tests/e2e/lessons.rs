//! Bugs that other systems had where ownership of the writes moves, each met here by a story named
//! after it. The number is that of the report in the other project.
//!
//! One is told elsewhere, where no server is needed: a queue of rows to compare that grows while a
//! human waits (ghostferry #195) in `src/verify/ledger.rs`.

use std::{
    fs,
    time::{Duration, Instant},
};

use cutover_core::model::side::Side;
use cutover_sandbox::wait_until;
use serde_json::Value;
use tokio_postgres::Client;

use crate::{
    failed_switch::{TwoSwitches, comes_to},
    program::{COMMAND_WITHIN, Desk},
    world::{BUDGET, Options, PASS, World, connect},
};

const MOVES: &str = "moves.journal";
const FREE_WITHIN: Duration = BUDGET.saturating_add(Duration::from_secs(10));

/// A number that a side answers with.
async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.expect("an answer").get(0)
}

/// Nothing of ours can be applied to `audit_log` on green until the session is dropped.
async fn apply_is_stuck(world: &World) -> Client {
    let green = world.superuser(Side::Green).await;
    let lock = "BEGIN; LOCK TABLE audit_log IN ACCESS EXCLUSIVE MODE";
    green.batch_execute(lock).await.expect("a lock");
    green
}

async fn wait(what: &str, condition: impl AsyncFnMut() -> bool) {
    wait_until(what, COMMAND_WITHIN, condition).await.expect("it comes");
}

fn at_step(step: &'static str) -> impl Fn(&Value) -> bool {
    move |f| f["fact"] == "step" && f["step"] == step
}

/// pgcopydb #1033, pgdog #1121, #1123, #1201: a keepalive moved the position past transactions that
/// were received and not applied, and a restart lost them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keepalives_do_not_advance_the_applied_position() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    let stuck = apply_is_stuck(&world).await;
    let blue = world.superuser(Side::Blue).await;
    blue.batch_execute("INSERT INTO audit_log (what) VALUES ('received')").await.expect("a row");
    let lsn = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let committed = number(&blue, lsn).await;
    // An idle database: nothing but messages of the server and our answers to them.
    let replies = "SELECT coalesce(extract(epoch FROM max(reply_time)) * 1000000, 0)::bigint \
                   FROM pg_stat_replication";
    for _ in 0..3 {
        let before = number(&blue, replies).await;
        wait("the server to hear from us", async || number(&blue, replies).await > before).await;
    }
    let confirmed = "SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots";
    assert!(number(&blue, confirmed).await < committed, "confirmed before it was applied");
    drop(run);
    drop(stuck);
    let mut run = world.desk.run();
    run.ready().await;
    let green = world.superuser(Side::Green).await;
    let there = "SELECT count(*) FROM audit_log WHERE what = 'received'";
    assert_eq!(number(&green, there).await, 1);
    world.sides_are_equal().await;
}

/// vitess #16563: the final position was gathered while writes were still in flight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_final_position_is_gathered_after_writes_in_flight_are_done() {
    let world = World::new().await;
    world.desk.waits_for_open_transactions();
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.wakes_the_fence(&mut run).await;
    let (switch, writer) = world.held_in_the_fence().await;
    writer.batch_execute("COMMIT").await.expect("whoever is in the middle may finish");
    switch.await.expect("the command ends").exits(0);
    let green = world.superuser(Side::Green).await;
    let there = "SELECT count(*) FROM audit_log WHERE what = 'held'";
    assert_eq!(number(&green, there).await, 1);
}

/// vitess #7169, #9400: the reverse stream began at a position that was not taken under the fence
/// of each source, so that the first writes on the new owner were missing on the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_back_begins_before_the_first_write_on_green() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    let facts = world.desk.facts(MOVES);
    let place = |step: &str, outcome: &str| {
        facts.iter().rposition(|f| f["step"] == step && f["outcome"] == outcome).expect("a step")
    };
    assert!(place("arm_reverse", "done") < place("pause", "started"), "{facts:#?}");
    // Every client's first write on green is among these.
    world.traffic_flows(&load, FREE_WITHIN).await;
    world.close_the_books(load, Side::Green).await;
}

/// vitess #16794: the switch was made, and only then the reverse stream could not run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_is_refused_when_the_way_back_cannot_run() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    let green = world.superuser(Side::Green).await;
    wait("the slot of the way back to be gone", async || {
        let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                   WHERE active_pid IS NOT NULL";
        green.query(end, &[]).await.expect("it is ended");
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
        green.query(drop, &[]).await.is_ok()
    })
    .await;
    let refused = world.desk.ask(&["switch"]).await;
    refused.exits(1);
    assert!(refused.value["pause_ms"].is_null(), "clients waited: {}", refused.said);
    world.only_takes_writes(Side::Blue).await;
    world.traffic_flows(&load, FREE_WITHIN).await;
}

/// vitess #17620: a cancellation that did not own the lock of the switch ran beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_waits_for_the_move_it_would_cancel() {
    let world = World::new().await;
    world.desk.waits_for_open_transactions();
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.wakes_the_fence(&mut run).await;
    let (switch, writer) = world.held_in_the_fence().await;
    world.desk.ask(&["abort", "--yes"]).await.exits(1).says("CUT0507");
    // Nor does another process get at it.
    let second = world.desk.ask(&["run", "--yes"]).await;
    assert_ne!(second.exit, 0, "{}", second.said);
    second.says("CUT0008");
    drop(writer);
    let ended = switch.await.expect("the command ends");
    assert!(matches!(ended.exit, 0 | 1), "{}", ended.said);
    assert!(run.exit().is_none(), "the run was cancelled after all");
}

/// spirit #746: apply read the row of the source again instead of taking what the log says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_applied_without_reading_the_row_again() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    let stuck = apply_is_stuck(&world).await;
    let blue = world.superuser(Side::Blue).await;
    let insert = "INSERT INTO audit_log (what) VALUES ('from the log')";
    blue.batch_execute(insert).await.expect("a row");
    let lock = "BEGIN; LOCK TABLE audit_log IN ACCESS EXCLUSIVE MODE";
    blue.batch_execute(lock).await.expect("nobody can read it on blue any more");
    drop(stuck);
    let there = "SELECT count(*) FROM audit_log WHERE what = 'from the log'";
    let green = world.superuser(Side::Green).await;
    wait("the row to be applied", async || number(&green, there).await == 1).await;
    blue.batch_execute("COMMIT").await.expect("the lock goes");
    world.sides_are_equal().await;
}

/// spirit #847: unique values that change places inside of one transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unique_values_that_swap_inside_of_one_transaction() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    let blue = world.superuser(Side::Blue).await;
    blue.batch_execute(
        "BEGIN;
         UPDATE accounts SET email = 'between' WHERE id = 1;
         UPDATE accounts SET email = 'user1@example.com' WHERE id = 2;
         UPDATE accounts SET email = 'user2@example.com' WHERE id = 1;
         COMMIT",
    )
    .await
    .expect("a swap");
    world.sides_are_equal().await;
    world.desk.ask(&["verify"]).await.exits(0);
    world.desk.moves("switch").await.exits(0);
}

/// ghostferry #145: the verifier took rows with a key of several columns for each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_with_a_key_of_several_columns_are_told_apart() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    let green = world.superuser(Side::Green).await;
    // The rows of two keys change places: counts, and the values of each column, stay as they are.
    let swap = format!(
        "{PASS};
         UPDATE order_items SET line = -line WHERE order_id = 7 AND line IN (1, 2);
         UPDATE order_items SET line = 3 + line WHERE order_id = 7 AND line < 0"
    );
    green.batch_execute(&swap).await.expect("tampering");
    let verify = world.desk.ask(&["verify"]).await;
    verify.exits(1).says("order_items");
    assert_eq!(verify.value["different"], 2, "{}", verify.said);
    world.desk.ask(&["verify", "--repair"]).await.exits(0);
    world.sides_are_equal().await;
}

/// spirit #1017, ghostferry #217: a side that was behind was called different.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lag_is_not_divergence() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    let stuck = apply_is_stuck(&world).await;
    let writer = world.direct(Side::Blue).await;
    writer.batch_execute("INSERT INTO audit_log (what) VALUES ('late')").await.expect("a row");
    let lag = run
        .status("green to be behind", COMMAND_WITHIN, |s| {
            s["lag"]["seconds"].as_f64().is_some_and(|seconds| seconds > 2.0)
        })
        .await;
    assert_eq!(lag["proof"]["different"], 0, "{lag}");
    assert_eq!(lag["alarms"], serde_json::json!([]), "{lag}");
    drop(stuck);
    run.ready().await;
    assert!(!world.desk.log().contains("CUT0601"), "lag was taken for a difference");
    world.close_the_books(load, Side::Blue).await;
}

/// spirit's cutover.go: a connection that is lost after the RENAME was sent leaves the owner
/// unknown; sending it again blindly loses writes. Here the order is the one to point elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_without_an_answer_is_asked_about_and_not_given_again() {
    let two = TwoSwitches::new().await;
    two.behave("point_at mute");
    two.world.desk.moves("switch").await.exits(0);
    two.is_on(Side::Green).await;
    let facts = two.world.desk.facts(MOVES);
    let device = |f: &Value| f["switch"] == "command[0]" && f["step"] == "point";
    assert!(facts.iter().any(|f| device(f) && f["outcome"] == "ambiguous"), "{facts:#?}");
    let calls = fs::read_to_string(two.world.desk.folder().join("calls")).expect("calls");
    assert_eq!(calls.lines().filter(|call| *call == "point_at").count(), 1, "{calls}");
    two.world.close_the_books(two.load, Side::Green).await;
}

/// pgroll #583: a backfill that never ended while rows were inserted faster than it copied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_ends_while_rows_are_inserted_all_the_time() {
    let copy = "{ workers: 2, chunk: 1MiB, rate: 2MiB }".to_owned();
    let world = World::with(Options { copy, ..Options::default() }).await;
    let mut run = world.desk.run();
    let client = connect(&world.shop.pooler_url()).await;
    let ended = |desk: &Desk| desk.facts("run.journal").iter().any(|f| f["fact"] == "copy_ended");
    let (began, mut inserted) = (Instant::now(), 0);
    while !ended(&world.desk) {
        assert!(began.elapsed() < COMMAND_WITHIN, "the copy does not end; {inserted} rows came");
        let insert = "INSERT INTO audit_log (what) SELECT repeat('x', 200) \
                      FROM generate_series(1, 50)";
        client.batch_execute(insert).await.expect("rows");
        inserted += 50;
    }
    run.ready().await;
    world.sides_are_equal().await;
}

/// pgbouncer #715: a RESUME that races a PAUSE which waits for a transaction. The PAUSE is that of
/// a process that was killed, the RESUME its guard's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_that_races_a_pause_leaves_nobody_held() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    let slow = connect(&world.shop.pooler_url()).await;
    slow.batch_execute("BEGIN; SELECT 1").await.expect("a transaction through the pooler");
    let switch = world.desk.begin_switch();
    run.kill_when(MOVES, "pause", |facts| facts.iter().any(at_step("pause"))).await;
    switch.await.expect("the command ends").exits(3);
    world.traffic_flows(&load, FREE_WITHIN).await;
    // What the dead process asked for must not come true now.
    slow.batch_execute("COMMIT").await.expect("its end");
    world.traffic_flows(&load, FREE_WITHIN).await;
    world.only_takes_writes(Side::Blue).await;
    let mut run = world.desk.run();
    run.ready().await;
    world.close_the_books(load, Side::Blue).await;
}

/// aws-advanced-jdbc-wrapper #2096: traffic was held for minutes because the end of the switch was
/// looked for in one place only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_one_switch_do_not_wait_for_news_of_another() {
    let two = TwoSwitches::new().await;
    two.behave("point_at refuse");
    let switch = two.world.desk.begin_switch();
    comes_to(&two.world.desk, |f| at_step("point")(f) && f["outcome"] == "failed").await;
    // The device says no all the time; the pooler's clients are served by green meanwhile.
    two.world.traffic_flows(&two.load, FREE_WITHIN).await;
    two.world.only_takes_writes(Side::Green).await;
    assert_eq!(two.device(), ("blue".to_owned(), "true".to_owned()));
    assert!(!switch.is_finished(), "the move is over although one switch is not");
    two.behave("");
    switch.await.expect("the command ends").exits(0);
    two.is_on(Side::Green).await;
    two.world.close_the_books(two.load, Side::Green).await;
}

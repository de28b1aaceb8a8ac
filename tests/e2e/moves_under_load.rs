//! A whole migration while clients keep writing: there, back, and there again.

use std::time::{Duration, Instant};

use cutover_core::model::side::Side;
use cutover_sandbox::wait_until;

use crate::{
    program::COMMAND_WITHIN,
    world::{Options, SERVED_WITHIN, World},
};

/// Two attempts to stand still, behind others that try the same.
const COMPARISON_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switch_rollback_and_switch_lose_nothing_and_fail_nobody() {
    let world = World::new().await;
    let check = world.desk.ask(&["check"]).await;
    check.exits(0);
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;

    let verify = world.desk.ask(&["verify"]).await;
    verify.exits(0);
    assert_eq!(verify.value["verdict"], "equal");

    let rehearsed = world.desk.moves("rehearse").await;
    rehearsed.exits(0);
    assert_eq!(rehearsed.value["owner"], "blue");
    world.only_takes_writes(Side::Blue).await;

    for (command, owner) in
        [("switch", Side::Green), ("rollback", Side::Blue), ("switch", Side::Green)]
    {
        let moved = world.desk.moves(command).await;
        moved.exits(0);
        assert_eq!(moved.value["owner"], owner.as_str(), "{}", moved.said);
        assert!(moved.value["pause_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{}", moved.said);
        world.only_takes_writes(owner).await;
        world.traffic_flows(&load, SERVED_WITHIN).await;
    }
    // Asking for what is already so is a plain no.
    world.desk.ask(&["switch"]).await.exits(1).says("CUT0508");

    world.close_the_books(load, Side::Green).await;
    world.desk.ask(&["verify"]).await.exits(0);
    world.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
    assert!(world.takes_writes(Side::Green).await, "the owner refuses writes after the end");
}

/// What a table without a key has gained since the run began is not read inside of a pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_without_a_key_that_has_grown_is_compared_before_the_pause() {
    let more = "verify: { continuous: false }\n".to_owned();
    let world = World::with(Options { more, ..Options::default() }).await;
    world.desk.reconfigure(|yaml| yaml.replace("pause_budget: 3s", "pause_budget: 1s"));
    let mut run = world.desk.run();
    run.streams().await;
    world.desk.ask(&["verify"]).await.exits(0);
    run.ready().await;
    let grow = "INSERT INTO audit_log (what) SELECT repeat(md5(i::text), 8) \
                FROM generate_series(1, 140000) i";
    world.direct(Side::Blue).await.batch_execute(grow).await.expect("rows");
    let met = |status: &serde_json::Value| status["proof"]["whole"] == 1;
    run.status("the stream to meet them", COMMAND_WITHIN, met).await;
    let waits = |status: &serde_json::Value| {
        let why = status["ready"]["why"].as_str();
        why.is_some_and(|why| why.contains("public.audit_log waits for a full comparison"))
    };
    run.status("the status to say what is missing", COMMAND_WITHIN, waits).await;
    // Too much for the pause; what is left for it is what comes after this comparison.
    world.desk.moves("switch").await.exits(0);
    let facts = world.desk.facts("moves.journal");
    let verdict = facts.iter().map(ToString::to_string).find(|f| f.contains("\"certificate\""));
    let verdict = verdict.expect("a certificate");
    assert!(verdict.contains("\"unproven\":[]"), "{verdict}");
    world.sides_are_equal().await;
}

/// Nobody waits, neither a client nor who asked for the move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_whose_commits_hang_refuses_the_move_and_says_so() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    let green = world.superuser(Side::Green).await;
    green.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    green.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let hangs = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait_until("a commit to hang", COMMAND_WITHIN, async || {
        green.query_one(hangs, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await
    .unwrap();

    let refused = world.desk.ask(&["switch"]).await;
    refused.exits(1).says("CUT0112");
    let remedy = refused.value["remedy"].as_str();
    assert!(remedy.is_some_and(|r| r.contains("synchronous_standby_names")), "{}", refused.said);
    assert!(refused.value["pause_ms"].is_null(), "clients waited: {}", refused.said);
    world.traffic_flows(&load, SERVED_WITHIN).await;
    world.only_takes_writes(Side::Blue).await;

    green.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    green.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    world.desk.moves("switch").await.exits(0);
    world.close_the_books(load, Side::Green).await;
    world.sides_are_equal().await;

    // Nor does a move wait until the stream has looked at what it carries.
    green.batch_execute("ALTER PUBLICATION cutover_e2e SET (publish = 'insert')").await.unwrap();
    let refused = world.desk.ask(&["rollback"]).await;
    refused.exits(1).says("CUT0205");
    assert!(refused.value["pause_ms"].is_null(), "clients waited: {}", refused.said);
}

/// Nor does who asked for a comparison: the stream cannot stand still at a position.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_whose_commits_hang_keeps_nobody_waiting_for_a_comparison() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    let green = world.superuser(Side::Green).await;
    let standby = async |word: &str| world.alter_system(Side::Green, word).await;
    standby("SET synchronous_standby_names = 'nobody'").await;
    let hangs = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait_until("a commit to hang", COMMAND_WITHIN, async || {
        green.query_one(hangs, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await
    .unwrap();
    for command in
        [&["verify"][..], &["verify", "--repair"], &["verify", "--table", "public.accounts"]]
    {
        let asked = Instant::now();
        let verify = world.desk.ask(command).await;
        verify.exits(3).says("stream from blue").says("a commit on green waits");
        assert!(asked.elapsed() < COMPARISON_WITHIN, "{:?}: {}", asked.elapsed(), verify.said);
    }
    standby("RESET synchronous_standby_names").await;
    run.ready().await;
    world.desk.ask(&["verify"]).await.exits(0);
    world.desk.moves("switch").await.exits(0);
    world.close_the_books(load, Side::Green).await;
}

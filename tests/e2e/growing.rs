//! Large tables without a key that clients append to: proven in a pause by what came at their ends.

use std::time::Duration;

use cutover_core::model::side::Side;

use crate::{
    program::{COMMAND_WITHIN, Run},
    world::{Options, PASS, World},
};

/// What clients append to is larger than what is read in a pause. So is what nobody writes to, which
/// has room in its first pages.
const LARGE: &str = "
    INSERT INTO audit_log (what) SELECT to_char(i, 'FM0000000') FROM generate_series(1, 450000) i;
    CREATE TABLE gaps (n integer, what text);
    ALTER TABLE gaps OWNER TO shop; ALTER TABLE gaps REPLICA IDENTITY FULL;
    INSERT INTO gaps SELECT i, repeat('x', 200) FROM generate_series(1, 90000) i;
    DELETE FROM gaps WHERE n <= 500";

/// A world with these tables, compared once, and no more by itself.
async fn world() -> (World, Run) {
    let more = "verify: { continuous: false }\n".to_owned();
    let world = World::with(Options { more, ..Options::default() }).await;
    let blue = world.superuser(Side::Blue).await;
    blue.batch_execute(LARGE).await.expect("large tables");
    blue.batch_execute("VACUUM gaps").await.expect("room in it");
    let mut run = world.desk.run();
    run.streams().await;
    world.desk.ask(&["verify"]).await.exits(0);
    run.ready().await;
    (world, run)
}

/// Waits until so many tables are known to have changed.
async fn changed(run: &mut Run, tables: u64) {
    run.status("the stream to meet the change", COMMAND_WITHIN, |status| {
        status["proof"]["whole"].as_u64().is_some_and(|n| n >= tables)
    })
    .await;
}

/// A switch is refused for this table before anybody waits; a comparison helps.
async fn is_refused(world: &World, run: &mut Run, table: &str) {
    let refused = world.desk.ask(&["switch"]).await;
    refused.exits(1).says(&format!("{table} waits for a full comparison"));
    assert!(refused.value["pause_ms"].is_null(), "clients waited: {}", refused.said);
    world.only_takes_writes(Side::Blue).await;
    world.desk.ask(&["verify"]).await.exits(0);
    run.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_table_without_a_key_that_clients_append_to_is_proven_in_every_move() {
    let (world, mut run) = world().await;
    let load = world.load();
    changed(&mut run, 1).await;
    for (command, owner) in
        [("switch", Side::Green), ("rollback", Side::Blue), ("switch", Side::Green)]
    {
        world.desk.moves(command).await.exits(0);
        world.only_takes_writes(owner).await;
        world.traffic_flows(&load, Duration::from_secs(20)).await;
    }
    let facts = world.desk.facts("moves.journal");
    let certificates: Vec<_> =
        facts.iter().map(ToString::to_string).filter(|f| f.contains("\"certificate\"")).collect();
    assert_eq!(certificates.len(), 3);
    for certificate in certificates {
        assert!(certificate.contains("\"unproven\":[]"), "{certificate}");
        assert!(certificate.contains("\"verdict\":\"equal\""), "{certificate}");
    }
    world.close_the_books(load, Side::Green).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_table_that_did_more_than_grow_refuses_the_switch_until_it_is_compared() {
    let (world, mut run) = world().await;
    let blue = world.superuser(Side::Blue).await;
    // A row that is changed, and one that is removed.
    for statement in [
        "UPDATE audit_log SET what = 'x' WHERE what = '0450000'",
        "DELETE FROM audit_log WHERE what = '0449999'",
    ] {
        blue.batch_execute("INSERT INTO audit_log (what) VALUES ('0450001')").await.expect("a row");
        blue.batch_execute(statement).await.expect(statement);
        changed(&mut run, 1).await;
        is_refused(&world, &mut run, "public.audit_log").await;
    }
    // One that found free space, on blue only.
    blue.batch_execute("INSERT INTO gaps VALUES (1, repeat('x', 200))").await.expect("a row");
    let first = "SELECT min((ctid::text::point)[0]) FROM gaps WHERE n <= 500";
    let page: f64 = blue.query_one(first, &[]).await.expect("its page").get(0);
    assert!(page < 100.0, "the row is on page {page}");
    changed(&mut run, 1).await;
    is_refused(&world, &mut run, "public.gaps").await;

    // Rows at the end that differ on green, behind our back.
    blue.batch_execute("INSERT INTO audit_log (what) VALUES ('0500000'), ('0500001')")
        .await
        .expect("rows");
    world.sides_are_equal().await;
    for statement in [
        "UPDATE audit_log SET what = '0500009' WHERE what = '0500001'",
        "DELETE FROM audit_log WHERE what = '0500000'",
    ] {
        let green = world.superuser(Side::Green).await;
        green.batch_execute(&format!("{PASS}; {statement}")).await.expect("tampering");
        world.desk.ask(&["switch"]).await.exits(1);
        world.only_takes_writes(Side::Blue).await;
        let verify = world.desk.ask(&["verify"]).await;
        verify.exits(1);
        assert_eq!(verify.value["verdict"], "different", "{}", verify.said);
        world.desk.ask(&["switch"]).await.exits(1).says("public.audit_log");
        world.desk.ask(&["verify", "--repair"]).await.exits(0);
        world.desk.ask(&["verify"]).await.exits(0);
        run.ready().await;
    }
    world.desk.moves("switch").await.exits(0);
    world.sides_are_equal().await;
}

//! Writers that go around the pooler, and writers that never end.

use std::time::Duration;

use cutover_core::model::side::Side;
use cutover_sandbox::wait_until;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, error::SqlState};

use crate::{
    program::COMMAND_WITHIN,
    world::{BUDGET, SERVED_WITHIN, World},
};

/// How often each direct writer begins a transaction: no more than green can follow.
const EVERY: Duration = Duration::from_millis(5);

/// Writes to blue until it is refused. Returns its last acknowledged number and the refusal.
fn direct_writer(client: Client, number: i32) -> JoinHandle<(i64, tokio_postgres::Error)> {
    tokio::spawn(async move {
        let mut pace = tokio::time::interval(EVERY);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for n in 1.. {
            pace.tick().await;
            let receipt = format!("INSERT INTO receipts VALUES ({number}, {n})");
            let done = match number % 3 {
                // In autocommit, in a transaction of several statements, and in two phases.
                0 => client.batch_execute(&receipt).await,
                1 => {
                    let statements = [
                        "BEGIN",
                        &receipt,
                        "UPDATE products SET stock = stock - 1 WHERE id = 7",
                        "COMMIT",
                    ];
                    in_turn(&client, &statements).await
                }
                _ => {
                    let prepare = format!("PREPARE TRANSACTION 'e2e-{number}'");
                    let commit = format!("COMMIT PREPARED 'e2e-{number}'");
                    in_turn(&client, &["BEGIN", &receipt, &prepare, &commit]).await
                }
            };
            if let Err(e) = done {
                return (n - 1, e);
            }
        }
        unreachable!("a fence comes before the numbers end")
    })
}

async fn in_turn(client: &Client, statements: &[&str]) -> Result<(), tokio_postgres::Error> {
    for statement in statements {
        client.batch_execute(statement).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_writer_is_on_green_or_was_refused() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    let mut writers = Vec::new();
    for number in 900..906 {
        writers.push((number, direct_writer(world.direct(Side::Blue).await, number)));
    }
    // Superusers, and sessions that hide from triggers, write until the fence as well.
    let hidden = world.superuser(Side::Blue).await;
    hidden.batch_execute("SET session_replication_role = replica").await.expect("a superuser");
    writers.push((906, direct_writer(hidden, 906)));
    wait_until("every writer to write", COMMAND_WITHIN, async || {
        let client = world.superuser(Side::Blue).await;
        let sql = "SELECT count(DISTINCT client) FROM receipts WHERE client >= 900 AND n > 5";
        client.query_one(sql, &[]).await.expect("a count").get::<_, i64>(0) == 7
    })
    .await
    .expect("they write");

    world.desk.moves("switch").await.exits(0);

    let green = world.superuser(Side::Green).await;
    for (number, writer) in writers {
        let (acknowledged, refusal) = writer.await.expect("the writer does not panic");
        assert_eq!(refusal.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION), "{refusal:?}");
        let sql = "SELECT count(*), max(n) FROM receipts WHERE client = $1";
        let row = green.query_one(sql, &[&number]).await.expect("receipts");
        let (count, last): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!((count, last), (acknowledged, acknowledged), "writer {number}");
    }
    every_way_is_refused(&world).await;
    world.close_the_books(load, Side::Green).await;
    let status = run.status("no alarm", COMMAND_WITHIN, |s| s["phase"] == "switched").await;
    assert_eq!(status["alarms"], serde_json::json!([]));
    world.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

/// Nobody writes on blue behind the fence, whatever they set and whoever they are.
async fn every_way_is_refused(world: &World) {
    for side in ["direct", "superuser"] {
        let client = match side {
            "direct" => world.direct(Side::Blue).await,
            _ => world.superuser(Side::Blue).await,
        };
        if side == "superuser" {
            let hide = "SET session_replication_role = replica; \
                        SET default_transaction_read_only = off";
            client.batch_execute(hide).await.expect("a superuser");
        }
        for statement in [
            "INSERT INTO receipts VALUES (999, 1)",
            "UPDATE accounts SET balance = balance + 1 WHERE id = 1",
            "DELETE FROM order_items",
            "TRUNCATE audit_log",
            "INSERT INTO events VALUES (1, '2026-01-05', 'x', NULL)",
            "UPDATE events_2026_01 SET kind = 'x'",
            "COPY receipts FROM PROGRAM 'echo 999,1' CSV",
        ] {
            let refused = client.batch_execute(statement).await;
            let code = refused.as_ref().err().and_then(|e| e.code()).cloned();
            let program = statement.contains("PROGRAM") && side == "direct";
            let wanted = if program {
                SqlState::INSUFFICIENT_PRIVILEGE
            } else {
                SqlState::READ_ONLY_SQL_TRANSACTION
            };
            assert_eq!(code, Some(wanted), "{side}: {statement}: {refused:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_never_ends_stops_the_switch_and_not_the_clients() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    // One that has written before the switch is asked for, in an open session; then one that was
    // prepared and forgotten.
    let open = world.direct(Side::Blue).await;
    open.batch_execute("BEGIN; INSERT INTO receipts VALUES (950, 1)").await.expect("a write");
    refused_within_budget(&world, &load).await;
    open.batch_execute("ROLLBACK").await.expect("an end");
    // The first one met a fence that has to be woken, the second one meets it awake.
    run.ready().await;
    world.desk.wakes_the_fence(&mut run).await;
    let prepare = "BEGIN; INSERT INTO receipts VALUES (951, 1); PREPARE TRANSACTION 'forgotten'";
    open.batch_execute(prepare).await.expect("a prepared transaction");
    refused_within_budget(&world, &load).await;
    open.batch_execute("ROLLBACK PREPARED 'forgotten'").await.expect("an end");

    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.close_the_books(load, Side::Green).await;
}

async fn refused_within_budget(world: &World, load: &cutover_sandbox::shop::Load) {
    load.reset_longest();
    let refused = world.desk.ask(&["switch"]).await;
    refused.exits(1);
    world.only_takes_writes(Side::Blue).await;
    world.traffic_flows(load, SERVED_WITHIN).await;
    let longest = load.reset_longest();
    let most = BUDGET + Duration::from_secs(2);
    assert!(longest < most, "a client waited {longest:?}: {}", refused.said);
}

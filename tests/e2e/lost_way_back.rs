//! Somebody drops the slot of the way back: it stops by name and is never made again silently, what
//! the owner of the writes has is not touched, and the remedy of its page works.

use cutover_core::model::side::Side;
use cutover_sandbox::{shop, wait_until};
use serde_json::Value;
use tokio_postgres::Client;

use crate::{
    program::{COMMAND_WITHIN, Run},
    world::{SERVED_WITHIN, World},
};

/// Drops the slot of the run on green, whoever reads it.
async fn drop_the_slot(green: &Client) {
    wait_until("the slot to be gone", COMMAND_WITHIN, async || {
        let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
                    WHERE active_pid IS NOT NULL";
        green.query(end, &[]).await.expect("it is ended");
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
        green.query(drop, &[]).await.is_ok()
    })
    .await
    .expect("nobody holds it for long");
}

/// The way back has stopped by name, says so, and no slot is there; the other direction flows.
async fn is_told(run: &mut Run, world: &World, green: &Client, owner: Side) {
    let told = |s: &Value| {
        let why = s["ready"]["why"].as_str().unwrap_or_default();
        s["streams"]["back"]["health"]["stopped"]["code"] == "CUT0201"
            && s["streams"]["forward"]["health"] == "flowing"
            && s["ready"]["state"] == "never"
            && why.contains("CUT0201")
            && s["owner"] == owner.as_str()
    };
    run.status("the stop of the way back", COMMAND_WITHIN, told).await;
    world.desk.ask(&["status"]).await.says("CUT0201").says("cutover abort").says("cutover finish");
    let slots = green.query_one("SELECT count(*) FROM pg_replication_slots", &[]).await;
    assert_eq!(slots.expect("slots").get::<_, i64>(0), 0, "it was made again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_slot_of_the_way_back_is_never_made_again() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;

    // Before a switch, in this process and in the next.
    let green = world.superuser(Side::Green).await;
    drop_the_slot(&green).await;
    is_told(&mut run, &world, &green, Side::Blue).await;
    run.kill9();
    let mut run = world.desk.run();
    is_told(&mut run, &world, &green, Side::Blue).await;
    let refused = world.desk.ask(&["switch"]).await;
    refused.exits(1);
    assert!(refused.value["pause_ms"].is_null(), "clients waited: {}", refused.said);
    world.traffic_flows(&load, SERVED_WITHIN).await;
    load.hold(true);
    wait_until("clients to be quiet", COMMAND_WITHIN, async || load.is_idle())
        .await
        .expect("quiet");
    // Blue's changes are followed as before.
    world.sides_are_equal().await;
    load.hold(false);

    // What the page says.
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    drop(green);
    let server = world.server(Side::Green);
    let drop = format!("DROP DATABASE {} WITH (FORCE)", world.database);
    server.execute("postgres", &drop).await.expect("the old database goes");
    shop::empty(server, &world.database, "").await.expect("a new database");
    world.desk.put_state_away();
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    run.ready().await;

    // After a switch.
    let green = world.superuser(Side::Green).await;
    drop_the_slot(&green).await;
    is_told(&mut run, &world, &green, Side::Green).await;
    run.kill9();
    let mut run = world.desk.run();
    is_told(&mut run, &world, &green, Side::Green).await;
    let refused = world.desk.ask(&["rollback"]).await;
    refused.exits(1);
    assert!(refused.value["pause_ms"].is_null(), "clients waited: {}", refused.said);
    world.only_takes_writes(Side::Green).await;
    world.traffic_flows(&load, SERVED_WITHIN).await;
    world.desk.ask(&["abort", "--yes"]).await.exits(1).says("CUT0508");
    // Also without a process: nobody is there who would have to be told.
    run.kill9();
    let finished = world.desk.ask(&["finish", "--yes"]).await;
    assert_eq!(finished.exits(0).value["owner"], "green", "{}", finished.said);
    world.nothing_is_left().await;
    let view = load.stop(COMMAND_WITHIN).await;
    assert_eq!(view.failed, 0, "{:?}", view.first_error);
    let books = shop::check(&green, &view.acknowledged, &view.unknown).await.expect("books");
    assert!(books.are_right(), "{books:?}");
}

//! Other pairs of versions than the usual one, as the same role with the least rights.

use cutover_core::model::side::Side;
use cutover_sandbox::{PgInstall, find_postgres};

use crate::{
    program::COMMAND_WITHIN,
    world::{Options, World},
};

async fn there_and_back(blue: PgInstall, green: PgInstall) {
    let versions = Some((blue, green));
    let world = World::with(Options { versions, ..Options::default() }).await;
    let load = world.load();
    world.desk.ask(&["check"]).await.exits(0);
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.ask(&["verify"]).await.exits(0);
    world.desk.moves("switch").await.exits(0);
    world.only_takes_writes(Side::Green).await;
    world.desk.moves("rollback").await.exits(0);
    world.only_takes_writes(Side::Blue).await;
    world.desk.moves("switch").await.exits(0);
    world.close_the_books(load, Side::Green).await;
    world.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_oldest_to_the_newest_server() {
    let all = find_postgres();
    let (first, last) = (all.first().expect("PostgreSQL"), all.last().expect("PostgreSQL"));
    there_and_back(first.clone(), last.clone()).await;
}

/// A new machine with the same version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_servers_of_one_version() {
    let all = find_postgres();
    let one = all.iter().rfind(|i| i.program("pg_dump").is_some()).expect("a pg_dump");
    there_and_back(one.clone(), one.clone()).await;
}

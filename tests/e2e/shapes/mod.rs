//! Every shape a table can have: checked, copied, followed, compared, moved, written on the other
//! side, and brought back.

mod beside;
mod partitions;
mod tables;

use cutover_core::model::side::Side;
use cutover_sandbox::{PgInstall, find_postgres};

use crate::{
    program::COMMAND_WITHIN,
    world::{Options, World},
};

/// A table (or a few that belong together) and what clients do to it. `{n}` is the round: 1 on
/// blue while the stream runs, 2 on green after the switch, 3 on blue after the rollback.
pub(crate) struct Shape {
    /// Made by the shop, before the run.
    pub(crate) ddl: &'static str,
    /// Filled before the run.
    pub(crate) rows: &'static str,
    /// Each in a transaction of its own.
    pub(crate) changes: &'static [&'static str],
}

/// Makes and fills the shapes on blue.
pub(crate) async fn make(world: &World, shapes: &[Shape]) {
    let client = world.direct(Side::Blue).await;
    client.batch_execute("CREATE SCHEMA shapes; SET search_path = shapes").await.expect("a schema");
    for shape in shapes {
        for text in [shape.ddl, shape.rows] {
            client.batch_execute(text).await.unwrap_or_else(|e| panic!("{e:?}: {text}"));
        }
    }
    client.batch_execute("ANALYZE").await.expect("statistics");
}

/// What clients do in one round.
async fn change(world: &World, owner: Side, shapes: &[Shape], round: u32) {
    let client = world.direct(owner).await;
    client.batch_execute("SET search_path = shapes").await.expect("a search path");
    for text in shapes.iter().flat_map(|s| s.changes) {
        let text = text.replace("{n}", &round.to_string());
        client.batch_execute(&text).await.unwrap_or_else(|e| panic!("{owner}: {e:?}: {text}"));
    }
}

/// The whole way: copy, stream, verify, switch, writes on green, rollback, writes on blue.
async fn travel(world: &World, shapes: &[Shape]) {
    there_and_back(world, shapes).await;
    world.nothing_is_left().await;
}

/// The same, with nothing but the run's own things removed.
pub(crate) async fn there_and_back(world: &World, shapes: &[Shape]) {
    let mut run = world.desk.run();
    run.ready().await;
    change(world, Side::Blue, shapes, 1).await;
    world.sides_are_equal().await;
    world.desk.ask(&["verify"]).await.exits(0);
    world.desk.moves("switch").await.exits(0);
    change(world, Side::Green, shapes, 2).await;
    world.sides_are_equal().await;
    world.desk.ask(&["verify"]).await.exits(0);
    world.desk.moves("rollback").await.exits(0);
    change(world, Side::Blue, shapes, 3).await;
    world.sides_are_equal().await;
    world.desk.ask(&["verify"]).await.exits(0);
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shape_travels_there_and_back() {
    let world = World::new().await;
    make(&world, tables::ALL).await;
    world.desk.ask(&["check"]).await.exits(0);
    travel(&world, tables::ALL).await;
}

/// The newest server refuses what older ones let pass, so it is green here even where the oldest and
/// the newest that are complete are others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shape_travels_to_the_newest_server_and_back() {
    let all = find_postgres();
    let newest = all.iter().max_by_key(|i| i.major).expect("a server").clone();
    let oldest = all
        .iter()
        .filter(|i| i.major < newest.major && i.program("pg_dump").is_some())
        .max_by_key(|i| i.major)
        .expect("an older complete server")
        .clone();
    let world =
        World::with(Options { versions: Some((oldest, newest)), ..Options::default() }).await;
    make(&world, tables::ALL).await;
    travel(&world, tables::ALL).await;
}

/// What older servers do not know at all, between two of the newest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_newest_servers_know_travels_there_and_back() {
    let knows = |install: &PgInstall| install.major >= 18 && install.program("pg_dump").is_some();
    let newest = find_postgres().into_iter().find(knows).expect("a complete server of 18");
    let versions = Some((newest.clone(), newest));
    let world = World::with(Options { versions, ..Options::default() }).await;
    make(&world, tables::FROM_18).await;
    travel(&world, tables::FROM_18).await;
}

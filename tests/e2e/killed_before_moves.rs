//! `kill -9` of `cutover run` again and again on its way to a stream; the next one goes on.

use cutover_core::model::side::Side;
use serde_json::Value;

use crate::world::{Options, World};

fn has(facts: &[Value], kind: &str) -> bool {
    facts.iter().any(|f| f["fact"] == kind)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_copy_is_taken_up_and_ends_equal() {
    // About three seconds of copying, so that a kill meets it half-way.
    let copy = "{ workers: 2, chunk: 1MiB, rate: 1MiB }".to_owned();
    let world = World::with(Options { copy, ..Options::default() }).await;
    let load = world.load();
    // In the middle of: definitions, the first rows, later rows, indexes, arming the way back.
    for (doing, over) in [
        ("captured", "definitions_before_rows"),
        ("copy_began", "copy_ended"),
        ("copied", "copy_ended"),
        ("copy_ended", "definitions_after_rows"),
        ("definitions_after_rows", "move_began"),
    ] {
        let facts = world.desk.run().kill_when("run.journal", doing, move |f| has(f, doing)).await;
        assert!(!has(&facts, over), "{over} came before the kill at {doing}");
    }
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.ask(&["verify"]).await.exits(0).says("equal");

    // In the middle of the stream, with a large transaction under way that is half applied and
    // that ends only after the restart.
    let writer = world.direct(Side::Blue).await;
    let insert = "INSERT INTO audit_log (what) SELECT repeat('x', 200) || i \
                  FROM generate_series(1, 40000) i";
    writer.batch_execute(&format!("BEGIN; {insert}")).await.expect("rows");
    let early = |s: &Value| s["streams"]["forward"]["early"] == 1;
    run.status("the large one to be applied", crate::program::COMMAND_WITHIN, early).await;
    run.kill9();
    let mut run = world.desk.run();
    run.status("the large one to be applied again", crate::program::COMMAND_WITHIN, early).await;
    writer.batch_execute(&format!("{insert}; COMMIT")).await.expect("rows");
    run.streams().await;

    world.close_the_books(load, Side::Blue).await;
    let verify = world.desk.ask(&["verify"]).await;
    verify.exits(0);
    assert!(verify.value["rows"].as_u64().is_some_and(|rows| rows > 80_000), "{}", verify.said);
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(crate::program::COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

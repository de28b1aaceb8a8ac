//! A whole migration while clients keep writing: there, back, and there again.

use std::time::Duration;

use cutover_core::model::side::Side;

use crate::world::World;

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
        world.traffic_flows(&load, Duration::from_secs(20)).await;
    }
    // Asking for what is already so is a plain no.
    world.desk.ask(&["switch"]).await.exits(1).says("CUT0508");

    world.close_the_books(load, Side::Green).await;
    world.desk.ask(&["verify"]).await.exits(0);
    world.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(Duration::from_secs(20)).await.success());
    world.nothing_is_left().await;
    assert!(world.takes_writes(Side::Green).await, "the owner refuses writes after the end");
}

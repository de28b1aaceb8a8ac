//! What stands beside the tables: sequences and large objects.

use cutover_core::model::side::Side;
use tokio_postgres::Client;

use crate::{program::COMMAND_WITHIN, world::World};

/// Each in its own way: how it steps, how many values a session keeps in hand, where it ends.
const SEQUENCES: &str = "
    CREATE SEQUENCE plain;
    CREATE SEQUENCE cached CACHE 20;
    CREATE SEQUENCE down INCREMENT -1;
    CREATE SEQUENCE down_cached INCREMENT -7 CACHE 10 MAXVALUE 1000 START 1000;
    CREATE SEQUENCE large INCREMENT 1000000000000;
    CREATE SEQUENCE small AS smallint START 100;
    CREATE SEQUENCE whole AS integer START 2000000000;
    CREATE SEQUENCE never START 42;
    CREATE SEQUENCE never_down INCREMENT -5 START -42;
    CREATE SEQUENCE placed; SELECT setval('placed', 500, false);
    CREATE SEQUENCE round MINVALUE 1 MAXVALUE 9 CYCLE;
    CREATE TABLE owner_of_some (id serial PRIMARY KEY, other int, n bigint GENERATED ALWAYS AS IDENTITY (CACHE 5));
    CREATE SEQUENCE owned_late OWNED BY owner_of_some.other";
/// Those whose values must never come twice, with their step.
const ONCE: &[(&str, i64)] = &[
    ("plain", 1),
    ("cached", 1),
    ("down", -1),
    ("down_cached", -7),
    ("large", 1_000_000_000_000),
    ("small", 1),
    ("whole", 1),
    ("never", 1),
    ("never_down", -5),
    ("placed", 1),
    ("owner_of_some_id_seq", 1),
    ("owner_of_some_n_seq", 1),
    ("owned_late", 1),
];

/// The warning of a sequence that stays ahead.
const AHEAD: &str = "CUT0186";

async fn next(client: &Client, sequence: &str) -> i64 {
    let asked = client.query_one("SELECT nextval($1::text::regclass)", &[&sequence]).await;
    asked.unwrap_or_else(|e| panic!("{sequence}: {e:?}")).get(0)
}

/// Draws from each with two sessions, each of which keeps values in hand, and adds to `drawn`.
/// A fresh session never goes behind what anybody was given before this call.
async fn draw(world: &World, owner: Side, drawn: &mut [Vec<i64>], but: &[&str]) {
    let sessions = [world.direct(owner).await, world.direct(owner).await];
    for ((name, step), drawn) in ONCE.iter().zip(drawn).filter(|((n, _), _)| !but.contains(n)) {
        let before = drawn.clone();
        for at in [0, 1, 0, 0, 1] {
            let value = next(&sessions[at], name).await;
            assert!(
                !drawn.contains(&value),
                "{name} handed out {value} again on {owner}: {drawn:?}"
            );
            assert!(
                before.iter().all(|b| (value - b).signum() == step.signum()),
                "{name} went back to {value} on {owner}: {before:?}"
            );
            drawn.push(value);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sequence_hands_out_a_value_twice_or_goes_back_over_three_moves() {
    let world = World::new().await;
    world.direct(Side::Blue).await.batch_execute(SEQUENCES).await.expect("sequences");
    let mut drawn = vec![Vec::new(); ONCE.len()];
    let unused = ["never", "never_down", "placed"];
    draw(&world, Side::Blue, &mut drawn, &unused).await;
    // A session that stays, with values in hand: it is not paused by anything.
    let stays = world.direct(Side::Blue).await;
    let in_hand = next(&stays, "cached").await;
    drawn[1].push(in_hand);
    let mut run = world.desk.run();
    run.ready().await;
    draw(&world, Side::Blue, &mut drawn, &unused).await;

    world.desk.moves("switch").await.exits(0);
    let green = world.direct(Side::Green).await;
    assert_eq!(next(&green, "never").await, 42, "a value that nobody had was left out");
    drawn[7].push(42);
    assert_eq!(next(&green, "never_down").await, -42);
    drawn[8].push(-42);
    assert_eq!(next(&green, "placed").await, 500);
    drawn[9].push(500);
    draw(&world, Side::Green, &mut drawn, &[]).await;
    let round: i64 = next(&green, "round").await;
    // Emptied with its sequence: the other side follows that too.
    green
        .batch_execute(
            "TRUNCATE owner_of_some RESTART IDENTITY; INSERT INTO owner_of_some (other) VALUES (1)",
        )
        .await
        .expect("a truncate");
    for at in [10, 11, 12] {
        drawn[at] = Vec::new();
    }
    world.sides_are_equal().await;

    world.desk.moves("rollback").await.exits(0);
    // What the session has in hand since before was never given to anybody.
    let value = next(&stays, "cached").await;
    assert!(!drawn[1].contains(&value), "{value} again: {:?}", drawn[1]);
    let behind = world.direct(Side::Blue).await;
    behind.batch_execute("INSERT INTO owner_of_some (other) VALUES (2)").await.expect("a new row");
    assert_eq!(next(&behind, "round").await, round + 1);
    draw(&world, Side::Blue, &mut drawn, &[]).await;

    world.desk.moves("switch").await.exits(0);
    draw(&world, Side::Green, &mut drawn, &[]).await;
    world.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

/// Whoever sets a sequence back wants it there after a move, too, whatever an earlier move left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_that_was_set_back_goes_on_from_there() {
    let world = World::new().await;
    let sequences = "CREATE SEQUENCE one; CREATE SEQUENCE down INCREMENT -2; CREATE SEQUENCE begun; \
                     CREATE TABLE daily (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int); \
                     INSERT INTO daily (v) SELECT generate_series(1, 40)";
    let draws =
        "SELECT nextval('one'), nextval('down'), nextval('begun') FROM generate_series(1, 30)";
    let back = "SELECT setval('one', 5); SELECT setval('down', -9); ALTER SEQUENCE begun RESTART; \
                TRUNCATE daily RESTART IDENTITY; INSERT INTO daily (v) VALUES (1)";
    let owns = world.direct(Side::Blue).await;
    owns.batch_execute(sequences).await.expect("sequences");
    owns.batch_execute(draws).await.expect("values");
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.moves("rehearse").await.exits(0).says_not(AHEAD);
    for (owner, command) in [(Side::Blue, "switch"), (Side::Green, "rollback")] {
        let owns = world.direct(owner).await;
        owns.batch_execute(draws).await.expect("values");
        world.desk.moves("rehearse").await.exits(0).says_not(AHEAD);
        owns.batch_execute(back).await.expect("they are set back");
        world.desk.moves(command).await.exits(0).says_not(AHEAD);
        let takes = world.direct(owner.other()).await;
        for (name, want) in [("one", 6), ("down", -11), ("begun", 1), ("daily_id_seq", 2)] {
            assert_eq!(next(&takes, name).await, want, "{name} after {command}");
        }
    }

    // Another process does not know that nobody has used them, and says so.
    let owns = world.direct(Side::Blue).await;
    owns.batch_execute(draws).await.expect("values");
    world.desk.moves("rehearse").await.exits(0).says_not(AHEAD);
    assert!(run.terminate().await.success());
    run = world.desk.run();
    run.ready().await;
    owns.batch_execute("SELECT setval('one', 3)").await.expect("it is set back");
    world
        .desk
        .moves("rehearse")
        .await
        .exits(0)
        .says(AHEAD)
        .says("public.one")
        .says_not("public.down");
    world.direct(Side::Green).await.batch_execute("SELECT setval('one', 1)").await.expect("set");
    world.desk.moves("switch").await.exits(0).says_not(AHEAD);
    assert_eq!(next(&world.direct(Side::Green).await, "one").await, 4);
    world.sides_are_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_objects_stop_a_run_and_those_that_come_later_stop_a_move() {
    let world = World::new().await;
    let client = world.direct(Side::Blue).await;
    let made = client.query_one("SELECT lo_from_bytea(0, 'x')", &[]).await.expect("one");
    let first: u32 = made.get(0);
    world.desk.ask(&["check"]).await.exits(1).says("CUT0130").says("1 large object");
    let mut refused = world.desk.run();
    assert_eq!(refused.ended(COMMAND_WITHIN).await.code(), Some(1));
    client.execute("SELECT lo_unlink($1)", &[&first]).await.expect("it goes");
    world.desk.ask(&["check"]).await.exits(0);

    let mut run = world.desk.run();
    run.ready().await;
    let made = client.query_one("SELECT lo_from_bytea(0, 'y')", &[]).await.expect("another");
    let second: u32 = made.get(0);
    world.desk.ask(&["switch"]).await.exits(1).says("CUT0130");
    world.only_takes_writes(Side::Blue).await;
    run.status("the alarm", COMMAND_WITHIN, |s| {
        s["alarms"].as_array().is_some_and(|all| all.iter().any(|a| a["code"] == "CUT0130"))
    })
    .await;
    client.execute("SELECT lo_unlink($1)", &[&second]).await.expect("it goes");
    run.ready().await;
    world.desk.moves("switch").await.exits(0);

    // The way back is held to the same.
    let green = world.direct(Side::Green).await;
    let made = green.query_one("SELECT lo_from_bytea(0, 'z')", &[]).await.expect("one on green");
    world.desk.ask(&["rollback"]).await.exits(1).says("CUT0130");
    world.only_takes_writes(Side::Green).await;
    green.execute("SELECT lo_unlink($1)", &[&made.get::<_, u32>(0)]).await.expect("it goes");
    world.desk.moves("rollback").await.exits(0);
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

//! Definitions that change on the owner of the writes, where the run may watch statements: the
//! stream stops at their place, or makes them on the other side.

use cutover_core::model::side::Side;
use serde_json::Value;

use crate::{
    program::{COMMAND_WITHIN, READY_WITHIN, Run},
    world::{Options, World},
};

/// A world whose run may create event triggers.
async fn world(policy: &str) -> World {
    world_with(policy, Options::default().copy).await
}

async fn world_with(policy: &str, copy: String) -> World {
    let more = format!("ddl: {policy}\n");
    let world = World::with(Options { more, copy, ..Options::default() }).await;
    for side in [Side::Blue, Side::Green] {
        let root = world.superuser(side).await;
        root.batch_execute("ALTER ROLE cutover SUPERUSER").await.expect("a superuser may");
    }
    world
}

/// Runs a statement as the owner of the shop, around the pooler.
async fn alter(world: &World, side: Side, statement: &str) {
    let client = world.direct(side).await;
    client.batch_execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
}

/// Waits until a query says `true` on a side.
async fn holds(world: &World, side: Side, query: &str) {
    let client = world.superuser(side).await;
    let what = format!("{query} on {side}");
    cutover_sandbox::wait_until(&what, READY_WITHIN, async || {
        client.query_one(query, &[]).await.is_ok_and(|row| row.get(0))
    })
    .await
    .unwrap_or_else(|e| panic!("{e}\n{}", world.desk.log()));
}

async fn has_stopped(run: &mut Run, stream: &str, word: &str) {
    run.status("the stream to stop", COMMAND_WITHIN, |s| {
        let stopped = &s["streams"][stream]["health"]["stopped"];
        stopped["code"] == "CUT0515" && stopped["what"].as_str().is_some_and(|w| w.contains(word))
    })
    .await;
}

const RATED: &str = "SELECT count(*) > 0 FROM products WHERE rating = 5";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn safe_changes_follow_under_load_through_kills_and_moves() {
    let world = world("apply").await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;

    // Rows before, inside and behind, with what older rows got.
    alter(
        &world,
        Side::Blue,
        "BEGIN; UPDATE products SET stock = stock WHERE id = 3; \
         ALTER TABLE products ADD COLUMN rating integer NOT NULL DEFAULT 3; \
         ALTER TABLE products ADD COLUMN seen timestamptz DEFAULT now(); SELECT pg_sleep(1); \
         UPDATE products SET rating = 5 WHERE id = 3; COMMIT",
    )
    .await;
    holds(&world, Side::Green, RATED).await;
    run.ready().await;

    // Killed while it is at it, and again while nobody is there.
    alter(&world, Side::Blue, "ALTER TABLE products ALTER COLUMN stock TYPE bigint").await;
    run.kill9();
    alter(&world, Side::Blue, "CREATE INDEX products_rating ON products (rating)").await;
    alter(&world, Side::Blue, "UPDATE products SET stock = 5000000000 WHERE id = 4").await;
    alter(&world, Side::Blue, "ALTER TYPE tier ADD VALUE 'steel'").await;
    alter(
        &world,
        Side::Blue,
        "CREATE TABLE events_2026_03 PARTITION OF events \
         FOR VALUES FROM ('2036-03-01') TO ('2036-04-01')",
    )
    .await;
    alter(&world, Side::Blue, "INSERT INTO events VALUES (-1, '2036-03-02', 'late', NULL)").await;
    run = world.desk.run();
    holds(&world, Side::Green, "SELECT to_regclass('products_rating') IS NOT NULL").await;
    holds(&world, Side::Green, "SELECT count(*) = 1 FROM events_2026_03").await;

    // A table that is new, with rows before it is followed, and a kill in between.
    alter(
        &world,
        Side::Blue,
        "CREATE TABLE coupons (id serial PRIMARY KEY, what text); \
         INSERT INTO coupons (what) SELECT 'x' FROM generate_series(1, 1000)",
    )
    .await;
    holds(&world, Side::Green, "SELECT to_regclass('coupons') IS NOT NULL").await;
    run.kill9();
    alter(&world, Side::Blue, "INSERT INTO coupons (what) VALUES ('y')").await;
    run = world.desk.run();
    holds(&world, Side::Green, "SELECT count(*) = 1001 FROM coupons").await;
    alter(&world, Side::Blue, "UPDATE coupons SET what = 'z' WHERE id = 7").await;
    run.ready().await;
    world.desk.ask(&["verify"]).await.exits(0);

    // The other way round after a move.
    world.desk.moves("switch").await.exits(0);
    world.only_takes_writes(Side::Green).await;
    alter(
        &world,
        Side::Green,
        "ALTER TABLE coupons ADD COLUMN note text; UPDATE coupons SET note = 'n' WHERE id = 8",
    )
    .await;
    holds(&world, Side::Blue, "SELECT count(*) = 1 FROM coupons WHERE note = 'n'").await;
    run.ready().await;
    world.desk.moves("rollback").await.exits(0);
    world.close_the_books(load, Side::Blue).await;
    world.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_safe_stops_before_its_transaction() {
    let world = world("apply").await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    let change = "ALTER TABLE orders DROP COLUMN note";
    alter(
        &world,
        Side::Blue,
        &format!("BEGIN; INSERT INTO audit_log (what) VALUES ('told'); {change}; COMMIT"),
    )
    .await;
    has_stopped(&mut run, "forward", "note").await;
    world.desk.ask(&["switch"]).await.exits(1);
    let green = world.superuser(Side::Green).await;
    let rows = green.query_one("SELECT count(*) FROM audit_log WHERE what = 'told'", &[]).await;
    assert_eq!(rows.expect("a count").get::<_, i64>(0), 0);
    alter(&world, Side::Green, change).await;
    assert!(run.terminate().await.success());
    run = world.desk.run();
    run.ready().await;
    // A table without a key is followed once it has one, and clients change its rows before.
    alter(&world, Side::Blue, "CREATE TABLE coupons (id integer); INSERT INTO coupons VALUES (1)")
        .await;
    cutover_sandbox::wait_until("the missing key to be named", READY_WITHIN, async || {
        world.desk.log().contains("CUT0125")
    })
    .await
    .unwrap_or_else(|e| panic!("{e}\n{}", world.desk.log()));
    alter(&world, Side::Blue, "UPDATE coupons SET id = 2").await;
    alter(&world, Side::Blue, "ALTER TABLE coupons ADD PRIMARY KEY (id)").await;
    // A table that goes away on both sides.
    holds(&world, Side::Green, "SELECT count(*) = 1 FROM coupons WHERE id = 2").await;
    run.ready().await;
    alter(&world, Side::Blue, "DROP TABLE coupons").await;
    has_stopped(&mut run, "forward", "coupons").await;
    alter(&world, Side::Green, "DROP TABLE coupons").await;
    assert!(run.terminate().await.success());
    run = world.desk.run();
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.close_the_books(load, Side::Green).await;
    world.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_default_every_change_stops_at_its_place() {
    let world = world("stop").await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    // Nothing happens for what is taken back, and for what rows do not depend on.
    alter(
        &world,
        Side::Blue,
        "BEGIN; ALTER TABLE products ADD COLUMN gone integer; ROLLBACK; \
         COMMENT ON TABLE products IS 'x'; CREATE TEMP TABLE t (id integer)",
    )
    .await;
    let (add, index) = (
        "ALTER TABLE products ADD COLUMN rating integer",
        "CREATE INDEX products_stock ON products (stock)",
    );
    alter(&world, Side::Blue, add).await;
    alter(&world, Side::Blue, "UPDATE products SET rating = 5 WHERE id = 3").await;
    alter(&world, Side::Blue, index).await;
    has_stopped(&mut run, "forward", "rating").await;
    world.only_takes_writes(Side::Blue).await;
    // Killed instead of stopped: the next one stops again.
    run.kill9();
    run = world.desk.run();
    has_stopped(&mut run, "forward", "rating").await;
    alter(&world, Side::Green, add).await;
    assert!(run.terminate().await.success());
    run = world.desk.run();
    has_stopped(&mut run, "forward", "products_stock").await;
    alter(&world, Side::Green, index).await;
    assert!(run.terminate().await.success());
    run = world.desk.run();
    run.ready().await;
    holds(&world, Side::Green, RATED).await;
    world.desk.moves("switch").await.exits(0);
    world.close_the_books(load, Side::Green).await;
    world.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

/// What is dropped and made anew by one statement: what an operator did as the page says was never
/// enough. Another text is not taken for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_made_anew_is_passed_once_it_is_so_on_both_sides() {
    let world = world("stop").await;
    let mut run = world.desk.run();
    run.ready().await;
    let change = |least: i32| {
        format!(
            "ALTER TABLE transfers DROP CONSTRAINT transfers_amount_check, \
             ADD CONSTRAINT transfers_amount_check CHECK (amount > {least}); \
             BEGIN; DROP INDEX IF EXISTS by_amount; CREATE INDEX by_amount ON transfers (amount); COMMIT"
        )
    };
    alter(&world, Side::Blue, &change(-1)).await;
    for least in [-2, -1] {
        has_stopped(&mut run, "forward", "transfers").await;
        alter(&world, Side::Green, &change(least)).await;
        assert!(run.terminate().await.success());
        run = world.desk.run();
    }
    run.ready().await;
    // A column that is made anew has other values: no text says that both sides are equal.
    let column = "ALTER TABLE orders DROP COLUMN note, ADD COLUMN note text";
    alter(&world, Side::Blue, column).await;
    has_stopped(&mut run, "forward", "note").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ignored_change_stops_only_when_a_row_does_not_fit() {
    let world = world("ignore").await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    alter(&world, Side::Blue, "CREATE INDEX products_stock ON products (stock)").await;
    let add = "ALTER TABLE products ADD COLUMN rating integer";
    alter(&world, Side::Blue, add).await;
    run.status("the change to be seen", COMMAND_WITHIN, |s| {
        s["streams"]["forward"]["definitions"].as_array().is_some_and(|d| d.len() == 2)
    })
    .await;
    alter(&world, Side::Blue, "UPDATE products SET rating = 5 WHERE id = 3").await;
    run.status("the stream to stop", COMMAND_WITHIN, |s| {
        s["streams"]["forward"]["health"]["stopped"]["code"]
            .as_str()
            .is_some_and(|code| code == "CUT0509" || code == "CUT0403")
    })
    .await;
    alter(&world, Side::Green, add).await;
    assert!(run.terminate().await.success());
    run = world.desk.run();
    run.ready().await;
    holds(&world, Side::Green, RATED).await;
    drop(load);
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

/// What is written anew while rows are copied cannot be seen under the snapshot of the copy: it is
/// copied again under a later one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn safe_changes_while_rows_are_copied_lose_no_row() {
    let copy = "{ workers: 1, chunk: 1MiB, rate: 256KiB }".to_owned();
    let world = world_with("apply", copy).await;
    let load = world.load();
    let mut run = world.desk.run();
    let is = |fact: &'static str| move |f: &[Value]| f.iter().any(|f| f["fact"] == fact);
    assert!(world.desk.watch("run.journal", 0, READY_WITHIN, is("copy_began")).await, "no copy");
    // The largest table comes first, and slowly. The next one, and all that are smaller, wait for as
    // long as this session lives.
    let held = world.superuser(Side::Green).await;
    held.batch_execute("BEGIN; LOCK TABLE transfers IN SHARE MODE").await.expect("a lock");
    let copied = world.desk.facts("run.journal");
    let next = |f: &&Value| f["fact"] == "copied" && f["table"]["name"] == "transfers";
    assert!(copied.iter().find(next).is_none(), "the next table is copied already");
    for statement in [
        "ALTER TABLE products ALTER COLUMN stock TYPE bigint",
        "ALTER TABLE products ADD COLUMN more text NOT NULL DEFAULT 'm'",
        "ALTER TABLE accounts ADD COLUMN note text",
        "UPDATE products SET stock = stock + 1; UPDATE accounts SET note = 'n' WHERE id = 1",
        "CREATE INDEX products_more ON products (more)",
        "CREATE INDEX accounts_note ON accounts (note)",
        "CREATE TABLE coupons (id serial PRIMARY KEY, account bigint REFERENCES accounts, what text); \
         CREATE INDEX ON coupons (what); INSERT INTO coupons (what) VALUES ('x')",
        "CREATE TABLE events_2026_03 PARTITION OF events \
         FOR VALUES FROM ('2036-03-01') TO ('2036-04-01')",
        "INSERT INTO events VALUES (-1, '2036-03-02', 'late', NULL)",
    ] {
        alter(&world, Side::Blue, statement).await;
    }
    assert!(!is("copy_ended")(&world.desk.facts("run.journal")), "a lock held nothing up");
    drop(held);
    run.ready().await;
    world.desk.ask(&["verify"]).await.exits(0);
    world.close_the_books(load, Side::Blue).await;
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_never_began_is_in_no_way() {
    let world = world("apply").await;
    world.desk.reconfigure(|yaml| {
        let (before, rest) = yaml.split_once("switch:\n").expect("switches");
        let (_, behind) = rest.split_once("move:").expect("a move");
        format!("{before}move:{behind}")
    });
    let mut run = world.desk.run();
    run.streams().await;
    for command in ["switch", "rehearse"] {
        world.desk.refuses(command, "CUT0739").await;
    }
    // A table that comes with its rows is copied.
    let new = "CREATE TABLE late (id integer PRIMARY KEY); INSERT INTO late VALUES (1)";
    alter(&world, Side::Blue, new).await;
    holds(&world, Side::Green, "SELECT count(*) = 1 FROM late").await;
    alter(&world, Side::Blue, "INSERT INTO late VALUES (2)").await;
    holds(&world, Side::Green, "SELECT count(*) = 2 FROM late").await;
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

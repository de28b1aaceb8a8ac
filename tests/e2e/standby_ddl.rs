//! Definitions that change on the owner of the writes while its standby is read.

use cutover_core::model::side::Side;
use serde_json::Value;

use crate::{
    ddl_partitions_told::{Does, both, ddl, play, rows},
    pair::Pair,
    program::{COMMAND_WITHIN, READY_WITHIN, Run},
    standby::{Readers, goes_on, versions},
};

/// Rows before, with and behind each change.
const CHANGES: &[&[Does]] = &[
    &[
        rows("UPDATE products SET stock = stock + 1 WHERE id = 3"),
        both(
            "BEGIN; UPDATE products SET stock = stock + 1 WHERE id = 3; \
             ALTER TABLE products ADD rating integer NOT NULL DEFAULT 3; \
             UPDATE products SET rating = 5 WHERE id = 3; COMMIT",
            "ALTER TABLE products ADD rating integer NOT NULL DEFAULT 3",
        ),
        rows("UPDATE products SET rating = 6 WHERE id = 4"),
        ddl("ALTER TABLE products ALTER COLUMN stock TYPE bigint"),
        rows("UPDATE products SET stock = 5000000000 WHERE id = 4"),
    ],
    &[
        ddl("CREATE INDEX products_rating ON products (rating)"),
        rows("UPDATE products SET rating = 7 WHERE id = 5"),
        ddl("CREATE INDEX CONCURRENTLY products_stock ON products (stock)"),
        ddl("DROP INDEX products_rating"),
        rows("UPDATE products SET rating = 8 WHERE id = 6"),
    ],
];

/// What `stop` leaves to more than one statement.
const TABLES: &[&[Does]] = &[&[
    ddl("CREATE TYPE mood AS ENUM ('a', 'b')"),
    ddl("CREATE TABLE coupons (id serial PRIMARY KEY, what text, mood mood)"),
    rows("INSERT INTO coupons (what, mood) SELECT 'x', 'a' FROM generate_series(1, 1000)"),
    rows("UPDATE coupons SET what = 'y' WHERE id % 3 = 0"),
    ddl("ALTER TYPE mood ADD VALUE 'c'"),
    rows("INSERT INTO coupons (what, mood) VALUES ('z', 'c'); DELETE FROM coupons WHERE id = 7"),
    ddl("ALTER TABLE coupons ADD note text DEFAULT 'n'"),
    rows("UPDATE coupons SET note = 'm' WHERE id = 8"),
]];

const ON_GREEN: &[&[Does]] = &[&[
    ddl("ALTER TABLE products ADD more varchar(5)"),
    rows("UPDATE products SET more = 'five5' WHERE id = 5"),
    ddl("ALTER TABLE products ALTER more TYPE varchar(9)"),
    ddl("DROP INDEX products_stock"),
    rows("UPDATE products SET more = 'ninechars' WHERE id = 6"),
]];

/// Servers whose standbys are read, and whose runs may watch statements.
async fn readers(name: &str, more: &str) -> Readers {
    let (old, new) = versions();
    let readers = Readers::start(name, &old, &new, more).await;
    for side in [&readers.blue, &readers.green] {
        let root = "ALTER ROLE cutover SUPERUSER";
        side.primary.execute("postgres", root).await.expect("a superuser may");
        side.standby.catch_up(&side.primary).await.expect("it follows");
    }
    readers
}

async fn are_alike(pair: &Pair) {
    assert_eq!(pair.defined(Side::Blue).await, pair.defined(Side::Green).await);
}

async fn ends(readers: &Readers, run: &mut Run) {
    readers.pair.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    readers.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn safe_changes_follow_through_standbys() {
    let readers = readers("told-afar", "ddl: apply\n").await;
    let pair = &readers.pair;
    let mut run = pair.desk.run();
    run.ready().await;
    let load = pair.load();
    for does in CHANGES.iter().chain(TABLES).copied().flatten() {
        pair.does(Side::Blue, does.sql).await;
    }
    pair.holds(Side::Green, "SELECT count(*) = 1 FROM coupons WHERE note = 'm'").await;
    goes_on(&mut run, &load).await;
    are_alike(pair).await;
    pair.desk.ask(&["verify"]).await.exits(0);
    readers.primaries_are_spared().await;
    pair.desk.moves("switch").await.exits(0);
    for does in ON_GREEN.iter().copied().flatten() {
        pair.does(Side::Green, does.sql).await;
    }
    pair.holds(Side::Blue, "SELECT count(*) = 1 FROM products WHERE more = 'ninechars'").await;
    goes_on(&mut run, &load).await;
    are_alike(pair).await;
    pair.desk.ask(&["verify"]).await.exits(0);
    pair.desk.moves("rollback").await.exits(0);
    goes_on(&mut run, &load).await;
    pair.close_the_books(load, Side::Blue).await;
    pair.desk.moves("switch").await.exits(0);
    ends(&readers, &mut run).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_stops_at_its_place_through_standbys() {
    let readers = readers("stops-afar", "ddl: stop\n").await;
    let pair = &readers.pair;
    let mut run = pair.desk.run();
    run.ready().await;
    for story in CHANGES.iter().chain(TABLES) {
        assert_ne!(play(pair, &mut run, Side::Blue, ("on blue", story)).await, 0);
        are_alike(pair).await;
    }
    pair.desk.moves("switch").await.exits(0);
    for story in ON_GREEN {
        assert_ne!(play(pair, &mut run, Side::Green, ("on green", story)).await, 0);
        are_alike(pair).await;
    }
    pair.desk.moves("rollback").await.exits(0);
    pair.sides_are_equal().await;
    pair.desk.moves("switch").await.exits(0);
    ends(&readers, &mut run).await;
}

/// What the primary locks, its standby takes away from whoever reads it there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_while_a_standby_is_copied_lose_no_row() {
    let slowly = "ddl: apply\ncopy: { workers: 1, rate: 1MiB, chunk: 1MiB }\n";
    let readers = readers("copied-afar", slowly).await;
    let pair = &readers.pair;
    for standby in [&readers.blue.standby, &readers.green.standby] {
        for sql in ["ALTER SYSTEM SET max_standby_streaming_delay = 100", "SELECT pg_reload_conf()"]
        {
            standby.execute("postgres", sql).await.expect("a setting");
        }
    }
    let wide = "CREATE TABLE wide (id int PRIMARY KEY, v text, n int); ALTER TABLE wide ALTER v \
        SET STORAGE external; \
        INSERT INTO wide SELECT i, repeat('w', 1000), i FROM generate_series(1, 4000) i";
    pair.does(Side::Blue, wide).await;
    let load = pair.load();
    let mut run = pair.desk.run();
    let is = |fact: &'static str| move |f: &[Value]| f.iter().any(|f| f["fact"] == fact);
    assert!(pair.desk.watch("run.journal", 0, READY_WITHIN, is("copy_began")).await, "no copy");
    // The large table comes first, and slowly. The next one, and all that are smaller, wait for as long
    // as this session lives.
    let held = pair.superuser(Side::Green).await;
    held.batch_execute("BEGIN; LOCK TABLE documents IN SHARE MODE").await.expect("a lock");
    for sql in [
        "ALTER TABLE wide ADD more text",
        "UPDATE wide SET more = 'm' WHERE id % 7 = 0",
        "ALTER TABLE products ALTER COLUMN stock TYPE bigint",
        "UPDATE products SET stock = stock + 1",
        "ALTER TABLE wide ALTER n TYPE bigint",
        "UPDATE wide SET n = 5000000000 WHERE id % 11 = 0",
    ] {
        pair.does(Side::Blue, sql).await;
    }
    assert!(!is("copy_ended")(&pair.desk.facts("run.journal")), "a lock held nothing up");
    drop(held);
    run.ready().await;
    are_alike(pair).await;
    pair.desk.ask(&["verify"]).await.exits(0);
    pair.desk.moves("switch").await.exits(0);
    pair.close_the_books(load, Side::Green).await;
    ends(&readers, &mut run).await;
}

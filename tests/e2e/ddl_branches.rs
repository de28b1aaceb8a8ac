//! Partitioned tables that are parts of others: made piece by piece, hung in at once, cut off.

use cutover_core::model::side::Side;

use crate::{
    ddl_partitions::{looks, verify},
    ddl_partitions_told::{BEFORE, Does, both, ddl, ends, play, rows, servers},
    pair::{Pair, oldest_and_newest},
    program::{COMMAND_WITHIN, Run},
};

const GROWS: &[(&str, &[Does])] = &[
    (
        "an empty branch, attached at once",
        &[
            ddl("CREATE TABLE twig (LIKE parts INCLUDING ALL) PARTITION BY RANGE (id)"),
            ddl("CREATE TABLE twig_a PARTITION OF twig FOR VALUES FROM (0) TO (200)"),
            ddl("ALTER TABLE parts ATTACH PARTITION twig FOR VALUES IN (20)"),
            rows("INSERT INTO parts SELECT i, 20, i, 'twig' FROM generate_series(1, 150) i"),
            rows("UPDATE parts SET v = 'later' WHERE k = 20 AND id > 140"),
        ],
    ),
    (
        "a branch with rows, attached at once",
        &[
            ddl("CREATE TABLE bough (LIKE parts INCLUDING ALL) PARTITION BY RANGE (id); \
                 CREATE TABLE bough_a PARTITION OF bough FOR VALUES FROM (0) TO (100); \
                 CREATE TABLE bough_b PARTITION OF bough FOR VALUES FROM (100) TO (200) \
                 PARTITION BY LIST (k); CREATE TABLE bough_c PARTITION OF bough_b DEFAULT"),
            rows("INSERT INTO bough SELECT i, 21, i, 'before' FROM generate_series(1, 150) i"),
            both(
                "BEGIN; ALTER TABLE parts ATTACH PARTITION bough FOR VALUES IN (21); \
                 UPDATE parts SET v = 'at once' WHERE k = 21 AND id % 50 = 3; COMMIT",
                "ALTER TABLE parts ATTACH PARTITION bough FOR VALUES IN (21)",
            ),
            rows("UPDATE parts SET v = 'later' WHERE k = 21 AND id > 140"),
            rows("DELETE FROM parts WHERE k = 21 AND id < 3"),
            rows("INSERT INTO refs VALUES (1021); INSERT INTO parts VALUES (199, 21, 1021, 'x')"),
        ],
    ),
    (
        "all of it in one transaction",
        &[
            both(
                "BEGIN; CREATE TABLE limb (LIKE parts INCLUDING ALL) PARTITION BY RANGE (id); \
                 CREATE TABLE limb_a PARTITION OF limb FOR VALUES FROM (0) TO (100); \
                 INSERT INTO limb SELECT i, 22, i, 'before' FROM generate_series(1, 50) i; \
                 ALTER TABLE parts ATTACH PARTITION limb FOR VALUES IN (22); \
                 UPDATE parts SET v = 'at once' WHERE k = 22 AND id = 3; COMMIT",
                "BEGIN; CREATE TABLE limb (LIKE parts INCLUDING ALL) PARTITION BY RANGE (id); \
                 CREATE TABLE limb_a PARTITION OF limb FOR VALUES FROM (0) TO (100); \
                 ALTER TABLE parts ATTACH PARTITION limb FOR VALUES IN (22); COMMIT",
            ),
            rows("UPDATE parts SET v = 'later' WHERE k = 22 AND id > 40"),
        ],
    ),
    (
        "a new table with several levels",
        &[
            ddl("CREATE TABLE tree (id int, k int, v text, PRIMARY KEY (id, k)) \
                 PARTITION BY LIST (k)"),
            ddl(
                "CREATE TABLE tree_1 PARTITION OF tree FOR VALUES IN (1) PARTITION BY RANGE (id); \
                 CREATE TABLE tree_1a PARTITION OF tree_1 FOR VALUES FROM (0) TO (100)",
            ),
            rows("INSERT INTO tree SELECT i, 1, 'x' FROM generate_series(1, 9) i"),
            both(
                "BEGIN; CREATE TABLE tree_2 PARTITION OF tree FOR VALUES IN (2) \
                 PARTITION BY RANGE (id); \
                 CREATE TABLE tree_2a PARTITION OF tree_2 FOR VALUES FROM (0) TO (100); \
                 INSERT INTO tree SELECT i, 2, 'y' FROM generate_series(1, 9) i; COMMIT",
                "BEGIN; CREATE TABLE tree_2 PARTITION OF tree FOR VALUES IN (2) \
                 PARTITION BY RANGE (id); \
                 CREATE TABLE tree_2a PARTITION OF tree_2 FOR VALUES FROM (0) TO (100); COMMIT",
            ),
            rows("UPDATE tree SET v = 'z' WHERE id < 4"),
        ],
    ),
];

/// Beside partitions: everything that is safe, at once.
const MIGRATES: &[(&str, &[Does])] = &[
    (
        "a migration in one transaction",
        &[
            both(
                "BEGIN; ALTER TABLE refs ADD note text NOT NULL DEFAULT 'n', ADD word varchar(5); \
                 INSERT INTO refs VALUES (2001, 'o', 'five5'); \
                 ALTER TABLE refs ALTER id TYPE bigint; ALTER TABLE refs ALTER word TYPE varchar(9); \
                 INSERT INTO refs VALUES (5000000000, 'p', 'ninechars'); \
                 CREATE INDEX refs_note ON refs (note); ALTER TYPE tier ADD VALUE 'tin'; \
                 CREATE TABLE fresh (id serial PRIMARY KEY, tier tier, ref bigint REFERENCES refs, \
                 v varchar(5)); CREATE INDEX fresh_v ON fresh (v); \
                 INSERT INTO fresh (v) VALUES ('a'), ('b'); \
                 ALTER TABLE fresh ADD more text DEFAULT 'm'; COMMIT",
                "BEGIN; ALTER TABLE refs ADD note text NOT NULL DEFAULT 'n', ADD word varchar(9); \
                 ALTER TABLE refs ALTER id TYPE bigint; \
                 CREATE INDEX refs_note ON refs (note); ALTER TYPE tier ADD VALUE 'tin'; \
                 CREATE TABLE fresh (id serial PRIMARY KEY, tier tier, ref bigint REFERENCES refs, \
                 v varchar(5)); CREATE INDEX fresh_v ON fresh (v); \
                 ALTER TABLE fresh ADD more text DEFAULT 'm'; COMMIT",
            ),
            rows("INSERT INTO fresh (tier, ref, v) VALUES ('tin', 5000000000, 'c')"),
            ddl("CREATE INDEX CONCURRENTLY fresh_more ON fresh (more)"),
            ddl("DROP INDEX CONCURRENTLY fresh_v"),
            rows("UPDATE fresh SET more = 'x' WHERE id = 1; DELETE FROM fresh WHERE id = 2"),
        ],
    ),
    TYPES,
];

const TYPES: (&str, &[Does]) = (
    "types that are new, and who uses them",
    &[
        ddl("CREATE TYPE never AS (a int); CREATE TYPE mood AS ENUM ('a', 'it''s')"),
        ddl("ALTER TYPE mood ADD VALUE 'b' BEFORE 'it''s'"),
        ddl("DROP TYPE never"),
        ddl("CREATE DOMAIN never AS text COLLATE \"C\" DEFAULT 'd' CONSTRAINT \"no X\" \
             CHECK (VALUE <> 'x') NOT NULL"),
        both(
            "BEGIN; CREATE TYPE couple AS (x mood, \"Y y\" never[]); \
             ALTER TABLE refs ADD mood mood DEFAULT 'a', ADD couple couple; \
             INSERT INTO refs (id, mood, couple) VALUES (3001, 'it''s', ('b', '{q}')); COMMIT",
            "BEGIN; CREATE TYPE couple AS (x mood, \"Y y\" never[]); \
             ALTER TABLE refs ADD mood mood DEFAULT 'a', ADD couple couple; COMMIT",
        ),
        ddl("CREATE TYPE span AS RANGE (SUBTYPE = float8, SUBTYPE_DIFF = float8mi)"),
        ddl("CREATE TABLE typed (id int PRIMARY KEY, n never, m mood[], s span_multirange)"),
        rows("INSERT INTO typed VALUES (1, 'y', '{a,b}', '{[1,2.5)}'), (2, 'z', '{it''s}', '{}')"),
        rows("UPDATE typed SET s = '{(,1),[7,8]}' WHERE id = 2"),
    ],
);

/// What ends: these need somebody under every policy.
const FALLS: &[(&str, &[Does])] = &[
    (
        "a branch is cut off",
        &[
            ddl("ALTER TABLE parts DETACH PARTITION twig"),
            rows("INSERT INTO twig VALUES (190, 20, 1, 'alone'); DELETE FROM twig WHERE id < 9"),
            rows("UPDATE parts SET v = 'stays' WHERE k = 1"),
            ddl("ALTER TABLE tree DETACH PARTITION tree_2 CONCURRENTLY"),
            rows(
                "INSERT INTO tree_2 VALUES (50, 2, 'alone'); INSERT INTO tree VALUES (51, 1, 'x')",
            ),
        ],
    ),
    (
        "and hung in elsewhere",
        &[
            ddl("ALTER TABLE parts ATTACH PARTITION twig FOR VALUES IN (20)"),
            rows("UPDATE parts SET v = 'back' WHERE k = 20"),
            ddl("ALTER TABLE tree_1 DETACH PARTITION tree_1a"),
            rows("UPDATE tree_1a SET v = 'alone' WHERE id = 2; DELETE FROM tree_1a WHERE id = 3"),
        ],
    ),
    (
        "parts are dropped, and a whole branch",
        &[
            ddl("DROP TABLE bough_a"),
            rows("INSERT INTO parts VALUES (198, 21, 1, 'x')"),
            ddl("DROP TABLE limb"),
            rows("INSERT INTO parts VALUES (198, 23, 1, 'to the default')"),
        ],
    ),
    (
        "a schema",
        &[
            ddl("CREATE SCHEMA kept; CREATE TABLE kept.notes (id int PRIMARY KEY, v text)"),
            rows("INSERT INTO kept.notes VALUES (1, 'a'), (2, 'b')"),
        ],
    ),
    (
        "gets another name",
        &[
            both(
                "BEGIN; ALTER SCHEMA kept RENAME TO held; \
                 UPDATE held.notes SET v = 'behind' WHERE id = 2; COMMIT",
                "ALTER SCHEMA kept RENAME TO held",
            ),
            rows("INSERT INTO held.notes VALUES (3, 'c'); DELETE FROM held.notes WHERE id = 1"),
        ],
    ),
];

async fn branches(policy: &str) {
    let (blue, green) = servers().await;
    let name = format!("branches-{policy}");
    let pair = Pair::open(&name, &blue, &green, &format!("ddl: {policy}\n")).await;
    pair.does(Side::Blue, BEFORE).await;
    let mut run = pair.desk.run();
    run.ready().await;
    for (name, story) in GROWS.iter().chain(MIGRATES) {
        let stops = play(&pair, &mut run, Side::Blue, (name, story)).await;
        if policy == "apply" {
            assert_eq!(stops, 0, "{name} needs nobody");
        }
    }
    if policy == "apply" {
        columns_come_before_the_copy(&pair, &mut run).await;
        what_is_copied_again_has_changed(&pair, &mut run).await;
    }
    for (name, story) in FALLS {
        play(&pair, &mut run, Side::Blue, (name, story)).await;
    }
    pair.desk.moves("switch").await.exits(0);
    pair.does(Side::Green, "UPDATE parts SET v = 'green' WHERE k > 19").await;
    pair.desk.moves("rollback").await.exits(0);
    pair.sides_are_equal().await;
    ends(&pair, &mut run).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_grow_by_themselves() {
    branches("apply").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_grow_with_an_operator() {
    branches("stop").await;
}

/// A transaction stays open, so that the copy of new tables waits after their columns were read, and
/// after they were made. Each other shape is followed, whatever rests on what; rows are never copied
/// without a column.
async fn columns_come_before_the_copy(pair: &Pair, run: &mut Run) {
    let holder = pair.direct(Side::Blue).await;
    holder.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.expect("a transaction");
    pair.does(
        Side::Blue,
        "CREATE TABLE late (id int PRIMARY KEY, gone text NOT NULL, w int, t tier); \
         CREATE TABLE later (id serial PRIMARY KEY, late int REFERENCES late); \
         CREATE TABLE latest (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k); \
         CREATE TABLE latest_1 PARTITION OF latest FOR VALUES IN (1); \
         INSERT INTO late VALUES (1, 'g'), (2, 'g'), (3, 'g'); INSERT INTO later (late) VALUES (1); \
         INSERT INTO latest VALUES (1, 1)",
    )
    .await;
    pair.holds(Side::Green, "SELECT to_regclass('latest_1') IS NOT NULL").await;
    for sql in [
        "ALTER TABLE late ADD extra text DEFAULT 'all'",
        "UPDATE late SET extra = 'one' WHERE id = 1",
        "ALTER TABLE late DROP COLUMN gone",
        "ALTER TABLE late ALTER w TYPE text USING 'w' || id",
        "ALTER TABLE latest ADD more int; UPDATE latest SET more = 7",
        "ALTER TYPE tier ADD VALUE 'lead'",
        "INSERT INTO late VALUES (4, 'v', 'lead')",
    ] {
        pair.does(Side::Blue, sql).await;
    }
    holder.batch_execute("COMMIT").await.expect("the end");
    let stops = play(pair, run, Side::Blue, ("columns come before the copy", &[])).await;
    assert_eq!(stops, 0);
    assert!(pair.desk.log().contains("made once more"), "{}", pair.desk.log());
}

/// A part was away while nobody looked, and the whole table is another one by now: it gets what it
/// lacks before its rows come, and so do its other parts.
async fn what_is_copied_again_has_changed(pair: &Pair, run: &mut Run) {
    assert!(run.terminate().await.success());
    for sql in [
        "ALTER TABLE parts DETACH PARTITION parts_2",
        "INSERT INTO parts_2 VALUES (970, 2, 1, 'alone')",
        "ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES IN (2)",
        "ALTER TABLE parts ADD extra text NOT NULL DEFAULT 'e'",
        "UPDATE parts SET extra = 'f' WHERE id % 3 = 0",
        "ALTER TABLE parts ALTER ref TYPE bigint",
        "INSERT INTO refs VALUES (6000000000); UPDATE parts SET ref = 6000000000 WHERE k = 2",
        "CREATE INDEX parts_extra ON parts (extra)",
        "CREATE TYPE again AS ENUM ('a'); ALTER TABLE parts ADD a again",
        "ALTER TYPE again ADD VALUE 'b'",
        "UPDATE parts SET a = 'b' WHERE id % 5 = 0",
    ] {
        pair.does(Side::Blue, sql).await;
    }
    *run = pair.desk.run();
    let stops = play(pair, run, Side::Blue, ("what is copied again has changed", &[])).await;
    assert_eq!(stops, 0);
    assert_eq!(pair.defined(Side::Blue).await, pair.defined(Side::Green).await);
}

/// Nobody may watch statements: what an operator repeats, or what `apply` makes by itself after a
/// restart.
async fn branches_untold(policy: &str) {
    let (blue, green) = oldest_and_newest().await;
    let name = format!("branches-untold-{policy}");
    let pair = Pair::open(&name, &blue, &green, &format!("ddl: {policy}\n")).await;
    pair.does(Side::Blue, BEFORE).await;
    let mut run = pair.desk.run();
    run.ready().await;
    let falls = [MIGRATES, FALLS].concat();
    for (stories, makes) in [(GROWS, policy == "apply"), (&falls, false)] {
        let all = || stories.iter().flat_map(|(_, story)| story.iter());
        for does in all() {
            pair.does(Side::Blue, does.sql).await;
        }
        run.status("the change to be noticed", COMMAND_WITHIN, |s| {
            s["alarms"][0]["code"].as_str().is_some_and(|c| ["CUT0404", "CUT0509"].contains(&c))
        })
        .await;
        pair.desk.ask(&["switch"]).await.exits(1);
        run.terminate().await;
        for statement in all().filter_map(|does| does.define).filter(|_| !makes) {
            pair.does(Side::Green, statement).await;
        }
        run = pair.desk.run();
        run.ready().await;
        assert_eq!(verify(&pair, &["verify"]).await, 0);
        assert_eq!(looks(&pair, Side::Blue).await, looks(&pair, Side::Green).await);
    }
    if policy == "apply" {
        default_in_the_way(&pair, &mut run).await;
    }
    pair.desk.moves("rehearse").await.exits(0);
    ends(&pair, &mut run).await;
}

/// A default partition gives its rows away, and holds them still on green: the remedy works.
async fn default_in_the_way(pair: &Pair, run: &mut Run) {
    for sql in [
        "ALTER TABLE parts DETACH PARTITION parts_rest",
        "CREATE TABLE parts_8 PARTITION OF parts FOR VALUES IN (8)",
        "WITH moved AS (DELETE FROM parts_rest WHERE k = 8 RETURNING *) \
         INSERT INTO parts SELECT * FROM moved",
        "ALTER TABLE parts ATTACH PARTITION parts_rest DEFAULT",
    ] {
        pair.does(Side::Blue, sql).await;
    }
    assert!(run.terminate().await.success());
    *run = pair.desk.run();
    assert_eq!(run.ended(COMMAND_WITHIN).await.code(), Some(3));
    assert!(pair.desk.log().contains("CUT0305"), "{}", pair.desk.log());
    pair.does(Side::Green, "ALTER TABLE parts DETACH PARTITION parts_rest").await;
    *run = pair.desk.run();
    run.streams().await;
    pair.does(Side::Green, "ALTER TABLE parts ATTACH PARTITION parts_rest DEFAULT").await;
    assert!(run.terminate().await.success());
    *run = pair.desk.run();
    run.ready().await;
    assert_eq!(verify(pair, &["verify"]).await, 0);
    assert_eq!(looks(pair, Side::Blue).await, looks(pair, Side::Green).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_are_never_passed_over_where_nobody_watches() {
    branches_untold("ignore").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_are_made_at_the_next_start_where_nobody_watches() {
    branches_untold("apply").await;
}

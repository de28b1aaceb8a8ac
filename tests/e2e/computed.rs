//! Columns that a server computes when they are read, which PostgreSQL has from 18 on: beside stored
//! ones on both sides, and where only green's definitions make them so.
#![allow(clippy::print_stderr, reason = "what is left out must be seen")]

use cutover_core::model::side::Side;
use cutover_sandbox::{PgInstall, find_postgres};

use crate::{
    shapes::{Shape, make, there_and_back},
    world::{Options, World},
};

const SHAPES: &[Shape] = &[
    Shape {
        ddl: "CREATE TABLE computed (id int PRIMARY KEY, a int, t text,
                 twice int GENERATED ALWAYS AS (a * 2) STORED,
                 thrice int GENERATED ALWAYS AS (coalesce(a, 0) * 3) VIRTUAL NOT NULL CHECK (thrice < 100000),
                 loud text GENERATED ALWAYS AS (upper(t)));
              CREATE INDEX computed_twice ON computed (twice)",
        rows: "INSERT INTO computed (id, a, t) SELECT i, i, 'é' || i FROM generate_series(1, 50) i",
        changes: &[
            "INSERT INTO computed (id, a, t) VALUES ({n}00, 5, 'new'), ({n}01, NULL, NULL)",
            "INSERT INTO computed (id, a) SELECT {n}000 + i, i FROM generate_series(1, 80) i",
            "UPDATE computed SET a = a + 1 WHERE twice = 4 OR id % 7 = {n}",
            "UPDATE computed SET t = NULL WHERE loud = 'É2' || {n}",
            "UPDATE computed SET id = id + 500, t = 'moved' WHERE id = 10 + {n}",
            "DELETE FROM computed WHERE thrice = 3 * (40 + {n})",
        ],
    },
    // Named by an index, and in two partitions.
    Shape {
        ddl: "CREATE TABLE chosen (a int, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL, k int NOT NULL);
              CREATE UNIQUE INDEX chosen_k ON chosen (k);
              ALTER TABLE chosen REPLICA IDENTITY USING INDEX chosen_k;
              CREATE TABLE parts (id int PRIMARY KEY, a int, minus int GENERATED ALWAYS AS (-a))
                 PARTITION BY RANGE (id);
              CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
              CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (100) TO (1000)",
        rows: "INSERT INTO chosen (a, k) SELECT i / 2, i FROM generate_series(1, 20) i;
               INSERT INTO parts (id, a) SELECT i * 5, i FROM generate_series(1, 40) i",
        changes: &[
            "UPDATE chosen SET a = -a, k = -k WHERE twice = {n} * 2",
            "DELETE FROM chosen WHERE twice = 14 + {n} * 2",
            "UPDATE parts SET a = a + 1 WHERE minus % 4 = 0",
            "UPDATE parts SET id = id + 501 WHERE id = {n} * 5",
            "INSERT INTO parts (id, a) VALUES (900 + {n}, {n})",
        ],
    },
];

/// Stored on blue; an index on it is one on the expression on green.
const STORED: &[Shape] = &[Shape {
    ddl: "CREATE TABLE computed (id int PRIMARY KEY, a int, t text,
             twice int GENERATED ALWAYS AS (a * 2) STORED,
             loud text GENERATED ALWAYS AS (upper(t)) STORED);
          CREATE INDEX computed_twice ON computed (twice);
          CREATE TABLE whole (a int, twice int GENERATED ALWAYS AS (a * 2) STORED);
          ALTER TABLE whole REPLICA IDENTITY FULL",
    rows: "INSERT INTO computed (id, a, t) SELECT i, i, 'é' || i FROM generate_series(1, 50) i;
           INSERT INTO whole (a) SELECT i / 3 FROM generate_series(1, 30) i",
    changes: &[
        "INSERT INTO computed (id, a, t) VALUES ({n}00, 5, 'new'), ({n}01, NULL, NULL)",
        "UPDATE computed SET a = a + 1 WHERE twice = 4 OR id % 7 = {n}",
        "UPDATE computed SET t = NULL WHERE loud = 'É2' || {n}",
        "DELETE FROM computed WHERE twice = 2 * (40 + {n})",
        "UPDATE whole SET a = a + 100 WHERE ctid = (SELECT min(ctid) FROM whole WHERE a = {n})",
        "DELETE FROM whole WHERE twice = 10 + 2 * {n}",
    ],
}];

const VIRTUAL: &str = "
    CREATE SCHEMA shapes;
    CREATE TABLE shapes.computed (id int PRIMARY KEY, a int, t text,
        twice int GENERATED ALWAYS AS (a * 2) VIRTUAL, loud text GENERATED ALWAYS AS (upper(t)) VIRTUAL);
    CREATE INDEX computed_twice ON shapes.computed ((a * 2));
    CREATE TABLE shapes.whole (a int, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL);
    ALTER TABLE shapes.whole REPLICA IDENTITY FULL";

/// A server of this version, if it is here with its client programs.
fn complete(major: u32) -> Option<PgInstall> {
    let found = find_postgres().into_iter().find(|i| i.major == major);
    let found = found.filter(|i| i.program("pg_dump").is_some());
    if found.is_none() {
        eprintln!("skipped: PostgreSQL {major} is not on this machine with pg_dump");
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn virtual_columns_travel_there_and_back() {
    let Some(newest) = complete(18) else { return };
    let versions = Some((newest.clone(), newest));
    let world = World::with(Options { versions, ..Options::default() }).await;
    make(&world, SHAPES).await;
    world.desk.ask(&["check"]).await.exits(0);
    there_and_back(&world, SHAPES).await;
    let kinds = "SELECT string_agg(attgenerated::text, '' ORDER BY attnum) FROM pg_attribute
                  WHERE attrelid = 'shapes.computed'::regclass AND attgenerated <> ''
                    AND EXISTS (SELECT FROM pg_indexes WHERE indexname = 'computed_twice')";
    let green = world.superuser(Side::Green).await;
    assert_eq!(green.query_one(kinds, &[]).await.expect("kinds").get::<_, &str>(0), "svv");
    world.nothing_is_left().await;
}

/// What green computes when it is read is what blue has stored. Where rows are named as a whole,
/// green would refuse its clients' updates after the move: told before the run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_on_blue_may_be_virtual_on_green() {
    let (Some(old), Some(new)) = (complete(17), complete(18)) else { return };
    let versions = Some((old, new));
    let more = "schema: provided\n".to_owned();
    let world = World::with(Options { versions, more, ..Options::default() }).await;
    // The shop has no part in this.
    let blue = world.superuser(Side::Blue).await;
    blue.batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.expect("a schema");
    make(&world, STORED).await;
    let green = world.direct(Side::Green).await;
    green.batch_execute(VIRTUAL).await.expect("green's own definitions");
    let answer = world.desk.ask(&["check"]).await;
    answer.exits(1).says("CUT0149").says("1 table: shapes.whole");
    let stored = "ALTER TABLE shapes.whole DROP COLUMN twice,
                      ADD COLUMN twice int GENERATED ALWAYS AS (a * 2) STORED";
    green.batch_execute(stored).await.expect("a stored column");
    world.desk.ask(&["check"]).await.exits(0);
    there_and_back(&world, STORED).await;
    world.nothing_is_left().await;
}

//! Partitions that come and go on blue while the run is on, where nobody may watch statements: the
//! run says so by name, and goes on once green is alike and holds the rows.

use cutover_core::model::side::Side;
use cutover_sandbox::wait_for;

use crate::{
    pair::{Pair, oldest_and_newest},
    program::COMMAND_WITHIN,
    world::digest,
};

/// What was there before: a table in parts without a default, and one beside it that is followed.
const BEFORE: &str = "
    CREATE TABLE parts (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
    CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
    CREATE TABLE parts_3 PARTITION OF parts FOR VALUES IN (3);
    CREATE TABLE beside (id int, k int NOT NULL, v text, PRIMARY KEY (id, k));
    INSERT INTO beside SELECT i, 4, 'old' FROM generate_series(1, 10) i;
    INSERT INTO parts SELECT i, 1 + i % 3, 'old' FROM generate_series(1, 30) i";

/// How statements begin that define something.
const DDL: [&str; 3] = ["CREATE", "ALTER", "DROP"];

/// Each statement by itself: a partition that is new, one that was filled before it became one, one
/// that leaves and is written to, and one that is dropped.
const CHANGES: &[&[&str]] = &[
    &[
        "CREATE TABLE parts_5 PARTITION OF parts FOR VALUES IN (5)",
        "INSERT INTO parts VALUES (500, 5, 'new'); INSERT INTO parts_5 VALUES (501, 5, 'new')",
    ],
    &[
        "CREATE TABLE parts_7 (LIKE parts INCLUDING ALL)",
        "INSERT INTO parts_7 SELECT i, 7, 'filled' FROM generate_series(1, 50) i",
        "ALTER TABLE parts ATTACH PARTITION parts_7 FOR VALUES IN (7)",
        "UPDATE parts SET v = 'later' WHERE id = 4 AND k = 7",
    ],
    &["ALTER TABLE parts DETACH PARTITION parts_1", "INSERT INTO parts_1 VALUES (900, 1, 'alone')"],
    &["DROP TABLE parts_3"],
];

/// The rows of every table, and which tables are parts of which.
pub(crate) async fn looks(pair: &Pair, side: Side) -> String {
    let client = pair.superuser(side).await;
    let sql = "SELECT coalesce(string_agg(inhrelid::regclass || ' of ' || inhparent::regclass \
               || ' ' || pg_get_expr(relpartbound, c.oid), ', ' ORDER BY inhrelid::regclass::text), '') \
               FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE relkind IN ('r', 'p')";
    let parts: String = client.query_one(sql, &[]).await.expect("partitions").get(0);
    format!("{}{parts}", digest(&client).await)
}

/// Compares everything, once the run can.
pub(crate) async fn verify(pair: &Pair, arguments: &[&str]) -> i32 {
    wait_for("the run to compare", COMMAND_WITHIN, async || {
        let asked = pair.desk.ask(arguments).await;
        (!asked.said.contains("CUT0507")).then_some(asked.exit)
    })
    .await
    .expect("it does")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_come_and_go_are_never_passed_over() {
    let (blue, green) = oldest_and_newest().await;
    let pair = Pair::open("parts", &blue, &green, "ddl: ignore\n").await;
    pair.does(Side::Blue, BEFORE).await;
    let mut run = pair.desk.run();
    run.ready().await;
    for change in CHANGES {
        for statement in *change {
            pair.does(Side::Blue, statement).await;
        }
        run.status("the change to be noticed", COMMAND_WITHIN, |s| {
            s["alarms"][0]["code"].as_str().is_some_and(|c| ["CUT0404", "CUT0509"].contains(&c))
        })
        .await;
        pair.desk.ask(&["switch"]).await.exits(1);
        run.terminate().await;
        let definitions = change.iter().filter(|s| DDL.iter().any(|word| s.starts_with(word)));
        for statement in definitions {
            pair.does(Side::Green, statement).await;
        }
        run = pair.desk.run();
        run.streams().await;
        // Rows that nobody followed were copied by the start.
        assert_eq!(verify(&pair, &["verify"]).await, 0, "{change:?}");
        run.ready().await;
        assert_eq!(looks(&pair, Side::Blue).await, looks(&pair, Side::Green).await);
    }
    assert_eq!(verify(&pair, &["verify"]).await, 0);
    pair.desk.moves("switch").await.exits(0);
    pair.does(Side::Green, "UPDATE parts SET v = 'back' WHERE id < 6").await;
    pair.desk.moves("rollback").await.exits(0);
    pair.sides_are_equal().await;
    pair.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    pair.nothing_is_left().await;
}

//! Tables that become others between the snapshot of a copy and their turn: the rest is copied
//! meanwhile, and they are read under a later snapshot.

use cutover_core::model::side::Side;
use serde_json::Value;

use crate::{
    pair::{Pair, oldest_and_newest},
    program::READY_WITHIN,
};

/// Four seconds of the first one; none can be copied in ranges of its key.
const SLOWLY: &str = "copy: { workers: 1, chunk: 1MiB, rate: 1536KiB }\n";
const TABLES: &str = "
    CREATE TABLE first (id text PRIMARY KEY, v text);
    CREATE TABLE packed (LIKE first INCLUDING ALL);
    CREATE TABLE gone (LIKE first INCLUDING ALL);
    CREATE TABLE last (LIKE first INCLUDING ALL);
    CREATE TABLE emptied (id integer PRIMARY KEY, n integer);
    INSERT INTO first SELECT i, repeat('v', 1000) FROM generate_series(1, 6000) i;
    INSERT INTO packed SELECT i, repeat('v', 1000) FROM generate_series(1, 4000) i;
    INSERT INTO gone SELECT i, repeat('v', 1000) FROM generate_series(1, 3000) i;
    INSERT INTO last SELECT i, repeat('v', 1000) FROM generate_series(1, 2000) i;
    INSERT INTO emptied SELECT i, 0 FROM generate_series(1, 100) i";
const FIRST_IS_READ: &str = "SELECT count(*) > 0 FROM pg_stat_activity \
    WHERE usename = 'cutover' AND query LIKE 'COPY %first%'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_not_what_it_was_holds_up_no_other() {
    let (blue, green) = oldest_and_newest().await;
    let pair = Pair::open("later", &blue, &green, SLOWLY).await;
    pair.does(Side::Blue, TABLES).await;
    let mut run = pair.desk.run();
    pair.holds(Side::Blue, FIRST_IS_READ).await;
    // The others wait for as long as this session lives.
    let held = pair.superuser(Side::Green).await;
    held.batch_execute("BEGIN; LOCK TABLE first IN SHARE MODE").await.expect("a lock");
    let is_copied = |f: &Value| f["fact"] == "copied" && f["table"]["name"] == "first";
    assert!(!pair.desk.facts("run.journal").iter().any(is_copied), "it is copied already");
    pair.does(Side::Blue, "VACUUM FULL packed").await;
    pair.does(Side::Blue, "DROP TABLE gone").await;
    // Rows of before that the stream tells of, and the copy would not have.
    pair.does(Side::Blue, "UPDATE emptied SET n = 1").await;
    pair.does(Side::Blue, "TRUNCATE emptied; INSERT INTO emptied VALUES (1, 1)").await;
    drop(held);
    run.streams().await;

    let facts = pair.desk.facts("run.journal");
    let begins: Vec<usize> =
        (0..facts.len()).filter(|i| facts[*i]["fact"] == "copy_began").collect();
    let copied = |table: &str| {
        let of = |f: &Value| f["fact"] == "copied" && f["table"]["name"] == table;
        let at: Vec<usize> = (0..facts.len()).filter(|i| of(&facts[*i])).collect();
        assert_eq!(at.len(), 1, "{table}");
        begins.iter().filter(|begin| **begin < at[0]).count()
    };
    assert_eq!(["first", "last"].map(copied), [1, 1], "one snapshot was enough");
    assert_eq!(["packed", "emptied"].map(copied), [2, 2], "a later one");

    // It was dropped on blue alone, and nobody told us.
    assert!(run.terminate().await.success());
    pair.does(Side::Green, "DROP TABLE gone").await;
    run = pair.desk.run();
    run.ready().await;
    pair.sides_are_equal().await;
    pair.completes(run).await;
}

/// A table that is emptied again and again does not hold up the run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_emptied_all_the_time_is_copied() {
    let (blue, green) = oldest_and_newest().await;
    let pair = Pair::open("staging", &blue, &green, "copy: { workers: 1, rate: 3MiB }\n").await;
    pair.does(Side::Blue, TABLES).await;
    let client = pair.direct(Side::Blue).await;
    let empties = tokio::spawn(async move {
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(5));
        loop {
            pace.tick().await;
            let again =
                "TRUNCATE emptied; INSERT INTO emptied SELECT i, 0 FROM generate_series(1, 9) i";
            client.batch_execute(again).await.expect("it is emptied");
        }
    });
    let mut run = pair.desk.run();
    run.status("the stream", READY_WITHIN, |s| s["phase"] == "streaming").await;
    empties.abort();
    empties.await.expect_err("it goes on until it is told to stop");
    run.ready().await;
    pair.sides_are_equal().await;
}

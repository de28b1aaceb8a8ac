//! What came into a table without a key is read at its end, and nothing else is called equal.

use std::sync::Arc;

use cutover::{
    transform::{Pair, map},
    verify::{
        Verdict,
        full::{self, Aligned},
        reading::Readings,
        tail::{self, Grown, Growth, Place},
    },
};
use cutover_core::{
    model::{selection::Selection, side::Side},
    port::source::Source,
};
use tokio_postgres::Client;

use crate::world::{World, run};

/// More pages than the end of a table has, full of rows of one size; and those of another table are
/// in one place on one side, in two on the other.
const LOGS: &str = "CREATE TABLE log (a int, b text) WITH (autovacuum_enabled = off);
    ALTER TABLE log REPLICA IDENTITY FULL;
    INSERT INTO log SELECT i, lpad(i::text, 200, '0') FROM generate_series(1, 90000) i";
const LEAVES: &str = "CREATE TABLE cut (a int, b text) PARTITION BY LIST (a);
    CREATE TABLE cut_1 PARTITION OF cut FOR VALUES IN (1);
    CREATE TABLE cut_2 PARTITION OF cut FOR VALUES IN (2)";

/// One row of the log.
fn row(n: u32) -> String {
    format!("INSERT INTO log VALUES ({n}, lpad('{n}', 200, '0'))")
}

async fn pair(w: &World, name: &str) -> Pair {
    let all = Selection::default();
    let blue = w.database(Side::Blue).tables(&all).await.unwrap();
    let green = w.database(Side::Green).tables(&all).await.unwrap();
    let pairs = map(&blue, &green).unwrap().pairs;
    pairs.iter().find(|pair| pair.name.name == name).unwrap().clone()
}

/// Both sides as of now.
async fn aligned(w: &World) -> Aligned {
    let (position, blue) = w.database(Side::Blue).snapshot_at_position().await.unwrap();
    let green = w.database(Side::Green).snapshot().await.unwrap();
    Aligned { position, blue: Arc::from(blue), green: Arc::from(green) }
}

/// A mark of now.
async fn mark(w: &World, pair: &Pair) -> Grown {
    let aligned = aligned(w).await;
    let marks = tail::marks(&aligned, std::slice::from_ref(pair), &[true]).await.unwrap();
    let mark = marks.into_iter().next().flatten().expect("a heap without a key has an end");
    Grown { mark: Arc::new(mark), growth: Growth::default(), elsewhere: false }
}

/// What is proven when the stream brought so many rows since.
async fn proven(w: &World, pair: &Pair, mark: &Grown, rows: u64) -> Verdict {
    proven_at(Place::End, w, pair, mark, rows).await
}

async fn proven_at(place: Place, w: &World, pair: &Pair, mark: &Grown, rows: u64) -> Verdict {
    let (blue, green) = (w.database(Side::Blue).reader(), w.database(Side::Green).reader());
    let gains = tail::gains(&blue, &green, place, &[(pair, mark)]).await.unwrap();
    tail::verdict(gains[0], Growth { rows, ..Growth::default() })
}

async fn both(w: &World, statements: &[&str]) {
    for client in [&w.blue, &w.green] {
        run(client, statements).await;
    }
}

/// The first page with one of these rows.
async fn page(client: &Client, which: &str) -> f64 {
    let page = format!("SELECT min((ctid::text::point)[0]) FROM log WHERE {which}");
    client.query_one(&page, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_is_equal_when_all_of_it_is_there() {
    let w = World::with("tails", LOGS).await;
    let log = pair(&w, "log").await;
    // On green a transaction is open that others do not see yet.
    let late = w.client(Side::Green).await;
    run(&late, &["BEGIN", &row(100_001)]).await;
    let since = mark(&w, &log).await;
    assert_eq!(proven(&w, &log, &since, 0).await, Verdict::Equal);

    run(&w.blue, &[&row(100_001), &row(100_002), &row(100_003)]).await;
    assert_eq!(proven(&w, &log, &since, 3).await, Verdict::Inconclusive, "green lacks them");
    run(&w.green, &["BEGIN", &row(100_003), "ROLLBACK", &row(100_003), &row(100_002)]).await;
    run(&late, &["COMMIT"]).await;
    assert_eq!(proven(&w, &log, &since, 3).await, Verdict::Equal);
    for wrong in [2, 4] {
        assert_eq!(proven(&w, &log, &since, wrong).await, Verdict::Inconclusive);
    }

    // Vacuum freezes and packs rows, and moves none.
    both(&w, &["VACUUM (FREEZE) log"]).await;
    assert_eq!(proven(&w, &log, &since, 3).await, Verdict::Equal);

    run(&w.green, &["DELETE FROM log WHERE a = 100002"]).await;
    assert_eq!(proven(&w, &log, &since, 3).await, Verdict::Inconclusive, "one is missing");
    run(&w.green, &[&row(100_002), "UPDATE log SET b = 'x' WHERE a = 100003"]).await;
    assert_eq!(proven(&w, &log, &since, 3).await, Verdict::Different, "one is another");
    // Also where the place of it was the mark's.
    run(&w.green, &["DELETE FROM log WHERE a = 100003", &row(100_003)]).await;
    assert_eq!(proven(&w, &log, &since, 3).await, Verdict::Equal);

    // A later mark counts from there.
    let later = mark(&w, &log).await;
    both(&w, &[&row(100_004)]).await;
    assert_eq!(proven(&w, &log, &later, 1).await, Verdict::Equal);
    assert_eq!(proven(&w, &log, &since, 4).await, Verdict::Equal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_finds_free_space_is_never_called_equal() {
    let w = World::with("gaps", LOGS).await;
    let log = pair(&w, "log").await;
    both(&w, &["DELETE FROM log WHERE a <= 1000", "VACUUM log"]).await;
    let since = mark(&w, &log).await;
    assert_eq!(proven(&w, &log, &since, 0).await, Verdict::Equal);
    run(&w.blue, &[&row(200_001)]).await;
    run(&w.green, &[&row(200_002)]).await;
    for client in [&w.blue, &w.green] {
        assert!(page(client, "a > 200000").await < 100.0, "the rows found free space");
    }
    // Both ends are as they were, and the rows differ.
    assert_eq!(proven(&w, &log, &since, 1).await, Verdict::Inconclusive);
    // Who looks everywhere finds them.
    let anywhere = async |rows| proven_at(Place::Anywhere, &w, &log, &since, rows).await;
    assert_eq!(anywhere(1).await, Verdict::Different);
    run(&w.blue, &[&row(200_002)]).await;
    run(&w.green, &[&row(200_001)]).await;
    assert_eq!(anywhere(2).await, Verdict::Equal);
    assert_eq!(proven(&w, &log, &since, 2).await, Verdict::Inconclusive);
    // Whatever else comes.
    both(
        &w,
        &["INSERT INTO log SELECT i, lpad(i::text, 200, '0') FROM generate_series(1, 3000) i"],
    )
    .await;
    assert!(page(&w.blue, "a BETWEEN 2000 AND 3000").await < 100.0);
    for rows in [3_002, 2_000, 2] {
        assert_ne!(proven(&w, &log, &since, rows).await, Verdict::Equal);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ends_of_all_partitions_count_together() {
    let w = World::new("ends").await;
    run(&w.blue, &[LEAVES]).await;
    run(&w.green, &["CREATE TABLE cut (a int, b text)"]).await;
    let cut = pair(&w, "cut").await;
    assert_eq!((cut.blue.len(), cut.green.len(), cut.keyed), (2, 1, false));
    both(&w, &["INSERT INTO cut VALUES (1, 'a'), (2, 'b')"]).await;
    let since = mark(&w, &cut).await;
    both(&w, &["INSERT INTO cut VALUES (1, 'c'), (2, 'd'), (2, 'd')"]).await;
    assert_eq!(proven(&w, &cut, &since, 3).await, Verdict::Equal);
    run(&w.green, &["UPDATE cut SET a = 2 WHERE b = 'c'"]).await;
    assert_eq!(proven(&w, &cut, &since, 3).await, Verdict::Different);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_emptied_while_it_is_compared_is_not_called_different() {
    let w = World::new("emptied").await;
    let t = pair(&w, "t").await;
    let compare = async |at: Aligned| {
        let reading = Readings::default().begin();
        let report = full::pass(&at, std::slice::from_ref(&t), 2, &reading, &|_, _| {}).await;
        report.unwrap().tables.remove(0)
    };
    for side in [Side::Blue, Side::Green] {
        for then in ["SELECT", "INSERT INTO t VALUES (1, 'later')"] {
            both(&w, &["TRUNCATE t", "INSERT INTO t VALUES (1, 'a'), (2, 'b')"]).await;
            let before = aligned(&w).await;
            run(w.on(side), &["TRUNCATE t", then]).await;
            let found = compare(before).await;
            assert_eq!(found.verdict, Verdict::Inconclusive, "{side}, {then}: {found:?}");
            assert!(found.differences.is_empty(), "{found:?}");
            // From here on it is what it is.
            let found = compare(aligned(&w).await).await;
            assert_eq!(found.verdict, Verdict::Different, "{side}, {then}");
        }
    }
    both(&w, &["TRUNCATE t"]).await;
    assert_eq!(compare(aligned(&w).await).await.verdict, Verdict::Equal);
}

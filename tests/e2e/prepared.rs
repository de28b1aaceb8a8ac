//! Transactions that clients prepare and end much later: before the slot is there, while rows are
//! copied, while nobody works on the run, in the way of a move, in both directions.

use cutover_core::model::side::Side;
use cutover_sandbox::{PgOptions, Postgres, StopMode, find_postgres, shop};
use serde_json::Value;

use crate::{
    pair::Pair,
    program::{COMMAND_WITHIN, Run},
};

/// A transaction that writes receipt `n`, leaves out what it took back, and changes another row.
fn writes(n: u32) -> String {
    format!(
        "BEGIN; INSERT INTO receipts VALUES (700, {n}); SAVEPOINT a; \
         INSERT INTO receipts VALUES (701, {n}); ROLLBACK TO a; \
         UPDATE products SET stock = stock + 1 WHERE id = {n}"
    )
}

/// Somebody prepares such a transaction.
async fn prepare(pair: &Pair, side: Side, n: u32) {
    pair.does(side, &format!("{}; PREPARE TRANSACTION 'p{n}'", writes(n))).await;
}

async fn ends(pair: &Pair, side: Side, how: &str, n: u32) {
    pair.does(side, &format!("{how} PREPARED 'p{n}'")).await;
}

/// Exactly these receipts come to be on a side.
async fn arrive(pair: &Pair, side: Side, wanted: &[u32]) {
    let sql = format!(
        "SELECT coalesce(array_agg(n::int ORDER BY n), '{{}}') = ARRAY{wanted:?}::int[] \
         FROM receipts WHERE client BETWEEN 700 AND 701"
    );
    pair.holds(side, &sql).await;
}

/// A client prepares transaction `n` while the fence waits for it, and the run is killed. The next
/// one refuses the move for as long as the transaction is there.
async fn stands_in_the_way(
    pair: &Pair,
    mut run: Run,
    command: &'static str,
    side: Side,
    n: u32,
) -> Run {
    let (asked, writer) = pair.held_in_the_fence(command, side, &writes(n)).await;
    let prepare = format!("PREPARE TRANSACTION 'p{n}'");
    writer.batch_execute(&prepare).await.expect("it may end what it began");
    run.kill9();
    asked.await.expect("the command ends");
    let mut run = pair.desk.run();
    run.streams().await;
    pair.desk.ask(&[command]).await.exits(1);
    run
}

/// Waits until the run has noted a fact.
async fn comes_to(pair: &Pair, fact: &'static str) {
    let there = move |facts: &[Value]| facts.iter().any(|f| f["fact"] == fact);
    assert!(pair.desk.watch("run.journal", 0, COMMAND_WITHIN, there).await, "never: {fact}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_prepared_is_carried_over_once_or_stands_in_the_way_of_a_move() {
    let all = find_postgres();
    let start = async |install| Postgres::start(install, PgOptions::new()).await.expect("a server");
    let (mut blue, mut green) = tokio::join!(
        start(all.first().expect("PostgreSQL")),
        start(all.last().expect("PostgreSQL"))
    );
    shop::roles(&[&blue, &green]).await.expect("roles");
    let pair = Pair::open("prepared", &blue, &green, "").await;
    pair.desk.waits_for_open_transactions();

    // Prepared before the slot is made: that waits for it, and its rows are copied.
    let writer = pair.direct(Side::Blue).await;
    writer.batch_execute("BEGIN; INSERT INTO receipts VALUES (1, 1)").await.expect("a write");
    let mut run = pair.desk.run();
    let waits = "SELECT count(*) = 1 FROM pg_replication_slots WHERE confirmed_flush_lsn IS NULL";
    pair.holds(Side::Blue, waits).await;
    prepare(&pair, Side::Blue, 1).await;
    writer.batch_execute("COMMIT").await.expect("an end");
    pair.holds(Side::Blue, waits).await;
    ends(&pair, Side::Blue, "COMMIT", 1).await;
    comes_to(&pair, "captured").await;
    // Prepared while rows are copied, and again under another snapshot.
    prepare(&pair, Side::Blue, 2).await;
    prepare(&pair, Side::Blue, 3).await;
    run.kill9();
    ends(&pair, Side::Blue, "COMMIT", 2).await;
    run = pair.desk.run();
    comes_to(&pair, "copy_ended").await;
    // No snapshot has it, and the fence of blue waits for it.
    ends(&pair, Side::Blue, "COMMIT", 3).await;
    run.ready().await;
    arrive(&pair, Side::Green, &[1, 2, 3]).await;

    // Ended while neither the server nor the run was there all the time.
    prepare(&pair, Side::Blue, 4).await;
    prepare(&pair, Side::Blue, 5).await;
    run.kill9();
    blue.stop(StopMode::Immediate).await.expect("it stops");
    blue.start_again().await.expect("it starts");
    ends(&pair, Side::Blue, "COMMIT", 4).await;
    ends(&pair, Side::Blue, "ROLLBACK", 5).await;
    run = pair.desk.run();
    arrive(&pair, Side::Green, &[1, 2, 3, 4]).await;
    run.ready().await;

    pair.desk.wakes_the_fence(&mut run).await;
    run = stands_in_the_way(&pair, run, "switch", Side::Blue, 6).await;
    ends(&pair, Side::Blue, "COMMIT", 6).await;
    run.ready().await;
    pair.desk.moves("switch").await.exits(0);
    arrive(&pair, Side::Green, &[1, 2, 3, 4, 6]).await;

    // The same on the way back.
    prepare(&pair, Side::Green, 8).await;
    green.stop(StopMode::Immediate).await.expect("it stops");
    green.start_again().await.expect("it starts");
    run.streams().await;
    ends(&pair, Side::Green, "ROLLBACK", 8).await;
    // While it is open no move is possible, and the run says so.
    run.ready().await;
    run = stands_in_the_way(&pair, run, "rollback", Side::Green, 7).await;
    ends(&pair, Side::Green, "COMMIT", 7).await;
    run.ready().await;
    arrive(&pair, Side::Blue, &[1, 2, 3, 4, 6, 7]).await;
    pair.desk.moves("rollback").await.exits(0);
    pair.desk.ask(&["verify"]).await.exits(0);
    pair.sides_are_equal().await;
    pair.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    pair.nothing_is_left().await;
}

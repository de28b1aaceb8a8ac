//! Rows that definitions change without a word in the log, where no event trigger tells of it.

use cutover_core::model::side::Side;
use cutover_sandbox::{Postgres, shop::Load};
use serde_json::Value;

use crate::{
    pair::{Pair, oldest_and_newest},
    program::{COMMAND_WITHIN, Run},
};

/// Writes every row of a table anew, with other values.
const OTHER_VALUES: &str =
    "ALTER TABLE products ALTER COLUMN name TYPE text USING upper(name) || '!'";
/// A partition is not in the publication itself, so the server lets it leave the log for a while.
const OUT_OF_THE_LOG: &str = "ALTER TABLE events_2026_01 SET UNLOGGED; \
    INSERT INTO events SELECT i, '2026-01-15', 'unlogged' FROM generate_series(9001, 9010) i; \
    ALTER TABLE events_2026_01 SET LOGGED";
const TABLES: &str = "CREATE TABLE old (id integer PRIMARY KEY, what text); \
    CREATE TABLE new (LIKE old INCLUDING ALL); \
    INSERT INTO old VALUES (1, 'old'); INSERT INTO new VALUES (1, 'new'), (2, 'new')";
const EXCHANGED: &str = "BEGIN; ALTER TABLE old RENAME TO gone; ALTER TABLE new RENAME TO old; \
    ALTER TABLE gone RENAME TO new; COMMIT";
const EMPTIED: &str =
    "BEGIN; ALTER TABLE orders DROP COLUMN note; ALTER TABLE orders ADD COLUMN note text; COMMIT";

/// A table is out of the publication for as long as it takes to write to it.
const OUT_OF_THE_STREAM: &str = "ALTER PUBLICATION cutover_unseen DROP TABLE old; \
    INSERT INTO old VALUES (5, 'missing'); ALTER PUBLICATION cutover_unseen ADD TABLE old";

fn alarmed(status: &Value, table: &str) -> bool {
    let says = |a: &Value| {
        a["code"] == "CUT0509" && a["what"].as_str().is_some_and(|what| what.contains(table))
    };
    status["alarms"].as_array().is_some_and(|alarms| alarms.iter().any(says))
}

async fn is_alarmed(run: &mut Run, table: &str) {
    run.status("what changed to be noticed", COMMAND_WITHIN, |s| alarmed(s, table)).await;
}

/// A run under load that is ready for a move.
async fn begun(name: &str, servers: &(Postgres, Postgres)) -> (Pair, Load, Run) {
    let pair = Pair::open(name, &servers.0, &servers.1, "").await;
    pair.desk.waits_for_open_transactions();
    pair.does(Side::Blue, TABLES).await;
    let load = pair.load();
    let mut run = pair.desk.run();
    run.ready().await;
    (pair, load, run)
}

/// The end of a run: nothing is lost, both sides are equal, nothing is left.
async fn over(pair: &Pair, load: Load, mut run: Run, owner: Side) {
    pair.close_the_books(load, owner).await;
    let command = if owner == Side::Green { "finish" } else { "abort" };
    pair.desk.ask(&[command, "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    pair.nothing_is_left().await;
}

/// Stops and starts `cutover run`, as the remedy says.
async fn restarted(pair: &Pair, run: &mut Run) -> Run {
    assert!(run.terminate().await.success());
    let mut run = pair.desk.run();
    run.ready().await;
    run
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_change_without_a_word_in_the_log_are_noticed() {
    let servers = oldest_and_newest().await;
    let (pair, load, mut run) = begun("unseen", &servers).await;

    // Rows that differ are found again, and copied again.
    for (change, table) in [(OTHER_VALUES, "products"), (OUT_OF_THE_LOG, "events_2026_01")] {
        pair.does(Side::Blue, change).await;
        // At once, and not only when somebody has looked: behind the fence at the latest.
        pair.desk.refuses("switch", table).await;
        pair.desk.ask(&["verify"]).await.exits(1).says(table);
        let name = format!("public.{table}");
        pair.desk.ask(&["verify", "--table", &name, "--repair"]).await.exits(0);
        pair.desk.ask(&["verify"]).await.exits(0);
        run.ready().await;
    }

    // Another table takes the name: its rows go nowhere before green's tables have done the same.
    pair.does(Side::Blue, "INSERT INTO old VALUES (2, 'old')").await;
    pair.holds(Side::Green, "SELECT count(*) = 2 FROM old").await;
    pair.does(Side::Blue, EXCHANGED).await;
    pair.does(Side::Blue, "INSERT INTO old VALUES (3, 'new')").await;
    run.status("the stream to stop", COMMAND_WITHIN, |s| {
        s["streams"]["forward"]["health"]["stopped"]["code"] == "CUT0509"
    })
    .await;
    pair.desk.ask(&["switch"]).await.exits(1).says("public.old");
    pair.does(Side::Green, EXCHANGED).await;
    run = restarted(&pair, &mut run).await;

    pair.does(Side::Blue, EMPTIED).await;
    is_alarmed(&mut run, "public.orders").await;
    pair.desk.ask(&["switch"]).await.exits(1).says("public.orders");
    pair.does(Side::Green, EMPTIED).await;
    run = restarted(&pair, &mut run).await;

    // It is copied again.
    pair.superuser(Side::Blue).await.batch_execute(OUT_OF_THE_STREAM).await.unwrap();
    pair.desk.ask(&["switch"]).await.exits(1).says("CUT0205").says("public.old");
    run.status("the stream to stop", COMMAND_WITHIN, |s| {
        s["streams"]["forward"]["health"]["stopped"]["code"] == "CUT0205"
    })
    .await;
    pair.holds(Side::Green, "SELECT count(*) = 0 FROM old WHERE id = 5").await;
    run = restarted(&pair, &mut run).await;
    pair.holds(Side::Green, "SELECT count(*) = 1 FROM old WHERE id = 5").await;

    pair.desk.moves("switch").await.exits(0);
    over(&pair, load, run, Side::Green).await;
}

/// A table that is dropped leaves nothing that could be missing, whenever that happens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_table_does_not_end_the_run() {
    const AGAIN: &str = "DROP TABLE new; CREATE TABLE new (id integer PRIMARY KEY, what text); \
        INSERT INTO new VALUES (7, 'again'), (8, 'again')";
    let servers = oldest_and_newest().await;
    let (pair, load, mut run) = begun("dropped", &servers).await;
    let dropped = async |run: &mut Run, stream: &str| {
        run.status("the stream to stop", COMMAND_WITHIN, |s| {
            s["streams"][stream]["health"]["stopped"]["code"] == "CUT0205"
        })
        .await;
    };
    pair.does(Side::Blue, "INSERT INTO old VALUES (9, 'x')").await;
    pair.holds(Side::Green, "SELECT count(*) = 2 FROM old").await;
    pair.does(Side::Blue, "DROP TABLE old").await;
    dropped(&mut run, "forward").await;
    pair.desk.ask(&["switch"]).await.exits(1).says("dropped");
    run = restarted(&pair, &mut run).await;
    pair.does(Side::Green, "DROP TABLE old").await;
    pair.desk.ask(&["verify"]).await.exits(0);

    // One that is made again under its name is copied: while the run is on, and while it is not.
    pair.does(Side::Blue, AGAIN).await;
    dropped(&mut run, "forward").await;
    run = restarted(&pair, &mut run).await;
    pair.holds(Side::Green, "SELECT count(*) = 2 FROM new WHERE what = 'again'").await;
    assert!(run.terminate().await.success());
    pair.does(Side::Blue, AGAIN).await;
    pair.does(Side::Blue, "INSERT INTO new VALUES (9, 'more')").await;
    run = pair.desk.run();
    run.ready().await;
    pair.desk.ask(&["verify"]).await.exits(0);
    pair.desk.moves("switch").await.exits(0);

    pair.does(Side::Green, AGAIN).await;
    run = restarted(&pair, &mut run).await;
    pair.desk.moves("rollback").await.exits(0);
    pair.holds(Side::Blue, "SELECT count(*) = 2 FROM new").await;
    pair.does(Side::Blue, "DROP TABLE new").await;
    pair.does(Side::Green, "DROP TABLE new").await;
    run = restarted(&pair, &mut run).await;
    over(&pair, load, run, Side::Blue).await;
}

/// A transaction is under way when a move looks at definitions, and defines something before it
/// ends: the fence waits for it, and no row tells of what it did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_defined_while_the_fence_waits_refuses_the_switch() {
    let servers = oldest_and_newest().await;
    let (pair, load, mut run) = begun("late", &servers).await;
    for (change, table) in [
        ("ALTER TABLE new ADD COLUMN late integer NOT NULL DEFAULT 7", "public.new"),
        ("CREATE TABLE later (id integer PRIMARY KEY)", "public.later"),
    ] {
        // It wakes the fence, which nobody could while somebody writes.
        pair.desk.moves("rehearse").await.exits(0);
        let write = "BEGIN; UPDATE old SET what = what || '!'";
        let (switch, writer) = pair.held_in_the_fence("switch", Side::Blue, write).await;
        writer.batch_execute(&format!("{change}; COMMIT")).await.unwrap();
        let refused = switch.await.expect("the command ends");
        refused.exits(1).says("CUT0176").says(table);
        pair.does(Side::Green, change).await;
        run = restarted(&pair, &mut run).await;
    }
    pair.desk.moves("switch").await.exits(0);
    over(&pair, load, run, Side::Green).await;
}

/// Once clients write to green, what they define there is missing on the way back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_defined_on_green_after_a_switch_refuses_the_rollback() {
    let servers = oldest_and_newest().await;
    let (pair, load, mut run) = begun("after", &servers).await;
    pair.desk.moves("switch").await.exits(0);
    for (change, rows, table) in [
        (
            "CREATE TABLE later (id integer PRIMARY KEY)",
            "INSERT INTO later VALUES (1)",
            "public.later",
        ),
        ("ALTER TABLE new ADD COLUMN late integer NOT NULL DEFAULT 7", "SELECT 1", "public.new"),
    ] {
        pair.does(Side::Green, &format!("{change}; {rows}")).await;
        pair.desk.refuses("rollback", "CUT0176").await.says(table);
        is_alarmed(&mut run, table).await;
        pair.does(Side::Blue, change).await;
        run = restarted(&pair, &mut run).await;
    }
    pair.desk.moves("rollback").await.exits(0);
    pair.holds(Side::Blue, "SELECT count(*) = 1 FROM later").await;
    over(&pair, load, run, Side::Blue).await;
}

/// Once clients write to green, a filled table that somebody attaches on blue is seen at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_attached_to_blue_after_a_switch_is_told() {
    const ATTACHED: &str = "CREATE TABLE events_2031 (LIKE events); \
        INSERT INTO events_2031 SELECT i, '2031-01-15', 'back' FROM generate_series(1, 3) i; \
        ALTER TABLE events ATTACH PARTITION events_2031 \
            FOR VALUES FROM ('2031-01-01') TO ('2031-02-01')";
    const TAKEN_BACK: &str =
        "ALTER TABLE events DETACH PARTITION events_2031; DROP TABLE events_2031";
    let servers = oldest_and_newest().await;
    let (pair, load, mut run) = begun("behind", &servers).await;
    pair.desk.moves("switch").await.exits(0);
    pair.does(Side::Blue, ATTACHED).await;
    let told = |s: &Value| {
        let says = |a: &Value| {
            let what = a["what"].as_str().unwrap_or_default();
            a["code"] == "CUT0176" && what.contains("blue") && what.contains("events_2031")
        };
        s["alarms"].as_array().is_some_and(|alarms| alarms.iter().any(says))
    };
    run.status("the table to be noticed", COMMAND_WITHIN, |s| {
        told(s) && s["ready"]["state"] == "never"
    })
    .await;
    pair.desk.refuses("rollback", "CUT0176").await.says("events_2031");
    pair.does(Side::Blue, TAKEN_BACK).await;
    run.status("it to be over", COMMAND_WITHIN, |s| !told(s)).await;
    pair.desk.moves("rollback").await.exits(0);
    over(&pair, load, run, Side::Blue).await;
}

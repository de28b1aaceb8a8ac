//! A standby takes over from either side while rows are copied: what was copied stays where both
//! servers that are there now have it, and the run ends by name where one of them does not.

use std::time::Duration;

use cutover_core::model::side::Side;
use cutover_sandbox::{PgInstall, PgOptions, Postgres, find_postgres, shop, wait_until};
use serde_json::Value;
use tokio_postgres::Client;

use crate::{
    failover::Guarded,
    pair::Pair,
    program::{COMMAND_WITHIN, READY_WITHIN, Run},
};

/// A table after the other, the largest first, and that one slowly.
const SLOWLY: &str = "copy: { workers: 1, rate: 256KiB }\n";
const TABLES: &str = "
    CREATE TABLE wide (id int PRIMARY KEY, v text);
    CREATE TABLE narrow (LIKE wide INCLUDING ALL);
    CREATE TABLE last (id int PRIMARY KEY);
    CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE parts_1 PARTITION OF parts DEFAULT;
    INSERT INTO wide SELECT i, repeat('w', 1000) FROM generate_series(1, 400) i;
    INSERT INTO narrow SELECT i, repeat('n', 1000) FROM generate_series(1, 100) i;
    INSERT INTO last VALUES (1)";
/// What no stream carries.
const AWAY: &str = "ALTER TABLE parts DETACH PARTITION parts_1; INSERT INTO parts_1 VALUES (1);
    ALTER TABLE parts ATTACH PARTITION parts_1 DEFAULT";
/// A slot that is not confirmed yet can be taken along only as long as nothing is written on blue,
/// and no standby asks it to keep older rows when the slot is made.
pub(crate) const SLOT_BY_HAND: [(&str, &str); 2] =
    [("sync_replication_slots", "off"), ("hot_standby_feedback", "off")];
/// How long a standby may take to take a slot along that it may have.
const SYNCED_WITHIN: Duration = Duration::from_secs(120);

fn is_copied(facts: &[Value], table: &str) -> bool {
    copies(facts, table) > 0
}

fn copies(facts: &[Value], table: &str) -> usize {
    facts.iter().filter(|f| f["fact"] == "copied" && f["table"]["name"] == table).count()
}

/// Waits until rows are copied, and then lets those of `table` wait as long as the session lives.
pub(crate) async fn waits(pair: &Pair, table: &'static str) -> Client {
    let began = |facts: &[Value]| facts.iter().any(|f| f["fact"] == "copy_began");
    assert!(pair.desk.watch("run.journal", 0, READY_WITHIN, began).await, "no copy");
    let client = pair.superuser(Side::Green).await;
    let lock = format!("BEGIN; LOCK TABLE {table} IN SHARE MODE");
    client.batch_execute(&lock).await.expect("a lock");
    assert!(!is_copied(&pair.desk.facts("run.journal"), table), "{table} is copied already");
    client
}

async fn is_noted(pair: &Pair, table: &'static str) {
    let noted = move |facts: &[Value]| is_copied(facts, table);
    assert!(pair.desk.watch("run.journal", 0, READY_WITHIN, noted).await, "no {table}");
}

impl Guarded {
    /// The standby, with [`SLOT_BY_HAND`], has a copy of the run's slot that outlives a promotion.
    pub(crate) async fn takes_the_slot_by_hand(&self, pair: &Pair) {
        let (primary, standby) = (&self.primary, &self.standby);
        for sql in ["ALTER SYSTEM SET hot_standby_feedback = on", "SELECT pg_reload_conf()"] {
            standby.execute("postgres", sql).await.expect("a setting");
        }
        let taken = format!(
            "SELECT count(*) > 0 FROM pg_replication_slots \
             WHERE database = '{}' AND synced AND NOT temporary",
            pair.name
        );
        wait_until("the slot to be on the standby", SYNCED_WITHIN, async || {
            let is_taken = async || standby.query_text("postgres", &taken).await.ok().flatten();
            primary.execute("postgres", "SELECT pg_log_standby_snapshot()").await.is_ok()
                && standby.execute("postgres", "SELECT pg_sync_replication_slots()").await.is_ok()
                && is_taken().await.as_deref() == Some("t")
        })
        .await
        .unwrap_or_else(|e| panic!("{e}: {}", standby.log()));
    }
}

/// The run waits for a standby that answers, and goes on when it is promoted.
async fn is_waited_for(pair: &Pair) {
    wait_until("the run to wait for the promotion", COMMAND_WITHIN, async || {
        pair.desk.log().contains("waiting for promotion")
    })
    .await
    .unwrap_or_else(|e| panic!("{e}: {}", pair.desk.log()));
}

/// Ready, equal, and moved to green with nothing lost.
async fn is_completed(pair: &Pair, mut run: Run, load: shop::Load) {
    run.ready().await;
    pair.desk.ask(&["verify"]).await.exits(0);
    pair.desk.moves("switch").await.exits(0);
    pair.close_the_books(load, Side::Green).await;
    pair.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    pair.nothing_is_left().await;
}

/// What the pages of errors say that helps, to the letter: the run is given up, green's database is
/// made anew, and a new run is begun.
async fn begins_anew(pair: &Pair, green: &Postgres, code: &str) -> Run {
    pair.desk.ask(&["run", "--yes"]).await.exits(3).says(code).says("cutover abort");
    pair.desk.ask(&["finish", "--yes"]).await.exits(1).says("CUT0508");
    pair.desk.ask(&["abort", "--yes"]).await.exits(0);
    pair.nothing_is_left().await;
    let drop = format!("DROP DATABASE {} WITH (FORCE)", pair.name);
    green.execute("postgres", &drop).await.expect("the old database goes");
    shop::empty(green, &pair.name, "").await.expect("a new database");
    pair.desk.put_state_away();
    pair.desk.reconfigure(|yaml| yaml.replace(SLOWLY, ""));
    pair.desk.run()
}

/// A server without a standby.
async fn server(install: &PgInstall) -> Postgres {
    Postgres::start(install, PgOptions::new()).await.expect("a server")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blue_fails_over_and_what_was_copied_stays() {
    let all = find_postgres();
    let old = all.iter().find(|i| i.major >= 17).expect("a server that takes slots along");
    let new = all.last().expect("PostgreSQL");
    let (mut blue, green) = tokio::join!(Guarded::start(old, &SLOT_BY_HAND), server(new));
    blue.primary.execute("postgres", "ALTER SYSTEM SET autovacuum = off").await.expect("quiet");
    blue.loses_nothing().await;
    shop::roles(&[&blue.primary, &green]).await.expect("roles");
    let pair = Pair::open("bluecopy", &blue.primary, &green, SLOWLY).await;
    pair.does(Side::Blue, TABLES).await;
    let mut run = pair.desk.run();
    let narrow = waits(&pair, "narrow").await;
    blue.takes_the_slot_by_hand(&pair).await;
    let load = pair.load();
    is_noted(&pair, "wide").await;
    blue.standby.catch_up(&blue.primary).await.expect("the standby follows");
    blue.primary_dies().await;
    drop(narrow);
    is_waited_for(&pair).await;
    blue.standby_is_promoted().await;
    run.ready().await;
    assert_eq!(copies(&pair.desk.facts("run.journal"), "wide"), 1, "copied again");
    // A copy that is begun on the new server has nothing to do with the old one.
    assert!(run.terminate().await.success());
    pair.does(Side::Blue, AWAY).await;
    run = pair.desk.run();
    run.ready().await;
    assert_eq!(copies(&pair.desk.facts("run.journal"), "parts_1"), 2, "not copied again");
    is_completed(&pair, run, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blue_fails_over_without_the_slot_and_a_new_run_is_completed() {
    let all = find_postgres();
    let (old, new) = (all.first().expect("PostgreSQL"), all.last().expect("PostgreSQL"));
    let (mut blue, green) = tokio::join!(Guarded::start(old, &[]), server(new));
    shop::roles(&[&blue.primary, &green]).await.expect("roles");
    let pair = Pair::open("blueslot", &blue.primary, &green, SLOWLY).await;
    pair.does(Side::Blue, TABLES).await;
    let load = pair.load();
    let mut run = pair.desk.run();
    let narrow = waits(&pair, "narrow").await;
    is_noted(&pair, "wide").await;
    blue.standby.catch_up(&blue.primary).await.expect("the standby follows");
    blue.fails_over().await;
    drop(narrow);
    assert_eq!(run.ended(COMMAND_WITHIN).await.code(), Some(3), "{}", pair.desk.log());
    assert!(pair.desk.log().contains("CUT0217"), "{}", pair.desk.log());
    let run = begins_anew(&pair, &green, "CUT0217").await;
    is_completed(&pair, run, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn green_fails_over_and_what_was_copied_stays() {
    let all = find_postgres();
    let (old, new) = (all.first().expect("PostgreSQL"), all.last().expect("PostgreSQL"));
    let (blue, mut green) = tokio::join!(server(old), Guarded::start(new, &[]));
    green.loses_nothing().await;
    shop::roles(&[&blue, &green.primary]).await.expect("roles");
    let pair = Pair::open("greencopy", &blue, &green.primary, SLOWLY).await;
    pair.does(Side::Blue, TABLES).await;
    let load = pair.load();
    let mut run = pair.desk.run();
    let _narrow = waits(&pair, "narrow").await;
    is_noted(&pair, "wide").await;
    // The process goes as well: the next one meets a standby.
    run.kill9();
    green.primary_dies().await;
    let run = pair.desk.run();
    is_waited_for(&pair).await;
    green.standby_is_promoted().await;
    let facts = || pair.desk.facts("run.journal");
    is_completed(&pair, run, load).await;
    assert_eq!(copies(&facts(), "wide"), 1, "copied again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn green_fails_over_without_copied_rows_and_a_new_run_is_completed() {
    let all = find_postgres();
    let (old, new) = (all.first().expect("PostgreSQL"), all.last().expect("PostgreSQL"));
    let (blue, mut green) = tokio::join!(server(old), Guarded::start(new, &[]));
    shop::roles(&[&blue, &green.primary]).await.expect("roles");
    let pair = Pair::open("greenlost", &blue, &green.primary, SLOWLY).await;
    pair.does(Side::Blue, TABLES).await;
    let load = pair.load();
    let mut run = pair.desk.run();
    let narrow = waits(&pair, "narrow").await;
    let _last = waits(&pair, "last").await;
    is_noted(&pair, "wide").await;
    green.standby.catch_up(&green.primary).await.expect("the standby follows");
    green.falls_behind().await;
    drop(narrow);
    is_noted(&pair, "narrow").await;
    green.fails_over().await;
    assert_eq!(run.ended(COMMAND_WITHIN).await.code(), Some(3), "{}", pair.desk.log());
    assert!(pair.desk.log().contains("CUT0518"), "{}", pair.desk.log());
    let rows = async |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        green.standby.query_text(&pair.name, &sql).await.expect("a number").expect("a number")
    };
    assert_eq!((rows("wide").await, rows("narrow").await), ("400".into(), "0".into()));
    let run = begins_anew(&pair, &green.standby, "CUT0518").await;
    is_completed(&pair, run, load).await;
}

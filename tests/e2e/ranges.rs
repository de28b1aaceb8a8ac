//! The copy of a large table is cut off in its middle, under constant writes: what is there stays,
//! and only what was missing is copied.

use std::{net::SocketAddr, time::Duration};

use cutover_core::model::side::Side;
use cutover_sandbox::{PgOptions, Postgres, StopMode, find_postgres, shop, wait_until};
use cutover_testkit::{Direction, FaultProxy};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, error::SqlState};

use crate::{
    failover::Guarded,
    failover_copy::{SLOT_BY_HAND, waits},
    pair::{Pair, oldest_and_newest},
    program::{COMMAND_WITHIN, READY_WITHIN, Run},
};

/// Rows of the table, and at least so many ranges of it.
const ROWS: i64 = 24_000;
const RANGES: u64 = 96;
pub(crate) const SLOWLY: &str = "copy: { workers: 2, chunk: 256KiB, rate: 3MiB }\n";
const LEDGER: &str = "
    CREATE TABLE ledger (id bigint PRIMARY KEY, n integer NOT NULL DEFAULT 0, v text, big text);
    ALTER TABLE ledger ALTER COLUMN v SET STORAGE PLAIN;
    ALTER TABLE ledger ALTER COLUMN big SET STORAGE EXTERNAL;
    INSERT INTO ledger (id, v) VALUES (-500000, 'nobody writes to it');
    INSERT INTO ledger (id, v) SELECT i, repeat('v', 1000) FROM generate_series(1, 24000) i;
    CREATE TABLE lines (id bigint PRIMARY KEY REFERENCES ledger ON UPDATE CASCADE ON DELETE CASCADE);
    INSERT INTO lines SELECT i * 10 FROM generate_series(1, 2400) i";
/// What a client does again and again: rows that come, change, go, and get another key.
const WRITES: [&str; 6] = [
    "INSERT INTO ledger (id, v) SELECT max(id) + 1, 'new' FROM ledger",
    "UPDATE ledger SET n = n + 1 WHERE id BETWEEN $1::int8 AND $1::int8 + 5",
    "DELETE FROM ledger WHERE id = $1::int8 + 7",
    "UPDATE ledger SET id = id + 1000000, n = n + 1 WHERE id = $1::int8 + 8",
    "UPDATE ledger SET id = -id WHERE abs(id) BETWEEN $1::int8 + 9 AND $1::int8 + 12",
    "UPDATE ledger SET id = $1::int8 + 7 WHERE id = (SELECT max(id) FROM ledger)",
];

impl Pair {
    /// A client that writes until it is told to stop, or the server goes.
    async fn writes(&self) -> JoinHandle<()> {
        self.writes_also(&[]).await
    }

    async fn writes_also(&self, more: &[&'static str]) -> JoinHandle<()> {
        let all: Vec<&str> = WRITES.iter().chain(more).copied().collect();
        let client = self.direct(Side::Blue).await;
        tokio::spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(4));
            for i in 1_i64.. {
                pace.tick().await;
                let write = all[usize::try_from(i).expect("a number") % all.len()];
                let key = i * 7919 % ROWS;
                let done = match write.contains("$1") {
                    true => client.execute(write, &[&key]).await,
                    false => client.execute(write, &[]).await,
                };
                match done {
                    Err(_) if client.is_closed() => return,
                    Err(e) if e.code() != Some(&SqlState::UNIQUE_VIOLATION) => {
                        panic!("{write}: {e:?}")
                    }
                    _ => {}
                }
            }
        })
    }
}

pub(crate) struct Ledger {
    /// What it is called; of a partitioned one, the part that is large.
    table: &'static str,
    pub(crate) pair: Pair,
    pub(crate) run: Run,
    writes: JoinHandle<()>,
}

impl Ledger {
    /// Between servers of its own, blue first.
    async fn open(name: &str) -> (Self, Postgres, Postgres) {
        let (blue, green) = oldest_and_newest().await;
        (Self::between(name, &blue, &green).await, blue, green)
    }

    async fn between(name: &str, blue: &Postgres, green: &Postgres) -> Self {
        let pair = Pair::open(name, blue, green, SLOWLY).await;
        Self::of(pair).await
    }

    async fn of(pair: Pair) -> Self {
        Self::of_shape(pair, "").await
    }

    /// The plain one, and what becomes of it.
    pub(crate) async fn of_shape(pair: Pair, becomes: &str) -> Self {
        pair.does(Side::Blue, LEDGER).await;
        pair.does(Side::Blue, becomes).await;
        let writes = pair.writes().await;
        let run = pair.desk.run();
        Self { table: "ledger", pair, run, writes }
    }

    /// A copy that was killed and went on to its end: what is unique waits until rows are compared, and
    /// none are before the transaction ends that is returned.
    pub(crate) async fn copied_again(&mut self) -> Client {
        self.has_more(16).await;
        self.run.kill9();
        self.run = self.pair.desk.run();
        self.kept().await;
        let copied = |facts: &[Value]| facts.iter().any(|f| f["fact"] == "copy_ended");
        assert!(self.pair.desk.watch("run.journal", 0, READY_WITHIN, copied).await, "no end");
        self.stops_writing().await;
        let open = self.pair.superuser(Side::Blue).await;
        open.batch_execute("BEGIN; SELECT txid_current()").await.expect("a transaction");
        self.run.streams().await;
        open
    }

    /// Waits until green has so many ranges of the table more.
    pub(crate) async fn has_more(&mut self, more: i64) {
        let (copied, before) = (self.facts("copied").len(), self.parts().await);
        wait_until("more ranges", READY_WITHIN, async || {
            assert!(self.run.exit().is_none(), "the run ended");
            self.parts().await >= before + more
        })
        .await
        .expect("they come");
        assert_eq!(self.facts("copied").len(), copied, "too late");
    }

    /// How many ranges the table was cut into.
    fn ranges(&self) -> i64 {
        let cut = self.facts("cut");
        let bounds = cut.last().and_then(|f| f["bounds"].as_array()).expect("bounds");
        i64::try_from(bounds.len()).expect("a number") + 1
    }

    async fn parts(&self) -> i64 {
        let client = self.pair.superuser(Side::Green).await;
        let query = format!("SELECT count(*) FROM cutover_{}.parts", self.pair.name);
        // Before the run has made it there is none.
        client.query_one(&query, &[]).await.map_or(0, |row| row.get(0))
    }

    fn facts(&self, kind: &str) -> Vec<Value> {
        let facts = self.pair.desk.facts("run.journal");
        let of = |f: &Value| f["table"]["name"].as_str().is_none_or(|name| name == self.table);
        facts.into_iter().filter(|f| f["fact"] == kind && of(f)).collect()
    }

    /// Waits until the copy goes on; how many ranges it keeps.
    pub(crate) async fn kept(&mut self) -> u64 {
        let name = format!("public.{}", self.table);
        let kept = |s: &Value| {
            let tables = s["copy"]["tables"].as_array()?;
            tables.iter().find(|t| t["table"] == name.as_str())?["kept"]["ranges"].as_u64()
        };
        let status = self
            .run
            .status("the copy to go on", READY_WITHIN, |s| {
                kept(s).is_some() && !s["copy"].is_null()
            })
            .await;
        kept(&status).expect("ranges")
    }

    pub(crate) async fn stops_writing(&mut self) {
        self.writes.abort();
        let wrote = (&mut self.writes).await;
        assert!(wrote.is_ok() || wrote.is_err_and(|e| e.is_cancelled()), "the client failed");
    }

    /// Ready, equal, and moved to green with nothing lost.
    async fn completes(mut self) {
        self.run.ready().await;
        self.stops_writing().await;
        self.pair.desk.ask(&["verify"]).await.exits(0).says("equal");
        self.pair.sides_are_equal().await;
        self.pair.completes(self.run).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_killed_goes_on_where_it_was() {
    let (mut ledger, _blue, _green) = Ledger::open("killed").await;
    let mut before = 0;
    // Twice: ranges of three snapshots are joined.
    for _ in 0..2 {
        ledger.has_more(24).await;
        ledger.run.kill9();
        ledger.run = ledger.pair.desk.run();
        let kept = ledger.kept().await;
        assert!(kept >= before + 24 && kept < RANGES, "{kept} after {before}");
        before = kept;
    }
    ledger.run.streams().await;
    let copied = ledger.facts("copied");
    assert_eq!(ledger.facts("cut").len(), 1, "cut again");
    assert_eq!(copied.len(), 1);
    let snapshots = copied[0]["views"]["snapshots"].as_array().expect("several views");
    let mut different: Vec<&str> = snapshots.iter().filter_map(Value::as_str).collect();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), 3, "{snapshots:?}");
    let status = ledger.pair.desk.status().await.expect("a status");
    let tables = status["copy"]["tables"].as_array().expect("tables");
    let table = tables.iter().find(|t| t["table"] == "public.ledger").expect("the table");
    let (rows, kept) = (table["rows"].as_i64(), table["kept"]["rows"].as_i64());
    let (rows, kept) = (rows.expect("a number"), kept.expect("a number"));
    // What was kept was not copied again, and clients write little beside it.
    assert!(kept > ROWS / 4 && (rows + kept - ROWS).abs() < ROWS / 10, "{rows} and {kept}");
    ledger.completes().await;
}

/// A ledger of another shape.
struct Shape {
    table: &'static str,
    /// What becomes of the plain one.
    becomes: &'static str,
    /// What clients do as well.
    writes: &'static [&'static str],
    /// What happens after the first ranges, and what is true on green in the end.
    between: &'static str,
    then: &'static str,
}

impl Shape {
    /// Cut off twice, under constant writes.
    async fn goes_on(&self, name: &str) {
        let (blue, green) = oldest_and_newest().await;
        for server in [&blue, &green] {
            // It makes event triggers, and is told of each change of a definition.
            let root = server.connect("postgres").await.expect("a superuser");
            root.batch_execute("ALTER ROLE cutover SUPERUSER").await.expect("a superuser may");
        }
        let pair = Pair::open(name, &blue, &green, &format!("{SLOWLY}ddl: apply\n")).await;
        pair.does(Side::Blue, LEDGER).await;
        pair.does(Side::Blue, self.becomes).await;
        let writes = pair.writes_also(self.writes).await;
        let run = pair.desk.run();
        let mut ledger = Ledger { table: self.table, pair, run, writes };
        let mut before = 0;
        for between in [self.between, "UPDATE ledger SET n = n + 1 WHERE id < 0"] {
            ledger.has_more(16).await;
            ledger.run.kill9();
            ledger.pair.does(Side::Blue, between).await;
            ledger.run = ledger.pair.desk.run();
            let kept = ledger.kept().await;
            assert!(kept >= before + 16 && kept < RANGES, "{kept} after {before}");
            before = kept;
        }
        ledger.run.streams().await;
        let copied = ledger.facts("copied");
        assert_eq!((ledger.facts("cut").len(), copied.len()), (1, 1), "copied again");
        assert!(copied[0]["views"].is_object(), "copied as a whole");
        ledger.run.ready().await;
        ledger.pair.holds(Side::Green, self.then).await;
        ledger.completes().await;
    }
}

/// A row is in the range of the first column of its key, whatever becomes of the others; and what is
/// unique together with that column cannot be in two ranges.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_table_with_a_wider_key_goes_on() {
    let shape = Shape {
        table: "ledger",
        becomes: "ALTER TABLE ledger DROP CONSTRAINT ledger_pkey CASCADE;
            ALTER TABLE ledger ADD PRIMARY KEY (id, n), ADD UNIQUE (id);
            ALTER TABLE lines ADD FOREIGN KEY (id) REFERENCES ledger (id)
                ON UPDATE CASCADE ON DELETE CASCADE",
        writes: &["UPDATE ledger SET n = -n, id = id + 12000 WHERE id = $1::int8 + 15"],
        between: "UPDATE ledger SET n = n + 1 WHERE id % 7 = 0",
        then: "SELECT count(*) = 2 FROM pg_index WHERE indrelid = 'ledger'::regclass",
    };
    shape.goes_on("wider").await;
}

/// Rows go from one partition to another, and back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_partition_goes_on() {
    let shape = Shape {
        table: "ledger_1",
        becomes: "ALTER TABLE lines DROP CONSTRAINT lines_id_fkey;
            ALTER TABLE ledger RENAME TO ledger_1;
            CREATE TABLE ledger (LIKE ledger_1 INCLUDING ALL) PARTITION BY RANGE (id);
            ALTER TABLE ledger ATTACH PARTITION ledger_1 FOR VALUES FROM (MINVALUE) TO (1000000);
            CREATE TABLE ledger_2 PARTITION OF ledger FOR VALUES FROM (1000000) TO (MAXVALUE)",
        writes: &[],
        between: "UPDATE ledger SET id = id + 2000000 WHERE id % 70 = 0",
        then: "SELECT count(*) > 300 FROM ledger_2",
    };
    shape.goes_on("part").await;
}

/// Values go from row to row. While ranges are of several snapshots two rows may have the same one,
/// and nothing on green forbids that before the stream has joined them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_table_with_other_unique_values_goes_on() {
    let shape = Shape {
        table: "ledger",
        becomes: "ALTER TABLE ledger ADD code bigint;
            ALTER TABLE ledger ALTER code TYPE bigint USING id, ADD UNIQUE (code);
            CREATE UNIQUE INDEX ledger_twin ON ledger ((code + 1)) WHERE code <> 7;
            CREATE TABLE tags (id int PRIMARY KEY, code bigint REFERENCES ledger (code));
            INSERT INTO tags VALUES (1, -500000)",
        writes: &["WITH old AS MATERIALIZED (
                SELECT id, code FROM ledger WHERE id = $1::int8 AND code > 0),
            gone AS (UPDATE ledger SET code = NULL FROM old WHERE ledger.id = old.id
                RETURNING old.code)
            UPDATE ledger SET code = gone.code FROM gone
             WHERE ledger.id = ($1::int8 + 12000) % 24000 AND ledger.code IS NULL"],
        // The first of these rows is in a range that is there, and the second in one that is not. The
        // stream is told of a definition while green lacks others of that table.
        between: "DELETE FROM tags; UPDATE ledger SET code = NULL WHERE id = -500000;
            INSERT INTO ledger (id, v, code) VALUES (5000000, 'has it now', -500000),
                (6000000, 'the last', NULL);
            INSERT INTO tags VALUES (1, -500000);
            CREATE INDEX ledger_n ON ledger (n)",
        then: "SELECT count(*) = 4 AND (SELECT count(*) = 1 FROM pg_constraint
                                         WHERE contype = 'f' AND conrelid = 'tags'::regclass)
                 FROM pg_index WHERE indrelid = 'ledger'::regclass",
    };
    shape.goes_on("torn").await;
}

/// The process stays, and the sessions that read blue go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_connections_to_blue_are_lost_goes_on() {
    let (mut ledger, _blue, _green) = Ledger::open("cut").await;
    ledger.has_more(20).await;
    let parts = ledger.parts().await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'cutover'";
    ledger.pair.superuser(Side::Blue).await.batch_execute(end).await.expect("they end");
    let kept = ledger.kept().await;
    assert!(i64::try_from(kept).is_ok_and(|kept| kept >= parts) && kept < RANGES, "{kept}");
    ledger.run.streams().await;
    assert!(ledger.run.exit().is_none(), "another process");
    assert_eq!(ledger.facts("cut").len(), 1, "cut again");
    ledger.completes().await;
}

/// What green forgets when it crashes it forgets together with the note that it was there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_on_after_green_has_crashed() {
    let (mut ledger, _blue, mut green) = Ledger::open("crashed").await;
    for _ in 0..2 {
        ledger.has_more(20).await;
        green.stop(StopMode::Immediate).await.expect("it stops");
        green.start_again().await.expect("it starts");
    }
    ledger.run.streams().await;
    assert_eq!(ledger.facts("cut").len(), 1, "cut again");
    assert!(ledger.facts("copied")[0]["views"].is_object(), "copied as a whole");
    ledger.completes().await;
}

/// A standby that takes over has some of the ranges, and knows which.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_on_after_a_failover_of_green() {
    let all = find_postgres();
    let (old, new) = (all.first().expect("PostgreSQL"), all.last().expect("PostgreSQL"));
    let (blue, mut green) =
        tokio::join!(Postgres::start(old, PgOptions::new()), Guarded::start(new, &[]));
    let blue = blue.expect("a server");
    shop::roles(&[&blue, &green.primary]).await.expect("roles");
    let mut ledger = Ledger::between("behind", &blue, &green.primary).await;
    ledger.has_more(20).await;
    green.standby.catch_up(&green.primary).await.expect("the standby follows");
    green.falls_behind().await;
    let query = "SELECT count(*) FROM cutover_behind.parts";
    let there = green.standby.query_text("behind", query).await.expect("parts").expect("a number");
    ledger.has_more(20).await;
    green.fails_over().await;
    ledger.run.streams().await;
    let kept = format!("kept={there} ");
    assert!(ledger.pair.desk.log().contains(&kept), "{kept}: {}", ledger.pair.desk.log());
    assert_eq!(ledger.facts("cut").len(), 1, "cut again");
    assert!(ledger.facts("copied")[0]["views"].is_object(), "copied as a whole");
    ledger.completes().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_on_after_blue_has_crashed() {
    let (mut ledger, mut blue, _green) = Ledger::open("restarted").await;
    ledger.has_more(20).await;
    ledger.writes.abort();
    blue.stop(StopMode::Immediate).await.expect("it stops");
    blue.start_again().await.expect("it starts");
    ledger.writes = ledger.pair.writes().await;
    ledger.run.streams().await;
    assert_eq!(ledger.facts("cut").len(), 1, "cut again");
    assert!(ledger.facts("copied")[0]["views"].is_object(), "copied as a whole");
    ledger.completes().await;
}

/// The process goes when all ranges are there, and nothing says yet that the table is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_killed_before_it_was_noted_is_not_repeated() {
    let (mut ledger, _blue, green) = Ledger::open("noted").await;
    ledger.has_more(5).await;
    let set = async |what: &str| {
        for sql in [what, "SELECT pg_reload_conf()"] {
            green.execute("postgres", sql).await.expect("a setting");
        }
    };
    // Commits of ranges wait for nobody. What makes them durable does, for good.
    set("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    let all = ledger.ranges();
    wait_until("all ranges", READY_WITHIN, async || ledger.parts().await == all)
        .await
        .expect("they come");
    ledger.run.kill9();
    assert_eq!(ledger.facts("copied").len(), 0, "too late");
    set("ALTER SYSTEM RESET synchronous_standby_names").await;
    ledger.run = ledger.pair.desk.run();
    ledger.run.streams().await;
    let kept = format!("kept={all} of={all}");
    assert!(ledger.pair.desk.log().contains(&kept), "{kept}: {}", ledger.pair.desk.log());
    let copied = ledger.facts("copied");
    assert_eq!((ledger.facts("cut").len(), copied.len()), (1, 1));
    let snapshots = copied[0]["views"]["snapshots"].as_array().expect("another view");
    assert_eq!(snapshots.len(), 1, "{snapshots:?}");
    ledger.completes().await;
}

type Spoil = fn(&FaultProxy);

/// Connections of the program end in every way, on both sides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_on_whatever_becomes_of_its_connections() {
    let (blue, green) = oldest_and_newest().await;
    let pair = Pair::open("spoiled", &blue, &green, SLOWLY).await;
    let mut proxies = Vec::new();
    for (side, server) in [("blue", &blue), ("green", &green)] {
        let port = server.port();
        let proxy = FaultProxy::start(SocketAddr::from(([127, 0, 0, 1], port))).await;
        let proxy = proxy.expect("a proxy");
        let place = |port: u16| format!("cutover@127.0.0.1:{port}/");
        let pooler = format!(
            "database: spoiled\n      {side}: {{ host: 127.0.0.1, port: {port}, dbname: spoiled }}"
        );
        pair.desk.reconfigure(|yaml| {
            yaml.replace(&place(port), &place(proxy.port())).replace("database: spoiled", &pooler)
        });
        proxies.push(proxy);
    }
    let mut ledger = Ledger::of(pair).await;
    // Each waits longer than the one before until the program tries again.
    let spoils: [(Side, Spoil); 5] = [
        (Side::Blue, FaultProxy::cut),
        (Side::Green, |proxy| proxy.half_close(Direction::Up)),
        (Side::Blue, |proxy| proxy.half_close(Direction::Down)),
        (Side::Green, FaultProxy::reset),
        (Side::Blue, |proxy| proxy.half_close(Direction::Up)),
    ];
    for (side, spoil) in spoils {
        ledger.has_more(8).await;
        spoil(&proxies[side.index()]);
    }
    ledger.run.streams().await;
    assert_eq!(ledger.facts("cut").len(), 1, "cut again");
    let copied = ledger.facts("copied");
    assert_eq!(copied.len(), 1);
    let snapshots = copied[0]["views"]["snapshots"].as_array().expect("several views");
    assert!(snapshots.len() > 1, "{snapshots:?}");
    ledger.completes().await;
}

/// A standby takes over from blue with the slot of the run, and has all that the snapshots of the
/// ranges contained.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_on_after_a_failover_of_blue() {
    let all = find_postgres();
    let old = all.iter().find(|i| i.major >= 17).expect("a server that takes slots along");
    let new = all.last().expect("PostgreSQL");
    let (mut blue, green) =
        tokio::join!(Guarded::start(old, &SLOT_BY_HAND), Postgres::start(new, PgOptions::new()));
    let green = green.expect("a server");
    blue.primary.execute("postgres", "ALTER SYSTEM SET autovacuum = off").await.expect("quiet");
    blue.loses_nothing().await;
    shop::roles(&[&blue.primary, &green]).await.expect("roles");
    let pair = Pair::open("ahead", &blue.primary, &green, SLOWLY).await;
    pair.does(Side::Blue, LEDGER).await;
    let run = pair.desk.run();
    let held = waits(&pair, "ledger").await;
    blue.takes_the_slot_by_hand(&pair).await;
    let writes = pair.writes().await;
    let mut ledger = Ledger { table: "ledger", pair, run, writes };
    drop(held);
    ledger.has_more(20).await;
    ledger.writes.abort();
    blue.standby.catch_up(&blue.primary).await.expect("the standby follows");
    blue.fails_over().await;
    ledger.writes = ledger.pair.writes().await;
    let kept = ledger.kept().await;
    assert!((20..RANGES).contains(&kept), "{kept}");
    ledger.run.streams().await;
    assert_eq!(ledger.facts("cut").len(), 1, "cut again");
    assert!(ledger.facts("copied")[0]["views"].is_object(), "copied as a whole");
    ledger.completes().await;
}

/// What cannot be divided among ranges of different snapshots is not guessed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_cannot_be_joined_is_made_as_a_whole() {
    let large = "UPDATE ledger SET big = repeat('b', 20000) WHERE id = 24000";
    for (name, between) in [
        // A large value does not travel with the row that comes into a range that is there already.
        ("large", "UPDATE ledger SET id = -24000 WHERE id = 24000"),
        (
            "emptied",
            "TRUNCATE ledger, lines; INSERT INTO ledger (id, v) VALUES (7, 'seven'), (23990, 'v')",
        ),
    ] {
        let (mut ledger, _blue, _green) = Ledger::open(name).await;
        ledger.writes.abort();
        ledger.pair.does(Side::Blue, large).await;
        ledger.has_more(24).await;
        ledger.run.kill9();
        ledger.pair.does(Side::Blue, between).await;
        ledger.run = ledger.pair.desk.run();
        ledger.run.ready().await;
        let facts = ledger.pair.desk.facts("run.journal");
        assert!(facts.iter().any(|f| f["fact"] == "outdated"), "{name}: {facts:?}");
        let copied = ledger.facts("copied");
        assert!(copied[0]["views"].is_object(), "{name}: never in parts");
        assert_eq!(copied.len(), 2, "{name}");
        assert!(copied[1]["views"].is_null(), "{name}: in parts again");
        ledger.completes().await;
    }
}

/// Another definition, although it is the same again, or another unique index: nothing is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_does_not_go_on_where_its_table_is_another() {
    for (name, between) in [
        ("rewritten", "ALTER TABLE ledger ALTER COLUMN n TYPE integer USING n + 1"),
        ("unique", "UPDATE ledger SET n = id; CREATE UNIQUE INDEX ON ledger (n)"),
    ] {
        let (mut ledger, _blue, _green) = Ledger::open(name).await;
        ledger.has_more(24).await;
        ledger.run.kill9();
        ledger.writes.abort();
        ledger.pair.does(Side::Blue, between).await;
        ledger.run = ledger.pair.desk.run();
        ledger.run.ready().await;
        let copied = ledger.facts("copied");
        assert_eq!(copied.len(), 1, "{name}");
        assert!(copied[0]["views"].is_null(), "{name}: in parts");
        ledger.completes().await;
    }
}

/// A table is copied again while the way back is open and green has its indexes and foreign keys, and
/// is cut off in that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_that_was_killed_goes_on_where_it_was() {
    let (mut ledger, _blue, _green) = Ledger::open("repaired").await;
    ledger.run.ready().await;
    // The client has left it in no order.
    ledger.pair.does(Side::Blue, "CLUSTER ledger USING ledger_pkey").await;
    let behind = "SET cutover.run = 'cutover_repaired'; DELETE FROM ledger WHERE id = -500000";
    ledger.pair.superuser(Side::Green).await.batch_execute(behind).await.expect("tampering");
    ledger.pair.does(Side::Blue, "UPDATE ledger SET n = -1 WHERE id = -500000").await;
    let stopped = |s: &Value| {
        let alarms = s["alarms"].as_array();
        alarms.is_some_and(|all| all.iter().any(|a| a["code"] == "CUT0401"))
    };
    ledger.run.status("CUT0401", COMMAND_WITHIN, stopped).await;
    let asked = ledger.pair.desk.begin(&["verify", "--repair"]);
    let cut = |facts: &[Value]| facts.iter().filter(|f| f["fact"] == "cut").count() == 2;
    assert!(ledger.pair.desk.watch("run.journal", 0, COMMAND_WITHIN, cut).await, "never cut");
    ledger.has_more(24).await;
    ledger.run.kill9();
    asked.await.expect("no panic").exits(3);
    ledger.run = ledger.pair.desk.run();
    let kept = ledger.kept().await;
    assert!((24..RANGES).contains(&kept), "{kept}");
    ledger.run.streams().await;
    assert_eq!(ledger.facts("cut").len(), 2, "cut again");
    let copied = ledger.facts("copied");
    assert!(copied.len() == 2 && copied[1]["views"].is_object(), "{copied:?}");
    ledger.completes().await;
}

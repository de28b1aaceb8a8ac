//! Two servers, a database of its own on both for every story, and a pipe between them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use cutover::stream::{
    Definitions, Health, MESSAGE_PREFIX, Mode, Pipe, PipeConfig, Policy, Witness,
    handover::Handover,
};
use cutover_core::{
    model::{
        event::{Change, Relation, TransactionId},
        position::Position,
        run::RunId,
        schema::TableName,
        selection::Selection,
        side::Side,
    },
    port::{
        PortError, Result,
        sink::{Route, Sink},
        source::Source,
    },
};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{PgOptions, Postgres, find_postgres, wait_until};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_postgres::Client;

/// How long a story waits for something.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The oldest and the newest server. They send a transaction while it runs as soon as they can.
async fn servers() -> &'static (Postgres, Postgres) {
    static SERVERS: OnceCell<(Postgres, Postgres)> = OnceCell::const_new();
    SERVERS
        .get_or_init(|| async {
            let mut installs = find_postgres();
            let newest =
                installs.pop().expect("two versions of PostgreSQL: run scripts/setup test");
            let options = || {
                PgOptions::new()
                    .set("logical_decoding_work_mem", "64kB")
                    .set("max_replication_slots", "40")
                    .set("max_wal_senders", "40")
            };
            let new = options().set("max_active_replication_origins", "40");
            let new = if newest.major >= 18 { new } else { options() };
            let start = "a server starts";
            let old = Postgres::start(&installs[0], options()).await.expect(start);
            (old, Postgres::start(&newest, new).await.expect(start))
        })
        .await
}

/// What the verifier would be told.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) rows: usize,
    pub(crate) early: usize,
    pub(crate) ended: Vec<bool>,
}

#[derive(Default)]
pub(crate) struct Eye(pub(crate) Mutex<Seen>);

impl Witness for Eye {
    fn row(&self, _: Side, _: &Relation, _: &Change, _: bool) {
        self.0.lock().unwrap().rows += 1;
    }

    fn early(&self, _: Side, _: TransactionId, _: &Relation, _: &Change) {
        self.0.lock().unwrap().early += 1;
    }

    fn ended(&self, _: Side, _: TransactionId, committed: bool) {
        self.0.lock().unwrap().ended.push(committed);
    }

    fn truncated(&self, _: Side, _: &Relation, _: bool) {}
}

/// Nobody alters a table without being told.
struct Doubting;

#[async_trait]
impl Definitions for Doubting {
    async fn unchanged(&self, _: Side, table: &TableName) -> Result<()> {
        Err(PortError::definite("CUT0509", format!("following {table}"), "altered", "see there"))
    }
}

pub(crate) struct World {
    pub(crate) name: String,
    pub(crate) run: RunId,
    pub(crate) blue: Client,
    pub(crate) green: Client,
    pub(crate) eye: Arc<Eye>,
    sides: [Database; 2],
    /// Where both streams start.
    starts: Vec<Position>,
    spill: TempDir,
}

/// A table of rows that a large transaction changes, and one for small transactions.
const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE TABLE small (id int PRIMARY KEY, u int);
    INSERT INTO t SELECT -i, 'old' FROM generate_series(1, 100) i";

impl World {
    /// One of the two.
    pub(crate) fn database(&self, side: Side) -> &Database {
        &self.sides[usize::from(side == Side::Green)]
    }

    pub(crate) async fn new(story: &str) -> Self {
        Self::with(story, "").await
    }

    /// With more tables on both sides.
    pub(crate) async fn with(story: &str, more: &str) -> Self {
        let name = story.replace('-', "_");
        let run = RunId::new(story).unwrap();
        let spill = tempfile::tempdir().unwrap();
        let (old, new) = servers().await;
        for server in [old, new] {
            server.create_database(&name).await.unwrap();
        }
        let side = |server: &Postgres, side| {
            let config = PgConfig::parse(&server.url(&name), None).unwrap();
            Database::new(config, side, run.clone(), spill.path())
        };
        let sides = [side(old, Side::Blue), side(new, Side::Green)];
        let blue = old.connect(&name).await.unwrap();
        let green = new.connect(&name).await.unwrap();
        for client in [&blue, &green] {
            client.batch_execute(&format!("{TABLES}; {more}")).await.unwrap();
        }
        let mut starts = Vec::new();
        for side in &sides {
            let tables = side.tables(&Selection::default()).await.unwrap();
            starts.push(side.capture(&run, &tables, false).await.unwrap().start);
            side.prepare(&run).await.unwrap();
        }
        Self { name, run, blue, green, eye: Arc::default(), sides, starts, spill }
    }

    fn side(&self, side: Side) -> &Database {
        &self.sides[usize::from(side == Side::Green)]
    }

    /// What a start does on the side that is read: tables that were dropped are not missed.
    pub(crate) async fn resume(&self, side: Side) {
        let tables = self.side(side).tables(&Selection::default()).await.unwrap();
        self.side(side).resume(&self.run, &tables).await.unwrap();
    }

    /// A pipe that reads `from`.
    pub(crate) async fn pipe(&self, from: Side, mode: Mode) -> Pipe {
        self.pipe_after(from, mode, Handover::default()).await
    }

    /// A pipe that reads `from` after a copy.
    pub(crate) async fn pipe_after(&self, from: Side, mode: Mode, handover: Handover) -> Pipe {
        let tables = self.side(from.other()).tables(&Selection::default()).await.unwrap();
        let config = PipeConfig {
            run: self.run.clone(),
            from,
            source: Arc::new(self.side(from).clone()),
            sink: Arc::new(self.side(from.other()).clone()),
            routes: tables
                .into_iter()
                .map(|target| Route { source: target.name.clone(), target })
                .collect::<Vec<_>>()
                .into(),
            selection: Selection::default(),
            start: Some(self.starts[usize::from(from == Side::Green)].clone()),
            handover,
            given_up: Vec::new(),
            batch_bytes: 64 << 10,
            witness: Arc::clone(&self.eye) as _,
            definitions: Arc::new(Doubting),
            policy: Policy::Stop,
        };
        Pipe::start(config, mode)
    }

    pub(crate) async fn client(&self, side: Side) -> Client {
        let (old, new) = servers().await;
        let server = if side == Side::Blue { old } else { new };
        server.connect(&self.name).await.unwrap()
    }

    pub(crate) fn on(&self, side: Side) -> &Client {
        if side == Side::Blue { &self.blue } else { &self.green }
    }

    /// Where the log of a side ends.
    pub(crate) async fn head(&self, side: Side) -> Position {
        self.side(side).head().await.unwrap()
    }

    /// Everything that `from` has committed is applied.
    pub(crate) async fn arrives(&self, pipe: &Pipe) {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let token = format!("m{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let arrived = pipe.expect_marker(&token);
        self.side(pipe.from()).emit(MESSAGE_PREFIX, &token).await.unwrap();
        if tokio::time::timeout(PATIENCE, arrived).await.is_err() {
            panic!("a marker did not arrive: {:?}", pipe.view());
        }
    }

    /// The pipe stops for good with this code.
    pub(crate) async fn stops(&self, pipe: &Pipe, wanted: &str) {
        wait_until(
            "the stop",
            PATIENCE,
            async || matches!(pipe.view().health, Health::Stopped { code, .. } if code == wanted),
        )
        .await
        .unwrap_or_else(|e| panic!("{e}: {:?}", pipe.view()));
    }

    pub(crate) async fn number(&self, side: Side, sql: &str) -> i64 {
        let row =
            self.on(side).query_one(sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        row.get(0)
    }

    /// Waits until a query says so.
    pub(crate) async fn until(&self, side: Side, what: &str, sql: &str) {
        wait_until(what, PATIENCE, async || {
            self.on(side).query_one(sql, &[]).await.unwrap().get::<_, bool>(0)
        })
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    }

    /// Size of table `t` in KiB, with what nobody can see.
    pub(crate) async fn size(&self, side: Side) -> i64 {
        self.number(side, "SELECT pg_relation_size('t') / 1024").await
    }

    /// Waits until the second writer has written rows of table `t` that others cannot see, and it
    /// has more than so many KiB.
    pub(crate) async fn written(&self, to: Side, kb: i64) {
        let sql = format!(
            "SELECT pg_relation_size('t') > {kb} * 1024 AND EXISTS (
               SELECT FROM pg_stat_activity a JOIN pg_locks l USING (pid)
                WHERE a.application_name LIKE 'cutover {} early%' AND a.backend_xid IS NOT NULL
                  AND l.relation = 't'::regclass AND l.mode = 'RowExclusiveLock')",
            self.run
        );
        self.until(to, "rows on the other side", &sql).await;
    }

    /// Ends the sessions of ours with this purpose.
    pub(crate) async fn cut(&self, side: Side, purpose: &str) {
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
              WHERE application_name LIKE 'cutover {} {purpose}%'",
            self.run
        );
        assert!(self.number(side, &sql).await > 0, "no session {purpose}");
    }

    /// Both sides hold the same rows.
    pub(crate) async fn equal(&self) {
        for table in ["t", "small"] {
            let sql = format!(
                "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(x::text, 0)::numeric), 0)
                   FROM {table} x"
            );
            let on =
                async |side| -> String { self.on(side).query_one(&sql, &[]).await.unwrap().get(0) };
            assert_eq!(on(Side::Blue).await, on(Side::Green).await, "{table}");
        }
    }

    /// Ends the run: nothing of it is left, and nobody holds anything.
    pub(crate) async fn close(self, pipes: Vec<Pipe>) {
        drop(pipes);
        for side in &self.sides {
            Source::release(side, &self.run).await.unwrap();
            Sink::release(side, &self.run).await.unwrap();
        }
        let left = format!(
            "SELECT (SELECT count(*) FROM pg_replication_origin WHERE roname ~ '^{0}(/|$)')
                  + (SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{0}')
                  + (SELECT count(*) FROM pg_namespace WHERE nspname = '{0}')",
            self.run.object_name()
        );
        for side in [Side::Blue, Side::Green] {
            assert_eq!(self.number(side, &left).await, 0, "{side}");
        }
        assert_eq!(std::fs::read_dir(self.spill.path()).unwrap().count(), 0);
    }
}

/// Rows of about 100 bytes.
pub(crate) fn rows(from: i32, count: i32) -> String {
    format!(
        "INSERT INTO t SELECT i, repeat('v', 100) FROM generate_series({from}, {}) i",
        from + count - 1
    )
}

pub(crate) async fn run(client: &Client, statements: &[&str]) {
    for statement in statements {
        client.batch_execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
    }
}

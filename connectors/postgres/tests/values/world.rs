//! Two servers, a database on each, and everything that travels between them.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use cutover_core::{
    model::{
        event::Event,
        run::RunId,
        schema::{Table, TableName},
        selection::Selection,
        side::Side,
    },
    port::{
        Result,
        copy::{CopyFormat, Range, Snapshot},
        reader::RowReader,
        sink::{Route, Sink, SinkWriter},
        source::{ChangeStream, Source},
    },
};
use cutover_postgres::{Database, LiveReader, connect::PgConfig};
use cutover_sandbox::{PgInstall, PgOptions, Postgres, find_postgres};
use tempfile::TempDir;
use tokio::{sync::OnceCell, time::timeout};
use tokio_postgres::Client;

use crate::kinds::{Able, EXTENSIONS};

/// How long a test waits for something that should take a moment.
const PATIENCE: Duration = Duration::from_secs(300);

static SERVERS: OnceCell<HashMap<u32, Postgres>> = OnceCell::const_new();
static COUNT: AtomicU32 = AtomicU32::new(0);

/// One server per version, started once.
pub(crate) async fn servers() -> &'static HashMap<u32, Postgres> {
    SERVERS
        .get_or_init(|| async {
            let mut all = HashMap::new();
            for install in find_postgres() {
                all.insert(install.major, start(&install).await);
            }
            all
        })
        .await
}

/// A server as all tests here need it.
pub(crate) async fn start(install: &PgInstall) -> Postgres {
    let origins = match install.major {
        ..18 => "max_replication_slots",
        _ => "max_active_replication_origins",
    };
    let options =
        PgOptions::new().set(origins, "100").set("max_wal_size", "8GB").set("autovacuum", "off");
    Postgres::start(install, options).await.unwrap()
}

/// Pairs of versions of which this machine has both.
pub(crate) async fn pairs(wanted: &[(u32, u32)]) -> Vec<(&'static Postgres, &'static Postgres)> {
    let servers = servers().await;
    let mut pairs = Vec::new();
    for (blue, green) in wanted {
        match (servers.get(blue), servers.get(green)) {
            (Some(blue), Some(green)) => pairs.push((blue, green)),
            _ => eprintln!("skipped: PostgreSQL {blue} and {green} are not both on this machine"),
        }
    }
    assert!(servers.len() > 1, "two PostgreSQL versions are needed: run scripts/setup test");
    pairs
}

/// What two servers can both do.
pub(crate) async fn able(blue: &Postgres, green: &Postgres) -> Able {
    let mut extensions = Vec::new();
    let client =
        [blue.connect("postgres").await.unwrap(), green.connect("postgres").await.unwrap()];
    for name in EXTENSIONS {
        let ask = "SELECT count(*) FROM pg_available_extensions WHERE name = $1::text";
        let mut have = 0;
        for c in &client {
            have += c.query_one(ask, &[name]).await.unwrap().get::<_, i64>(0);
        }
        if have == 2 {
            extensions.push(*name);
        } else {
            eprintln!("skipped: extension {name} on {} and {}", blue.major(), green.major());
        }
    }
    let mut xml = true;
    for c in &client {
        xml &= c.batch_execute("SELECT '<a/>'::xml").await.is_ok();
    }
    if !xml {
        eprintln!("skipped: xml on {} and {}", blue.major(), green.major());
    }
    let (a, b) = (blue.major(), green.major());
    Able { major: a.min(b), xml, extensions }
}

/// One half of a pair.
pub(crate) struct Half {
    pub(crate) server: &'static Postgres,
    pub(crate) db: Database,
    /// Kept, as the program keeps its own: a login costs more than most reads.
    pub(crate) reader: LiveReader,
    /// A superuser's session with settings of its own.
    pub(crate) client: Client,
    pub(crate) name: String,
}

/// What decides about rendering, as our sessions pin it.
pub(crate) const PINNED: &str =
    "SET search_path = ''; SET DateStyle = 'ISO,YMD'; SET TimeZone = 'UTC';
    SET IntervalStyle = postgres; SET extra_float_digits = 3; SET bytea_output = hex;
    SET lc_monetary = 'C'; SET xmloption = content; SET quote_all_identifiers = off;
    SET array_nulls = on; SET standard_conforming_strings = on; SET transform_null_equals = off;
    SET default_transaction_isolation = 'read committed'";

/// Settings of the databases and of the role: different on both sides, and helpful on neither.
const HOSTILE: [&[(&str, &str)]; 2] = [
    &[
        ("TimeZone", "Asia/Kolkata"),
        ("DateStyle", "SQL, DMY"),
        ("IntervalStyle", "sql_standard"),
        ("extra_float_digits", "-15"),
        ("bytea_output", "escape"),
        ("xmloption", "document"),
        ("array_nulls", "off"),
        ("quote_all_identifiers", "on"),
        ("transform_null_equals", "on"),
        ("default_transaction_isolation", "serializable"),
        ("search_path", "\"my.Types\""),
    ],
    &[
        ("TimeZone", "America/St_Johns"),
        ("DateStyle", "German"),
        ("IntervalStyle", "iso_8601"),
        ("extra_float_digits", "0"),
        ("bytea_output", "escape"),
        ("xmloption", "document"),
        ("array_nulls", "off"),
        ("timezone_abbreviations", "Australia"),
        ("default_transaction_isolation", "repeatable read"),
    ],
];

/// Helpers of the generator.
const LOG: &str = r#"
CREATE SCHEMA log; CREATE SCHEMA ext; CREATE SCHEMA app;
CREATE FUNCTION log.quoted(text) RETURNS text IMMUTABLE LANGUAGE sql AS $$
  SELECT CASE WHEN $1 IS NULL THEN 'NULL'
    ELSE '"' || replace(replace($1, '\', '\\'), '"', '\"') || '"' END $$;"#;

impl Half {
    async fn new(
        server: &'static Postgres,
        side: Side,
        run: &RunId,
        spill: &TempDir,
        how: &str,
    ) -> Self {
        let name = format!("v{}", COUNT.fetch_add(1, Ordering::Relaxed));
        server.execute("postgres", &format!("CREATE DATABASE {name} {how}")).await.unwrap();
        let config = PgConfig::parse(&server.url(&name), None).unwrap();
        let db = Database::new(config, side, run.clone(), spill.path());
        let half = Self {
            server,
            reader: db.reader(),
            db,
            client: server.connect(&name).await.unwrap(),
            name,
        };
        half.sql(PINNED).await;
        half.sql(LOG).await;
        let (database, role) = match side {
            Side::Blue => (HOSTILE[0], HOSTILE[1]),
            Side::Green => (HOSTILE[1], HOSTILE[0]),
        };
        for (name, value) in database {
            let value =
                if *name == "search_path" { (*value).to_owned() } else { format!("'{value}'") };
            half.sql(&format!("ALTER DATABASE {} SET {name} = {value}", half.name)).await;
        }
        for (name, value) in role.iter().take(5) {
            half.sql(&format!(
                "ALTER ROLE postgres IN DATABASE {} SET {name} = '{value}'",
                half.name
            ))
            .await;
        }
        half
    }

    /// Runs statements.
    pub(crate) async fn sql(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|e| {
            let said = e.as_db_error().map(|e| e.message().chars().take(300).collect::<String>());
            let short: String = sql.chars().take(300).collect();
            panic!("PostgreSQL {}: {said:?}\n{short}", self.server.major());
        });
    }

    /// Another session of a superuser.
    pub(crate) async fn connect(&self) -> Client {
        self.server.connect(&self.name).await.unwrap()
    }

    /// The rows of a table as sorted text. Sorted here: servers may sort by different rules.
    pub(crate) async fn rows(&self, table: &TableName) -> Vec<String> {
        let text = format!("SELECT t::text FROM ONLY {} t", cutover_postgres::sql::table(table));
        let rows = self.client.query(&text, &[]).await.unwrap();
        let mut rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        rows.sort();
        rows
    }

    /// Tables of schema `app`.
    pub(crate) async fn tables(&self) -> Vec<Table> {
        let selection = Selection { include: vec!["app.*".into()], exclude: Vec::new() };
        self.db.tables(&selection).await.unwrap()
    }
}

/// Two databases with the same definitions.
pub(crate) struct Pair {
    pub(crate) blue: Half,
    pub(crate) green: Half,
    pub(crate) run: RunId,
    pub(crate) able: Able,
    _spill: TempDir,
}

impl Pair {
    pub(crate) async fn new(blue: &'static Postgres, green: &'static Postgres) -> Self {
        let pair = Self::with((blue, ""), (green, "")).await;
        for extension in pair.able.extensions.clone() {
            pair.both(&format!("CREATE EXTENSION {extension} SCHEMA ext")).await;
        }
        pair
    }

    /// Databases that are created with options of their own, and without extensions.
    pub(crate) async fn with(
        (blue, one): (&'static Postgres, &str),
        (green, other): (&'static Postgres, &str),
    ) -> Self {
        let run = RunId::new(&format!("values-{}", COUNT.fetch_add(1, Ordering::Relaxed))).unwrap();
        let spill = tempfile::tempdir().unwrap();
        let able = able(blue, green).await;
        let blue = Half::new(blue, Side::Blue, &run, &spill, one).await;
        let green = Half::new(green, Side::Green, &run, &spill, other).await;
        Self { blue, green, run, able, _spill: spill }
    }

    /// "14 to 18", for messages.
    pub(crate) fn versions(&self) -> String {
        format!("PostgreSQL {} to {}", self.blue.server.major(), self.green.server.major())
    }

    /// The same definitions on both sides.
    pub(crate) async fn both(&self, sql: &str) {
        self.blue.sql(sql).await;
        self.green.sql(sql).await;
    }

    /// Begins to follow blue: the snapshot of that position, and the stream behind it.
    pub(crate) async fn follow(&self) -> (Box<dyn Snapshot>, Pump) {
        let tables = self.blue.tables().await;
        let capture = self.blue.db.capture(&self.run, &tables, true).await.unwrap();
        let stream = self.blue.db.stream(&self.run, Some(&capture.start)).await.unwrap();
        self.green.db.prepare(&self.run).await.unwrap();
        (capture.snapshot.unwrap(), Pump { stream })
    }

    /// Copies a table in this format; it must be empty on green.
    pub(crate) async fn copy(
        &self,
        snapshot: &dyn Snapshot,
        table: &Table,
        format: CopyFormat,
    ) -> Result<u64> {
        let whole = Range { condition: String::new(), bytes: 0 };
        let rows = snapshot.read(table, &whole, format).await?.rows()?;
        self.green.db.copy(&self.run, table, format, rows).await
    }

    pub(crate) async fn writer(&self) -> Box<dyn SinkWriter> {
        let routes: Vec<Route> = self
            .green
            .tables()
            .await
            .into_iter()
            .map(|target| Route { source: target.name.clone(), target })
            .collect();
        self.green.db.writer(&self.run, &routes).await.unwrap()
    }

    /// What blue has written since, up to now.
    pub(crate) async fn changes(&self, pump: &mut Pump) -> Vec<Event> {
        let marker = format!("marker {}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.blue.db.emit("test", &marker).await.unwrap();
        pump.until(&marker).await
    }

    /// The text and the digests of a table are equal on both sides.
    pub(crate) async fn assert_equal(&self, table: &Table, when: &str) {
        let name = &table.name;
        let (blue, green) = (self.blue.rows(name).await, self.green.rows(name).await);
        if blue != green {
            let short = |row: &String| row.chars().take(500).collect::<String>();
            let one = blue.iter().find(|row| !green.contains(row)).map(short);
            let other = green.iter().find(|row| !blue.contains(row)).map(short);
            panic!(
                "{when}, {}, {name}: {} and {} rows; blue has {one:?}, green has {other:?}",
                self.versions(),
                blue.len(),
                green.len()
            );
        }
        let digests = async |half: &Half| {
            let rows = half.reader.bucket_rows(table, 1, &[0]).await.unwrap();
            let mut rows: Vec<_> = rows.into_iter().map(|r| (r.key, r.hash)).collect();
            rows.sort();
            rows
        };
        let (b, g) = (digests(&self.blue).await, digests(&self.green).await);
        assert!(b == g, "{when}, {}, {name}: texts are equal and digests are not", self.versions());
        assert_eq!(b.len(), blue.len());
    }
}

/// A running stream.
pub(crate) struct Pump {
    pub(crate) stream: Box<dyn ChangeStream>,
}

impl Pump {
    /// Everything up to the transaction with this message, which is left out.
    async fn until(&mut self, marker: &str) -> Vec<Event> {
        let (mut all, mut seen) = (Vec::new(), false);
        loop {
            let mut events = Vec::new();
            let next = cutover_testkit::next_inline(&mut *self.stream, &mut events);
            timeout(PATIENCE, next).await.expect("in time").unwrap();
            for event in events {
                seen |= matches!(&event, Event::Message { content, .. } if content == marker);
                let end = seen && matches!(event, Event::Commit { .. });
                // All of it is in hand; what nobody confirms is not sent without end.
                if let Event::Commit { position } = &event {
                    self.stream.confirm(position);
                }
                if !matches!(event, Event::Idle { .. }) {
                    all.push(event);
                }
                if end {
                    let begin = all.iter().rposition(|e| matches!(e, Event::Begin { .. }));
                    all.truncate(begin.unwrap());
                    return all;
                }
            }
        }
    }
}

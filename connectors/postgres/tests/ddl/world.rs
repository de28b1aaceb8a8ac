//! A source and a target with the same definitions, and a stream between them.

use std::sync::atomic::{AtomicU32, Ordering};

use cutover_core::{
    model::{event::Event, run::RunId, schema::Table, selection::Selection, side::Side},
    port::{
        PortError,
        sink::{Redefined, Route, Sink as _, SinkWriter},
        source::{ChangeStream, Source as _},
    },
};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{PgOptions, Postgres, find_postgres};
use tokio::sync::OnceCell;
use tokio_postgres::Client;

static SERVERS: OnceCell<Vec<Postgres>> = OnceCell::const_new();
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The oldest and the newest server of this machine.
async fn servers() -> &'static [Postgres] {
    SERVERS
        .get_or_init(|| async {
            let mut installs = find_postgres();
            assert!(installs.len() >= 2, "two versions are needed: run scripts/setup test");
            installs.drain(1..installs.len() - 1);
            let mut servers = Vec::new();
            for install in installs {
                let origins = if install.major < 18 {
                    "max_replication_slots"
                } else {
                    "max_active_replication_origins"
                };
                let options = PgOptions::new()
                    .set("max_replication_slots", "200")
                    .set("max_wal_senders", "200")
                    .set("max_connections", "600")
                    .set(origins, "200");
                servers.push(Postgres::start(&install, options).await.unwrap());
            }
            servers
        })
        .await
}

/// A source and a target with the same definitions, and a stream between them.
pub(crate) struct Stage {
    pub(crate) blue: Database,
    pub(crate) green: Database,
    pub(crate) run: RunId,
    pub(crate) here: Client,
    pub(crate) there: Client,
    pub(crate) stream: Option<Box<dyn ChangeStream>>,
    pub(crate) writer: Option<Box<dyn SinkWriter>>,
    pub(crate) selection: Selection,
    /// Before a difference counts, the source is asked what its tables are like by now.
    pub(crate) asks: bool,
}

impl Stage {
    /// From `old` to `new`: indexes of [`servers`].
    pub(crate) async fn new(from: usize, to: usize, ddl: &str) -> Self {
        Self::with(from, to, ddl, "").await
    }

    /// `how` stands behind the CREATE DATABASE of the source.
    pub(crate) async fn with(from: usize, to: usize, ddl: &str, how: &str) -> Self {
        let servers = servers().await;
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let run = RunId::new(&format!("ddl-{n}")).unwrap();
        let mut sides = Vec::new();
        for (server, side) in [(&servers[from], Side::Blue), (&servers[to], Side::Green)] {
            let name = format!("ddl_{n}_{side}");
            let how = if side == Side::Blue { how } else { "" };
            server.execute("postgres", &format!("CREATE DATABASE {name} {how}")).await.unwrap();
            let config = PgConfig::parse(&server.url(&name), None).unwrap();
            let db = Database::new(config, side, run.clone(), &std::env::temp_dir());
            let client = server.connect(&name).await.unwrap();
            client.batch_execute(ddl).await.unwrap();
            sides.push((db, client));
        }
        let (green, there) = sides.pop().unwrap();
        let (blue, here) = sides.pop().unwrap();
        let selection =
            Selection { include: vec!["public.*".into()], exclude: vec!["public.aside*".into()] };
        green.prepare(&run).await.unwrap();
        let tables = blue.tables(&selection).await.unwrap();
        let capture = blue.capture(&run, &tables, false).await.unwrap();
        assert!(capture.definitions, "a superuser may watch");
        let routes: Vec<Route> = green
            .tables(&selection)
            .await
            .unwrap()
            .into_iter()
            .map(|target| Route { source: target.name.clone(), target })
            .collect();
        let stream = Some(blue.stream(&run, Some(&capture.start)).await.unwrap());
        let writer = Some(green.writer(&run, &routes).await.unwrap());
        Self { blue, green, run, here, there, stream, writer, selection, asks: false }
    }

    pub(crate) fn writer(&mut self) -> &mut dyn SinkWriter {
        self.writer.as_mut().expect("it is open").as_mut()
    }

    pub(crate) async fn on_blue(&self, sql: &str) {
        self.here.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// Applies everything so far, transaction by transaction; says what definitions came.
    /// A difference ends it, and takes its transaction back.
    pub(crate) async fn follow(&mut self, make: bool) -> Vec<Redefined> {
        self.try_to_follow(make).await.unwrap()
    }

    /// The same, or what kept a change from being made.
    pub(crate) async fn try_to_follow(&mut self, make: bool) -> Result<Vec<Redefined>, PortError> {
        let marker = format!("marker {}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.blue.emit("test", &marker).await.unwrap();
        let (mut said, mut piece, mut seen) = (Vec::new(), Vec::new(), false);
        loop {
            let mut events = Vec::new();
            let stream = self.stream.as_deref_mut().expect("it is open");
            cutover_testkit::next_inline(stream, &mut events).await.unwrap();
            for event in events {
                match event {
                    Event::Definition { content } => {
                        self.writer().apply(&std::mem::take(&mut piece)).await.unwrap();
                        let selection = self.selection.clone();
                        let mut found =
                            self.writer().redefine(&content, None, &selection, make).await?;
                        if let Redefined::Differs { tables, .. } = &found
                            && self.asks
                        {
                            let now = self.blue.describe(tables).await.unwrap();
                            let again =
                                self.writer().redefine(&content, Some(&now), &selection, make);
                            found = again.await.unwrap();
                        }
                        let stop = matches!(found, Redefined::Differs { .. });
                        said.push(found);
                        if stop {
                            return Ok(said);
                        }
                    }
                    Event::Commit { .. } => {
                        piece.push(event);
                        self.writer().apply(&std::mem::take(&mut piece)).await.unwrap();
                        if seen {
                            return Ok(said);
                        }
                    }
                    Event::Message { content, .. } => seen |= content == marker,
                    Event::Idle { .. } => {}
                    other => piece.push(other),
                }
            }
        }
    }

    pub(crate) async fn equal(&self, what: &str) {
        let mut sides = Vec::new();
        for (db, client) in [(&self.blue, &self.here), (&self.green, &self.there)] {
            let tables: Vec<Table> = db
                .tables(&self.selection)
                .await
                .unwrap()
                .into_iter()
                .map(|t| Table { bytes: 0, estimated_rows: None, ..t })
                .collect();
            let mut rows = Vec::new();
            for table in &tables {
                let name = cutover_postgres::sql::table(&table.name);
                let query = format!("SELECT t::text FROM {name} t ORDER BY 1");
                for row in client.query(&query, &[]).await.unwrap() {
                    rows.push((table.name.to_string(), row.get::<_, String>(0)));
                }
            }
            let indexes: Vec<String> = client
                .query(
                    "SELECT indexname::text FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
                    &[],
                )
                .await
                .unwrap()
                .iter()
                .map(|row| row.get(0))
                .collect();
            sides.push((tables, rows, indexes));
        }
        assert_eq!(sides[0], sides[1], "{what}");
    }

    /// Nothing of a transaction that stopped is here, and nobody holds the writer any more.
    pub(crate) async fn reopen(&mut self) {
        self.writer = None;
        self.stream = None;
        let routes: Vec<Route> = self
            .green
            .tables(&self.selection)
            .await
            .unwrap()
            .into_iter()
            .map(|target| Route { source: target.name.clone(), target })
            .collect();
        self.writer = Some(self.green.writer(&self.run, &routes).await.unwrap());
        let durable = self.writer().progress().await.unwrap();
        self.stream = Some(self.blue.stream(&self.run, durable.as_ref()).await.unwrap());
    }
}

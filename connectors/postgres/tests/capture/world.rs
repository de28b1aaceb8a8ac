//! A database of its own per test, on one server per version for all of them.

use std::time::Duration;

use cutover_core::{
    model::{
        event::{Change, Event},
        position::Position,
        run::RunId,
        schema::Table,
        selection::Selection,
        side::Side,
        value::{Tuple, Value},
    },
    port::{
        Result,
        source::{Capture, ChangeStream, Source},
    },
};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{PgInstall, PgOptions, Postgres, find_postgres, wait_for};
use tempfile::TempDir;
use tokio::{sync::OnceCell, time::timeout};
use tokio_postgres::Client;

/// How long a test waits for something that should be instant.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What may have to be tried again, as the run does: where much is rolled back beside it, a server
/// says that a snapshot would be too large (40001).
pub(crate) async fn patiently<T>(mut ask: impl AsyncFnMut() -> Result<T>) -> T {
    wait_for("a snapshot", PATIENCE, async || match ask().await {
        Ok(given) => Some(given),
        Err(e) if e.is_transient() => None,
        Err(e) => panic!("{e}"),
    })
    .await
    .unwrap()
}

static SERVERS: OnceCell<Vec<Postgres>> = OnceCell::const_new();

/// One server per version found, started once.
pub(crate) async fn servers() -> &'static [Postgres] {
    SERVERS
        .get_or_init(|| async {
            let mut all = Vec::new();
            for install in find_postgres() {
                let options = PgOptions::new().set("max_wal_size", "4GB");
                all.push(Postgres::start(&install, options).await.expect("a server starts"));
            }
            assert!(!all.is_empty(), "no PostgreSQL on this machine");
            all
        })
        .await
}

static READ_FROM_STANDBYS: OnceCell<Vec<(Postgres, Postgres)>> = OnceCell::const_new();

/// One server with a standby per version that decodes there, started once.
async fn read_from_standbys() -> &'static [(Postgres, Postgres)] {
    READ_FROM_STANDBYS
        .get_or_init(|| async {
            let mut all = Vec::new();
            for install in find_postgres().into_iter().filter(|i| i.major >= 16) {
                all.push(with_standby(&install, &[]).await);
            }
            assert!(!all.is_empty(), "no PostgreSQL here decodes on a standby");
            all
        })
        .await
}

/// A server and its standby.
pub(crate) async fn with_standby(
    install: &PgInstall,
    on_standby: &[(&str, &str)],
) -> (Postgres, Postgres) {
    let mut primary = Postgres::start(install, PgOptions::new()).await.expect("a server");
    let standby = primary.standby(on_standby).await.expect("a standby");
    (primary, standby)
}

pub(crate) struct World {
    pub(crate) server: &'static Postgres,
    /// Where it is read, when not on the server.
    pub(crate) standby: Option<&'static Postgres>,
    pub(crate) name: String,
    pub(crate) run: RunId,
    pub(crate) db: Database,
    pub(crate) spill: TempDir,
}

impl World {
    /// A fresh database on every server.
    pub(crate) async fn everywhere(test: &str) -> Vec<Self> {
        let mut all = Vec::new();
        for server in servers().await {
            all.push(Self::on(server, test).await);
        }
        all
    }

    /// The same, and on every server that is read from its standby.
    pub(crate) async fn everywhere_and_standbys(test: &str) -> Vec<Self> {
        let mut all = Self::everywhere(test).await;
        all.extend(Self::standbys(test).await);
        all
    }

    /// A fresh database on every server that is read from its standby.
    pub(crate) async fn standbys(test: &str) -> Vec<Self> {
        let mut all = Vec::new();
        for (server, standby) in read_from_standbys().await {
            let mut world = Self::on(server, test).await;
            let config = PgConfig::parse(&standby.url(&world.name), None).unwrap();
            world.db = world.db.reading_from(config);
            world.standby = Some(standby);
            standby.catch_up(server).await.unwrap();
            all.push(world);
        }
        all
    }

    /// A fresh database on the newest server.
    pub(crate) async fn newest(test: &str) -> Self {
        Self::on(servers().await.last().expect("there is one"), test).await
    }

    /// A fresh database on one server.
    pub(crate) async fn on(server: &'static Postgres, test: &str) -> Self {
        let name = test.replace('-', "_");
        server.create_database(&name).await.unwrap();
        Self::existing(server, test, &server.url(&name))
    }

    pub(crate) fn existing(server: &'static Postgres, test: &str, url: &str) -> Self {
        let run = RunId::new(test).unwrap();
        let spill = tempfile::tempdir().unwrap();
        let config = PgConfig::parse(url, None).unwrap();
        let db = Database::new(config, Side::Blue, run.clone(), spill.path());
        Self { server, standby: None, name: test.replace('-', "_"), run, db, spill }
    }

    pub(crate) async fn client(&self) -> Client {
        self.server.connect(&self.name).await.unwrap()
    }

    /// Statements in a session of their own; each line of several is a transaction only when the
    /// text says so.
    pub(crate) async fn sql(&self, sql: &str) {
        self.server.execute(&self.name, sql).await.unwrap_or_else(|e| {
            panic!("PostgreSQL {}: {e}: {:?}", self.server.major(), std::error::Error::source(&e))
        });
    }

    pub(crate) async fn text(&self, sql: &str) -> String {
        self.server.query_text(&self.name, sql).await.unwrap().unwrap_or_default()
    }

    /// As [`World::text`], where it is read.
    pub(crate) async fn text_of_reader(&self, sql: &str) -> String {
        let reader = self.standby.unwrap_or(self.server);
        reader.query_text(&self.name, sql).await.unwrap().unwrap_or_default()
    }

    pub(crate) async fn tables(&self) -> Vec<Table> {
        self.db.tables(&Selection::default()).await.unwrap()
    }

    pub(crate) async fn capture(&self) -> Capture {
        self.db.capture(&self.run, &self.tables().await, false).await.unwrap()
    }

    /// Follows all tables from now on.
    pub(crate) async fn tap(&self) -> Tap {
        let start = self.capture().await.start;
        self.tap_from(Some(&start)).await
    }

    pub(crate) async fn tap_from(&self, from: Option<&Position>) -> Tap {
        Tap { stream: self.db.stream(&self.run, from).await.unwrap() }
    }

    /// As a watcher, from where the slot stands.
    pub(crate) async fn watch(&self) -> Tap {
        Tap { stream: self.db.watch(&self.run, None).await.unwrap() }
    }

    /// Everything from where `tap` stands to a marker that is written now.
    pub(crate) async fn drain(&self, tap: &mut Tap) -> Vec<Event> {
        let marker = format!("marker {:?}", std::time::Instant::now());
        let position = self.db.emit("test", &marker).await.unwrap();
        let events = tap.until(&marker).await;
        let reached = match events.last() {
            Some(Event::Commit { position }) => position.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(position.covers(&reached), Ok(true), "{position} and {reached}");
        // Neither the marker nor its transaction.
        let begin = events.iter().rposition(|e| matches!(e, Event::Begin { .. })).unwrap();
        events[..begin].to_vec()
    }

    /// Ends the run on the server.
    pub(crate) async fn release(&self) {
        self.db.release(&self.run).await.unwrap();
    }
}

/// A stream with a deadline.
pub(crate) struct Tap {
    pub(crate) stream: Box<dyn ChangeStream>,
}

impl Tap {
    pub(crate) async fn next(&mut self) -> Result<Vec<Event>> {
        let mut out = Vec::new();
        while out.is_empty() {
            let next = cutover_testkit::next_inline(&mut *self.stream, &mut out);
            timeout(PATIENCE, next).await.expect("an event in time")?;
        }
        Ok(out)
    }

    /// Tells the server that everything up to the last commit is safe.
    pub(crate) fn confirm(&mut self, events: &[Event]) {
        let last = events.iter().rev().find_map(|e| match e {
            Event::Commit { position } => Some(position),
            _ => None,
        });
        self.stream.confirm(last.expect("a commit"));
    }

    /// Up to the commit of the transaction with this message.
    pub(crate) async fn until(&mut self, marker: &str) -> Vec<Event> {
        let mut all = Vec::new();
        let mut seen = false;
        loop {
            for event in self.next().await.unwrap() {
                seen |= matches!(&event, Event::Message { content, .. } if content == marker);
                let end = seen && matches!(event, Event::Commit { .. });
                all.push(event);
                if end {
                    // What came after it in the same portion is keepalives.
                    return all;
                }
            }
        }
    }

    /// The error that ends the stream.
    pub(crate) async fn error(&mut self) -> cutover_core::port::PortError {
        loop {
            if let Err(e) = self.next().await {
                return e;
            }
        }
    }
}

fn row(tuple: &Tuple) -> String {
    let values: Vec<_> = tuple
        .values()
        .map(|v| match v {
            Value::Null => "NULL".to_owned(),
            Value::Unchanged => "=".to_owned(),
            Value::Text(t) if t.len() > 40 => format!("{} bytes", t.len()),
            Value::Text(t) => String::from_utf8_lossy(t).into_owned(),
            Value::Binary(_) => "BINARY".to_owned(),
        })
        .collect();
    values.join(",")
}

/// Events in short words; idle reports and changes of definitions are left out.
pub(crate) fn show(events: &[Event]) -> Vec<String> {
    let mut words = all(events);
    // What had nothing but those.
    while let Some(at) = words.windows(2).position(|w| w == ["begin", "commit"]) {
        words.drain(at..at + 2);
    }
    words
}

fn all(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .filter_map(|event| {
            Some(match event {
                Event::Begin { .. } => "begin".to_owned(),
                Event::Commit { .. } => "commit".to_owned(),
                Event::Idle { .. } | Event::Definition { .. } => return None,
                Event::Large { .. } | Event::InProgress { .. } | Event::RolledBack { .. } => {
                    panic!("not in its place")
                }
                Event::Message { prefix, content } => {
                    format!("message {prefix}: {}", String::from_utf8_lossy(content))
                }
                Event::Truncate { relations, cascade, restart_identity, .. } => {
                    let names: Vec<_> = relations.iter().map(|r| r.name.to_string()).collect();
                    format!(
                        "truncate {}{}{}",
                        names.join(","),
                        if *cascade { " cascade" } else { "" },
                        if *restart_identity { " restart" } else { "" }
                    )
                }
                Event::Row { relation, change } => match change {
                    Change::Insert { new } => format!("+ {} {}", relation.name, row(new)),
                    Change::Update { old: None, new } => {
                        format!("~ {} {}", relation.name, row(new))
                    }
                    Change::Update { old: Some(old), new } => {
                        format!("~ {} {} -> {}", relation.name, row(old), row(new))
                    }
                    Change::Delete { old } => format!("- {} {}", relation.name, row(old)),
                },
            })
        })
        .collect()
}

//! A database of its own per test, on the oldest and the newest server of this machine, and the
//! role with the least rights that a run needs.
#![allow(dead_code, reason = "not every test file needs all of it")]

use std::sync::atomic::{AtomicU32, Ordering};

use cutover_core::model::{run::RunId, schema::Table, selection::Selection, side::Side};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{PgOptions, Postgres, find_postgres};
use tokio::sync::OnceCell;
use tokio_postgres::Client;

static SERVERS: OnceCell<Vec<Postgres>> = OnceCell::const_new();
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The oldest and the newest server of this machine; all of them with `CUTOVER_TEST_ALL`.
pub(crate) async fn servers() -> &'static [Postgres] {
    SERVERS
        .get_or_init(|| async {
            let mut installs = find_postgres();
            assert!(
                installs.len() >= 2,
                "two PostgreSQL versions are needed: run scripts/setup test"
            );
            if std::env::var_os("CUTOVER_TEST_ALL").is_none() {
                installs.drain(1..installs.len() - 1);
            }
            let mut servers = Vec::new();
            for install in installs {
                let options = PgOptions::new().set("autovacuum", "off");
                let server = Postgres::start(&install, options).await.unwrap();
                server
                    .execute(
                        "postgres",
                        "CREATE ROLE app; CREATE ROLE mover LOGIN REPLICATION PASSWORD 'm'; \
                         GRANT app TO mover; GRANT pg_read_all_stats TO mover",
                    )
                    .await
                    .unwrap();
                servers.push(server);
            }
            servers
        })
        .await
}

/// One test's database.
pub(crate) struct Home {
    pub(crate) server: &'static Postgres,
    pub(crate) name: String,
    pub(crate) run: RunId,
    /// Connects as `mover`.
    pub(crate) db: Database,
    /// A superuser's session.
    pub(crate) root: Client,
}

impl Home {
    /// A database with these objects, all owned by `app`.
    pub(crate) async fn new(server: &'static Postgres, ddl: &str) -> Self {
        let name = format!("home_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        server.create_database(&name).await.unwrap();
        let root = server.connect(&name).await.unwrap();
        root.batch_execute(&format!(
            "GRANT CREATE ON DATABASE {name} TO mover; ALTER SCHEMA public OWNER TO app; \
             GRANT CREATE ON DATABASE {name} TO app"
        ))
        .await
        .unwrap();
        root.batch_execute(&format!("SET ROLE app; {ddl}; RESET ROLE")).await.unwrap();
        let run = RunId::new("test-run").unwrap();
        let db = database(server, &name, Side::Blue);
        Self { server, name, run, db, root }
    }

    /// The same database for another process.
    pub(crate) fn process(&self, side: Side) -> Database {
        database(self.server, &self.name, side)
    }

    /// Another superuser's session.
    pub(crate) async fn client(&self) -> Client {
        self.server.connect(&self.name).await.unwrap()
    }

    /// Everything the database has, as the run sees it.
    pub(crate) async fn tables(&self) -> Vec<Table> {
        self.selected(&Selection::default()).await
    }

    pub(crate) async fn selected(&self, selection: &Selection) -> Vec<Table> {
        cutover_core::port::source::Source::tables(&self.db, selection).await.unwrap()
    }

    pub(crate) async fn table(&self, name: &str) -> Table {
        self.tables().await.into_iter().find(|t| t.name.name == name).unwrap()
    }
}

fn database(server: &Postgres, name: &str, side: Side) -> Database {
    let config = PgConfig::parse(&server.url_as("mover", "m", name), None).unwrap();
    let spill = std::env::temp_dir().join("cutover-no-spill");
    Database::new(config, side, RunId::new("test-run").unwrap(), &spill)
}

/// Patterns to include.
pub(crate) fn only(include: &[&str], exclude: &[&str]) -> Selection {
    let texts = |t: &[&str]| t.iter().map(ToString::to_string).collect();
    Selection { include: texts(include), exclude: texts(exclude) }
}

//! A server with a database and a role without rights, and what tests do with findings.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use cutover_core::{
    model::{
        finding::{Finding, Scope, Severity},
        run::RunId,
        schema::{Column, Generated, Identity, RowIdentity, Table, TableName},
        selection::Selection,
        side::Side,
    },
    port::{examine::Question, source::Source},
};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{PgInstall, PgOptions, Postgres};

pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A server with a database `Shop` whose tables belong to `app`, and a role `Mover` without any
/// right. Names need quotes on purpose.
pub(crate) struct Place {
    pub(crate) server: Postgres,
}

impl Place {
    pub(crate) async fn start(install: &PgInstall, options: PgOptions) -> Self {
        let server = Postgres::start(install, options).await.unwrap();
        server.create_role("app", "secret", "").await.unwrap();
        server.create_role("Mover", "secret", "").await.unwrap();
        server.create_database("Shop").await.unwrap();
        Self { server }
    }

    /// Gives everything in `app` to the role `app`.
    pub(crate) async fn hand_over(&self) {
        self.server
            .execute(
                "Shop",
                "DO $$ DECLARE name text; BEGIN \
                   FOR name IN SELECT oid::regclass FROM pg_class \
                     WHERE relnamespace = 'app'::regnamespace \
                       AND relkind IN ('r', 'p', 'S', 'm', 'f') LOOP \
                     EXECUTE format('ALTER TABLE %s OWNER TO app', name); \
                   END LOOP; END $$",
            )
            .await
            .unwrap();
    }

    /// Runs statements one by one as superuser, each in a transaction of its own.
    pub(crate) async fn sql(&self, statements: &str) {
        let client = self.server.connect("Shop").await.unwrap();
        for statement in statements.split(";\n").map(str::trim).filter(|s| !s.is_empty()) {
            if let Err(e) = client.batch_execute(statement).await {
                panic!("{}: {statement}: {e:?}", self.server.major());
            }
        }
    }

    pub(crate) fn database(&self, user: &str, password: &str, side: Side) -> Database {
        let url = self.server.url_as(user, password, "Shop");
        let config = PgConfig::parse(&url, None).unwrap();
        let run = RunId::new("shop").unwrap();
        Database::new(config, side, run, &std::env::temp_dir())
    }

    pub(crate) fn as_mover(&self, side: Side) -> Database {
        self.database("Mover", "secret", side)
    }

    pub(crate) fn as_superuser(&self, side: Side) -> Database {
        self.database(self.server.user(), self.server.password(), side)
    }

    /// The tables of schema `app`, with as much of them as checks look at.
    pub(crate) async fn tables(&self) -> Vec<Table> {
        let client = self.server.connect("Shop").await.unwrap();
        let rows = client
            .query(
                "SELECT c.relname::text, a.attname::text, a.attgenerated <> '' FROM pg_class c \
                 JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 \
                 WHERE c.relnamespace = 'app'::regnamespace AND c.relkind = 'r' \
                 ORDER BY c.relname, a.attnum",
                &[],
            )
            .await
            .unwrap();
        let mut tables: BTreeMap<String, Table> = BTreeMap::new();
        for row in &rows {
            let name: String = row.get(0);
            let table = tables.entry(name.clone()).or_insert_with(|| Table {
                name: TableName::new("app", name),
                columns: Default::default(),
                identity: RowIdentity::Nothing,
                primary_key: Vec::new(),
                root: None,
                estimated_rows: None,
                bytes: 0,
            });
            table.columns.push(Column {
                name: row.get(1),
                base_type: "text".into(),
                declared_type: "text".into(),
                nullable: true,
                generated: if row.get(2) { Generated::Stored } else { Generated::No },
                identity: Identity::No,
                collation: None,
            });
        }
        tables.into_values().collect()
    }

    /// Has a run begin to follow these tables.
    pub(crate) async fn capture(&self, tables: &[Table]) {
        let database = self.as_superuser(Side::Blue);
        let run = self.question(Side::Blue, Vec::new()).run;
        drop(database.capture(&run, tables, true).await.unwrap());
    }

    pub(crate) fn question(&self, side: Side, tables: Vec<Table>) -> Question {
        Question {
            run: RunId::new("shop").unwrap(),
            side,
            scope: Scope::Start,
            selection: Selection { include: vec!["app.*".into()], exclude: Vec::new() },
            tables,
            owners: vec!["app".into()],
            owned_in: Vec::new(),
            schema_owners: Default::default(),
            belongings: Vec::new(),
            forced: Vec::new(),
            owns_writes: side == Side::Blue,
            resuming: false,
            copies_schema: true,
            workers: 4,
        }
    }

    /// Executes what a finding tells an operator to do, comments left out.
    pub(crate) async fn follow(&self, finding: &Finding) {
        let client = self.server.connect("Shop").await.unwrap();
        for line in finding.remedy.lines() {
            let statement = line.split("--").next().unwrap().trim();
            if let Err(e) = client.batch_execute(statement).await {
                panic!("{} {}: {statement}: {e:?}", self.server.major(), finding.code);
            }
        }
    }
}

pub(crate) fn codes(findings: &[Finding]) -> BTreeSet<&str> {
    findings.iter().map(|f| f.code.as_str()).collect()
}

pub(crate) fn errors(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|f| f.severity == Severity::Error).collect()
}

/// Findings whose remedy is SQL.
pub(crate) fn pastable(finding: &Finding) -> bool {
    finding.remedy.lines().any(|line| {
        let first = line.split_whitespace().next().unwrap_or_default();
        first.len() > 2 && first.chars().all(|c| c.is_ascii_uppercase()) && line.contains(';')
    })
}

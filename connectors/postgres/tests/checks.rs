//! Every finding on real servers of every version at hand, and every remedy: it is executed as it
//! is printed, and the finding is gone.

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
    port::examine::{Examine, Question},
};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{PgInstall, PgOptions, Postgres, StopMode, find_postgres, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

/// A server with a database `Shop` whose tables belong to `app`, and a role `Mover` without any
/// right. Names need quotes on purpose.
struct Place {
    server: Postgres,
}

impl Place {
    async fn start(install: &PgInstall, options: PgOptions) -> Self {
        let server = Postgres::start(install, options).await.unwrap();
        server.create_role("app", "secret", "").await.unwrap();
        server.create_role("Mover", "secret", "").await.unwrap();
        server.create_database("Shop").await.unwrap();
        Self { server }
    }

    /// Gives everything in `app` to the role `app`.
    async fn hand_over(&self) {
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
    async fn sql(&self, statements: &str) {
        let client = self.server.connect("Shop").await.unwrap();
        for statement in statements.split(";\n").map(str::trim).filter(|s| !s.is_empty()) {
            if let Err(e) = client.batch_execute(statement).await {
                panic!("{}: {statement}: {e:?}", self.server.major());
            }
        }
    }

    fn database(&self, user: &str, password: &str, side: Side) -> Database {
        let url = self.server.url_as(user, password, "Shop");
        let config = PgConfig::parse(&url, None).unwrap();
        let run = RunId::new("shop").unwrap();
        Database::new(config, side, run, &std::env::temp_dir())
    }

    fn as_mover(&self, side: Side) -> Database {
        self.database("Mover", "secret", side)
    }

    fn as_superuser(&self, side: Side) -> Database {
        self.database(self.server.user(), self.server.password(), side)
    }

    /// The tables of schema `app`, with as much of them as checks look at.
    async fn tables(&self) -> Vec<Table> {
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
                columns: Vec::new(),
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

    fn question(&self, side: Side, tables: Vec<Table>) -> Question {
        Question {
            run: RunId::new("shop").unwrap(),
            side,
            scope: Scope::Start,
            selection: Selection { include: vec!["app.*".into()], exclude: Vec::new() },
            tables,
            owners: vec!["app".into()],
            owns_writes: side == Side::Blue,
            resuming: false,
            copies_schema: true,
        }
    }

    /// Executes what a finding tells an operator to do, comments left out.
    async fn follow(&self, finding: &Finding) {
        let client = self.server.connect("Shop").await.unwrap();
        for line in finding.remedy.lines() {
            let statement = line.split("--").next().unwrap().trim();
            if let Err(e) = client.batch_execute(statement).await {
                panic!("{} {}: {statement}: {e:?}", self.server.major(), finding.code);
            }
        }
    }
}

fn codes(findings: &[Finding]) -> BTreeSet<&str> {
    findings.iter().map(|f| f.code.as_str()).collect()
}

fn errors(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|f| f.severity == Severity::Error).collect()
}

/// Findings whose remedy is SQL.
fn pastable(finding: &Finding) -> bool {
    finding.remedy.lines().any(|line| {
        let first = line.split_whitespace().next().unwrap_or_default();
        first.len() > 2 && first.chars().all(|c| c.is_ascii_uppercase()) && line.contains(';')
    })
}

/// Everything that can be wrong with a database that clients write.
const BLUE_WRONGS: &str = "
    ALTER ROLE \"Mover\" CONNECTION LIMIT 5;
    ALTER ROLE app IN DATABASE \"Shop\" SET default_transaction_read_only = on;
    REVOKE TEMPORARY ON DATABASE \"Shop\" FROM public;
    CREATE SCHEMA app AUTHORIZATION app;
    CREATE TABLE app.fine (id int PRIMARY KEY);
    CREATE TABLE app.no_key (a int);
    CREATE TABLE app.\"Has Index\" (a int NOT NULL, b int NOT NULL);
    CREATE UNIQUE INDEX \"By A\" ON app.\"Has Index\" (a) INCLUDE (b);
    CREATE TABLE app.partial_index (a int NOT NULL);
    CREATE UNIQUE INDEX ON app.partial_index (a) WHERE a > 0;
    CREATE TABLE app.nothing (id int PRIMARY KEY);
    ALTER TABLE app.nothing REPLICA IDENTITY NOTHING;
    CREATE TABLE app.lost_index (id int PRIMARY KEY, a int NOT NULL);
    CREATE UNIQUE INDEX lost ON app.lost_index (a);
    ALTER TABLE app.lost_index REPLICA IDENTITY USING INDEX lost;
    DROP INDEX app.lost;
    CREATE TABLE app.later (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE app.whole (id int PRIMARY KEY);
    ALTER TABLE app.whole REPLICA IDENTITY FULL;
    CREATE UNLOGGED TABLE app.cache (id int PRIMARY KEY);
    CREATE TABLE app.computed (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);
    CREATE TABLE app.swap (id int PRIMARY KEY, place int UNIQUE DEFERRABLE);
    CREATE TABLE app.secret (id int PRIMARY KEY);
    ALTER TABLE app.secret ENABLE ROW LEVEL SECURITY;
    ALTER TABLE app.secret FORCE ROW LEVEL SECURITY;
    CREATE TABLE app.audited (id int PRIMARY KEY);
    CREATE FUNCTION app.audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER audit AFTER INSERT ON app.audited FOR EACH ROW EXECUTE FUNCTION app.audit();
    ALTER TABLE app.audited ENABLE ALWAYS TRIGGER audit;
    CREATE TABLE app.ruled (id int PRIMARY KEY);
    CREATE RULE twist AS ON DELETE TO app.ruled DO INSTEAD NOTHING;
    ALTER TABLE app.ruled ENABLE REPLICA RULE twist;
    CREATE SEQUENCE app.numbers;
    CREATE MATERIALIZED VIEW app.seen AS SELECT 1 AS one;
    CREATE FOREIGN DATA WRAPPER nowhere;
    CREATE SERVER elsewhere FOREIGN DATA WRAPPER nowhere;
    CREATE FOREIGN TABLE app.remote (a int) SERVER elsewhere;
    SELECT lo_create(0);
    CREATE PUBLICATION kafka FOR TABLE app.fine;
    CREATE FUNCTION app.watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
    CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION app.watch();
    SELECT pg_replication_origin_create('somebody');
";

/// Findings that no statement can remove: they are for people to know.
const FOR_PEOPLE: &[&str] = &["CUT0129", "CUT0135", "CUT0136", "CUT0144"];

#[tokio::test]
async fn a_blue_with_everything_wrong_says_so_at_once_and_the_remedies_help() {
    for install in find_postgres() {
        let mut options = PgOptions::new()
            .set("wal_level", "replica")
            .set("max_replication_slots", "1")
            .set("max_wal_senders", "1")
            .set("max_slot_wal_keep_size", "64MB")
            .set("wal_sender_timeout", "0")
            .set("max_connections", "20")
            .set("max_prepared_transactions", "2")
            .set("max_locks_per_transaction", "10");
        if install.major >= 18 {
            options = options
                .set("idle_replication_slot_timeout", "1min")
                .set("max_active_replication_origins", "1");
        }
        let mut place = Place::start(&install, options).await;
        place.sql(BLUE_WRONGS).await;
        for i in 0..20 {
            place.sql(&format!("CREATE TABLE app.many_{i} (id int PRIMARY KEY)")).await;
        }
        place.hand_over().await;
        place.sql("REVOKE INSERT ON app.fine FROM app").await;
        place
            .sql("BEGIN; INSERT INTO app.fine VALUES (1); PREPARE TRANSACTION 'it''s'")
            .await;
        // Last: from now on every commit waits.
        place
            .sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody';\nSELECT pg_reload_conf()")
            .await;
        let database = place.as_mover(Side::Blue);
        let question = place.question(Side::Blue, place.tables().await);
        let mut findings = Vec::new();
        wait_until("the setting to be read", PATIENCE, async || {
            findings = database.examine(&question).await.unwrap();
            codes(&findings).contains("CUT0112")
        })
        .await
        .unwrap();

        let mut wanted = BTreeSet::from([
            "CUT0103", "CUT0104", "CUT0105", "CUT0106", "CUT0107", "CUT0109", "CUT0110", "CUT0111",
            "CUT0112", "CUT0113", "CUT0114", "CUT0116", "CUT0117", "CUT0119", "CUT0120", "CUT0121",
            "CUT0122", "CUT0123", "CUT0124", "CUT0125", "CUT0126", "CUT0127", "CUT0128", "CUT0129",
            "CUT0130", "CUT0131", "CUT0132", "CUT0135", "CUT0136", "CUT0137", "CUT0140", "CUT0144",
            "CUT0145",
        ]);
        if install.major >= 18 {
            wanted.insert("CUT0108");
        }
        assert_eq!(codes(&findings), wanted, "{} {findings:#?}", install.major);
        assert!(findings.iter().all(|f| f.place == "blue"));

        // A second round finds what the first one uncovered.
        for round in 0..3 {
            // Before anything else, or every other statement waits for a standby.
            findings.sort_by_key(|f| f.code != "CUT0112");
            for finding in findings.iter().filter(|f| pastable(f)) {
                place.follow(finding).await;
            }
            place.server.restart().await.unwrap();
            let left = database.examine(&question).await.unwrap();
            for finding in &left {
                let before = findings.iter().any(|f| f == finding);
                assert!(
                    !before || !pastable(finding) || finding.code == "CUT0137",
                    "round {round} on {}: the remedy does not help: {finding:#?}",
                    install.major
                );
            }
            findings = left;
            if errors(&findings).is_empty() && codes(&findings).len() <= FOR_PEOPLE.len() + 2 {
                break;
            }
        }
        let mut left = codes(&findings);
        for code in FOR_PEOPLE {
            assert!(left.remove(code), "{code} is gone on {}: {findings:#?}", install.major);
        }
        // A table without any key keeps its costly identity, and a view has to be refreshed.
        assert_eq!(left, BTreeSet::from(["CUT0127", "CUT0137"]), "{findings:#?}");
    }
}

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
    port::{
        examine::{Examine, Question},
        primary::Primary,
        sink::Sink,
        source::Source,
    },
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
        place.sql("BEGIN; INSERT INTO app.fine VALUES (1); PREPARE TRANSACTION 'it''s'").await;
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

/// Everything that can be wrong with a database that is about to receive rows. Its tables have
/// been made by the user's own migrations.
const GREEN_WRONGS: &str = "
    CREATE SCHEMA app AUTHORIZATION app;
    CREATE TABLE app.fine (id int PRIMARY KEY);
    CREATE TABLE app.filled (id int PRIMARY KEY);
    INSERT INTO app.filled VALUES (1);
    CREATE TABLE app.\"Also Filled\" (id int PRIMARY KEY REFERENCES app.filled);
    INSERT INTO app.\"Also Filled\" VALUES (1);
    CREATE TABLE app.more (id int PRIMARY KEY, unknown int NOT NULL);
    CREATE TABLE app.subscribed (id int PRIMARY KEY);
    CREATE FUNCTION app.audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER audit AFTER INSERT ON app.fine FOR EACH ROW EXECUTE FUNCTION app.audit();
    ALTER TABLE app.fine ENABLE REPLICA TRIGGER audit;
    CREATE RULE twist AS ON DELETE TO app.fine DO ALSO SELECT 1;
    ALTER TABLE app.fine ENABLE ALWAYS RULE twist;
    CREATE SCHEMA cutover_shop;
    CREATE FUNCTION cutover_shop.fence() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER cutover_shop_fence BEFORE INSERT ON app.fine EXECUTE FUNCTION cutover_shop.fence();
    ALTER TABLE app.fine ENABLE ALWAYS TRIGGER cutover_shop_fence;
    CREATE PUBLICATION cutover_shop FOR TABLE app.fine;
    CREATE PUBLICATION cutover_other FOR TABLE app.fine;
    SELECT pg_replication_origin_create('cutover_shop');
    SELECT pg_create_logical_replication_slot('cutover_shop', 'pgoutput');
";

#[tokio::test]
async fn a_green_with_everything_wrong_says_so_at_once_and_the_remedies_help() {
    for install in find_postgres() {
        let place = Place::start(&install, PgOptions::new()).await;
        place.sql(GREEN_WRONGS).await;
        place.hand_over().await;
        // Somebody else's replication, from a third database into a table of the run.
        place.server.create_database("upstream").await.unwrap();
        place
            .server
            .execute(
                "upstream",
                "CREATE SCHEMA app; CREATE TABLE app.subscribed (id int PRIMARY KEY); \
                 CREATE PUBLICATION feed FOR TABLE app.subscribed",
            )
            .await
            .unwrap();
        place
            .server
            .execute("upstream", "SELECT pg_create_logical_replication_slot('feed', 'pgoutput')")
            .await
            .unwrap();
        place
            .sql(&format!(
                "CREATE SUBSCRIPTION feed CONNECTION '{}' PUBLICATION feed \
                 WITH (create_slot = false, copy_data = false)",
                place.server.url("upstream")
            ))
            .await;
        place.sql("GRANT CONNECT ON DATABASE \"Shop\" TO app").await;
        let url = place.server.url_as("app", "secret", "Shop");
        let (application, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);

        let database = place.as_mover(Side::Green);
        let mut tables = place.tables().await;
        for table in &mut tables {
            table.columns.retain(|c| c.name != "unknown");
        }
        let mut question = place.question(Side::Green, tables);
        question.owners.push("Not Here".into());
        let findings = database.examine(&question).await.unwrap();
        // Rows of tables we may not read and sessions we may not see are unknown: that is what the
        // lacking rights say.
        let wanted = BTreeSet::from([
            "CUT0114", "CUT0116", "CUT0117", "CUT0119", "CUT0121", "CUT0122", "CUT0123", "CUT0131",
            "CUT0132", "CUT0138", "CUT0141", "CUT0142", "CUT0143",
        ]);
        assert_eq!(codes(&findings), wanted, "{} {findings:#?}", install.major);

        place.server.create_role("Not Here", "secret", "").await.unwrap();
        for finding in findings.iter().filter(|f| pastable(f)) {
            place.follow(finding).await;
        }
        let findings = database.examine(&question).await.unwrap();
        assert_eq!(
            codes(&findings),
            BTreeSet::from(["CUT0119", "CUT0133", "CUT0142", "CUT0147"]),
            "{} {findings:#?}",
            install.major
        );
        // The role that is new here could not own tables yet.
        place.follow(findings.iter().find(|f| f.code == "CUT0119").unwrap()).await;
        let filled = findings.iter().find(|f| f.code == "CUT0133").unwrap();
        assert_eq!(filled.what, "there are rows in 2 tables already: app.Also Filled, app.filled");
        place.follow(filled).await;
        drop(application);
        connection.await.unwrap().unwrap();
        wait_until("only the note about the other run to be left", PATIENCE, async || {
            codes(&database.examine(&question).await.unwrap()) == BTreeSet::from(["CUT0142"])
        })
        .await
        .unwrap();
    }
}

/// Tables of every kind that a run can move.
const TABLES: &str = "
    CREATE SCHEMA app AUTHORIZATION shop_owner;
    CREATE TABLE app.plain (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text);
    CREATE TABLE app.parts (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE app.parts_1 PARTITION OF app.parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
    CREATE TABLE app.child (id int PRIMARY KEY REFERENCES app.child);
    CREATE SEQUENCE app.free;
    ALTER TABLE app.plain OWNER TO shop_owner;
    ALTER TABLE app.parts OWNER TO shop_owner;
    ALTER TABLE app.parts_1 OWNER TO shop_owner;
    ALTER TABLE app.child OWNER TO shop_owner;
    ALTER SEQUENCE app.free OWNER TO shop_owner;
";

/// A block of SQL in the page about grants, with the words behind `sql`.
fn blocks(page: &str) -> Vec<(Vec<String>, String)> {
    let mut blocks = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("```sql") {
        let (head, body) = after.split_once('\n').unwrap();
        let (body, after) = body.split_once("```").unwrap();
        blocks.push((head.split_whitespace().map(str::to_owned).collect(), body.to_owned()));
        rest = after;
    }
    assert!(blocks.len() > 5, "the page has lost its statements");
    blocks
}

/// Whether a block is for this version, by its number among the words: `14` is for 14 only, `15`
/// for 15 and newer.
fn meant_for(words: &[String], major: u32) -> bool {
    words.iter().filter_map(|w| w.parse::<u32>().ok()).all(|v| match v {
        14 => major == 14,
        newer => major >= newer,
    })
}

#[tokio::test]
async fn the_role_of_the_page_about_grants_has_enough_rights_and_leaves_without_a_trace() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/GRANTS.md");
    let blocks = blocks(&std::fs::read_to_string(page).unwrap());
    for install in find_postgres() {
        let server = Postgres::start(&install, PgOptions::new()).await.unwrap();
        server.create_role("shop_owner", "secret", "").await.unwrap();
        server.create_database("shop").await.unwrap();
        for statement in TABLES.split(";\n").filter(|s| !s.trim().is_empty()) {
            server.execute("shop", statement).await.unwrap();
        }
        let run = async |after: bool| {
            for (words, body) in &blocks {
                let later = words.iter().any(|w| w == "afterwards");
                let needed = !words.iter().any(|w| w == "optional");
                if later == after && needed && meant_for(words, install.major) {
                    server.execute("shop", body).await.unwrap();
                }
            }
        };
        run(false).await;

        let config = PgConfig::parse(&server.url_as("cutover", "choose one", "shop"), None);
        let database = |side| {
            let run = RunId::new("shop").unwrap();
            Database::new(config.clone().unwrap(), side, run, &std::env::temp_dir())
        };
        let (blue, green) = (database(Side::Blue), database(Side::Green));
        let selection = Selection { include: vec!["app.*".into()], exclude: Vec::new() };
        let tables = blue.tables(&selection).await.unwrap();
        assert_eq!(tables.len(), 3);
        let inventory = blue.inventory(&selection).await.unwrap();
        assert_eq!(inventory.owners, ["shop_owner"]);
        let question = |side, scope| Question {
            run: RunId::new("shop").unwrap(),
            side,
            scope,
            selection: selection.clone(),
            tables: tables.clone(),
            owners: inventory.owners.clone(),
            owns_writes: side == Side::Blue,
            resuming: false,
            copies_schema: true,
        };
        for side in [&blue, &green] {
            for scope in [Scope::Start, Scope::Move] {
                let findings = side.examine(&question(side.side(), scope)).await.unwrap();
                assert_eq!(findings, [], "{} {scope:?}", install.major);
            }
        }

        // The rights are enough for both roles of a database, not only for the checks.
        let run_id = RunId::new("shop").unwrap();
        green.prepare(&run_id).await.unwrap();
        drop(green.writer(&run_id, &[]).await.unwrap());
        drop(blue.capture(&run_id, &tables, true).await.unwrap());
        blue.install_fence(&run_id, &tables).await.unwrap();
        blue.close_to_clients(&run_id, PATIENCE).await.unwrap();
        blue.open_to_clients(&run_id).await.unwrap();
        let counters = blue.counters(&selection).await.unwrap();
        assert_eq!(counters.len(), 2);
        blue.advance(&counters).await.unwrap();
        for table in &tables {
            green.clear(&run_id, table).await.unwrap();
        }

        blue.remove_fence(&run_id).await.unwrap();
        Source::release(&blue, &run_id).await.unwrap();
        Sink::release(&green, &run_id).await.unwrap();
        drop((blue, green));
        run(true).await;
    }
}

#[tokio::test]
async fn a_superuser_has_no_finding_about_rights() {
    for install in find_postgres() {
        let place = Place::start(&install, PgOptions::new()).await;
        place
            .sql("CREATE SCHEMA app AUTHORIZATION app;\nCREATE TABLE app.t (id int PRIMARY KEY)")
            .await;
        place.hand_over().await;
        for side in [Side::Blue, Side::Green] {
            let question = place.question(side, place.tables().await);
            let findings = place.as_superuser(side).examine(&question).await.unwrap();
            assert_eq!(findings, [], "{} {side}", install.major);
        }
    }
}

#[tokio::test]
async fn a_standby_is_refused_until_it_is_promoted() {
    for install in find_postgres() {
        let mut place = Place::start(&install, PgOptions::new()).await;
        let database = place.as_superuser(Side::Blue);
        let question = place.question(Side::Blue, Vec::new());
        place.server.stop(StopMode::Fast).await.unwrap();
        std::fs::write(place.server.data_dir().join("standby.signal"), "").unwrap();
        place.server.start_again().await.unwrap();
        let findings = database.examine(&question).await.unwrap();
        assert_eq!(codes(&findings), BTreeSet::from(["CUT0102"]), "{findings:#?}");
        assert!(findings[0].remedy.ends_with("SELECT pg_promote();"));
        place.sql("SELECT pg_promote()").await;
        assert_eq!(database.examine(&question).await.unwrap(), []);
    }
}

#[tokio::test]
async fn without_a_sender_no_replication_session_opens() {
    for install in find_postgres() {
        let options = PgOptions::new().set("max_wal_senders", "0").set("wal_level", "logical");
        let place = Place::start(&install, options).await;
        let question = place.question(Side::Blue, Vec::new());
        let findings = place.as_superuser(Side::Blue).examine(&question).await.unwrap();
        assert_eq!(codes(&findings), BTreeSet::from(["CUT0105", "CUT0115"]), "{findings:#?}");
    }
}

#[tokio::test]
async fn a_writer_that_stays_open_stops_a_move_until_it_is_ended() {
    for install in find_postgres() {
        let place = Place::start(&install, PgOptions::new()).await;
        place
            .sql("CREATE SCHEMA app AUTHORIZATION app;\nCREATE TABLE app.t (id int PRIMARY KEY)")
            .await;
        place.hand_over().await;
        let writer = place.server.connect("Shop").await.unwrap();
        writer.batch_execute("BEGIN; INSERT INTO app.t VALUES (1)").await.unwrap();
        let reader = place.server.connect("Shop").await.unwrap();
        reader.batch_execute("BEGIN; SELECT * FROM app.t").await.unwrap();

        let database = place.as_superuser(Side::Blue);
        let mut question = place.question(Side::Blue, place.tables().await);
        question.scope = Scope::Move;
        question.resuming = true;
        let mut findings = Vec::new();
        wait_until("the writer to be old enough", PATIENCE, async || {
            findings = database.examine(&question).await.unwrap();
            !errors(&findings).is_empty()
        })
        .await
        .unwrap();
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert_eq!(finding.code, "CUT0139");
        assert_eq!(finding.remedy.lines().count(), 2, "only the writer: {}", finding.remedy);
        place.follow(finding).await;
        wait_until("the writer to be gone", PATIENCE, async || {
            database.examine(&question).await.unwrap().is_empty()
        })
        .await
        .unwrap();
        assert!(writer.batch_execute("COMMIT").await.is_err());
        reader.batch_execute("COMMIT").await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_an_error_and_not_a_clean_bill() {
    let install = find_postgres().pop().unwrap();
    let mut place = Place::start(&install, PgOptions::new()).await;
    let question = place.question(Side::Blue, Vec::new());
    place.server.stop(StopMode::Immediate).await.unwrap();
    assert!(place.as_superuser(Side::Blue).examine(&question).await.unwrap_err().is_transient());
}

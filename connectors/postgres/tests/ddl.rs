//! Definitions that change on the source: told at their place, and made on the target only when
//! that is safe.

#[path = "ddl/domains.rs"]
mod domains;
#[path = "ddl/names.rs"]
mod names;
#[path = "ddl/partitions.rs"]
mod partitions;
#[path = "ddl/world.rs"]
mod world;

use cutover_core::port::sink::Redefined;

use world::Stage;

const TABLES: &str = "CREATE TYPE mood AS ENUM ('bad', 'good');
    CREATE TYPE two AS (x integer, \"Y\" text);
    CREATE TABLE t (id integer PRIMARY KEY, w2 two, a integer, b varchar(10) NOT NULL DEFAULT 'b',
                    n numeric(8,2), m mood, sorted varchar(5) COLLATE \"C\");
    CREATE INDEX t_a ON t (a);
    CREATE TABLE aside (id integer);
    CREATE TABLE p (id integer, k integer, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
    CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
    CREATE TABLE p9 (id integer, k integer NOT NULL, PRIMARY KEY (id, k));
    INSERT INTO p9 VALUES (90, 9)";

/// Statements that are safe, and rows that can only be written afterwards.
const SAFE: &[(&str, &str)] = &[
    ("ALTER TABLE t ADD COLUMN c1 text", "INSERT INTO t (id, c1) VALUES ($, 'x')"),
    ("ALTER TABLE t ADD c2 integer NOT NULL DEFAULT 7", "INSERT INTO t (id, c2) VALUES ($, 8)"),
    // Older rows have what now() was; newer ones bring their own.
    ("ALTER TABLE t ADD c3 timestamptz DEFAULT now()", "INSERT INTO t (id) VALUES ($)"),
    // Older rows have none.
    ("ALTER TABLE t ADD c4 integer, ALTER c4 SET DEFAULT 4", "INSERT INTO t (id) VALUES ($)"),
    ("ALTER TABLE t ADD c5 integer[] DEFAULT '{1,2}'", "INSERT INTO t (id) VALUES ($)"),
    (
        "ALTER TABLE t ADD g integer GENERATED ALWAYS AS (id * 2) STORED",
        "INSERT INTO t (id) VALUES ($)",
    ),
    (
        "ALTER TABLE t ADD \"odd \"\"name\" text COLLATE \"C\"",
        "INSERT INTO t (id, \"odd \"\"name\") VALUES ($, 'o')",
    ),
    ("ALTER TABLE t ALTER a TYPE bigint", "INSERT INTO t (id, a) VALUES ($, 5000000000)"),
    ("ALTER TABLE t ALTER b TYPE varchar(40)", "INSERT INTO t (id, b) VALUES ($, repeat('b', 40))"),
    ("ALTER TABLE t ALTER b TYPE text", "INSERT INTO t (id, b) VALUES ($, repeat('b', 99))"),
    // What is sorted otherwise than its type says stays so.
    (
        "ALTER TABLE t ALTER sorted TYPE text COLLATE \"C\"",
        "INSERT INTO t (id, sorted) VALUES ($, 'longer')",
    ),
    ("ALTER TABLE t ALTER n TYPE numeric(12,2)", "INSERT INTO t (id, n) VALUES ($, 1234567890.12)"),
    ("ALTER TABLE t ALTER b DROP NOT NULL", "INSERT INTO t (id, b) VALUES ($, NULL)"),
    ("ALTER TABLE t ALTER a SET DEFAULT 3", "INSERT INTO t (id) VALUES ($)"),
    ("ALTER TABLE t ALTER a SET DEFAULT 4 + length('x')", "INSERT INTO t (id) VALUES ($)"),
    (
        "ALTER TYPE two ADD ATTRIBUTE \"Z z\" integer, ADD ATTRIBUTE zz text",
        "INSERT INTO t (id, w2) VALUES ($, (1, 'y', 5, 'z'))",
    ),
    ("CREATE INDEX t_n ON t (n, lower(b))", "INSERT INTO t (id) VALUES ($)"),
    ("CREATE UNIQUE INDEX t_u ON t (id, a)", "INSERT INTO t (id) VALUES ($)"),
    ("DROP INDEX t_a", "INSERT INTO t (id) VALUES ($)"),
    ("CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)", "INSERT INTO p VALUES ($, 2)"),
    ("ALTER TABLE p ATTACH PARTITION p9 FOR VALUES IN (9)", "INSERT INTO p VALUES ($, 9)"),
    ("ALTER TABLE p ADD COLUMN more text DEFAULT 'm'", "INSERT INTO p VALUES ($, 1, 'x')"),
    ("CREATE INDEX p_more ON p (more)", "INSERT INTO p VALUES ($, 2)"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_safe_is_made_in_its_place() {
    for (from, to) in [(0, 1), (1, 0), (1, 1)] {
        let mut stage = Stage::new(from, to, TABLES).await;
        let mut id = 100;
        for (ddl, row) in SAFE {
            let rows = row.replace('$', &format!("{}", id + 2));
            // Rows before, in the same transaction on both sides of the statement, and after.
            stage
                .on_blue(&format!(
                    "INSERT INTO t (id) VALUES ({id}); BEGIN; INSERT INTO t (id) VALUES ({}); \
                     {ddl}; {rows}; COMMIT; UPDATE t SET n = 1.5 WHERE id = {id}; {}",
                    id + 1,
                    row.replace('$', &format!("{}", id + 3)),
                ))
                .await;
            id += 4;
            let said = stage.follow(true).await;
            assert!(
                said.iter().any(|s| matches!(s, Redefined::Made { .. })),
                "{from} to {to}: {ddl}: {said:?}"
            );
            stage.equal(ddl).await;
        }
        // Several at once, and a value that may be used only once its transaction has ended.
        stage
            .on_blue(
                "BEGIN; ALTER TABLE t ADD d1 int; INSERT INTO t (id, d1) VALUES (1, 1); \
                 ALTER TABLE t ADD d2 int DEFAULT 2, DROP COLUMN IF EXISTS nothing; \
                 INSERT INTO t (id, d2) VALUES (2, 3); CREATE INDEX t_d ON t (d1, d2); COMMIT; \
                 ALTER TYPE mood ADD VALUE 'fair' BEFORE 'good';",
            )
            .await;
        stage.on_blue("INSERT INTO t (id, m) VALUES (3, 'fair')").await;
        let said = stage.follow(true).await;
        assert_eq!(
            said.iter().filter(|s| matches!(s, Redefined::Made { .. })).count(),
            4,
            "{said:?}"
        );
        stage.equal("several").await;
        // All that is safe in one transaction, with rows between.
        stage
            .on_blue(
                "BEGIN; INSERT INTO t (id) VALUES (10); ALTER TABLE t ADD e1 int DEFAULT 5; \
                 INSERT INTO t (id, e1) VALUES (11, 6); ALTER TABLE t ALTER d1 TYPE bigint; \
                 ALTER TABLE t ADD w varchar(5); ALTER TABLE t ALTER w TYPE varchar(9); \
                 INSERT INTO t (id, d1, w) VALUES (12, 5000000000, 'ninechars'); \
                 DROP INDEX t_d; CREATE INDEX t_e ON t (e1, w); \
                 CREATE TABLE p7 PARTITION OF p FOR VALUES IN (7) PARTITION BY RANGE (id); \
                 CREATE TABLE p7a PARTITION OF p7 FOR VALUES FROM (0) TO (9); \
                 INSERT INTO p VALUES (1, 7); ALTER TYPE mood ADD VALUE 'best' AFTER 'good'; \
                 UPDATE t SET e1 = 7 WHERE id < 12; COMMIT; \
                 UPDATE t SET m = 'best' WHERE id = 11; \
                 ALTER TYPE mood ADD VALUE IF NOT EXISTS 'best'; UPDATE p SET more = 'n' WHERE k = 7",
            )
            .await;
        let said = stage.follow(true).await;
        assert_eq!(
            said.iter().filter(|s| matches!(s, Redefined::Made { .. })).count(),
            9,
            "{said:?}"
        );
        stage.equal("in one transaction").await;
        // What comes and goes again in one transaction.
        stage
            .on_blue(
                "BEGIN; ALTER TABLE p ADD passing int DEFAULT 1; ALTER TABLE t ADD passing int; \
                 INSERT INTO p (id, k, passing) VALUES (2, 7, 2); UPDATE t SET passing = 3; \
                 CREATE TABLE p8 PARTITION OF p FOR VALUES IN (8); INSERT INTO p VALUES (3, 8); \
                 DROP TABLE p8; ALTER TABLE p DROP passing; ALTER TABLE t DROP passing; COMMIT; \
                 INSERT INTO p VALUES (4, 7); UPDATE t SET n = 4 WHERE id = 13",
            )
            .await;
        let said = stage.follow(true).await;
        assert!(!said.iter().any(|s| matches!(s, Redefined::Differs { .. })), "{said:?}");
        stage.equal("come and gone").await;
        // A table that is new stays so, whatever is done to it before anybody has looked.
        stage
            .on_blue(
                "BEGIN; CREATE TABLE fresh (id int PRIMARY KEY); CREATE INDEX ON fresh (id); \
                 INSERT INTO fresh VALUES (1); ALTER TABLE fresh ADD more text; \
                 ALTER TABLE fresh RENAME TO stale; INSERT INTO t (id) VALUES (13); COMMIT; \
                 CREATE INDEX ON stale (more); DROP TABLE stale",
            )
            .await;
        let said = stage.follow(true).await;
        let new = |s: &Redefined| matches!(s, Redefined::New { .. } | Redefined::Unconcerned);
        assert!(said.iter().all(new), "{said:?}");
        stage.equal("a new table").await;
        types_come_and_go(&mut stage).await;
        // Also where blue does it without holding up writers.
        stage.on_blue("CREATE INDEX CONCURRENTLY t_c ON t (d2)").await;
        assert!(matches!(stage.follow(true).await[..], [Redefined::Made { .. }]));
        stage.on_blue("DROP INDEX CONCURRENTLY t_c").await;
        assert!(matches!(stage.follow(true).await[..], [Redefined::Made { .. }]));
        stage.equal("concurrently").await;
        cutover_core::port::source::Source::release(&stage.blue, &stage.run).await.unwrap();
        let left = stage.here.query_one("SELECT count(*) FROM pg_event_trigger", &[]).await;
        assert_eq!(left.unwrap().get::<_, i64>(0), 0);
    }
}

/// Types that no table has: dropped, altered in whatever way, and kept where something here rests on
/// them.
async fn types_come_and_go(stage: &mut Stage) {
    stage
        .on_blue(
            "CREATE TYPE pair AS (a int); CREATE DOMAIN short AS text; CREATE TYPE kept AS (a int); \
             CREATE TYPE hue AS ENUM ('red'); CREATE TYPE span AS RANGE (SUBTYPE = int)",
        )
        .await;
    stage.follow(true).await;
    stage
        .there
        .batch_execute("CREATE FUNCTION ours(kept) RETURNS int LANGUAGE sql AS 'SELECT 1'")
        .await
        .unwrap();
    for (ddl, left) in [
        ("ALTER TYPE pair ADD ATTRIBUTE b text", "hue kept pair(a,b) short span"),
        ("ALTER DOMAIN short ADD CHECK (length(VALUE) < 9)", "hue kept pair(a,b) short! span"),
        ("ALTER TYPE hue RENAME VALUE 'red' TO 'blue'", "hue kept pair(a,b) short! span"),
        ("DROP DOMAIN short; DROP TYPE span", "hue kept pair(a,b)"),
        ("DROP TYPE pair, kept, hue; CREATE TYPE hue AS ENUM ('x')", "hue kept"),
        ("DROP TABLE IF EXISTS nothing; DROP TYPE hue", "kept"),
    ] {
        stage.on_blue(ddl).await;
        let said = stage.follow(true).await;
        assert!(!said.iter().any(|s| matches!(s, Redefined::Differs { .. })), "{ddl}: {said:?}");
        let query = "SELECT coalesce(string_agg(t.typname || CASE t.typname WHEN 'pair' THEN '(' || \
            (SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute \
              WHERE attrelid = t.typrelid) || ')' WHEN 'short' THEN (SELECT repeat('!', \
              count(*)::int) FROM pg_constraint WHERE contypid = t.oid) ELSE '' END, ' ' \
            ORDER BY t.typname), '') FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid \
            WHERE t.typtype IN ('e', 'd', 'c', 'r') AND coalesce(c.relkind, 'c') = 'c' \
              AND t.typnamespace = 'public'::regnamespace AND t.typname NOT IN ('mood', 'two')";
        let row = stage.there.query_one(query, &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), left, "{ddl}");
    }
    let labels = "SELECT count(*) FROM pg_type WHERE typname = 'hue'";
    assert_eq!(stage.there.query_one(labels, &[]).await.unwrap().get::<_, i64>(0), 0);
    stage.equal("types").await;
}

/// The same default in two spellings is no difference, and another one is, also when nobody makes
/// anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_that_is_another_one_is_told() {
    for (from, to) in [(0, 1), (1, 0)] {
        let mut stage = Stage::new(from, to, TABLES).await;
        // As if the other server wrote it so.
        stage.on_blue("ALTER TABLE t ALTER a SET DEFAULT 1 + 1").await;
        stage.there.batch_execute("ALTER TABLE t ALTER a SET DEFAULT (1 + 1)").await.unwrap();
        assert!(matches!(stage.follow(false).await[..], [Redefined::Alike { .. }]));
        stage.on_blue("ALTER TABLE t ALTER a SET DEFAULT 2 + 1").await;
        assert!(matches!(stage.follow(false).await[..], [Redefined::Differs { .. }]));
        // And what a column is computed from, which nobody but an operator changes.
        stage.there.batch_execute("ALTER TABLE t ALTER a SET DEFAULT 2 + 1").await.unwrap();
        stage.reopen().await;
        let add = "ALTER TABLE t ADD g int GENERATED ALWAYS AS (id + 1) STORED";
        stage.on_blue(add).await;
        stage.there.batch_execute(&add.replace("+ 1", "+ 2")).await.unwrap();
        stage.reopen().await;
        let said = stage.follow(true).await;
        let Some(Redefined::Differs { why, .. }) = said.last() else { panic!("{said:?}") };
        assert!(why.contains("computed"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_safe_is_told_and_not_made() {
    let list = [
        "ALTER TABLE t DROP COLUMN a",
        "ALTER TABLE t RENAME COLUMN a TO z",
        "ALTER TABLE t RENAME TO tt",
        "ALTER TABLE t ALTER id TYPE smallint",
        "ALTER TABLE t ALTER a TYPE bigint USING a * 2",
        "ALTER TABLE t ALTER a TYPE text",
        "ALTER TABLE t ADD u uuid DEFAULT gen_random_uuid()",
        "ALTER TABLE t ADD x integer DEFAULT 5, ALTER a TYPE bigint",
        "ALTER TABLE p ADD x integer DEFAULT 5, ALTER id TYPE bigint",
        "ALTER TABLE t ADD s serial",
        "ALTER TABLE t ADD i integer GENERATED ALWAYS AS IDENTITY",
        "ALTER TABLE t ADD UNIQUE (a)",
        "ALTER TABLE t ADD c integer CHECK (c > 0)",
        "ALTER TABLE t DROP CONSTRAINT t_pkey",
        "UPDATE t SET a = 1; ALTER TABLE t ALTER a SET NOT NULL",
        "DROP TABLE t",
        "DROP TYPE mood CASCADE",
        "ALTER TYPE two DROP ATTRIBUTE x",
        "ALTER TYPE two RENAME ATTRIBUTE x TO z",
        "ALTER TYPE mood RENAME VALUE 'bad' TO 'worse'",
        "ALTER TABLE p DETACH PARTITION p1",
        "CREATE UNLOGGED TABLE p3 PARTITION OF p FOR VALUES IN (3)",
        "CREATE UNLOGGED TABLE fresh (id integer PRIMARY KEY)",
        "DO $$ BEGIN EXECUTE 'ALTER TABLE t ALTER a TYPE bigint USING a * 2'; END $$",
    ];
    for (from, to) in [(0, 1), (1, 0)] {
        let mut stage = Stage::new(from, to, TABLES).await;
        for ddl in list {
            stage.on_blue("INSERT INTO t (id, a) VALUES (1, 1)").await;
            stage.on_blue(&format!("BEGIN; INSERT INTO t (id) VALUES (2); {ddl}; COMMIT")).await;
            let said = stage.follow(true).await;
            let Some(Redefined::Differs { what, why, .. }) = said.last() else {
                panic!("{from} to {to}: {ddl}: {said:?}");
            };
            assert!(!what.is_empty() && !why.is_empty());
            stage = Stage::new(from, to, TABLES).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_takes_its_transaction_back_and_goes_on_when_both_sides_agree() {
    let mut stage = Stage::new(0, 1, TABLES).await;
    stage.on_blue("INSERT INTO t (id) VALUES (1)").await;
    stage
        .on_blue(
            "BEGIN; INSERT INTO t (id) VALUES (2); ALTER TABLE t ADD x int; \
             INSERT INTO t (id, x) VALUES (3, 3); COMMIT; ALTER TABLE t DROP COLUMN b",
        )
        .await;
    // Only looking.
    let said = stage.follow(false).await;
    assert!(matches!(said[..], [Redefined::Differs { .. }]), "{said:?}");
    stage.reopen().await;
    let rows = stage.there.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 1);
    stage.there.batch_execute("ALTER TABLE t ADD x int").await.unwrap();
    stage.reopen().await;
    let said = stage.follow(false).await;
    assert!(
        matches!(said[..], [Redefined::Alike { .. }, .., Redefined::Differs { .. }]),
        "{said:?}"
    );
    stage.there.batch_execute("ALTER TABLE t DROP COLUMN b").await.unwrap();
    stage.reopen().await;
    let said = stage.follow(false).await;
    assert!(!said.iter().any(|s| matches!(s, Redefined::Differs { .. })), "{said:?}");
    stage.equal("agreed").await;
}

/// A default of a table is one of its heirs as well, or not, as the statement said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heirs_get_the_defaults_that_they_have_there() {
    let heirs = "CREATE TABLE up (id integer PRIMARY KEY, a integer DEFAULT 1, b integer);
        CREATE TABLE mid (PRIMARY KEY (id)) INHERITS (up);
        CREATE TABLE low (PRIMARY KEY (id)) INHERITS (mid);
        CREATE TABLE side (PRIMARY KEY (id)) INHERITS (up); CREATE TABLE aside_1 () INHERITS (up)";
    let look = "SELECT c.relname || '.' || a.attname || ' ' || pg_get_expr(d.adbin, d.adrelid)
                  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
                  JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
                 WHERE c.relname IN ('up', 'mid', 'low', 'side') ORDER BY 1";
    for (from, to) in [(0, 1), (1, 0)] {
        let mut stage = Stage::new(from, to, heirs).await;
        for ddl in [
            "ALTER TABLE ONLY up ALTER a SET DEFAULT 2",
            "ALTER TABLE up ALTER a SET DEFAULT 3",
            "ALTER TABLE ONLY up ALTER a DROP DEFAULT, ALTER b SET DEFAULT 4",
            "ALTER TABLE mid ALTER a SET DEFAULT 5",
            "ALTER TABLE up ALTER a SET DEFAULT 6, ADD c integer DEFAULT 6",
            // What is lowest is like what is highest, and not like what is between.
            "ALTER TABLE up ALTER a SET DEFAULT 7",
            "ALTER TABLE ONLY mid ALTER a SET DEFAULT 8",
            "ALTER TABLE ONLY up ALTER a SET DEFAULT 9",
            "ALTER TABLE ONLY mid ALTER a DROP DEFAULT",
            "ALTER TABLE up ALTER a DROP DEFAULT",
        ] {
            stage.on_blue(ddl).await;
            let said = stage.follow(true).await;
            assert!(matches!(said[..], [Redefined::Made { .. }]), "{ddl}: {said:?}");
            let mut sides = Vec::new();
            for client in [&stage.here, &stage.there] {
                let rows = client.query(look, &[]).await.unwrap();
                sides.push(rows.iter().map(|row| row.get(0)).collect::<Vec<String>>());
            }
            assert_eq!(sides[0], sides[1], "{from} to {to}: {ddl}");
        }
    }
}

/// What may pass is tried again, and what has a remedy of its own keeps it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_the_other_side_refuses_is_to_be_made_by_hand() {
    let mut stage = Stage::new(0, 1, TABLES).await;
    stage.on_blue("ALTER TABLE t ADD x int").await;
    for (state, code) in [
        ("40P01", None),
        ("55P03", None),
        ("53300", None),
        ("53100", Some("CUT0017")),
        ("42501", Some("CUT0412")),
        ("P0001", Some("CUT0412")),
    ] {
        let refuse = format!(
            "DROP EVENT TRIGGER IF EXISTS refuse;
             CREATE OR REPLACE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql
               AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$;
             CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('ALTER TABLE')
               EXECUTE FUNCTION refuse();
             ALTER EVENT TRIGGER refuse ENABLE ALWAYS"
        );
        stage.there.batch_execute(&refuse).await.unwrap();
        let e = stage.try_to_follow(true).await.unwrap_err();
        assert_eq!(e.code(), code, "{state}: {e}");
        stage.reopen().await;
    }
    stage.there.batch_execute("DROP EVENT TRIGGER refuse").await.unwrap();
    stage.follow(true).await;
    stage.equal("it has passed").await;
}

/// What names a row may change on the source alone: each change says which columns it comes with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_changes_is_followed() {
    for (from, to) in [(0, 1), (1, 0)] {
        let mut stage = Stage::new(from, to, TABLES).await;
        for (round, identity) in [
            "ALTER TABLE t REPLICA IDENTITY FULL",
            "CREATE UNIQUE INDEX t_ib ON t (b, id); ALTER TABLE t REPLICA IDENTITY USING INDEX t_ib",
            "ALTER TABLE t REPLICA IDENTITY DEFAULT",
        ]
        .into_iter()
        .enumerate()
        {
            let id = 1000 * (round + 1);
            stage
                .on_blue(&format!(
                    "INSERT INTO t (id, a) SELECT {id} + i, i FROM generate_series(1, 9) i; BEGIN; \
                     UPDATE t SET n = 1 WHERE a < 3; {identity}; UPDATE t SET n = 2 WHERE a < 6; \
                     UPDATE t SET b = 'c' WHERE a = 7; DELETE FROM t WHERE a = 8; COMMIT; \
                     UPDATE t SET id = id + 50 WHERE a = 9; UPDATE t SET n = NULL WHERE a = 1; \
                     DELETE FROM t WHERE a = 2"
                ))
                .await;
            let said = stage.follow(false).await;
            let fits = |s: &Redefined| match s {
                Redefined::Differs { why, .. } => why.contains("t_ib"),
                _ => true,
            };
            assert!(said.iter().all(fits), "{said:?}");
            if said.iter().any(|s| matches!(s, Redefined::Differs { .. })) {
                // The writer goes, and with it what it holds.
                stage.reopen().await;
                stage.there.batch_execute("CREATE UNIQUE INDEX t_ib ON t (b, id)").await.unwrap();
                stage.reopen().await;
                stage.follow(false).await;
            }
            let mut rows = Vec::new();
            for client in [&stage.here, &stage.there] {
                let all = client.query("SELECT t::text FROM t ORDER BY id", &[]).await.unwrap();
                rows.push(all.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>());
            }
            assert_eq!(rows[0], rows[1], "{from} to {to}: {identity}");
            assert_eq!(rows[0].len(), 7 * (round + 1));
        }
    }
}

/// A message is bytes in the log, which no server converts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_outside_of_ascii_are_told_whatever_the_encoding() {
    for (from, to) in [(0, 1), (1, 0)] {
        let how = "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0";
        let mut stage = Stage::with(from, to, TABLES, how).await;
        stage
            .on_blue(
                "ALTER TABLE t ADD \"größe\" text DEFAULT 'süß'; \
                 INSERT INTO t (id, \"größe\") VALUES (100, 'é'); \
                 CREATE INDEX \"größen\" ON t (\"größe\")",
            )
            .await;
        let said = stage.follow(true).await;
        assert!(said.iter().any(|s| matches!(s, Redefined::Made { .. })), "{said:?}");
        assert!(!said.iter().any(|s| matches!(s, Redefined::Differs { .. })), "{said:?}");
        stage.equal("told in UTF-8").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_concerns_nobody_is_not_told() {
    let mut stage = Stage::new(1, 0, TABLES).await;
    stage
        .on_blue(
            "BEGIN; ALTER TABLE t ADD x int; ROLLBACK; \
             BEGIN; SAVEPOINT s; ALTER TABLE t ADD y int; ROLLBACK TO s; \
             INSERT INTO t (id) VALUES (1); COMMIT; \
             CREATE TEMP TABLE tmp (id int); ALTER TABLE tmp ADD x int; DROP TABLE tmp; \
             SET cutover.run = 'cutover_nobody'; ALTER TABLE aside ADD x int; \
             CREATE TABLE aside2 (id int); DROP TABLE aside2; CREATE SCHEMA s; \
             CREATE TABLE s.t (id int); ALTER TABLE s.t ADD x int; DROP SCHEMA s CASCADE; \
             CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; \
             COMMENT ON TABLE aside IS 'x'",
        )
        .await;
    let said = stage.follow(true).await;
    assert!(said.iter().all(|s| *s == Redefined::Unconcerned), "{said:?}");
    // A session of ours is not heard.
    let ours = stage.run.object_name();
    stage.on_blue(&format!("SET cutover.run = '{ours}'; ALTER TABLE t ADD z int")).await;
    assert_eq!(stage.follow(true).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_statement_never_fails_for_us() {
    let stage = Stage::new(1, 0, TABLES).await;
    let role = format!("app_{}", stage.run.object_name());
    stage
        .on_blue(&format!("CREATE ROLE {role}; ALTER TABLE t OWNER TO {role}; SET ROLE {role}"))
        .await;
    stage.on_blue("ALTER TABLE t ADD x int; ALTER TABLE t DROP COLUMN x").await;
    stage.on_blue("RESET ROLE").await;
    // Not even when what it would say cannot be said.
    let function = format!("{0}.{0}_ddl", stage.run.object_name());
    stage.on_blue(&format!("ALTER FUNCTION {function}() SET statement_timeout = 0")).await;
    stage.on_blue("SET client_encoding = 'LATIN1'; ALTER TABLE t ADD \"\u{e4}\" int").await;
}

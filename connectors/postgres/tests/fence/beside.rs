//! What is defined beside tables, as the role with the least rights sees it.

use std::collections::{BTreeMap, BTreeSet};

use cutover_core::{model::selection::Selection, port::primary::Primary};

use crate::home::{Home, only, servers};

const DDL: &str = "CREATE TABLE t (id int PRIMARY KEY, note text); \
    CREATE TABLE p (id int, at int) PARTITION BY LIST (id); \
    CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); \
    CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; \
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
    CREATE VIEW v AS SELECT id FROM t; \
    CREATE SCHEMA apart CREATE TABLE x (id int) CREATE VIEW y AS SELECT 1 AS one";

/// What is done, and the objects that are told of it.
const CHANGES: &[(&str, &[&str])] = &[
    (
        "CREATE OR REPLACE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 2'",
        &["function public.f(integer)"],
    ),
    ("ALTER FUNCTION f(int) STABLE", &["function public.f(integer)"]),
    (
        "CREATE FUNCTION atomic() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; END",
        &["function public.atomic()", "grants on function public.atomic()"],
    ),
    (
        "CREATE PROCEDURE act() LANGUAGE sql AS ''",
        &["procedure public.act()", "grants on procedure public.act()"],
    ),
    (
        "CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int)",
        &["aggregate public.total(integer)", "grants on aggregate public.total(integer)"],
    ),
    (
        "CREATE TRIGGER a BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch()",
        &["trigger a on public.t"],
    ),
    ("ALTER TABLE t DISABLE TRIGGER a", &["trigger a on public.t"]),
    (
        "CREATE TRIGGER a AFTER INSERT ON p FOR EACH ROW EXECUTE FUNCTION touch()",
        &["trigger a on public.p"],
    ),
    ("DROP TRIGGER a ON t", &["trigger a on public.t"]),
    ("CREATE POLICY mine ON t USING (note = current_user)", &["policy mine on public.t"]),
    ("ALTER POLICY mine ON t TO app", &["policy mine on public.t"]),
    ("ALTER TABLE t ENABLE ROW LEVEL SECURITY", &["row-level security on public.t"]),
    ("ALTER TABLE t DISABLE ROW LEVEL SECURITY", &["row-level security on public.t"]),
    ("CREATE OR REPLACE VIEW v AS SELECT id FROM t WHERE id > 1", &["view public.v"]),
    ("ALTER VIEW v SET (security_barrier)", &["view public.v"]),
    (
        "CREATE MATERIALIZED VIEW m AS SELECT id FROM v",
        &["materialized view public.m", "grants on materialized view public.m"],
    ),
    ("CREATE INDEX i ON m (id)", &["index public.i"]),
    ("CREATE RULE quiet AS ON DELETE TO v DO INSTEAD NOTHING", &["rule quiet on public.v"]),
    ("GRANT SELECT ON t TO guest", &["grants on table public.t"]),
    ("GRANT UPDATE (note) ON t TO guest", &["grants on table public.t"]),
    ("GRANT SELECT ON v TO guest WITH GRANT OPTION", &["grants on view public.v"]),
    ("REVOKE EXECUTE ON FUNCTION f(int) FROM PUBLIC", &["grants on function public.f(integer)"]),
    ("ALTER FUNCTION f(int) OWNER TO guest", &["grants on function public.f(integer)"]),
    ("GRANT USAGE ON SCHEMA apart TO guest", &["schema apart"]),
    (
        "ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA public GRANT SELECT ON TABLES TO guest",
        &["default grants of app in public on tables"],
    ),
    ("CREATE INDEX j ON p (at)", &["index public.j"]),
    ("ALTER TABLE p ADD CONSTRAINT c CHECK (at > 0)", &["constraint c on public.p"]),
    ("ALTER TABLE p ALTER at SET DEFAULT 7", &["default of at on public.p"]),
    ("CREATE STATISTICS s ON id, at FROM p", &["statistics public.s"]),
    ("CREATE TYPE mood AS ENUM ('a')", &["grants on type public.mood", "type public.mood"]),
    ("ALTER TYPE mood ADD VALUE 'b'", &["type public.mood"]),
    (
        "CREATE DOMAIN few AS int CHECK (VALUE < 9)",
        &["domain public.few", "grants on domain public.few"],
    ),
    ("ALTER DOMAIN few SET DEFAULT 1", &["domain public.few"]),
    ("CREATE TYPE pair AS (a int, b int)", &["grants on type public.pair", "type public.pair"]),
    ("CREATE SEQUENCE q", &["grants on sequence public.q", "sequence public.q"]),
    ("ALTER SEQUENCE q INCREMENT 2", &["sequence public.q"]),
    (
        "CREATE FUNCTION heard() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        &["function public.heard()", "grants on function public.heard()"],
    ),
    (
        "CREATE EVENT TRIGGER ear ON ddl_command_end EXECUTE FUNCTION heard()",
        &["event trigger ear"],
    ),
    ("CREATE SCHEMA later", &["schema later"]),
    (
        "CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq)",
        &["operator public.===(integer,integer)"],
    ),
    (
        "ALTER OPERATOR === (int, int) SET (RESTRICT = eqsel)",
        &["operator public.===(integer,integer)"],
    ),
    (
        "CREATE OPERATOR CLASS back FOR TYPE int USING btree AS \
         OPERATOR 1 >, OPERATOR 3 =, OPERATOR 5 <, FUNCTION 1 btint4cmp(int, int)",
        &["operator class public.back for btree", "operator family public.back for btree"],
    ),
    (
        "ALTER OPERATOR FAMILY back USING btree ADD OPERATOR 2 >= (int, int)",
        &["operator family public.back for btree"],
    ),
    ("CREATE CAST (mood AS int) WITH INOUT", &["cast of public.mood to integer"]),
    ("DROP CAST (mood AS int)", &["cast of public.mood to integer"]),
    ("CREATE COLLATION plain (LOCALE = 'C')", &["collation public.plain"]),
    ("ALTER COLLATION plain OWNER TO guest", &["collation public.plain"]),
    (
        "CREATE TEXT SEARCH DICTIONARY words (TEMPLATE = simple)",
        &["text search dictionary public.words"],
    ),
    (
        "ALTER TEXT SEARCH DICTIONARY words (ACCEPT = false)",
        &["text search dictionary public.words"],
    ),
    (
        "CREATE TEXT SEARCH CONFIGURATION found (COPY = simple)",
        &["text search configuration public.found"],
    ),
    (
        "ALTER TEXT SEARCH CONFIGURATION found ALTER MAPPING FOR word WITH public.words",
        &["text search configuration public.found"],
    ),
    ("ALTER TABLE t SET (fillfactor = 70)", &["storage parameters on table public.t"]),
    (
        "ALTER TABLE t SET (toast.autovacuum_enabled = off)",
        &["storage parameters on table public.t"],
    ),
    ("ALTER TABLE t ALTER note SET STATISTICS 500", &["storage parameters on table public.t"]),
    ("ALTER TABLE t ALTER note SET STORAGE external", &["storage parameters on table public.t"]),
    ("ALTER TABLE t ALTER id SET (n_distinct = 5)", &["storage parameters on table public.t"]),
    ("ALTER TABLE p1 SET (autovacuum_enabled = off)", &["storage parameters on table public.p1"]),
    ("ALTER INDEX t_pkey SET (fillfactor = 70)", &["storage parameters on index public.t_pkey"]),
    ("ALTER INDEX t_pkey RESET (fillfactor)", &["storage parameters on index public.t_pkey"]),
    ("COMMENT ON TABLE t IS 'one'", &["comments on table public.t"]),
    ("COMMENT ON COLUMN t.note IS 'two'", &["comments on table public.t"]),
    ("COMMENT ON COLUMN t.note IS 'three'", &["comments on table public.t"]),
    ("COMMENT ON INDEX t_pkey IS 'four'", &["comments on table public.t"]),
    ("COMMENT ON CONSTRAINT t_pkey ON t IS 'five'", &["comments on table public.t"]),
    ("COMMENT ON TRIGGER a ON p IS 'six'", &["comments on table public.p"]),
    ("COMMENT ON POLICY mine ON t IS 'seven'", &["comments on table public.t"]),
    ("COMMENT ON VIEW v IS 'eight'", &["comments on view public.v"]),
    ("COMMENT ON FUNCTION f(int) IS 'nine'", &["comments on function public.f(integer)"]),
    ("COMMENT ON DOMAIN few IS 'ten'", &["comments on domain public.few"]),
    ("COMMENT ON SCHEMA later IS 'eleven'", &["comments on schema later"]),
    ("COMMENT ON TABLE t IS NULL", &["comments on table public.t"]),
    ("DROP FUNCTION atomic()", &["function public.atomic()", "grants on function public.atomic()"]),
    // Of no concern: rows, statistics, what is made anew as it was, our own role, other runs.
    ("INSERT INTO t VALUES (1); REFRESH MATERIALIZED VIEW m; ANALYZE; REINDEX TABLE t", &[]),
    ("CREATE OR REPLACE FUNCTION f(int) RETURNS int STABLE LANGUAGE sql AS 'SELECT 2'", &[]),
    ("GRANT SELECT ON t TO mover", &[]),
    ("COMMENT ON COLUMN t.note IS 'three'; ALTER TABLE t SET (fillfactor = 70)", &[]),
    ("CREATE SCHEMA cutover_other CREATE VIEW v AS SELECT 1 AS one", &[]),
    ("CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)", &["grants on table public.p2"]),
];

fn changed(was: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> BTreeSet<String> {
    let names: BTreeSet<&String> = was.keys().chain(now.keys()).collect();
    names.into_iter().filter(|name| was.get(*name) != now.get(*name)).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_shows_and_nothing_else_does() {
    for server in servers().await {
        let home = Home::new(server, DDL).await;
        let guest = "DO $$ BEGIN CREATE ROLE guest; EXCEPTION WHEN OTHERS THEN END $$";
        home.root.batch_execute(guest).await.unwrap();
        let read = async |selection: &Selection| home.db.beside(selection).await.unwrap();
        let all = Selection::default();
        let mut was = read(&all).await;
        home.db.install_fence(&home.run, &home.tables().await).await.unwrap();
        assert_eq!(changed(&was, &read(&all).await), BTreeSet::new(), "the fence is ours");
        for (change, told) in CHANGES {
            home.root.batch_execute(change).await.unwrap_or_else(|e| panic!("{change}: {e:?}"));
            let now = read(&all).await;
            let told = told.iter().map(ToString::to_string).collect();
            assert_eq!(changed(&was, &now), told, "{change}");
            was = now;
        }
        home.root.batch_execute("CREATE EXTENSION IF NOT EXISTS hstore").await.unwrap();
        let told = BTreeSet::from(["extension hstore".to_owned()]);
        assert_eq!(changed(&was, &read(&all).await), told);

        // What is not followed is left out.
        let some = read(&only(&["public.*"], &["public.t", "public.v"])).await;
        for (object, there) in [
            ("function public.f(integer)", true),
            ("trigger a on public.p", true),
            ("grants on table public.p1", true),
            ("view public.v", false),
            ("policy mine on public.t", false),
            ("grants on table public.t", false),
            ("view apart.y", false),
            ("schema apart", false),
        ] {
            assert_eq!(some.contains_key(object), there, "{object}");
        }
    }
}

/// Texts of two versions are compared with each other where nothing renders them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_versions_say_the_same_of_what_is_plain() {
    let mut seen = Vec::new();
    for server in servers().await {
        let home = Home::new(server, DDL).await;
        let more = "CREATE TRIGGER a BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch(); \
                    CREATE INDEX j ON p (at); CREATE TYPE mood AS ENUM ('a'); \
                    ALTER TABLE t ADD CONSTRAINT once UNIQUE (note); \
                    ALTER TABLE t SET (fillfactor = 70), ALTER note SET STATISTICS 9, \
                        ALTER note SET STORAGE external; \
                    COMMENT ON COLUMN t.note IS 'it'; \
                    CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq); \
                    CREATE OPERATOR CLASS back FOR TYPE int USING btree AS OPERATOR 1 >, \
                        OPERATOR 3 =, OPERATOR 5 <, FUNCTION 1 btint4cmp(int, int); \
                    CREATE CAST (mood AS int) WITH INOUT; \
                    CREATE TEXT SEARCH DICTIONARY words (TEMPLATE = simple); \
                    CREATE TEXT SEARCH CONFIGURATION found (COPY = simple)";
        home.root.batch_execute(more).await.unwrap();
        let mut plain = home.db.beside(&Selection::default()).await.unwrap();
        plain.retain(|name, text| !text.contains('@') && !name.starts_with("extension "));
        assert!(plain.len() >= 14, "{plain:?}");
        seen.push(plain);
    }
    assert!(seen.windows(2).all(|two| two[0] == two[1]), "{seen:?}");
}

/// Somebody who alters what a view reads keeps nobody waiting for long, and views beyond one portion
/// are read as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_views_and_one_that_is_held() {
    let home = Home::new(&servers().await[0], DDL).await;
    home.root
        .batch_execute(
            "DO $$ BEGIN FOR i IN 1..1100 LOOP \
               EXECUTE format('CREATE VIEW many_%s AS SELECT id FROM t', i); END LOOP; END $$",
        )
        .await
        .unwrap();
    let seen = home.db.beside(&Selection::default()).await.unwrap();
    assert_eq!(seen.keys().filter(|name| name.starts_with("view public.many_")).count(), 1100);
    let holder = home.client().await;
    holder.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    let error = home.db.beside(&Selection::default()).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(home.db.beside(&Selection::default()).await.unwrap(), seen);
}

//! A database that clients write, with everything wrong.

use std::collections::BTreeSet;

use cutover_core::{model::side::Side, port::examine::Examine};
use cutover_sandbox::{PgOptions, find_postgres, wait_until};

use crate::place::{PATIENCE, Place, codes, errors, pastable};

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
    CREATE TABLE public.\"Of it\" (a int, mine bool);
    INSERT INTO public.\"Of it\" VALUES (1, false), (2, true);
    CREATE TABLE public.nothing_of_it (a int, mine bool);
    ALTER EXTENSION plpgsql ADD TABLE public.\"Of it\";
    ALTER EXTENSION plpgsql ADD TABLE public.nothing_of_it;
    UPDATE pg_extension SET extcondition = ARRAY['WHERE mine', ''], extconfig = ARRAY[
      'public.\"Of it\"'::regclass::oid, 'public.nothing_of_it'::regclass::oid]
      WHERE extname = 'plpgsql';
    GRANT SELECT ON public.\"Of it\", public.nothing_of_it TO PUBLIC;
    ALTER TABLE public.nothing_of_it ENABLE ROW LEVEL SECURITY;
";

/// Findings that no statement can remove: they are for people to know.
const FOR_PEOPLE: &[&str] = &["CUT0129", "CUT0135", "CUT0136", "CUT0144", "CUT0150", "CUT0182"];

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
        for i in 0..60 {
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
            "CUT0145", "CUT0150", "CUT0182",
        ]);
        if install.major >= 18 {
            wanted.insert("CUT0108");
        }
        assert_eq!(codes(&findings), wanted, "{} {findings:#?}", install.major);
        assert!(findings.iter().all(|f| f.place == "blue"));
        // Of the one with policies our role cannot say what it holds.
        let rows: Vec<_> = findings.iter().filter(|f| f.code == "CUT0182").collect();
        assert_eq!(rows.len(), 2, "{rows:#?}");
        assert_eq!(rows.iter().filter(|f| f.what.contains("may not look")).count(), 1, "{rows:#?}");

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

//! Partitions that are on the target before the stream tells of them.

use std::time::Duration;

use cutover_core::{
    model::schema::TableName,
    port::{sink::Redefined, source::Source as _},
};

use cutover_sandbox::wait_until;

use crate::world::Stage;

const TABLES: &str = "CREATE TABLE p (id integer, k integer, v varchar(5), PRIMARY KEY (id, k))
        PARTITION BY LIST (k);
    CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
    CREATE TABLE p3 PARTITION OF p FOR VALUES IN (3) PARTITION BY RANGE (id)";

/// As they are at the end of the story.
const AHEAD: &str = "
    CREATE TABLE p2 (id integer, k integer NOT NULL, v text, more text DEFAULT 'm', n bigint,
                     PRIMARY KEY (id, k)) PARTITION BY RANGE (id);
    CREATE TABLE p2a PARTITION OF p2 DEFAULT;
    CREATE TABLE p3a (LIKE p2 INCLUDING ALL);
    CREATE TABLE p4 (LIKE p2 INCLUDING ALL)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_made_ahead_is_attached_when_its_parent_is_alike() {
    for (from, to) in [(0, 1), (1, 0)] {
        let mut stage = Stage::new(from, to, TABLES).await;
        stage.there.batch_execute(AHEAD).await.unwrap();
        stage.reopen().await;
        stage.asks = true;
        stage
            .on_blue(
                "CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2) PARTITION BY RANGE (id); \
                 CREATE TABLE p2a PARTITION OF p2 DEFAULT; \
                 CREATE TABLE p3a PARTITION OF p3 DEFAULT; \
                 ALTER TABLE p ADD more text DEFAULT 'm'; ALTER TABLE p ADD n integer; \
                 CREATE TABLE p4 (LIKE p INCLUDING ALL); \
                 ALTER TABLE p ATTACH PARTITION p4 FOR VALUES IN (4); \
                 INSERT INTO p (id, k, v) VALUES (1, 1, 'five5'); \
                 ALTER TABLE p ALTER n TYPE bigint; ALTER TABLE p ALTER v TYPE text; \
                 INSERT INTO p SELECT i, i, repeat('v', 9), 'x', 5000000000 \
                 FROM generate_series(2, 4) i",
            )
            .await;
        let said = stage.follow(true).await;
        let stops = |s: &&Redefined| {
            !matches!(s, Redefined::Made { .. } | Redefined::Alike { .. } | Redefined::Unconcerned)
        };
        assert_eq!(said.iter().find(stops), None, "{from} to {to}");
        stage.equal("made ahead").await;
        let alone = "SELECT count(*) FROM pg_class WHERE relname ~ '^p[1-4]' AND relkind IN ('r', 'p') \
                     AND NOT relispartition";
        assert_eq!(stage.there.query_one(alone, &[]).await.unwrap().get::<_, i64>(0), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_nobody_can_attach_stops() {
    let mut stage = Stage::new(1, 0, TABLES).await;
    stage.there.batch_execute(AHEAD).await.unwrap();
    stage.asks = true;
    stage.on_blue("CREATE TABLE p4 PARTITION OF p FOR VALUES IN (4)").await;
    let said = stage.follow(true).await;
    let Some(Redefined::Differs { why, .. }) = said.last() else { panic!("{said:?}") };
    assert!(why.contains("unlike it in"), "{why}");
}

/// A client that defines something may wait for what we hold; it would lose a deadlock to us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_definitions_holds_no_table_while_it_waits_for_another() {
    for of in [0, 1] {
        let stage = Stage::new(of, of, TABLES).await;
        let client = &stage.here;
        client.batch_execute("BEGIN; LOCK TABLE ONLY p IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let tables = ["p3", "p1", "p"].map(|name| TableName::new("public", name));
        let waits = async {
            wait_until("us to wait", Duration::from_secs(60), async || {
                let query = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted \
                             AND relation = 'p'::regclass)";
                client.query_one(query, &[]).await.unwrap().get(0)
            })
            .await
            .unwrap();
            let query = "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
                         WHERE l.granted AND l.pid <> pg_backend_pid() AND c.relname ~ '^p[0-9]*$'";
            client.query_one(query, &[]).await.unwrap().get::<_, i64>(0)
        };
        tokio::select! {
            // This version has to wait for nobody.
            told = stage.blue.describe(&tables) => drop(told.unwrap()),
            held = waits => assert_eq!(held, 0),
        }
        client.batch_execute("ROLLBACK").await.unwrap();
    }
}

/// Rights come from whoever made it, and not from us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_one_has_the_rights_it_has_on_the_source() {
    for (from, to) in [(0, 1), (1, 0)] {
        let stage = Stage::new(from, to, TABLES).await;
        let reader = format!("reader_of_{}", stage.run.object_name());
        for client in [&stage.here, &stage.there] {
            client.batch_execute(&format!("CREATE ROLE {reader}")).await.unwrap();
        }
        let mut stage = stage;
        let only = format!("{reader}_only_here");
        stage.here.batch_execute(&format!("CREATE ROLE {only}")).await.unwrap();
        stage
            .on_blue(&format!(
                "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {only}; \
                 ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {reader} WITH GRANT OPTION; \
                 ALTER DEFAULT PRIVILEGES GRANT INSERT ON TABLES TO PUBLIC; \
                 CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)"
            ))
            .await;
        let said = stage.follow(true).await;
        assert!(said.iter().any(|s| matches!(s, Redefined::Made { .. })), "{said:?}");
        let rights = "SELECT string_agg(CASE e.grantee WHEN 0 THEN 'public' \
                        ELSE e.grantee::regrole::text END || e.privilege_type || e.is_grantable, \
                        ' ' ORDER BY e.privilege_type) \
                      FROM pg_class c, aclexplode(c.relacl) e \
                      WHERE c.relname = 'p2' AND e.grantee <> c.relowner";
        let have: String = stage.there.query_one(rights, &[]).await.unwrap().get(0);
        assert_eq!(have, format!("publicINSERTfalse {reader}SELECTtrue"));
        for client in [&stage.here, &stage.there] {
            client.batch_execute("DROP TABLE p CASCADE").await.unwrap();
        }
    }
}

//! Open transactions, definitions, round trips.

use std::time::Duration;

use cutover_core::{
    model::selection::Selection,
    port::{primary::Primary, reader::RowReader, source::Source},
};
use futures_util::future::join_all;

use crate::home::{Home, servers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_transactions_oldest_first() {
    for server in servers().await {
        let home = Home::new(server, "CREATE TABLE t (id int); CREATE TABLE u (id int)").await;
        let only_t = [home.table("t").await];
        let writer = home.client().await;
        writer
            .batch_execute("SET application_name = 'writer'; BEGIN; INSERT INTO t VALUES (1)")
            .await
            .unwrap();
        let other = home.client().await;
        other
            .batch_execute("SET application_name = 'other'; BEGIN; INSERT INTO u VALUES (1)")
            .await
            .unwrap();
        let reader = home.client().await;
        reader
            .batch_execute("SET application_name = 'reader'; BEGIN; SELECT * FROM t")
            .await
            .unwrap();
        let ours = home.db.session("apply").await.unwrap();
        ours.batch_execute("BEGIN; INSERT INTO public.t VALUES (1)").await.unwrap();
        let show = async || -> Vec<(String, bool)> {
            let open = home.db.open_transactions(&home.run).await.unwrap();
            assert!(open.is_sorted_by(|a, b| a.age_seconds >= b.age_seconds));
            open.iter().map(|t| (t.application.clone(), t.blocks_fence)).collect()
        };
        let of = |blocks: [bool; 3]| -> Vec<(String, bool)> {
            ["writer", "other", "reader"].map(str::to_owned).into_iter().zip(blocks).collect()
        };
        // Before there is a fence every table counts.
        assert_eq!(show().await, of([true, true, false]));
        // The open transaction would hold up the making of the trigger.
        writer.batch_execute("ROLLBACK").await.unwrap();
        ours.batch_execute("ROLLBACK").await.unwrap();
        home.db.install_fence(&home.run, &only_t).await.unwrap();
        assert_eq!(show().await, of([true, false, false])[1..].to_vec());
    }
}

/// Locks of those who tend a table keep a sleeping fence from being woken, and one that is awake
/// from nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_tends_a_table_is_in_the_way_of_a_fence_that_sleeps() {
    for server in servers().await {
        let home = Home::new(server, "CREATE TABLE t (id int); CREATE TABLE u (id int)").await;
        let client = home.client().await;
        let blocks = async |doing: &str| -> [bool; 2] {
            client.batch_execute(&format!("BEGIN; {doing}")).await.unwrap();
            let open = home.db.open_transactions(&home.run).await.unwrap();
            client.batch_execute("ROLLBACK").await.unwrap();
            [open[0].blocks_fence, open[0].blocks_waking]
        };
        home.db.lay_fence(&home.run, &[home.table("t").await]).await.unwrap();
        for (doing, asleep, awake) in [
            ("SELECT * FROM t FOR UPDATE", [false, false], [false, false]),
            ("ANALYZE t", [false, true], [false, false]),
            ("CREATE INDEX ON t (id)", [false, true], [false, false]),
            ("LOCK t IN SHARE UPDATE EXCLUSIVE MODE", [false, true], [false, false]),
            ("LOCK t IN SHARE MODE", [false, true], [false, false]),
            ("DELETE FROM t", [true, true], [true, false]),
            ("LOCK t", [true, true], [true, false]),
            ("ANALYZE u; DELETE FROM u", [false, false], [false, false]),
        ] {
            assert_eq!(blocks(doing).await, asleep, "{doing}");
            home.db.wake_fence(&home.run).await.unwrap();
            assert_eq!(blocks(doing).await, awake, "{doing}, awake");
            home.db.remove_fence(&home.run).await.unwrap();
            home.db.lay_fence(&home.run, &[home.table("t").await]).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_definition_shows() {
    for server in servers().await {
        let ddl = "CREATE TYPE mood AS ENUM ('a'); CREATE TABLE t (id int PRIMARY KEY, m mood); \
                   CREATE TABLE p (id int) PARTITION BY LIST (id); \
                   CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE SCHEMA s; \
                   CREATE COLLATION s.c (locale = 'C'); \
                   CREATE TABLE s.u (id int PRIMARY KEY, c text COLLATE s.c)";
        let home = Home::new(server, ddl).await;
        let read = async || home.db.fingerprint(&Selection::default()).await.unwrap();
        let mark =
            async |since: Option<&str>| home.db.definitions_mark(since).await.unwrap().unwrap();
        // Whoever is under way since before the first look is not older than what it wrote.
        let under_way = home.client().await;
        under_way.batch_execute("BEGIN; INSERT INTO t VALUES (2, 'a')").await.unwrap();
        let (mut was, mut marked) = (read().await, mark(None).await);
        home.root.batch_execute("INSERT INTO t VALUES (1, 'a'); ANALYZE t").await.unwrap();
        assert_eq!(read().await, was);
        let temporary = home.client().await;
        temporary.batch_execute("CREATE TEMPORARY TABLE mine (id int)").await.unwrap();
        assert_eq!(mark(Some(&marked)).await, marked, "nobody's business");
        under_way.batch_execute("CREATE TABLE late (id int); COMMIT").await.unwrap();
        let now = mark(Some(&marked)).await;
        assert_ne!(now, marked, "of an older transaction");
        (was, marked) = (read().await, now);
        // Marks are not the same for ever.
        let old = format!("7 {}", marked.split_once(' ').unwrap().1);
        assert_eq!(mark(Some(&old)).await.split(' ').next(), Some("7"));
        let too_old = format!("-1073741825 {}", marked.split_once(' ').unwrap().1);
        assert_ne!(mark(Some(&too_old)).await, too_old);
        for change in [
            "ALTER TABLE t ADD COLUMN v varchar(10)",
            "ALTER TABLE t ALTER COLUMN v TYPE varchar(20)",
            "ALTER TABLE t ALTER COLUMN v SET NOT NULL",
            "ALTER TABLE t REPLICA IDENTITY FULL",
            "ALTER TABLE t RENAME COLUMN v TO w",
            "ALTER TABLE t DROP COLUMN w",
            "ALTER TABLE t DROP CONSTRAINT t_pkey",
            "ALTER TABLE t ADD PRIMARY KEY (id)",
            "ALTER TYPE mood RENAME TO temper",
            "ALTER TYPE temper RENAME TO mood",
            "ALTER TYPE mood ADD VALUE 'b'",
            "ALTER TABLE p DETACH PARTITION p1",
            "CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)",
            "DROP TABLE p2",
            "DROP TABLE p1; CREATE TABLE p1 (id int)",
            "ALTER COLLATION s.c RENAME TO d",
            "ALTER SCHEMA s RENAME TO r",
        ] {
            if change.contains("varchar(10)") {
                home.root.batch_execute("DELETE FROM t").await.unwrap();
            }
            home.root.batch_execute(change).await.unwrap();
            let now = read().await;
            assert_ne!(now, was, "{change}");
            let mark = mark(Some(&marked)).await;
            assert_ne!(mark, marked, "{change}");
            (was, marked) = (now, mark);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_in_other_files_show() {
    for server in servers().await {
        let ddl = "CREATE TABLE t (id int, v text); CREATE TABLE u (id int, v text)";
        let home = Home::new(server, ddl).await;
        let (t, u) = (home.table("t").await, home.table("u").await);
        let reader = home.db.reader();
        let read = async || {
            let mark = reader.files_mark().await.unwrap().unwrap();
            (reader.files(&[&t, &u]).await.unwrap(), mark)
        };
        let mut before = read().await;
        for (change, other) in [
            ("INSERT INTO t VALUES (1, 'v'); ANALYZE t; CREATE INDEX ON t (id)", false),
            ("ALTER TABLE t ADD COLUMN w int; CREATE TEMPORARY TABLE mine (id int)", false),
            ("VACUUM FULL t", true),
            ("TRUNCATE t", true),
            ("ALTER TABLE t ALTER v TYPE varchar(9)", true),
            (
                "ALTER TABLE t RENAME TO x; ALTER TABLE u RENAME TO t; ALTER TABLE x RENAME TO u",
                true,
            ),
        ] {
            home.root.batch_execute(change).await.unwrap();
            let now = read().await;
            assert_eq!(now.0 != before.0, other, "{change}");
            assert_eq!(now.1 != before.1, other, "{change}");
            before = now;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_survive_a_restart_of_the_server() {
    let install = cutover_sandbox::find_postgres().pop().unwrap();
    let mut server = cutover_sandbox::Postgres::start(&install, cutover_sandbox::PgOptions::new())
        .await
        .unwrap();
    server.execute("postgres", "CREATE TABLE t (id int)").await.unwrap();
    let config = cutover_postgres::connect::PgConfig::parse(&server.url("postgres"), None).unwrap();
    let run = cutover_core::model::run::RunId::new("r").unwrap();
    let side = cutover_core::model::side::Side::Green;
    let db = cutover_postgres::Database::new(config, side, run.clone(), &std::env::temp_dir());
    let tables =
        cutover_core::port::source::Source::tables(&db, &Selection::default()).await.unwrap();
    db.install_fence(&run, &tables).await.unwrap();
    db.warm_up().await.unwrap();
    assert!(db.round_trip().await.unwrap() < Duration::from_secs(5));
    db.close_to_clients(&run, Duration::from_secs(60)).await.unwrap();
    server.kill9().await.unwrap();
    server.start_again().await.unwrap();
    // Closed is closed, also after a crash of the server.
    cutover_testkit::wait_until(
        "the old sessions to be noticed",
        Duration::from_secs(60),
        async || db.fence(&run).await.ok() == Some(cutover_core::port::primary::Fence::Closed),
    )
    .await;
    db.open_to_clients(&run).await.unwrap();
    assert!(server.execute("postgres", "INSERT INTO t VALUES (1)").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_sessions_stay_open_for_questions() {
    let home = Home::new(&servers().await[0], "CREATE TABLE t (id int)").await;
    let all = Selection::default();
    let questions = (0..8).map(|_| home.db.tables(&all));
    for answer in join_all(questions).await {
        assert_eq!(answer.unwrap().len(), 1);
    }
    let open = "SELECT count(*) FROM pg_stat_activity \
                WHERE application_name = 'cutover test-run errand' AND datname = current_database()";
    cutover_testkit::wait_until("the others to close", Duration::from_secs(60), async || {
        home.root.query_one(open, &[]).await.unwrap().get::<_, i64>(0) == 2
    })
    .await;
    // One of them answers the next one.
    home.db.tables(&all).await.unwrap();
    assert_eq!(home.root.query_one(open, &[]).await.unwrap().get::<_, i64>(0), 2);
}

//! A fence that sleeps, and waking it under load.

use std::time::Duration;

use cutover_core::port::primary::{Fence, Primary};
use cutover_testkit::wait_until;

use crate::home::{Home, servers};

const LONG: Duration = Duration::from_secs(60);

/// The states of all triggers of the fence.
async fn states(home: &Home) -> String {
    let sql = "SELECT string_agg(DISTINCT tgenabled::text, ',') FROM pg_trigger \
               WHERE tgname = 'cutover_test_run_fence'";
    home.root.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_pays_for_it_and_nothing_rests_on_it() {
    for server in servers().await {
        let ddl = "CREATE TABLE t (id int); CREATE TABLE p (id int) PARTITION BY LIST (id); \
                   CREATE TABLE p1 PARTITION OF p DEFAULT";
        let home = Home::new(server, ddl).await;
        let tables = home.tables().await;
        for _ in 0..2 {
            home.db.lay_fence(&home.run, &tables).await.unwrap();
            assert_eq!(states(&home).await, "D");
        }
        let e = home.db.close_to_clients(&home.run, LONG).await.unwrap_err();
        assert_eq!(e.code(), Some("CUT0712"), "{e}");
        assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Open);
        home.client().await.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();

        home.db.wake_fence(&home.run).await.unwrap();
        assert_eq!(states(&home).await, "A");
        home.db.close_to_clients(&home.run, LONG).await.unwrap();
        // Laying puts nothing to sleep, and what is new behind a closed fence is no gap for long.
        home.db.lay_fence(&home.run, &tables).await.unwrap();
        assert_eq!(states(&home).await, "A");
        assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Closed);
        home.db.remove_fence(&home.run).await.unwrap();
    }
}

/// A table that is excluded while the run is on belongs to its clients again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_leaves_the_run_is_free_again() {
    for server in servers().await {
        let ddl = "CREATE TABLE stays (id int); CREATE TABLE leaves (id int); \
                   CREATE TABLE p (id int) PARTITION BY LIST (id); \
                   CREATE TABLE p1 PARTITION OF p DEFAULT";
        let home = Home::new(server, ddl).await;
        let mut tables = home.tables().await;
        home.db.install_fence(&home.run, &tables).await.unwrap();
        home.db.close_to_clients(&home.run, LONG).await.unwrap();
        tables.retain(|table| table.name.name == "stays");
        for _ in 0..2 {
            home.db.lay_fence(&home.run, &tables).await.unwrap();
        }
        assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Closed);
        let client = home.client().await;
        client
            .batch_execute("INSERT INTO leaves VALUES (1); INSERT INTO p VALUES (1)")
            .await
            .unwrap();
        client.batch_execute("INSERT INTO stays VALUES (1)").await.unwrap_err();
        home.db.remove_fence(&home.run).await.unwrap();
    }
}

/// Whoever waits for a lock has everybody queue behind it, so we do not wait for what lasts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waking_it_holds_nobody_up() {
    for server in servers().await {
        let home = Home::new(server, "CREATE TABLE t (id int); CREATE TABLE u (id int)").await;
        let tables = home.tables().await;
        home.db.lay_fence(&home.run, &tables).await.unwrap();
        let writer = home.client().await;
        writer.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
        // The lock that VACUUM, ANALYZE and CREATE INDEX CONCURRENTLY hold.
        let vacuum = home.client().await;
        vacuum.batch_execute("BEGIN; LOCK TABLE u IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
        let old = "SELECT min(clock_timestamp() - xact_start) > interval '300 ms' \
                   FROM pg_stat_activity WHERE datname = current_database() \
                     AND state = 'idle in transaction'";
        wait_until("both to be old", LONG, async || {
            home.root.query_one(old, &[]).await.unwrap().get(0)
        })
        .await;

        let waking = home.db.wake_fence(&home.run);
        let working = async {
            let client = home.client().await;
            client.batch_execute("SET lock_timeout = '50ms'").await.unwrap();
            let looks = "SELECT query_start::text FROM pg_stat_activity \
                         WHERE application_name = 'cutover test-run errand' \
                           AND query ~ 'pg_locks' AND datname = current_database()";
            let mut seen = std::collections::BTreeSet::new();
            wait_until("several looks", LONG, async || {
                client.batch_execute("INSERT INTO t VALUES (2)").await.expect("nobody queues");
                client.batch_execute("INSERT INTO u VALUES (2)").await.expect("nobody queues");
                let rows = home.root.query(looks, &[]).await.unwrap();
                seen.extend(rows.iter().map(|row| row.get::<_, String>(0)));
                seen.len() >= 3
            })
            .await;
            assert_eq!(states(&home).await, "D");
            for session in [&writer, &vacuum] {
                session.batch_execute("COMMIT").await.unwrap();
            }
        };
        let (awake, ()) = tokio::join!(waking, working);
        awake.unwrap();
        assert_eq!(states(&home).await, "A");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_let_go_is_named() {
    let home = Home::new(&servers().await[0], "CREATE TABLE t (id int)").await;
    let writer = home.client().await;
    writer
        .batch_execute("SET application_name = 'nightly'; BEGIN; INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let e = home.db.install_fence(&home.run, &home.tables().await).await.unwrap_err();
    assert_eq!(e.code(), Some("CUT0711"), "{e}");
    assert!(e.to_string().contains(&format!("process {pid} (nightly)")), "{e}");
    writer.batch_execute("COMMIT").await.unwrap();
    home.db.install_fence(&home.run, &home.tables().await).await.unwrap();
}

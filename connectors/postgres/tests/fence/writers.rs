//! Transactions that were under way when the fence closed.

use std::time::Duration;

use cutover_core::port::{
    error::PortError,
    primary::{Fence, Primary},
};
use cutover_testkit::wait_until;

use crate::home::{Home, servers};

/// Shorter than a transaction that nobody ends; long for the questions that a busy server answers.
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(60);

async fn fenced(server: &'static cutover_sandbox::Postgres, ddl: &str) -> Home {
    let home = Home::new(server, ddl).await;
    home.db.install_fence(&home.run, &home.tables().await).await.unwrap();
    home.db.warm_up().await.unwrap();
    home
}

fn held_up(e: &PortError) {
    assert_eq!(e.code(), Some("CUT0711"), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_does_not_end_leaves_everything_open() {
    for server in servers().await {
        let home = fenced(server, "CREATE TABLE t (id int); CREATE TABLE u (id int)").await;
        let writer = home.client().await;
        writer
            .batch_execute("SET application_name = 'nightly'; BEGIN; INSERT INTO t VALUES (1)")
            .await
            .unwrap();
        let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);

        let e = home.db.close_to_clients(&home.run, SHORT).await.unwrap_err();
        held_up(&e);
        assert!(e.to_string().contains(&format!("process {pid} (nightly)")), "{e}");
        assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Open);
        // Nobody was refused, not even for a moment.
        writer.batch_execute("INSERT INTO u VALUES (1)").await.unwrap();

        let closing = home.db.close_to_clients(&home.run, LONG);
        let ending = async {
            // Closing has looked once and waits.
            wait_until("closing to wait", LONG, async || {
                let sql = "SELECT count(*) FROM pg_stat_activity f JOIN pg_stat_activity w \
                                  ON w.datname = f.datname AND w.application_name = 'nightly' \
                           WHERE f.application_name = 'cutover test-run fence' \
                             AND f.datname = current_database() AND f.query_start > w.xact_start";
                home.root.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0
            })
            .await;
            writer.batch_execute("COMMIT").await.unwrap();
        };
        let (closed, ()) = tokio::join!(closing, ending);
        closed.unwrap();
        assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Closed);
        let rows: i64 = home.root.query_one("SELECT count(*) FROM u", &[]).await.unwrap().get(0);
        assert_eq!(rows, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction_is_named() {
    for server in servers().await {
        let home = fenced(server, "CREATE TABLE t (id int)").await;
        let writer = home.client().await;
        writer
            .batch_execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'payroll'")
            .await
            .unwrap();
        let e = home.db.close_to_clients(&home.run, SHORT).await.unwrap_err();
        held_up(&e);
        assert!(e.to_string().contains("prepared transaction \"payroll\""), "{e}");
        let open = home.db.open_transactions(&home.run).await.unwrap();
        let prepared = open.iter().find(|t| t.prepared).unwrap();
        assert_eq!((prepared.who.as_str(), prepared.blocks_fence), ("payroll", true));
        writer.batch_execute("COMMIT PREPARED 'payroll'").await.unwrap();
        home.db.close_to_clients(&home.run, LONG).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolled_back_savepoint_and_a_truncate_count_as_what_they_are() {
    for server in servers().await {
        let home = fenced(server, "CREATE TABLE t (id int); CREATE TABLE u (id int)").await;
        let tried = home.client().await;
        tried
            .batch_execute("BEGIN; SAVEPOINT a; INSERT INTO t VALUES (1); ROLLBACK TO a")
            .await
            .unwrap();
        home.db.close_to_clients(&home.run, LONG).await.unwrap();
        let again = tried.batch_execute("INSERT INTO t VALUES (1)").await.unwrap_err();
        assert_eq!(again.code().unwrap().code(), "25006");
        tried.batch_execute("ROLLBACK").await.unwrap();
        home.db.open_to_clients(&home.run).await.unwrap();

        tried.batch_execute("BEGIN; TRUNCATE u").await.unwrap();
        held_up(&home.db.close_to_clients(&home.run, SHORT).await.unwrap_err());
        tried.batch_execute("COMMIT").await.unwrap();
        home.db.close_to_clients(&home.run, LONG).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_vacuum_and_queued_ddl_are_not_waited_for() {
    for server in servers().await {
        let home = fenced(server, "CREATE TABLE t (id int)").await;
        let reader = home.client().await;
        reader.batch_execute("BEGIN; SELECT * FROM t").await.unwrap();
        // The lock that VACUUM, ANALYZE and CREATE INDEX CONCURRENTLY hold.
        let vacuum = home.client().await;
        vacuum.batch_execute("BEGIN; LOCK TABLE t IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
        home.db.close_to_clients(&home.run, LONG).await.unwrap();
        home.db.open_to_clients(&home.run).await.unwrap();
        vacuum.batch_execute("ROLLBACK").await.unwrap();

        let ddl = home.client().await;
        let altering = ddl.batch_execute("ALTER TABLE t ADD COLUMN w int");
        let moving = async {
            wait_until("the ALTER to wait for the reader", LONG, async || {
                let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted \
                           AND relation = 't'::regclass";
                home.root.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0
            })
            .await;
            home.db.close_to_clients(&home.run, LONG).await.unwrap();
            home.db.open_to_clients(&home.run).await.unwrap();
            reader.batch_execute("COMMIT").await.unwrap();
        };
        let (altered, ()) = tokio::join!(altering, moving);
        altered.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_transactions_are_not_waited_for() {
    for server in servers().await {
        let home = fenced(server, "CREATE TABLE t (id int)").await;
        let ours = home.db.session("apply").await.unwrap();
        ours.batch_execute("BEGIN; INSERT INTO public.t VALUES (1)").await.unwrap();
        home.db.close_to_clients(&home.run, LONG).await.unwrap();
        ours.batch_execute("INSERT INTO public.t VALUES (2); COMMIT").await.unwrap();
        assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Closed);
    }
}

/// A table that is no part of the run is filled, and becomes one: the fence was never asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_brings_rows_with_a_partition_or_a_child_is_waited_for() {
    for server in servers().await {
        let home = fenced(
            server,
            "CREATE TABLE p (id int) PARTITION BY RANGE (id); \
             CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (1) TO (9); CREATE TABLE t (id int)",
        )
        .await;
        for brings in [
            "ALTER TABLE p ATTACH PARTITION late FOR VALUES FROM (10) TO (19)",
            "ALTER TABLE late INHERIT t",
        ] {
            let writer = home.client().await;
            let fill = "BEGIN; CREATE TABLE late (id int); INSERT INTO late VALUES (11)";
            writer.batch_execute(&format!("{fill}; {brings}")).await.unwrap();
            held_up(&home.db.close_to_clients(&home.run, SHORT).await.unwrap_err());
            let open = home.db.open_transactions(&home.run).await.unwrap();
            assert!(open.iter().any(|t| t.blocks_fence), "{open:?}");
            // Who only tends the same table is in nobody's way.
            writer.batch_execute("ROLLBACK; BEGIN; ANALYZE p; ANALYZE t").await.unwrap();
            home.db.close_to_clients(&home.run, LONG).await.unwrap();
            home.db.open_to_clients(&home.run).await.unwrap();
        }
    }
}

//! Writers that never stop, and two processes that move the same fence.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use cutover_core::port::primary::{Fence, Primary};
use cutover_testkit::wait_until;

use crate::home::{Home, servers};

const LONG: Duration = Duration::from_secs(60);

const DDL: &str = "
CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int);
CREATE TABLE p (id int, v int) PARTITION BY HASH (id);
CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE p1 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 1)";

/// Behind a closed fence no row appears, however many write at the moment it closes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_writer_is_missed() {
    for server in servers().await {
        let home = Home::new(server, DDL).await;
        home.db.install_fence(&home.run, &home.tables().await).await.unwrap();
        home.db.warm_up().await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let refused: Vec<Arc<AtomicU32>> = (0..8).map(|_| Arc::default()).collect();
        let mut writers = Vec::new();
        for (i, refused) in refused.iter().enumerate() {
            let client = home.client().await;
            let (stop, refused) = (Arc::clone(&stop), Arc::clone(refused));
            writers.push(tokio::spawn(async move {
                let one = client.prepare("INSERT INTO t (v) VALUES (1)").await.unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let written = match i % 3 {
                        0 => client.execute(&one, &[]).await.map(drop),
                        1 => {
                            client
                                .batch_execute(
                                    "INSERT INTO p SELECT g, 1 FROM generate_series(1, 5) g",
                                )
                                .await
                        }
                        _ => {
                            let all = "BEGIN; SELECT 1 FROM p0 LIMIT 1; \
                                       INSERT INTO t (v) VALUES (2); INSERT INTO p1 \
                                       SELECT id, 3 FROM p1 LIMIT 1; COMMIT";
                            client.batch_execute(all).await
                        }
                    };
                    if let Err(e) = written {
                        assert_eq!(e.code().unwrap().code(), "25006", "{e}");
                        refused.fetch_add(1, Ordering::Relaxed);
                        client.batch_execute("ROLLBACK").await.unwrap();
                    }
                }
            }));
        }
        let count = "SELECT (SELECT count(*) FROM t) + (SELECT count(*) FROM p)";
        let rows = async || home.root.query_one(count, &[]).await.unwrap().get::<_, i64>(0);
        for _ in 0..20 {
            let begun = rows().await;
            wait_until("rows to come in", LONG, async || rows().await > begun + 20).await;
            home.db.close_to_clients(&home.run, LONG).await.unwrap();
            let closed = rows().await;
            let seen: Vec<u32> = refused.iter().map(|r| r.load(Ordering::Relaxed)).collect();
            wait_until("every writer to be refused", LONG, async || {
                refused.iter().zip(&seen).all(|(now, then)| now.load(Ordering::Relaxed) > then + 1)
            })
            .await;
            assert_eq!(rows().await, closed, "PostgreSQL {}", server.major());
            home.db.open_to_clients(&home.run).await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
    }
}

/// The guard opened for a process that was thought dead: what that process decided before does
/// not close any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_close_does_nothing() {
    for server in servers().await {
        let home = Home::new(server, "CREATE TABLE t (id int)").await;
        home.db.install_fence(&home.run, &home.tables().await).await.unwrap();
        home.db.warm_up().await.unwrap();
        let guard = home.process(cutover_core::model::side::Side::Blue);
        guard.open_to_clients(&home.run).await.unwrap();

        let e = home.db.close_to_clients(&home.run, LONG).await.unwrap_err();
        assert!(e.is_transient(), "{e}");
        assert_eq!(guard.fence(&home.run).await.unwrap(), Fence::Open);
        // Decided anew, it may.
        home.db.close_to_clients(&home.run, LONG).await.unwrap();
        assert_eq!(guard.fence(&home.run).await.unwrap(), Fence::Closed);
        guard.open_to_clients(&home.run).await.unwrap();
        assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Open);
    }
}

/// A closing that is dropped half way leaves sessions and fence usable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_close_can_be_undone() {
    for server in servers().await {
        let home = Home::new(server, "CREATE TABLE t (id int)").await;
        home.db.install_fence(&home.run, &home.tables().await).await.unwrap();
        let writer = home.client().await;
        writer.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
        let closing = home.db.close_to_clients(&home.run, LONG);
        assert!(tokio::time::timeout(Duration::from_millis(50), closing).await.is_err());
        home.db.open_to_clients(&home.run).await.unwrap();
        writer.batch_execute("COMMIT; INSERT INTO t VALUES (2)").await.unwrap();
        assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Open);
        home.db.close_to_clients(&home.run, LONG).await.unwrap();
        assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Closed);
    }
}

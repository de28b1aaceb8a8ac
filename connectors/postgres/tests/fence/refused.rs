//! Every path by which a client may write is refused, and ours are not.

use std::time::Duration;

use cutover_core::port::primary::{Fence, Primary};
use tokio_postgres::Client;

use crate::home::{Home, only, servers};

const DDL: &str = "
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE \"Odd \"\"Name\" (\"Id\" int PRIMARY KEY);
CREATE TABLE part (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE part_24 PARTITION OF part FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')
  PARTITION BY LIST (id);
CREATE TABLE part_24_1 PARTITION OF part_24 FOR VALUES IN (1);
CREATE TABLE outside (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES outside ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE base (id int);
CREATE TABLE heir (w int) INHERITS (base);
CREATE VIEW seen AS SELECT * FROM t;
CREATE FUNCTION put(i int) RETURNS void LANGUAGE sql AS 'INSERT INTO public.t VALUES (i, ''f'')';
CREATE TABLE ruled (id int);
CREATE RULE r AS ON INSERT TO ruled DO INSTEAD INSERT INTO t VALUES (NEW.id, 'r');
INSERT INTO t VALUES (1, 'a'); INSERT INTO outside VALUES (1); INSERT INTO child VALUES (1);
INSERT INTO part VALUES (1, '2024-05-05'); INSERT INTO heir VALUES (1, 1)";

const WRITES: &[&str] = &[
    "INSERT INTO t VALUES (2, 'b')",
    "UPDATE t SET v = 'x'",
    "UPDATE t SET v = 'x' WHERE false",
    "DELETE FROM t WHERE id = 1",
    "TRUNCATE t",
    "TRUNCATE t, child",
    "TRUNCATE outside CASCADE",
    "INSERT INTO \"Odd \"\"Name\" VALUES (1)",
    "INSERT INTO part VALUES (1, '2024-01-01')",
    "INSERT INTO part_24 VALUES (1, '2024-01-01')",
    "INSERT INTO part_24_1 VALUES (1, '2024-01-01')",
    "UPDATE part SET at = '2024-06-06'",
    "DELETE FROM part_24",
    "TRUNCATE part",
    "TRUNCATE part_24_1",
    "DELETE FROM outside",
    "UPDATE outside SET id = 9",
    "UPDATE base SET id = 7",
    "DELETE FROM base",
    "INSERT INTO heir VALUES (3, 3)",
    "INSERT INTO seen VALUES (5, 'v')",
    "SELECT put(6)",
    "INSERT INTO ruled VALUES (8)",
    "INSERT INTO t VALUES (1, 'c') ON CONFLICT (id) DO UPDATE SET v = 'c'",
    "INSERT INTO t VALUES (1, 'c') ON CONFLICT DO NOTHING",
    "WITH w AS (INSERT INTO t VALUES (9, 'w') RETURNING id) SELECT * FROM w",
    "DO $$ BEGIN INSERT INTO public.t VALUES (10, 'd'); END $$",
    "COPY t FROM PROGRAM 'echo 11'",
    "SET default_transaction_read_only = off; DELETE FROM t",
    "SET session_replication_role = replica; DELETE FROM t",
    "SET session_replication_role = local; DELETE FROM t",
    "SET ROLE app; DELETE FROM t",
    "SET search_path = pg_temp; DELETE FROM public.t",
    "BEGIN ISOLATION LEVEL SERIALIZABLE; DELETE FROM t; COMMIT",
];

async fn state_of(client: &Client, sql: &str) -> String {
    match client.batch_execute(&format!("RESET ALL; RESET ROLE; {sql}")).await {
        Ok(()) => "done".to_owned(),
        Err(e) => {
            let state = e.code().map_or_else(|| e.to_string(), |c| c.code().to_owned());
            client.batch_execute("ROLLBACK").await.unwrap();
            state
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_path_it_takes() {
    for server in servers().await {
        let home = Home::new(server, DDL).await;
        // Of the foreign key's parent and of the inheritance parent no row is moved.
        let tables = home.selected(&only(&["public.*"], &["*.outside", "*.base", "*.ruled"])).await;
        assert_eq!(tables.len(), 5, "{tables:?}");
        home.db.install_fence(&home.run, &tables).await.unwrap();
        assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Open);

        let superuser = home.client().await;
        let app = home.client().await;
        app.batch_execute("SET SESSION AUTHORIZATION app").await.unwrap();
        // Sessions and transactions that are older than the fence, and have only read.
        let old = home.client().await;
        old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM t").await.unwrap();
        let locking = home.client().await;
        locking.batch_execute("BEGIN; SELECT * FROM t FOR UPDATE").await.unwrap();
        let prepared = home.client().await;
        let statement = prepared.prepare("INSERT INTO t VALUES ($1, 'p')").await.unwrap();
        prepared.execute(&statement, &[&100]).await.unwrap();
        prepared.execute(&statement, &[&101]).await.unwrap();
        let before: i64 = superuser.query_one(COUNT, &[]).await.unwrap().get(0);

        home.db.warm_up().await.unwrap();
        for _ in 0..2 {
            home.db.close_to_clients(&home.run, Duration::from_secs(60)).await.unwrap();
            assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Closed);
        }

        assert_eq!(app_state(&old, "UPDATE t SET v = 'o'").await, "25006");
        assert_eq!(app_state(&locking, "UPDATE t SET v = 'o'").await, "25006");
        for sql in WRITES {
            assert_eq!(state_of(&superuser, sql).await, "25006", "{sql}, {}", server.major());
        }
        if server.major() >= 15 {
            let merge = "MERGE INTO t USING (SELECT 1 AS i) s ON t.id = s.i \
                         WHEN MATCHED THEN UPDATE SET v = 'm'";
            assert_eq!(state_of(&superuser, merge).await, "25006");
        }
        assert_eq!(app_state(&app, "INSERT INTO t VALUES (2, 'b')").await, "25006");
        let late = prepared.execute(&statement, &[&102]).await.unwrap_err();
        assert_eq!(late.code().unwrap().code(), "25006");
        assert!(late.as_db_error().unwrap().message().contains("run test-run"), "{late:?}");
        // Reading goes on.
        let after: i64 = superuser.query_one(COUNT, &[]).await.unwrap().get(0);
        assert_eq!(after, before);
        superuser.batch_execute("RESET ALL; SELECT * FROM t FOR SHARE").await.unwrap();
        superuser.batch_execute("INSERT INTO outside VALUES (77)").await.unwrap();

        // Ours pass.
        let ours = home.client().await;
        ours.batch_execute(
            "SET cutover.run = 'cutover_test_run'; SET session_replication_role = replica; \
             INSERT INTO t VALUES (1000, 'us'); TRUNCATE child; \
             INSERT INTO part VALUES (1, '2024-02-02'); DELETE FROM part_24_1",
        )
        .await
        .unwrap();
        let other_run = home.client().await;
        other_run.batch_execute("SET cutover.run = 'cutover_other'").await.unwrap();
        assert_eq!(app_state(&other_run, "DELETE FROM t").await, "25006");

        home.db.open_to_clients(&home.run).await.unwrap();
        home.db.open_to_clients(&home.run).await.unwrap();
        assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Open);
        prepared.execute(&statement, &[&102]).await.unwrap();
        for sql in ["INSERT INTO t VALUES (2, 'b')", "TRUNCATE part", "DELETE FROM outside"] {
            assert_eq!(state_of(&superuser, sql).await, "done", "{sql}");
        }
    }
}

const COUNT: &str = "SELECT (SELECT count(*) FROM t) + (SELECT count(*) FROM part) \
                     + (SELECT count(*) FROM child) + (SELECT count(*) FROM heir)";

async fn app_state(client: &Client, sql: &str) -> String {
    let state = match client.batch_execute(sql).await {
        Ok(()) => "done".to_owned(),
        Err(e) => e.code().map_or_else(|| e.to_string(), |c| c.code().to_owned()),
    };
    client.batch_execute("ROLLBACK").await.unwrap();
    state
}

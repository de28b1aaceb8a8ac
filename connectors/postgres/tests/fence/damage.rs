//! A fence that is not what was installed, and taking it down.

use std::time::Duration;

use cutover_core::port::primary::{Fence, Primary};

use crate::home::{Home, servers};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gaps_are_found_and_mended() {
    for server in servers().await {
        let home = Home::new(server, "CREATE TABLE t (id int); CREATE TABLE u (id int)").await;
        assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Open);
        home.db.open_to_clients(&home.run).await.unwrap();
        home.db.remove_fence(&home.run).await.unwrap();
        let e = home.db.close_to_clients(&home.run, LONG).await.unwrap_err();
        assert_eq!(e.code(), Some("CUT0712"), "{e}");

        let install =
            async || home.db.install_fence(&home.run, &home.tables().await).await.unwrap();
        install().await;
        for damage in [
            "ALTER TABLE t DISABLE TRIGGER ALL",
            "ALTER TABLE t ENABLE TRIGGER cutover_test_run_fence",
            "DROP TRIGGER cutover_test_run_fence ON t",
            "CREATE TABLE above (id int) PARTITION BY LIST (id); \
             ALTER TABLE above ATTACH PARTITION t DEFAULT",
        ] {
            home.root.batch_execute(damage).await.unwrap();
            let e = home.db.close_to_clients(&home.run, LONG).await.unwrap_err();
            assert_eq!(e.code(), Some("CUT0712"), "{damage}: {e}");
            assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Open, "{damage}");
            home.root.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
            home.root.batch_execute("ALTER TABLE IF EXISTS above OWNER TO app").await.unwrap();
            install().await;
            home.db.close_to_clients(&home.run, LONG).await.unwrap();
            assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Closed);
            home.db.open_to_clients(&home.run).await.unwrap();
        }

        // Behind a closed fence damage shows, and a new table is closed from its first moment.
        home.db.close_to_clients(&home.run, LONG).await.unwrap();
        home.root.batch_execute("ALTER TABLE u DISABLE TRIGGER ALL").await.unwrap();
        assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Partial);
        home.root
            .batch_execute("SET ROLE app; CREATE TABLE late (id int); RESET ROLE; DROP TABLE t")
            .await
            .unwrap();
        install().await;
        assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Closed);
        let e = home.root.batch_execute("INSERT INTO late VALUES (1)").await.unwrap_err();
        assert_eq!(e.code().unwrap().code(), "25006");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_behind() {
    for server in servers().await {
        let home =
            Home::new(server, "CREATE TABLE t (id int); CREATE TABLE \"U x\" (id int)").await;
        let left = "SELECT (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal) \
                    + (SELECT count(*) FROM pg_namespace WHERE nspname ~ '^cutover')";
        for keep in [false, true] {
            home.db.install_fence(&home.run, &home.tables().await).await.unwrap();
            if keep {
                home.db
                    .session("test")
                    .await
                    .unwrap()
                    .batch_execute("CREATE TABLE cutover_test_run.progress (x int)")
                    .await
                    .unwrap();
            }
            home.db.close_to_clients(&home.run, LONG).await.unwrap();
            home.db.remove_fence(&home.run).await.unwrap();
            home.db.remove_fence(&home.run).await.unwrap();
            home.root.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
            let left: i64 = home.root.query_one(left, &[]).await.unwrap().get(0);
            assert_eq!(left, i64::from(keep));
            assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Open);
        }
        let objects = "SELECT string_agg(relname, ',') FROM pg_class \
                       WHERE relnamespace = 'cutover_test_run'::regnamespace";
        let left: Option<String> = home.root.query_one(objects, &[]).await.unwrap().get(0);
        assert_eq!(left.as_deref(), Some("progress"));
    }
}

/// The apply worker of a subscription fires no statement trigger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_is_refused() {
    for server in servers().await {
        let home = Home::new(server, "CREATE TABLE t (id int PRIMARY KEY)").await;
        let upstream = Home::new(server, "CREATE TABLE t (id int PRIMARY KEY)").await;
        let slot = format!("up_{}", upstream.name);
        upstream.root.batch_execute("CREATE PUBLICATION p FOR TABLE t").await.unwrap();
        upstream
            .root
            .batch_execute(&format!(
                "SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"
            ))
            .await
            .unwrap();
        home.root
            .batch_execute(&format!(
                "CREATE SUBSCRIPTION sub CONNECTION '{}' PUBLICATION p \
                 WITH (create_slot = false, slot_name = '{slot}', copy_data = false)",
                server.url(&upstream.name)
            ))
            .await
            .unwrap();
        home.db.install_fence(&home.run, &home.tables().await).await.unwrap();
        let e = home.db.close_to_clients(&home.run, LONG).await.unwrap_err();
        assert_eq!(e.code(), Some("CUT0713"), "{e}");
        assert_eq!(e.remedy(), Some("ALTER SUBSCRIPTION \"sub\" DISABLE;"));
        assert_eq!(home.db.fence(&home.run).await.unwrap(), Fence::Open);
        home.root.batch_execute("ALTER SUBSCRIPTION sub DISABLE").await.unwrap();
        cutover_testkit::wait_until("the worker to end", LONG, async || {
            home.db.close_to_clients(&home.run, LONG).await.is_ok()
        })
        .await;
        home.root.batch_execute("DROP SUBSCRIPTION sub").await.unwrap();
    }
}

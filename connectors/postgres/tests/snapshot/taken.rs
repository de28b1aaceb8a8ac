//! Somebody has a table for himself alone, for as long as he likes.

use std::time::Duration;

use cutover_core::{
    model::schema::{Table, TableName},
    port::{reader::RowReader, source::Source},
};
use tokio::time::timeout;

use crate::home::{Home, servers};

/// What nobody keeps waiting.
const SOON: Duration = Duration::from_secs(10);
/// The same on a busy machine.
const GIVEN_UP: Duration = Duration::from_secs(60);

const DDL: &str = "
    CREATE TABLE a (id int); CREATE TABLE b (id int, v text); ALTER TABLE b ALTER v SET STORAGE EXTERNAL;
    INSERT INTO a SELECT generate_series(1, 30000);
    INSERT INTO b SELECT i, repeat('x', 100000) FROM generate_series(1, 40) i";

/// What is said of a size does not wait, and what nobody counts any more was counted once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_size_waits_for_nobody() {
    for server in servers().await {
        let home = Home::new(server, DDL).await;
        let (a, b) = (home.table("a").await, home.table("b").await);
        let live = home.db.reader();
        let sizes = async || {
            let gone = Table { name: TableName::new("public", "gone"), ..a.clone() };
            let told = timeout(SOON, live.sizes(&[&a, &gone, &b])).await;
            let told = told.expect("it waits").unwrap();
            assert_eq!(told[1], 0);
            [told[0], told[2]]
        };
        let before = sizes().await;
        assert!(before[0] > 1 << 20 && before[1] > 4_000_000, "{before:?}");
        home.root.batch_execute("VACUUM ANALYZE a, b").await.unwrap();
        let index = "SELECT 'REINDEX INDEX ' || indexrelid::regclass
                       FROM pg_class JOIN pg_index ON indrelid = reltoastrelid WHERE relname = 'b'";
        let index: String = home.root.query_one(index, &[]).await.unwrap().get(0);
        for takes in ["LOCK TABLE a, b".to_owned(), index] {
            let client = home.client().await;
            client.batch_execute(&format!("BEGIN; {takes}")).await.expect(&takes);
            let told = sizes().await;
            for (now, before) in told.iter().zip(before) {
                assert!(now.abs_diff(before) < before / 5, "{takes}: {told:?}, before {before:?}");
            }
            timeout(SOON, Source::tables(&home.db, &Default::default())).await.unwrap().unwrap();
        }
        // Whoever waits for it has us wait behind him.
        home.root.batch_execute("BEGIN; LOCK TABLE a IN ACCESS SHARE MODE").await.unwrap();
        let client = home.client().await;
        let alters = tokio::spawn(async move {
            client.batch_execute("ALTER TABLE a ADD c int").await.unwrap();
        });
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'a'::regclass";
        cutover_sandbox::wait_until("it to wait", GIVEN_UP, async || {
            home.root.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await
        .unwrap();
        sizes().await;
        home.root.batch_execute("COMMIT").await.unwrap();
        alters.await.unwrap();
    }
}

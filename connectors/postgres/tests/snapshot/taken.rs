//! Somebody has a table for himself alone, for as long as he likes.

use std::time::Duration;

use cutover_core::{
    model::schema::{Table, TableName},
    port::{
        copy::{CopyFormat, Opened, Range},
        error::PortError,
        reader::{Part, RowReader},
        source::Source,
    },
};
use tokio::time::timeout;

use crate::home::{Home, servers};

/// What nobody keeps waiting.
const SOON: Duration = Duration::from_secs(10);
/// The same with the thirty seconds that we wait for a table.
const GIVEN_UP: Duration = Duration::from_secs(60);

const DDL: &str = "
    CREATE TABLE a (id int); CREATE TABLE b (id int, v text); ALTER TABLE b ALTER v SET STORAGE EXTERNAL;
    INSERT INTO a SELECT generate_series(1, 30000);
    INSERT INTO b SELECT i, repeat('x', 100000) FROM generate_series(1, 40) i";

fn whole() -> Range {
    Range { condition: String::new(), bytes: 0 }
}

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

/// A read under a snapshot says who is in its way, and is to be begun anew: its server cannot clean
/// up behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_not_waited_for_without_end() {
    let home = Home::new(&servers().await[1], DDL).await;
    let (a, b) = (home.table("a").await, home.table("b").await);
    let snapshot = home.db.snapshot().await.unwrap();
    let client = home.client().await;
    client.batch_execute("SET application_name = 'somebody'; BEGIN; LOCK TABLE b").await.unwrap();
    let range = whole();
    let part = |table| Part { table, range: &range, buckets: 1 };
    let (one, many) = ([part(&b)], [part(&a), part(&b)]);
    let tries = async {
        tokio::join!(
            async { snapshot.split(&b, 8192).await.map(drop) },
            async { snapshot.digests(&one).await.map(drop) },
            async { snapshot.digests(&many).await.map(drop) },
            async {
                match snapshot.read(&b, &range, CopyFormat::PostgresText).await? {
                    Opened::Later(why) => Err(why),
                    _ => Ok(()),
                }
            },
        )
    };
    let (split, one, many, read) = timeout(GIVEN_UP, tries).await.expect("it waits");
    for (what, given_up) in [("split", split), ("one", one), ("many", many), ("read", read)] {
        let error: PortError = given_up.expect_err(what);
        assert!(error.is_transient(), "{what}: {error:?}");
        let text = format!("{error}: {:?}", std::error::Error::source(&error));
        let all = ["no lock within 30 s on public.b;", "(somebody)"];
        assert!(all.iter().all(|word| text.contains(word)), "{what}: {text}");
    }
    // Once it is free the same view goes on.
    client.batch_execute("COMMIT").await.unwrap();
    assert!(snapshot.split(&b, 1 << 30).await.unwrap().len() == 1);
    assert_eq!(snapshot.digests(&[part(&b)]).await.unwrap()[0][0].rows, 40);
}

/// What is held while another table is waited for is soon free, whatever the server's patience with
/// deadlocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_meanwhile_is_soon_free() {
    let home = Home::new(&servers().await[1], DDL).await;
    let patient = format!("ALTER DATABASE {} SET deadlock_timeout = '20s'", home.name);
    home.root.batch_execute(&patient).await.unwrap();
    let (a, b) = (home.table("a").await, home.table("b").await);
    let snapshot = home.db.snapshot().await.unwrap();
    let client = home.client().await;
    client.batch_execute("BEGIN; LOCK TABLE b").await.unwrap();
    let reading = tokio::spawn(async move {
        let range = whole();
        let part = |table| Part { table, range: &range, buckets: 1 };
        snapshot.digests(&[part(&a), part(&b)]).await.map(drop)
    });
    let held = "SELECT count(*) FROM pg_locks WHERE granted AND relation = 'a'::regclass";
    cutover_sandbox::wait_until("us to hold the first", GIVEN_UP, async || {
        home.root.query_one(held, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await
    .unwrap();
    let other = home.client().await;
    let alters = other.batch_execute("ALTER TABLE a ADD c int");
    timeout(Duration::from_secs(5), alters).await.expect("it waits for us").unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    timeout(GIVEN_UP, reading).await.unwrap().unwrap().unwrap();
}

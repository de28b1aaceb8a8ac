//! Values that are nearly as large as PostgreSQL allows. On its own because of the memory that
//! servers need for them; run with the other tests.
#![allow(clippy::print_stderr, reason = "a seed, and what is left out, must be seen")]

#[allow(dead_code, reason = "not every test file needs all of it")]
#[path = "values/kinds.rs"]
mod kinds;
#[allow(dead_code, reason = "not every test file needs all of it")]
#[path = "values/random.rs"]
mod random;
#[allow(dead_code, reason = "not every test file needs all of it")]
#[path = "values/world.rs"]
mod world;

use cutover_core::{
    model::{event::Event, schema::Table},
    port::{copy::CopyFormat, error::PortError, reader::RowReader, sink::Sink, source::Source},
};
use cutover_sandbox::{Postgres, find_postgres};
use tokio::sync::{Mutex, OnceCell};
use world::Pair;

/// One after the other.
static ALONE: Mutex<()> = Mutex::const_new(());

static SERVER: OnceCell<Postgres> = OnceCell::const_new();

const DDL: &str = "
CREATE TABLE app.big (id int PRIMARY KEY, v text, b bytea, n int);
ALTER TABLE app.big ALTER v SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL";

async fn pair() -> Pair {
    let newest = async || world::start(&find_postgres().pop().unwrap()).await;
    let server = SERVER.get_or_init(newest).await;
    let pair = Pair::with((server, ""), (server, "")).await;
    pair.both(DDL).await;
    pair
}

/// What a side holds, without carrying it here.
async fn sums(half: &world::Half) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', id, n, octet_length(v), md5(v), octet_length(b), md5(b))
                 FROM app.big ORDER BY id";
    half.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// By our own hashes, which have to make one text of each row.
async fn assert_equal(pair: &Pair, table: &Table) {
    let rows = async |half: &world::Half| {
        let rows = half.reader.bucket_rows(table, 1, &[0]).await.unwrap();
        let mut rows: Vec<_> = rows.into_iter().map(|r| (r.key, r.hash)).collect();
        rows.sort();
        rows
    };
    assert_eq!(rows(&pair.blue).await, rows(&pair.green).await);
}

/// Most memory that this process ever held, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0) / 1024
}

const VALUES: &str = "
INSERT INTO app.big VALUES
  (1, NULL, (SELECT string_agg(sha512(i::text::bytea), NULL) FROM generate_series(1, 1638400) i), 1),
  (2, repeat('0123456789abcdef', (900 << 20) / 16), NULL, 1)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bytea_of_100_mib_and_a_text_of_900_mib() {
    let _alone = ALONE.lock().await;
    let pair = pair().await;
    pair.blue.sql(VALUES).await;
    let table = pair.blue.tables().await.remove(0);
    let held = sums(&pair.blue).await;
    let (snapshot, mut pump) = pair.follow().await;
    for format in [CopyFormat::PostgresBinary, CopyFormat::PostgresText] {
        pair.green.db.clear(&pair.run, &table).await.unwrap();
        assert_eq!(pair.copy(&*snapshot, &table, format).await.unwrap(), 2);
        assert_eq!(sums(&pair.green).await, held, "{format:?}");
        eprintln!("{format:?}: {} MiB at most so far", peak());
    }
    drop(snapshot);
    for change in [
        // The large values stay where they are.
        "UPDATE app.big SET n = 2",
        "UPDATE app.big SET id = id + 10",
        "UPDATE app.big SET v = substr(v, 1, 600 << 20) WHERE id = 12",
        "DELETE FROM app.big WHERE id = 12",
        "INSERT INTO app.big SELECT 2, repeat('fedcba9876543210', (900 << 20) / 16), NULL, 7",
        "UPDATE app.big SET b = substr(b, 2) WHERE id = 11",
    ] {
        pair.blue.sql(change).await;
        let events = pair.changes(&mut pump).await;
        let mut writer = pair.writer().await;
        writer.apply(&events).await.unwrap_or_else(|e| panic!("{change}: {e}"));
        eprintln!("{change}: {} MiB at most so far", peak());
    }
    assert_eq!(sums(&pair.blue).await, sums(&pair.green).await);
    assert_equal(&pair, &table).await;
    assert!(peak() < 6 << 10, "{} MiB", peak());
    Source::release(&pair.blue.db, &pair.run).await.unwrap();
}

fn is_named(error: &PortError, what: &str) {
    assert_eq!(error.code(), Some("CUT0019"), "{what}: {error}");
    assert!(error.remedy().unwrap().contains("octet_length"), "{what}: {error:?}");
}

/// As text a bytea is twice as long, and no message can be larger than a gigabyte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_travel_is_a_named_stop() {
    let _alone = ALONE.lock().await;
    let pair = pair().await;
    let (snapshot, mut pump) = pair.follow().await;
    drop(snapshot);
    let half = "decode(repeat('00', 258 << 20), 'hex')";
    pair.blue.sql(&format!("INSERT INTO app.big VALUES (1, NULL, {half} || {half}, 1)")).await;
    let error = loop {
        let mut events: Vec<Event> = Vec::new();
        if let Err(e) = pump.stream.next(&mut events).await {
            break e;
        }
        assert!(!events.iter().any(|e| matches!(e, Event::Row { .. })), "a row came through");
    };
    is_named(&error, "the stream");
    let table = pair.blue.tables().await.remove(0);
    let snapshot = pair.blue.db.snapshot().await.unwrap();
    let error = pair.copy(&*snapshot, &table, CopyFormat::PostgresText).await.unwrap_err();
    is_named(&error, "the copy");
    drop(pump);
    Source::release(&pair.blue.db, &pair.run).await.unwrap();
}

//! More tables than the server's lock table has room for: nothing of ours locks many at a time.

use std::time::Duration;

use cutover_core::{
    model::{run::RunId, schema::Table, selection::Selection, side::Side},
    port::{
        copy::{CopyFormat, Range, Snapshot},
        primary::{Fence, Primary},
        reader::{Part, RowReader},
        source::Source,
    },
};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{PgOptions, Postgres, find_postgres};
use tokio_postgres::{Client, error::SqlState};

const TABLES: usize = 1500;
/// Locks that our sessions may hold together, each table's index included.
const LOCKS: i64 = 300;

const MAKE: &str = "
CREATE PROCEDURE make() LANGUAGE plpgsql AS $$ BEGIN
  FOR i IN 1..1500 LOOP
    EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY)', i);
    EXECUTE format('INSERT INTO t%s VALUES (%s)', i, i);
    IF i % 50 = 0 THEN COMMIT; END IF;
  END LOOP;
END $$";

async fn server() -> Postgres {
    let newest = find_postgres().into_iter().max_by_key(|i| i.major).unwrap();
    let options = PgOptions::new()
        .set("max_locks_per_transaction", "10")
        .set("max_connections", "20")
        .set("max_prepared_transactions", "0")
        .set("max_worker_processes", "2")
        .set("max_wal_senders", "5")
        .set("max_replication_slots", "5")
        .set("autovacuum", "off");
    let server = Postgres::start(&newest, options).await.unwrap();
    server.create_database("many").await.unwrap();
    server
}

/// Locks on relations that sessions of the run hold now.
async fn locks(root: &Client) -> i64 {
    let count = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                 WHERE l.locktype = 'relation' AND a.application_name LIKE 'cutover %'";
    root.query_one(count, &[]).await.unwrap().get(0)
}

/// Rows of the catalog of constraints that were read in this database so far, by sessions that have
/// ended.
async fn constraints_read(root: &Client) -> i64 {
    let end = "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity \
               WHERE application_name LIKE 'cutover %'";
    root.query_one(end, &[]).await.unwrap();
    let read = "SELECT (SELECT seq_tup_read FROM pg_stat_sys_tables WHERE relid = 'pg_constraint'::regclass) \
                     + (SELECT sum(idx_tup_read)::int8 FROM pg_stat_sys_indexes \
                         WHERE relid = 'pg_constraint'::regclass)";
    root.query_one(read, &[]).await.unwrap().get(0)
}

/// Reads all rows of all tables, in digests and in copies.
async fn read_all(snapshot: &dyn Snapshot, tables: &[Table], root: &Client) {
    let all: Vec<&Table> = tables.iter().collect();
    let ranges = snapshot.split_all(&all, 1 << 20).await.unwrap();
    assert!(ranges.iter().all(|ranges| ranges.len() == 1));
    let parts: Vec<Part<'_>> = tables
        .iter()
        .zip(&ranges)
        .map(|(table, ranges): (_, &Vec<Range>)| Part { table, range: &ranges[0], buckets: 1 })
        .collect();
    let digests = snapshot.digests(&parts).await.unwrap();
    assert!(digests.iter().all(|of_one| of_one[0].rows == 1));
    assert!(locks(root).await <= LOCKS);
    for (table, ranges) in tables.iter().zip(&ranges).take(300) {
        let format = CopyFormat::PostgresText;
        let mut rows = snapshot.read(table, &ranges[0], format).await.unwrap().rows().unwrap();
        while rows.next().await.unwrap().is_some() {}
    }
    assert!(locks(root).await <= LOCKS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_tables_than_locks() {
    let server = server().await;
    let root = server.connect("many").await.unwrap();
    root.batch_execute(MAKE).await.unwrap();
    root.batch_execute("CALL make()").await.unwrap();
    // There is no room for all of them.
    let lock = "DO $$ BEGIN FOR i IN 1..1500 LOOP \
                EXECUTE format('SELECT FROM t%s', i); END LOOP; END $$";
    let error = root.batch_execute(lock).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::OUT_OF_MEMORY), "{error:?}");

    let run = RunId::new("many").unwrap();
    let config = PgConfig::parse(&server.url("many"), None).unwrap();
    let spill = std::env::temp_dir().join("cutover-no-spill");
    let process = || Database::new(config.clone(), Side::Blue, run.clone(), &spill);
    let db = process();
    let tables = Source::tables(&db, &Selection::default()).await.unwrap();
    assert_eq!(tables.len(), TABLES);

    // How keys are compared takes no pass over all constraints for each of them.
    let before = constraints_read(&root).await;
    let all: Vec<&Table> = tables.iter().collect();
    process().reader().get_ready(&all).await.unwrap();
    let read = constraints_read(&root).await - before;
    assert!(read < 20 * TABLES as i64, "{read} for {TABLES} tables");

    let db = process();
    let capture = db.capture(&run, &tables, true).await.unwrap();
    let published = "SELECT count(*) FROM pg_publication_tables";
    let count: i64 = root.query_one(published, &[]).await.unwrap().get(0);
    assert_eq!(usize::try_from(count), Ok(TABLES));
    read_all(&*capture.snapshot.unwrap(), &tables, &root).await;
    read_all(&*Source::snapshot(&db).await.unwrap(), &tables, &root).await;

    db.install_fence(&run, &tables).await.unwrap();
    db.close_to_clients(&run, Duration::from_secs(60)).await.unwrap();
    assert_eq!(db.fence(&run).await.unwrap(), Fence::Closed);
    for table in ["t1", "t750", "t1500"] {
        let refused = root.batch_execute(&format!("DELETE FROM {table}")).await.unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
    }
    db.open_to_clients(&run).await.unwrap();
    root.batch_execute("DELETE FROM t750").await.unwrap();

    Source::release(&db, &run).await.unwrap();
    db.remove_fence(&run).await.unwrap();
    let left = "SELECT (SELECT count(*) FROM pg_publication) \
                     + (SELECT count(*) FROM pg_replication_slots) \
                     + (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal)";
    let left: i64 = root.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}

//! What is read under one snapshot.

use std::time::Duration;

use cutover_core::{
    model::schema::{Table, TableName},
    port::{
        copy::{Coming, CopyChunk, CopyFormat, Opened, Range, Snapshot},
        error::PortError,
        reader::{Part, RowReader},
        source::Source,
    },
};
use futures_util::{SinkExt, future::try_join_all};
use tokio::time::timeout;

use crate::home::{Home, servers};

/// How long anything may take that should take a moment.
const PATIENCE: Duration = Duration::from_secs(120);

/// The same for what nobody keeps waiting.
const SOON: Duration = Duration::from_secs(10);

const DDL: &str = "
CREATE TABLE t (id int PRIMARY KEY, \"A b\" text, n numeric, g int GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE big (id int PRIMARY KEY, v text); ALTER TABLE big ALTER v SET STORAGE EXTERNAL;
CREATE TABLE nothing (); CREATE TABLE heir (w int) INHERITS (t);
INSERT INTO t SELECT i, 'v' || i, i / 7.0 FROM generate_series(1, 20000) i;
INSERT INTO big SELECT i, repeat('x', 100000) FROM generate_series(1, 40) i;
INSERT INTO nothing DEFAULT VALUES; INSERT INTO heir VALUES (-1, 'h', 0)";

/// Reads ranges beside each other and returns their bytes.
async fn read(
    snapshot: &dyn Snapshot,
    table: &Table,
    ranges: &[Range],
    format: CopyFormat,
) -> Vec<Vec<u8>> {
    let all = ranges.iter().map(async |range| {
        let mut stream = snapshot.read(table, range, format).await?.rows()?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await? {
            let CopyChunk::Raw(chunk) = chunk else { panic!("raw was asked for") };
            assert!(!chunk.is_empty());
            bytes.extend_from_slice(&chunk);
        }
        Ok::<_, cutover_core::port::PortError>(bytes)
    });
    try_join_all(all).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_hold_every_row_once_whatever_happens_meanwhile() {
    for server in servers().await {
        let home = Home::new(server, DDL).await;
        let table = home.table("t").await;
        let snapshot = home.db.snapshot().await.unwrap();
        assert_eq!(snapshot.visible().split(':').count(), 3, "{}", snapshot.visible());
        home.root
            .batch_execute(
                "UPDATE t SET n = -1; DELETE FROM t WHERE id % 3 = 0; \
                 INSERT INTO t SELECT i, 'late' FROM generate_series(100001, 150000) i",
            )
            .await
            .unwrap();
        let ranges = snapshot.split(&table, 100_000).await.unwrap();
        assert!(ranges.len() > 5, "{}", ranges.len());
        home.root.batch_execute("CREATE TABLE again (LIKE t)").await.unwrap();
        for (format, name) in
            [(CopyFormat::PostgresText, "text"), (CopyFormat::PostgresBinary, "binary")]
        {
            for bytes in read(&*snapshot, &table, &ranges, format).await {
                let into = format!("COPY again (id, \"A b\", n) FROM STDIN (FORMAT {name})");
                let sink = home.root.copy_in::<_, bytes::Bytes>(&into).await.unwrap();
                let mut sink = std::pin::pin!(sink);
                sink.send(bytes.into()).await.unwrap();
                sink.finish().await.unwrap();
            }
            let row = home
                .root
                .query_one(
                    "SELECT count(*), count(DISTINCT id), \
                            count(*) FILTER (WHERE n = round(id / 7.0, 20) OR n = id / 7.0) \
                     FROM again",
                    &[],
                )
                .await
                .unwrap();
            let counts: (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
            assert_eq!(counts, (20_000, 20_000, 20_000));
            home.root.batch_execute("TRUNCATE again").await.unwrap();
        }
    }
}

/// Somebody waits to write a table anew that is read in many ranges. Nobody keeps him waiting for
/// all of them, and no row is missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_do_not_move_between_two_ranges() {
    for server in servers().await {
        let home = Home::new(server, DDL).await;
        let t = home.table("t").await;
        // Room at the beginning that the rows behind would move into.
        home.root.batch_execute("DELETE FROM t WHERE id <= 9000").await.unwrap();
        let snapshot = home.db.snapshot().await.unwrap();
        let ranges = snapshot.split(&t, 8192).await.unwrap();
        assert!(ranges.len() > 100, "{}", ranges.len());
        let reading = snapshot.read(&t, &ranges[0], CopyFormat::PostgresText).await.unwrap();
        let client = home.client().await;
        let repack =
            tokio::spawn(async move { client.batch_execute("VACUUM FULL t").await.unwrap() });
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 't'::regclass";
        cutover_sandbox::wait_until("it to wait", PATIENCE, async || {
            home.root.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await
        .unwrap();
        let mut reading = reading.rows().unwrap();
        while reading.next().await.unwrap().is_some() {}
        let error = async {
            for range in &ranges[1..] {
                let mut stream =
                    snapshot.read(&t, range, CopyFormat::PostgresText).await?.rows()?;
                while stream.next().await?.is_some() {}
            }
            Ok::<_, PortError>(())
        };
        let error = error.await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        repack.await.unwrap();
        let snapshot = home.db.snapshot().await.unwrap();
        assert_eq!(count(&*snapshot, &t, 8192).await.unwrap(), [11_000; 2]);
    }
}

/// Somebody waits to empty a table that has been read, while the same worker goes on with a large one
/// for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_read_is_soon_free() {
    let home = Home::new(&servers().await[0], DDL).await;
    let (t, big) = (home.table("t").await, home.table("big").await);
    let snapshot = home.db.snapshot().await.unwrap();
    let ranges = snapshot.split(&t, 8192).await.unwrap();
    let whole = Range { condition: String::new(), bytes: 0 };
    read(&*snapshot, &big, &[whole], CopyFormat::PostgresText).await;
    let client = home.client().await;
    let emptied = tokio::spawn(async move { client.batch_execute("TRUNCATE big").await.unwrap() });
    // Fewer ranges than a session reads in one transaction, at the pace of a copy with a rate.
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    for range in &ranges[..60] {
        if emptied.is_finished() {
            break;
        }
        pace.tick().await;
        read(&*snapshot, &t, std::slice::from_ref(range), CopyFormat::PostgresText).await;
    }
    assert!(emptied.is_finished(), "it waits for a reader of another table");
    emptied.await.unwrap();
}

/// Sessions that have read a table rest, whether or not they are ever used again: somebody who wants
/// to empty it waits for none of them, and we do not wait behind him.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_session_that_rests() {
    let home = Home::new(&servers().await[0], DDL).await;
    let t = home.table("t").await;
    let whole = Range { condition: String::new(), bytes: 0 };
    for again in [false, true] {
        let snapshot = home.db.snapshot().await.unwrap();
        let digest = async || snapshot.bucket_digests(&t, &whole, 1).await.unwrap().remove(0);
        tokio::join!(digest(), digest(), digest());
        read(&*snapshot, &t, &[Range::clone(&whole), whole.clone()], CopyFormat::PostgresText)
            .await;
        let client = home.client().await;
        let emptied =
            tokio::spawn(async move { client.batch_execute("TRUNCATE t").await.unwrap() });
        if again {
            let rows = snapshot.bucket_rows(&t, 1, &[0]);
            timeout(SOON, rows).await.expect("we wait for somebody who waits for us").unwrap();
        }
        timeout(SOON, emptied).await.expect("it waits for a session that rests").unwrap();
    }
}

/// A client has one of the tables that are read together and goes on to another: it must not be the
/// one that loses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_do_not_lose_a_deadlock_to_a_snapshot() {
    let home =
        Home::new(&servers().await[1], "CREATE TABLE a (id int); CREATE TABLE b (id int)").await;
    let (a, b) = (home.table("a").await, home.table("b").await);
    let snapshot = home.db.snapshot().await.unwrap();
    let client = home.client().await;
    client.batch_execute("BEGIN; LOCK TABLE b").await.unwrap();
    let reading = tokio::spawn(async move {
        let whole = Range { condition: String::new(), bytes: 0 };
        let part = |table| Part { table, range: &whole, buckets: 1 };
        snapshot.digests(&[part(&a), part(&b)]).await.map(|digests| digests.len())
    });
    // Whoever waits for longer than this does not look for a deadlock any more.
    let waits = "SELECT clock_timestamp() - query_start > '1.2s' FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event_type = 'Lock'
                    AND pid IN (SELECT pid FROM pg_locks WHERE relation = 'a'::regclass AND granted)";
    let begun = std::time::Instant::now();
    cutover_sandbox::wait_until("us to wait for b", PATIENCE, async || {
        let row = home.root.query_opt(waits, &[]).await.unwrap();
        row.is_some_and(|row| row.get(0) || begun.elapsed() > Duration::from_secs(2))
    })
    .await
    .unwrap();
    client.batch_execute("ALTER TABLE a ADD more int; COMMIT").await.unwrap();
    assert_eq!(timeout(PATIENCE, reading).await.unwrap().unwrap().unwrap(), 2);
}

/// Rows of a table, counted in a copy and in digests, range by range.
async fn count(snapshot: &dyn Snapshot, table: &Table, bytes: u64) -> Result<[u64; 2], PortError> {
    let ranges = snapshot.split(table, bytes).await?;
    assert_eq!(ranges.len() > 1, bytes < 1 << 30);
    let mut rows = [0, 0];
    for range in &ranges {
        let mut stream = snapshot.read(table, range, CopyFormat::PostgresText).await?.rows()?;
        while let Some(CopyChunk::Raw(bytes)) = stream.next().await? {
            rows[0] += bytes.iter().filter(|b| **b == b'\n').count() as u64;
        }
    }
    let parts: Vec<Part<'_>> =
        ranges.iter().map(|range| Part { table, range, buckets: 1 }).collect();
    for digests in snapshot.digests(&parts).await? {
        rows[1] += digests[0].rows;
    }
    Ok(rows)
}

const SMALL: &str = "
CREATE TABLE t (id int PRIMARY KEY, n numeric, v text);
INSERT INTO t SELECT i, i, 'v' FROM generate_series(1, 1000) i";

/// What wrote a table anew decides about what an older snapshot can see of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_written_anew_is_not_taken_for_what_it_was() {
    const ALL: Option<u64> = Some(1000);
    for server in servers().await {
        for (statement, parts, whole) in [
            ("ALTER TABLE t ADD c int DEFAULT 7", ALL, ALL),
            ("VACUUM FULL t", None, ALL),
            ("CLUSTER t USING t_pkey", None, ALL),
            // It was emptied; the stream says so as well.
            (
                "TRUNCATE ONLY t; INSERT INTO t SELECT i FROM generate_series(1, 900) i",
                Some(0),
                Some(0),
            ),
            ("ALTER TABLE t ALTER n TYPE text", None, None),
            ("ALTER TABLE t ALTER n TYPE numeric USING n * 2", None, None),
            ("ALTER TABLE t ADD c uuid DEFAULT gen_random_uuid()", None, None),
        ] {
            let home = Home::new(server, SMALL).await;
            let table = home.table("t").await;
            let snapshot = home.db.snapshot().await.unwrap();
            home.root.batch_execute(statement).await.unwrap();
            let part = snapshot.split(&table, 8192).await.unwrap().remove(0);
            let opened = snapshot.read(&table, &part, CopyFormat::PostgresText).await.unwrap();
            let emptied = matches!(opened, Opened::Emptied(_));
            assert_eq!(emptied, statement.starts_with("TRUNCATE"), "{statement}");
            assert_eq!(matches!(opened, Opened::Later(_)), parts.is_none(), "{statement}");
            drop(opened);
            for (bytes, wanted) in [(8192, parts), (1 << 40, whole)] {
                match (count(&*snapshot, &table, bytes).await, wanted) {
                    (Ok(rows), Some(wanted)) => assert_eq!(rows, [wanted; 2], "{statement}"),
                    (Err(e), None) => assert!(e.is_transient(), "{statement}: {e:?}"),
                    (other, _) => panic!("{statement}, {bytes}: {other:?}"),
                }
            }
            // As of now there is nothing that could not be read.
            drop(snapshot);
            let snapshot = home.db.snapshot().await.unwrap();
            count(&*snapshot, &home.table("t").await, 8192).await.unwrap();
            drop(snapshot);
            // Once it is gone, nothing knows it; whoever holds it lets go.
            let snapshot = home.db.snapshot().await.unwrap();
            home.root.batch_execute("DROP TABLE t").await.unwrap();
            let opened = snapshot.read(&table, &part, CopyFormat::PostgresText).await.unwrap();
            assert!(matches!(opened, Opened::Later(_)), "{statement}, then dropped");
        }
    }
}

/// A table is gone with the name of its schema as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_is_gone_is_no_reason_to_stop() {
    let home = Home::new(&servers().await[0], "CREATE SCHEMA s; CREATE TABLE s.t (id int)").await;
    let table = home.table("t").await;
    let snapshot = home.db.snapshot().await.unwrap();
    home.root.batch_execute("ALTER SCHEMA s RENAME TO other").await.unwrap();
    let whole = Range { condition: String::new(), bytes: 0 };
    let opened = snapshot.read(&table, &whole, CopyFormat::PostgresText).await.unwrap();
    assert!(matches!(opened, Opened::Later(_)));
    let error = snapshot.bucket_digests(&table, &whole, 1).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_all_shapes() {
    for server in servers().await {
        let home = Home::new(server, DDL).await;
        let snapshot = home.db.snapshot().await.unwrap();
        // Large values outside of the heap count, or one range would hold them all.
        let big = home.table("big").await;
        let ranges = snapshot.split(&big, 1 << 20).await.unwrap();
        assert_eq!(ranges.len(), 1, "40 rows fit on one page");
        let bytes = read(&*snapshot, &big, &ranges, CopyFormat::PostgresText).await;
        assert_eq!(bytes[0].len(), 40 * 100_002 + 31 + 40);
        let nothing = home.table("nothing").await;
        let ranges = snapshot.split(&nothing, 1 << 20).await.unwrap();
        assert_eq!(read(&*snapshot, &nothing, &ranges, CopyFormat::PostgresText).await, [b"\n"]);
        // Rows of heirs are theirs.
        let t = home.table("t").await;
        let whole = Range { condition: String::new(), bytes: 0 };
        let text = read(&*snapshot, &t, &[whole], CopyFormat::PostgresText).await.remove(0);
        assert_eq!(String::from_utf8(text).unwrap().lines().count(), 20_000);
        let whole = Range { condition: String::new(), bytes: 0 };
        let rows = snapshot.read(&t, &whole, CopyFormat::Rows);
        assert_eq!(rows.await.err().unwrap().code(), Some("CUT0307"));
    }
}

/// A reader that stops half way leaves nothing behind for the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_stream_harms_nobody() {
    for server in servers().await {
        let home = Home::new(server, DDL).await;
        let snapshot = home.db.snapshot().await.unwrap();
        let t = home.table("t").await;
        let whole = Range { condition: String::new(), bytes: 0 };
        for _ in 0..3 {
            let mut stream = snapshot
                .read(&t, &whole, CopyFormat::PostgresBinary)
                .await
                .unwrap()
                .rows()
                .unwrap();
            stream.next().await.unwrap().unwrap();
        }
        let bad = Range { condition: "1/(id-5) = 0".into(), bytes: 0 };
        let mut stream =
            snapshot.read(&t, &bad, CopyFormat::PostgresBinary).await.unwrap().rows().unwrap();
        let failed = async {
            loop {
                if let Err(e) = stream.next().await {
                    break e;
                }
            }
        };
        assert!(failed.await.to_string().contains("CUT0016"));
        let text = read(&*snapshot, &t, &[whole], CopyFormat::PostgresText).await.remove(0);
        assert_eq!(String::from_utf8(text).unwrap().lines().count(), 20_000);
    }
}

/// A new snapshot helps, so the copy may begin again with one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_whose_server_was_restarted_is_no_reason_to_stop() {
    for server in servers().await {
        let home = Home::new(server, DDL).await;
        let table = home.table("t").await;
        let snapshot = home.db.snapshot().await.unwrap();
        let ranges = snapshot.split(&table, 100_000).await.unwrap();
        // As a restart does: no session is left, and what they exported is gone.
        let end = "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        home.root.query_one(end, &[]).await.unwrap();
        for _ in 0..3 {
            let read = snapshot.read(&table, &ranges[0], CopyFormat::PostgresText).await;
            let error = read.map(drop).unwrap_err();
            assert!(error.is_transient(), "PostgreSQL {}: {error}", server.major());
        }
    }
}

/// What came since the snapshot, and nothing of before, without a look at the rest of the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_table_holds_what_comes_and_is_found_at_once() {
    let ddl = "CREATE TABLE log (a int, b text);
        INSERT INTO log SELECT i, repeat('x', 200) FROM generate_series(1, 90000) i";
    for server in servers().await {
        let home = Home::new(server, ddl).await;
        let table = home.table("log").await;
        let gone = Table { name: TableName::new("public", "gone"), ..table.clone() };
        let snapshot = home.db.snapshot().await.unwrap();
        let coming = snapshot.coming(&[&gone, &table]).await.unwrap();
        let [None, Some(Coming { end, anywhere })] = &coming[..] else { panic!("{coming:?}") };

        let digest = async |reader: &dyn RowReader| {
            reader.bucket_digests(&table, end, 1).await.unwrap().remove(0)
        };
        let live = home.db.reader();
        let before = digest(&*snapshot).await;
        assert!(before.rows < 90_000, "the rest of the table is not read");
        home.root.batch_execute("INSERT INTO log VALUES (1, 'new'), (2, 'new')").await.unwrap();
        assert_eq!(digest(&*snapshot).await, before);
        let after = digest(&live).await;
        assert_eq!(after.rows, before.rows + 2);
        home.root.batch_execute("VACUUM (FREEZE) log").await.unwrap();
        assert_eq!(digest(&live).await, after, "freezing changes nothing");
        let all = async |reader: &dyn RowReader| {
            reader.bucket_digests(&table, anywhere, 1).await.unwrap()[0].rows
        };
        assert_eq!(all(&live).await, all(&*snapshot).await + 2);

        let plan = format!("EXPLAIN SELECT count(*) FROM ONLY log WHERE {}", end.condition);
        home.root.batch_execute("SET enable_seqscan = off").await.unwrap();
        let plan: Vec<String> =
            home.root.query(&plan, &[]).await.unwrap().iter().map(|r| r.get(0)).collect();
        assert!(plan.iter().any(|line| line.contains("Tid Range Scan")), "{plan:?}");
    }
}

/// Numbers are those of the stream, without their epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_says_which_transactions_it_sees() {
    for server in servers().await {
        let home = Home::new(server, DDL).await;
        let reader = home.db.reader();
        let client = home.client().await;
        let own = async || {
            let number = "SELECT mod(pg_current_xact_id()::text::numeric, 4294967296)::int8";
            let number: i64 = client.query_one(number, &[]).await.unwrap().get(0);
            u32::try_from(number).unwrap()
        };
        // The server has other transactions too: of no other number is known what became of it.
        let ended = own().await;
        client.batch_execute("BEGIN").await.unwrap();
        let number = own().await;
        let asked = [number + 1_000_000, number, ended, 3];
        let sees = reader.sees(&asked).await.unwrap();
        assert_eq!(sees[..2], [false, false]);
        assert_eq!(sees[2..], [true, true]);
        client.batch_execute("COMMIT").await.unwrap();
        assert_eq!(reader.sees(&asked).await.unwrap(), [false, true, true, true]);
        assert_eq!(reader.sees(&[]).await.unwrap(), [] as [bool; 0]);
    }
}

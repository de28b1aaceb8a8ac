//! Prepared transactions, which outlive sessions, servers and us.

use std::time::Duration;

use cutover_core::{
    model::{run::RunId, side::Side},
    port::source::Source,
};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{PgOptions, Postgres, find_postgres, wait_until};

use crate::world::{Tap, show};

const WITHIN: Duration = Duration::from_secs(120);

/// Large enough to be sent in pieces while they run, in subtransactions of which some are undone;
/// the server and the reader die between PREPARE and COMMIT PREPARED.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_one_arrives_once_through_kills_of_both() {
    for install in find_postgres() {
        let options = PgOptions::new().set("logical_decoding_work_mem", "64kB");
        let mut server = Postgres::start(&install, options).await.unwrap();
        server.execute("postgres", "create table t (id int primary key, v text)").await.unwrap();
        let run = RunId::new("twophase").unwrap();
        let spill = tempfile::tempdir().unwrap();
        let config = PgConfig::parse(&server.url("postgres"), None).unwrap();
        let reader = || Database::new(config.clone(), Side::Blue, run.clone(), spill.path());
        let db = reader();
        let tables = db.tables(&Default::default()).await.unwrap();
        let start = db.capture(&run, &tables, false).await.unwrap().start;
        let tap = Tap { stream: db.stream(&run, Some(&start)).await.unwrap() };
        let many = |from: i32| {
            format!(
                "insert into t select i, repeat('v', 100) from generate_series({from}, {}) i;",
                from + 999
            )
        };
        for (name, from) in [("kept", 0), ("undone", 50_000)] {
            let sql = format!(
                "begin; {} savepoint a; {} rollback to a; savepoint b; {} release b; \
                 prepare transaction '{name}'",
                many(from),
                many(from + 10_000),
                many(from + 20_000)
            );
            server.execute("postgres", &sql).await.unwrap();
        }
        server.kill9().await.unwrap();
        drop((tap, db));
        server.start_again().await.unwrap();

        let db = reader();
        let mut tap = Tap { stream: db.stream(&run, Some(&start)).await.unwrap() };
        for sql in [
            "insert into t values (-1, 'between')",
            "commit prepared 'kept'",
            "rollback prepared 'undone'",
            "select pg_logical_emit_message(true, 'test', 'end')",
        ] {
            server.execute("postgres", sql).await.unwrap();
        }
        let lines = show(&tap.until("end").await);
        let rows = |from: i32| (from..from + 1000).map(|i| format!("+ public.t {i},100 bytes"));
        let mut want: Vec<String> =
            ["begin", "+ public.t -1,between", "commit", "begin"].map(str::to_owned).to_vec();
        want.extend(rows(0).chain(rows(20_000)));
        want.extend(["commit", "begin", "message test: end", "commit"].map(str::to_owned));
        assert!(lines == want, "{} and {} lines: {}", lines.len(), want.len(), install.version);
        let streamed = "select (stream_txns > 0)::text from pg_stat_replication_slots";
        // The server counts late.
        wait_until("the transaction to be counted as streamed", WITHIN, async || {
            server.query_text("postgres", streamed).await.unwrap().as_deref() == Some("true")
        })
        .await
        .unwrap();
        drop(tap);
        db.release(&run).await.unwrap();
    }
}

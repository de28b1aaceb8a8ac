//! A stream that stops and goes on after the remedy: what it had passed does not come again.

use async_trait::async_trait;
use cutover::stream::{HoldPoint, Mode, handover::Handover};
use cutover_core::{
    model::{
        position::Position,
        schema::TableName,
        selection::Selection,
        side::Side::{Blue, Green},
    },
    port::{
        PortError, Result,
        copy::{CopyChunk, CopyFormat, CopyStream},
        source::Source as _,
    },
};

use crate::world::{World, run};

/// How a stream stops, what a client does for that, and what an operator does on the other side.
const STOPS: [(&str, &str, &str); 5] = [
    (
        "CUT0515",
        "ALTER TABLE t ADD told int; UPDATE t SET told = 1 WHERE id = -1",
        "ALTER TABLE t ADD told int",
    ),
    (
        "CUT0509",
        "ALTER TABLE t ADD untold int; UPDATE t SET untold = 2 WHERE id = -2",
        "ALTER TABLE t ADD untold int",
    ),
    (
        "CUT0509",
        "ALTER TABLE t ADD again int; UPDATE t SET again = 3 WHERE id = -3",
        "ALTER TABLE t ADD again int",
    ),
    (
        "CUT0404",
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1); INSERT INTO parts VALUES (1)",
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)",
    ),
    (
        "CUT0404",
        "CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2); INSERT INTO parts VALUES (2)",
        "CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2)",
    ),
];

const UNTOLD: &str = "DO $$ DECLARE n text; BEGIN
    FOR n IN SELECT evtname FROM pg_event_trigger LOOP
      EXECUTE format('ALTER EVENT TRIGGER %I DISABLE', n); END LOOP; END $$";

const MORE: &str = "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY LIST (id);
    CREATE TABLE parts_0 PARTITION OF parts FOR VALUES IN (0);
    CREATE TABLE copied_0 (id int PRIMARY KEY);
    CREATE TABLE copied_1 (id int PRIMARY KEY);
    CREATE TABLE copied_2 (id int PRIMARY KEY);
    CREATE TABLE copied_3 (id int PRIMARY KEY);
    CREATE TABLE copied_4 (id int PRIMARY KEY)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_passed_before_a_stop_does_not_come_again() {
    let w = World::with("stops", MORE).await;
    for (i, (code, client, operator)) in STOPS.into_iter().enumerate() {
        let copied = format!("copied_{i}");
        let Position::Postgres { timeline, lsn } = w.head(Blue).await;
        let later = Position::Postgres { timeline, lsn: lsn + (1 << 30) };
        let name = TableName::new("public", &copied);
        let handover = Handover::default().without([name], later);
        let pipe = w.pipe_after(Blue, Mode::Apply, handover).await;
        run(&w.blue, &["UPDATE t SET v = 'announced' WHERE id = -9"]).await;
        w.arrives(&pipe).await;
        // The other side has this row by a copy: it is passed.
        let passed = format!("INSERT INTO {copied} VALUES (1)");
        run(&w.green, &[&passed]).await;
        if i % 2 == 0 {
            run(&w.blue, &[&passed]).await;
            w.arrives(&pipe).await;
            run(&w.blue, &[client]).await;
        } else {
            // In one batch with what stops, as far as that can be had.
            pipe.hold_at(HoldPoint::Now).unwrap().await.unwrap().unwrap();
            run(&w.blue, &[&passed, client]).await;
            pipe.release().await.unwrap();
        }
        w.stops(&pipe, code).await;
        assert_eq!(w.number(Green, "SELECT count(*) FROM t WHERE v = 'announced'").await, 1);
        drop(pipe);
        // The remedy; and the table is not wanted any more.
        for side in [Blue, Green] {
            run(w.on(side), &[&format!("DROP TABLE {copied}")]).await;
        }
        run(&w.green, &[operator]).await;
        w.resume(Blue).await;
        let pipe = w.pipe(Blue, Mode::Apply).await;
        w.arrives(&pipe).await;
        w.equal().await;
        drop(pipe);
        // From now on nobody watches statements.
        run(&w.blue, &[UNTOLD]).await;
    }
    assert_eq!(w.number(Green, "SELECT sum(id) FROM parts").await, 3);
    w.close(Vec::new()).await;
}

/// Rows that break off, as those of a server do that goes away.
struct BreaksOff;

#[async_trait]
impl CopyStream for BreaksOff {
    async fn next(&mut self) -> Result<Option<CopyChunk>> {
        Err(PortError::transient("reading rows", "the server is gone"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_that_failed_is_no_reason_to_stop() {
    let w = World::new("failed-repair").await;
    let pipe = w.pipe(Blue, Mode::Apply).await;
    run(&w.blue, &["UPDATE t SET v = 'before' WHERE id = -1"]).await;
    w.arrives(&pipe).await;
    pipe.hold_at(HoldPoint::Now).unwrap().await.unwrap().unwrap();
    let tables = w.database(Green).tables(&Selection::default()).await.unwrap();
    let t = tables.iter().find(|table| table.name.name == "t").unwrap();
    let failed = pipe.replace(t, None, CopyFormat::PostgresText, Box::new(BreaksOff)).await;
    assert!(failed.unwrap_err().is_transient());
    pipe.release().await.unwrap();
    run(&w.blue, &["UPDATE t SET v = 'behind' WHERE id = -2"]).await;
    w.arrives(&pipe).await;
    w.equal().await;
    w.close(vec![pipe]).await;
}

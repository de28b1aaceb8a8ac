//! Transactions that arrive in pieces while they run.

use cutover_core::model::event::{Change, Event};

use crate::world::{World, show};

/// Pieces begin at 64 kB, the least the server allows.
async fn small_memory(w: &World) {
    w.sql(&format!("alter database {} set logical_decoding_work_mem = '64kB'", w.name)).await;
}

/// Waits until the server counts that many transactions which it sent in pieces for the slot:
/// up to 14 a collector is told of them, which may be late.
async fn streamed(w: &World, count: u64) {
    let name = w.run.object_name();
    let counted =
        format!("select stream_txns from pg_stat_replication_slots where slot_name = '{name}'");
    cutover_sandbox::wait_until("transactions in pieces", crate::world::PATIENCE, async || {
        w.text(&counted).await.parse::<u64>().unwrap_or(0) >= count
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_committed_arrives_and_in_commit_order() {
    for w in World::everywhere("pieces").await {
        small_memory(&w).await;
        w.sql("create table t (id int primary key, v text)").await;
        let mut tap = w.tap().await;
        let (a, b, c) = (w.client().await, w.client().await, w.client().await);
        let many = |from: i32| {
            format!(
                "insert into t select i, repeat('v', 100) from generate_series({from}, {}) i",
                from + 1_999
            )
        };
        // a: kept, undone, kept again, and an undone change of the table itself.
        a.batch_execute("begin").await.unwrap();
        a.batch_execute(&many(0)).await.unwrap();
        a.batch_execute("savepoint s").await.unwrap();
        a.batch_execute(&many(10_000)).await.unwrap();
        a.batch_execute("savepoint inner_one").await.unwrap();
        a.batch_execute(&many(20_000)).await.unwrap();
        a.batch_execute("release inner_one").await.unwrap();
        // b: in between, wholly undone. c: begins last and commits first.
        b.batch_execute("begin").await.unwrap();
        b.batch_execute(&many(50_000)).await.unwrap();
        c.batch_execute("begin").await.unwrap();
        c.batch_execute(&many(60_000)).await.unwrap();
        a.batch_execute("rollback to s").await.unwrap();
        a.batch_execute("savepoint kept").await.unwrap();
        a.batch_execute(&many(30_000)).await.unwrap();
        a.batch_execute("release kept").await.unwrap();
        c.batch_execute("commit").await.unwrap();
        b.batch_execute("rollback").await.unwrap();
        a.batch_execute("update t set v = 'last' where id = 0").await.unwrap();
        a.batch_execute("commit").await.unwrap();
        w.sql("insert into t values (-1, 'after')").await;

        let events = w.drain(&mut tap).await;
        let lines = show(&events);
        let mut want = vec!["begin".to_owned()];
        let rows = |from: i32| (from..from + 2_000).map(|i| format!("+ public.t {i},100 bytes"));
        want.extend(rows(60_000));
        want.extend(["commit".to_owned(), "begin".to_owned()]);
        want.extend(rows(0).chain(rows(30_000)));
        want.extend(
            ["~ public.t 0,last", "commit", "begin", "+ public.t -1,after", "commit"]
                .map(str::to_owned),
        );
        assert_eq!(lines.len(), want.len(), "PostgreSQL {}", w.server.major());
        for (i, (got, want)) in lines.iter().zip(&want).enumerate() {
            assert_eq!(got, want, "line {i} on PostgreSQL {}", w.server.major());
        }
        let positions: Vec<_> = events
            .iter()
            .filter_map(|e| match e {
                Event::Commit { position } => Some(position.clone()),
                _ => None,
            })
            .collect();
        assert!(positions.windows(2).all(|p| p[0].covers(&p[1]) == Ok(false)));
        streamed(&w, 2).await;
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shape_that_was_rolled_back_is_forgotten() {
    for w in World::everywhere("undone-shape").await {
        small_memory(&w).await;
        w.sql("create table t (id int primary key, v text)").await;
        let mut tap = w.tap().await;
        let client = w.client().await;
        client
            .batch_execute(
                "begin; \
                 insert into t select i, repeat('v', 100) from generate_series(1, 2000) i; \
                 savepoint s; alter table t add extra int default 7; \
                 insert into t select i, repeat('v', 100), i from generate_series(3001, 5000) i; \
                 rollback to s; \
                 insert into t select i, repeat('w', 100) from generate_series(3001, 5000) i; \
                 commit",
            )
            .await
            .unwrap();
        let events = w.drain(&mut tap).await;
        let mut rows = 0;
        for event in &events {
            if let Event::Row { relation, change: Change::Insert { new } } = event {
                assert_eq!((relation.columns.len(), new.len()), (2, 2));
                rows += 1;
            }
        }
        assert_eq!(rows, 4_000, "PostgreSQL {}", w.server.major());
        streamed(&w, 1).await;
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_larger_than_memory_goes_through_a_file() {
    let w = World::newest("spilled").await;
    small_memory(&w).await;
    w.sql(
        "create table t (id int primary key, v text); alter table t alter v set storage external",
    )
    .await;
    let mut tap = w.tap().await;
    let client = w.client().await;
    client.batch_execute("begin").await.unwrap();
    client
        .batch_execute(
            "insert into t select i, repeat('v', 1000) from generate_series(1, 60000) i; \
             savepoint s; insert into t select i, 'gone' from generate_series(70000, 90000) i; \
             rollback to s",
        )
        .await
        .unwrap();
    // Two at once: both are in flight when the budget is exceeded.
    let other = w.client().await;
    other
        .batch_execute(
            "begin; insert into t select -i, repeat('w', 1000) from generate_series(1, 20000) i",
        )
        .await
        .unwrap();
    let file = || {
        let folder = w.spill.path().to_owned();
        std::fs::read_dir("/proc/self/fd").unwrap().any(|fd| {
            fd.ok()
                .and_then(|fd| std::fs::read_link(fd.path()).ok())
                .is_some_and(|target| target.starts_with(&folder))
        })
    };
    cutover_sandbox::wait_until("a spill file", crate::world::PATIENCE, async || file())
        .await
        .unwrap();
    other.batch_execute("commit").await.unwrap();
    client.batch_execute("commit").await.unwrap();
    let events = w.drain(&mut tap).await;
    let mut ids = Vec::new();
    for event in &events {
        if let Event::Row { change: Change::Insert { new }, .. } = event {
            let cutover_core::model::value::Value::Text(id) = new.get(0) else { panic!() };
            ids.push(std::str::from_utf8(id).unwrap().parse::<i32>().unwrap());
        }
    }
    let want: Vec<i32> = (1..=20_000).map(|i| -i).chain(1..=60_000).collect();
    assert!(ids == want, "{} rows", ids.len());
    assert!(file(), "nothing is confirmed yet");
    tap.confirm(&events);
    assert!(!file(), "the file is still open");
    assert_eq!(std::fs::read_dir(w.spill.path()).unwrap().count(), 0);
    w.release().await;
}

/// What nobody has confirmed is kept here as long: no more of it is taken than there is room for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_of_large_transactions_stays_on_the_server() {
    let w = World::newest("backlog").await;
    small_memory(&w).await;
    w.sql("alter database backlog set wal_sender_timeout = '8s'").await;
    w.sql("create table t (id int primary key, v text)").await;
    let mut tap = w.tap().await;
    let client = w.client().await;
    for i in 0..250 {
        let insert = format!(
            "insert into t select {i} * 1000 + i, repeat('v', 100) from generate_series(0, 999) i"
        );
        client.batch_execute(&insert).await.unwrap();
    }
    let commits =
        |events: &[Event]| events.iter().filter(|e| matches!(e, Event::Commit { .. })).count();
    let mut events = Vec::new();
    while commits(&events) < 200 {
        events.extend(tap.next().await.unwrap());
    }
    // For longer than the patience of the server.
    let more = tokio::time::timeout(std::time::Duration::from_secs(12), tap.next()).await;
    assert!(more.is_err(), "{} came", more.map_or(0, |more| commits(&more.unwrap())));
    while commits(&events) < 250 {
        tap.confirm(&events);
        events.extend(tap.next().await.unwrap());
    }
    assert_eq!(events.iter().filter(|e| matches!(e, Event::Row { .. })).count(), 250_000);
    streamed(&w, 250).await;
    w.release().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_room_for_a_large_transaction_is_a_named_stop() {
    let w = World::newest("no-room").await;
    small_memory(&w).await;
    w.sql("create table t (id int primary key, v text)").await;
    let start = w.capture().await.start;
    // A file where the folder should be.
    let config = cutover_postgres::connect::PgConfig::parse(&w.server.url(&w.name), None).unwrap();
    let blocked = w.spill.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let db = cutover_postgres::Database::new(
        config,
        cutover_core::model::side::Side::Blue,
        w.run.clone(),
        &blocked,
    );
    let stream =
        cutover_core::port::source::Source::stream(&db, &w.run, Some(&start)).await.unwrap();
    let mut tap = crate::world::Tap { stream };
    w.sql(
        "alter table t alter v set storage external; \
         insert into t select i, repeat('v', 1000) from generate_series(1, 60000) i",
    )
    .await;
    assert_eq!(tap.error().await.code(), Some("CUT0206"));
    drop(tap);
    // Nothing was confirmed, so nothing is lost.
    let mut tap = w.tap_from(Some(&start)).await;
    let rows = show(&w.drain(&mut tap).await).iter().filter(|l| l.starts_with('+')).count();
    assert_eq!(rows, 60_000);
    w.release().await;
}

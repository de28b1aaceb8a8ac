//! Slot, stream and snapshots on a standby, everything else on its primary.

use std::collections::BTreeSet;

use cutover_core::{
    model::{
        event::{Change, Event},
        position::Position,
        run::RunId,
        side::Side,
        value::Value,
    },
    port::{PortError, reader::Part, source::Source},
};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{Postgres, StopMode, find_postgres, wait_until};
use tempfile::TempDir;

use crate::{
    snapshots::{Load, ids},
    world::{PATIENCE, Tap, World, patiently, show, with_standby},
};

const SLOTS: &str = "select count(*) from pg_replication_slots where slot_type = 'logical'";

/// A server with a standby of its own, and a run that reads there.
struct Own {
    primary: Postgres,
    standby: Postgres,
    run: RunId,
    db: Database,
    _spill: TempDir,
}

impl Own {
    async fn start(major: u32, on_standby: &[(&str, &str)]) -> Option<Self> {
        let install = find_postgres().into_iter().find(|i| i.major == major)?;
        let (primary, standby) = with_standby(&install, on_standby).await;
        primary.execute("postgres", "create table t (id int primary key)").await.unwrap();
        let spill = tempfile::tempdir().unwrap();
        let run = RunId::new("own").unwrap();
        let db = reading(&primary, &standby, &run, &spill);
        Some(Self { primary, standby, run, db, _spill: spill })
    }

    async fn tap(&self) -> Tap {
        let tables = self.db.tables(&Default::default()).await.unwrap();
        let start = self.db.capture(&self.run, &tables, false).await.unwrap().start;
        Tap { stream: self.db.stream(&self.run, Some(&start)).await.unwrap() }
    }

    /// Commits a row on the primary and reads up to it.
    async fn row(&self, tap: &mut Tap, id: i32) -> Position {
        let sql = format!("insert into t values ({id})");
        self.primary.execute("postgres", &sql).await.unwrap();
        let wanted = format!("+ public.t {id}");
        let mut seen = false;
        loop {
            for event in tap.next().await.unwrap() {
                seen |= show(std::slice::from_ref(&event)).contains(&wanted);
                match event {
                    Event::Commit { position } if seen => return position,
                    _ => {}
                }
            }
        }
    }
}

fn reading(primary: &Postgres, standby: &Postgres, run: &RunId, spill: &TempDir) -> Database {
    let config = |server: &Postgres| PgConfig::parse(&server.url("postgres"), None).unwrap();
    Database::new(config(primary), Side::Blue, run.clone(), spill.path())
        .reading_from(config(standby))
}

/// Nobody writes, so nobody logs which transactions run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_primary_keeps_no_slot_and_nothing_is_left() {
    for w in World::standbys("quiet").await {
        w.sql("create table t (id int primary key); insert into t values (1)").await;
        let tables = w.tables().await;
        let capture = patiently(async || w.db.capture(&w.run, &tables, true).await).await;
        assert_eq!(ids(&w, &*capture.snapshot.unwrap()).await, [1].into());
        let mine = "select count(*) from pg_replication_slots where slot_name = 'cutover_quiet'";
        assert_eq!([w.text(mine).await, w.text_of_reader(mine).await], ["0", "1"]);
        let mut tap = w.tap_from(Some(&capture.start)).await;
        w.sql("insert into t values (2)").await;
        assert_eq!(show(&w.drain(&mut tap).await), ["begin", "+ public.t 2", "commit"]);
        assert!(w.db.retained(&w.run).await.unwrap().is_some());
        drop(tap);
        w.release().await;
        // Once more, as after a crash.
        w.release().await;
        assert_eq!(w.text_of_reader(mine).await, "0", "PostgreSQL {}", w.server.major());
        assert_eq!(w.text("select count(*) from pg_publication").await, "0");
    }
}

/// What a later snapshot says it contains is what it contains, row by row: rows of a copy that was
/// taken up again are joined with the stream by that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_snapshot_says_which_transactions_it_contains() {
    for w in World::standbys("later").await {
        w.sql("create table t (id int primary key)").await;
        let mut tap = w.tap().await;
        let load = Load::start(&w).await;
        let mut taken = Vec::new();
        for _ in 0..6 {
            load.pass(30).await;
            let before: BTreeSet<i32> = held_by(&w.text("select array_agg(id) from t").await);
            let snapshot = patiently(async || w.db.snapshot().await).await;
            load.pass(30).await;
            let rows = ids(&w, &*snapshot).await;
            assert!(before.is_subset(&rows), "what was committed before is in it");
            taken.push((snapshot.visible().to_owned(), rows));
        }
        load.finish().await;
        let stream = w.drain(&mut tap).await;
        for (visible, rows) in &taken {
            let said: BTreeSet<i32> = inserted_by(&stream)
                .into_iter()
                .filter(|(transaction, _)| contains(visible, *transaction))
                .map(|(_, id)| id)
                .collect();
            assert!(said == *rows, "PostgreSQL {}: {visible}", w.server.major());
        }
        w.release().await;
    }
}

fn held_by(array: &str) -> BTreeSet<i32> {
    array.trim_matches(['{', '}']).split(',').filter_map(|id| id.parse().ok()).collect()
}

/// Inserted numbers with their transactions.
fn inserted_by(events: &[Event]) -> Vec<(u64, i32)> {
    let mut all = Vec::new();
    let mut current = 0;
    for event in events {
        match event {
            Event::Begin { transaction, .. } => current = u64::from(*transaction),
            Event::Row { change: Change::Insert { new }, .. } => {
                let Value::Text(id) = new.get(0) else { panic!("no text") };
                all.push((current, std::str::from_utf8(id).unwrap().parse().unwrap()));
            }
            _ => {}
        }
    }
    all
}

/// By the documented form, on a server that is too young for a second epoch.
fn contains(visible: &str, transaction: u64) -> bool {
    let parts: Vec<&str> = visible.split(':').collect();
    let number = |i: usize| parts[i].parse::<u64>().unwrap();
    let running: BTreeSet<u64> = parts[2].split(',').filter_map(|x| x.parse().ok()).collect();
    transaction < number(0) || (transaction < number(1) && !running.contains(&transaction))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_promoted_ends_the_stream_by_name() {
    let newest = find_postgres().last().expect("PostgreSQL").major;
    let own = Own::start(newest, &[]).await.unwrap();
    let mut tap = own.tap().await;
    own.row(&mut tap, 1).await;
    own.standby.promote().await.unwrap();
    assert_eq!(tap.error().await.code(), Some("CUT0218"));
    drop(tap);
    let opened = own.db.stream(&own.run, None).await.map(drop).unwrap_err();
    assert_eq!(opened.code(), Some("CUT0218"), "{opened}");
    let taken = own.db.snapshot().await.map(drop).unwrap_err();
    assert_eq!(taken.code(), Some("CUT0218"), "{taken}");
    // A run that is given up has nothing there all the same.
    own.db.release(&own.run).await.unwrap();
    let left = own.standby.query_text("postgres", SLOTS).await.unwrap();
    assert_eq!(left.as_deref(), Some("0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_not_read() {
    let newest = find_postgres().last().expect("PostgreSQL").major;
    let own = Own::start(newest, &[]).await.unwrap();
    let install = own.primary.install().clone();
    let (_other, stranger) = with_standby(&install, &[]).await;
    let spill = tempfile::tempdir().unwrap();
    // The standby of another server, and a server that is no standby at all.
    for reader in [&stranger, &own.primary] {
        let db = reading(&own.primary, reader, &own.run, &spill);
        let tables = db.tables(&Default::default()).await.unwrap();
        let e = db.capture(&own.run, &tables, true).await.map(drop).unwrap_err();
        assert_eq!(e.code(), Some("CUT0218"), "{e}");
        let left = reader.query_text("postgres", SLOTS).await.unwrap();
        assert_eq!(left.as_deref(), Some("0"));
    }
}

/// The primary does not know what the standby needs, and removes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_in_conflict_ends_the_stream_by_name() {
    for major in [16, 17] {
        let off = [("hot_standby_feedback", "off")];
        let Some(own) = Own::start(major, &off).await else { continue };
        let mut tap = own.tap().await;
        own.row(&mut tap, 1).await;
        for sql in ["create table x (i int)", "drop table x", "vacuum full pg_class, pg_type"] {
            own.primary.execute("postgres", sql).await.unwrap();
        }
        let slot = "select wal_status = 'lost' from pg_replication_slots
                    where slot_name = 'cutover_own'";
        wait_until("the conflict", PATIENCE, async || {
            own.primary.execute("postgres", "vacuum pg_class, pg_type").await.unwrap();
            own.standby.query_text("postgres", slot).await.unwrap().as_deref() == Some("t")
        })
        .await
        .unwrap();
        // Whether the server ends the stream or we do.
        let ended = tap.error().await;
        let code = ended.code();
        assert!(code.is_none() || code == Some("CUT0219"), "{ended}");
        drop(tap);
        let e = own.db.stream(&own.run, None).await.map(drop).unwrap_err();
        assert_eq!(e.code(), Some("CUT0219"), "PostgreSQL {major}: {e}");
        own.db.release(&own.run).await.unwrap();
        let left = own.standby.query_text("postgres", SLOTS).await.unwrap();
        assert_eq!(left.as_deref(), Some("0"));
    }
}

/// What is read is in the way of what is replayed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_the_standby_cancels_is_worth_repeating() {
    let newest = find_postgres().last().expect("PostgreSQL").major;
    let own = Own::start(newest, &[("max_standby_streaming_delay", "0")]).await.unwrap();
    own.primary.execute("postgres", "insert into t values (1)").await.unwrap();
    let table = own.db.tables(&Default::default()).await.unwrap().remove(0);
    let snapshot = own.db.snapshot().await.unwrap();
    let range = snapshot.split(&table, 1 << 20).await.unwrap().remove(0);
    // From here on it holds the table.
    drop(snapshot.digests(&[Part { table: &table, range: &range, buckets: 1 }]).await.unwrap());
    own.primary.execute("postgres", "alter table t rename to u").await.unwrap();
    let mut why = None;
    wait_until("the read to be cancelled", PATIENCE, async || {
        let read = snapshot.digests(&[Part { table: &table, range: &range, buckets: 1 }]).await;
        why = read.err();
        why.is_some()
    })
    .await
    .unwrap();
    assert!(why.as_ref().is_some_and(PortError::is_transient), "{why:?}");
}

/// The standby of a standby that takes over follows it, and places have other names then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_of_the_primary_is_followed_by_the_standby_that_is_read() {
    let newest = find_postgres().pop().expect("PostgreSQL");
    let (mut primary, mut heir) = with_standby(&newest, &[]).await;
    let mut standby = heir.standby(&[]).await.unwrap();
    primary.execute("postgres", "create table t (id int primary key)").await.unwrap();
    let spill = tempfile::tempdir().unwrap();
    let run = RunId::new("own").unwrap();
    let db = reading(&primary, &standby, &run, &spill);
    let own = Own { primary, standby, run, db, _spill: spill };
    let mut tap = own.tap().await;
    let held = own.row(&mut tap, 1).await;
    let Own { primary: mut dead, standby: reader, run, db, _spill } = own;
    (primary, standby) = (heir, reader);
    let port = dead.port();
    primary.catch_up(&dead).await.unwrap();
    // Nobody closes our sessions there.
    dead.pause().unwrap();
    primary.promote().await.unwrap();
    let e = tap.error().await;
    assert_eq!(e.code(), None, "{e}");
    drop(tap);
    dead.kill9().await.unwrap();
    primary.answer_at(port).await.unwrap();
    let own = Own { primary, standby, run, db, _spill };
    own.primary.execute("postgres", "insert into t values (2)").await.unwrap();
    // Under its old name nobody takes that place for another one, or for an end.
    let early = own.db.stream(&own.run, Some(&held)).await.map(drop).unwrap_err();
    assert_eq!(early.code(), None, "{early}");
    follow(&own.standby, &own.primary).await;
    let now = own.db.rebase(&held).await.unwrap();
    assert!(now.renames(&held), "{held} became {now}");
    let mut stream = None;
    wait_until("the standby to follow", PATIENCE, async || {
        match own.db.stream(&own.run, Some(&now)).await {
            Ok(open) => stream = Some(open),
            Err(e) => assert_eq!(e.code(), None, "{e}"),
        }
        stream.is_some()
    })
    .await
    .unwrap();
    let mut tap = Tap { stream: stream.unwrap() };
    let mut seen = Vec::new();
    while !seen.contains(&"+ public.t 2".to_owned()) {
        seen.extend(show(&tap.next().await.unwrap()));
    }
    assert!(!seen.contains(&"+ public.t 1".to_owned()), "{seen:?}");
    own.row(&mut tap, 3).await;
}

/// A standby looks for its primary at another address.
async fn follow(standby: &Postgres, primary: &Postgres) {
    let to = format!(
        "host={} port={} user={} password={} dbname=postgres",
        primary.host(),
        primary.port(),
        primary.user(),
        primary.password()
    );
    standby.configure(&[("primary_conninfo", &to)]).unwrap();
    standby.execute("postgres", "select pg_reload_conf()").await.unwrap();
}

/// A standby may follow whoever takes over, without a break of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_the_primary_and_goes_on_with_it() {
    let newest = find_postgres().last().expect("PostgreSQL").major;
    let mut own = Own::start(newest, &[]).await.unwrap();
    let mut tap = own.tap().await;
    own.row(&mut tap, 1).await;
    own.primary.kill9().await.unwrap();
    let e = tap.error().await;
    assert_eq!(e.code(), None, "{e}");
    drop(tap);
    own.primary.start_again().await.unwrap();
    let mut tap = Tap { stream: own.db.stream(&own.run, None).await.unwrap() };
    own.row(&mut tap, 2).await;
    // The standby as well.
    own.standby.stop(StopMode::Immediate).await.unwrap();
    let e = tap.error().await;
    assert_eq!(e.code(), None, "{e}");
    drop(tap);
    own.standby.start_again().await.unwrap();
    let mut tap = Tap { stream: own.db.stream(&own.run, None).await.unwrap() };
    own.row(&mut tap, 3).await;
    own.primary.stop(StopMode::Fast).await.unwrap();
    own.db.release(&own.run).await.unwrap_err();
}

//! A standby takes over from the server whose changes are followed.

use cutover_core::{
    model::{event::Event, position::Position, run::RunId, side::Side},
    port::{sink::Sink, source::Source},
};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{PgInstall, PgOptions, Postgres, StopMode, find_postgres, wait_until};
use tempfile::TempDir;

use crate::world::{PATIENCE, Tap, show};

/// A primary with a standby, and one run that follows the primary's address.
struct Pair {
    primary: Postgres,
    standby: Postgres,
    run: RunId,
    db: Database,
    _spill: TempDir,
}

impl Pair {
    async fn start(install: &PgInstall, on_standby: &[(&str, &str)]) -> Self {
        let mut primary = Postgres::start(install, PgOptions::new()).await.unwrap();
        primary.execute("postgres", "create table t (id int primary key)").await.unwrap();
        let standby = primary.standby(on_standby).await.unwrap();
        let run = RunId::new("failover").unwrap();
        let spill = tempfile::tempdir().unwrap();
        let config = PgConfig::parse(&primary.url("postgres"), None).unwrap();
        let db = Database::new(config, Side::Blue, run.clone(), spill.path());
        Self { primary, standby, run, db, _spill: spill }
    }

    async fn tap(&self) -> Tap {
        let tables = self.db.tables(&Default::default()).await.unwrap();
        let start = self.db.capture(&self.run, &tables, false).await.unwrap().start;
        Tap { stream: self.db.stream(&self.run, Some(&start)).await.unwrap() }
    }

    /// Commits a row and reads up to it; what was read, and the position of its commit.
    async fn row(&self, tap: &mut Tap, id: i32) -> (Vec<String>, Position) {
        self.insert(id).await;
        self.up_to(tap, id).await
    }

    async fn insert(&self, id: i32) {
        let server = if self.primary.pid().is_some() { &self.primary } else { &self.standby };
        server.execute("postgres", &format!("insert into t values ({id})")).await.unwrap();
    }

    /// What is read up to the commit of a row, and its position.
    async fn up_to(&self, tap: &mut Tap, id: i32) -> (Vec<String>, Position) {
        let wanted = format!("+ public.t {id}");
        let is_row = |e: &Event| show(std::slice::from_ref(e)).contains(&wanted);
        let mut events = Vec::new();
        loop {
            // What commits before the row is something else.
            let row = events.iter().skip_while(|e| !is_row(e));
            let end = row.into_iter().find_map(|e| match e {
                Event::Commit { position } => Some(position.clone()),
                _ => None,
            });
            if let Some(end) = end {
                let lines = show(&events).into_iter().filter(|l| l.starts_with('+')).collect();
                return (lines, end);
            }
            events.extend(tap.next().await.unwrap());
        }
    }

    /// The primary lets a stream wait for these standbys.
    async fn synchronize(&self, slots: &str) {
        let set = format!("alter system set synchronized_standby_slots = '{slots}'");
        for sql in [set.as_str(), "select pg_reload_conf()"] {
            self.primary.execute("postgres", sql).await.unwrap();
        }
    }

    /// Writes and confirms until the standby has a copy of the slot that outlives a promotion.
    async fn synced(&self, tap: &mut Tap) -> Position {
        let mut id = 0;
        let mut last = None;
        let sql = "select synced and not temporary from pg_replication_slots \
                   where slot_name = 'cutover_failover'";
        wait_until("the slot to be on the standby", PATIENCE, async || {
            id += 1;
            let (_, end) = self.row(tap, id).await;
            tap.stream.confirm(&end);
            last = Some(end);
            self.primary.execute("postgres", "select pg_log_standby_snapshot()").await.unwrap();
            self.standby.query_text("postgres", sql).await.unwrap().as_deref() == Some("t")
        })
        .await
        .unwrap();
        last.unwrap()
    }

    async fn fail_over(&mut self) {
        let port = self.primary.port();
        self.primary.kill9().await.unwrap();
        self.standby.take_over(port).await.unwrap();
    }
}

fn since(major: u32) -> Vec<PgInstall> {
    find_postgres().into_iter().filter(|i| i.major >= major).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronized_slot_goes_on_where_it_was() {
    for install in since(17) {
        let mut pair = Pair::start(&install, &[]).await;
        let mut tap = pair.tap().await;
        let first = pair.synced(&mut tap).await;
        // Committed, replayed there, and never read here.
        pair.primary.execute("postgres", "insert into t values (1000)").await.unwrap();
        pair.standby.catch_up(&pair.primary).await.unwrap();
        drop(tap);
        pair.fail_over().await;
        let now = pair.db.rebase(&first).await.unwrap();
        assert!(now.renames(&first), "{first} became {now}");
        // The old name is not taken any more: the sink must know the new one first.
        let early = pair.db.stream(&pair.run, Some(&first)).await.map(drop).unwrap_err();
        assert_eq!(early.code(), None, "{early}");
        let mut tap = Tap { stream: pair.db.stream(&pair.run, Some(&now)).await.unwrap() };
        let (lines, end) = pair.row(&mut tap, 1001).await;
        assert_eq!(lines, ["+ public.t 1000", "+ public.t 1001"], "{}", install.version);
        assert_eq!(end.covers(&now), Ok(true), "{end} and {now}");
        assert_eq!(pair.db.rebase(&end).await.unwrap(), end);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_was_not_synchronized_is_named() {
    for install in since(14) {
        let off = [("sync_replication_slots", "off")];
        let settings = if install.major >= 17 { &off[..] } else { &[] };
        let mut pair = Pair::start(&install, settings).await;
        let mut tap = pair.tap().await;
        let (_, end) = pair.row(&mut tap, 1).await;
        drop(tap);
        pair.standby.catch_up(&pair.primary).await.unwrap();
        pair.fail_over().await;
        let e = pair.db.rebase(&end).await.unwrap_err();
        assert_eq!(e.code(), Some("CUT0217"), "PostgreSQL {}: {e}", install.version);
        assert!(e.remedy().is_some_and(|r| r.contains("cutover abort")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_lost_what_the_other_side_holds_is_refused() {
    for install in since(14) {
        let mut pair = Pair::start(&install, &[]).await;
        let mut tap = pair.tap().await;
        let load = pair.db.load(&pair.run).await.unwrap();
        let (_, held) = pair.row(&mut tap, 1).await;
        let kept = load.flush().await.unwrap().unwrap();
        pair.standby.catch_up(&pair.primary).await.unwrap();
        pair.standby.stop(StopMode::Fast).await.unwrap();
        let (_, lost) = pair.row(&mut tap, 2).await;
        let gone = load.flush().await.unwrap().unwrap();
        for place in [&held, &kept, &lost, &gone] {
            assert!(pair.db.contains(place).await.unwrap(), "{place}");
        }
        drop(tap);
        pair.fail_over().await;
        // Needs no slot, and says the same of what we wrote there ourselves.
        for (place, there) in [(&held, true), (&kept, true), (&lost, false), (&gone, false)] {
            assert_eq!(pair.db.contains(place).await.unwrap(), there, "{}", install.version);
        }
        let e = pair.db.rebase(&lost).await.unwrap_err();
        assert_eq!(e.code(), Some("CUT0216"), "PostgreSQL {}: {e}", install.version);
        // Without that row it would have been the slot's turn, which this old copy lacks.
        let e = pair.db.rebase(&held).await.unwrap_err();
        assert_eq!(e.code(), Some("CUT0217"), "PostgreSQL {}: {e}", install.version);
    }
}

/// The server warns with the state that a missing publication has too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_waits_for_a_standby_that_is_away() {
    for install in since(17) {
        let mut pair = Pair::start(&install, &[]).await;
        let slot = "select pg_create_physical_replication_slot('away', true)";
        pair.primary.execute("postgres", slot).await.unwrap();
        let mut tap = pair.tap().await;
        pair.row(&mut tap, 1).await;
        let warned = |pair: &Pair| pair.primary.log().matches("does not have active_pid").count();
        pair.synchronize("away").await;
        pair.insert(2).await;
        wait_until("warnings", PATIENCE, async || warned(&pair) > 2).await.unwrap();
        pair.synchronize("").await;
        let (lines, _) = pair.up_to(&mut tap, 2).await;
        assert_eq!(lines, ["+ public.t 2"], "{}", install.version);
        // Now it is an error.
        let before = warned(&pair);
        pair.synchronize("away").await;
        pair.insert(3).await;
        wait_until("a warning", PATIENCE, async || warned(&pair) > before).await.unwrap();
        pair.primary.stop(StopMode::Fast).await.unwrap();
        let e = tap.error().await;
        assert_eq!(e.code(), None, "PostgreSQL {}: {e}", install.version);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_before_its_promotion_is_waited_for() {
    for install in since(14) {
        let pair = Pair::start(&install, &[]).await;
        let config = PgConfig::parse(&pair.standby.url("postgres"), None).unwrap();
        let spill = tempfile::tempdir().unwrap();
        let db = Database::new(config, Side::Blue, pair.run.clone(), spill.path());
        let start = Position::Postgres { timeline: 1, lsn: 1 };
        for e in [
            db.rebase(&start).await.map(drop).unwrap_err(),
            db.contains(&start).await.map(drop).unwrap_err(),
            db.stream(&pair.run, None).await.map(drop).unwrap_err(),
            db.writer(&pair.run, &[]).await.map(drop).unwrap_err(),
        ] {
            assert_eq!(e.code(), None, "not a stop: {e}");
            let text = format!("{e}: {:?}", std::error::Error::source(&e));
            assert!(text.contains("standby"), "{text}");
        }
        // A run is never begun there.
        let e = db.capture(&pair.run, &[], true).await.map(drop).unwrap_err();
        assert_eq!(e.code(), Some("CUT0211"), "PostgreSQL {}: {e}", install.version);
    }
}

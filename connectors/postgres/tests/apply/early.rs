//! A large transaction that was written early, and whose COMMIT gets no answer: a new writer knows
//! what is stored, and every row is there once.

use std::{net::SocketAddr, time::Duration};

use cutover_core::{
    model::{event::Event, position::Position, side::Side},
    port::{
        Result,
        sink::{EarlyWriter, Sink, SinkWriter},
    },
};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{PgOptions, Postgres, find_postgres, wait_until};
use cutover_testkit::{Direction, FaultProxy};
use tokio::{sync::OnceCell, task::JoinHandle};

use crate::{
    on_each_server,
    world::{World, end},
};

/// Whoever writes or stores waits for this lock as long as the test holds it: at the end of its
/// transaction for a row, in the statement for the position. Also in replica role.
const GATES: &str = "
    CREATE FUNCTION log.gate() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN PERFORM pg_advisory_xact_lock_shared(TG_ARGV[0]::bigint); RETURN NEW; END $$;
    CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON dst.t DEFERRABLE INITIALLY DEFERRED
      FOR EACH ROW EXECUTE FUNCTION log.gate('1');
    ALTER TABLE dst.t ENABLE ALWAYS TRIGGER gate";

const PATIENCE: Duration = Duration::from_secs(120);
const ROWS: i64 = 1 + 1_000;

/// A large transaction that is written early through a proxy, and nothing of it committed.
struct Large {
    world: World,
    proxy: FaultProxy,
    writer: Box<dyn SinkWriter>,
    early: Box<dyn EarlyWriter>,
    events: Vec<Event>,
    before: Option<Position>,
}

impl Large {
    async fn new(server: &'static Postgres) -> Self {
        let mut world = World::with(server, "CREATE TABLE t (id int PRIMARY KEY)").await;
        world.client.batch_execute(GATES).await.unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], server.port()));
        let proxy = FaultProxy::start(address).await.unwrap();
        let url = server
            .url(&world.name)
            .replace(&format!(":{}/", server.port()), &format!(":{}/", proxy.port()));
        let config = PgConfig::parse(&url, None).unwrap();
        let green = Database::new(config, Side::Green, world.run.clone(), &std::env::temp_dir());
        let mut writer = green.writer(&world.run, &world.routes().await).await.unwrap();
        let small = world.changes(&["INSERT INTO t VALUES (0)"]).await;
        let before = writer.apply(&small).await.unwrap();
        let events = world.changes(&["INSERT INTO t SELECT generate_series(1, 1000)"]).await;
        let mut early = writer.early().await.unwrap().expect("PostgreSQL has a second writer");
        let Event::Begin { transaction, .. } = events[0] else { panic!("{:?}", events[0]) };
        early.write(transaction, &events[1..events.len() - 1]).await.unwrap();
        Self { world, proxy, writer, early, events, before }
    }

    /// Says COMMIT, and gives back everything that is lost with the process.
    fn commit(self) -> (World, FaultProxy, Vec<Event>, Option<Position>, JoinHandle<Result<bool>>) {
        let Self { world, proxy, writer, mut early, events, before } = self;
        let position = end(&events);
        let saying = tokio::spawn(async move {
            let result = early.commit(&position).await;
            drop((early, writer));
            result
        });
        (world, proxy, events, before, saying)
    }
}

impl World {
    /// Closes a gate until it is opened.
    async fn close(&self, gate: &str) {
        let sql = format!("SELECT pg_advisory_lock({gate})");
        self.client.batch_execute(&sql).await.unwrap();
    }

    async fn open(&self, gate: &str) {
        let sql = format!("SELECT pg_advisory_unlock({gate})");
        self.client.batch_execute(&sql).await.unwrap();
    }

    /// Waits until the early session is like this.
    async fn early_is(&self, what: &str) {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
              AND application_name LIKE '% early' AND {what}"
        );
        wait_until(what, PATIENCE, async || {
            self.client.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await
        .unwrap();
    }

    async fn count(&self) -> i64 {
        self.client.query_one("SELECT count(*) FROM dst.t", &[]).await.unwrap().get(0)
    }

    /// A new process goes on where the sink says it is, and every row is there once.
    async fn resumes(&self, events: &[Event], stored: &Option<Position>) {
        let mut writer = self.writer().await;
        assert_eq!(writer.progress().await.unwrap(), *stored);
        let whole = stored.as_ref() == Some(&end(events));
        assert_eq!(self.count().await, if whole { ROWS } else { 1 });
        if !whole {
            writer.apply(events).await.unwrap();
        }
        assert_eq!(writer.progress().await.unwrap(), Some(end(events)));
        self.assert_equal().await;
    }
}

const IN_COMMIT: &str = "query = 'COMMIT' AND state = 'active' AND wait_event = 'advisory'";

on_each_server! {
    async fn an_early_commit_whose_answer_is_lost_is_stored(server) {
        let large = Large::new(server).await;
        large.world.close("1").await;
        let (world, proxy, events, _, saying) = large.commit();
        world.early_is(IN_COMMIT).await;
        proxy.set(Direction::Down, |link| link.black_hole = true);
        world.open("1").await;
        wait_until("the commit", PATIENCE, async || world.count().await == ROWS).await.unwrap();
        proxy.reset();
        let error = saying.await.unwrap().unwrap_err();
        assert!(error.is_transient(), "{error}");
        world.resumes(&events, &Some(end(&events))).await;
    }

    async fn an_early_commit_that_never_arrives_is_not_stored(server) {
        let large = Large::new(server).await;
        let gate = format!(
            "CREATE TRIGGER gate BEFORE UPDATE ON {0}.progress
               FOR EACH ROW EXECUTE FUNCTION log.gate('2');
             ALTER TABLE {0}.progress ENABLE ALWAYS TRIGGER gate",
            large.world.run.object_name()
        );
        large.world.client.batch_execute(&gate).await.unwrap();
        large.world.close("2").await;
        let (world, proxy, events, before, saying) = large.commit();
        world.early_is("wait_event = 'advisory'").await;
        proxy.set(Direction::Up, |link| link.black_hole = true);
        world.open("2").await;
        world.early_is("state = 'idle in transaction'").await;
        proxy.reset();
        // Whether the COMMIT was on its way is all the same.
        assert!(!matches!(saying.await.unwrap(), Ok(true)));
        world.resumes(&events, &before).await;
    }

    async fn an_early_commit_that_has_not_ended_is_ended_first(server) {
        let large = Large::new(server).await;
        large.world.close("1").await;
        let (world, proxy, events, before, saying) = large.commit();
        world.early_is(IN_COMMIT).await;
        proxy.reset();
        assert!(saying.await.unwrap().unwrap_err().is_transient());
        // The server has not noticed: it would commit as soon as it can.
        world.early_is(IN_COMMIT).await;
        let writer = world.writer().await;
        world.open("1").await;
        drop(writer);
        world.resumes(&events, &before).await;
    }
}

/// Durable, and seen by nobody before a standby has it: what is stored must not be read too early.
#[tokio::test]
async fn an_early_commit_that_waits_for_a_standby_is_stored() {
    static SERVER: OnceCell<Postgres> = OnceCell::const_new();
    let start = async || {
        let install = find_postgres().pop().expect("PostgreSQL: run scripts/setup test");
        Postgres::start(&install, PgOptions::new()).await.unwrap()
    };
    let server = SERVER.get_or_init(start).await;
    let large = Large::new(server).await;
    waits_for(&large.world, "nobody").await;
    let probe = server.connect(&large.world.name).await.unwrap();
    let probing = tokio::spawn(async move { probe.batch_execute("CREATE TABLE probe ()").await });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait_until("commits to wait", PATIENCE, async || {
        large.world.client.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await
    .unwrap();
    let (world, proxy, events, _, saying) = large.commit();
    world.early_is("query = 'COMMIT' AND wait_event = 'SyncRep'").await;
    assert_eq!(world.count().await, 1);
    proxy.reset();
    assert!(saying.await.unwrap().unwrap_err().is_transient());
    // A new writer says nothing of it before a standby has it, either.
    let freed = async {
        let waiting = "SELECT count(*) FROM pg_stat_activity \
                       WHERE wait_event = 'SyncRep' AND application_name LIKE '% apply'";
        wait_until("the new writer to wait", PATIENCE, async || {
            world.client.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await
        .unwrap();
        waits_for(&world, "").await;
    };
    let end = Some(end(&events));
    tokio::join!(world.resumes(&events, &end), freed);
    probing.abort();
}

async fn waits_for(world: &World, standby: &str) {
    let sql = format!("ALTER SYSTEM SET synchronous_standby_names = '{standby}'");
    world.client.batch_execute(&sql).await.unwrap();
    world.client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
}

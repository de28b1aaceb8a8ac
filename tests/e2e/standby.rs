//! Both sides are read from their standbys: their primaries are written and asked, and serve neither
//! a stream nor a row of the copy.

use cutover_core::model::side::Side;
use cutover_sandbox::{
    PgInstall, Postgres, StopMode, find_postgres,
    shop::{self, Load},
    wait_until,
};
use serde_json::Value;

use crate::{
    failover::Guarded,
    pair::Pair,
    program::{COMMAND_WITHIN, READY_WITHIN, Run},
};

const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'logical'";
const SENDERS: &str =
    "SELECT count(*) FROM pg_stat_replication WHERE application_name ~ '^cutover'";

/// Two servers with standbys, and a run between them that reads there.
pub(crate) struct Readers {
    pub(crate) blue: Guarded,
    pub(crate) green: Guarded,
    pub(crate) pair: Pair,
}

impl Readers {
    pub(crate) async fn start(name: &str, old: &PgInstall, new: &PgInstall, more: &str) -> Self {
        // On 17 and later a standby would look for slots to take along, and there are none.
        let alone = |install: &PgInstall| match install.major {
            17.. => vec![("sync_replication_slots", "off")],
            _ => Vec::new(),
        };
        let (on_blue, on_green) = (alone(old), alone(new));
        let (blue, green) =
            tokio::join!(Guarded::start(old, &on_blue), Guarded::start(new, &on_green));
        shop::roles(&[&blue.primary, &green.primary]).await.expect("roles");
        let pair = Pair::open(name, &blue.primary, &green.primary, more).await;
        let readers = Self { blue, green, pair };
        for side in [&readers.blue, &readers.green] {
            let grant = "GRANT EXECUTE ON FUNCTION pg_log_standby_snapshot() TO cutover";
            side.primary.execute(name, grant).await.expect("the grant");
            let (here, there) = (side.primary.port(), side.standby.port());
            let url = |port: u16| format!("\"postgres://cutover@127.0.0.1:{port}/{name}\"");
            readers.pair.desk.reconfigure(|yaml| {
                let with = format!("url: {}, read_from: {}", url(here), url(there));
                yaml.replace(&format!("url: {}", url(here)), &with)
            });
            side.standby.catch_up(&side.primary).await.expect("it follows");
        }
        readers
    }

    /// What a query says on both primaries and on both standbys.
    async fn says(&self, sql: &str) -> [String; 4] {
        let ask = async |server: &Postgres| {
            server.query_text(&self.pair.name, sql).await.expect("an answer").unwrap_or_default()
        };
        let (blue, green) = (&self.blue, &self.green);
        [
            ask(&blue.primary).await,
            ask(&green.primary).await,
            ask(&blue.standby).await,
            ask(&green.standby).await,
        ]
    }

    /// Streams and their slots are on the standbys.
    pub(crate) async fn primaries_are_spared(&self) {
        assert_eq!(self.says(SLOTS).await, ["0", "0", "1", "1"]);
        let [blue, green, on_blue, on_green] = self.says(SENDERS).await;
        assert_eq!([blue, green], ["0", "0"], "a stream of a primary");
        assert!(on_blue != "0" && on_green != "0", "{on_blue} {on_green}");
    }

    pub(crate) async fn nothing_is_left(&self) {
        self.pair.nothing_is_left().await;
        assert_eq!(self.says(SLOTS).await, ["0"; 4]);
    }
}

/// The oldest and the newest version that decode on a standby.
pub(crate) fn versions() -> (PgInstall, PgInstall) {
    let all: Vec<_> = find_postgres().into_iter().filter(|i| i.major >= 16).collect();
    let (Some(old), Some(new)) = (all.first(), all.last()) else {
        panic!("no server decodes on a standby: run scripts/setup test");
    };
    (old.clone(), new.clone())
}

pub(crate) async fn goes_on(run: &mut Run, load: &Load) {
    let before = load.view().acknowledged;
    wait_until("clients to be served", COMMAND_WITHIN, async || {
        load.view().acknowledged.iter().zip(&before).all(|(now, then)| *now >= then + 2)
    })
    .await
    .unwrap_or_else(|e| panic!("{e}: {:?}", load.view()));
    run.ready().await;
}

/// Nobody writes until everything is copied and compared, so that what the primary was read for can
/// be told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_run_spares_the_primaries_and_loses_nothing() {
    let (old, new) = versions();
    let mut readers = Readers::start("spared", &old, &new, "").await;
    let desk = readers.pair.desk.clone();
    desk.ask(&["check"]).await.exits(0);
    desk.ask(&["plan"]).await.exits(0).says("standby");
    // Sessions of the shop have told of their reads when they are gone.
    let others = "SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND pid <> pg_backend_pid()";
    wait_until("nobody else to be there", COMMAND_WITHIN, async || {
        readers.says(others).await.iter().all(|n| n == "0")
    })
    .await
    .expect("they go");
    let read = "SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_user_tables
                WHERE schemaname = 'public'";
    let [before, _, there, _] = readers.says(read).await;
    let mut run = desk.run();
    run.ready().await;
    let [after, _, read_there, _] = readers.says(read).await;
    assert_eq!(before, after, "rows were read on the primary");
    assert_ne!(there, read_there, "rows were read on the standby");
    readers.primaries_are_spared().await;

    let load = readers.pair.load();
    goes_on(&mut run, &load).await;
    desk.ask(&["verify"]).await.exits(0);
    desk.moves("rehearse").await.exits(0);
    // The standby comes back, and so does the stream from where it was.
    readers.blue.standby.restart().await.expect("a restart");
    goes_on(&mut run, &load).await;
    desk.moves("switch").await.exits(0);
    goes_on(&mut run, &load).await;
    desk.ask(&["verify"]).await.exits(0);
    desk.moves("rollback").await.exits(0);
    goes_on(&mut run, &load).await;
    readers.primaries_are_spared().await;
    desk.moves("switch").await.exits(0);
    readers.pair.close_the_books(load, Side::Green).await;
    desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    readers.nothing_is_left().await;
}

/// A copy that is taken up again is joined with the stream by what a later snapshot contains.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_cut_off_is_taken_up_through_the_standby() {
    let (_, new) = versions();
    let slowly = "copy: { workers: 1, rate: 2MiB, chunk: 1MiB }\n";
    let readers = Readers::start("cutoff", &new, &new, slowly).await;
    let (pair, desk) = (&readers.pair, readers.pair.desk.clone());
    let wide = "CREATE TABLE wide (id int PRIMARY KEY, v text);
        INSERT INTO wide SELECT i, repeat('w', 1000) FROM generate_series(1, 4000) i";
    pair.does(Side::Blue, wide).await;
    let load = pair.load();
    let run = desk.run();
    let begun = |facts: &[Value]| facts.iter().any(|f| f["fact"] == "copy_began");
    let facts = run.kill_when("run.journal", "rows are copied", begun).await;
    assert!(!facts.iter().any(|f| f["fact"] == "copy_ended"), "the copy was too fast");
    // What is changed now is in the later snapshot, and in the stream as well.
    pair.does(Side::Blue, "UPDATE wide SET v = 'later' WHERE id % 7 = 0").await;
    pair.does(Side::Blue, "DELETE FROM wide WHERE id % 11 = 0").await;
    desk.reconfigure(|yaml| yaml.replace(slowly, ""));
    let mut run = desk.run();
    run.ready().await;
    desk.ask(&["verify"]).await.exits(0);
    desk.moves("switch").await.exits(0);
    pair.close_the_books(load, Side::Green).await;
    desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    readers.nothing_is_left().await;
}

/// The standby lags, is promoted, and is gone for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_promoted_ends_the_run_by_name() {
    let (_, new) = versions();
    let Readers { mut blue, green, pair } = Readers::start("promoted", &new, &new, "").await;
    let desk = pair.desk.clone();
    let mut run = desk.run();
    run.ready().await;
    // What the standby lags is what the run lags, and no client is made to wait for it.
    let standby = &blue.standby;
    standby.execute("postgres", "SELECT pg_wal_replay_pause()").await.expect("it pauses");
    pair.does(Side::Blue, "INSERT INTO receipts VALUES (77, 1)").await;
    run.status("the lag", READY_WITHIN, |s| s["ready"]["state"] != "ready").await;
    desk.ask(&["switch"]).await.exits(1);
    let held = |f: &Value| f["step"] == "pause";
    assert!(!desk.facts("moves.journal").iter().any(held), "clients were held");
    standby.execute("postgres", "SELECT pg_wal_replay_resume()").await.expect("it goes on");
    run.ready().await;

    standby.promote().await.expect("a promotion");
    let stopped = |s: &Value| {
        s["streams"]["forward"]["health"]["stopped"]["code"] == "CUT0218"
            && s["ready"]["state"] != "ready"
    };
    run.status("the stop", READY_WITHIN, stopped).await;
    desk.ask(&["switch"]).await.exits(1);
    desk.ask(&["check"]).await.exits(1).says("CUT0178");
    // Clients have what they had.
    pair.does(Side::Blue, "INSERT INTO receipts VALUES (77, 2)").await;
    assert!(run.terminate().await.success());

    // The slot of the run is there and nowhere else, so that nothing but giving up is possible
    // without that very standby; and that is.
    let read_from = format!(
        ", read_from: \"postgres://cutover@127.0.0.1:{}/{}\"",
        blue.standby.port(),
        pair.name
    );
    let with = std::fs::read_to_string(desk.folder().join("cutover.yaml")).expect("a file");
    desk.configure(&with.replace(&read_from, ""));
    desk.ask(&["run", "--yes"]).await.exits(2).says("CUT0504");
    desk.configure(&with);
    blue.standby.stop(StopMode::Fast).await.expect("it stops");
    desk.ask(&["abort", "--yes"]).await.exits(3);
    desk.configure(&with.replace(&read_from, ""));
    desk.ask(&["abort", "--yes"]).await.exits(0);
    pair.nothing_is_left().await;
    let left = green.standby.query_text("postgres", SLOTS).await.expect("an answer");
    assert_eq!(left.as_deref(), Some("0"));
}

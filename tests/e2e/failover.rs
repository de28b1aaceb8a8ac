//! Standbys take over from either side while the run is on: with the slot of the run it goes on by
//! position, without it the run ends by name.

use std::time::Duration;

use cutover_core::model::side::Side;
use cutover_sandbox::{
    PgInstall, PgOptions, Postgres, STANDBY_SLOT, find_postgres,
    shop::{self, Load},
    wait_until,
};
use serde_json::Value;

use crate::{
    pair::Pair,
    program::{COMMAND_WITHIN, READY_WITHIN, Run},
};

/// Several rounds of the server that takes slots along, on a machine with other things to do.
const SYNCED_WITHIN: Duration = Duration::from_secs(240);

/// A server and its standby.
pub(crate) struct Guarded {
    pub(crate) primary: Postgres,
    pub(crate) standby: Postgres,
}

impl Guarded {
    pub(crate) async fn start(install: &PgInstall, on_standby: &[(&str, &str)]) -> Self {
        let mut primary = Postgres::start(install, PgOptions::new()).await.expect("a server");
        let standby = primary.standby(on_standby).await.expect("a standby");
        Self { primary, standby }
    }

    /// Clients are told of a commit when the standby has it, and so are we.
    pub(crate) async fn loses_nothing(&self) {
        let client = self.primary.connect("postgres").await.expect("a session");
        for setting in ["synchronous_standby_names", "synchronized_standby_slots"] {
            let sql = format!("ALTER SYSTEM SET {setting} = '{STANDBY_SLOT}'");
            client.batch_execute(&sql).await.expect("a setting");
        }
        client.batch_execute("SELECT pg_reload_conf()").await.expect("a reload");
    }

    /// Waits until the standby has a copy of the run's slot that outlives a promotion.
    pub(crate) async fn has_the_slot(&self, pair: &Pair) {
        let sql = format!(
            "SELECT count(*) > 0 FROM pg_replication_slots \
             WHERE database = '{}' AND synced AND NOT temporary",
            pair.name
        );
        wait_until("the slot to be on the standby", SYNCED_WITHIN, async || {
            self.primary.execute("postgres", "SELECT pg_log_standby_snapshot()").await.is_ok()
                && self.standby.query_text("postgres", &sql).await.ok().flatten().as_deref()
                    == Some("t")
        })
        .await
        .expect("it is taken along");
    }

    /// The standby gets nothing more.
    pub(crate) async fn falls_behind(&self) {
        let client = self.standby.connect("postgres").await.expect("a session");
        for sql in ["ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"] {
            client.batch_execute(sql).await.expect("a setting");
        }
        let alone = "SELECT count(*) = 0 FROM pg_stat_wal_receiver";
        wait_until("the standby to be alone", COMMAND_WITHIN, async || {
            client.query_one(alone, &[]).await.expect("an answer").get(0)
        })
        .await
        .expect("it is");
    }

    /// The standby is one, and its primary's slots stay where they are.
    async fn takes_no_slots(&self) {
        let client = self.standby.connect("postgres").await.expect("a session");
        for sql in ["ALTER SYSTEM SET sync_replication_slots = off", "SELECT pg_reload_conf()"] {
            client.batch_execute(sql).await.expect("a setting");
        }
    }

    /// The server that took over gets a standby of its own.
    async fn gets_a_standby(self) -> Self {
        let Self { standby: mut primary, .. } = self;
        let standby = primary.standby(&[]).await.expect("a standby");
        Self { primary, standby }
    }

    pub(crate) async fn fails_over(&mut self) {
        self.primary_dies().await;
        self.standby_is_promoted().await;
    }

    /// The standby answers where the primary did, and takes no writes yet.
    pub(crate) async fn primary_dies(&mut self) {
        let port = self.primary.port();
        self.primary.kill9().await.expect("the primary ends");
        self.standby.answer_at(port).await.expect("the standby answers");
    }

    pub(crate) async fn standby_is_promoted(&self) {
        self.standby.promote().await.expect("the standby takes over");
        // It has no standby of its own that its slots and commits could wait for.
        if self.standby.major() < 17 {
            return;
        }
        let client = self.standby.connect("postgres").await.expect("a session");
        for sql in [
            "ALTER SYSTEM RESET synchronous_standby_names",
            "ALTER SYSTEM RESET synchronized_standby_slots",
            "SELECT pg_reload_conf()",
        ] {
            client.batch_execute(sql).await.expect("a setting");
        }
    }
}

/// Clients are served, and the run has followed `times` failovers.
async fn goes_on(pair: &Pair, run: &mut Run, load: &Load, times: usize) {
    let before = load.view().acknowledged;
    wait_until("clients to be served", COMMAND_WITHIN, async || {
        load.view().acknowledged.iter().zip(&before).all(|(now, then)| *now >= then + 2)
    })
    .await
    .unwrap_or_else(|e| panic!("{e} after failover {times}: {:?}", load.view()));
    wait_until("the run to go on", COMMAND_WITHIN, async || {
        pair.desk.log().matches("another server took over").count() >= times
    })
    .await
    .expect("it follows the new server");
    run.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_fail_over_and_the_run_goes_on_without_loss() {
    let all = find_postgres();
    let installs: Vec<_> = all.iter().filter(|i| i.major >= 17).collect();
    let (Some(old), Some(new)) = (installs.first(), installs.last()) else {
        panic!("no server takes slots along: run scripts/setup test");
    };
    let (mut blue, mut green) = tokio::join!(Guarded::start(old, &[]), Guarded::start(new, &[]));
    shop::roles(&[&blue.primary, &green.primary]).await.expect("roles");
    let pair = Pair::open("failover", &blue.primary, &green.primary, "").await;
    pair.desk.waits_for_open_transactions();
    tokio::join!(blue.loses_nothing(), green.loses_nothing());
    let load = pair.load();
    let mut run = pair.desk.run();
    run.ready().await;
    tokio::join!(blue.has_the_slot(&pair), green.has_the_slot(&pair));

    // Green first: it holds the position of the stream, and the slot of the way back.
    green.fails_over().await;
    goes_on(&pair, &mut run, &load, 1).await;
    pair.desk.wakes_the_fence(&mut run).await;
    // Blue in the middle of a move, which waits for a client that is writing.
    let write = "BEGIN; INSERT INTO audit_log (what) VALUES ('held')";
    let (asked, writer) = pair.held_in_the_fence("switch", Side::Blue, write).await;
    blue.fails_over().await;
    drop(writer);
    asked.await.expect("the command ends").exits(1);
    goes_on(&pair, &mut run, &load, 2).await;
    pair.desk.ask(&["verify"]).await.exits(0);
    pair.desk.moves("switch").await.exits(0);
    pair.desk.moves("rollback").await.exits(0);
    pair.close_the_books(load, Side::Blue).await;
    pair.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    pair.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_without_the_slot_ends_the_run_by_name() {
    let all = find_postgres();
    let (old, new) = (all.first().expect("PostgreSQL"), all.last().expect("PostgreSQL"));
    let (mut blue, green) =
        tokio::join!(Guarded::start(old, &[]), Postgres::start(new, PgOptions::new()));
    let green = green.expect("a server");
    shop::roles(&[&blue.primary, &green]).await.expect("roles");
    let pair = Pair::open("noslot", &blue.primary, &green, "").await;
    pair.desk.ask(&["check"]).await.exits(0).says("CUT0193");
    let mut run = pair.desk.run();
    run.ready().await;
    blue.standby.catch_up(&blue.primary).await.expect("nothing is lost");
    blue.fails_over().await;
    run.status("the stop", READY_WITHIN, |s| {
        s["streams"]["forward"]["health"]["stopped"]["code"] == "CUT0217"
            && s["ready"]["state"] != "ready"
    })
    .await;
    pair.desk.ask(&["switch"]).await.exits(1);
    // Clients have what they had, and a process that knows nothing of it stops as well.
    pair.does(Side::Blue, "INSERT INTO receipts VALUES (77, 1)").await;
    run.kill9();
    let mut run = pair.desk.run();
    run.status("the stop", READY_WITHIN, |s| {
        s["streams"]["forward"]["health"]["stopped"]["code"] == "CUT0217"
    })
    .await;
    pair.desk.ask(&["abort", "--yes"]).await.exits(0);
    run.ended(COMMAND_WITHIN).await;
    pair.nothing_is_left().await;
}

/// Green has the traffic, its standby takes over, and the way back is what it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_of_green_after_the_switch_keeps_the_way_back() {
    let all = find_postgres();
    let (old, new) = (all.first().expect("PostgreSQL"), all.last().expect("PostgreSQL"));
    assert!(new.major >= 17, "no server takes slots along: run scripts/setup test");
    let (blue, mut green) =
        tokio::join!(Postgres::start(old, PgOptions::new()), Guarded::start(new, &[]));
    let blue = blue.expect("a server");
    shop::roles(&[&blue, &green.primary]).await.expect("roles");
    let pair = Pair::open("switched", &blue, &green.primary, "").await;
    green.loses_nothing().await;
    let load = pair.load();
    let mut run = pair.desk.run();
    run.ready().await;
    pair.desk.moves("switch").await.exits(0);
    green.has_the_slot(&pair).await;
    green.fails_over().await;
    goes_on(&pair, &mut run, &load, 1).await;
    pair.desk.ask(&["verify"]).await.exits(0);
    pair.desk.moves("rollback").await.exits(0);
    pair.close_the_books(load, Side::Blue).await;
    // Once more, and this time the slot is not taken along.
    green = green.gets_a_standby().await;
    green.takes_no_slots().await;
    run.ready().await;
    pair.desk.moves("switch").await.exits(0);
    pair.does(Side::Green, "INSERT INTO receipts VALUES (77, 1)").await;
    green.standby.catch_up(&green.primary).await.expect("nothing is lost");
    green.fails_over().await;
    let stopped = |s: &Value| {
        s["streams"]["back"]["health"]["stopped"]["code"] == "CUT0217"
            && s["ready"]["state"] == "never"
            && s["owner"] == "green"
    };
    run.status("the stop", READY_WITHIN, stopped).await;
    pair.desk.ask(&["rollback"]).await.exits(1);
    pair.does(Side::Green, "INSERT INTO receipts VALUES (77, 2)").await;
    // What the remedy says; the other word is refused, since it would give up the wrong side.
    let status = pair.desk.ask(&["status"]).await;
    status.says("cutover finish");
    pair.desk.ask(&["abort", "--yes"]).await.exits(1).says("CUT0508");
    pair.desk.ask(&["finish", "--yes"]).await.exits(0);
    run.ended(COMMAND_WITHIN).await;
    pair.nothing_is_left().await;
    pair.holds(Side::Green, "SELECT count(*) = 2 FROM receipts WHERE client = 77").await;
}

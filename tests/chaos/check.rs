//! Everything that must hold, compared after each round while clients are quiet.

use std::time::{Duration, Instant};

use cutover_core::model::side::Side;
use cutover_sandbox::{
    shop::{self, LoadView},
    wait_for, wait_until,
};
use tokio_postgres::Client;

use crate::{
    arena::{BUSY, CALM},
    early::early_in,
    history::{History, Term},
    program::processes,
    rows,
    story::{EQUAL_WITHIN, MOVES, Story, owners},
    world::BUDGET,
};

impl Story<'_> {
    /// Everything that must hold once all is mended: clients are served, both sides hold the same
    /// rows, one of them takes writes, and what clients were told is true.
    pub(crate) async fn check(&mut self) {
        self.ready().await;
        self.noticed().await;
        self.repaired().await;
        let view = self.served_and_quiet().await;
        self.rows_are_equal().await;
        let owner = self.owner();
        self.arena.world.only_takes_writes(owner).await;
        self.history_is_right(owner, &view).await;
        self.load.hold(false);
    }

    /// After the end: what clients were told is true, and nothing is left.
    pub(crate) async fn close(&mut self) {
        let view = self.served_and_quiet().await;
        self.history_is_right(self.owner(), &view).await;
        self.run = None;
        let world = &self.arena.world;
        wait_for("no process to be left", EQUAL_WITHIN, async || {
            processes(&world.desk).is_empty().then_some(())
        })
        .await
        .unwrap_or_else(|e| panic!("{e}: {:?}", processes(&world.desk)));
        world.nothing_is_left().await;
    }

    /// Every client is served; then all of them finish what they do and begin nothing new.
    async fn served_and_quiet(&mut self) -> LoadView {
        let load = &self.load;
        load.set_rate(BUSY);
        self.arena.world.traffic_flows(load, BUDGET + Duration::from_secs(10)).await;
        self.busy_until = None;
        load.set_rate(CALM);
        self.quiet().await;
        load.view()
    }

    async fn quiet(&self) {
        let load = &self.load;
        load.hold(true);
        wait_until("clients to finish what they do", EQUAL_WITHIN, async || load.is_idle())
            .await
            .expect("quiet");
    }

    /// Both sides hold the same rows, row by row; clients are quiet from here on.
    pub(crate) async fn rows_are_equal(&self) {
        self.quiet().await;
        let world = &self.arena.world;
        let [blue, green] = [world.superuser(Side::Blue).await, world.superuser(Side::Green).await];
        // Each transaction leaves one: before they agree there is no use in looking at every row.
        // When they never do, the rows say what is wrong.
        let receipts = async |client: &Client| {
            let sql = "SELECT count(*) || ' ' || coalesce(sum(n), 0) FROM receipts";
            client.query_one(sql, &[]).await.expect("receipts").get::<_, String>(0)
        };
        let _may_fail = wait_until("the same receipts", EQUAL_WITHIN, async || {
            receipts(&blue).await == receipts(&green).await
        })
        .await;
        let mut differ = String::new();
        let equal = wait_until("both sides to hold the same rows", EQUAL_WITHIN, async || {
            let (blue, green) = (rows::of(&blue).await, rows::of(&green).await);
            differ = rows::differences(&blue, &green);
            differ.is_empty()
        })
        .await;
        equal.unwrap_or_else(|e| panic!("{e}: {differ}"));
    }

    /// What clients were told since the beginning is what the owner of the writes holds. Notes what
    /// the time since the last comparison was like, and begins a new term.
    async fn history_is_right(&mut self, owner: Side, view: &LoadView) {
        let mut heard = self.load.heard();
        heard.extend(self.heard.iter().cloned());
        let world = &self.arena.world;
        let client = world.superuser(owner).await;
        let books = shop::check(&client, &view.acknowledged, &view.unknown).await.expect("books");
        assert!(books.are_right(), "{books:?} after {view:?}");
        let rows = client.query("SELECT client, n FROM receipts", &[]).await.expect("receipts");
        let receipts: Vec<(usize, u64)> = rows
            .iter()
            .map(|row| {
                let (client, n): (i32, i64) = (row.get(0), row.get(1));
                (usize::try_from(client).unwrap_or(usize::MAX), n.unsigned_abs())
            })
            .collect();
        let decided = owners(&world.desk.facts(MOVES)).len() - 1;
        let earlier: usize = self.terms.iter().map(|term| term.decided).sum();
        let term = self.terms.last_mut().expect("a term");
        term.decided = decided - earlier;
        let since = term.since;
        self.now.moves += term.decided;
        let sides = [Side::Blue, Side::Green].map(|side| (world.server(side).port(), side));
        let history = History {
            heard: &heard,
            receipts: &receipts,
            sides: sides.into(),
            terms: &self.terms,
            outages: &self.outages,
            longest: BUDGET + Duration::from_secs(2),
        };
        let wrong = history.faults();
        let outages: Vec<&str> = self.outages.iter().map(|o| o.what.as_str()).collect();
        assert!(wrong.is_empty(), "{wrong:#?}\n{outages:#?}");
        let of_this_term = || heard.iter().filter(|h| h.began >= since);
        let longest = of_this_term().map(|h| history.waited(h)).max().unwrap_or_default();
        let early = early_in(&world.desk.log());
        self.now.attempts += of_this_term().count();
        self.now.longest = self.now.longest.max(longest);
        self.now.acknowledged += view.done - self.before.0;
        self.now.early = [0, 1].map(|i| self.now.early[i] + early[i] - self.before.1[i]);
        self.before = (view.done, early);
        self.terms.push(Term { since: Instant::now(), owner, decided: 0 });
    }
}

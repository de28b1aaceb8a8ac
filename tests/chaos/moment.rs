//! How a migration comes to a moment, and is struck there.

use std::time::{Duration, Instant};

use cutover_core::model::side::Side;
use cutover_sandbox::{shop::Heard, wait_until};
use serde_json::Value;
use tokio::{task::JoinHandle, time::sleep};
use tokio_postgres::Client;

use crate::{
    arena::BUSY,
    plan::{Moment, Round},
    program::Ended,
    story::{AGAIN, MOVES, RUN, Story, command, from, open_move},
    world::PASS,
};

/// How long a moment may take to come.
const COMES_WITHIN: Duration = Duration::from_secs(120);
/// How often it is looked whether the command that leads to a moment has ended without it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many large transactions are tried until one comes to where it is aimed at.
const TRIES: u64 = 3;
/// Tables of which a row goes, and what is changed of it.
const TAMPERED: [(&str, &str); 3] = [
    ("accounts", "tier = tier"),
    ("products", "price = price + 1"),
    ("events_2026_01", "kind = 'x'"),
];
/// What an alien hand does to rows that no client changes.
const ALIEN: [&str; 3] = [
    "UPDATE transfers SET amount = amount + 1 WHERE id = (SELECT min(id) FROM transfers)",
    "DELETE FROM order_items WHERE (order_id, line) IN \
     (SELECT order_id, line FROM order_items ORDER BY 1, 2 LIMIT 1)",
    "INSERT INTO transfers (id, sender, receiver, amount) OVERRIDING SYSTEM VALUE \
     VALUES (-1, 1, 2, 3) ON CONFLICT (id) DO UPDATE SET amount = 4",
];
/// So many transactions are acknowledged while clients are busy, before a fault.
const BUSY_FOR: u64 = 12;
/// How long that may take: nobody keeps them from it.
const BUSY_WITHIN: Duration = Duration::from_secs(60);
/// How long clients stay busy when everything is mended, at most.
const STAYS_BUSY: Duration = Duration::from_secs(1);

/// What is under way when the moment has come.
#[derive(Default)]
struct UnderWay {
    /// The command that led to it.
    asked: Option<JoinHandle<Ended>>,
    /// A large transaction of the campaign's own.
    large: Option<JoinHandle<Heard>>,
}

impl Story<'_> {
    /// Goes to the moment of the round, strikes there, and waits for the end of what was under way.
    pub(crate) async fn come_to_and_strike(&mut self, number: u64, round: &Round) {
        let UnderWay { asked, large } = self.come_to(number, round).await;
        sleep(round.delay).await;
        self.now.met = self.doing();
        self.strike(round.fault).await;
        if let Some((after, fault)) = round.second {
            let again = Instant::now() + after;
            while Instant::now() < again {
                self.keep_up_unless_over();
                sleep(Duration::from_millis(20)).await;
            }
            self.strike(fault).await;
        }
        self.busy_until = Some(Instant::now() + STAYS_BUSY);
        if let Some(large) = large {
            self.heard.push(large.await.expect("the client ends"));
            self.load.let_large(true);
        }
        if let Some(asked) = asked {
            self.hear(asked).await;
        }
    }

    /// Waits for the end of a command, which may wait for a run that nobody has started again.
    async fn hear(&mut self, mut asked: JoinHandle<Ended>) -> Ended {
        let ended = loop {
            tokio::select! {
                ended = &mut asked => break ended.expect("the command ends"),
                () = sleep(Duration::from_millis(20)) => self.keep_up_unless_over(),
            }
        };
        self.resolve(&ended).await;
        ended
    }

    async fn come_to(&mut self, number: u64, round: &Round) -> UnderWay {
        let desk = self.arena.world.desk.clone();
        let mut under_way = UnderWay::default();
        match round.moment {
            Moment::Preflight => self.load.set_rate(BUSY),
            Moment::Schema => {
                self.load.set_rate(BUSY);
                self.comes("began").await;
            }
            Moment::Copy => {
                self.comes("copy_began").await;
                // Not before: what is large would be copied slowly as well.
                self.load.set_rate(BUSY);
            }
            Moment::Indexes => {
                self.load.set_rate(BUSY);
                self.comes("copy_ended").await;
            }
            Moment::CatchingUp => {
                self.load.set_rate(BUSY);
                self.comes("definitions_after_rows").await;
            }
            Moment::Verify => {
                self.ready_and_busy(round).await;
                under_way.asked = Some(desk.begin(&["verify"]));
            }
            Moment::Armed => self.ready_and_busy(round).await,
            Moment::Restart(side) => {
                self.bring_to(side).await;
                self.ready_and_busy(round).await;
                if let Some(run) = &mut self.run {
                    run.terminate().await;
                }
                self.start();
            }
            Moment::Early(side, aim) => {
                self.bring_to(side).await;
                // The one that is aimed at has the session for large ones for itself.
                self.load.let_large(false);
                let load = &self.load;
                wait_until("large transactions to end", BUSY_WITHIN, async || !load.is_in_large())
                    .await
                    .expect("they end");
                for attempt in 1..=TRIES {
                    self.ready_and_busy(round).await;
                    let number = number * TRIES + attempt;
                    let (large, came) = self.come_to_early(side, aim, number, round).await;
                    if came || attempt == TRIES {
                        self.now.missed = !came;
                        under_way.large = Some(large);
                        break;
                    }
                    // The stream may have stood still for a comparison, or given it up.
                    self.now.restarts.push(format!("no {aim:?}: {}", self.last_words()));
                    self.heard.push(large.await.expect("the client ends"));
                }
            }
            Moment::Repair(side) => {
                self.bring_to(side).await;
                self.ready_and_busy(round).await;
                under_way.asked = Some(self.come_to_repair(side, round.large).await);
            }
            Moment::Alien(side) => {
                self.bring_to(side).await;
                self.ready_and_busy(round).await;
                self.change_behind_its_back(side.other(), round.large).await;
            }
            Moment::Move(side, step) => {
                under_way.asked = Some(self.come_to_step(side, step, round).await);
            }
            Moment::Moved(side) => {
                self.bring_to(side).await;
                self.ready_and_busy(round).await;
                self.make_move().await;
            }
            Moment::Finish | Moment::Abort => {
                let (side, commands): (_, &'static [&'static str]) = match round.moment {
                    Moment::Finish => (Side::Green, &["finish", "--yes"]),
                    _ => (Side::Blue, &["abort", "--yes"]),
                };
                self.bring_to(side).await;
                self.check().await;
                self.load.set_rate(BUSY);
                under_way.asked = Some(desk.begin(commands));
                self.comes("removing").await;
            }
        }
        under_way
    }

    /// Waits until the journal of the run has a fact of this name.
    async fn comes(&self, name: &'static str) {
        let has = move |facts: &[Value]| facts.iter().any(|fact| fact["fact"] == name);
        let seen = self.arena.world.desk.watch(RUN, 0, COMES_WITHIN, has).await;
        assert!(seen, "no {name} within {COMES_WITHIN:?}");
    }

    /// Takes a row away behind the back of the program, changes it on `side`, and has the table
    /// copied again; returns the command.
    async fn come_to_repair(&mut self, side: Side, row: u64) -> JoinHandle<Ended> {
        let world = &self.arena.world;
        let (table, change) = TAMPERED[(row % TAMPERED.len() as u64) as usize];
        let one = format!("id = (SELECT min(id) FROM {table})");
        self.tampered = true;
        let other = world.superuser(side.other()).await;
        let pass = format!("{PASS}; SET session_replication_role = replica");
        let gone = format!("{pass}; DELETE FROM {table} WHERE {one}");
        other.batch_execute(&gone).await.expect("tampering");
        let change = format!("UPDATE {table} SET {change} WHERE {one}");
        world.direct(side).await.batch_execute(&change).await.expect("a change");
        wait_until("the stream to stop", COMES_WITHIN, async || {
            let status = world.desk.status().await.unwrap_or_default();
            let mut alarms = status["alarms"].as_array().into_iter().flatten();
            alarms.any(|alarm| alarm["code"] == "CUT0401")
        })
        .await
        .unwrap_or_else(|e| panic!("{e}: {}", self.last_words()));
        let since = world.desk.length(RUN);
        let asked = world.desk.begin(&["verify", "--repair"]);
        let outdated = |facts: &[Value]| facts.iter().any(|fact| fact["fact"] == "outdated");
        let seen = world.desk.watch(RUN, since, COMES_WITHIN, outdated).await;
        assert!(seen, "no table is copied again: {}", self.last_words());
        asked
    }

    /// Changes a row that no client comes back to, where nobody may.
    async fn change_behind_its_back(&mut self, side: Side, row: u64) {
        let how = ALIEN[(row % ALIEN.len() as u64) as usize];
        self.tampered = true;
        self.unnoticed = true;
        let client = self.arena.world.superuser(side).await;
        client.batch_execute(&format!("{PASS}; {how}")).await.expect("tampering");
    }

    /// Asks for a move from `side` until one comes to `step`, and returns the command.
    async fn come_to_step(
        &mut self,
        side: Side,
        step: &'static str,
        round: &Round,
    ) -> JoinHandle<Ended> {
        let desk = self.arena.world.desk.clone();
        let is_there = move |fact: &Value| fact["fact"] == "step" && fact["step"] == step;
        let mut said = Vec::new();
        for _ in 0..AGAIN {
            self.bring_to(side).await;
            self.ready_and_busy(round).await;
            let writer = match round.writer {
                Some(lasting) => {
                    self.wake_the_fence().await;
                    Some((self.hold_a_write(side).await, lasting))
                }
                None => None,
            };
            let since = desk.length(MOVES);
            let commands: &'static [&'static str] = match command(side) {
                "switch" => &["switch"],
                _ => &["rollback"],
            };
            let asked = desk.begin(commands);
            if let Some((writer, lasting)) = writer {
                tokio::spawn(async move {
                    sleep(lasting).await;
                    drop(writer);
                });
            }
            // One that is refused, or taken back before, never comes there.
            let comes = move |facts: &[Value]| {
                facts.iter().any(|fact| is_there(fact) || fact["fact"] == "ended")
            };
            while !desk.watch(MOVES, since, LOOK_EVERY, comes).await && !asked.is_finished() {}
            if desk.facts_since(MOVES, since).iter().any(is_there) {
                return asked;
            }
            said.push(self.hear(asked).await.said);
        }
        panic!("no move from {side} comes to {step}: {said:#?}");
    }

    /// Waits until a move would be accepted and clients have been busy for a while; where the round
    /// says so, one of them is in the middle of a large transaction then.
    async fn ready_and_busy(&mut self, round: &Round) {
        self.ready().await;
        self.load.set_rate(BUSY);
        let load = &self.load;
        let enough = load.view().done + BUSY_FOR;
        wait_until("busy clients", BUSY_WITHIN, async || load.view().done >= enough)
            .await
            .unwrap_or_else(|e| panic!("{e}: {:?}", load.view()));
        self.ready().await;
        if round.amid_large {
            let load = &self.load;
            wait_until("a large transaction", BUSY_WITHIN, async || {
                // Asked for again: the last one may have met a connection that was broken.
                load.make_large_next();
                load.is_in_large()
            })
            .await
            .unwrap_or_else(|e| panic!("{e}: {:?}", load.view()));
        }
    }

    /// The first rehearsal or move waits for writers before it pauses anybody; later ones meet them
    /// in the pause.
    async fn wake_the_fence(&mut self) {
        if self.has_moved() {
            return;
        }
        let mut said = Vec::new();
        for _ in 0..AGAIN {
            self.ready().await;
            let asked = self.arena.world.desk.ask(&["rehearse"]).await;
            if asked.exit == 0 {
                self.ready().await;
                return;
            }
            said.push(asked.said);
        }
        panic!("no rehearsal succeeds: {said:#?}");
    }

    /// What the journals say is under way.
    fn doing(&self) -> String {
        let facts = self.arena.world.desk.facts(MOVES);
        let began = facts.iter().rposition(|f| f["fact"] == "move_began").unwrap_or(0);
        if open_move(&facts).is_some() {
            let last = facts[began..].iter().rfind(|f| f["outcome"] == "started");
            let step = last.map_or("beginning", |f| f["step"].as_str().unwrap_or_default());
            let undo = last.is_some_and(|f| f["fact"] == "undo");
            let undo = if undo { "undo " } else { "" };
            return format!("{} {undo}{step}", from(&facts[began]));
        }
        let last = self.arena.world.desk.facts(RUN).into_iter().next_back();
        let last = last.map_or_else(String::new, |f| f["fact"].as_str().unwrap_or("").to_owned());
        format!("after {last}")
    }

    /// A client that goes around the pooler and is in the middle of a write.
    async fn hold_a_write(&self, side: Side) -> Client {
        let writer = self.arena.world.direct(side).await;
        let write = "BEGIN; INSERT INTO audit_log (what) VALUES ('held')";
        writer.batch_execute(write).await.expect("a write");
        writer
    }
}

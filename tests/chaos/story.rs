//! One migration from start to end, by an operator who follows the documents: start `cutover run`
//! again when it has ended, ask for the status, ask for the move again.

use std::{
    mem,
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

use cutover_core::model::side::Side;
use cutover_sandbox::shop::{Heard, Load};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::{
    arena::{Arena, CALM},
    history::{Outage, Term},
    plan::{Moment, Plan, Round},
    program::{Ended, Run},
};

pub(crate) const MOVES: &str = "moves.journal";
pub(crate) const RUN: &str = "run.journal";
/// A round, or an end, that takes longer hangs.
const ROUND_WITHIN: Duration = Duration::from_secs(900);
/// How long a run may take to get up again after everything was mended.
const UP_WITHIN: Duration = Duration::from_secs(300);
/// How long both sides may take to become equal when clients are quiet.
pub(crate) const EQUAL_WITHIN: Duration = Duration::from_secs(30);
/// How often anything may have to be begun again.
pub(crate) const AGAIN: usize = 20;
/// How long a stopped stream is looked at before the operator does what its remedy says.
const LOOKS: Duration = Duration::from_secs(3);
/// Alarms of rows that are not as they should be.
const OF_ROWS: [&str; 4] = ["CUT0401", "CUT0402", "CUT0601", "CUT0701"];
/// How often the status is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// An open move, by its facts.
pub(crate) struct OpenMove {
    pub(crate) decided: bool,
}

pub(crate) fn from(fact: &Value) -> Side {
    if fact["from"] == "green" { Side::Green } else { Side::Blue }
}

fn decides(fact: &Value) -> bool {
    fact["step"] == "decide" && fact["outcome"] == "done"
}

/// The move that has no end yet.
pub(crate) fn open_move(facts: &[Value]) -> Option<OpenMove> {
    let began = facts.iter().rposition(|f| f["fact"] == "move_began")?;
    let rest = &facts[began..];
    let open = !rest.iter().any(|f| f["fact"] == "ended");
    open.then(|| OpenMove { decided: rest.iter().any(decides) })
}

/// Owners of the writes one after the other, by the decisions.
pub(crate) fn owners(facts: &[Value]) -> Vec<Side> {
    let mut owners = vec![Side::Blue];
    let mut mover = Side::Blue;
    for fact in facts {
        if fact["fact"] == "move_began" {
            mover = from(fact);
        }
        if decides(fact) {
            owners.push(mover.other());
        }
    }
    owners
}

/// What a round was like.
#[derive(Default)]
pub(crate) struct Told {
    /// Where the (first) fault met the program.
    pub(crate) met: String,
    /// The moment did not come, and the fault struck all the same.
    pub(crate) missed: bool,
    /// Attempts of clients.
    pub(crate) attempts: usize,
    /// Acknowledged transactions.
    pub(crate) acknowledged: u64,
    /// The longest wait beside outages.
    pub(crate) longest: Duration,
    /// Moves that were decided.
    pub(crate) moves: usize,
    /// Large transactions that were applied while they ran, and those of them that were given up.
    pub(crate) early: [usize; 2],
    /// How often `cutover run` was started again, and what for.
    pub(crate) restarts: Vec<String>,
    /// How long it took.
    pub(crate) took: Duration,
}

/// A migration under way.
pub(crate) struct Story<'a> {
    pub(crate) arena: &'a mut Arena,
    pub(crate) run: Option<Run>,
    pub(crate) load: Load,
    pub(crate) outages: Vec<Outage>,
    /// Neither the program nor its guard has been there since, and a move was open.
    pub(crate) nobody_since: Option<Instant>,
    /// What clients of large transactions that are aimed at were told, beside the load.
    pub(crate) heard: Vec<Heard>,
    /// One begins whenever clients are quiet and everything was checked.
    pub(crate) terms: Vec<Term>,
    /// The present round.
    pub(crate) now: Told,
    /// How many acknowledged transactions, and large ones in the log, came before this round.
    pub(crate) before: (u64, [usize; 2]),
    starts: usize,
    /// Somebody changed rows where nobody may, and they were not made right yet.
    pub(crate) tampered: bool,
    /// And nothing was said of it so far.
    pub(crate) unnoticed: bool,
    /// When everything has been mended for a while.
    pub(crate) busy_until: Option<Instant>,
}

impl<'a> Story<'a> {
    pub(crate) fn new(arena: &'a mut Arena) -> Self {
        Self {
            terms: vec![Term { since: Instant::now(), owner: Side::Blue, decided: 0 }],
            load: arena.load(),
            arena,
            run: None,
            outages: Vec::new(),
            nobody_since: None,
            heard: Vec::new(),
            now: Told::default(),
            before: (0, [0, 0]),
            starts: 0,
            tampered: false,
            unnoticed: false,
            busy_until: None,
        }
    }

    /// Tells it, round after round, until `until`; each that holds is given to `held`. Panics with
    /// what is wrong. Returns what came after the last one.
    pub(crate) async fn tell(
        mut self,
        plan: &Plan,
        until: Option<Instant>,
        mut held: impl FnMut(Told),
    ) -> Told {
        self.start();
        for (number, round) in (1..).zip(&plan.rounds) {
            if number > 1 && until.is_some_and(|until| until < Instant::now()) {
                break;
            }
            let began = Instant::now();
            within_time("the round", self.round(number, round)).await;
            self.now.took = began.elapsed();
            held(mem::take(&mut self.now));
        }
        if !self.is_removed() {
            within_time("the end", async {
                self.make_move().await;
                self.check().await;
                let command = match self.owner() {
                    Side::Green => "finish",
                    Side::Blue => "abort",
                };
                self.end(command).await;
                self.close().await;
            })
            .await;
        }
        self.now
    }

    /// Strikes, mends, and compares everything that must hold.
    async fn round(&mut self, number: u64, round: &Round) {
        self.starts = 0;
        self.come_to_and_strike(number, round).await;
        match round.moment {
            Moment::Finish => {
                self.end("finish").await;
                self.close().await;
            }
            Moment::Abort => {
                self.end("abort").await;
                self.close().await;
            }
            _ => self.check().await,
        }
    }

    pub(crate) fn owner(&self) -> Side {
        owners(&self.arena.world.desk.facts(MOVES)).last().copied().unwrap_or(Side::Blue)
    }

    /// Whether a move was ever decided.
    pub(crate) fn has_moved(&self) -> bool {
        owners(&self.arena.world.desk.facts(MOVES)).len() > 1
    }

    pub(crate) fn move_is_open(&self) -> bool {
        open_move(&self.arena.world.desk.facts(MOVES)).is_some()
    }

    pub(crate) fn start(&mut self) {
        self.run = Some(self.arena.world.desk.run());
        if let Some(from) = self.nobody_since.take() {
            let what = "nobody was left to let clients go".to_owned();
            self.outages.push(Outage { from, to: Instant::now(), what });
        }
    }

    /// Starts `cutover run` again when it has ended.
    fn keep_up(&mut self) {
        let Some(status) = self.run.as_mut().and_then(Run::exit) else { return };
        if status.signal().is_none() {
            self.now.restarts.push(format!("{status}: {}", self.last_words()));
        }
        self.starts += 1;
        assert!(self.starts < AGAIN, "started again and again: {:#?}", self.now.restarts);
        self.start();
    }

    /// What the program said last, the last first.
    pub(crate) fn last_words(&self) -> String {
        let log = self.arena.world.desk.log();
        log.lines().rev().take(3).collect::<Vec<_>>().join(" < ")
    }

    /// Waits until a move would be accepted.
    pub(crate) async fn ready(&mut self) -> Value {
        let began = Instant::now();
        let mut stopped: Option<Instant> = None;
        let mut last = Value::Null;
        while began.elapsed() < UP_WITHIN {
            self.keep_up();
            if self.busy_until.is_some_and(|until| until < Instant::now()) {
                self.busy_until = None;
                self.load.set_rate(CALM);
            }
            let status = self.arena.world.desk.status().await.unwrap_or_default();
            last.clone_from(&status);
            if status["ready"]["state"] == "ready" {
                return status;
            }
            let alarms: Vec<&Value> = status["alarms"].as_array().into_iter().flatten().collect();
            let of_rows = |alarm: &&&Value| OF_ROWS.iter().any(|code| alarm["code"] == *code);
            let others = alarms.iter().any(|alarm| !of_rows(&alarm));
            // A stream that has stopped for another reason comes first: nothing is repaired before.
            if let Some(alarm) = alarms.iter().find(of_rows).filter(|_| !others) {
                self.unnoticed = false;
                if !self.tampered {
                    self.rows_are_equal().await;
                    panic!("an alarm although all rows are equal: {alarm}");
                }
                self.repair().await;
                continue;
            }
            if others {
                // What the remedies of stopped streams come to when the cause is mended.
                if stopped.get_or_insert_with(Instant::now).elapsed() > LOOKS {
                    stopped = None;
                    self.now.restarts.push(format!("alarm: {}", status["alarms"]));
                    if let Some(run) = &mut self.run {
                        run.terminate().await;
                    }
                    self.start();
                }
            }
            sleep(LOOK_EVERY).await;
        }
        panic!("not ready within {UP_WITHIN:?}: {last}");
    }

    /// What the remedy of differing rows says; whether all rows are equal then.
    async fn repair(&mut self) -> bool {
        let asked = self.arena.world.desk.ask(&["verify", "--repair"]).await;
        assert!(matches!(asked.exit, 0 | 1 | 3), "{}", asked.said);
        asked.exit == 0
    }

    /// Makes right what an alien hand did.
    pub(crate) async fn repaired(&mut self) {
        for _ in 0..AGAIN {
            if !self.tampered {
                return;
            }
            self.ready().await;
            self.tampered = !self.repair().await;
        }
        panic!("rows are not made right: {}", self.last_words());
    }

    /// Makes a move away from the owner, as often as it has to be asked for.
    pub(crate) async fn make_move(&mut self) {
        let owner = self.owner();
        let mut said = Vec::new();
        for _ in 0..AGAIN {
            self.ready().await;
            let asked = self.arena.world.desk.ask(&[command(owner)]).await;
            self.resolve(&asked).await;
            if self.owner() != owner {
                return;
            }
            said.push(asked.said);
        }
        panic!("no move from {owner} succeeds: {said:#?}");
    }

    /// What an alien hand did is told before a move, or does no harm. A rollback waits for no
    /// comparison: here it is asked for behind one.
    pub(crate) async fn noticed(&mut self) {
        let began = Instant::now();
        while self.unnoticed && self.ready().await["proof"]["full_pass"].is_null() {
            assert!(began.elapsed() < UP_WITHIN, "nothing is compared: {}", self.last_words());
            sleep(LOOK_EVERY).await;
        }
        if self.unnoticed {
            self.make_move().await;
        }
        if mem::take(&mut self.unnoticed) {
            self.rows_are_equal().await;
            self.load.hold(false);
        }
    }

    /// Makes a move unless `side` owns the writes.
    pub(crate) async fn bring_to(&mut self, side: Side) {
        if self.owner() != side {
            self.make_move().await;
        }
    }

    /// An operator's word, when one is asked for: what the pooler says.
    pub(crate) async fn resolve(&mut self, asked: &Ended) {
        assert!(matches!(asked.exit, 0 | 1 | 3 | 4), "{}", asked.said);
        if asked.exit != 4 {
            return;
        }
        let port = self.pooler_points_at().await;
        let side = [Side::Blue, Side::Green]
            .into_iter()
            .find(|side| self.arena.world.server(*side).port() == port)
            .expect("a server of ours");
        self.now.restarts.push(format!("an operator said {side}"));
        self.arena.world.desk.ask(&["resolve", "--owner", side.as_str()]).await;
    }

    async fn pooler_points_at(&self) -> u16 {
        let rows = self.arena.world.shop.pooler.admin("SHOW DATABASES").await.expect("databases");
        let row = rows.iter().find(|row| row.get("name") == Some("shop")).expect("the shop");
        row.get("port").and_then(|port| port.parse().ok()).expect("a port")
    }

    /// As `keep_up`, unless the run is over.
    pub(crate) fn keep_up_unless_over(&mut self) {
        if !self.is_removed() {
            self.keep_up();
        }
    }

    fn is_removed(&self) -> bool {
        self.arena.world.desk.facts(RUN).iter().any(|f| f["fact"] == "removed")
    }

    /// Gives the command that ends the run until nothing is left.
    async fn end(&mut self, command: &'static str) {
        let mut said = Vec::new();
        for _ in 0..AGAIN {
            if self.is_removed() {
                break;
            }
            self.keep_up();
            let asked = self.arena.world.desk.ask(&[command, "--yes"]).await;
            said.push(asked.said);
            sleep(Duration::from_millis(50)).await;
        }
        assert!(self.is_removed(), "`cutover {command}` does not end it: {said:#?}");
        // It says so itself, and the next one as well.
        if let Some(run) = &mut self.run {
            run.ended(UP_WITHIN).await;
        }
        self.arena.world.desk.ask(&["run", "--yes"]).await.exits(1).says("CUT0506");
    }
}

/// What takes too long hangs.
async fn within_time(what: &str, work: impl Future<Output = ()>) {
    let made = timeout(ROUND_WITHIN, work).await;
    made.unwrap_or_else(|_| panic!("it hangs: {what} has no end within {ROUND_WITHIN:?}"));
}

/// The command that moves the writes away from their owner.
pub(crate) fn command(owner: Side) -> &'static str {
    match owner {
        Side::Blue => "switch",
        Side::Green => "rollback",
    }
}

//! One run from start to end, by an operator who follows the documents: start `cutover run` again
//! when it has ended, ask for the status, ask for the move again.

use std::{
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

use cutover_core::model::side::Side;
use cutover_sandbox::{
    shop::{self, Heard, Load},
    wait_for, wait_until,
};
use serde_json::Value;
use tokio::time::sleep;
use tokio_postgres::Client;

use crate::{
    arena::{Arena, BUSY, CALM},
    early::early_in,
    history::{History, Outage},
    plan::{Moment, Plan},
    program::{Ended, Run, processes},
    world::BUDGET,
};

pub(crate) const MOVES: &str = "moves.journal";
const RUN: &str = "run.journal";
/// How long a run may take to get up again after everything was mended.
const UP_WITHIN: Duration = Duration::from_secs(300);
/// How long a moment may take to come.
const COMES_WITHIN: Duration = Duration::from_secs(120);
/// How long both sides may take to become equal when clients are quiet.
const EQUAL_WITHIN: Duration = Duration::from_secs(30);
/// How often anything may have to be begun again.
const AGAIN: usize = 20;
/// How long a stopped stream is looked at before the operator does what its remedy says.
const LOOKS: Duration = Duration::from_secs(3);
/// How long clients are busy before a fault, at least: long enough for one of them to be in the
/// middle of a large transaction.
const BUSY_FOR: Duration = Duration::from_millis(600);
/// How long they stay busy when everything is mended, at most.
const STAYS_BUSY: Duration = Duration::from_secs(2);
/// How often the status is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// An open move, by its facts.
pub(crate) struct OpenMove {
    pub(crate) decided: bool,
}

fn from(fact: &Value) -> Side {
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
fn owners(facts: &[Value]) -> Vec<Side> {
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

/// What a run was like.
pub(crate) struct Told {
    /// Where the (first) fault met the program.
    pub(crate) met: String,
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
}

/// A run under way.
pub(crate) struct Story<'a> {
    pub(crate) arena: &'a mut Arena,
    pub(crate) run: Option<Run>,
    load: Load,
    pub(crate) outages: Vec<Outage>,
    /// Neither the program nor its guard has been there since, and a move was open.
    pub(crate) nobody_since: Option<Instant>,
    met: String,
    starts: usize,
    restarts: Vec<String>,
    /// What the client of a large transaction was told, beside the load.
    heard: Option<Heard>,
    /// When everything has been mended for a while.
    busy_until: Option<Instant>,
}

impl<'a> Story<'a> {
    pub(crate) fn new(arena: &'a mut Arena, plan: &Plan) -> Self {
        Self {
            // The one that is aimed at has the session for large ones for itself.
            load: arena.load(!matches!(plan.moment, Moment::Early(..))),
            arena,
            run: None,
            outages: Vec::new(),
            nobody_since: None,
            met: String::new(),
            starts: 0,
            restarts: Vec::new(),
            heard: None,
            busy_until: None,
        }
    }

    /// Tells it. Panics with what is wrong.
    pub(crate) async fn tell(mut self, plan: &Plan) -> Told {
        self.start();
        self.come_to_and_strike(plan).await;
        let mut end = None;
        match plan.moment {
            Moment::Finish => end = Some("finish"),
            Moment::Abort => end = Some("abort"),
            _ => {
                for _ in 0..plan.moves_after {
                    self.make_move().await;
                }
                self.ready().await;
            }
        }
        self.load.set_rate(CALM);
        if end.is_none() {
            self.compare().await;
        }
        let end = end.unwrap_or(match self.owner() {
            Side::Green => "finish",
            Side::Blue => "abort",
        });
        self.end(end).await;
        self.close().await
    }

    pub(crate) fn owner(&self) -> Side {
        owners(&self.arena.world.desk.facts(MOVES)).last().copied().unwrap_or(Side::Blue)
    }

    pub(crate) fn move_is_open(&self) -> bool {
        open_move(&self.arena.world.desk.facts(MOVES)).is_some()
    }

    fn start(&mut self) {
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
            let log = self.arena.world.desk.log();
            let said: Vec<&str> = log.lines().rev().take(3).collect();
            self.restarts.push(format!("{status}: {}", said.join(" < ")));
        }
        self.starts += 1;
        assert!(self.starts < AGAIN, "started again and again: {:#?}", self.restarts);
        self.start();
    }

    /// Waits until a move would be accepted.
    async fn ready(&mut self) -> Value {
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
            for alarm in status["alarms"].as_array().into_iter().flatten() {
                let code = alarm["code"].as_str().unwrap_or_default();
                if ["CUT0401", "CUT0402", "CUT0601", "CUT0701"].contains(&code) {
                    self.compare().await;
                    panic!("an alarm although all rows are equal: {alarm}");
                }
            }
            if status["alarms"].as_array().is_some_and(|alarms| !alarms.is_empty()) {
                // What the remedies of stopped streams come to when the cause is mended.
                if stopped.get_or_insert_with(Instant::now).elapsed() > LOOKS {
                    stopped = None;
                    self.restarts.push(format!("alarm: {}", status["alarms"]));
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

    /// Waits until a move would be accepted and clients have been busy for a while.
    async fn ready_and_busy(&mut self) {
        self.ready().await;
        self.load.set_rate(BUSY);
        sleep(BUSY_FOR).await;
        self.ready().await;
    }

    /// Makes a move away from the owner, as often as it has to be asked for.
    async fn make_move(&mut self) {
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

    /// The first rehearsal or move waits for writers before it pauses anybody; later ones meet them
    /// in the pause.
    async fn wake_the_fence(&mut self, side: Side) {
        if side == Side::Green {
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

    /// An operator's word, when one is asked for: what the pooler says.
    async fn resolve(&mut self, asked: &Ended) {
        assert!(matches!(asked.exit, 0 | 1 | 3 | 4), "{}", asked.said);
        if asked.exit != 4 {
            return;
        }
        let port = self.pooler_points_at().await;
        let side = [Side::Blue, Side::Green]
            .into_iter()
            .find(|side| self.arena.world.server(*side).port() == port)
            .expect("a server of ours");
        self.restarts.push(format!("an operator said {side}"));
        self.arena.world.desk.ask(&["resolve", "--owner", side.as_str()]).await;
    }

    async fn pooler_points_at(&self) -> u16 {
        let rows = self.arena.world.shop.pooler.admin("SHOW DATABASES").await.expect("databases");
        let row = rows.iter().find(|row| row.get("name") == Some("shop")).expect("the shop");
        row.get("port").and_then(|port| port.parse().ok()).expect("a port")
    }

    /// Goes to the moment of the plan and strikes there.
    async fn come_to_and_strike(&mut self, plan: &Plan) {
        let fact =
            |name: &'static str| move |facts: &[Value]| facts.iter().any(|f| f["fact"] == name);
        let desk = self.arena.world.desk.clone();
        let mut asked = None;
        let mut large = None;
        if matches!(
            plan.moment,
            Moment::Preflight | Moment::Schema | Moment::Indexes | Moment::CatchingUp
        ) {
            self.load.set_rate(BUSY);
        }
        match plan.moment {
            Moment::Preflight => {}
            Moment::Schema => drop(desk.watch(RUN, 0, COMES_WITHIN, fact("began")).await),
            Moment::Copy => {
                desk.watch(RUN, 0, COMES_WITHIN, fact("copy_began")).await;
                // Not before: what is large would be copied slowly as well.
                self.load.set_rate(BUSY);
            }
            Moment::Indexes => drop(desk.watch(RUN, 0, COMES_WITHIN, fact("copy_ended")).await),
            Moment::CatchingUp => {
                desk.watch(RUN, 0, COMES_WITHIN, fact("definitions_after_rows")).await;
            }
            Moment::Verify => {
                self.ready_and_busy().await;
                asked = Some(desk.begin(&["verify"]));
            }
            Moment::Armed => self.ready_and_busy().await,
            Moment::Early(side, aim) => {
                if side == Side::Green {
                    self.make_move().await;
                }
                self.ready_and_busy().await;
                large = Some(self.come_to_early(side, aim, plan).await);
            }
            Moment::Move(side, step) => {
                if side == Side::Green {
                    self.make_move().await;
                }
                self.ready_and_busy().await;
                let writer = match plan.writer {
                    Some(lasting) => {
                        self.wake_the_fence(side).await;
                        Some((self.hold_a_write(side).await, lasting))
                    }
                    None => None,
                };
                let since = desk.length(MOVES);
                let commands: &'static [&'static str] = match side {
                    Side::Blue => &["switch"],
                    Side::Green => &["rollback"],
                };
                let command = desk.begin(commands);
                if let Some((writer, lasting)) = writer {
                    tokio::spawn(async move {
                        sleep(lasting).await;
                        drop(writer);
                    });
                }
                desk.watch(MOVES, since, COMES_WITHIN, move |facts| {
                    let ended = facts.iter().any(|f| f["fact"] == "ended");
                    ended || facts.iter().any(|f| f["fact"] == "step" && f["step"] == step)
                })
                .await;
                asked = Some(command);
            }
            Moment::Moved(side) => {
                if side == Side::Green {
                    self.make_move().await;
                }
                self.ready_and_busy().await;
                self.make_move().await;
            }
            Moment::Finish | Moment::Abort => {
                self.make_move().await;
                if plan.moment == Moment::Abort {
                    self.make_move().await;
                }
                self.ready().await;
                self.compare().await;
                self.load.set_rate(BUSY);
                let commands: &'static [&'static str] = match plan.moment {
                    Moment::Finish => &["finish", "--yes"],
                    _ => &["abort", "--yes"],
                };
                let command = desk.begin(commands);
                desk.watch(RUN, 0, COMES_WITHIN, fact("removing")).await;
                asked = Some(command);
            }
        }
        sleep(plan.delay).await;
        self.met = self.doing();
        self.strike(plan.fault).await;
        if let Some((after, fault)) = plan.second {
            let again = Instant::now() + after;
            while Instant::now() < again {
                self.keep_up_unless_over();
                sleep(Duration::from_millis(20)).await;
            }
            self.strike(fault).await;
        }
        self.busy_until = Some(Instant::now() + STAYS_BUSY);
        if let Some(large) = large {
            self.heard = Some(large.await.expect("the client ends"));
        }
        if let Some(asked) = asked {
            // The command may wait for a run that nobody has started again.
            let mut asked = asked;
            let ended = loop {
                tokio::select! {
                    ended = &mut asked => break ended.expect("the command ends"),
                    () = sleep(Duration::from_millis(20)) => self.keep_up_unless_over(),
                }
            };
            self.resolve(&ended).await;
        }
    }

    /// As `keep_up`, unless the run is over.
    fn keep_up_unless_over(&mut self) {
        if !self.is_removed() {
            self.keep_up();
        }
    }

    fn is_removed(&self) -> bool {
        self.arena.world.desk.facts(RUN).iter().any(|f| f["fact"] == "removed")
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

    /// Both sides hold the same rows, row by row, while clients are quiet.
    async fn compare(&self) {
        let load = &self.load;
        load.hold(true);
        wait_until("clients to finish what they do", EQUAL_WITHIN, async || load.is_idle())
            .await
            .expect("quiet");
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
            let (blue, green) = (crate::rows::of(&blue).await, crate::rows::of(&green).await);
            differ = crate::rows::differences(&blue, &green);
            differ.is_empty()
        })
        .await;
        equal.unwrap_or_else(|e| panic!("{e}: {differ}"));
        load.hold(false);
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

    /// What clients were told, what is there, and what is left.
    async fn close(mut self) -> Told {
        let load = &self.load;
        let owner = self.owner();
        let world = &self.arena.world;
        load.set_rate(BUSY);
        world.traffic_flows(load, BUDGET + Duration::from_secs(10)).await;
        let view = {
            load.hold(true);
            wait_until("clients to finish what they do", EQUAL_WITHIN, async || load.is_idle())
                .await
                .expect("quiet");
            load.view()
        };
        let mut heard = load.heard();
        heard.extend(self.heard.take());
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
        let sides = [Side::Blue, Side::Green].map(|side| (world.server(side).port(), side));
        let history = History {
            heard: &heard,
            receipts: &receipts,
            sides: sides.into(),
            decided,
            outages: &self.outages,
            longest: BUDGET + Duration::from_secs(2),
        };
        let wrong = history.faults();
        let outages: Vec<&str> = self.outages.iter().map(|o| o.what.as_str()).collect();
        assert!(wrong.is_empty(), "{wrong:#?}\n{outages:#?}");
        let longest = heard.iter().map(|h| history.waited(h)).max().unwrap_or_default();
        load.hold(true);
        self.run = None;
        let world = &self.arena.world;
        wait_for("no process to be left", EQUAL_WITHIN, async || {
            processes(&world.desk).is_empty().then_some(())
        })
        .await
        .unwrap_or_else(|e| panic!("{e}: {:?}", processes(&world.desk)));
        world.nothing_is_left().await;
        Told {
            met: self.met,
            attempts: heard.len(),
            acknowledged: view.done,
            longest,
            moves: decided,
            early: early_in(&self.arena.world.desk.log()),
            restarts: self.restarts,
        }
    }
}

fn command(owner: Side) -> &'static str {
    match owner {
        Side::Blue => "switch",
        Side::Green => "rollback",
    }
}

//! A seeded campaign of faults against the real program with real servers and clients at work.
//!
//! `make chaos SEED=7 RUNS=500` makes that many runs; `make chaos SEED=7 ONLY=123` repeats one.
//! Without `RUNS` as many are made as fit into `SECONDS` (400), on `LANES` (3) pairs of servers.
//! Each run is what `plan` draws from its seed; `docs/CHAOS.md` says what is struck, what must hold
//! and what long campaigns found.
#![allow(clippy::print_stderr, reason = "a campaign says how it goes")]

mod arena;
mod early;
mod history;
mod plan;
mod rows;
mod story;
mod strike;

// The program and the worlds of the end-to-end stories.
#[path = "../e2e/program.rs"]
#[allow(dead_code, reason = "stories use more of it")]
mod program;
#[path = "../e2e/world.rs"]
#[allow(dead_code, reason = "stories use more of it")]
mod world;

use std::{
    any::Any,
    collections::BTreeMap,
    env, fs,
    io::{self, Write as _},
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use cutover_sandbox::shop;
use futures_util::{FutureExt as _, future::join_all};

use self::{
    arena::Arena,
    plan::{Dice, Fault, Plan},
    story::{Story, Told},
};

/// After so many the rest would say nothing new.
const FAILURES: usize = 8;
/// A run that takes longer hangs.
const RUN_WITHIN: Duration = Duration::from_secs(900);

/// What was asked for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    seed: u64,
    first: u64,
    runs: u64,
    until: Option<Instant>,
    lanes: u64,
}

impl Wanted {
    fn read() -> Self {
        let number = |name: &str| {
            let text = env::var(name).ok().filter(|text| !text.is_empty())?;
            Some(text.parse::<u64>().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
        };
        let seed = number("SEED").unwrap_or(1);
        let (first, runs) = match (number("ONLY"), number("RUNS")) {
            (Some(only), _) => (only, Some(1)),
            (None, runs) => (0, runs),
        };
        let seconds = number("SECONDS").unwrap_or(400);
        let until = runs.is_none().then(|| Instant::now() + Duration::from_secs(seconds));
        let runs = runs.unwrap_or(u64::MAX - first);
        Self { seed, first, runs, until, lanes: number("LANES").unwrap_or(3).clamp(1, runs) }
    }

    /// The seed of a run.
    fn seed_of(&self, run: u64) -> u64 {
        Dice::new(self.seed ^ run.wrapping_mul(0x9e37_79b9_7f4a_7c15)).next()
    }
}

/// What all lanes have seen.
#[derive(Default)]
struct Tally {
    next: AtomicU64,
    failures: AtomicUsize,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    runs: u64,
    acknowledged: u64,
    attempts: usize,
    moves: usize,
    early: [usize; 2],
    longest: Duration,
    kinds: BTreeMap<&'static str, usize>,
    met: BTreeMap<String, usize>,
    failed: Vec<String>,
}

// One thread for lanes, one for clients and proxies: with more of them they wake each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_seeded_campaign_of_faults() {
    let wanted = Wanted::read();
    eprintln!("{wanted:?}");
    if !program::can_fill_disks() {
        eprintln!("skipped: the full disk, since `prlimit` (util-linux) is not here");
    }
    let tally = Tally::default();
    join_all((0..wanted.lanes).map(|_| lane(wanted, &tally))).await;
    let seen = tally.seen.lock().unwrap_or_else(PoisonError::into_inner);
    say_in_any_case(&format!(
        "chaos: {} runs of seed {}, {} moves, {} failed, longest wait {:?} beside outages",
        seen.runs,
        wanted.seed,
        seen.moves,
        seen.failed.len(),
        seen.longest
    ));
    eprintln!(
        "{} large transactions applied while they ran and {} given up, {} transactions acknowledged of \
         {} attempts\nfaults: {:#?}\nmet: {:#?}",
        seen.early[0], seen.early[1], seen.acknowledged, seen.attempts, seen.kinds, seen.met
    );
    assert!(seen.failed.is_empty(), "{}", seen.failed.join("\n"));
    assert!(seen.runs > 0, "not a single run was made");
    let few = seen.runs < 20;
    assert!(few || seen.early[0] > seen.early[1], "large transactions were applied at their end");
}

/// Makes runs on servers of its own, one after the other.
async fn lane(wanted: Wanted, tally: &Tally) {
    let mut arena: Option<Arena> = None;
    while tally.failures.load(Ordering::SeqCst) < FAILURES
        && wanted.until.is_none_or(|until| Instant::now() < until)
    {
        let number = tally.next.fetch_add(1, Ordering::SeqCst);
        if number >= wanted.runs {
            break;
        }
        let number = wanted.first + number;
        let mut plan = Plan::of(wanted.seed_of(number));
        leave_out_what_cannot_be(&mut plan);
        let ground = match &mut arena {
            Some(arena) => arena,
            None => {
                let (blue, green) = shop::old_and_new().expect("run scripts/setup test");
                arena.insert(Arena::open(blue, green).await)
            }
        };
        let began = Instant::now();
        let run = async {
            ground.begin(number, plan.moment == plan::Moment::Copy).await;
            Story::new(ground, &plan).tell(&plan).await
        };
        let run = AssertUnwindSafe(tokio::time::timeout(RUN_WITHIN, run)).catch_unwind().await;
        let told = match run {
            Ok(Ok(told)) => Ok(told),
            Ok(Err(_)) => Err(format!("it hangs: no end within {RUN_WITHIN:?}")),
            Err(panic) => Err(words(panic.as_ref())),
        };
        match told {
            Ok(told) => note(tally, number, &plan, &told, began.elapsed()),
            Err(why) => {
                tally.failures.fetch_add(1, Ordering::SeqCst);
                let kept = arena.take().map(|arena| keep(&arena, wanted.seed, number, &why));
                let text = format!(
                    "run {number} failed: {plan:?}\n  repeat: make chaos SEED={} ONLY={number}\n  \
                     logs: {kept:?}\n  {why}",
                    wanted.seed
                );
                eprintln!("{text}");
                tally.seen.lock().unwrap_or_else(PoisonError::into_inner).failed.push(text);
            }
        }
    }
}

fn leave_out_what_cannot_be(plan: &mut Plan) {
    if program::can_fill_disks() {
        return;
    }
    let instead = Fault::Kill(plan::Who::Run);
    if matches!(plan.fault, Fault::DiskFull(_)) {
        plan.fault = instead;
    }
    plan.second = plan.second.filter(|(_, fault)| !matches!(fault, Fault::DiskFull(_)));
}

fn note(tally: &Tally, number: u64, plan: &Plan, told: &Told, took: Duration) {
    let second = plan.second.map_or_else(String::new, |(_, fault)| format!(", {}", fault.kind()));
    eprintln!(
        "run {number}: {} {}{second}; {:.1} s, {} acknowledged of {}, {} moves, early {:?}, waited \
         {:?}{}",
        told.met,
        plan.fault.kind(),
        took.as_secs_f64(),
        told.acknowledged,
        told.attempts,
        told.moves,
        told.early,
        told.longest,
        told.restarts.iter().map(|why| format!("\n    again: {why}")).collect::<String>()
    );
    let mut seen = tally.seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.runs += 1;
    seen.acknowledged += told.acknowledged;
    seen.attempts += told.attempts;
    seen.moves += told.moves;
    seen.early = [0, 1].map(|i| seen.early[i] + told.early[i]);
    seen.longest = seen.longest.max(told.longest);
    *seen.met.entry(told.met.clone()).or_default() += 1;
    for fault in [Some(plan.fault), plan.second.map(|(_, fault)| fault)].into_iter().flatten() {
        *seen.kinds.entry(fault.kind()).or_default() += 1;
    }
}

/// Says it where a test that passes is not listened to either.
fn say_in_any_case(text: &str) {
    // The macros write to what is kept from the log. Nobody can be told that this fails.
    writeln!(io::stderr(), "{text}").ok();
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}

/// Keeps what a failed run leaves: journals, logs, and what is wrong.
fn keep(arena: &Arena, seed: u64, number: u64, why: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos/{seed}-{number}"));
    let world = &arena.world;
    let copied = fs::create_dir_all(&folder).and_then(|()| {
        for (name, text) in [
            ("why", why.to_owned()),
            ("blue.log", world.shop.blue.log()),
            ("green.log", world.shop.green.log()),
            ("pooler.log", world.shop.pooler.log()),
            ("run.log", world.desk.log()),
        ] {
            fs::write(folder.join(name), text)?;
        }
        for name in ["run.journal", "moves.journal"] {
            if world.desk.state(name).exists() {
                fs::copy(world.desk.state(name), folder.join(name))?;
            }
        }
        Ok(())
    });
    if let Err(e) = copied {
        eprintln!("the logs are not kept: {e}");
    }
    folder
}

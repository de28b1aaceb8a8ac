//! A seeded campaign of faults against the real program with real servers and clients at work.
//!
//! A migration is struck in several rounds, one after the other, and everything that must hold is
//! compared after each. `make chaos SEED=7 RUNS=500` makes as many migrations as have 500 rounds;
//! `make chaos SEED=7 ONLY=12` repeats one with all its rounds. Without `RUNS` as many rounds are
//! made as fit into `SECONDS` (400), on `LANES` (3) pairs of servers. Each migration is what `plan`
//! draws from its seed and number; `docs/CHAOS.md` says what is struck, what must hold and what long
//! campaigns found.
#![allow(clippy::print_stderr, reason = "a campaign says how it goes")]

mod arena;
mod check;
mod dice;
mod early;
mod history;
mod moment;
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
    path::{Path, PathBuf},
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
    plan::{Fault, Moment, Plan, Round, Who},
    story::{Story, Told},
};

/// After so many the rest would say nothing new.
const FAILURES: usize = 8;

/// What was asked for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    seed: u64,
    /// The number of the first migration.
    first: u64,
    migrations: u64,
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
        let (only, rounds) = (number("ONLY"), number("RUNS"));
        let seconds = number("SECONDS").unwrap_or(400);
        let until = (only.is_none() && rounds.is_none())
            .then(|| Instant::now() + Duration::from_secs(seconds));
        let first = only.unwrap_or(0);
        let migrations = match (only, rounds) {
            (Some(_), _) => 1,
            (None, Some(rounds)) => Plan::migrations_for(seed, rounds),
            (None, None) => u64::MAX,
        };
        let lanes = number("LANES").unwrap_or(3).clamp(1, migrations.max(1));
        Self { seed, first, migrations, until, lanes }
    }

    fn time_is_over(&self) -> bool {
        self.until.is_some_and(|until| until < Instant::now())
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
    /// Migrations that came to their end.
    migrations: u64,
    /// Rounds that struck at their moment, after which everything held.
    rounds: u64,
    /// Those whose moment did not come.
    missed: u64,
    acknowledged: u64,
    attempts: usize,
    moves: usize,
    early: [usize; 2],
    longest: Duration,
    moments: BTreeMap<String, usize>,
    faults: BTreeMap<&'static str, usize>,
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
        "chaos: {} rounds in {} migrations of seed {} ({} more missed their moment), {} moves, {} \
         failed, {} transactions acknowledged of {}, longest wait {:?} beside outages",
        seen.rounds,
        seen.migrations,
        wanted.seed,
        seen.missed,
        seen.moves,
        seen.failed.len(),
        seen.acknowledged,
        seen.attempts,
        seen.longest
    ));
    eprintln!(
        "{} large transactions applied while they ran and {} given up\nmoments: {:#?}\nfaults: \
         {:#?}\nmet: {:#?}",
        seen.early[0], seen.early[1], seen.moments, seen.faults, seen.met
    );
    assert!(seen.failed.is_empty(), "{}", seen.failed.join("\n"));
    assert!(seen.rounds > 0, "not a single round was made");
    let few = seen.rounds < 20;
    assert!(few || seen.missed * 10 < seen.rounds, "{} rounds missed their moment", seen.missed);
    assert!(few || seen.early[0] > seen.early[1], "large transactions were applied at their end");
}

/// Makes migrations on servers of its own, one after the other.
async fn lane(wanted: Wanted, tally: &Tally) {
    let mut arena: Option<Arena> = None;
    while tally.failures.load(Ordering::SeqCst) < FAILURES && !wanted.time_is_over() {
        let number = tally.next.fetch_add(1, Ordering::SeqCst);
        if number >= wanted.migrations {
            break;
        }
        let number = wanted.first + number;
        let mut plan = Plan::of(wanted.seed, number);
        plan.rounds.iter_mut().for_each(leave_out_what_cannot_be);
        let ground = match &mut arena {
            Some(arena) => arena,
            None => {
                let (blue, green) = shop::old_and_new().expect("run scripts/setup test");
                arena.insert(Arena::open(blue, green).await)
            }
        };
        let mut held = 0;
        let migration = async {
            ground.begin(number, plan.rounds[0].moment == Moment::Copy).await;
            let one_held = |told| {
                held += 1;
                note(
                    tally,
                    &format!("migration {number}, round {held}"),
                    &plan.rounds[held - 1],
                    &told,
                );
            };
            Story::new(ground).tell(&plan, wanted.until, one_held).await
        };
        let ended = AssertUnwindSafe(migration).catch_unwind().await;
        match ended {
            Ok(rest) => {
                let mut seen = tally.seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.add(&rest);
                seen.migrations += 1;
            }
            Err(panic) => {
                tally.failures.fetch_add(1, Ordering::SeqCst);
                let why = words(panic.as_ref());
                let kept = arena.take().map(|arena| keep(&arena, wanted.seed, number, &why));
                let text = failure(wanted.seed, number, &plan, held, &why, kept.as_deref());
                eprintln!("{text}");
                tally.seen.lock().unwrap_or_else(PoisonError::into_inner).failed.push(text);
            }
        }
    }
}

/// Names a failed round, those before it, and how all of them are repeated.
fn failure(
    seed: u64,
    number: u64,
    plan: &Plan,
    held: usize,
    why: &str,
    kept: Option<&Path>,
) -> String {
    let round = plan.rounds.get(held).map_or_else(
        || "its end, after all rounds".to_owned(),
        |round| format!("round {}: {round:?}", held + 1),
    );
    let before: String = (1..)
        .zip(&plan.rounds[..held])
        .map(|(nth, round)| format!("\n  round {nth} before it: {round:?}"))
        .collect();
    format!(
        "migration {number} failed in {round}{before}\n  repeat: make chaos SEED={seed} \
         ONLY={number}\n  logs: {kept:?}\n  {why}"
    )
}

fn leave_out_what_cannot_be(round: &mut Round) {
    if program::can_fill_disks() {
        return;
    }
    if matches!(round.fault, Fault::DiskFull(_)) {
        round.fault = Fault::Kill(Who::Run);
    }
    round.second = round.second.filter(|(_, fault)| !matches!(fault, Fault::DiskFull(_)));
}

/// Says what a round was like that held.
fn note(tally: &Tally, name: &str, round: &Round, told: &Told) {
    let second = round.second.map_or_else(String::new, |(_, fault)| format!(", {}", fault.kind()));
    eprintln!(
        "{name}: {}{}: {} {}{second}; {:.1} s, {} acknowledged of {}, {} moves, early {:?}, waited \
         {:?}{}",
        round.moment.name(),
        if told.missed { " (missed)" } else { "" },
        told.met,
        round.fault.kind(),
        told.took.as_secs_f64(),
        told.acknowledged,
        told.attempts,
        told.moves,
        told.early,
        told.longest,
        told.restarts.iter().map(|why| format!("\n    again: {why}")).collect::<String>()
    );
    let mut seen = tally.seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.add(told);
    if told.missed {
        seen.missed += 1;
        return;
    }
    seen.rounds += 1;
    *seen.moments.entry(round.moment.name()).or_default() += 1;
    *seen.met.entry(told.met.clone()).or_default() += 1;
    for fault in round.faults() {
        *seen.faults.entry(fault.kind()).or_default() += 1;
    }
}

impl Seen {
    fn add(&mut self, told: &Told) {
        self.acknowledged += told.acknowledged;
        self.attempts += told.attempts;
        self.moves += told.moves;
        self.early = [0, 1].map(|i| self.early[i] + told.early[i]);
        self.longest = self.longest.max(told.longest);
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

/// Keeps what a failed migration leaves: journals, logs, and what is wrong.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_round_is_named_with_those_before_it_and_how_to_repeat_it() {
        let plan = Plan::of(7, 12);
        let text = failure(7, 12, &plan, 2, "rows differ", None);
        for (nth, round) in plan.rounds.iter().enumerate() {
            assert_eq!(text.contains(&format!("{round:?}")), nth <= 2, "{nth}: {text}");
        }
        for part in ["migration 12 failed in round 3: ", "SEED=7 ONLY=12\n", "rows differ"] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        let end = failure(7, 12, &plan, plan.rounds.len(), "a slot is left", None);
        assert!(end.contains("failed in its end") && end.contains("round 1 before it"), "{end}");
    }
}

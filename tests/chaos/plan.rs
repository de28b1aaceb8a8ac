//! What happens in one migration, by seed and number alone: where faults strike one after the other,
//! which ones, what follows each of them.

use std::time::Duration;

use cutover_core::model::side::Side;

use crate::dice::{Dice, dealt};

/// When the fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The program has just been started.
    Preflight,
    /// The snapshot is taken; definitions travel.
    Schema,
    /// Rows travel.
    Copy,
    /// Indexes are built.
    Indexes,
    /// The streams are connected, and catch up.
    CatchingUp,
    /// Every row is compared.
    Verify,
    /// A move would be accepted.
    Armed,
    /// `cutover run` was stopped and has just been started again, and this side owns the writes.
    Restart(Side),
    /// A large transaction on this side is applied to the other one while it runs.
    Early(Side, Aim),
    /// A row that this side changes is gone on the other one by an alien hand, the stream has
    /// stopped at it, and the table is being copied again.
    Repair(Side),
    /// This side owns the writes, and an alien hand has just changed a row on the other one.
    Alien(Side),
    /// A step of a move from this side has begun.
    Move(Side, &'static str),
    /// The move from this side has ended.
    Moved(Side),
    /// The way back is being given up.
    Finish,
    /// The migration is being given up.
    Abort,
}

impl Moment {
    /// Its name, for the table at the end.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Move(side, step) => format!("move from {side}: {step}"),
            Self::Early(side, aim) => format!("large on {side}: {aim:?}"),
            Self::Moved(side) => format!("moved from {side}"),
            Self::Restart(side) => format!("restart on {side}"),
            Self::Repair(side) => format!("repair from {side}"),
            Self::Alien(side) => format!("alien beside {side}"),
            other => format!("{other:?}"),
        }
    }

    /// Who must own the writes before it comes, where that matters.
    fn owner(self) -> Option<Side> {
        match self {
            Self::Move(side, _) | Self::Moved(side) => Some(side),
            Self::Early(side, _) | Self::Restart(side) | Self::Repair(side) | Self::Alien(side) => {
                Some(side)
            }
            _ => None,
        }
    }

    /// Whether clients of the load may make a large transaction around it, and one is worth waiting
    /// for.
    fn may_be_amid_large(self) -> bool {
        matches!(
            self,
            Self::Verify | Self::Armed | Self::Restart(_) | Self::Move(..) | Self::Moved(_)
        )
    }
}

/// What a large transaction has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    /// It runs, and its rows are on the other side, seen by nobody.
    Written,
    /// The client has said COMMIT; nobody has looked for more.
    Committed,
    /// The other side is storing its position, or committing, or has just done so.
    Stored,
}

const AIMS: [Aim; 3] = [Aim::Written, Aim::Committed, Aim::Stored];

/// Steps in which a move is met. `decide` is one line that is written with the next beginning.
pub(crate) const STEPS: [&str; 11] = [
    "recheck",
    "arm_reverse",
    "guard",
    "pause",
    "fence",
    "drain",
    "verify",
    "counters",
    "unfence",
    "point",
    "stream_reverse",
];

/// A process of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Run,
    Guard,
    Both,
}

/// What stands around the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Server(Side),
    Pooler,
}

/// A connection of the program, through a proxy that spoils it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Server(Side),
    Console,
}

/// How connections are spoiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoil {
    Close,
    Reset,
    /// The other end is gone, and we hear nothing, not even that.
    Forget,
    /// The server is told that we are done.
    HalfCloseUp,
    /// We are told that the server is done.
    HalfCloseDown,
    /// Cut, and no new ones for that long.
    Refuse(Duration),
    /// Every piece comes later by the first, for as long as the second.
    Delay(Duration, Duration),
    /// Nothing comes through for that long; then the connections are cut.
    Silence(Duration),
}

impl Spoil {
    fn draw(dice: &mut Dice) -> Self {
        match dice.below(8) {
            0 => Self::Close,
            1 => Self::Reset,
            2 => Self::Forget,
            3 => Self::HalfCloseUp,
            4 => Self::HalfCloseDown,
            5 => Self::Refuse(dice.ms(100, 1000)),
            6 => Self::Delay(dice.ms(20, 300), dice.ms(300, 1500)),
            _ => Self::Silence(dice.ms(100, 1500)),
        }
    }
}

/// How green says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// `default_transaction_read_only`.
    ReadOnly,
    /// The role of the program may not act for the owner of the tables any more.
    Revoked,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9`.
    Kill(Who),
    /// Everything is cut as in a crash; started again after that long.
    Crash(Part, Duration),
    Spoil(Link, Spoil),
    /// No file of the program can be written for that long.
    DiskFull(Duration),
    GreenRefuses(Refusal, Duration),
    /// SIGSTOP, and SIGCONT after that long.
    FreezeProgram(Who, Duration),
    FreezePart(Part, Duration),
    /// The session that applies a large transaction is ended.
    EndEarly,
}

/// How long a frozen process stands still.
const FROZEN: Duration = Duration::from_secs(10);

impl Fault {
    /// Its kind, for the table at the end.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Kill(Who::Run) => "kill run",
            Self::Kill(Who::Guard) => "kill guard",
            Self::Kill(Who::Both) => "kill both",
            Self::Crash(Part::Server(Side::Blue), _) => "crash blue",
            Self::Crash(Part::Server(Side::Green), _) => "crash green",
            Self::Crash(Part::Pooler, _) => "crash pooler",
            Self::Spoil(Link::Server(Side::Blue), _) => "spoil blue's connections",
            Self::Spoil(Link::Server(Side::Green), _) => "spoil green's connections",
            Self::Spoil(Link::Console, _) => "spoil the console's connections",
            Self::DiskFull(_) => "state disk full",
            Self::GreenRefuses(..) => "green refuses writes",
            Self::FreezeProgram(..) => "freeze run or guard",
            Self::FreezePart(..) => "freeze a server or the pooler",
            Self::EndEarly => "end the session of a large transaction",
        }
    }

    /// One for the moment.
    fn first(dice: &mut Dice, moment: Moment) -> Self {
        let Moment::Early(side, _) = moment else { return Self::draw(dice, moment) };
        let target = side.other();
        match dice.below(100) {
            0..30 => Self::Kill(Who::Run),
            30..50 => Self::Crash(Part::Server(target), dice.ms(0, 400)),
            50..55 => Self::Crash(Part::Server(side), dice.ms(0, 400)),
            55..75 => Self::EndEarly,
            75..95 => Self::Spoil(Link::Server(target), Spoil::draw(dice)),
            _ => Self::draw(dice, moment),
        }
    }

    fn draw(dice: &mut Dice, moment: Moment) -> Self {
        let who: &[(u64, Who)] = match moment {
            Moment::Move(..) => &[(3, Who::Run), (1, Who::Guard), (2, Who::Both)],
            _ => &[(1, Who::Run)],
        };
        let part = |dice: &mut Dice| {
            dice.one_of(&[Part::Server(Side::Blue), Part::Server(Side::Green), Part::Pooler])
        };
        match dice.below(100) {
            0..30 => Self::Kill(dice.weighted(who)),
            30..52 => Self::Crash(part(dice), dice.ms(0, 400)),
            52..77 => {
                let link = dice.one_of(&[
                    Link::Server(Side::Blue),
                    Link::Server(Side::Green),
                    Link::Server(Side::Green),
                    Link::Console,
                ]);
                Self::Spoil(link, Spoil::draw(dice))
            }
            77..86 => Self::DiskFull(dice.ms(50, 1000)),
            86..96 => {
                let how = dice.one_of(&[Refusal::ReadOnly, Refusal::Revoked]);
                Self::GreenRefuses(how, dice.ms(100, 1000))
            }
            96..98 => Self::FreezeProgram(dice.weighted(who), FROZEN),
            _ => Self::FreezePart(part(dice), FROZEN),
        }
    }
}

/// Moments that come once, and before all others: one of them in each migration. As often as here.
fn opening() -> Vec<Moment> {
    cards(&[
        (4, Moment::Preflight),
        (6, Moment::Schema),
        (7, Moment::Copy),
        (5, Moment::Indexes),
        (5, Moment::CatchingUp),
    ])
}

/// Moments that a migration can come to again and again.
fn repeatable() -> Vec<Moment> {
    let mut weights = vec![(6, Moment::Verify), (5, Moment::Armed)];
    for side in [Side::Blue, Side::Green] {
        weights.extend([(4, Moment::Moved(side)), (2, Moment::Restart(side))]);
        weights.extend([(2, Moment::Repair(side)), (2, Moment::Alien(side))]);
        weights.extend(AIMS.map(|aim| (3, Moment::Early(side, aim))));
        let often = if side == Side::Blue { 3 } else { 2 };
        weights.extend(STEPS.map(|step| (often, Moment::Move(side, step))));
    }
    cards(&weights)
}

/// Moments that a migration does not come back from: one in every second migration.
fn ending() -> Vec<Option<Moment>> {
    vec![Some(Moment::Finish), Some(Moment::Abort), None, None]
}

fn cards(weights: &[(usize, Moment)]) -> Vec<Moment> {
    weights.iter().flat_map(|(often, moment)| vec![*moment; *often]).collect()
}

/// Rounds of a migration at moments that can be reached again.
const REPEATED: u64 = 8;

/// The same moments in an order in which most find the writes where they need them: what is struck
/// costs less than the way to it.
fn with_few_moves_between(mut moments: Vec<Moment>) -> Vec<Moment> {
    let mut owner = Side::Blue;
    let mut ordered = Vec::new();
    while !moments.is_empty() {
        let fits = |moment: &Moment| moment.owner().is_none_or(|side| side == owner);
        let moment = moments.remove(moments.iter().position(fits).unwrap_or(0));
        owner = match moment {
            Moment::Move(side, _) | Moment::Moved(side) => side.other(),
            _ => moment.owner().unwrap_or(owner),
        };
        ordered.push(moment);
    }
    ordered
}

/// One migration: one round after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) rounds: Vec<Round>,
}

impl Plan {
    /// Migration `number` of a campaign.
    pub(crate) fn of(seed: u64, number: u64) -> Self {
        let first = number.wrapping_mul(REPEATED);
        let place = |nth: u64| first.wrapping_add(nth);
        let again = (0..REPEATED).map(|nth| dealt(repeatable(), seed, place(nth))).collect();
        let mut moments = vec![dealt(opening(), seed, number)];
        moments.extend(with_few_moves_between(again));
        moments.extend(dealt(ending(), seed, number));
        let mut dice = Dice::of(seed, number);
        Self { rounds: moments.into_iter().map(|moment| Round::at(moment, &mut dice)).collect() }
    }

    /// How many migrations have so many rounds together.
    pub(crate) fn migrations_for(seed: u64, rounds: u64) -> u64 {
        let (mut migrations, mut made) = (0, 0);
        while made < rounds {
            made += Self::of(seed, migrations).rounds.len() as u64;
            migrations += 1;
        }
        migrations
    }
}

/// One round: a fault at a moment, and what follows until everything that must hold is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) moment: Moment,
    /// From the beginning of the moment to the fault.
    pub(crate) delay: Duration,
    pub(crate) fault: Fault,
    /// A second fault, so long after the first was mended: while the program gets up again.
    pub(crate) second: Option<(Duration, Fault)>,
    /// A client goes around the pooler and keeps a transaction open for so long, so that the
    /// fence has to wait for it.
    pub(crate) writer: Option<Duration>,
    /// The moment comes while a client is in the middle of a large transaction.
    pub(crate) amid_large: bool,
    /// What the large transaction of [`Moment::Early`] is like, and the row of [`Moment::Repair`].
    pub(crate) large: u64,
    /// How long its client thinks before it says the last word, when it is struck before that.
    pub(crate) thinks: Duration,
}

impl Round {
    fn at(moment: Moment, dice: &mut Dice) -> Self {
        let longest = match moment {
            Moment::Move(..) => 25,
            Moment::Early(_, Aim::Written) => 60,
            // It is over within a few milliseconds.
            Moment::Early(_, Aim::Committed) => 25,
            Moment::Early(_, Aim::Stored) => 3,
            Moment::Finish | Moment::Abort => 60,
            Moment::Armed | Moment::Moved(_) => 500,
            Moment::Restart(_) => 1000,
            Moment::Copy => 1500,
            _ => 400,
        };
        let delay = dice.ms(0, longest);
        let fault = Fault::first(dice, moment);
        let second = dice.once_in(4).then(|| {
            let after = dice.ms(0, 1500);
            loop {
                match Fault::draw(dice, moment) {
                    Fault::FreezeProgram(..) | Fault::FreezePart(..) => {}
                    fault => break (after, fault),
                }
            }
        });
        let writer = dice.once_in(3).then(|| dice.ms(50, 400));
        let amid_large = dice.once_in(3) && moment.may_be_amid_large();
        let (large, thinks) = (dice.next(), dice.ms(0, 700));
        Self { moment, delay, fault, second, writer, amid_large, large, thinks }
    }

    /// All its faults.
    pub(crate) fn faults(&self) -> impl Iterator<Item = Fault> {
        [Some(self.fault), self.second.map(|(_, fault)| fault)].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use cutover::cutover::plan::Step;

    use super::*;

    /// So many rounds `make test` makes in its time, and more, on two cores that have little else to
    /// do.
    const IN_CI: u64 = 200;

    #[test]
    fn every_step_of_a_move_is_met() {
        let steps: Vec<&str> =
            Step::ALL.into_iter().filter(|step| *step != Step::Decide).map(Step::name).collect();
        assert_eq!(STEPS[..], steps);
    }

    fn all_moments() -> BTreeSet<String> {
        let all = opening().into_iter().chain(repeatable()).chain(ending().into_iter().flatten());
        all.map(Moment::name).collect()
    }

    /// How often each moment, and each kind of fault, comes in so many rounds.
    fn counted(seed: u64, rounds: u64) -> [BTreeMap<String, usize>; 2] {
        let mut counts = [BTreeMap::new(), BTreeMap::new()];
        for number in 0..Plan::migrations_for(seed, rounds) {
            for round in Plan::of(seed, number).rounds {
                *counts[0].entry(round.moment.name()).or_default() += 1;
                for fault in round.faults() {
                    *counts[1].entry(fault.kind().to_owned()).or_default() += 1;
                }
            }
        }
        counts
    }

    #[test]
    fn the_campaign_of_ci_comes_to_every_moment_and_makes_every_fault() {
        let [moments, faults] = counted(1, IN_CI);
        assert_eq!(moments.keys().cloned().collect::<BTreeSet<_>>(), all_moments());
        assert_eq!(all_moments().len(), 5 + 2 + 2 * (4 + AIMS.len() + STEPS.len()) + 2);
        for (moment, times) in &moments {
            assert!(*times >= 2, "{moment}: {times} of {moments:#?}");
        }
        assert_eq!(faults.len(), 14, "{faults:?}");
    }

    /// What decks are for: with any seed, not only with one that was tried.
    #[test]
    fn no_seed_leaves_out_a_moment() {
        for seed in 0..50 {
            let [moments, _] = counted(seed, IN_CI);
            assert_eq!(moments.into_keys().collect::<BTreeSet<_>>(), all_moments(), "seed {seed}");
        }
    }

    #[test]
    fn a_moment_that_comes_once_comes_at_its_time() {
        for number in 0..200 {
            let plan = Plan::of(7, number);
            assert_eq!(plan, Plan::of(7, number));
            assert_ne!(plan, Plan::of(8, number));
            let moments: Vec<Moment> = plan.rounds.iter().map(|round| round.moment).collect();
            let repeated = usize::try_from(REPEATED).unwrap();
            let (first, rest) = moments.split_first().unwrap();
            let (again, last) = rest.split_at(repeated);
            assert!(opening().contains(first), "{moments:?}");
            assert!(again.iter().all(|moment| repeatable().contains(moment)), "{moments:?}");
            assert!(
                last.len() < 2 && last.iter().all(|l| ending().contains(&Some(*l))),
                "{last:?}"
            );
        }
    }

    #[test]
    fn the_order_saves_moves_and_leaves_nothing_out() {
        let (blue, green) = (Side::Blue, Side::Green);
        let dealt = vec![
            Moment::Restart(green),
            Moment::Move(green, "drain"),
            Moment::Verify,
            Moment::Move(blue, "fence"),
            Moment::Moved(blue),
        ];
        let ordered = with_few_moves_between(dealt);
        let wanted = [
            Moment::Verify,
            Moment::Move(blue, "fence"),
            Moment::Restart(green),
            Moment::Move(green, "drain"),
            Moment::Moved(blue),
        ];
        assert_eq!(ordered, wanted);
    }

    #[test]
    fn every_fault_comes_to_every_step_in_both_directions_sooner_or_later() {
        let mut seen = BTreeSet::new();
        for number in 0..2000 {
            for round in Plan::of(3, number).rounds {
                if let Moment::Move(..) = round.moment {
                    seen.insert((round.moment.name(), round.fault.kind()));
                }
            }
        }
        // All but the end of a session that is aimed at elsewhere.
        assert_eq!(seen.len(), 2 * STEPS.len() * 13, "{seen:?}");
    }
}

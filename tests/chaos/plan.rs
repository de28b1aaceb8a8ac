//! What happens in one run, by its seed alone: where the fault strikes, which one, what follows.

use std::time::Duration;

use cutover_core::model::side::Side;

/// A small generator (splitmix64): the same seed gives the same campaign everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap_or(0)]
    }

    /// One of these, each as often as its weight says.
    fn weighted<T: Copy>(&mut self, of: &[(u64, T)]) -> T {
        let mut left = self.below(of.iter().map(|(weight, _)| weight).sum());
        for (weight, what) in of {
            if left < *weight {
                return *what;
            }
            left -= weight;
        }
        of[0].1
    }
}

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
    /// A large transaction on this side is applied to the other one while it runs.
    Early(Side, Aim),
    /// A step of a move from this side has begun.
    Move(Side, &'static str),
    /// The move from this side has ended.
    Moved(Side),
    /// The way back is being given up.
    Finish,
    /// The migration is being given up.
    Abort,
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
            1 | 2 => Self::Reset,
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

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) moment: Moment,
    /// From the beginning of the moment to the fault.
    pub(crate) delay: Duration,
    pub(crate) fault: Fault,
    /// A second fault, so long after the first was mended: while the program gets up again.
    pub(crate) second: Option<(Duration, Fault)>,
    /// A client goes around the pooler and keeps a transaction open for so long, so that the
    /// fence has to wait for it.
    pub(crate) writer: Option<Duration>,
    /// What the large transaction of [`Moment::Early`] is like.
    pub(crate) large: u64,
    /// How long its client thinks before it says the last word, when it is struck before that.
    pub(crate) thinks: Duration,
    /// Moves that are made when everything works again.
    pub(crate) moves_after: usize,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let moment = match dice.below(100) {
            0..4 => Moment::Preflight,
            4..10 => Moment::Schema,
            10..17 => Moment::Copy,
            17..22 => Moment::Indexes,
            22..27 => Moment::CatchingUp,
            27..32 => Moment::Verify,
            32..35 => Moment::Armed,
            35..58 => Moment::Move(Side::Blue, dice.one_of(&STEPS)),
            58..74 => Moment::Move(Side::Green, dice.one_of(&STEPS)),
            74..80 => Moment::Early(Side::Blue, dice.one_of(&AIMS)),
            80..86 => Moment::Early(Side::Green, dice.one_of(&AIMS)),
            86..89 => Moment::Moved(Side::Blue),
            89..92 => Moment::Moved(Side::Green),
            92..96 => Moment::Finish,
            _ => Moment::Abort,
        };
        let longest = match moment {
            Moment::Move(..) => 25,
            Moment::Early(_, Aim::Written) => 60,
            // It is over within a few milliseconds.
            Moment::Early(_, Aim::Committed) => 25,
            Moment::Early(_, Aim::Stored) => 3,
            Moment::Finish | Moment::Abort => 60,
            Moment::Armed | Moment::Moved(_) => 500,
            Moment::Copy => 1500,
            _ => 400,
        };
        let delay = dice.ms(0, longest);
        let fault = Fault::first(&mut dice, moment);
        let second = (dice.below(4) == 0).then(|| {
            let after = dice.ms(0, 1500);
            loop {
                match Fault::draw(&mut dice, moment) {
                    Fault::FreezeProgram(..) | Fault::FreezePart(..) => {}
                    fault => break (after, fault),
                }
            }
        });
        let writer = (dice.below(3) == 0).then(|| dice.ms(50, 400));
        let moves_after = match moment {
            // Most of these have moved already.
            Moment::Move(..) | Moment::Early(..) | Moment::Moved(_) => {
                usize::from(dice.below(3) == 0)
            }
            Moment::Finish | Moment::Abort => 0,
            _ => 1 + usize::from(dice.below(4) == 0),
        };
        let (large, thinks) = (dice.next(), dice.ms(0, 700));
        Self { moment, delay, fault, second, writer, large, thinks, moves_after }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cutover::cutover::plan::Step;

    use super::*;

    #[test]
    fn every_step_of_a_move_is_met() {
        let steps: Vec<&str> =
            Step::ALL.into_iter().filter(|step| *step != Step::Decide).map(Step::name).collect();
        assert_eq!(STEPS[..], steps);
    }

    #[test]
    fn a_campaign_comes_to_every_moment_with_every_kind_of_fault() {
        let mut seen = BTreeSet::new();
        for seed in 0..4000 {
            let plan = Plan::of(seed);
            assert_eq!(plan, Plan::of(seed));
            let moment = match plan.moment {
                Moment::Move(side, step) => format!("{side} {step}"),
                Moment::Early(side, aim) => format!("{side} {aim:?}"),
                other => format!("{other:?}"),
            };
            seen.insert(moment);
            seen.insert(plan.fault.kind().to_owned());
        }
        assert_eq!(seen.len(), 7 + 2 * STEPS.len() + 2 * AIMS.len() + 4 + 14, "{seen:?}");
    }
}

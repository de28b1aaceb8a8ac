//! Decides: facts in, next action out. Pure.
//!
//! A restart, of ourselves or by the guard, runs the same function over the same facts plus
//! [`Fact::Restarted`]; there is no recovery path of its own to go stale.
//!
//! - Before `Decide` is done every failure, every unanswered request and every restart takes back
//!   all that left traces, last first, and the traffic goes on where it was.
//! - After it there is only forward, again and again.
//! - A switch that gave no answer is asked where writes go. If it cannot say, an operator must.

use std::sync::Arc;

use cutover_core::model::side::Side;

use super::{
    fact::{Answer, Ending, Fact, Outcome},
    plan::Step,
};

/// How often a switch that cannot say where writes go is told again to let clients go on where
/// they are, before an operator is asked. Harmless: before the decision nobody ever told it
/// another side.
const BLIND_RESUMES: u8 = 3;
/// How often a silent switch is asked before an operator is.
const UNHEARD: u8 = 30;

/// What to do with a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Make it.
    Do,
    /// Take it back.
    Undo,
    /// Ask the switch where writes go now.
    Observe,
}

/// One action.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Act {
    /// What to do.
    pub verb: Verb,
    /// With which step; for [`Verb::Observe`] the one that is in doubt.
    pub step: Step,
    /// At which switch, by its place in [`Fact::MoveBegan`].
    pub switch: Option<usize>,
    /// How often this was tried in vain, for waiting in between.
    pub attempt: u8,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Next {
    /// These, at the same time: they concern different switches.
    Act(Vec<Act>),
    /// Nothing is left to do; the ending belongs into the journal unless it is there.
    Finished(Ending),
    /// Only an operator can say how it goes on: the switches nobody could ask, and why.
    NeedsOperator {
        /// Their names.
        switches: Vec<String>,
        /// What is unknown.
        why: String,
    },
    /// No move was ever begun.
    Idle,
}

/// What comes next, by the facts alone.
#[must_use]
pub fn next(facts: &[Fact]) -> Next {
    State::of(facts).next()
}

/// The rules of a move, apart so that tests can break one at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) order: &'static [Step],
    pub(super) with_traces: &'static [Step],
    pub(super) last_first: bool,
    pub(super) restart_goes_back: bool,
    pub(super) failure_goes_back: bool,
    pub(super) failed_undo_is_repeated: bool,
    pub(super) asks_when_unanswered: bool,
    pub(super) rehearsal_goes_back: bool,
}

impl Rules {
    /// The ones we live by.
    pub(super) const REAL: Self = Self {
        order: &Step::ALL,
        with_traces: &Step::WITH_TRACES,
        last_first: true,
        restart_goes_back: true,
        failure_goes_back: true,
        failed_undo_is_repeated: true,
        asks_when_unanswered: true,
        rehearsal_goes_back: true,
    };
}

/// How an action stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Mark {
    /// Never begun.
    #[default]
    Not,
    /// Begun, no outcome yet.
    Started(u8),
    /// In effect.
    Done,
    /// Failed, or found not in effect: to be done again.
    Again(u8),
    /// Nobody knows.
    Unanswered { attempts: u8, unheard: u8 },
    /// Nobody knows and the device cannot say.
    Unknowable(u8),
}

impl Mark {
    fn attempts(self) -> u8 {
        match self {
            Self::Not | Self::Done => 0,
            Self::Started(n) | Self::Again(n) | Self::Unknowable(n) => n,
            Self::Unanswered { attempts, .. } => attempts,
        }
    }

    fn after(self, outcome: &Outcome) -> Self {
        let tried = self.attempts().saturating_add(1);
        match outcome {
            Outcome::Started => Self::Started(self.attempts()),
            Outcome::Done { .. } => Self::Done,
            Outcome::Failed { .. } => Self::Again(tried),
            Outcome::Ambiguous { .. } => Self::Unanswered { attempts: tried, unheard: 0 },
        }
    }

    /// The process that began it is gone.
    fn interrupted(self) -> Self {
        match self {
            Self::Started(n) => Self::Unanswered { attempts: n.saturating_add(1), unheard: 0 },
            Self::Unanswered { attempts, .. } | Self::Unknowable(attempts) => {
                Self::Unanswered { attempts, unheard: 0 }
            }
            other => other,
        }
    }

    fn observed(self, answer: Answer, wanted: Side) -> Self {
        let (Self::Started(attempts) | Self::Unanswered { attempts, .. }) = self else {
            return self;
        };
        let unheard = if let Self::Unanswered { unheard, .. } = self { unheard } else { 0 };
        match answer {
            Answer::Said { side: None, .. } => Self::Unknowable(attempts),
            Answer::Said { side: Some(side), paused: Some(false) } if side == wanted => Self::Done,
            Answer::Said { .. } => Self::Again(attempts),
            Answer::Silent if unheard + 1 >= UNHEARD => Self::Unknowable(attempts),
            Answer::Silent => Self::Unanswered { attempts, unheard: unheard + 1 },
        }
    }

    fn resolved(self, in_effect: bool) -> Self {
        match self {
            Self::Unanswered { .. } | Self::Unknowable(_) if in_effect => Self::Done,
            Self::Unanswered { attempts, .. } | Self::Unknowable(attempts) => Self::Again(attempts),
            other => other,
        }
    }
}

/// A step's way there and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Marks {
    done: Mark,
    undone: Mark,
}

/// The move that was begun last.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Move {
    from: Side,
    rehearsal: bool,
    names: Arc<[String]>,
    steps: [Marks; Step::ALL.len()],
    pauses: Vec<Marks>,
    points: Vec<Marks>,
    /// Why it goes back, when it does.
    cause: Option<(Option<Step>, String)>,
    ended: Option<Ending>,
}

/// Everything the facts say that matters for what comes next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    owner: Side,
    current: Option<Move>,
}

impl Default for State {
    /// Blue owns the writes until a fact says otherwise.
    fn default() -> Self {
        Self { owner: Side::Blue, current: None }
    }
}

impl State {
    /// The state after `facts`.
    #[must_use]
    pub fn of(facts: &[Fact]) -> Self {
        let mut state = Self::default();
        facts.iter().for_each(|fact| state.apply(fact));
        state
    }

    /// Takes one more fact into account.
    pub fn apply(&mut self, fact: &Fact) {
        if let Fact::MoveBegan { from, rehearsal, switches, .. } = fact {
            self.current = Some(Move {
                from: *from,
                rehearsal: *rehearsal,
                names: switches.clone().into(),
                steps: Default::default(),
                pauses: vec![Marks::default(); switches.len()],
                points: vec![Marks::default(); switches.len()],
                cause: None,
                ended: None,
            });
            return;
        }
        match &mut self.current {
            Some(open) if open.ended.is_none() => open.apply(fact),
            // Without an open move an operator names the owner: the journal was lost.
            _ => {
                if let Fact::Resolved { owner, .. } = fact {
                    self.owner = *owner;
                }
            }
        }
        if let Some(open) = self.current.as_ref().filter(|open| open.decided()) {
            self.owner = open.from.other();
        }
    }

    /// What comes next.
    #[must_use]
    pub fn next(&self) -> Next {
        self.next_by(&Rules::REAL)
    }

    pub(super) fn next_by(&self, rules: &Rules) -> Next {
        match &self.current {
            None => Next::Idle,
            Some(open) => match &open.ended {
                Some(ending) => Next::Finished(ending.clone()),
                None if open.goes_back(rules) => open.back(rules),
                None => open.forward(rules),
            },
        }
    }

    /// Who owns the writes: the origin of an open move until it is decided.
    #[must_use]
    pub fn owner(&self) -> Side {
        self.owner
    }

    /// Whether a move was begun and has not ended.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.current.as_ref().is_some_and(|open| open.ended.is_none())
    }

    /// Whether the open or last move is past its point of no return.
    #[must_use]
    pub fn decided(&self) -> bool {
        self.current.as_ref().is_some_and(Move::decided)
    }

    /// Whether the open or last move is a rehearsal.
    #[must_use]
    pub fn rehearsal(&self) -> bool {
        self.current.as_ref().is_some_and(|open| open.rehearsal)
    }

    /// Where the open or last move comes from.
    #[must_use]
    pub fn from(&self) -> Option<Side> {
        self.current.as_ref().map(|open| open.from)
    }

    /// Names of the switches of the open or last move.
    #[must_use]
    pub fn switches(&self) -> &[String] {
        self.current.as_ref().map_or(&[], |open| &open.names)
    }

    /// Whether no client waits because of us and exactly one side takes writes: the duty of a
    /// guard ends here.
    #[must_use]
    pub fn traffic_is_free(&self) -> bool {
        let Some(open) = self.current.as_ref().filter(|open| open.ended.is_none()) else {
            return true;
        };
        if open.decided() {
            open.mark(Step::Unfence, None).done == Mark::Done
                && open.points.iter().all(|m| m.done == Mark::Done)
        } else {
            let fence = open.mark(Step::Fence, None);
            (fence.done == Mark::Not || fence.undone == Mark::Done)
                && open.pauses.iter().all(|m| !m.holds() || m.undone == Mark::Done)
        }
    }

    /// Whether an operator's word that `owner` owns the writes can be taken.
    ///
    /// # Errors
    ///
    /// Why not: nothing is in doubt, or the fact contradicts what is known.
    pub fn may_resolve(&self, owner: Side) -> Result<(), String> {
        let Some(open) = self.current.as_ref().filter(|open| open.ended.is_none()) else {
            return Ok(());
        };
        if !matches!(self.next(), Next::NeedsOperator { .. }) {
            return Err("the open move is not in doubt; it goes on by itself".into());
        }
        if !open.decided() && owner != open.from {
            return Err(format!(
                "the move was not decided, so that {owner} refuses writes; point the switches at \
                 {} and say that it owns them",
                open.from
            ));
        }
        Ok(())
    }

    /// Whether a process may take part with this fact.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn takes(&self, start: &Fact) -> Result<(), String> {
        match start {
            Fact::MoveBegan { .. } if self.is_open() => {
                Err("another move is open and must end first".into())
            }
            Fact::MoveBegan { from, .. } if *from != self.owner() => {
                Err(format!("{} owns the writes already", from.other()))
            }
            Fact::MoveBegan { switches, .. } if switches.is_empty() => {
                Err("there is no switch that could move the traffic".into())
            }
            Fact::MoveBegan { .. } => Ok(()),
            Fact::Restarted { .. } if self.is_open() => Ok(()),
            Fact::Resolved { owner, .. } if self.is_open() => self.may_resolve(*owner),
            Fact::Restarted { .. } | Fact::Resolved { .. } => Err("no move is open".into()),
            _ => Err("this fact does not begin anything".into()),
        }
    }

    #[cfg(test)]
    pub(super) fn is_started(&self, act: &Act) -> bool {
        self.current.as_ref().is_some_and(|open| {
            let marks = open.mark(act.step, act.switch);
            let mark = if act.verb == Verb::Undo { marks.undone } else { marks.done };
            matches!(mark, Mark::Started(_))
        })
    }
}

impl Marks {
    /// Whether the step may have left a trace that is to be taken back. A switch that refused to
    /// pause holds nobody.
    fn holds(self) -> bool {
        !matches!(self.done, Mark::Not | Mark::Again(_))
    }
}

impl Move {
    fn index(&self, switch: Option<&String>) -> Option<usize> {
        switch.and_then(|name| self.names.iter().position(|n| n == name))
    }

    fn mark(&self, step: Step, switch: Option<usize>) -> Marks {
        match (step, switch) {
            (Step::Pause, Some(i)) => self.pauses.get(i).copied().unwrap_or_default(),
            (Step::Point, Some(i)) => self.points.get(i).copied().unwrap_or_default(),
            _ => self.steps[step as usize],
        }
    }

    fn mark_mut(&mut self, step: Step, switch: Option<usize>) -> Option<&mut Marks> {
        match (step, switch) {
            (Step::Pause, Some(i)) => self.pauses.get_mut(i),
            (Step::Point, Some(i)) => self.points.get_mut(i),
            (Step::Pause | Step::Point, None) => None,
            _ => Some(&mut self.steps[step as usize]),
        }
    }

    fn all_marks(&mut self) -> impl Iterator<Item = &mut Marks> {
        self.steps.iter_mut().chain(&mut self.pauses).chain(&mut self.points)
    }

    fn apply(&mut self, fact: &Fact) {
        let decided = self.decided();
        match fact {
            Fact::MoveBegan { .. } => {}
            Fact::Step { step, switch, outcome, .. } => {
                if let Outcome::Failed { why, .. } | Outcome::Ambiguous { why } = outcome
                    && !decided
                    && self.cause.is_none()
                {
                    self.cause = Some((Some(*step), why.clone()));
                }
                let index = self.index(switch.as_ref());
                if let Some(marks) = self.mark_mut(*step, index) {
                    marks.done = marks.done.after(outcome);
                }
            }
            Fact::Undo { step, switch, outcome, .. } => {
                let index = self.index(switch.as_ref());
                if let Some(marks) = self.mark_mut(*step, index) {
                    marks.undone = marks.undone.after(outcome);
                }
            }
            Fact::Restarted { .. } => {
                for marks in self.all_marks() {
                    marks.done = marks.done.interrupted();
                    marks.undone = marks.undone.interrupted();
                }
                if !decided && self.cause.is_none() {
                    self.cause = Some((None, "the process that made the move ended".into()));
                }
            }
            Fact::Observed { switch, answer, .. } => {
                let (from, index) = (self.from, self.index(Some(switch)));
                if decided {
                    if let Some(marks) = self.mark_mut(Step::Point, index) {
                        marks.done = marks.done.observed(*answer, from.other());
                    }
                } else if let Some(marks) = self.mark_mut(Step::Pause, index) {
                    marks.undone = marks.undone.observed(*answer, from);
                }
            }
            Fact::Resolved { owner, .. } => {
                let from = self.from;
                if decided {
                    for marks in &mut self.points {
                        marks.done = marks.done.resolved(*owner == from.other());
                    }
                } else {
                    for marks in &mut self.pauses {
                        marks.undone = marks.undone.resolved(*owner == from);
                    }
                }
            }
            Fact::Ended { ending, .. } => self.ended = Some(ending.clone()),
        }
    }

    fn decided(&self) -> bool {
        self.mark(Step::Decide, None).done == Mark::Done
    }

    fn goes_back(&self, rules: &Rules) -> bool {
        if self.decided() {
            return false;
        }
        let rehearsed =
            self.rehearsal
                && rules.rehearsal_goes_back
                && rules.order.iter().take_while(|step| **step != Step::Decide).all(|step| {
                    self.keys(*step).all(|key| self.mark(*step, key).done == Mark::Done)
                });
        let broken = match &self.cause {
            Some((Some(_), _)) => rules.failure_goes_back,
            Some((None, _)) => rules.restart_goes_back,
            None => false,
        };
        // Once it goes back it stays so, whatever else is known.
        rehearsed
            || broken
            || self.steps.iter().chain(&self.pauses).any(|marks| marks.undone != Mark::Not)
    }

    /// The places in which a step is made: once, or once for every switch.
    fn keys(&self, step: Step) -> impl Iterator<Item = Option<usize>> {
        let (once, each) =
            if step.per_switch() { (None, 0..self.names.len()) } else { (Some(None), 0..0) };
        once.into_iter().chain(each.map(Some))
    }

    fn forward(&self, rules: &Rules) -> Next {
        for step in rules.order {
            let open: Vec<_> = self
                .keys(*step)
                .map(|key| (key, self.mark(*step, key).done))
                .filter(|(_, mark)| *mark != Mark::Done)
                .collect();
            if open.is_empty() {
                continue;
            }
            let ask = *step == Step::Point && rules.asks_when_unanswered;
            return self.act(*step, Verb::Do, open, ask, 0);
        }
        Next::Finished(Ending::Moved { owner: self.from.other() })
    }

    fn back(&self, rules: &Rules) -> Next {
        let mut steps: Vec<Step> =
            rules.order.iter().copied().filter(|s| rules.with_traces.contains(s)).collect();
        if rules.last_first {
            steps.reverse();
        }
        for step in steps {
            let open: Vec<_> = self
                .keys(step)
                .map(|key| (key, self.mark(step, key)))
                .filter(|(_, marks)| match step {
                    Step::Pause => marks.holds(),
                    // A port's failure may have taken effect all the same: a lost connection.
                    _ => marks.done != Mark::Not,
                })
                .map(|(key, marks)| (key, marks.undone))
                .filter(|(_, mark)| match mark {
                    Mark::Done => false,
                    Mark::Again(_) => rules.failed_undo_is_repeated,
                    _ => true,
                })
                .collect();
            if open.is_empty() {
                continue;
            }
            let ask = step == Step::Pause && rules.asks_when_unanswered;
            return self.act(step, Verb::Undo, open, ask, BLIND_RESUMES);
        }
        Next::Finished(match &self.cause {
            None => Ending::Rehearsed { owner: self.from },
            Some((step, why)) => {
                Ending::Aborted { owner: self.from, step: *step, why: why.clone() }
            }
        })
    }

    /// What to do with the places of one step that are not done. `ask`: what is in doubt must be
    /// asked first, and what cannot be known is repeated at most `blind` times.
    fn act(
        &self,
        step: Step,
        verb: Verb,
        open: Vec<(Option<usize>, Mark)>,
        ask: bool,
        blind: u8,
    ) -> Next {
        let mut acts = Vec::new();
        let mut unknown = Vec::new();
        for (switch, mark) in open {
            let attempt = mark.attempts();
            match mark {
                Mark::Unanswered { unheard, .. } if ask => {
                    acts.push(Act { verb: Verb::Observe, step, switch, attempt: unheard });
                }
                Mark::Started(_) if ask => {
                    acts.push(Act { verb: Verb::Observe, step, switch, attempt: 0 });
                }
                Mark::Unknowable(_) if ask && attempt >= blind => unknown.extend(switch),
                _ => acts.push(Act { verb, step, switch, attempt }),
            }
        }
        if !acts.is_empty() {
            return Next::Act(acts);
        }
        let switches: Vec<String> =
            unknown.into_iter().filter_map(|i| self.names.get(i).cloned()).collect();
        let side = if verb == Verb::Do { self.from.other() } else { self.from };
        let why = format!(
            "{} gave no answer and cannot say whether writes go to {side} and clients are held",
            switches.join(", ")
        );
        Next::NeedsOperator { switches, why }
    }
}

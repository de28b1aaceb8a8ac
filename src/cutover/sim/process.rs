//! A process that makes the move, and everything that can happen to it next.

use super::{
    super::{
        fact::{Answer, Ending, Fact, Outcome, Process},
        machine::{Act, Next, Rules, State, Verb},
        plan::Step,
    },
    world::World,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Who {
    First,
    Guard,
    Later,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) world: World,
    /// What the journal says.
    pub(super) durable: State,
    /// What the process knows: outcomes that go into the journal with the next append.
    pub(super) known: State,
    pub(super) who: Who,
    pub(super) faults: u8,
    pub(super) crashes: u8,
    /// Acts of the current group that are begun in the journal and not performed yet.
    pub(super) group: Vec<Act>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) rules: Rules,
    /// Whether effects come before their journal line.
    pub(super) careless: bool,
    /// Whether whoever takes over first sees to it that the process before can ask for nothing
    /// more: the journal has one writer, and who holds on to it is killed.
    pub(super) killed: bool,
    /// Whether a late order to close the fence is void once it was opened again.
    pub(super) epochs: bool,
    /// Whether a process whose journal fails lets clients go before the decision, and only then.
    pub(super) lets_go: LetsGo,
}

/// What a process does when its journal fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LetsGo {
    /// Before the decision, where everybody who reads the journal would do the same.
    BeforeTheDecision,
    /// Also when the line of the decision may be there.
    Always,
}

impl Setup {
    /// The ones we live by.
    pub(super) const REAL: Self = Self {
        rules: Rules::REAL,
        careless: false,
        killed: true,
        epochs: true,
        lets_go: LetsGo::BeforeTheDecision,
    };
}

pub(super) fn switch_name(index: usize) -> String {
    ["a", "b", "c"][index].to_owned()
}

pub(super) fn fact(act: &Act, outcome: Outcome) -> Fact {
    let (step, switch, at_us) = (act.step, act.switch.map(switch_name), 0);
    match act.verb {
        Verb::Undo => Fact::Undo { step, switch, outcome, at_us },
        _ => Fact::Step { step, switch, outcome, at_us },
    }
}

pub(super) fn done() -> Outcome {
    Outcome::Done { details: Default::default() }
}

pub(super) fn failed() -> Outcome {
    Outcome::Failed { why: String::new(), code: None, remedy: None }
}

impl Node {
    pub(super) fn new(world: World, faults: u8, crashes: u8) -> Self {
        let began = Fact::MoveBegan {
            id: String::new(),
            from: world.from,
            rehearsal: world.rehearsal,
            budget_ms: 0,
            switches: (0..world.switches.len()).map(switch_name).collect(),
            at_ms: 0,
        };
        let mut state = State::of(&[Fact::Resolved { owner: world.from, at_ms: 0 }]);
        state.apply(&began);
        let (durable, known) = (state.clone(), state);
        Self { world, durable, known, who: Who::First, faults, crashes, group: vec![] }
    }

    pub(super) fn learns(&mut self, act: &Act, outcome: Outcome) {
        let failed = matches!(outcome, Outcome::Failed { .. } | Outcome::Ambiguous { .. });
        self.known.apply(&fact(act, outcome));
        self.world.failed |= failed && act.verb == Verb::Do;
        // What was begun together with the failure may still take effect.
        self.world.must_go_back |= self.world.failed && self.group.is_empty();
        if self.known.decided() {
            (self.world.failed, self.world.must_go_back) = (false, false);
        }
    }

    /// Another process goes on with what the journal says.
    pub(super) fn restarted(mut self, who: Who) -> Self {
        self.known = self.durable.clone();
        let by = if who == Who::Guard { Process::Guard } else { Process::Run };
        self.known.apply(&Fact::Restarted { by, at_ms: 0 });
        self.durable = self.known.clone();
        self.world.must_go_back = !self.known.decided();
        self.world.guard = false;
        self.group.clear();
        self.who = who;
        self
    }

    /// The process is stopped, or cut off, with a request under way: it may happen long after
    /// another process has taken over.
    fn cut_off(&self, act: &Act) -> Vec<Self> {
        let late = match (act.verb, act.step) {
            (Verb::Do, Step::Fence | Step::Pause | Step::Unfence | Step::Point)
            | (Verb::Undo, Step::Fence | Step::Pause) => (act.clone(), self.world.epoch),
            _ => return vec![],
        };
        let mut node = self.clone();
        node.world.late = Some(late);
        node.crashed()
    }

    /// The disk is full: the line is not there, or nobody knows. The process lets go and ends.
    fn disk_full(&self, with_line: &Self, setup: &Setup) -> Vec<Self> {
        if self.faults == 0 || self.who == Who::Later {
            return vec![];
        }
        let mut all = vec![];
        for durable in [&self.durable, &with_line.durable] {
            let mut node = with_line.clone();
            node.durable = durable.clone();
            node.faults -= 1;
            node.group.clear();
            let free = node.known.traffic_is_free();
            let before = !node.known.decided() || setup.lets_go == LetsGo::Always;
            if before && !free {
                node.world.let_go();
            }
            if node.who == Who::First && node.world.guard {
                all.push(node.clone().restarted(Who::Guard));
            }
            all.push(node.restarted(Who::Later));
        }
        all
    }

    pub(super) fn crashed(&self) -> Vec<Self> {
        if self.crashes == 0 {
            return vec![];
        }
        let mut node = self.clone();
        node.crashes -= 1;
        let mut all = vec![];
        if node.who == Who::First && node.world.guard {
            all.push(node.clone().restarted(Who::Guard));
        }
        all.push(node.restarted(Who::Later));
        all
    }

    /// Everything that can happen next, the undisturbed course first. Empty at the end.
    pub(super) fn successors(&self, setup: &Setup) -> Result<Vec<Self>, &'static str> {
        let mut all = self.own_successors(setup)?;
        if self.world.late.is_some() {
            let mut node = self.clone();
            node.world.happens_late(setup.epochs);
            all.push(node);
        }
        Ok(all)
    }

    fn own_successors(&self, setup: &Setup) -> Result<Vec<Self>, &'static str> {
        if let Some((act, rest)) = self.group.split_first() {
            return self.perform(act, rest, setup);
        }
        if self.who == Who::Guard && self.known.traffic_is_free() {
            // Its work is done; the rest is for the next run.
            let mut node = self.clone();
            node.durable = node.known.clone();
            return Ok(vec![node.restarted(Who::Later)]);
        }
        match self.known.next_by(&setup.rules) {
            Next::Idle => Err("a move without a beginning"),
            Next::Finished(ending) => {
                if self.durable.is_open() {
                    let mut node = self.clone();
                    node.known.apply(&Fact::Ended { ending, at_ms: 0 });
                    node.durable = node.known.clone();
                    node.world.guard = false;
                    return Ok(std::iter::once(node).chain(self.crashed()).collect());
                }
                let moved = matches!(ending, Ending::Moved { .. });
                if self.durable.owner() != ending.owner() {
                    return Err("the journal names another owner than the ending");
                }
                self.world.check_end(moved).map(|()| vec![])
            }
            Next::NeedsOperator { switches, .. } => Ok(vec![self.operator(&switches)?]),
            Next::Act(acts) => {
                let mut node = self.clone();
                if acts == [Act { verb: Verb::Do, step: Step::Decide, switch: None, attempt: 0 }] {
                    // The line is the effect.
                    node.world.effect(&acts[0])?;
                    node.learns(&acts[0], done());
                    node.durable = node.known.clone();
                    let full = self.disk_full(&node, setup);
                    return Ok(std::iter::once(node).chain(self.crashed()).chain(full).collect());
                }
                for act in acts.iter().filter(|act| act.verb != Verb::Observe) {
                    node.known.apply(&fact(act, Outcome::Started));
                }
                if !setup.careless {
                    node.durable = node.known.clone();
                }
                node.group = acts;
                let full = self.disk_full(&node, setup);
                Ok(std::iter::once(node).chain(self.crashed()).chain(full).collect())
            }
        }
    }

    pub(super) fn perform(
        &self,
        act: &Act,
        rest: &[Act],
        setup: &Setup,
    ) -> Result<Vec<Self>, &'static str> {
        let mut base = self.clone();
        base.group = rest.to_vec();
        // A switch serves requests in the order in which they came, so that what was on its way
        // before us has happened by now, or never does.
        let late_here = base.world.late.as_ref().is_some_and(|(late, _)| late.switch.is_some());
        if setup.killed && late_here && act.switch.is_some() {
            base.world.late = base.world.late.filter(|(late, _)| late.switch != act.switch);
        }
        if act.verb == Verb::Observe {
            return Ok(base.observe(act));
        }
        if !self.durable.is_started(act) {
            return Err("an effect without its journal line");
        }
        let at_switch = act.switch.is_some();
        let mut sent = base.clone();
        sent.world.send(act)?;
        let mut all = vec![];
        let mut outcome = |node: &Self, in_effect: bool, outcome: Outcome| {
            let mut node = node.clone();
            if in_effect {
                node.world.effect(act)?;
            }
            if let (Some(i), false) = (act.switch, matches!(outcome, Outcome::Ambiguous { .. })) {
                node.world.switches[i].unanswered = None;
            }
            node.learns(act, outcome);
            if setup.careless && node.group.is_empty() {
                node.durable = node.known.clone();
            }
            all.push(node);
            Ok::<_, &'static str>(())
        };
        if self.world.refusals > 0 && self.world.writes_on_green(act) {
            let mut refused = base.clone();
            refused.world.refusals -= 1;
            outcome(&refused, false, failed())?;
            return Ok(all);
        }
        outcome(&sent, true, done())?;
        if self.faults > 0 {
            let mut faulty = sent.clone();
            faulty.faults -= 1;
            outcome(&faulty, false, failed())?;
            if at_switch {
                for in_effect in [false, true] {
                    outcome(&faulty, in_effect, Outcome::Ambiguous { why: String::new() })?;
                }
            } else {
                outcome(&faulty, true, failed())?;
            }
        }
        // Died before it was sent, before it took effect, and after that.
        all.extend(self.crashed());
        all.extend(self.cut_off(act));
        let mut after = sent;
        after.world.effect(act)?;
        all.extend(after.crashed());
        Ok(all)
    }

    pub(super) fn observe(self, act: &Act) -> Vec<Self> {
        let Some(i) = act.switch else { return vec![] };
        let switch = self.world.switches[i];
        let said = if switch.can_say {
            Answer::Said { side: Some(switch.side), paused: Some(switch.paused) }
        } else {
            Answer::Said { side: None, paused: None }
        };
        let answer = |mut node: Self, answer| {
            if matches!(answer, Answer::Said { side: Some(_), .. }) {
                node.world.switches[i].unanswered = None;
            }
            node.known.apply(&Fact::Observed { switch: switch_name(i), answer, at_us: 0 });
            node
        };
        let mut all = vec![answer(self.clone(), said)];
        if self.faults > 0 {
            let mut faulty = self.clone();
            faulty.faults -= 1;
            all.push(answer(faulty, Answer::Silent));
        }
        all.extend(self.crashed());
        all
    }

    /// The operator makes the switches in doubt agree, by hand, and says so.
    pub(super) fn operator(&self, names: &[String]) -> Result<Self, &'static str> {
        let mut node = self.clone();
        let doubtful: Vec<usize> =
            (0..node.world.switches.len()).filter(|i| names.contains(&switch_name(*i))).collect();
        if doubtful.is_empty() || doubtful.iter().any(|i| node.world.switches[*i].can_say) {
            return Err("an operator is asked about a switch that can be asked");
        }
        let (from, to) = (node.world.from, node.world.from.other());
        let moved = |i: &usize| node.world.switches[*i].side == to;
        let owner = if doubtful.iter().all(moved) { to } else { from };
        for i in doubtful {
            let switch = &mut node.world.switches[i];
            switch.side = owner;
            switch.unanswered = None;
            // Who says that the origin still has the clients of a decided move leaves them held.
            switch.paused = node.known.decided() && owner == from;
        }
        node.known.may_resolve(owner).map_err(|_| "the operator's word is refused")?;
        node.known.apply(&Fact::Resolved { owner, at_ms: 0 });
        node.durable = node.known.clone();
        Ok(node)
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.who == Who::First && self.world.held() && !self.world.guard && !self.known.decided()
        {
            return Err("clients are held and nobody guards them");
        }
        Ok(())
    }
}

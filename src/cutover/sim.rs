//! Every crash and every fault at every step, exhaustively.
//!
//! A model world (two databases with clients that also go around the switches, switches that may
//! be unable to answer, a guard) is driven by the real machine. At every effect all of these are
//! tried: it works; it fails without effect; it fails or gets no answer although it took effect;
//! the process dies before it, or after it and before its outcome is journaled. Every reachable
//! state is visited once, and its invariants are checked.

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
};

use cutover_core::model::side::Side;

use super::{
    fact::{Answer, Fact, Outcome, Process},
    machine::{Act, Next, Rules, State, Verb},
    plan::Step,
};

// --- the world -------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Switch {
    side: Side,
    paused: bool,
    can_say: bool,
    /// A request to point somewhere that got no answer.
    unanswered: Option<Side>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    from: Side,
    rehearsal: bool,
    switches: Vec<Switch>,
    /// Which side accepts writes from clients: origin, target.
    open: [bool; 2],
    /// Acknowledged writes of the origin are missing on the target.
    undrained: bool,
    /// Rows of the origin changed after the comparison, or were compared before they arrived.
    unproven: bool,
    /// The origin handed out counter values that the target does not know.
    behind: bool,
    captured: bool,
    guard: bool,
    streaming_back: bool,
    /// Something failed before the decision.
    failed: bool,
    /// A failure, a restart: no further step is allowed, only the way back.
    must_go_back: bool,
    target_written: bool,
}

impl World {
    fn new(from: Side, rehearsal: bool, can_say: &[bool]) -> Self {
        let switch = |can_say: &bool| Switch {
            side: from,
            paused: false,
            can_say: *can_say,
            unanswered: None,
        };
        Self {
            from,
            rehearsal,
            switches: can_say.iter().map(switch).collect(),
            open: [true, false],
            undrained: true,
            unproven: true,
            behind: true,
            captured: false,
            guard: false,
            streaming_back: false,
            failed: false,
            must_go_back: false,
            target_written: false,
        }
    }

    fn origin_is_written(&mut self) {
        self.undrained = true;
        self.unproven = true;
        self.behind = true;
    }

    /// Time passes: clients write wherever they can, through the switches and around them.
    fn clients_write(&mut self) -> Result<(), &'static str> {
        let [origin, target] = self.open;
        if origin && target {
            return Err("both sides accept writes");
        }
        if origin {
            if self.target_written {
                return Err("writes of the target are lost: the origin took over again");
            }
            self.origin_is_written();
        }
        if target {
            if self.undrained || self.unproven || self.behind {
                return Err("the target takes writes before it has everything of the origin");
            }
            if !self.captured {
                return Err("a write on the target is not captured for the way back");
            }
            self.target_written = true;
        }
        for switch in &self.switches {
            let side_open = if switch.side == self.from { origin } else { target };
            if !switch.paused && !side_open {
                return Err("a client is refused: its switch sends it to a side that is closed");
            }
        }
        Ok(())
    }

    fn request(&mut self, switch: usize, side: Side) -> Result<(), &'static str> {
        let target = self.from.other();
        match self.switches[switch].unanswered.replace(side) {
            Some(before) if before == target || side == target => {
                Err("traffic is moved again without an answer in between")
            }
            _ => Ok(()),
        }
    }

    /// A switch is told something; whether it does it is another matter.
    fn send(&mut self, act: &Act) -> Result<(), &'static str> {
        match (act.verb, act.step, act.switch) {
            (Verb::Undo, Step::Pause, Some(i)) => self.request(i, self.from),
            (Verb::Do, Step::Point, Some(i)) => self.request(i, self.from.other()),
            _ => Ok(()),
        }
    }

    fn effect(&mut self, act: &Act) -> Result<(), &'static str> {
        let (from, to) = (self.from, self.from.other());
        match (act.verb, act.step, act.switch) {
            (Verb::Do, step, _) if self.must_go_back && step != Step::Decide => {
                return Err("it goes on although it must go back");
            }
            (Verb::Do, Step::ArmReverse, _) => self.captured = true,
            (Verb::Do, Step::Guard, _) => self.guard = true,
            (Verb::Do, Step::Pause, Some(i)) => self.switches[i].paused = true,
            (Verb::Do, Step::Fence, _) => {
                // Waits for the writers in flight: their last commits happen now.
                self.origin_is_written();
                self.open[0] = false;
            }
            (Verb::Do, Step::Drain, _) => self.undrained = false,
            (Verb::Do, Step::Verify, _) => self.unproven = self.undrained,
            (Verb::Do, Step::Counters, _) => self.behind = false,
            (Verb::Do, Step::Decide, _) => {
                if self.rehearsal {
                    return Err("a rehearsal is decided");
                }
                if self.must_go_back {
                    return Err("it decides although it must go back");
                }
                if self.open[0] || self.undrained || self.unproven || self.behind {
                    return Err("it decides before the target has everything of the origin");
                }
                if !self.captured {
                    return Err("it decides without a way back");
                }
            }
            (Verb::Do, Step::Unfence, _) => self.open[1] = true,
            (Verb::Do, Step::Point, Some(i)) => {
                self.switches[i].side = to;
                self.switches[i].paused = false;
            }
            (Verb::Do, Step::StreamReverse, _) => self.streaming_back = true,
            (Verb::Undo, Step::ArmReverse, _) => self.captured = false,
            (Verb::Undo, Step::Guard, _) => self.guard = false,
            (Verb::Undo, Step::Fence, _) => self.open[0] = true,
            (Verb::Undo, Step::Pause, Some(i)) => {
                self.switches[i].side = from;
                self.switches[i].paused = false;
            }
            _ => {}
        }
        Ok(())
    }

    fn held(&self) -> bool {
        self.switches.iter().any(|s| s.paused) || self.open == [false, false]
    }

    /// What must be true when nothing is left to do.
    fn check_end(&self, moved: bool) -> Result<(), &'static str> {
        let side = if moved { self.from.other() } else { self.from };
        if self.open != [!moved, moved] {
            return Err("it ends without exactly the owner accepting writes");
        }
        if self.switches.iter().any(|s| s.paused) {
            return Err("it ends with a paused switch");
        }
        if self.switches.iter().any(|s| s.side != side) {
            return Err("it ends with a switch that sends clients to the wrong side");
        }
        if self.captured != moved || self.streaming_back != moved {
            return Err("it ends with the wrong capture of the way back");
        }
        if self.guard {
            return Err("it ends with a guard");
        }
        if moved && (self.rehearsal || self.must_go_back) {
            return Err("it moved although it must not");
        }
        Ok(())
    }
}

// --- the process -----------------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    First,
    Guard,
    Later,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    world: World,
    /// What the journal says.
    durable: State,
    /// What the process knows: outcomes that go into the journal with the next append.
    known: State,
    who: Who,
    faults: u8,
    crashes: u8,
    /// Acts of the current group that are begun in the journal and not performed yet.
    group: Vec<Act>,
}

#[derive(Debug, Clone, Copy)]
struct Setup {
    rules: Rules,
    /// Whether effects come before their journal line.
    careless: bool,
}

fn switch_name(index: usize) -> String {
    ["a", "b", "c"][index].to_owned()
}

fn fact(act: &Act, outcome: Outcome) -> Fact {
    let (step, switch, at_us) = (act.step, act.switch.map(switch_name), 0);
    match act.verb {
        Verb::Undo => Fact::Undo { step, switch, outcome, at_us },
        _ => Fact::Step { step, switch, outcome, at_us },
    }
}

fn done() -> Outcome {
    Outcome::Done { details: Default::default() }
}

fn failed() -> Outcome {
    Outcome::Failed { why: String::new(), code: None, remedy: None }
}

impl Node {
    fn new(world: World, faults: u8, crashes: u8) -> Self {
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

    fn learns(&mut self, act: &Act, outcome: Outcome) {
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
    fn restarted(mut self, who: Who) -> Self {
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

    fn crashed(&self) -> Vec<Self> {
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
    fn successors(&self, setup: &Setup) -> Result<Vec<Self>, &'static str> {
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
                let moved = matches!(ending, super::fact::Ending::Moved { .. });
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
                    return Ok(std::iter::once(node).chain(self.crashed()).collect());
                }
                for act in acts.iter().filter(|act| act.verb != Verb::Observe) {
                    node.known.apply(&fact(act, Outcome::Started));
                }
                if !setup.careless {
                    node.durable = node.known.clone();
                }
                node.group = acts;
                Ok(std::iter::once(node).chain(self.crashed()).collect())
            }
        }
    }

    fn perform(&self, act: &Act, rest: &[Act], setup: &Setup) -> Result<Vec<Self>, &'static str> {
        let mut base = self.clone();
        base.group = rest.to_vec();
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
        // Died before it was sent, and after it took effect.
        all.extend(self.crashed());
        let mut after = sent;
        after.world.effect(act)?;
        all.extend(after.crashed());
        Ok(all)
    }

    fn observe(self, act: &Act) -> Vec<Self> {
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
    fn operator(&self, names: &[String]) -> Result<Self, &'static str> {
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

    fn check(&self) -> Result<(), &'static str> {
        if self.who == Who::First && self.world.held() && !self.world.guard && !self.known.decided()
        {
            return Err("clients are held and nobody guards them");
        }
        Ok(())
    }
}

// --- the search ------------------------------------------------------------------------------

/// A fast hash for the visited set; its quality does not matter here.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

/// Visits everything reachable from `start`; the number of states, or the first broken invariant.
fn explore(start: Node, setup: &Setup) -> Result<usize, (&'static str, Box<Node>)> {
    let mut seen: HashSet<Node, BuildHasherDefault<Quick>> = HashSet::default();
    let mut open = vec![start];
    while let Some(mut node) = open.pop() {
        if seen.contains(&node) {
            continue;
        }
        if let Err(why) = node.world.clients_write().and_then(|()| node.check()) {
            return Err((why, Box::new(node)));
        }
        match node.successors(setup) {
            Ok(next) => open.extend(next),
            Err(why) => return Err((why, Box::new(node))),
        }
        seen.insert(node);
    }
    Ok(seen.len())
}

/// From here on everything works: it ends, soon, and clients are free after a few effects.
fn undisturbed_end(mut node: Node, setup: &Setup) -> (usize, bool) {
    let mut effects_until_free = 0;
    let mut asked = false;
    for _ in 0..100 {
        if !node.known.traffic_is_free() || node.world.held() {
            effects_until_free += usize::from(!node.group.is_empty());
        }
        let next = node.successors(setup).unwrap_or_else(|why| panic!("{why}: {node:#?}"));
        let Some(first) = next.into_iter().next() else { return (effects_until_free, asked) };
        asked |= matches!(node.known.next(), Next::NeedsOperator { .. });
        node = first;
    }
    panic!("it does not end: {node:#?}")
}

const SWITCHES: [&[bool]; 4] = [&[true], &[false], &[true, true], &[true, false]];

fn starts(faults: u8, crashes: u8) -> impl Iterator<Item = Node> {
    [Side::Blue, Side::Green].into_iter().flat_map(move |from| {
        [false, true].into_iter().flat_map(move |rehearsal| {
            SWITCHES.iter().map(move |can_say| {
                Node::new(World::new(from, rehearsal, can_say), faults, crashes)
            })
        })
    })
}

const REAL: Setup = Setup { rules: Rules::REAL, careless: false };

// --- tests -----------------------------------------------------------------------------------

#[test]
fn no_crash_and_no_fault_breaks_a_move() {
    let mut states = 0;
    for start in starts(1, 2) {
        states += explore(start, &REAL).unwrap_or_else(|(why, node)| panic!("{why}: {node:#?}"));
    }
    for start in starts(2, 0) {
        states += explore(start, &REAL).unwrap_or_else(|(why, node)| panic!("{why}: {node:#?}"));
    }
    for can_say in [true, false] {
        // Enough unanswered requests for an operator to be asked on the way back.
        let start = Node::new(World::new(Side::Blue, false, &[can_say]), 4, 0);
        states += explore(start, &REAL).unwrap_or_else(|(why, node)| panic!("{why}: {node:#?}"));
    }
    assert!(states > 10_000, "only {states} states: the search has lost its breadth");
}

#[test]
fn after_any_crash_and_fault_it_ends_and_clients_are_free_at_once() {
    for start in starts(1, 1).filter(|start| start.world.from == Side::Blue) {
        let switches = start.world.switches.len();
        let mut seen: HashSet<Node, BuildHasherDefault<Quick>> = HashSet::default();
        let mut open = vec![start];
        while let Some(mut node) = open.pop() {
            node.world.clients_write().unwrap();
            if seen.contains(&node) {
                continue;
            }
            let disturbed = node.world.must_go_back;
            let (effects, asked) = undisturbed_end(node.clone(), &REAL);
            // Open the fence, and per switch: ask, let go, ask again and let go.
            assert!(
                !disturbed || asked || effects <= 1 + 4 * switches,
                "{effects} effects until clients are free: {node:#?}"
            );
            open.extend(node.successors(&REAL).unwrap());
            seen.insert(node);
        }
    }
}

/// Whether the search notices broken rules, and which invariant it names.
fn caught(setup: &Setup) -> Option<&'static str> {
    starts(1, 2).chain(starts(2, 0)).find_map(|start| explore(start, setup).err().map(|e| e.0))
}

#[test]
fn wrong_plans_are_caught() {
    use Step::*;
    const FENCE_AFTER_DRAIN: &[Step] = &[
        Recheck,
        ArmReverse,
        Guard,
        Pause,
        Drain,
        Fence,
        Verify,
        Counters,
        Decide,
        Unfence,
        Point,
        StreamReverse,
    ];
    const CAPTURE_TOO_LATE: &[Step] = &[
        Recheck,
        Guard,
        Pause,
        Fence,
        Drain,
        Verify,
        Counters,
        Decide,
        Unfence,
        Point,
        ArmReverse,
        StreamReverse,
    ];
    const DECIDE_TOO_LATE: &[Step] = &[
        Recheck,
        ArmReverse,
        Guard,
        Pause,
        Fence,
        Drain,
        Verify,
        Counters,
        Unfence,
        Point,
        Decide,
        StreamReverse,
    ];
    const DECIDE_TOO_EARLY: &[Step] = &[
        Recheck,
        ArmReverse,
        Guard,
        Pause,
        Fence,
        Decide,
        Drain,
        Verify,
        Counters,
        Unfence,
        Point,
        StreamReverse,
    ];
    const FENCE_AFTER_POINT: &[Step] = &[
        Recheck,
        ArmReverse,
        Guard,
        Pause,
        Drain,
        Verify,
        Counters,
        Decide,
        Unfence,
        Point,
        Fence,
        StreamReverse,
    ];
    const POINT_BEFORE_UNFENCE: &[Step] = &[
        Recheck,
        ArmReverse,
        Guard,
        Pause,
        Fence,
        Drain,
        Verify,
        Counters,
        Decide,
        Point,
        Unfence,
        StreamReverse,
    ];
    const UNFENCE_BEFORE_DECIDE: &[Step] = &[
        Recheck,
        ArmReverse,
        Guard,
        Pause,
        Fence,
        Drain,
        Verify,
        Counters,
        Unfence,
        Decide,
        Point,
        StreamReverse,
    ];
    const PROOF_BEFORE_DRAIN: &[Step] = &[
        Recheck,
        ArmReverse,
        Guard,
        Pause,
        Fence,
        Verify,
        Drain,
        Counters,
        Decide,
        Unfence,
        Point,
        StreamReverse,
    ];
    const COUNTERS_BEFORE_FENCE: &[Step] = &[
        Recheck,
        ArmReverse,
        Guard,
        Pause,
        Counters,
        Fence,
        Drain,
        Verify,
        Decide,
        Unfence,
        Point,
        StreamReverse,
    ];
    const GUARD_TOO_LATE: &[Step] = &[
        Recheck,
        ArmReverse,
        Pause,
        Guard,
        Fence,
        Drain,
        Verify,
        Counters,
        Decide,
        Unfence,
        Point,
        StreamReverse,
    ];
    const FENCE_WITHOUT_PAUSE: &[Step] = &[
        Recheck,
        ArmReverse,
        Guard,
        Fence,
        Pause,
        Drain,
        Verify,
        Counters,
        Decide,
        Unfence,
        Point,
        StreamReverse,
    ];
    const NO_PROOF: &[Step] = &[
        Recheck,
        ArmReverse,
        Guard,
        Pause,
        Fence,
        Drain,
        Counters,
        Decide,
        Unfence,
        Point,
        StreamReverse,
    ];
    for (name, order) in [
        ("drain before fence", FENCE_AFTER_DRAIN),
        ("reverse capture after the switch", CAPTURE_TOO_LATE),
        ("decide after point", DECIDE_TOO_LATE),
        ("decide before drain", DECIDE_TOO_EARLY),
        ("fence after point", FENCE_AFTER_POINT),
        ("point before unfence", POINT_BEFORE_UNFENCE),
        ("unfence before decide", UNFENCE_BEFORE_DECIDE),
        ("compare before drain", PROOF_BEFORE_DRAIN),
        ("counters before fence", COUNTERS_BEFORE_FENCE),
        ("guard after pause", GUARD_TOO_LATE),
        ("fence before pause", FENCE_WITHOUT_PAUSE),
        ("no comparison", NO_PROOF),
    ] {
        let setup = Setup { rules: Rules { order, ..Rules::REAL }, careless: false };
        let why = caught(&setup);
        assert!(why.is_some(), "not caught: {name}");
    }
}

#[test]
fn wrong_rules_are_caught() {
    use Step::*;
    let real = Rules::REAL;
    for (name, rules) in [
        ("fence not taken back", Rules { with_traces: &[ArmReverse, Guard, Pause], ..real }),
        ("pause not taken back", Rules { with_traces: &[ArmReverse, Guard, Fence], ..real }),
        ("capture not taken back", Rules { with_traces: &[Guard, Pause, Fence], ..real }),
        ("taken back first to last", Rules { last_first: false, ..real }),
        ("goes on after a restart", Rules { restart_goes_back: false, ..real }),
        ("goes on after a failure", Rules { failure_goes_back: false, ..real }),
        ("failed undo skipped", Rules { failed_undo_is_repeated: false, ..real }),
        ("unanswered request repeated", Rules { asks_when_unanswered: false, ..real }),
        ("rehearsal decides", Rules { rehearsal_goes_back: false, ..real }),
    ] {
        let why = caught(&Setup { rules, careless: false });
        assert!(why.is_some(), "not caught: {name}");
    }
    let why = caught(&Setup { rules: real, careless: true });
    assert_eq!(why, Some("an effect without its journal line"));
}

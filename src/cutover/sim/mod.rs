//! Every crash and every fault at every step, exhaustively.
//!
//! A model world (two databases with clients that also go around the switches, switches that may
//! be unable to answer, a guard) is driven by the real machine. At every effect all of these are
//! tried: it works; it fails without effect; it fails or gets no answer although it took effect;
//! the process dies before it, or after it and before its outcome is journaled, or is cut off while it
//! is under way, so that it takes effect when another process has long taken over; the journal
//! cannot be written; green refuses writes. Every reachable state is visited once, and its
//! invariants are checked.

mod mutants;
mod process;
mod world;

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
};

use cutover_core::model::side::Side;

use self::{
    process::{Node, Setup},
    world::World,
};
use super::{
    machine::{Next, Verb},
    plan::Step,
};

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

const REAL: Setup = Setup::REAL;

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
fn green_that_refuses_writes_for_a_while_breaks_no_move() {
    for mut start in starts(0, 1) {
        start.world.refusals = 3;
        explore(start, &REAL).unwrap_or_else(|(why, node)| panic!("{why}: {node:#?}"));
    }
}

/// Every step of the code takes part in the simulation, forward, and back where the plan says how
/// to take it back, and changes the model world there.
#[test]
fn every_step_is_simulated() {
    let mut simulated: HashSet<(Verb, Step)> = HashSet::default();
    for start in starts(1, 0) {
        let mut seen: HashSet<Node, BuildHasherDefault<Quick>> = HashSet::default();
        let mut open = vec![start];
        while let Some(mut node) = open.pop() {
            node.world.clients_write().unwrap();
            if seen.contains(&node) {
                continue;
            }
            if let Next::Act(acts) = node.known.next() {
                for act in &acts {
                    let mut world = node.world.clone();
                    if world.effect(act).is_ok() && world != node.world {
                        simulated.insert((act.verb, act.step));
                    }
                }
            }
            open.extend(node.successors(&REAL).unwrap());
            seen.insert(node);
        }
    }
    // These change nothing themselves: one only asks, the other's line is its effect, and it is
    // the world that says whether it may be written.
    let silent = [Step::Recheck, Step::Decide];
    for step in Step::ALL {
        assert_eq!(simulated.contains(&(Verb::Do, step)), !silent.contains(&step), "{step}");
        let traces = Step::WITH_TRACES.contains(&step);
        assert_eq!(simulated.contains(&(Verb::Undo, step)), traces, "undo {step}");
    }
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

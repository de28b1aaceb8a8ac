//! Deliberately wrong plans and rules: the search must notice each of them.

use super::{
    super::{machine::Rules, plan::Step},
    explore,
    process::{LetsGo, Setup},
    starts,
};

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
        let setup = Setup { rules: Rules { order, ..Rules::REAL }, ..Setup::REAL };
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
        let why = caught(&Setup { rules, ..Setup::REAL });
        assert!(why.is_some(), "not caught: {name}");
    }
    let why = caught(&Setup { careless: true, ..Setup::REAL });
    assert_eq!(why, Some("an effect without its journal line"));
}

#[test]
fn a_process_that_goes_on_after_another_took_over_is_caught() {
    for (name, setup) in [
        ("late orders to close the fence are obeyed", Setup { epochs: false, ..Setup::REAL }),
        ("who hangs is not killed first", Setup { killed: false, ..Setup::REAL }),
        ("clients are let go past a decision", Setup { lets_go: LetsGo::Always, ..Setup::REAL }),
    ] {
        assert!(caught(&setup).is_some(), "not caught: {name}");
    }
}

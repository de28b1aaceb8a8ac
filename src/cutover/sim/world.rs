//! The model world: two databases with clients that also go around the switches, switches that may
//! be unable to answer, a guard. Every broken promise is an error that names it.

use cutover_core::model::side::Side;

use super::super::{
    machine::{Act, Verb},
    plan::Step,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Switch {
    pub(super) side: Side,
    pub(super) paused: bool,
    pub(super) can_say: bool,
    /// A request to point somewhere that got no answer.
    pub(super) unanswered: Option<Side>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) from: Side,
    pub(super) rehearsal: bool,
    pub(super) switches: Vec<Switch>,
    /// Which side accepts writes from clients: origin, target.
    pub(super) open: [bool; 2],
    /// Acknowledged writes of the origin are missing on the target.
    pub(super) undrained: bool,
    /// Rows of the origin changed after the comparison, or were compared before they arrived.
    pub(super) unproven: bool,
    /// The origin handed out counter values that the target does not know.
    pub(super) behind: bool,
    pub(super) captured: bool,
    pub(super) guard: bool,
    pub(super) streaming_back: bool,
    /// Something failed before the decision.
    pub(super) failed: bool,
    /// A failure, a restart: no further step is allowed, only the way back.
    pub(super) must_go_back: bool,
    pub(super) target_written: bool,
}

impl World {
    pub(super) fn new(from: Side, rehearsal: bool, can_say: &[bool]) -> Self {
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

    pub(super) fn origin_is_written(&mut self) {
        self.undrained = true;
        self.unproven = true;
        self.behind = true;
    }

    /// Time passes: clients write wherever they can, through the switches and around them.
    pub(super) fn clients_write(&mut self) -> Result<(), &'static str> {
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

    pub(super) fn request(&mut self, switch: usize, side: Side) -> Result<(), &'static str> {
        let target = self.from.other();
        match self.switches[switch].unanswered.replace(side) {
            Some(before) if before == target || side == target => {
                Err("traffic is moved again without an answer in between")
            }
            _ => Ok(()),
        }
    }

    /// A switch is told something; whether it does it is another matter.
    pub(super) fn send(&mut self, act: &Act) -> Result<(), &'static str> {
        match (act.verb, act.step, act.switch) {
            (Verb::Undo, Step::Pause, Some(i)) => self.request(i, self.from),
            (Verb::Do, Step::Point, Some(i)) => self.request(i, self.from.other()),
            _ => Ok(()),
        }
    }

    pub(super) fn effect(&mut self, act: &Act) -> Result<(), &'static str> {
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

    pub(super) fn held(&self) -> bool {
        self.switches.iter().any(|s| s.paused) || self.open == [false, false]
    }

    /// What must be true when nothing is left to do.
    pub(super) fn check_end(&self, moved: bool) -> Result<(), &'static str> {
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

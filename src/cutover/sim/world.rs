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
    /// How often the fence of the origin was opened: a late order to close it names this.
    pub(super) epoch: u8,
    /// What a process that is gone had asked for and that has not happened yet, with the epoch.
    pub(super) late: Option<(Act, u8)>,
    /// How many more writes of ours green refuses.
    pub(super) refusals: u8,
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
            epoch: 0,
            late: None,
            refusals: 0,
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

    /// What an action does to the world. Every step is listed: a new one does not compile before
    /// it is simulated.
    pub(super) fn effect(&mut self, act: &Act) -> Result<(), &'static str> {
        match act.verb {
            Verb::Do => self.done(act.step, act.switch),
            Verb::Undo => {
                self.undone(act.step, act.switch);
                Ok(())
            }
            Verb::Observe => Ok(()),
        }
    }

    fn done(&mut self, step: Step, switch: Option<usize>) -> Result<(), &'static str> {
        if self.must_go_back && step != Step::Decide {
            return Err("it goes on although it must go back");
        }
        match step {
            Step::Recheck => {}
            Step::ArmReverse => self.captured = true,
            Step::Guard => self.guard = true,
            Step::Pause => self.pause(switch),
            Step::Fence => self.close(),
            Step::Drain => self.undrained = false,
            Step::Verify => self.unproven = self.undrained,
            Step::Counters => self.behind = false,
            Step::Decide => {
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
            Step::Unfence => self.open[1] = true,
            Step::Point => self.point(switch, self.from.other()),
            Step::StreamReverse => self.streaming_back = true,
        }
        Ok(())
    }

    fn undone(&mut self, step: Step, switch: Option<usize>) {
        match step {
            Step::ArmReverse => self.captured = false,
            Step::Guard => self.guard = false,
            Step::Pause => self.point(switch, self.from),
            Step::Fence => {
                self.open[0] = true;
                self.epoch += 1;
            }
            Step::Recheck
            | Step::Drain
            | Step::Verify
            | Step::Counters
            | Step::Decide
            | Step::Unfence
            | Step::Point
            | Step::StreamReverse => {}
        }
    }

    fn pause(&mut self, switch: Option<usize>) {
        if let Some(i) = switch {
            self.switches[i].paused = true;
        }
    }

    fn point(&mut self, switch: Option<usize>, side: Side) {
        if let Some(i) = switch {
            self.switches[i].side = side;
            self.switches[i].paused = false;
        }
    }

    fn close(&mut self) {
        // Waits for the writers in flight: their last commits happen now.
        if self.open[0] {
            self.origin_is_written();
        }
        self.open[0] = false;
    }

    /// What a process that is gone had asked for happens now. A late order to close the fence is
    /// void when somebody has opened it since, unless `epochs` are not looked at.
    pub(super) fn happens_late(&mut self, epochs: bool) {
        let Some((act, epoch)) = self.late.take() else { return };
        let (from, to) = (self.from, self.from.other());
        match (act.verb, act.step) {
            (Verb::Do, Step::Fence) if epochs && epoch != self.epoch => {}
            (Verb::Do, Step::Fence) => self.close(),
            (Verb::Do, Step::Pause) => self.pause(act.switch),
            (Verb::Do, Step::Unfence) => self.open[1] = true,
            (Verb::Do, Step::Point) => self.point(act.switch, to),
            (Verb::Undo, Step::Pause) => self.point(act.switch, from),
            (verb, step) => {
                debug_assert!(verb == Verb::Undo || !step.per_switch());
                if verb == Verb::Undo {
                    self.undone(step, act.switch);
                }
            }
        }
    }

    /// Whether an action writes on green.
    pub(super) fn writes_on_green(&self, act: &Act) -> bool {
        let on = match act.step {
            Step::Fence => self.from,
            Step::Drain | Step::Counters | Step::Unfence => self.from.other(),
            _ => return false,
        };
        on == Side::Green && act.verb != Verb::Observe
    }

    /// The journal cannot be written: a process that has not decided lets everybody go where they
    /// were, without a line.
    pub(super) fn let_go(&mut self) {
        self.undone(Step::Fence, None);
        for i in 0..self.switches.len() {
            self.point(Some(i), self.from);
        }
        self.must_go_back = true;
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

//! What `cutover run` was started for, and when it does something for that by itself.

use std::time::{Duration, Instant};

use super::{live::Live, standing::Phase, status::Readiness};

/// First and longest rest after a move that was begun by itself and not made. It may have held
/// clients, and the next one may meet the same.
const RESTS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(15 * 60));

/// What `cutover run` was started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Answer commands.
    Stopped,
    /// Ready for a switch.
    Converged,
    /// Green owns the writes.
    Switched,
    /// The way back is given up.
    Finished,
}

/// What is wanted of the process, and what it has tried.
pub(super) struct Goal {
    until: Until,
    window: Duration,
    switched_at: Option<Instant>,
    attempts: Attempts,
    /// It was said that nothing is switched by itself any more.
    told: bool,
}

/// What to do by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Nothing,
    Reached,
    Switch,
    Finish,
}

impl Goal {
    pub(super) fn new(until: Until, window: Duration) -> Self {
        Self { until, window, switched_at: None, attempts: Attempts::default(), told: false }
    }

    /// What to do now. Whoever is told to switch begins at once.
    pub(super) fn look(&mut self, live: &Live) -> Wanted {
        let standing = live.book.standing();
        let ready = matches!(live.readiness(), Readiness::Ready);
        self.want(standing.phase(), standing.brought_back, ready, Instant::now())
    }

    fn want(&mut self, phase: Phase, brought_back: bool, ready: bool, now: Instant) -> Wanted {
        if phase != Phase::Switched {
            self.switched_at = None;
        }
        match (self.until, phase) {
            (Until::Converged, Phase::Streaming) if ready => Wanted::Reached,
            (Until::Switched, Phase::Switched) => Wanted::Reached,
            // Whoever brought clients back had a reason that is not known here.
            (Until::Switched | Until::Finished, Phase::Streaming) if brought_back => {
                self.tell();
                Wanted::Nothing
            }
            (Until::Switched | Until::Finished, Phase::Streaming)
                if ready && self.attempts.begin(now) =>
            {
                Wanted::Switch
            }
            (Until::Finished, Phase::Switched) => {
                let since = *self.switched_at.get_or_insert(now);
                if now.saturating_duration_since(since) >= self.window {
                    Wanted::Finish
                } else {
                    Wanted::Nothing
                }
            }
            _ => Wanted::Nothing,
        }
    }

    fn tell(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                "clients were brought back to blue: nothing is switched by itself any more, \
                 whatever `--until` asks for; `cutover switch` does it"
            );
        }
    }

    /// A command has ended. If it was a move that was begun by itself and not made, clients get
    /// their rest.
    pub(super) fn ended(&mut self, live: &Live) {
        let rest = self.attempts.ended(Instant::now());
        if let Some(rest) = rest.filter(|_| live.book.standing().phase() == Phase::Streaming) {
            tracing::warn!(
                "the switch that `--until` asks for was not made; it is tried again in {} s at the \
                 earliest",
                rest.as_secs()
            );
        }
    }
}

/// Moves that were begun by itself.
#[derive(Debug, Default)]
struct Attempts {
    count: u32,
    under_way: bool,
    not_before: Option<Instant>,
}

impl Attempts {
    /// Begins one, if that may be now.
    fn begin(&mut self, now: Instant) -> bool {
        let may = self.not_before.is_none_or(|at| now >= at);
        if may {
            self.count += 1;
            self.under_way = true;
        }
        may
    }

    /// How long to rest, when one was under way.
    fn ended(&mut self, now: Instant) -> Option<Duration> {
        if !std::mem::take(&mut self.under_way) {
            return None;
        }
        let doubled = 1 << self.count.saturating_sub(1).min(16);
        let rest = (RESTS.0 * doubled).min(RESTS.1);
        self.not_before = Some(now + rest);
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_that_are_not_made_are_tried_ever_more_seldom() {
        let mut goal = Goal::new(Until::Switched, Duration::ZERO);
        let mut now = Instant::now();
        let want = |goal: &mut Goal, now| goal.want(Phase::Streaming, false, true, now);
        for rest in [10, 20, 40, 80, 160, 320, 640, 900, 900] {
            assert_eq!(want(&mut goal, now), Wanted::Switch);
            now += Duration::from_secs(3);
            assert_eq!(goal.attempts.ended(now), Some(Duration::from_secs(rest)));
            // Another command has ended.
            assert_eq!(goal.attempts.ended(now), None);
            now += Duration::from_secs(rest - 1);
            assert_eq!(want(&mut goal, now), Wanted::Nothing);
            now += Duration::from_secs(1);
        }
        assert_eq!(goal.want(Phase::Streaming, false, false, now), Wanted::Nothing);
        assert_eq!(goal.want(Phase::Switched, false, false, now), Wanted::Reached);
    }

    #[test]
    fn the_way_back_stays_open_for_the_window() {
        let mut goal = Goal::new(Until::Finished, Duration::from_secs(60));
        let now = Instant::now();
        let at = |s| now + Duration::from_secs(s);
        assert_eq!(goal.want(Phase::Streaming, false, true, now), Wanted::Switch);
        let switched = |goal: &mut Goal, s| goal.want(Phase::Switched, false, false, at(s));
        assert_eq!(switched(&mut goal, 0), Wanted::Nothing);
        assert_eq!(switched(&mut goal, 59), Wanted::Nothing);
        // Brought back, and switched again by somebody: it opens anew.
        assert_eq!(goal.want(Phase::Streaming, true, true, at(59)), Wanted::Nothing);
        assert_eq!(goal.want(Phase::Streaming, true, true, at(7_200)), Wanted::Nothing);
        assert_eq!(switched(&mut goal, 7_201), Wanted::Nothing);
        assert_eq!(switched(&mut goal, 7_260), Wanted::Nothing);
        assert_eq!(switched(&mut goal, 7_261), Wanted::Finish);
    }
}

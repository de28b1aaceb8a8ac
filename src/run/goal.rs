//! What `cutover run` was started for, and when it does something for that by itself.

use std::time::{Duration, Instant};

use super::{
    live::Live,
    prepare::now_ms,
    standing::{Phase, Standing},
    status::Readiness,
};

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

/// What it depends on.
#[derive(Clone, Copy)]
struct Seen {
    phase: Phase,
    brought_back: bool,
    /// For how long green has owned the writes, whichever processes were there meanwhile.
    switched_for: Duration,
    ready: bool,
}

impl Seen {
    fn of(standing: &Standing, now_ms: i64, readiness: Readiness) -> Self {
        let since = standing.switched_at.map_or(0, |at| now_ms.saturating_sub(at));
        Self {
            phase: standing.phase(),
            brought_back: standing.brought_back,
            switched_for: Duration::from_millis(u64::try_from(since).unwrap_or(0)),
            ready: matches!(readiness, Readiness::Ready),
        }
    }
}

impl Goal {
    pub(super) fn new(until: Until, window: Duration) -> Self {
        Self { until, window, attempts: Attempts::default(), told: false }
    }

    /// What to do now. Whoever is told to switch begins at once.
    pub(super) fn look(&mut self, live: &Live) -> Wanted {
        let readiness = match self.until {
            Until::Converged => live.converged(),
            _ => live.readiness(),
        };
        let seen = Seen::of(&live.book.standing(), now_ms(), readiness);
        self.want(seen, Instant::now())
    }

    fn want(&mut self, seen: Seen, now: Instant) -> Wanted {
        let Seen { phase, brought_back, switched_for, ready } = seen;
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
                if switched_for >= self.window {
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
    use cutover_core::model::side::Side;

    use super::*;
    use crate::run::fact::Fact;

    const STREAMING: Seen = Seen {
        phase: Phase::Streaming,
        brought_back: false,
        switched_for: Duration::ZERO,
        ready: true,
    };

    #[test]
    fn moves_that_are_not_made_are_tried_ever_more_seldom() {
        let mut goal = Goal::new(Until::Switched, Duration::ZERO);
        let mut now = Instant::now();
        for rest in [10, 20, 40, 80, 160, 320, 640, 900, 900] {
            assert_eq!(goal.want(STREAMING, now), Wanted::Switch);
            now += Duration::from_secs(3);
            assert_eq!(goal.attempts.ended(now), Some(Duration::from_secs(rest)));
            // Another command has ended.
            assert_eq!(goal.attempts.ended(now), None);
            now += Duration::from_secs(rest - 1);
            assert_eq!(goal.want(STREAMING, now), Wanted::Nothing);
            now += Duration::from_secs(1);
        }
        assert_eq!(goal.want(Seen { ready: false, ..STREAMING }, now), Wanted::Nothing);
        assert_eq!(goal.want(Seen { phase: Phase::Switched, ..STREAMING }, now), Wanted::Reached);
    }

    #[test]
    fn who_was_brought_back_stays() {
        for until in [Until::Switched, Until::Finished] {
            let mut goal = Goal::new(until, Duration::ZERO);
            let brought_back = Seen { brought_back: true, ..STREAMING };
            assert_eq!(goal.want(brought_back, Instant::now()), Wanted::Nothing);
        }
    }

    #[test]
    fn the_way_back_stays_open_for_the_window_from_the_switch_on() {
        let window = Duration::from_secs(60);
        let moved = |owner, at_ms| Fact::MoveEnded { id: 1, owner, at_ms };
        let mut facts = vec![moved(Side::Green, 100_000)];
        // Another process looks each time.
        let want = |facts: &[Fact], now_ms| {
            let mut goal = Goal::new(Until::Finished, window);
            let seen = Seen::of(&Standing::of(facts), now_ms, Readiness::Ready);
            goal.want(seen, Instant::now())
        };
        for (now_ms, wanted) in
            [(90_000, Wanted::Nothing), (159_999, Wanted::Nothing), (160_000, Wanted::Finish)]
        {
            assert_eq!(want(&facts, now_ms), wanted, "{now_ms}");
        }
        // A move that was taken back changes nothing; brought back and switched again, it opens anew.
        facts.push(moved(Side::Green, 150_000));
        assert_eq!(want(&facts, 160_000), Wanted::Finish);
        facts.extend([moved(Side::Blue, 151_000), moved(Side::Green, 155_000)]);
        assert_eq!(want(&facts, 214_999), Wanted::Nothing);
        assert_eq!(want(&facts, 215_000), Wanted::Finish);
    }
}

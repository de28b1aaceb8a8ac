//! What is said over the pipe, and when the guard acts: pure.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

/// One line from the first process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// Which journal to look after, and how long after the budget to act.
    Armed { journal: PathBuf, grace: Duration },
    /// Clients are held from now on, for at most this long.
    Pausing { budget: Duration },
    /// Freeing the traffic is under way, and takes at most this long until the next word.
    Alive { within: Duration },
    /// Not needed any more.
    Released,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Armed { journal, grace } => {
                let path = serde_json::Value::from(journal.to_string_lossy());
                write!(f, "armed {path} {}", grace.as_millis())
            }
            Self::Pausing { budget } => write!(f, "pausing {}", budget.as_millis()),
            Self::Alive { within } => write!(f, "alive {}", within.as_millis()),
            Self::Released => write!(f, "released"),
        }
    }
}

impl Line {
    /// Reads a line; `None` when it is none of ours.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim_end();
        let millis = |text: &str| text.parse().ok().map(Duration::from_millis);
        if let Some(rest) = text.strip_prefix("armed ") {
            let (path, grace) = rest.rsplit_once(' ')?;
            let path: String = serde_json::from_str(path).ok()?;
            return Some(Self::Armed { journal: path.into(), grace: millis(grace)? });
        }
        if let Some(budget) = text.strip_prefix("pausing ") {
            return Some(Self::Pausing { budget: millis(budget)? });
        }
        if let Some(within) = text.strip_prefix("alive ") {
            return Some(Self::Alive { within: millis(within)? });
        }
        (text == "released").then_some(Self::Released)
    }
}

/// What the guard heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// A line.
    Line(Line),
    /// The pipe has ended: the first process died, or let go of it.
    Closed,
    /// Nothing; time has passed.
    Nothing,
}

/// What the guard does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Listens, until that time at the latest.
    Wait { until: Option<Duration> },
    /// Ends; nothing is to be done.
    End,
    /// Takes over. Whoever still holds the journal at `kill_at` is killed.
    TakeOver { kill_at: Duration },
}

/// What the guard knows. All times are on its own clock, from its start.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch {
    armed: Option<(PathBuf, Duration)>,
    deadline: Option<Duration>,
}

impl Watch {
    /// Which journal it looks after.
    pub(super) fn journal(&self) -> Option<&Path> {
        self.armed.as_ref().map(|(journal, _)| journal.as_path())
    }

    /// Takes in what was heard at `now` and says what follows.
    pub(super) fn hear(&mut self, heard: Heard, now: Duration) -> Verdict {
        match heard {
            Heard::Line(Line::Armed { journal, grace }) => self.armed = Some((journal, grace)),
            Heard::Line(Line::Pausing { budget }) => {
                if let Some((_, grace)) = &self.armed {
                    // A second word cannot move the deadline back.
                    let deadline = now + budget + *grace;
                    self.deadline = Some(self.deadline.map_or(deadline, |d| d.min(deadline)));
                }
            }
            // Only a process that does not hang can say so.
            Heard::Line(Line::Alive { within }) => {
                if let (Some((_, grace)), Some(deadline)) = (&self.armed, self.deadline) {
                    self.deadline = Some(deadline.max(now + within + *grace));
                }
            }
            Heard::Line(Line::Released) => return Verdict::End,
            Heard::Closed => {
                return match &self.armed {
                    // Never armed: there is no journal to look after.
                    None => Verdict::End,
                    Some((_, grace)) => {
                        Verdict::TakeOver { kill_at: self.deadline.unwrap_or(now + *grace) }
                    }
                };
            }
            Heard::Nothing => {}
        }
        match self.deadline {
            Some(deadline) if now >= deadline => Verdict::TakeOver { kill_at: deadline },
            until => Verdict::Wait { until },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn lines_survive_the_pipe() {
        for line in [
            Line::Armed { journal: "/a b/\"c\"\n/moves.journal".into(), grace: ms(1000) },
            Line::Pausing { budget: ms(250) },
            Line::Alive { within: ms(2000) },
            Line::Released,
        ] {
            let text = line.to_string();
            assert!(!text.contains('\n'), "{text:?}");
            assert_eq!(Line::parse(&format!("{text}\n")), Some(line));
        }
        for bad in ["", "armed", "armed /x 5", "armed \"x\" soon", "pausing", "pausing -1", "free"]
        {
            assert_eq!(Line::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn when_it_acts() {
        let armed = || Heard::Line(Line::Armed { journal: "/j".into(), grace: ms(1000) });
        let pausing = |n| Heard::Line(Line::Pausing { budget: ms(n) });
        let alive = |n| Heard::Line(Line::Alive { within: ms(n) });
        let released = || Heard::Line(Line::Released);
        let wait = |n: Option<u64>| Verdict::Wait { until: n.map(ms) };
        let take = |n| Verdict::TakeOver { kill_at: ms(n) };
        for (name, heard, want) in [
            ("nothing yet", vec![(Heard::Nothing, 5)], wait(None)),
            ("closed before it was armed", vec![(Heard::Closed, 5)], Verdict::End),
            ("armed", vec![(armed(), 5)], wait(None)),
            ("armed for long", vec![(armed(), 5), (Heard::Nothing, 900_000)], wait(None)),
            ("armed, then closed", vec![(armed(), 5), (Heard::Closed, 9)], take(1009)),
            ("armed, released", vec![(armed(), 5), (released(), 9)], Verdict::End),
            ("pausing", vec![(armed(), 5), (pausing(250), 10)], wait(Some(1260))),
            (
                "pausing, died at once",
                vec![(armed(), 5), (pausing(250), 10), (Heard::Closed, 11)],
                take(1260),
            ),
            (
                "pausing, released in time",
                vec![(armed(), 5), (pausing(250), 10), (released(), 60)],
                Verdict::End,
            ),
            (
                "pausing, just before the deadline",
                vec![(armed(), 5), (pausing(250), 10), (Heard::Nothing, 1259)],
                wait(Some(1260)),
            ),
            (
                "pausing, hangs",
                vec![(armed(), 5), (pausing(250), 10), (Heard::Nothing, 1260)],
                take(1260),
            ),
            (
                "the deadline does not move back",
                vec![(armed(), 5), (pausing(250), 10), (pausing(250), 900)],
                wait(Some(1260)),
            ),
            (
                "at work after the budget",
                vec![(armed(), 5), (pausing(250), 10), (alive(2000), 300)],
                wait(Some(3300)),
            ),
            (
                "at work, then hangs",
                vec![(armed(), 5), (pausing(250), 10), (alive(2000), 300), (Heard::Nothing, 3300)],
                take(3300),
            ),
            (
                "at work for less than is left",
                vec![(armed(), 5), (pausing(250), 10), (alive(10), 20)],
                wait(Some(1260)),
            ),
            ("at work before any pause", vec![(armed(), 5), (alive(2000), 300)], wait(None)),
            ("pausing without being armed", vec![(pausing(250), 10)], wait(None)),
            (
                "closed after the deadline",
                vec![(armed(), 5), (pausing(250), 10), (Heard::Closed, 2000)],
                take(1260),
            ),
        ] {
            let mut watch = Watch::default();
            let mut verdict = wait(None);
            for (heard, at) in heard {
                verdict = watch.hear(heard, ms(at));
            }
            assert_eq!(verdict, want, "{name}");
        }
    }
}

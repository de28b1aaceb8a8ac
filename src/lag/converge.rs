//! Whether a follower will catch up: pure, from samples alone.

use serde::{Deserialize, Serialize};

use super::sample::Sample;

/// When a follower counts as close.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Largest lag by commit time, in seconds.
    pub max_lag_seconds: f64,
    /// A measurement older than this says nothing, in seconds.
    pub fresh_seconds: f64,
    /// How long the lag may fail to shrink before we say that it never will, in seconds.
    pub patience_seconds: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { max_lag_seconds: 5.0, fresh_seconds: 5.0, patience_seconds: 30.0 }
    }
}

/// Whether a move can begin as far as the lag is concerned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "converge", rename_all = "snake_case")]
pub enum Converge {
    /// Close enough now.
    Ready,
    /// Not close enough now.
    NotYet {
        /// Seconds until it is, at the present rate; `None`: nobody knows.
        eta_seconds: Option<f64>,
        /// Why not yet.
        why: String,
    },
    /// Not at this rate.
    Never {
        /// Why, and what would help.
        why: String,
    },
}

/// A shorter stretch of time says nothing about a rate.
const SHORTEST_SPAN: f64 = 3.0;
/// An ETA beyond this is "never" for anybody who waits.
const LONGEST_ETA: f64 = 30.0 * 86_400.0;

/// Judges the samples (oldest first) at `now`, in seconds on the samples' clock.
#[must_use]
pub fn converge(samples: &[Sample], now: f64, thresholds: &Thresholds) -> Converge {
    let not_yet = |why: String| Converge::NotYet { eta_seconds: None, why };
    let Some(latest) = samples.last() else {
        return not_yet("the lag was not measured yet".into());
    };
    if now - latest.at > thresholds.fresh_seconds {
        return not_yet(format!("the lag was last measured {:.0} s ago", now - latest.at));
    }
    let (Some(bytes), Some(seconds), Some(_)) = (latest.bytes, latest.seconds, latest.in_hand)
    else {
        return not_yet(format!("the lag is not known ({})", latest.unknowns().join(", ")));
    };
    if seconds <= thresholds.max_lag_seconds {
        return Converge::Ready;
    }
    let far = format!(
        "{seconds:.1} s behind ({bytes} bytes of log); at most {:.1} s are allowed",
        thresholds.max_lag_seconds
    );
    let known: Vec<(f64, f64)> =
        samples.iter().filter_map(|s| s.bytes.map(|b| (s.at, b as f64))).collect();
    let span = known.first().map_or(0.0, |(first, _)| latest.at - first);
    if span < SHORTEST_SPAN || known.len() < 3 {
        return not_yet(far);
    }
    let per_second = slope(&known);
    let eta = bytes as f64 / -per_second;
    if per_second < 0.0 && eta <= LONGEST_ETA {
        return Converge::NotYet { eta_seconds: Some(eta), why: far };
    }
    if span < thresholds.patience_seconds {
        return not_yet(far);
    }
    Converge::Never {
        why: format!(
            "{far}, and over {span:.0} s the lag grew by {:.0} bytes/s: changes come faster than \
             they are applied; write less, or give the target more power",
            per_second.max(0.0)
        ),
    }
}

/// Least-squares slope of (x, y); 0 when all x are the same.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (mean_x, mean_y) =
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let over: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let under: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if under == 0.0 { 0.0 } else { over / under }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: f64, bytes: u64, seconds: f64) -> Sample {
        Sample { at, bytes: Some(bytes), seconds: Some(seconds), in_hand: Some(1) }
    }

    /// `n` samples a second apart, the lag in bytes going from `from` in steps of `step`.
    fn course(n: u32, from: i64, step: i64) -> Vec<Sample> {
        (0..n)
            .map(|i| {
                let bytes = u64::try_from(from + step * i64::from(i)).unwrap();
                sample(f64::from(i), bytes, bytes as f64 / 1000.0)
            })
            .collect()
    }

    fn short(answer: &Converge) -> String {
        match answer {
            Converge::Ready => "ready".into(),
            Converge::NotYet { eta_seconds: Some(eta), .. } => format!("in {eta:.0} s"),
            Converge::NotYet { .. } => "not yet".into(),
            Converge::Never { .. } => "never".into(),
        }
    }

    #[test]
    fn judgements() {
        let unknown_bytes = Sample { bytes: None, ..sample(9.0, 0, 0.0) };
        let unknown_seconds = Sample { seconds: None, ..sample(9.0, 0, 0.0) };
        let unknown_in_hand = Sample { in_hand: None, ..sample(9.0, 0, 0.0) };
        for (name, samples, now, want) in [
            ("nothing measured", vec![], 0.0, "not yet"),
            ("close", vec![sample(9.0, 5000, 4.9)], 9.0, "ready"),
            ("at the limit", vec![sample(9.0, 5000, 5.0)], 9.0, "ready"),
            ("stale", vec![sample(9.0, 0, 0.0)], 14.1, "not yet"),
            ("bytes unknown is not zero", vec![unknown_bytes], 9.0, "not yet"),
            ("seconds unknown is not zero", vec![unknown_seconds], 9.0, "not yet"),
            ("in hand unknown is not zero", vec![unknown_in_hand], 9.0, "not yet"),
            ("far, just begun", course(2, 100_000, 0), 1.0, "not yet"),
            ("shrinking", course(11, 100_000, -2000), 10.0, "in 40 s"),
            ("growing, but not for long", course(11, 100_000, 1000), 10.0, "not yet"),
            ("growing", course(40, 100_000, 1000), 39.0, "never"),
            ("standing still", course(40, 100_000, 0), 39.0, "never"),
            ("shrinking by nothing", course(4, 900_000_000_000, -1), 3.0, "not yet"),
            ("shrank into reach", course(40, 100_000, -2500), 39.0, "ready"),
        ] {
            assert_eq!(short(&converge(&samples, now, &Thresholds::default())), want, "{name}");
        }
    }

    #[test]
    fn never_says_why() {
        let Converge::Never { why } =
            converge(&course(40, 100_000, 1000), 39.0, &Thresholds::default())
        else {
            panic!("it grows for 39 s")
        };
        assert!(why.contains("1000 bytes/s"), "{why}");
    }
}

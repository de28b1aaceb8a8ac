//! Timelines: whether the history of the server that answers now contains a position.
//!
//! A promoted standby goes on with the log under a new timeline, and knows where each one parted
//! from its predecessor (documentation, "Timelines"; `TIMELINE_HISTORY` of the replication
//! protocol).

use cutover_core::{
    model::position::Position,
    port::{PortError, Result},
};

use super::{
    position::{lsn_text, parse_lsn},
    stops,
};
use crate::{database::Database, sql::Names};

/// What a history says about a position.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It happened here as well.
    Contained,
    /// The history left that timeline earlier, here.
    PartedAt(u64),
    /// The history never was on that timeline.
    Foreign,
}

/// Judges by the text of a history file: one line per timeline left, with the place where.
fn judge(history: &str, timeline: u32, lsn: u64) -> Option<Verdict> {
    for line in history.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let mut fields = line.split_whitespace();
        let left: u32 = fields.next()?.parse().ok()?;
        let at = parse_lsn(fields.next()?)?;
        if left == timeline {
            return Some(if lsn <= at { Verdict::Contained } else { Verdict::PartedAt(at) });
        }
    }
    Some(Verdict::Foreign)
}

impl Database {
    /// See [`cutover_core::port::source::Source::rebase`].
    pub(super) async fn rebase_position(&self, position: &Position) -> Result<Position> {
        let doing = || self.doing(LOOKING);
        let Position::Postgres { timeline, lsn } = *position;
        let (now, verdict) = self.look_back(position).await?;
        if now == timeline {
            return Ok(position.clone());
        }
        match verdict {
            Verdict::Contained => {}
            Verdict::PartedAt(at) => {
                return Err(stops::commits_lost(doing(), position, &lsn_text(at), now));
            }
            Verdict::Foreign => return Err(stops::other_timeline(doing(), position, now)),
        }
        let reader = self.reader_side();
        let names = Names::of(&self.run);
        if !reader.slot_exists(&*reader.control().await?, names.slot()).await? {
            return Err(stops::slot_not_synced(doing(), names.slot(), now));
        }
        Ok(Position::Postgres { timeline: now, lsn })
    }

    /// The timeline of the server now, and what its history says about a position.
    pub(super) async fn look_back(&self, position: &Position) -> Result<(u32, Verdict)> {
        let doing = || self.doing(LOOKING);
        let Position::Postgres { timeline, lsn } = *position;
        let Position::Postgres { timeline: now, lsn: end } = self.log_end().await?;
        if now == timeline && lsn <= end {
            return Ok((now, Verdict::Contained));
        }
        if now == timeline {
            return Ok((now, Verdict::PartedAt(end)));
        }
        if now < timeline {
            return Ok((now, Verdict::Foreign));
        }
        let mut replication = self.replication("history").await?;
        let rows = replication
            .query(&format!("TIMELINE_HISTORY {now}"))
            .await
            .map_err(|e| e.into_port(doing()))?;
        let history = rows.into_iter().next().and_then(|mut row| row.pop().flatten());
        let verdict = judge(history.as_deref().unwrap_or_default(), timeline, lsn);
        let strange = || PortError::transient(doing(), "the server's history is not readable");
        Ok((now, verdict.ok_or_else(strange)?))
    }
}

/// What is done, for errors.
const LOOKING: &str = "looking for our place in the log";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_contains_what_was_before_it_parted() {
        // As PostgreSQL writes it, after two failovers.
        let history = "1\t0/3000148\tno recovery target specified\n\n\
                       3\t0/5000000\tbefore 2000-01-01\n";
        for (timeline, lsn, want) in [
            (1, 0x0300_0148, Verdict::Contained),
            (1, 0x0300_0149, Verdict::PartedAt(0x0300_0148)),
            (2, 0x0300_0000, Verdict::Foreign),
            (3, 0x0400_0000, Verdict::Contained),
            (3, 0x0500_0001, Verdict::PartedAt(0x0500_0000)),
        ] {
            assert_eq!(judge(history, timeline, lsn), Some(want), "{timeline} {lsn:x}");
        }
        assert_eq!(judge("# nothing\n", 1, 0), Some(Verdict::Foreign));
        assert_eq!(judge("1\tnowhere\n", 1, 0), None);
        assert_eq!(judge("?", 1, 0), None);
    }
}

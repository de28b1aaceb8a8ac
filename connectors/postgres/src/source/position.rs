//! Positions of the write-ahead log: text, arithmetic, and asking the server.

use std::time::Duration;

use cutover_core::{
    model::position::Position,
    port::{PortError, Result},
};
use futures_util::future::join;
use tokio::time::timeout;
use tokio_postgres::Row;

use super::stops;
use crate::{
    connect::{Session, port_error},
    database::Database,
    sql,
};

/// Size of the header of a page of the log, and of the first page of a segment.
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;

/// How long a message may take until it is on the server's disk. Far more than a busy disk needs.
const FLUSHED_WITHIN: Duration = Duration::from_secs(30);

/// `16/B374D848` → number.
pub(super) fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let half = |s: &str| u32::from_str_radix(s, 16).ok().map(u64::from);
    Some(half(high)? << 32 | half(low)?)
}

/// Number → `16/B374D848`.
pub(super) fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
}

/// Where the last record ends, from the place where the next one begins: at a page boundary the
/// latter lies behind the page's header, a place that no reader of records ever reports.
fn end_of_record(insert: u64, block: u64, segment: u64) -> u64 {
    if insert % segment == SEGMENT_HEADER {
        insert - SEGMENT_HEADER
    } else if insert % block == PAGE_HEADER {
        insert - PAGE_HEADER
    } else {
        insert
    }
}

/// A place and the name of the log file that it is in → a position.
pub(crate) fn place(lsn: &str, file: &str) -> Option<Position> {
    Some(Position::Postgres { lsn: parse_lsn(lsn)?, timeline: timeline_of(file)? })
}

/// The timeline is the first third of the name of a log file.
fn timeline_of(file: &str) -> Option<u32> {
    u32::from_str_radix(file.get(..8)?, 16).ok()
}

/// A call that writes a message with the transaction that it is in.
pub(crate) fn message(prefix: &str, content: &str) -> String {
    let (prefix, content) = (sql::literal(prefix), sql::literal(content));
    format!("pg_logical_emit_message(true, {prefix}, {content})")
}

/// Where the log ends: for [`end_in`].
pub(crate) const LOG_END: &str = "SELECT pg_is_in_recovery(), \
     CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END, \
     CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_insert_lsn()) END, \
     current_setting('wal_block_size')::int8, pg_size_bytes(current_setting('wal_segment_size'))";

/// The position in an answer to [`LOG_END`]. Covers everything that had committed.
pub(crate) fn end_in(row: &Row, doing: String) -> Result<Position> {
    let Position::Postgres { timeline, lsn: insert } = insert_in(row, doing)?;
    let unsigned = |i: usize| u64::try_from(row.get::<_, i64>(i)).unwrap_or(0).max(1);
    Ok(Position::Postgres { timeline, lsn: end_of_record(insert, unsigned(3), unsigned(4)) })
}

/// Where the next record begins, in such an answer. No place that was ever read lies behind it.
fn insert_in(row: &Row, doing: String) -> Result<Position> {
    if row.get(0) {
        return Err(stops::not_promoted(doing));
    }
    let place = row.get::<_, Option<&str>>(1).zip(row.get(2)).and_then(|(l, f)| place(l, f));
    place.ok_or_else(|| strange(doing))
}

impl Database {
    /// What is being done, with the side, for errors.
    pub(super) fn doing(&self, what: &str) -> String {
        format!("{what} on {}", self.name())
    }

    /// Where the log ends now; covers everything that has committed.
    pub(super) async fn log_end(&self) -> Result<Position> {
        let doing = self.doing("asking for the end of the log");
        let session = self.control().await?;
        let row =
            session.query_one(LOG_END, &[]).await.map_err(|e| port_error(doing.as_str(), e))?;
        end_in(&row, doing)
    }

    /// Refuses a place that was read once and lies behind all that the log has now: an earlier state
    /// of the server was put back. It would begin to send only behind that place again.
    ///
    /// # Errors
    ///
    /// `CUT0216`; transient when the server is a standby, or about to be another one.
    pub(super) async fn still_has(&self, session: &Session, from: Option<&Position>) -> Result<()> {
        let doing = || self.doing("opening the change stream");
        let row = session.query_one(LOG_END, &[]).await.map_err(|e| port_error(doing(), e))?;
        let Position::Postgres { timeline: now, lsn: insert } = insert_in(&row, doing())?;
        match from {
            Some(from @ Position::Postgres { timeline, lsn })
                if *timeline == now && *lsn > insert =>
            {
                Err(stops::commits_lost(doing(), from, &lsn_text(insert), now))
            }
            _ => Ok(()),
        }
    }

    /// Commits a message and returns a position that covers its commit. One round trip. It waits
    /// for the server's disk, and not for ever; for no standby.
    ///
    /// # Errors
    ///
    /// Transient when the server did not say in time that it is on its disk.
    pub(super) async fn emit_message(&self, prefix: &str, content: &str) -> Result<Position> {
        let doing = self.doing("writing a message into the log");
        let session = self.control().await?;
        let message = format!("SELECT {}", message(prefix, content));
        // Sent together, run one after the other: the first is committed and flushed when the
        // second looks.
        let both = join(session.simple_query(&message), flushed_position(&session));
        let Ok((written, flushed)) = timeout(FLUSHED_WITHIN, both).await else {
            self.give_control_up().await;
            let late = format!("it was not on the disk within {} s", FLUSHED_WITHIN.as_secs());
            return Err(PortError::transient(doing, late));
        };
        written.map_err(|e| port_error(&doing, e))?;
        flushed.map_err(|e| port_error(&doing, e))?.ok_or_else(|| strange(doing))
    }
}

async fn flushed_position(
    session: &Session,
) -> std::result::Result<Option<Position>, tokio_postgres::Error> {
    let messages = session
        .simple_query("SELECT lsn, pg_walfile_name(lsn) FROM pg_current_wal_flush_lsn() AS lsn")
        .await?;
    Ok(messages.iter().find_map(|m| match m {
        tokio_postgres::SimpleQueryMessage::Row(row) => place(row.get(0)?, row.get(1)?),
        _ => None,
    }))
}

fn strange(doing: String) -> PortError {
    PortError::transient(doing, "the server gave no position")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for (text, lsn) in [("0/0", 0), ("16/B374D848", 0x16_B374_D848), ("1/0", 1 << 32)] {
            assert_eq!(parse_lsn(text), Some(lsn));
            assert_eq!(lsn_text(lsn), text);
        }
        for bad in ["", "1", "x/0", "0/123456789"] {
            assert_eq!(parse_lsn(bad), None, "{bad}");
        }
        assert_eq!(timeline_of("0000000A0000000000000001"), Some(10));
    }

    #[test]
    fn a_page_header_is_not_a_place() {
        const MIB: u64 = 1 << 20;
        for (insert, want) in [
            (100, 100),
            (8192 + 24, 8192),
            (8192 + 32, 8192 + 32),
            (16 * MIB + 40, 16 * MIB),
            (16 * MIB + 48, 16 * MIB + 48),
            (MIB + 40, MIB + 40),
        ] {
            assert_eq!(end_of_record(insert, 8192, 16 * MIB), want);
        }
    }
}

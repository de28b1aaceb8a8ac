//! Messages → events of committed transactions, in commit order.
//!
//! Knows transactions, relations and origins; no I/O. What arrives of a transaction in progress
//! is handed to [`InFlight`] and comes back through [`Assembler::replayed`].

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use cutover_core::model::{
    event::{Change, Event, Relation},
    position::Position,
};

use super::inflight::InFlight;
use crate::pgoutput::{DecodeError, Message, decode};

/// Microseconds from 1970-01-01 to 2000-01-01.
pub(super) const EPOCH: i64 = 946_684_800_000_000;

/// Why the stream cannot go on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("message {0:?} does not belong here")]
    Misplaced(char),
    #[error("a change of table {0}, which was never described")]
    UnknownRelation(u32),
    #[error("the end of transaction {0}, of which nothing came")]
    UnknownTransaction(u32),
    #[error("two-phase transaction (message {0:?})")]
    Prepared(char),
}

/// What is to be done after a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    On,
    /// A transaction that was sent in pieces has committed: replay it.
    Replay(Committed),
}

/// A committed transaction that was sent in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) xid: u32,
    pub(super) end_lsn: u64,
    pub(super) committed_at: i64,
}

/// State between messages.
pub(super) struct Assembler {
    /// Replication origin of our own sink.
    ours: String,
    /// Prefix of messages about definitions.
    definitions: String,
    timeline: u32,
    relations: HashMap<u32, Arc<Relation>>,
    open: Open,
    /// The transaction whose piece is being sent.
    piece: Option<u32>,
    pub(super) in_flight: InFlight,
    /// End of the last commit, or the place where the stream began.
    pub(super) reached: u64,
}

/// The transaction between `Begin` and `Commit`.
enum Open {
    None,
    /// Whether it is ours is known only with the next message.
    Begun(Event),
    Ours,
    Theirs,
}

impl Assembler {
    pub(super) fn new(
        ours: &str,
        definitions: &str,
        timeline: u32,
        from: u64,
        in_flight: InFlight,
    ) -> Self {
        Self {
            ours: ours.to_owned(),
            definitions: definitions.to_owned(),
            timeline,
            relations: HashMap::new(),
            open: Open::None,
            piece: None,
            in_flight,
            reached: from,
        }
    }

    /// Whether a transaction or a piece of one is half read: then the log is not read up to
    /// where the server says.
    pub(super) fn busy(&self) -> bool {
        !matches!(self.open, Open::None) || self.piece.is_some()
    }

    pub(super) fn position(&self, lsn: u64) -> Position {
        Position::Postgres { timeline: self.timeline, lsn }
    }

    /// Takes one message of the plugin.
    pub(super) fn accept(&mut self, bytes: &Bytes, out: &mut Vec<Event>) -> Result<Step, Trouble> {
        if let Some(xid) = self.piece {
            self.accept_piece(xid, bytes)?;
            return Ok(Step::On);
        }
        let (_, message) = decode(bytes, false)?;
        match message {
            Message::Begin { xid, committed_at } => {
                if self.busy() {
                    return Err(Trouble::Misplaced('B'));
                }
                self.open = Open::Begun(Event::Begin {
                    transaction: xid,
                    committed_at: committed_at + EPOCH,
                });
            }
            Message::Origin { name } => match self.open {
                Open::Begun(_) if name == self.ours => self.open = Open::Ours,
                Open::None => return Err(Trouble::Misplaced('O')),
                _ => {}
            },
            Message::Commit { end_lsn } => {
                self.reached = end_lsn;
                let position = self.position(end_lsn);
                match std::mem::replace(&mut self.open, Open::None) {
                    Open::None => return Err(Trouble::Misplaced('C')),
                    // Version 14 also sends transactions without a change for us.
                    Open::Ours | Open::Begun(_) => out.push(Event::Idle { position }),
                    Open::Theirs => out.push(Event::Commit { position }),
                }
            }
            Message::StreamStart { xid, first } => {
                if self.busy() {
                    return Err(Trouble::Misplaced('S'));
                }
                if first {
                    // A second beginning: the server sends it again from the start.
                    self.in_flight.take(xid);
                }
                self.in_flight.entry(xid);
                self.piece = Some(xid);
            }
            Message::StreamCommit { xid, end_lsn, committed_at } => {
                return Ok(Step::Replay(Committed {
                    xid,
                    end_lsn,
                    committed_at: committed_at + EPOCH,
                }));
            }
            Message::StreamAbort { xid, subxid } => self.in_flight.abort(xid, subxid),
            Message::StreamStop => return Err(Trouble::Misplaced('E')),
            Message::Prepared { tag } => return Err(Trouble::Prepared(tag)),
            Message::Logical { transactional: false, prefix, content } => {
                out.push(Event::Message { prefix, content });
            }
            row => match &mut self.open {
                Open::None => match row {
                    // Descriptions may come ahead of their transaction.
                    Message::Relation(relation) => self.describe(relation),
                    Message::Type => {}
                    _ => return Err(Trouble::Misplaced(char::from(bytes[0]))),
                },
                Open::Ours => {
                    if let Message::Relation(relation) = row {
                        self.describe(relation);
                    }
                }
                open => {
                    if let Open::Begun(begin) = std::mem::replace(open, Open::Theirs) {
                        out.push(begin);
                    }
                    self.row(row, out)?;
                }
            },
        }
        Ok(Step::On)
    }

    /// One message between `StreamStart` and `StreamStop`.
    fn accept_piece(&mut self, xid: u32, bytes: &Bytes) -> Result<(), Trouble> {
        match bytes.first() {
            Some(b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M') => {
                self.in_flight.keep(xid, bytes);
            }
            Some(b'E') => {
                decode(bytes, true)?;
                self.piece = None;
            }
            _ => match decode(bytes, true)?.1 {
                Message::Origin { name } => {
                    if name == self.ours {
                        self.in_flight.entry(xid).ours = true;
                    }
                }
                Message::Prepared { tag } => return Err(Trouble::Prepared(tag)),
                _ => return Err(Trouble::Misplaced(char::from(bytes[0]))),
            },
        }
        Ok(())
    }

    /// Takes back one message that [`InFlight`] kept.
    pub(super) fn replayed(
        &mut self,
        bytes: &Bytes,
        aborted: &HashSet<u32>,
        out: &mut Vec<Event>,
    ) -> Result<(), Trouble> {
        let (subxid, message) = decode(bytes, true)?;
        match subxid {
            Some(subxid) if aborted.contains(&subxid) => Ok(()),
            _ => self.row(message, out),
        }
    }

    fn row(&mut self, message: Message, out: &mut Vec<Event>) -> Result<(), Trouble> {
        out.push(match message {
            Message::Insert { relation, new } => {
                Event::Row { relation: self.relation(relation)?, change: Change::Insert { new } }
            }
            Message::Update { relation, old, new } => Event::Row {
                relation: self.relation(relation)?,
                change: Change::Update { old: old.map(|o| o.into_tuple()), new },
            },
            Message::Delete { relation, old } => Event::Row {
                relation: self.relation(relation)?,
                change: Change::Delete { old: old.into_tuple() },
            },
            Message::Truncate { relations, cascade, restart_identity } => Event::Truncate {
                relations: relations
                    .into_iter()
                    .map(|id| self.relation(id))
                    .collect::<Result<_, _>>()?,
                cascade,
                restart_identity,
            },
            Message::Logical { transactional: true, prefix, content }
                if prefix == self.definitions =>
            {
                // Empty ones only keep others apart from rows.
                if content.is_empty() {
                    return Ok(());
                }
                Event::Definition { content }
            }
            Message::Logical { prefix, content, .. } => Event::Message { prefix, content },
            Message::Relation(relation) => {
                self.describe(relation);
                return Ok(());
            }
            Message::Type => return Ok(()),
            _ => return Err(Trouble::Misplaced('?')),
        });
        Ok(())
    }

    fn relation(&self, id: u32) -> Result<Arc<Relation>, Trouble> {
        self.relations.get(&id).map(Arc::clone).ok_or(Trouble::UnknownRelation(id))
    }

    /// The same shape keeps its `Arc`: consumers compare by pointer.
    fn describe(&mut self, relation: Relation) {
        match self.relations.get(&relation.id) {
            Some(known) if **known == relation => {}
            _ => {
                self.relations.insert(relation.id, Arc::new(relation));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const BEGIN: &[u8] = b"B\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\x09";
    const COMMIT: &[u8] = b"C\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x50\0\0\0\0\0\0\0\x02";
    const RELATION: &[u8] = b"R\0\0\0\x05s\0t\0d\0\x01\x01id\0\0\0\0\x17\xff\xff\xff\xff";
    const WIDER: &[u8] = b"R\0\0\0\x05s\0t\0d\0\x01\x01id\0\0\0\0\x14\xff\xff\xff\xff";
    const INSERT: &[u8] = b"I\0\0\0\x05N\0\x01t\0\0\0\x017";
    const OURS: &[u8] = b"O\0\0\0\0\0\0\0\0us\0";
    const THEIRS: &[u8] = b"O\0\0\0\0\0\0\0\0them\0";
    const START: &[u8] = b"S\0\0\0\x09\x01";
    const STOP: &[u8] = b"E";
    const END: &[u8] = b"c\0\0\0\x09\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x50\0\0\0\0\0\0\0\x02";

    fn assembler() -> Assembler {
        Assembler::new("us", "us_ddl", 1, 0, InFlight::new(Arc::from(Path::new("/none")), 1 << 20))
    }

    fn run(messages: &[&'static [u8]]) -> Result<Vec<Event>, Trouble> {
        let (mut assembler, mut out) = (assembler(), Vec::new());
        for message in messages {
            assembler.accept(&Bytes::from_static(message), &mut out)?;
        }
        Ok(out)
    }

    fn shape(events: &[Event]) -> String {
        let letter = |e: &Event| match e {
            Event::Begin { .. } => 'B',
            Event::Row { .. } => 'r',
            Event::Commit { .. } => 'C',
            Event::Idle { .. } => 'i',
            _ => '?',
        };
        events.iter().map(letter).collect()
    }

    #[test]
    fn transactions() {
        for (messages, want) in [
            (&[BEGIN, RELATION, INSERT, INSERT, COMMIT][..], "BrrC"),
            (&[BEGIN, COMMIT], "i"),
            (&[BEGIN, OURS, RELATION, INSERT, COMMIT], "i"),
            (&[BEGIN, THEIRS, RELATION, INSERT, COMMIT], "BrC"),
            // Described while ours, used by others.
            (&[BEGIN, OURS, RELATION, INSERT, COMMIT, BEGIN, INSERT, COMMIT], "iBrC"),
        ] {
            assert_eq!(shape(&run(messages).unwrap()), want);
        }
        let events = run(&[BEGIN, RELATION, INSERT, COMMIT]).unwrap();
        let [Event::Begin { transaction, committed_at }, _, Event::Commit { position }] =
            &events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!((*transaction, *committed_at), (9, EPOCH + 2));
        assert_eq!(*position, Position::Postgres { timeline: 1, lsn: 0x50 });
    }

    #[test]
    fn the_same_shape_is_the_same_arc() {
        let events =
            run(&[BEGIN, RELATION, INSERT, RELATION, INSERT, WIDER, INSERT, COMMIT]).unwrap();
        let shapes: Vec<_> = events
            .iter()
            .filter_map(|e| match e {
                Event::Row { relation, .. } => Some(relation),
                _ => None,
            })
            .collect();
        assert!(Arc::ptr_eq(shapes[0], shapes[1]));
        assert!(!Arc::ptr_eq(shapes[1], shapes[2]));
    }

    #[test]
    fn what_does_not_belong_stops_the_stream() {
        for (messages, want) in [
            (&[COMMIT][..], Trouble::Misplaced('C')),
            (&[BEGIN, BEGIN], Trouble::Misplaced('B')),
            (&[INSERT], Trouble::Misplaced('I')),
            (&[OURS], Trouble::Misplaced('O')),
            (&[STOP], Trouble::Misplaced('E')),
            (&[BEGIN, START], Trouble::Misplaced('S')),
            (&[START, COMMIT], Trouble::Misplaced('C')),
            (&[BEGIN, INSERT], Trouble::UnknownRelation(5)),
            (&[b"P"], Trouble::Prepared('P')),
            (&[START, b"b"], Trouble::Prepared('b')),
        ] {
            assert_eq!(run(messages).unwrap_err(), want);
        }
    }

    #[test]
    fn pieces_wait_for_their_commit() {
        let (mut assembler, mut out) = (assembler(), Vec::new());
        let mut accept =
            |assembler: &mut Assembler, m| assembler.accept(&Bytes::from_static(m), &mut out);
        assert_eq!(accept(&mut assembler, START), Ok(Step::On));
        assert!(assembler.busy());
        assert_eq!(accept(&mut assembler, b"I\0\0\0\x09whatever"), Ok(Step::On));
        assert_eq!(accept(&mut assembler, STOP), Ok(Step::On));
        assert!(!assembler.busy());
        let committed = Committed { xid: 9, end_lsn: 0x50, committed_at: EPOCH + 2 };
        assert_eq!(accept(&mut assembler, END), Ok(Step::Replay(committed)));
        assert!(out.is_empty());
        assert!(assembler.in_flight.take(9).is_some());
    }
}

//! Messages → events of committed transactions, in commit order.
//!
//! Knows transactions, relations and origins; no I/O. What arrives of a transaction in progress
//! is handed to [`InFlight`], and announced.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use cutover_core::model::{
    event::{Change, Event, Relation},
    position::Position,
};

use super::inflight::{InFlight, Kept};
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

/// Descriptions of tables by the server's numbers.
pub(super) type Relations = HashMap<u32, Arc<Relation>>;

/// State between messages.
pub(super) struct Assembler {
    /// Replication origins of our own sink.
    ours: [String; 2],
    /// Prefix of messages about definitions.
    definitions: String,
    timeline: u32,
    relations: Relations,
    open: Open,
    /// The transaction whose piece is being sent.
    piece: Option<u32>,
    running: HashMap<u32, Running>,
    pub(super) in_flight: Arc<InFlight>,
    /// End of the last commit, or the place where the stream began.
    pub(super) reached: u64,
}

/// A transaction that is sent in pieces.
struct Running {
    kept: Arc<Kept>,
    /// Our own sink wrote it: nothing of it is kept.
    ours: bool,
    /// What was described in it: known to others once it has committed, as the server sees it.
    relations: Relations,
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
        ours: [&str; 2],
        definitions: &str,
        timeline: u32,
        from: u64,
        in_flight: Arc<InFlight>,
    ) -> Self {
        Self {
            ours: ours.map(str::to_owned),
            definitions: definitions.to_owned(),
            timeline,
            relations: HashMap::new(),
            open: Open::None,
            piece: None,
            running: HashMap::new(),
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
    pub(super) fn accept(&mut self, bytes: &Bytes, out: &mut Vec<Event>) -> Result<(), Trouble> {
        if let Some(xid) = self.piece {
            return self.accept_piece(xid, bytes, out);
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
                Open::Begun(_) if self.ours.contains(&name) => self.open = Open::Ours,
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
                if first && self.running.remove(&xid).is_some() {
                    // A second beginning: the server sends it again from the start.
                    self.in_flight.forget(xid);
                    out.push(Event::RolledBack { transaction: xid, part: xid });
                }
                self.running.entry(xid).or_insert_with(|| Running {
                    kept: self.in_flight.entry(xid),
                    ours: false,
                    relations: Relations::new(),
                });
                self.piece = Some(xid);
            }
            Message::StreamCommit { xid, end_lsn, committed_at } => {
                let Some(running) = self.running.remove(&xid) else {
                    return Err(Trouble::UnknownTransaction(xid));
                };
                self.reached = end_lsn;
                let position = self.position(end_lsn);
                self.relations.extend(running.relations);
                if running.ours {
                    self.in_flight.forget(xid);
                    out.push(Event::Idle { position });
                } else {
                    self.in_flight.committed(xid, end_lsn);
                    let committed_at = committed_at + EPOCH;
                    out.push(Event::Begin { transaction: xid, committed_at });
                    out.push(Event::Large { transaction: xid });
                    out.push(Event::Commit { position });
                }
            }
            Message::StreamAbort { xid, subxid } => self.abort(xid, subxid, out),
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
                    match row {
                        Message::Relation(relation) => self.describe(relation),
                        row => out.extend(event(row, &self.relations, &self.definitions)?),
                    }
                }
            },
        }
        Ok(())
    }

    /// All of a transaction, or a subtransaction of it, was rolled back.
    fn abort(&mut self, xid: u32, subxid: u32, out: &mut Vec<Event>) {
        let Some(running) = self.running.get_mut(&xid) else { return };
        let ours = running.ours;
        if xid == subxid {
            self.running.remove(&xid);
            self.in_flight.forget(xid);
        } else {
            running.kept.abort(subxid);
            // The server describes all of them again.
            running.relations.clear();
        }
        if !ours {
            out.push(Event::RolledBack { transaction: xid, part: subxid });
        }
    }

    /// One message between `StreamStart` and `StreamStop`.
    fn accept_piece(
        &mut self,
        xid: u32,
        bytes: &Bytes,
        out: &mut Vec<Event>,
    ) -> Result<(), Trouble> {
        let Some(running) = self.running.get_mut(&xid) else {
            return Err(Trouble::UnknownTransaction(xid));
        };
        match bytes.first() {
            Some(b'I' | b'U' | b'D' | b'T' | b'M' | b'Y') if running.ours => {}
            Some(b'I' | b'U' | b'D' | b'T' | b'M' | b'Y') => running.kept.keep(bytes),
            Some(b'R') => {
                if let Message::Relation(relation) = decode(bytes, true)?.1 {
                    let relation = self.in_flight.intern(relation);
                    running.relations.insert(relation.id, relation);
                }
                if !running.ours {
                    running.kept.keep(bytes);
                }
            }
            Some(b'E') => {
                decode(bytes, true)?;
                self.piece = None;
                if !running.ours {
                    out.push(Event::InProgress { transaction: xid, kept: running.kept.total() });
                }
            }
            _ => match decode(bytes, true)?.1 {
                Message::Origin { name } => running.ours |= self.ours.contains(&name),
                Message::Prepared { tag } => return Err(Trouble::Prepared(tag)),
                _ => return Err(Trouble::Misplaced(char::from(bytes[0]))),
            },
        }
        Ok(())
    }

    fn describe(&mut self, relation: Relation) {
        let relation = self.in_flight.intern(relation);
        self.relations.insert(relation.id, relation);
    }
}

/// What a message inside of a transaction says. `definitions` is the prefix of messages about
/// definitions.
pub(super) fn event(
    message: Message,
    relations: &Relations,
    definitions: &str,
) -> Result<Option<Event>, Trouble> {
    let find = |id: u32| relations.get(&id).map(Arc::clone).ok_or(Trouble::UnknownRelation(id));
    Ok(Some(match message {
        Message::Insert { relation, new } => {
            Event::Row { relation: find(relation)?, change: Change::Insert { new } }
        }
        Message::Update { relation, old, new } => Event::Row {
            relation: find(relation)?,
            change: Change::Update { old: old.map(|o| o.into_tuple()), new },
        },
        Message::Delete { relation, old } => Event::Row {
            relation: find(relation)?,
            change: Change::Delete { old: old.into_tuple() },
        },
        Message::Truncate { relations, cascade, restart_identity } => Event::Truncate {
            relations: relations.into_iter().map(find).collect::<Result<_, _>>()?,
            others: false,
            cascade,
            restart_identity,
        },
        Message::Logical { transactional: true, prefix, content } if prefix == definitions => {
            // Empty ones only keep others apart from rows.
            if content.is_empty() {
                return Ok(None);
            }
            Event::Definition { content }
        }
        Message::Logical { prefix, content, .. } => Event::Message { prefix, content },
        Message::Type => return Ok(None),
        _ => return Err(Trouble::Misplaced('?')),
    }))
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
        let in_flight = InFlight::new(Arc::from(Path::new("/none")), 1 << 20);
        Assembler::new(["us", "us too"], "us_ddl", 1, 0, Arc::new(in_flight))
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
    fn pieces_are_announced_and_stand_for_themselves() {
        const PIECE_RELATION: &[u8] =
            b"R\0\0\0\x09\0\0\0\x05s\0t\0d\0\x01\x01id\0\0\0\0\x17\xff\xff\xff\xff";
        const PIECE_INSERT: &[u8] = b"I\0\0\0\x09\0\0\0\x05N\0\x01t\0\0\0\x017";
        const UNDO_PART: &[u8] = b"A\0\0\0\x09\0\0\0\x0b";
        const UNDO: &[u8] = b"A\0\0\0\x09\0\0\0\x09";
        const OURS_TOO: &[u8] = b"O\0\0\0\0\0\0\0\0us too\0";
        let said = |messages: &[&'static [u8]]| {
            run(messages).map(|events| {
                let letter = |e: &Event| match e {
                    Event::InProgress { transaction: 9, .. } => "p",
                    Event::RolledBack { transaction: 9, part: 9 } => "x",
                    Event::RolledBack { transaction: 9, part: 11 } => "u",
                    Event::Begin { transaction: 9, .. } => "B",
                    Event::Large { transaction: 9 } => "L",
                    Event::Commit { .. } => "C",
                    Event::Row { .. } => "r",
                    Event::Idle { .. } => "i",
                    _ => "?",
                };
                events.iter().map(letter).collect::<String>()
            })
        };
        let piece = [START, PIECE_RELATION, PIECE_INSERT, STOP];
        let with = |more: &[&'static [u8]]| said(&[&piece[..], more].concat());
        assert_eq!(with(&[END]).unwrap(), "pBLC");
        assert_eq!(with(&[UNDO_PART, END]).unwrap(), "puBLC");
        assert_eq!(with(&[UNDO]).unwrap(), "px");
        assert_eq!(said(&[START, OURS_TOO, PIECE_INSERT, STOP, END]).unwrap(), "i");
        assert_eq!(said(&[START, OURS_TOO, PIECE_INSERT, STOP, UNDO]).unwrap(), "");
        assert_eq!(said(&[END]).unwrap_err(), Trouble::UnknownTransaction(9));
        // Others know what it described once it has committed, and only then.
        assert_eq!(with(&[END, BEGIN, INSERT, COMMIT]).unwrap(), "pBLCBrC");
        let unknown = Trouble::UnknownRelation(5);
        assert_eq!(with(&[BEGIN, INSERT]).unwrap_err(), unknown);
        assert_eq!(with(&[UNDO, BEGIN, INSERT]).unwrap_err(), unknown);
        assert_eq!(with(&[UNDO_PART, END, BEGIN, INSERT]).unwrap_err(), unknown);
    }

    #[test]
    fn a_piece_that_has_not_ended_keeps_the_stream_busy() {
        let (mut assembler, mut out) = (assembler(), Vec::new());
        assembler.accept(&Bytes::from_static(START), &mut out).unwrap();
        assert!(assembler.busy());
        assembler.accept(&Bytes::from_static(STOP), &mut out).unwrap();
        assert!(!assembler.busy());
        assert!(assembler.in_flight.get(9).is_some());
    }
}

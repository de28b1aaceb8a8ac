//! The bytes of the file: pure.
//!
//! Frames of a length, a checksum that goes on from the frame before, and so many bytes: the first
//! one is the header as JSON, each other one is entries. All numbers are little-endian. A frame that
//! is not whole ends the file.

use std::io::{self, Read};

use cutover_core::model::{event::TransactionId, position::Position, side::Side};

use crate::verify::tail::Growth;

/// Length and checksum.
pub(super) const PREFIX: usize = 8;

/// Larger frames are none of ours.
const LARGEST: u32 = 1 << 30;

/// One thing that the ledger was told, or knew when the file was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::verify) enum Entry<'a> {
    /// A row has to be compared.
    Key { pair: u32, key: &'a [u8] },
    /// All rows of a pair have to be.
    Whole { pair: u32 },
    /// Everything before this position of a side's log is in front of this entry.
    Passed { side: Side, position: Position },
    /// The same as the first two, of a transaction in progress.
    Early { side: Side, transaction: TransactionId, pair: u32, key: Option<&'a [u8]> },
    /// It has ended.
    Ended { side: Side, transaction: TransactionId, committed: bool },
    /// A transaction wrote to a pair where nobody may, and may not be seen yet.
    Unseen { side: Side, transaction: TransactionId, pair: u32 },
    /// The end of a pair without a key when the file was begun, as JSON.
    End { pair: u32, end: &'a [u8] },
    /// What a pair without a key gained before the next position of the side that passes.
    Grown { side: Side, pair: u32, growth: Growth },
}

const KEY: u8 = 1;
const WHOLE: u8 = 2;
const PASSED: u8 = 3;
const EARLY: u8 = 4;
const EARLY_WHOLE: u8 = 5;
const COMMITTED: u8 = 6;
const ROLLED_BACK: u8 = 7;
const UNSEEN: u8 = 8;
const END: u8 = 9;
const GROWN: u8 = 10;

impl Entry<'_> {
    /// The pair it is about.
    pub(super) fn pair(&self) -> Option<u32> {
        match *self {
            Self::Key { pair, .. }
            | Self::Whole { pair }
            | Self::Early { pair, .. }
            | Self::Unseen { pair, .. }
            | Self::End { pair, .. }
            | Self::Grown { pair, .. } => Some(pair),
            Self::Passed { .. } | Self::Ended { .. } => None,
        }
    }

    /// Appends it.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        let number = |out: &mut Vec<u8>, n: u32| out.extend_from_slice(&n.to_le_bytes());
        let bytes = |out: &mut Vec<u8>, bytes: &[u8]| {
            number(out, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            out.extend_from_slice(bytes);
        };
        let of = |out: &mut Vec<u8>, kind: u8, side: Side, transaction: TransactionId| {
            out.extend_from_slice(&[kind, side.index() as u8]);
            number(out, transaction);
        };
        match self {
            Self::Key { pair, key } => {
                out.push(KEY);
                number(out, *pair);
                bytes(out, key);
            }
            Self::Whole { pair } => {
                out.push(WHOLE);
                number(out, *pair);
            }
            Self::Passed { side, position } => {
                out.extend_from_slice(&[PASSED, side.index() as u8]);
                // A position is always JSON.
                bytes(out, &serde_json::to_vec(position).unwrap_or_default());
            }
            Self::Early { side, transaction, pair, key: Some(key) } => {
                of(out, EARLY, *side, *transaction);
                number(out, *pair);
                bytes(out, key);
            }
            Self::Early { side, transaction, pair, key: None } => {
                of(out, EARLY_WHOLE, *side, *transaction);
                number(out, *pair);
            }
            Self::Ended { side, transaction, committed } => {
                of(out, if *committed { COMMITTED } else { ROLLED_BACK }, *side, *transaction);
            }
            Self::Unseen { side, transaction, pair } => {
                of(out, UNSEEN, *side, *transaction);
                number(out, *pair);
            }
            Self::End { pair, end } => {
                out.push(END);
                number(out, *pair);
                bytes(out, end);
            }
            Self::Grown { side, pair, growth: Growth { rows, bytes, otherwise } } => {
                out.extend_from_slice(&[GROWN, side.index() as u8, u8::from(*otherwise)]);
                number(out, *pair);
                out.extend_from_slice(&rows.to_le_bytes());
                out.extend_from_slice(&bytes.to_le_bytes());
            }
        }
    }
}

/// Reads entries; `None` for the rest when something is no entry.
pub(super) fn entries(bytes: &[u8]) -> impl Iterator<Item = Option<Entry<'_>>> {
    let mut rest = Rest(bytes);
    let mut broken = false;
    std::iter::from_fn(move || {
        if broken || rest.0.is_empty() {
            return None;
        }
        let entry = rest.entry();
        broken = entry.is_none();
        Some(entry)
    })
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = self.number()?;
        self.take(n as usize)
    }

    fn side(&mut self) -> Option<Side> {
        let n = usize::from(self.take(1)?[0]);
        [Side::Blue, Side::Green].into_iter().find(|side| side.index() == n)
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let kind = self.take(1)?[0];
        Some(match kind {
            KEY => Entry::Key { pair: self.number()?, key: self.bytes()? },
            WHOLE => Entry::Whole { pair: self.number()? },
            PASSED => {
                let side = self.side()?;
                Entry::Passed { side, position: serde_json::from_slice(self.bytes()?).ok()? }
            }
            EARLY | EARLY_WHOLE => {
                let (side, transaction, pair) = (self.side()?, self.number()?, self.number()?);
                let key = if kind == EARLY { Some(self.bytes()?) } else { None };
                Entry::Early { side, transaction, pair, key }
            }
            COMMITTED | ROLLED_BACK => {
                let (side, transaction) = (self.side()?, self.number()?);
                Entry::Ended { side, transaction, committed: kind == COMMITTED }
            }
            UNSEEN => Entry::Unseen {
                side: self.side()?,
                transaction: self.number()?,
                pair: self.number()?,
            },
            END => Entry::End { pair: self.number()?, end: self.bytes()? },
            GROWN => {
                let (side, otherwise) = (self.side()?, self.take(1)?[0] != 0);
                let (pair, rows, bytes) = (self.number()?, self.long()?, self.long()?);
                Entry::Grown { side, pair, growth: Growth { rows, bytes, otherwise } }
            }
            _ => return None,
        })
    }
}

/// What stands before a frame of these bytes, and the checksum that the next one goes on from.
pub(super) fn prefix(chain: u32, bytes: &[u8]) -> ([u8; PREFIX], u32) {
    let sum = checksum(chain, bytes);
    let mut prefix = [0; PREFIX];
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    prefix[..4].copy_from_slice(&length.to_le_bytes());
    prefix[4..].copy_from_slice(&sum.to_le_bytes());
    (prefix, sum)
}

fn checksum(chain: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&chain.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// Reads frames one by one.
pub(super) struct Frames<R> {
    from: R,
    chain: u32,
}

impl<R: Read> Frames<R> {
    pub(super) fn of(from: R) -> Self {
        Self { from, chain: 0 }
    }

    /// The next frame; `None` at the end, and where one is not whole.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut prefix = [0; PREFIX];
        if !whole(self.from.read_exact(&mut prefix))? {
            return Ok(None);
        }
        let number = |at: usize| {
            u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]])
        };
        let (length, sum) = (number(0), number(4));
        if length == 0 || length > LARGEST {
            return Ok(None);
        }
        let mut frame = Vec::new();
        let read = self.from.by_ref().take(u64::from(length)).read_to_end(&mut frame)?;
        if read < length as usize || checksum(self.chain, &frame) != sum {
            return Ok(None);
        }
        self.chain = sum;
        Ok(Some(frame))
    }
}

fn whole(read: io::Result<()>) -> io::Result<bool> {
    match read {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        other => other.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Entry<'static>> {
        let (side, transaction) = (Side::Green, u32::MAX);
        vec![
            Entry::Key { pair: 0, key: b"17" },
            Entry::Key { pair: 70_000, key: b"" },
            Entry::Whole { pair: 3 },
            Entry::Passed { side, position: Position::Postgres { timeline: 2, lsn: 1 << 40 } },
            Entry::Early { side: Side::Blue, transaction: 5, pair: 1, key: Some(b"a\xffb") },
            Entry::Early { side, transaction, pair: 1, key: None },
            Entry::Ended { side, transaction, committed: true },
            Entry::Ended { side, transaction, committed: false },
            Entry::Unseen { side, transaction, pair: 2 },
            Entry::End { pair: 4, end: b"{}" },
            Entry::Grown {
                side,
                pair: 4,
                growth: Growth { rows: 1, bytes: 1 << 40, otherwise: false },
            },
            Entry::Grown { side, pair: 4, growth: Growth::UNKNOWN },
        ]
    }

    #[test]
    fn entries_come_back_as_they_were() {
        let mut bytes = Vec::new();
        all().iter().for_each(|entry| entry.push(&mut bytes));
        let back: Option<Vec<Entry<'_>>> = entries(&bytes).collect();
        assert_eq!(back, Some(all()));
        // Whatever is cut off or strange is no entry.
        assert_eq!(entries(&bytes[..bytes.len() - 1]).last(), Some(None));
        assert_eq!(entries(&[99]).collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn what_is_not_whole_ends_the_file() {
        let frames = [&b"one"[..], b"two", b"six"];
        let (mut file, mut chain) = (Vec::new(), 0);
        for frame in frames {
            let (prefix, next) = prefix(chain, frame);
            chain = next;
            file.extend_from_slice(&prefix);
            file.extend_from_slice(frame);
        }
        let count = |bytes: &[u8]| {
            let mut reader = Frames::of(bytes);
            let mut read = Vec::new();
            while let Some(frame) = reader.next().unwrap() {
                read.push(frame);
            }
            assert!(read.iter().zip(frames).all(|(read, written)| read == written));
            read.len()
        };
        assert_eq!(count(&file), 3);
        for cut in 0..file.len() {
            let whole = [11, 22].into_iter().filter(|end| *end <= cut).count();
            assert_eq!(count(&file[..cut]), whole, "{cut}");
        }
        // A page that was lost, a bit that is another, a frame that is gone.
        for at in 0..file.len() {
            let mut other = file.clone();
            other[at] ^= 1;
            assert_eq!(count(&other), at / 11, "{at}");
            other[at..].fill(0);
            assert!(count(&other) <= at / 11, "{at}");
        }
        let gone = [&file[..11], &file[22..]].concat();
        assert_eq!(count(&gone), 1);
    }
}

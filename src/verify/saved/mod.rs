//! What is proven, in a file: whoever takes the run up does not compare every row again.
//!
//! The file begins with what a full pass proved and which keys waited for a comparison then; what
//! the ledger is told since follows. Whatever lies before a position of a change log is in the file
//! before the other side stores that position ([`Ledger::passed`]). So a file that is not behind
//! what the other side holds lacks nothing, and any other is worth nothing: no sync is needed, and a
//! power cut costs a comparison, never the truth.
//!
//! It holds keys, like the journals nobody but the owner of the run may read it.
//!
//! [`Ledger::passed`]: super::ledger::Ledger::passed

mod format;
mod saver;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::{self, BufReader},
    path::Path,
};

use cutover_core::model::{
    event::TransactionId, position::Position, run::RunId, schema::TableName, side::Side,
};
use serde::{Deserialize, Serialize};

pub(super) use self::{format::Entry, saver::Saver};
use super::{
    ledger::keys::{Keys, Packed},
    tail::{End, Growth},
};

/// Its name in the state folder.
pub const FILE: &str = "proof";

/// What a file begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Whose it is.
    pub run: RunId,
    /// Where both sides stood when the last of them was compared as a whole for the first time.
    pub position: Position,
    /// Changed rows compared since.
    pub compared: u64,
    /// The pairs; entries name them by their place here.
    pub pairs: Vec<SavedPair>,
}

/// A pair when the file was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPair {
    /// Its name.
    pub name: TableName,
    /// What is proven of it holds for a pair of the same shape only; `None`: nothing is.
    pub shape: Option<u64>,
    /// Rows that it had when all of them were compared.
    pub rows: u64,
    /// The files of its tables, blue's and green's, when they were looked at last.
    pub files: Option<[Vec<u64>; 2]>,
}

/// What a file says.
#[derive(Debug)]
pub struct Saved {
    /// How it began.
    pub header: Header,
    /// Per pair of the header.
    pub(super) pairs: Vec<State>,
    /// Transactions that may not be seen yet, with their pairs.
    pub(super) unseen: BTreeMap<(Side, TransactionId), BTreeSet<usize>>,
    /// Everything up to here is in it, of blue and of green.
    pub(super) passed: [Option<Position>; 2],
    /// Where that was when the file was begun.
    pub(super) begun: [Option<Position>; 2],
    /// What pairs without a key gained since, each with a position that it came before.
    pub(super) grown: Vec<Came>,
}

/// What a pair gained before a position.
#[derive(Debug, Clone)]
pub(super) struct Came {
    pub(super) side: Side,
    pub(super) before: Position,
    pub(super) pair: usize,
    pub(super) growth: Growth,
}

/// What waits for a comparison in one pair.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) keys: Keys,
    pub(super) whole: bool,
    /// Its end when the file was begun, if it has only grown since.
    pub(super) end: Option<End>,
}

/// Reads the file of a run, up to where writing it was cut off; `None` without one that can be used.
///
/// # Errors
///
/// It cannot be read.
pub fn read(path: &Path, run: &RunId) -> io::Result<Option<Saved>> {
    let file = match File::open(path) {
        Ok(file) => BufReader::with_capacity(1 << 18, file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut frames = format::Frames::of(file);
    let Some(header) = frames.next()? else { return Ok(None) };
    let Ok(header) = serde_json::from_slice::<Header>(&header) else { return Ok(None) };
    if header.run != *run {
        return Ok(None);
    }
    let mut fold = Fold::new(header);
    while let Some(frame) = frames.next()? {
        if !format::entries(&frame).all(|entry| entry.is_some_and(|entry| fold.add(entry))) {
            return Ok(None);
        }
    }
    // A file that was cut off before them was not begun.
    let begun = fold.saved.passed.iter().all(Option::is_some);
    Ok(begun.then_some(fold.saved))
}

/// Forgets the file, and one that was being begun in its place.
///
/// # Errors
///
/// One of them is still there.
pub fn remove(path: &Path) -> io::Result<()> {
    gone(path).and(gone(&saver::in_its_place(path)))
}

fn gone(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

struct Fold {
    saved: Saved,
    /// Of transactions in progress: those that do not end here are in the log again.
    early: HashMap<(Side, TransactionId), BTreeMap<usize, State>>,
    /// What came before the next position of each side.
    grown: [Vec<(usize, Growth)>; 2],
}

impl Fold {
    fn new(header: Header) -> Self {
        let pairs = header.pairs.iter().map(|_| State::default()).collect();
        let saved = Saved {
            header,
            pairs,
            unseen: BTreeMap::new(),
            passed: [None, None],
            begun: [None, None],
            grown: Vec::new(),
        };
        Self { saved, early: HashMap::new(), grown: Default::default() }
    }

    /// Whether the entry makes sense.
    fn add(&mut self, entry: Entry<'_>) -> bool {
        let all = self.saved.pairs.len();
        if entry.pair().is_some_and(|pair| pair as usize >= all) {
            return false;
        }
        match entry {
            Entry::Key { pair, key } => {
                self.saved.pairs[pair as usize].keys.insert(Packed::from_bytes(key));
            }
            Entry::Whole { pair } => self.saved.pairs[pair as usize].whole = true,
            Entry::Passed { side, position } => {
                let came = std::mem::take(&mut self.grown[side.index()]).into_iter();
                let before = &position;
                self.saved.grown.extend(came.map(|(pair, growth)| {
                    let before = before.clone();
                    Came { side, before, pair, growth }
                }));
                self.saved.begun[side.index()].get_or_insert_with(|| position.clone());
                self.saved.passed[side.index()] = Some(position);
            }
            Entry::Early { side, transaction, pair, key } => {
                let pairs = self.early.entry((side, transaction)).or_default();
                let state = pairs.entry(pair as usize).or_default();
                match key {
                    Some(key) => _ = state.keys.insert(Packed::from_bytes(key)),
                    None => state.whole = true,
                }
            }
            Entry::Ended { side, transaction, committed } => {
                let pairs = self.early.remove(&(side, transaction)).unwrap_or_default();
                for (pair, state) in pairs.into_iter().filter(|_| committed) {
                    self.saved.pairs[pair].keys.absorb(state.keys);
                    self.saved.pairs[pair].whole |= state.whole;
                }
            }
            Entry::End { pair, end } => {
                let Ok(end) = serde_json::from_slice(end) else { return false };
                self.saved.pairs[pair as usize].end = Some(end);
            }
            // Whatever it was, it may have been at any time.
            Entry::Grown { pair, growth, .. } if growth.otherwise => {
                self.saved.pairs[pair as usize].end = None;
            }
            Entry::Grown { side, pair, growth } => {
                self.grown[side.index()].push((pair as usize, growth));
            }
            Entry::Unseen { side, transaction, pair } => {
                self.saved.unseen.entry((side, transaction)).or_default().insert(pair as usize);
            }
        }
        true
    }
}

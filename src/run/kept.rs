//! What is proven outlives the process: the proof and its file.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use cutover_core::model::{position::Position, run::RunId, schema::TableName, side::Side};

use super::{proof::Proof, standing::Standing};
use crate::{
    transform::Pair,
    verify::{
        ledger::Behind,
        saved::{self, Header, SavedPair},
    },
};

/// Where a proof is kept, and for which tables it holds.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The run.
    pub run: RunId,
    /// The file.
    pub path: PathBuf,
    /// Per pair, see [`shapes`].
    pub shapes: Vec<u64>,
}

/// A number per pair that is another one when the pair has other tables than before, other
/// definitions, or rows that were copied again. `definitions` of blue and of green, as
/// [`fingerprint`](cutover_core::port::primary::Primary::fingerprint) says.
#[must_use]
pub(super) fn shapes(
    pairs: &[Pair],
    definitions: &[BTreeMap<String, String>; 2],
    standing: &Standing,
) -> Vec<u64> {
    let shape = |pair: &Pair| {
        // Another number for the same pair, as by another build, costs a comparison.
        let mut hasher = DefaultHasher::new();
        pair.keyed.hash(&mut hasher);
        for side in [Side::Blue, Side::Green] {
            let copied = &standing.copies(side.other()).copied;
            for table in pair.side(side) {
                table.name.hash(&mut hasher);
                table.key().hash(&mut hasher);
                for column in &table.columns {
                    (&column.name, &column.declared_type).hash(&mut hasher);
                }
                definitions[side.index()].get(&table.name.to_string()).hash(&mut hasher);
                copied.get(&table.name).hash(&mut hasher);
            }
        }
        hasher.finish()
    };
    pairs.iter().map(shape).collect()
}

impl Proof {
    /// Goes on with what an earlier process left, where there is something.
    pub(super) fn go_on(&self) {
        let Kept { run, path, shapes } = &self.kept;
        let saved = match saved::read(path, run) {
            Ok(Some(saved)) => saved,
            Ok(None) => return,
            Err(e) => {
                tracing::warn!(path = %path.display(), "what was proven cannot be read: {e}");
                return;
            }
        };
        let now: HashMap<(&TableName, u64), usize> = self
            .pairs
            .iter()
            .zip(shapes)
            .enumerate()
            .map(|(i, (p, s))| ((&p.name, *s), i))
            .collect();
        let header = saved.header.clone();
        let place = |p: &SavedPair| now.get(&(&p.name, p.shape?)).copied();
        let places: Vec<Option<usize>> = header.pairs.iter().map(place).collect();
        let known: BTreeSet<usize> = places.iter().flatten().copied().collect();
        if known.is_empty() {
            return;
        }
        let (mut files, mut rows) = (vec![None; self.pairs.len()], vec![0; self.pairs.len()]);
        for (pair, place) in header.pairs.into_iter().zip(&places) {
            if let Some(i) = *place {
                (files[i], rows[i]) = (pair.files, pair.rows);
            }
        }
        self.ledger.go_on(saved, &places);
        let owed: BTreeSet<usize> = (0..self.pairs.len()).filter(|i| !known.contains(i)).collect();
        tracing::info!(
            tables = known.len(),
            new = owed.len(),
            changed_rows = self.ledger.pending(),
            "what was proven before still is"
        );
        let mut inner = self.lock();
        inner.position = Some(header.position);
        inner.rows = rows;
        inner.owed = owed;
        inner.files = files;
        self.add_compared(header.compared);
        drop(inner);
        self.save();
    }

    /// What speaks against a move as long as not every pair was compared as a whole.
    pub(super) fn unpassed_so_far(&self) -> String {
        match self.unpassed().as_slice() {
            [] => "nobody knows what is proven before both streams have begun".into(),
            [first, rest @ ..] if rest.len() + 1 < self.pairs() => {
                let (name, more) = (&self.pairs[*first].name, rest.len());
                let others = if more == 0 { String::new() } else { format!(" and {more} more") };
                format!("no full comparison of {name}{others} has finished yet")
            }
            _ => "no full comparison has finished yet".into(),
        }
    }

    /// Keeps what is proven, where it is not kept yet, or the file has become large.
    pub(super) fn keep(&self) {
        if self.ledger.wants_saving() {
            self.save();
        }
    }

    /// Keeps what a full pass proved while changed rows were being compared, as soon as they are.
    pub(super) fn keep_owed(&self) {
        if self.ledger.owes_saving() {
            self.save();
        }
    }

    /// Begins the file anew.
    pub(super) fn save(&self) {
        let inner = self.lock();
        let Some(position) = inner.position.clone() else { return };
        let Kept { run, path, shapes } = &self.kept;
        let pair = |i: usize| SavedPair {
            name: self.pairs[i].name.clone(),
            shape: Some(shapes[i]).filter(|_| !inner.owed.contains(&i)),
            rows: inner.rows[i],
            files: inner.files.get(i).cloned().flatten(),
        };
        let header = Header {
            run: run.clone(),
            position,
            compared: self.compared(),
            pairs: (0..self.pairs.len()).map(pair).collect(),
        };
        let different = inner.different.iter().flat_map(|(i, keys)| keys.keys().map(|k| (*i, k)));
        let unnamed = inner.many.keys().copied();
        if let Err(e) = self.ledger.save(path, &header, different, unnamed) {
            tracing::warn!(
                path = %path.display(),
                "what is proven cannot be kept: a restart would compare every row again: {e}"
            );
        }
    }

    /// A stream begins: see [`Witness::begins`](crate::stream::Witness::begins).
    pub(super) fn stream_begins(
        &self,
        from: Side,
        held: Option<&Position>,
        named: Option<&Position>,
    ) -> Option<Position> {
        match self.ledger.begins(from, held, named) {
            Ok(told) => {
                if self.ledger.has_begun() {
                    self.keep();
                }
                told
            }
            Err(Behind) => {
                tracing::warn!(
                    %from,
                    "changes were passed that nobody compared: every row has to be compared again"
                );
                let mut inner = self.lock();
                inner.position = None;
                inner.owed = (0..self.pairs.len()).collect();
                self.ledger.forget(&self.kept.path);
                None
            }
        }
    }
}

impl Kept {
    /// Forgets what is proven: the run is over.
    pub(super) fn forget(state_dir: &Path) {
        let path = state_dir.join(saved::FILE);
        if let Err(e) = saved::remove(&path) {
            tracing::warn!(path = %path.display(), "a file of the run is left: {e}");
        }
    }
}

//! What is out of the ledger for a while: keys that are being compared, and full passes. Whatever is
//! given up half-way is put back.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cutover_core::model::digest::RowKey;

use super::Ledger;
use crate::verify::tail::Mark;

/// Keys that are being compared, by pair. They wait again when it comes to no end.
#[derive(Debug)]
pub struct Taken<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) keys: Vec<(usize, Vec<RowKey>)>,
}

impl Taken<'_> {
    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &[(usize, Vec<RowKey>)] {
        &self.keys
    }

    /// They were compared.
    #[must_use]
    pub fn compared(mut self) -> Vec<(usize, Vec<RowKey>)> {
        std::mem::take(&mut self.keys)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.keys.drain(..).for_each(|(pair, keys)| self.ledger.put_back(pair, keys));
    }
}

/// A comparison from before its keys are taken until its result is known. What is kept in between
/// would lack both.
#[derive(Debug)]
pub struct Comparing<'a>(pub(super) &'a Ledger);

impl Drop for Comparing<'_> {
    fn drop(&mut self) {
        self.0.lock().comparing -= 1;
    }
}

impl Taken<'_> {
    /// Gives back the keys of these pairs.
    pub fn give_back(&mut self, pairs: &BTreeSet<usize>) {
        let (back, keep) =
            std::mem::take(&mut self.keys).into_iter().partition(|(i, _)| pairs.contains(i));
        self.keys = keep;
        let back: Vec<(usize, Vec<RowKey>)> = back;
        back.into_iter().for_each(|(pair, keys)| self.ledger.put_back(pair, keys));
    }
}

/// A full pass that is under way. What it has not finished when it ends waits again, and is proven
/// as it was before.
#[derive(Debug)]
pub struct Pass<'a> {
    pub(super) ledger: &'a Ledger,
    /// Pairs with the numbers of their marks; `None` once they are finished.
    pub(super) pairs: Mutex<Vec<Option<(usize, u64)>>>,
}

impl Pass<'_> {
    fn pairs(&self) -> MutexGuard<'_, Vec<Option<(usize, u64)>>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every row of the pairs was read.
    pub fn finished(self) {
        self.finished_with(&[]);
    }

    /// The same, with the ends of their tables as of its position, for each pair that was equal.
    pub fn finished_with(self, marks: &[Option<Arc<Mark>>]) {
        let all = self.pairs().len();
        (0..all).for_each(|n| self.finish(n, marks.get(n).cloned().flatten()));
    }

    /// Every row of its `n`th pair was read; the ends of its tables as of the position of the pass,
    /// if it was equal.
    pub fn finish(&self, n: usize, mark: Option<Arc<Mark>>) {
        let Some((i, number)) = self.pairs().get_mut(n).and_then(Option::take) else { return };
        let mut inner = self.ledger.lock();
        inner.pairs[i].passes -= 1;
        inner.pairs[i].marks.finish(number, mark);
        inner.forget_before(i, number);
        // What is kept does not know of it.
        inner.owes_saving = true;
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let left: Vec<(usize, u64)> = self.pairs().drain(..).flatten().collect();
        let mut inner = self.ledger.lock();
        for (i, number) in left {
            inner.pairs[i].passes -= 1;
            inner.pairs[i].marks.give_up(number);
            inner.take_back(i, number, self.ledger.budget);
        }
    }
}

//! What is out of the ledger for a while: keys that are being compared, and full passes. Whatever is
//! given up half-way is put back.

use std::{collections::BTreeSet, sync::Arc};

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

/// A full pass that is under way. When it comes to no end, what changed before it waits again, and
/// what was proven before it still is.
#[derive(Debug)]
pub struct Pass<'a> {
    pub(super) ledger: &'a Ledger,
    /// With the numbers of their marks.
    pub(super) pairs: Vec<(usize, u64)>,
    pub(super) finished: bool,
}

impl Pass<'_> {
    /// Every row of the pairs was read.
    pub fn finished(self) {
        self.finished_with(&[]);
    }

    /// The same, with the ends of their tables as of its position, for each pair that was equal.
    pub fn finished_with(mut self, marks: &[Option<Arc<Mark>>]) {
        self.finished = true;
        let mut inner = self.ledger.lock();
        for (n, &(i, number)) in self.pairs.iter().enumerate() {
            inner.pairs[i].marks.finish(number, marks.get(n).cloned().flatten());
            inner.forget_before(i, number);
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut inner = self.ledger.lock();
        for &(i, number) in &self.pairs {
            inner.pairs[i].passes -= 1;
            if !self.finished {
                inner.pairs[i].marks.give_up(number);
                inner.take_back(i, number, self.ledger.budget);
            }
        }
    }
}

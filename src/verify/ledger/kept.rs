//! The ledger and its file.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::atomic::Ordering,
};

use cutover_core::model::{digest::RowKey, position::Position, side::Side};

use super::{Comparing, Inner, Ledger, keys::Packed};
use crate::verify::{
    saved::{self, Came, Entry, Header, Saved, Saver},
    tail::Growth,
};

/// Changes were passed that the ledger was not told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind;

impl Ledger {
    /// Goes on with what a file says. `places`: which pair each of its pairs is now; what holds for
    /// no pair any more is passed over, and pairs of which nothing is known have to be compared.
    pub fn go_on(&self, saved: Saved, places: &[Option<usize>]) {
        let mut inner = self.lock();
        let known: BTreeSet<usize> = places.iter().flatten().copied().collect();
        for i in (0..inner.pairs.len()).filter(|i| !known.contains(i)) {
            inner.mark_whole(i);
        }
        for (state, place) in saved.pairs.into_iter().zip(places) {
            let Some(i) = *place else { continue };
            if state.whole {
                inner.mark_whole(i);
            } else {
                inner.record_all(i, state.keys, self.budget);
            }
            if let Some(end) = state.end {
                inner.pairs[i].marks.go_on(end);
            }
        }
        let here = |came: Came| Some(Came { pair: places[came.pair]?, ..came });
        inner.returning = saved.grown.into_iter().filter_map(here).collect();
        inner.ends_at = saved.begun;
        for (of, pairs) in saved.unseen {
            let pairs: BTreeSet<usize> = pairs.into_iter().filter_map(|i| places[i]).collect();
            if !pairs.is_empty() {
                inner.unseen.insert(of, pairs);
            }
        }
        inner.passed = saved.passed;
        self.armed.store(true, Ordering::Release);
    }

    /// A comparison begins.
    #[must_use]
    pub fn comparing(&self) -> Comparing<'_> {
        self.lock().comparing += 1;
        Comparing(self)
    }

    /// Whether a file has to be begun, or is better begun anew.
    #[must_use]
    pub fn wants_saving(&self) -> bool {
        let inner = self.lock();
        inner.owes_saving || inner.saver.as_ref().is_none_or(Saver::is_large)
    }

    /// Whether a file could not be begun when it was to be, and can be now.
    #[must_use]
    pub fn owes_saving(&self) -> bool {
        let inner = self.lock();
        inner.owes_saving && !inner.cannot_be_kept()
    }

    /// A full pass found that a row differs, or so many that they have no names.
    pub fn found(&self, pair: usize, key: Option<&RowKey>) {
        let mut inner = self.lock();
        match key.filter(|_| !inner.pairs[pair].key.is_empty()).map(Packed::of) {
            Some(key) => inner.tell(&Entry::Key { pair: pair as u32, key: key.bytes() }),
            None => inner.tell(&Entry::Whole { pair: pair as u32 }),
        }
        inner.flush();
    }

    /// Ends the file: nothing is proven that would be worth it.
    pub fn forget(&self, path: &Path) {
        self.lock().saver = None;
        if let Err(e) = saved::remove(path) {
            tracing::debug!(path = %path.display(), "it is behind, and cannot be removed: {e}");
        }
    }

    /// Begins a file with all that is known, and keeps it up to date from here on. `different`: keys
    /// that were compared and wait for nothing, but are not equal; `unnamed`: pairs with more of
    /// them. `false`: not at this moment.
    ///
    /// # Errors
    ///
    /// It cannot be written; what there was before says less than it should, and is worth nothing
    /// from the next change on.
    pub fn save<'a>(
        &self,
        path: &Path,
        header: &Header,
        different: impl Iterator<Item = (usize, &'a RowKey)>,
        unnamed: impl Iterator<Item = usize>,
    ) -> io::Result<bool> {
        let mut inner = self.lock();
        inner.owes_saving = inner.cannot_be_kept();
        if inner.owes_saving {
            return Ok(false);
        }
        inner.saver = None;
        let begun = Saver::begin(path, header, |saver| {
            inner.push_all(saver)?;
            for (i, key) in different {
                let (pair, key) = (i as u32, Packed::of(key));
                saver.push(&match inner.pairs[i].key.is_empty() {
                    true => Entry::Whole { pair },
                    false => Entry::Key { pair, key: key.bytes() },
                })?;
            }
            for pair in unnamed {
                saver.push(&Entry::Whole { pair: pair as u32 })?;
            }
            Ok(())
        });
        match begun {
            Ok(saver) => inner.saver = Some(saver),
            Err(e) => {
                // It does not know what was found since.
                saved::remove(path)?;
                return Err(e);
            }
        }
        Ok(true)
    }

    /// A stream begins behind `held`, which is called `named` by now. Up to where it was told before.
    ///
    /// # Errors
    ///
    /// What is known does not reach it: nothing is proven any more.
    pub fn begins(
        &self,
        side: Side,
        held: Option<&Position>,
        named: Option<&Position>,
    ) -> Result<Option<Position>, Behind> {
        let mut inner = self.lock();
        inner.ends_return(side, held);
        inner.counted[side.index()] = named.cloned();
        let known = inner.passed[side.index()].take();
        let reaches = match (&known, held) {
            // Nothing was told, and nothing is claimed.
            (None, _) => true,
            (Some(known), Some(held)) => known.covers(held) == Ok(true),
            (Some(_), None) => false,
        };
        if !reaches {
            (0..inner.pairs.len()).for_each(|i| inner.changed_unseen(i));
        }
        let now = known.filter(|_| reaches && held == named).or_else(|| named.cloned());
        inner.passed[side.index()].clone_from(&now);
        if let Some(position) = now.clone() {
            inner.tell(&Entry::Passed { side, position });
            inner.flush();
        }
        if reaches { Ok(now) } else { Err(Behind) }
    }

    /// Whether both streams have begun: until then nobody knows whether what an earlier process left
    /// still holds.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.lock().begun == [true, true]
    }

    /// Everything before this position of a side's log was told. Said before the other side stores
    /// the position: what is kept is never behind it.
    pub fn passed(&self, side: Side, position: &Position) {
        let mut inner = self.lock();
        inner.passed[side.index()] = Some(position.clone());
        inner.counted[side.index()] = Some(position.clone());
        for (pair, growth) in std::mem::take(&mut inner.grown[side.index()]) {
            inner.tell(&Entry::Grown { side, pair: pair as u32, growth });
        }
        inner.tell(&Entry::Passed { side, position: position.clone() });
        inner.flush();
    }
}

impl Inner {
    /// A file that is begun now would lack what is being compared, or what a stream has passed.
    fn cannot_be_kept(&self) -> bool {
        self.comparing > 0 || self.passed.iter().any(Option::is_none)
    }

    fn push_all(&self, saver: &mut Saver) -> io::Result<()> {
        for (i, p) in self.pairs.iter().enumerate() {
            let pair = i as u32;
            let passed = |grown: &BTreeMap<usize, Growth>| !grown.contains_key(&i);
            if self.grown.iter().all(passed)
                && let Some(end) = p.marks.end()
            {
                saver.push(&Entry::End { pair, end: &serde_json::to_vec(&end)? })?;
            }
            // A full comparison that comes to no end leaves what was before.
            if p.whole || p.aside.iter().any(|aside| aside.whole) {
                saver.push(&Entry::Whole { pair })?;
                continue;
            }
            let aside = p.aside.iter().flat_map(|aside| aside.keys.iter());
            for key in p.pending.iter().chain(p.arriving.iter()).chain(aside) {
                saver.push(&Entry::Key { pair, key: key.bytes() })?;
            }
        }
        for (&(side, transaction), pairs) in &self.early {
            for (&i, changed) in pairs {
                let early = |key| Entry::Early { side, transaction, pair: i as u32, key };
                for key in changed.keys.iter() {
                    saver.push(&early(Some(key.bytes())))?;
                }
                if changed.whole {
                    saver.push(&early(None))?;
                }
            }
        }
        for (&(side, transaction), pairs) in &self.unseen {
            for &i in pairs {
                saver.push(&Entry::Unseen { side, transaction, pair: i as u32 })?;
            }
        }
        // The first of each side is that of the ends.
        for positions in [&self.counted, &self.passed] {
            for (side, position) in [Side::Blue, Side::Green].into_iter().zip(positions) {
                if let Some(position) = position.clone() {
                    saver.push(&Entry::Passed { side, position })?;
                }
            }
        }
        Ok(())
    }

    /// Something happened to a pair.
    pub(super) fn grows(&mut self, side: Side, pair: usize, growth: Growth) {
        let p = &mut self.pairs[pair];
        p.marks.note(growth);
        if !p.key.is_empty() {
            return;
        }
        if growth.otherwise {
            self.tell(&Entry::Grown { side, pair: pair as u32, growth });
        } else {
            self.grown[side.index()].entry(pair).or_default().add(growth);
        }
    }

    /// A stream begins behind `held`: what came before is not told again, and what came behind it is.
    fn ends_return(&mut self, side: Side, held: Option<&Position>) {
        let covers =
            |position: &Position| held.is_some_and(|held| held.covers(position) == Ok(true));
        let known = self.ends_at[side.index()].take().is_none_or(|at| covers(&at));
        let came = self.returning.extract_if(.., |came| came.side == side);
        let came: Vec<Came> = came.filter(|came| covers(&came.before)).collect();
        for Came { pair, growth, .. } in came {
            self.pairs[pair].marks.came_before(growth);
        }
        if !known {
            self.pairs.iter_mut().for_each(|p| p.marks.came_before(Growth::UNKNOWN));
        }
        self.begun[side.index()] = true;
        if self.begun == [true, true] {
            self.pairs.iter_mut().for_each(|p| p.marks.sure());
            self.owes_saving = true;
        }
    }

    /// Keeps an entry, where there is a file.
    pub(super) fn tell(&mut self, entry: &Entry<'_>) {
        Self::told(&mut self.saver, entry);
    }

    /// The same where something else of the ledger is borrowed.
    pub(super) fn told(saver: &mut Option<Saver>, entry: &Entry<'_>) {
        if let Some(open) = saver
            && let Err(e) = open.push(entry)
        {
            give_up(saver, &e);
        }
    }

    fn flush(&mut self) {
        if let Some(open) = &mut self.saver
            && let Err(e) = open.flush()
        {
            give_up(&mut self.saver, &e);
        }
    }
}

/// What is not in the file makes it worth nothing: it is behind from the next position on, so that
/// nobody believes it even where it cannot be removed.
fn give_up(saver: &mut Option<Saver>, why: &io::Error) {
    let Some(saver) = saver.take() else { return };
    let path = saver.path();
    tracing::warn!(
        path = %path.display(),
        "what is proven cannot be kept: a restart would compare every row again: {why}"
    );
    if let Err(e) = saved::remove(path) {
        tracing::debug!("it cannot be removed either: {e}");
    }
}

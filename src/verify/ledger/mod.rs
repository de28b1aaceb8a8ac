//! The keys of rows that changed since the last full pass.
//!
//! Both pipes write into it: what clients changed on the owner, and what somebody changed where
//! nobody may (on green behind our back, on blue after the switch). Bounded: past the budget a
//! table is marked for a new full pass instead of growing. Rows of a transaction in progress are
//! remembered apart until it has ended, and changes that are told and not applied yet until they
//! are: compared before, both sides may show them as they were (a commit that waits for a standby is
//! seen late on its own side), and they would be missed after.

mod guards;
mod kept;
pub(super) mod keys;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use cutover_core::model::{
    digest::RowKey,
    event::{Change, Relation, TransactionId},
    position::Position,
    schema::TableName,
    side::Side,
    value::{Tuple, Value},
};

use self::keys::{Keys, Packed};
pub use self::{
    guards::{Comparing, Pass, Taken},
    kept::Behind,
};
use super::{
    saved::{Came, Entry, Saver},
    tail::{Grown, Growth, Marks},
};
use crate::transform::Pair;

/// Transactions of which it is asked whether they are seen. Those before them are by then.
const MOST_UNSEEN: usize = 10_000;

/// Keys of changed rows per pair, see the module.
#[derive(Debug)]
pub struct Ledger {
    armed: AtomicBool,
    budget: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Pairs by the names of blue's and of green's tables.
    index: [HashMap<TableName, usize>; 2],
    pairs: Vec<PairLedger>,
    /// Those with changes that are not applied yet.
    arriving: Vec<usize>,
    /// Of transactions in progress, by pair.
    early: HashMap<(Side, TransactionId), HashMap<usize, Changed>>,
    /// Transactions that wrote where nobody may, and that a reader may not see yet, with the pairs
    /// that they wrote to.
    unseen: BTreeMap<(Side, TransactionId), BTreeSet<usize>>,
    /// Of all keys.
    bytes: usize,
    /// The pair whose turn it is.
    turn: usize,
    /// Changes so far.
    changes: u64,
    /// Everything before these positions of blue's and of green's log was told.
    passed: [Option<Position>; 2],
    /// Up to where of each side it is known what pairs without a key gained; behind the position
    /// above as long as something is told again.
    counted: [Option<Position>; 2],
    /// What they gained since.
    grown: [BTreeMap<usize, Growth>; 2],
    /// What pairs gained before this process, until it is known how much of it is not told again.
    returning: Vec<Came>,
    /// Positions of both sides as of the ends that an earlier process left.
    ends_at: [Option<Position>; 2],
    /// Whether the streams from blue and from green have begun.
    begun: [bool; 2],
    /// Comparisons whose result is not known yet.
    comparing: usize,
    /// Where all of this is kept.
    saver: Option<Saver>,
    /// It was to be begun anew, and could not be at that moment.
    owes_saving: bool,
}

/// What changed in one pair.
#[derive(Debug, Default)]
struct Changed {
    keys: Keys,
    /// Too many keys, or one that cannot be named.
    whole: bool,
    growth: Growth,
}

#[derive(Debug, Default)]
struct PairLedger {
    key: Vec<String>,
    pending: Keys,
    /// Of changes that are not applied yet.
    arriving: Keys,
    /// Needs a full comparison: no key, emptied, written anew, or too many keys.
    whole: bool,
    /// Full comparisons that are under way.
    passes: u32,
    /// What was recorded before each of them began, and after the one before it; oldest first.
    aside: Vec<Aside>,
    /// Number of the newest change; 0 for none.
    changed: u64,
    /// Ends of tables without a key.
    marks: Marks,
}

/// What waits for the end of a full comparison: to be forgotten, or to be compared after all.
#[derive(Debug)]
struct Aside {
    /// Number of the comparison.
    number: u64,
    keys: Keys,
    whole: bool,
}

impl Ledger {
    /// An empty ledger for these pairs; `budget` in bytes of keys. Records nothing until
    /// [`Ledger::restart`].
    #[must_use]
    pub fn new(pairs: &[Pair], budget: usize) -> Self {
        let mut inner = Inner::default();
        for (i, pair) in pairs.iter().enumerate() {
            for (side, tables) in [(Side::Blue, &pair.blue), (Side::Green, &pair.green)] {
                for table in tables {
                    inner.index[side.index()].insert(table.name.clone(), i);
                }
            }
            let key = if pair.keyed { pair.blue.first().map_or(&[][..], |t| t.key()) } else { &[] };
            inner.pairs.push(PairLedger { key: key.to_vec(), ..PairLedger::default() });
        }
        Self { armed: AtomicBool::new(false), budget, inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Sets aside what is recorded for these pairs and records from now on: a full pass over them
    /// begins at the position where the stream stands. Until it is finished they count as unread.
    #[must_use]
    pub fn restart(&self, pairs: &[usize]) -> Pass<'_> {
        let mut inner = self.lock();
        let mut begun = Vec::with_capacity(pairs.len());
        for &i in pairs {
            // What changes meanwhile needs room, too.
            if inner.bytes > self.budget / 2 && !inner.pairs[i].pending.is_empty() {
                inner.mark_whole(i);
            }
            let pair = &mut inner.pairs[i];
            let keys = std::mem::take(&mut pair.pending);
            let whole = std::mem::take(&mut pair.whole);
            let number = pair.marks.begin();
            pair.aside.push(Aside { number, keys, whole });
            pair.passes += 1;
            begun.push(Some((i, number)));
        }
        self.armed.store(true, Ordering::Release);
        Pass { ledger: self, pairs: Mutex::new(begun) }
    }

    /// Rows came elsewhere than at the ends that the newest mark of a pair knows.
    pub fn missed(&self, pair: usize) {
        self.lock().pairs[pair].marks.missed();
    }

    /// Whether rows ever came elsewhere than at the ends of the tables.
    #[must_use]
    pub fn scattered(&self, pair: usize) -> bool {
        self.lock().pairs[pair].marks.scattered()
    }

    /// The newest mark of a pair, if it has only grown since.
    #[must_use]
    pub fn grown(&self, pair: usize) -> Option<Grown> {
        self.lock().pairs[pair].marks.grown()
    }

    /// How much of the budget is used, from 0 to 1.
    #[must_use]
    pub fn filled(&self) -> f64 {
        self.lock().bytes as f64 / self.budget.max(1) as f64
    }

    /// Keys that wait for a comparison.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.lock().pairs.iter().map(|p| p.pending.len() + p.arriving.len()).sum()
    }

    /// Pairs that need a full comparison, or are in the middle of one.
    #[must_use]
    pub fn whole(&self) -> Vec<usize> {
        self.those(|p| p.whole || p.passes > 0)
    }

    /// Pairs that need one, and are not in the middle of one.
    #[must_use]
    pub fn unread(&self) -> Vec<usize> {
        self.those(|p| p.whole && p.passes == 0)
    }

    /// Pairs that are in the middle of one.
    #[must_use]
    pub fn read(&self) -> Vec<usize> {
        self.those(|p| p.passes > 0)
    }

    fn those(&self, such: fn(&PairLedger) -> bool) -> Vec<usize> {
        let inner = self.lock();
        inner.pairs.iter().enumerate().filter(|(_, p)| such(p)).map(|(i, _)| i).collect()
    }

    /// Takes up to `limit` keys out. Pairs have their turns, so that a busy one keeps no other
    /// waiting.
    #[must_use]
    pub fn take(&self, limit: usize) -> Taken<'_> {
        let mut inner = self.lock();
        let (all, first) = (inner.pairs.len(), inner.turn);
        let (mut taken, mut room) = (Vec::new(), limit);
        for i in (first..all).chain(0..first) {
            if room == 0 {
                break;
            }
            if inner.pairs[i].pending.is_empty() {
                continue;
            }
            let (keys, bytes) = inner.pairs[i].pending.take(room);
            inner.bytes -= bytes;
            room -= keys.len();
            inner.turn = i + 1;
            taken.push((i, keys));
        }
        Taken { ledger: self, keys: taken }
    }

    /// Pairs that changed, the newest change first.
    #[must_use]
    pub fn latest(&self) -> Vec<usize> {
        let inner = self.lock();
        let mut changed: Vec<usize> =
            (0..inner.pairs.len()).filter(|i| inner.pairs[*i].changed > 0).collect();
        changed.sort_by_key(|i| std::cmp::Reverse(inner.pairs[*i].changed));
        changed
    }

    /// Takes every key of every pair out; all that was told is applied.
    #[must_use]
    pub fn take_all(&self) -> Taken<'_> {
        let mut inner = self.lock();
        inner.arrived(self.budget);
        let (mut taken, mut freed) = (Vec::new(), 0);
        for (i, pair) in inner.pairs.iter_mut().enumerate().filter(|(_, p)| !p.pending.is_empty()) {
            let (keys, bytes) = pair.pending.take(usize::MAX);
            freed += bytes;
            taken.push((i, keys));
        }
        inner.bytes -= freed;
        Taken { ledger: self, keys: taken }
    }

    /// Puts keys back that could not be compared.
    pub fn put_back(&self, pair: usize, keys: impl IntoIterator<Item = RowKey>) {
        let mut inner = self.lock();
        keys.into_iter().for_each(|key| inner.record(pair, Packed::of(&key), self.budget));
    }

    /// Whether the key has been recorded again.
    #[must_use]
    pub fn holds(&self, pair: usize, key: &RowKey) -> bool {
        let inner = self.lock();
        let (pair, key) = (&inner.pairs[pair], Packed::of(key));
        pair.whole || pair.pending.contains(&key) || pair.arriving.contains(&key)
    }

    /// All rows that were told are on the other side, for everybody to see.
    pub fn applied(&self) {
        self.lock().arrived(self.budget);
    }

    /// Records a changed row of `relation` on `side`, which waits for [`Ledger::applied`]. `foreign`:
    /// nobody may write there, and it is applied nowhere.
    pub fn row(&self, side: Side, relation: &Relation, change: &Change, foreign: bool) {
        if !self.armed.load(Ordering::Acquire) {
            return;
        }
        let mut inner = self.lock();
        let Some(i) = inner.pair(side, relation) else { return };
        inner.changes += 1;
        inner.pairs[i].changed = inner.changes;
        inner.grows(side, i, Growth::of(change, foreign));
        if inner.pairs[i].whole {
            return;
        }
        match inner.keys(i, relation, change) {
            Some(keys) if foreign => {
                keys.into_iter().for_each(|key| inner.record(i, key, self.budget));
            }
            Some(keys) => keys.into_iter().for_each(|key| inner.arrives(i, key, self.budget)),
            None => inner.mark_whole(i),
        }
    }

    /// Records a transaction that wrote where nobody may, before its rows are. Also before the first
    /// [`Ledger::restart`]: it may not be seen by then.
    pub fn foreign(&self, side: Side, transaction: TransactionId, relation: &Relation) {
        let mut inner = self.lock();
        let Some(i) = inner.pair(side, relation) else { return };
        if inner.unseen.entry((side, transaction)).or_default().insert(i) {
            inner.tell(&Entry::Unseen { side, transaction, pair: i as u32 });
        }
        if inner.unseen.len() > MOST_UNSEEN {
            inner.unseen.pop_first();
        }
    }

    /// Such transactions of a side.
    #[must_use]
    pub fn unseen(&self, side: Side) -> Vec<TransactionId> {
        self.lock().unseen.keys().filter(|(s, _)| *s == side).map(|(_, t)| *t).collect()
    }

    /// A reader sees this one from now on.
    pub fn seen(&self, side: Side, transaction: TransactionId) {
        self.lock().unseen.remove(&(side, transaction));
    }

    /// Pairs with rows that a reader may not see yet.
    #[must_use]
    pub fn unseen_pairs(&self) -> BTreeSet<usize> {
        self.lock().unseen.values().flatten().copied().collect()
    }

    /// Records a changed row of a transaction that is in progress on `side`. Also before the first
    /// [`Ledger::restart`]: it may end behind it.
    pub fn early(
        &self,
        side: Side,
        transaction: TransactionId,
        relation: &Relation,
        change: &Change,
    ) {
        let mut inner = self.lock();
        let Some(i) = inner.pair(side, relation) else { return };
        let of = (side, transaction);
        let changed = inner.early.entry(of).or_default().entry(i).or_default();
        changed.growth.add(Growth::of(change, false));
        if changed.whole {
            return;
        }
        let keys = inner.keys(i, relation, change);
        let inner = &mut *inner;
        let changed = inner.early.entry(of).or_default().entry(i).or_default();
        let pair = i as u32;
        let known = keys.is_some();
        for key in keys.into_iter().flatten() {
            let told = Entry::Early { side, transaction, pair, key: Some(key.bytes()) };
            Inner::told(&mut inner.saver, &told);
            inner.bytes += changed.keys.insert(key);
        }
        // The rest is for those that have committed.
        if !known || inner.bytes > self.budget / 2 {
            changed.whole = true;
            inner.bytes -= std::mem::take(&mut changed.keys).bytes();
            Inner::told(&mut inner.saver, &Entry::Early { side, transaction, pair, key: None });
        }
    }

    /// The transaction has ended: its rows count, or not.
    pub fn ended(&self, side: Side, transaction: TransactionId, committed: bool) {
        let mut inner = self.lock();
        let Some(pairs) = inner.early.remove(&(side, transaction)) else { return };
        inner.tell(&Entry::Ended { side, transaction, committed });
        let keep = committed && self.armed.load(Ordering::Acquire);
        for (i, changed) in pairs {
            inner.bytes -= changed.keys.bytes();
            if !keep {
                continue;
            }
            inner.grows(side, i, changed.growth);
            if changed.whole {
                inner.mark_whole(i);
            } else {
                inner.arrive(i, changed.keys, self.budget);
            }
        }
    }

    /// Records that rows of a pair were written anew, nobody knows which.
    pub fn rewritten(&self, pair: usize) {
        self.lock().changed_unseen(pair);
    }

    /// Records that a table was emptied.
    pub fn truncated(&self, side: Side, relation: &Relation) {
        if !self.armed.load(Ordering::Acquire) {
            return;
        }
        let mut inner = self.lock();
        if let Some(i) = inner.pair(side, relation) {
            inner.changed_unseen(i);
        }
    }
}

impl Inner {
    fn pair(&self, side: Side, relation: &Relation) -> Option<usize> {
        self.index[side.index()].get(&relation.name).copied()
    }

    /// The keys that a change touches; `None` when they cannot be named.
    fn keys(&self, pair: usize, relation: &Relation, change: &Change) -> Option<Vec<Packed>> {
        let places: Vec<usize> = self.pairs[pair]
            .key
            .iter()
            .map(|k| relation.columns.iter().position(|c| &c.name == k))
            .collect::<Option<_>>()?;
        if places.is_empty() {
            return None;
        }
        let images: [Option<&Tuple>; 2] = match change {
            Change::Insert { new } => [Some(new), None],
            Change::Update { old, new } => [Some(new), old.as_ref()],
            Change::Delete { old } => [Some(old), None],
        };
        images.into_iter().flatten().map(|image| key_of(image, &places)).collect()
    }

    fn record(&mut self, pair: usize, key: Packed, budget: usize) {
        if self.pairs[pair].whole {
            return;
        }
        if self.saver.is_some() && !self.pairs[pair].pending.contains(&key) {
            self.tell(&Entry::Key { pair: pair as u32, key: key.bytes() });
        }
        self.bytes += self.pairs[pair].pending.insert(key);
        if self.bytes > budget {
            self.mark_whole(pair);
        }
    }

    fn arrives(&mut self, pair: usize, key: Packed, budget: usize) {
        let p = &mut self.pairs[pair];
        if p.whole {
            return;
        }
        if self.saver.is_some() && !p.pending.contains(&key) && !p.arriving.contains(&key) {
            Self::told(&mut self.saver, &Entry::Key { pair: pair as u32, key: key.bytes() });
        }
        if p.arriving.is_empty() {
            self.arriving.push(pair);
        }
        self.bytes += p.arriving.insert(key);
        if self.bytes > budget {
            self.mark_whole(pair);
        }
    }

    fn arrive(&mut self, pair: usize, keys: Keys, budget: usize) {
        let p = &mut self.pairs[pair];
        if p.whole || keys.is_empty() {
            return;
        }
        if p.arriving.is_empty() {
            self.arriving.push(pair);
        }
        self.bytes += p.arriving.absorb(keys);
        if self.bytes > budget {
            self.mark_whole(pair);
        }
    }

    fn arrived(&mut self, budget: usize) {
        for pair in std::mem::take(&mut self.arriving) {
            let keys = std::mem::take(&mut self.pairs[pair].arriving);
            self.bytes -= keys.bytes();
            self.record_all(pair, keys, budget);
        }
    }

    fn record_all(&mut self, pair: usize, keys: Keys, budget: usize) {
        if self.pairs[pair].whole {
            return;
        }
        self.bytes += self.pairs[pair].pending.absorb(keys);
        if self.bytes > budget {
            self.mark_whole(pair);
        }
    }

    /// Everything of before a full comparison is proven by it.
    fn forget_before(&mut self, pair: usize, number: u64) {
        let aside = &mut self.pairs[pair].aside;
        let proven: Vec<Aside> = aside.extract_if(.., |aside| aside.number <= number).collect();
        self.bytes -= proven.iter().map(|aside| aside.keys.bytes()).sum::<usize>();
    }

    /// A full comparison came to no end: what it would have proven waits for an older one that is
    /// under way, no longer than for a newer one, or to be compared.
    fn take_back(&mut self, pair: usize, number: u64, budget: usize) {
        let aside = &mut self.pairs[pair].aside;
        let Some(at) = aside.iter().position(|aside| aside.number == number) else { return };
        let Aside { keys, whole, .. } = aside.remove(at);
        self.bytes -= keys.bytes();
        let Some(newer) = self.pairs[pair].aside.get_mut(at) else {
            if whole {
                self.mark_whole(pair);
            } else {
                self.record_all(pair, keys, budget);
            }
            return;
        };
        newer.whole |= whole;
        if newer.whole {
            self.bytes -= std::mem::take(&mut newer.keys).bytes();
        } else {
            self.bytes += newer.keys.absorb(keys);
        }
    }

    /// Nobody knows which rows changed, and how.
    fn changed_unseen(&mut self, pair: usize) {
        self.grows(Side::Blue, pair, Growth::UNKNOWN);
        self.mark_whole(pair);
    }

    fn mark_whole(&mut self, pair: usize) {
        let p = &mut self.pairs[pair];
        if !p.whole {
            Self::told(&mut self.saver, &Entry::Whole { pair: pair as u32 });
        }
        p.whole = true;
        for keys in [&mut p.pending, &mut p.arriving] {
            self.bytes -= std::mem::take(keys).bytes();
        }
    }
}

fn key_of(tuple: &Tuple, places: &[usize]) -> Option<Packed> {
    let parts = places.iter().map(|&p| match (p < tuple.len()).then(|| tuple.get(p))? {
        // Nor can one be asked for that is no text.
        Value::Text(text) => std::str::from_utf8(text).ok(),
        // A key is never null, and one that did not travel cannot be named.
        Value::Null | Value::Unchanged | Value::Binary(_) => None,
    });
    Packed::of_parts(parts)
}

#[cfg(test)]
mod kept_tests;
#[cfg(test)]
pub(crate) mod tests;

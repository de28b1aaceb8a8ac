//! Compares changed rows again, with "not yet equal" kept apart from "different".
//!
//! A key is taken out of the ledger before it is read, so a change that comes meanwhile puts it
//! back. A row that is unequal is only called different when the stream has caught up before and
//! after the read, everything committed was visible, and the ledger did not see it again: lag is
//! not divergence.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use cutover_core::{
    model::{
        digest::{RowDigest, RowKey},
        schema::Table,
        side::Side,
    },
    port::{
        PortError, Result,
        reader::{Lookup, RowReader},
    },
};

use super::{Difference, compare, ledger::Ledger};
use crate::transform::Pair;

/// Keys of one step, and of one read of a table.
const KEYS: usize = 1000;

/// How long a row that somebody wrote may take to be seen, and how often that is looked for.
const SEEN_WITHIN: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A comparison would pass by what is committed, and cannot be seen yet.
#[must_use]
pub fn unseen_yet() -> PortError {
    PortError::transient(
        "comparing rows",
        "somebody wrote where nobody may, and what was written cannot be seen yet: its commit waits \
         for a synchronous standby",
    )
}

/// Waits until everything committed so far on the owner of the writes is applied on the other
/// side, and everything written there so far has been seen.
#[async_trait]
pub trait Settle: Send + Sync {
    /// See the trait.
    async fn settle(&self) -> Result<()>;

    /// Waits until what both logs say is committed so far is visible on both sides; `false` when
    /// that takes too long. A row can be applied on the other side before its own transaction is
    /// visible to readers.
    async fn visible(&self) -> Result<bool>;
}

/// What the comparison needs.
#[derive(Clone)]
pub struct Recent {
    /// All pairs of the run.
    pub pairs: Arc<Vec<Pair>>,
    /// Where the keys are.
    pub ledger: Arc<Ledger>,
    /// Reads blue's newest committed rows.
    pub blue: Arc<dyn RowReader>,
    /// Reads green's newest committed rows.
    pub green: Arc<dyn RowReader>,
}

/// What one step found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Step {
    /// Keys compared, by pair.
    pub compared: Vec<(usize, Vec<RowKey>)>,
    /// Rows that are different, by pair.
    pub different: Vec<(usize, Difference)>,
    /// How long both sides took to read them once, without any waiting for streams.
    pub read_in: Duration,
}

impl Step {
    /// Number of keys compared.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.compared.iter().map(|(_, keys)| keys.len() as u64).sum()
    }
}

impl Recent {
    /// Compares some of the waiting keys; `None` when nothing waits.
    ///
    /// # Errors
    ///
    /// A read failed; its keys wait again.
    pub async fn step(&self, settle: &dyn Settle) -> Result<Option<Step>> {
        let mut some = self.ledger.take(KEYS);
        some.give_back(&self.unseen(SEEN_WITHIN).await?);
        if some.keys().is_empty() {
            return Ok(None);
        }
        let (different, read_in) = self.look(some.keys(), settle).await?;
        Ok(Some(Step { different: flat(different), compared: some.compared(), read_in }))
    }

    /// Compares some of the waiting keys in one look; those of rows that are not equal yet wait on.
    ///
    /// # Errors
    ///
    /// A read failed; the keys wait again.
    pub async fn glance(&self) -> Result<Step> {
        let mut some = self.ledger.take(KEYS);
        some.give_back(&self.unseen(Duration::ZERO).await?);
        if some.keys().is_empty() {
            return Ok(Step::default());
        }
        let mut unequal: HashSet<(usize, RowKey)> = HashSet::new();
        for (pair, different) in self.read(some.keys()).await? {
            unequal.extend(different.into_iter().map(|d| (pair, d.key)));
        }
        let mut compared = some.compared();
        for (pair, keys) in &mut compared {
            let waits = |key: &RowKey| unequal.contains(&(*pair, key.clone()));
            let (again, equal): (Vec<_>, Vec<_>) = keys.drain(..).partition(waits);
            self.ledger.put_back(*pair, again);
            *keys = equal;
        }
        Ok(Step { compared, ..Step::default() })
    }

    /// Pairs with rows that somebody wrote where nobody may, and that cannot be seen after this time
    /// although the log says that they are committed. Costs nothing where nobody did.
    ///
    /// # Errors
    ///
    /// A side could not be asked.
    pub async fn unseen(&self, within: Duration) -> Result<BTreeSet<usize>> {
        let until = Instant::now() + within;
        loop {
            for (side, reader) in [(Side::Blue, &self.blue), (Side::Green, &self.green)] {
                let unseen = self.ledger.unseen(side);
                if unseen.is_empty() {
                    continue;
                }
                let sees = reader.sees(&unseen).await?;
                let seen = unseen.into_iter().zip(sees).filter(|(_, sees)| *sees);
                seen.for_each(|(transaction, _)| self.ledger.seen(side, transaction));
            }
            let left = self.ledger.unseen_pairs();
            if left.is_empty() || Instant::now() >= until {
                return Ok(left);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Differences, and how long the first read took.
    async fn look(
        &self,
        some: &[(usize, Vec<RowKey>)],
        settle: &dyn Settle,
    ) -> Result<(Vec<(usize, Vec<Difference>)>, Duration)> {
        let began = Instant::now();
        let first = self.read(some).await?;
        let read_in = began.elapsed();
        Ok((self.look_again(first, settle).await?, read_in))
    }

    /// What is still different once the streams have caught up.
    async fn look_again(
        &self,
        first: Vec<(usize, Vec<Difference>)>,
        settle: &dyn Settle,
    ) -> Result<Vec<(usize, Vec<Difference>)>> {
        if first.is_empty() {
            return Ok(first);
        }
        settle.settle().await?;
        let second = self.read(&keys_of(first, |_, _| true)).await?;
        if second.is_empty() {
            return Ok(second);
        }
        settle.settle().await?;
        let unequal = keys_of(second, |pair, key| !self.ledger.holds(pair, key));
        if unequal.is_empty() {
            return Ok(Vec::new());
        }
        if !settle.visible().await? {
            // Not known to be different: compared again later.
            unequal.into_iter().for_each(|(pair, keys)| self.ledger.put_back(pair, keys));
            return Ok(Vec::new());
        }
        let mut third = self.read(&unequal).await?;
        settle.settle().await?;
        for (pair, different) in &mut third {
            different.retain(|d| !self.ledger.holds(*pair, &d.key));
        }
        Ok(third)
    }

    /// Compares every waiting key. Only behind the fence, when everything is applied: what is
    /// unequal then is different.
    ///
    /// # Errors
    ///
    /// A read failed, or what somebody wrote where nobody may cannot be seen yet; all keys wait again.
    pub async fn behind_fence(&self) -> Result<Step> {
        let all = self.ledger.take_all();
        if !self.unseen(SEEN_WITHIN).await?.is_empty() {
            return Err(unseen_yet());
        }
        // All pairs at once: inside the pause round trips count.
        let different = flat(self.read(all.keys()).await?);
        Ok(Step { different, compared: all.compared(), ..Step::default() })
    }

    /// The pairs with rows that differ now.
    async fn read(&self, some: &[(usize, Vec<RowKey>)]) -> Result<Vec<(usize, Vec<Difference>)>> {
        let (blue, green) = tokio::try_join!(
            self.rows(&self.blue, |pair| &pair.blue, some),
            self.rows(&self.green, |pair| &pair.green, some)
        )?;
        let compared = some.iter().zip(blue.iter().zip(&green));
        Ok(compared
            .map(|((pair, _), (blue, green))| (*pair, compare::rows(blue, green)))
            .filter(|(_, different)| !different.is_empty())
            .collect())
    }

    /// The rows with these keys on one side, by pair.
    async fn rows(
        &self,
        reader: &Arc<dyn RowReader>,
        side: fn(&Pair) -> &Vec<Table>,
        some: &[(usize, Vec<RowKey>)],
    ) -> Result<Vec<Vec<RowDigest>>> {
        let (mut wanted, mut places) = (Vec::new(), Vec::new());
        for (place, (pair, keys)) in some.iter().enumerate() {
            for table in side(&self.pairs[*pair]) {
                for keys in keys.chunks(KEYS) {
                    wanted.push(Lookup { table, keys });
                    places.push(place);
                }
            }
        }
        let mut rows: Vec<Vec<RowDigest>> = some.iter().map(|_| Vec::new()).collect();
        for (found, place) in reader.lookup(&wanted).await?.into_iter().zip(places) {
            rows[place].extend(found);
        }
        Ok(rows)
    }
}

fn flat(by_pair: Vec<(usize, Vec<Difference>)>) -> Vec<(usize, Difference)> {
    by_pair.into_iter().flat_map(|(pair, all)| all.into_iter().map(move |d| (pair, d))).collect()
}

/// Keys of the differences that `wanted` says yes to, without pairs that have none.
fn keys_of(
    different: Vec<(usize, Vec<Difference>)>,
    wanted: impl Fn(usize, &RowKey) -> bool,
) -> Vec<(usize, Vec<RowKey>)> {
    different
        .into_iter()
        .map(|(pair, all)| {
            (pair, all.into_iter().map(|d| d.key).filter(|key| wanted(pair, key)).collect())
        })
        .filter(|(_, keys): &(usize, Vec<RowKey>)| !keys.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use cutover_core::{
        model::{
            digest::Digest,
            event::{Change, Relation, RelationColumn},
            schema::TableName,
            side::Side,
            value::{TupleBuilder, Value},
        },
        port::reader::Part,
    };

    use super::*;
    use crate::verify::ledger::tests::pair;

    /// Has the same row for every key; or never answers. Sees transactions below 100.
    struct Rows(Option<fn(&RowKey) -> i64>);

    #[async_trait]
    impl RowReader for Rows {
        async fn digests_of(&self, _: &[Part<'_>]) -> Result<Vec<Vec<Digest>>> {
            pending().await
        }

        async fn bucket_rows(&self, _: &Table, _: u32, _: &[u32]) -> Result<Vec<RowDigest>> {
            pending().await
        }

        async fn seen_of(&self, transactions: &[u32]) -> Result<Vec<bool>> {
            Ok(transactions.iter().map(|t| *t < 100).collect())
        }

        async fn rows_of(&self, wanted: &[Lookup<'_>]) -> Result<Vec<Vec<RowDigest>>> {
            let Some(hash) = self.0 else { return pending().await };
            let row = |key: &RowKey| RowDigest { key: key.clone(), hash: hash(key) };
            Ok(wanted.iter().map(|l| l.keys.iter().map(row).collect()).collect())
        }
    }

    /// Three changed rows that wait, and what green says about them.
    fn three(green: Option<fn(&RowKey) -> i64>) -> Recent {
        let name = TableName::new("public", "t");
        let pairs = vec![pair(name.clone())];
        let ledger = Ledger::new(&pairs, 1 << 20);
        ledger.restart(&[0]).finished();
        let column =
            RelationColumn { name: "id".into(), key: true, type_id: 23, type_modifier: -1 };
        let relation = Relation { id: 1, name, columns: vec![column], full_identity: false };
        for id in ["1", "2", "3"] {
            let mut new = TupleBuilder::new();
            new.push(Value::Text(id.as_bytes()));
            ledger.changed(Side::Blue, &relation, &Change::Insert { new: new.finish() });
        }
        Recent {
            pairs: Arc::new(pairs),
            ledger: Arc::new(ledger),
            blue: Arc::new(Rows(Some(|_| 0))),
            green: Arc::new(Rows(green)),
        }
    }

    #[tokio::test]
    async fn what_is_not_equal_at_a_glance_waits_on() {
        let recent = three(Some(|key| i64::from(key.0[0] == "2")));
        let step = recent.glance().await.unwrap();
        assert_eq!((step.count(), step.different.len(), recent.ledger.pending()), (2, 0, 1));
        // Behind the fence it is different.
        let step = recent.behind_fence().await.unwrap();
        assert_eq!((step.count(), step.different.len(), recent.ledger.pending()), (1, 1, 0));
    }

    /// Both sides look alike as long as nobody sees what was written.
    #[tokio::test]
    async fn what_cannot_be_seen_yet_waits_on() {
        let recent = three(Some(|_| 0));
        let relation = Relation {
            id: 1,
            name: TableName::new("public", "t"),
            columns: Default::default(),
            full_identity: false,
        };
        recent.ledger.foreign(Side::Green, 99, &relation);
        recent.ledger.foreign(Side::Green, 100, &relation);
        assert_eq!((recent.glance().await.unwrap().count(), recent.ledger.pending()), (0, 3));
        assert_eq!(recent.ledger.unseen(Side::Green), [100]);
        assert!(recent.behind_fence().await.unwrap_err().is_transient());
        assert_eq!(recent.ledger.pending(), 3);
        recent.ledger.seen(Side::Green, 100);
        assert_eq!((recent.glance().await.unwrap().count(), recent.ledger.pending()), (3, 0));
    }

    /// The pause budget ends a comparison at any place.
    #[tokio::test]
    async fn a_comparison_that_is_given_up_takes_no_key_with_it() {
        let recent = three(None);
        let soon = Duration::from_millis(5);
        tokio::time::timeout(soon, recent.glance()).await.unwrap_err();
        assert_eq!(recent.ledger.pending(), 3);
        tokio::time::timeout(soon, recent.behind_fence()).await.unwrap_err();
        assert_eq!(recent.ledger.pending(), 3);
    }
}

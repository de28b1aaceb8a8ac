//! Compares changed rows again, with "not yet equal" kept apart from "different".
//!
//! A key is taken out of the ledger before it is read, so a change that comes meanwhile puts it
//! back. A row that is unequal is only called different when the stream has caught up before and
//! after the read, everything committed was visible, and the ledger did not see it again: lag is
//! not divergence.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use cutover_core::{
    model::{
        digest::{RowDigest, RowKey},
        schema::Table,
    },
    port::{PortError, Result, reader::RowReader},
};

use futures_util::future::BoxFuture;

use super::{Difference, compare, ledger::Ledger};
use crate::transform::Pair;

/// Keys read in one round trip per side.
const KEYS: usize = 1000;

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
        let Some((pair, keys)) = self.ledger.take(KEYS) else { return Ok(None) };
        match self.look(pair, &keys, settle).await {
            Ok((different, read_in)) => Ok(Some(Step {
                different: different.into_iter().map(|d| (pair, d)).collect(),
                compared: vec![(pair, keys)],
                read_in,
            })),
            Err(e) => {
                self.ledger.put_back(pair, keys);
                Err(e)
            }
        }
    }

    /// Differences, and how long the first read took.
    async fn look(
        &self,
        pair: usize,
        keys: &[RowKey],
        settle: &dyn Settle,
    ) -> Result<(Vec<Difference>, Duration)> {
        let began = Instant::now();
        let first = self.read(pair, keys).await?;
        let read_in = began.elapsed();
        Ok((self.look_again(pair, first, settle).await?, read_in))
    }

    /// What is still different once the streams have caught up.
    async fn look_again(
        &self,
        pair: usize,
        first: Vec<Difference>,
        settle: &dyn Settle,
    ) -> Result<Vec<Difference>> {
        if first.is_empty() {
            return Ok(first);
        }
        settle.settle().await?;
        let unequal: Vec<RowKey> = first.into_iter().map(|d| d.key).collect();
        let second = self.read(pair, &unequal).await?;
        if second.is_empty() {
            return Ok(second);
        }
        settle.settle().await?;
        let unequal: Vec<RowKey> =
            second.into_iter().map(|d| d.key).filter(|key| !self.ledger.holds(pair, key)).collect();
        if unequal.is_empty() {
            return Ok(Vec::new());
        }
        if !settle.visible().await? {
            // Not known to be different: compared again later.
            self.ledger.put_back(pair, unequal);
            return Ok(Vec::new());
        }
        let third = self.read(pair, &unequal).await?;
        settle.settle().await?;
        Ok(third.into_iter().filter(|d| !self.ledger.holds(pair, &d.key)).collect())
    }

    /// Compares every waiting key. Only behind the fence, when everything is applied: what is
    /// unequal then is different.
    ///
    /// # Errors
    ///
    /// A read failed; all keys wait again.
    pub async fn behind_fence(&self) -> Result<Step> {
        let all = self.ledger.take_all();
        let mut step = Step::default();
        let mut failed: Option<PortError> = None;
        // All pairs at once: inside the pause round trips count.
        let mut reads: Vec<BoxFuture<'_, (usize, Result<Vec<Difference>>)>> = Vec::new();
        for (pair, keys) in &all {
            for keys in keys.chunks(KEYS) {
                reads.push(Box::pin(async move { (*pair, self.read(*pair, keys).await) }));
            }
        }
        for (pair, result) in futures_util::future::join_all(reads).await {
            match result {
                Ok(different) => step.different.extend(different.into_iter().map(|d| (pair, d))),
                Err(e) => failed = Some(e),
            }
        }
        match failed {
            None => {
                step.compared = all;
                Ok(step)
            }
            Some(e) => {
                all.into_iter().for_each(|(pair, keys)| self.ledger.put_back(pair, keys));
                Err(e)
            }
        }
    }

    async fn read(&self, pair: usize, keys: &[RowKey]) -> Result<Vec<Difference>> {
        let pair = &self.pairs[pair];
        let (blue, green) = tokio::try_join!(
            rows(&self.blue, &pair.blue, keys),
            rows(&self.green, &pair.green, keys)
        )?;
        Ok(compare::rows(&blue, &green))
    }
}

/// The rows with these keys on one side.
async fn rows(
    reader: &Arc<dyn RowReader>,
    tables: &[Table],
    keys: &[RowKey],
) -> Result<Vec<RowDigest>> {
    let mut rows = Vec::new();
    for table in tables {
        rows.extend(reader.key_digests(table, keys).await?);
    }
    Ok(rows)
}

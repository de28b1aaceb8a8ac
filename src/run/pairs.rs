//! What is asked about pairs as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use cutover_core::{
    model::{digest::Digest, schema::Table},
    port::{
        PortError, Result,
        copy::Range,
        reader::{Part, RowReader},
    },
};

use super::{ports::Ports, proof::Proof};
use crate::{lag::compared_within, transform::Pair};

/// Pairs up to this size are read whole behind any fence: a quarter of a second for clients, and
/// room for a log without a key that grows while the run is on.
pub(super) const WHOLE_BEHIND_FENCE: u64 = 16 << 20;

/// Up to which size a pair is read whole behind the fence of a switch, in bytes: half of the budget
/// of its pause is for that. The estimate of a pause contains it.
pub(super) fn whole_within(budget: Duration) -> u64 {
    compared_within(budget / 2).max(WHOLE_BEHIND_FENCE)
}

impl Proof {
    /// Looks how large tables are that can be proven by a full comparison only, now or once they
    /// change.
    ///
    /// # Errors
    ///
    /// A side does not say.
    pub async fn look_for_growth(&self) -> Result<()> {
        let keyless = (0..self.pairs.len()).filter(|i| !self.pairs[*i].keyed);
        let chosen: BTreeSet<usize> = self.ledger.whole().into_iter().chain(keyless).collect();
        let chosen: Vec<usize> = chosen.into_iter().collect();
        let sizes = sizes(&self.ports, &self.pairs, &chosen).await?;
        // What was known of others is old.
        self.lock().sizes = sizes;
        Ok(())
    }

    /// Looks for tables whose rows were written anew since the last look: not all that does so is
    /// in a change log, or shows in a definition. They have to be compared as a whole again.
    ///
    /// # Errors
    ///
    /// A side does not say.
    pub async fn look_for_rewrites(&self) -> Result<()> {
        let marks: [Option<String>; 2] = tokio::try_join!(
            self.ports.blue.reader.files_mark(),
            self.ports.green.reader.files_mark()
        )?
        .into();
        if marks.iter().all(Option::is_some) && marks == self.lock().file_marks {
            return Ok(());
        }
        let (blue, green) = tokio::try_join!(
            files(&self.ports.blue.reader, &self.pairs, |p| &p.blue),
            files(&self.ports.green.reader, &self.pairs, |p| &p.green)
        )?;
        let now: Vec<Option<[Vec<u64>; 2]>> =
            blue.into_iter().zip(green).map(|both| Some(both.into())).collect();
        // Held until the ledger knows: what is kept has both, or neither.
        let mut inner = self.lock();
        for (i, (before, now)) in inner.files.iter().zip(&now).enumerate() {
            if before.is_some() && before != now {
                tracing::info!(table = %self.pairs[i].name, "rows were written anew");
                self.ledger.rewritten(i);
            }
        }
        inner.files = now;
        inner.file_marks = marks;
        Ok(())
    }
}

/// How many bytes of each pair are read when all of it is, by now: a table grows while the run is
/// on. Of the two sides the larger one counts: they are read at the same time.
pub(super) async fn sizes(
    ports: &Ports,
    pairs: &[Pair],
    chosen: &[usize],
) -> Result<BTreeMap<usize, u64>> {
    let of = |side: fn(&Pair) -> &Vec<Table>| -> Vec<(usize, &Table)> {
        chosen.iter().flat_map(|i| side(&pairs[*i]).iter().map(move |t| (*i, t))).collect()
    };
    let ask = async |reader: &Arc<dyn RowReader>, tables: Vec<(usize, &Table)>| {
        let names: Vec<&Table> = tables.iter().map(|(_, table)| *table).collect();
        let sizes = if names.is_empty() { Vec::new() } else { reader.sizes(&names).await? };
        let mut all = BTreeMap::new();
        for ((i, _), bytes) in tables.iter().zip(sizes) {
            *all.entry(*i).or_default() += bytes;
        }
        Ok::<BTreeMap<usize, u64>, PortError>(all)
    };
    let (blue, green) = tokio::try_join!(
        ask(&ports.blue.reader, of(|p| &p.blue)),
        ask(&ports.green.reader, of(|p| &p.green))
    )?;
    let of = |side: &BTreeMap<usize, u64>, i: usize| side.get(&i).copied().unwrap_or(0);
    Ok(chosen.iter().map(|i| (*i, of(&blue, *i).max(of(&green, *i)))).collect())
}

/// Which files hold the rows of the pairs on one side.
pub(super) async fn files(
    reader: &Arc<dyn RowReader>,
    pairs: &[Pair],
    side: fn(&Pair) -> &Vec<Table>,
) -> Result<Vec<Vec<u64>>> {
    let tables: Vec<&Table> = pairs.iter().flat_map(side).collect();
    let mut all = reader.files(&tables).await?.into_iter();
    Ok(pairs.iter().map(|pair| all.by_ref().take(side(pair).len()).collect()).collect())
}

/// Digests of all rows of the pairs on one side.
pub(super) async fn sums(
    reader: &Arc<dyn RowReader>,
    pairs: &[&Pair],
    side: fn(&Pair) -> &Vec<Table>,
) -> Result<Vec<Digest>> {
    let range = Range { condition: String::new(), bytes: 0 };
    let tables: Vec<(usize, &Table)> = pairs
        .iter()
        .enumerate()
        .flat_map(|(i, pair)| side(pair).iter().map(move |table| (i, table)))
        .collect();
    let parts: Vec<Part<'_>> =
        tables.iter().map(|(_, table)| Part { table, range: &range, buckets: 1 }).collect();
    let mut sums = vec![Digest::default(); pairs.len()];
    for ((i, _), digests) in tables.iter().zip(reader.digests(&parts).await?) {
        digests.into_iter().for_each(|digest| sums[*i].add(digest));
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_budget_is_for_tables_without_a_key() {
        let mib = |budget| whole_within(Duration::from_millis(budget)) >> 20;
        assert_eq!([200, 1_000, 10_000].map(mib), [16, 31, 312]);
    }
}

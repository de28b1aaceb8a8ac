//! What is asked about pairs as a whole.

use std::sync::Arc;

use cutover_core::{
    model::{digest::Digest, schema::Table},
    port::{
        Result,
        copy::Range,
        reader::{Part, RowReader},
    },
};

use crate::transform::Pair;

/// Tables up to this size are read whole behind the fence.
const WHOLE_BEHIND_FENCE: u64 = 4 << 20;

/// Whether reading all of it would make clients wait for too long.
pub(super) fn is_large(pair: &Pair) -> bool {
    pair.blue.iter().chain(&pair.green).any(|t| t.bytes > WHOLE_BEHIND_FENCE)
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

//! Every row of every pair, at one position on both sides.
//!
//! The snapshots come from whoever can stop the stream at a position; this room only reads them.
//! Each side is read in ranges of its own, in parallel; digests of disjoint ranges add up, so the
//! two sides need not be cut alike.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use cutover_core::{
    model::{digest::Digest, position::Position, schema::Table, side::Side},
    port::{Result, copy::Snapshot},
};
use futures_util::{StreamExt, TryStreamExt, future::BoxFuture, stream};

use super::{PassReport, TableReport, Verdict, compare};
use crate::transform::Pair;

/// Bytes on disk of one range.
const RANGE_BYTES: u64 = 128 << 20;
/// Keys named per table; the count goes on. Past that a repair copies the table as a whole.
const NAMED: usize = 20_000;

/// Both sides as of one position.
#[derive(Clone)]
pub struct Aligned {
    /// The position.
    pub position: Position,
    /// Blue's rows.
    pub blue: Arc<dyn Snapshot>,
    /// Green's rows.
    pub green: Arc<dyn Snapshot>,
}

impl Aligned {
    fn side(&self, side: Side) -> &Arc<dyn Snapshot> {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }
}

/// Compares `pairs`. `workers` ranges are read at the same time; `seen` is told the rows of each
/// range as they are done.
///
/// # Errors
///
/// A read failed: nothing is proven.
pub async fn pass(
    aligned: &Aligned,
    pairs: &[Pair],
    workers: usize,
    seen: impl Fn(&Pair, Side, u64) + Send + Sync,
) -> Result<PassReport> {
    let started = Instant::now();
    let mut jobs = Vec::new();
    for (i, pair) in pairs.iter().enumerate() {
        let rows = |tables: &[Table]| tables.iter().filter_map(|t| t.estimated_rows).sum::<u64>();
        let buckets = compare::bucket_count(rows(&pair.blue).max(rows(&pair.green)));
        for (side, tables) in [(Side::Blue, &pair.blue), (Side::Green, &pair.green)] {
            for table in tables {
                for range in aligned.side(side).split(table, RANGE_BYTES).await? {
                    jobs.push((i, side, table, range, buckets));
                }
            }
        }
    }
    // The largest first, so that the end is not one worker with one large range.
    jobs.sort_by_key(|(_, _, _, range, _)| std::cmp::Reverse(range.bytes));

    type Sums = [Vec<Digest>; 2];
    let sums: Vec<Mutex<Sums>> = pairs.iter().map(|_| Mutex::default()).collect();
    let (sums_ref, seen) = (&sums, &seen);
    let mut reads: Vec<BoxFuture<'_, Result<()>>> = Vec::with_capacity(jobs.len());
    for (i, side, table, range, buckets) in jobs {
        reads.push(Box::pin(async move {
            let part = aligned.side(side).bucket_digests(table, &range, buckets).await?;
            seen(&pairs[i], side, part.iter().map(|d| d.rows).sum());
            let mut sums = sums_ref[i].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let total = &mut sums[index(side)];
            total.resize(buckets as usize, Digest::default());
            total.iter_mut().zip(part).for_each(|(t, p)| t.add(p));
            Ok(())
        }));
    }
    stream::iter(reads).buffer_unordered(workers.max(1)).try_collect::<()>().await?;

    let mut tables = Vec::with_capacity(pairs.len());
    for (pair, sums) in pairs.iter().zip(sums) {
        let sums = sums.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        tables.push(report(aligned, pair, &sums).await?);
    }
    let verdict = tables.iter().fold(Verdict::Equal, |v, t| v.and(t.verdict));
    Ok(PassReport {
        position: aligned.position.clone(),
        tables,
        took_ms: started.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
        verdict,
    })
}

fn index(side: Side) -> usize {
    usize::from(side == Side::Green)
}

/// Names the rows that differ where digests do.
async fn report(aligned: &Aligned, pair: &Pair, sums: &[Vec<Digest>; 2]) -> Result<TableReport> {
    let count = |side: Side| sums[index(side)].iter().map(|d| d.rows).sum();
    let wanted = compare::buckets(&sums[0], &sums[1]);
    let mut differences = Vec::new();
    let mut different = 0;
    if !wanted.is_empty() {
        let buckets = u32::try_from(sums[0].len().max(sums[1].len())).unwrap_or(u32::MAX);
        let (mut blue, mut green) = (Vec::new(), Vec::new());
        for table in &pair.blue {
            blue.extend(aligned.blue.bucket_rows(table, buckets, &wanted).await?);
        }
        for table in &pair.green {
            green.extend(aligned.green.bucket_rows(table, buckets, &wanted).await?);
        }
        differences = compare::rows(&blue, &green);
        different = differences.len() as u64;
        differences.truncate(NAMED);
    }
    Ok(TableReport {
        table: pair.name.clone(),
        blue_rows: count(Side::Blue),
        green_rows: count(Side::Green),
        different,
        differences,
        verdict: if wanted.is_empty() { Verdict::Equal } else { Verdict::Different },
    })
}

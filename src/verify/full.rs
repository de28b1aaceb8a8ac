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
    port::{
        Result,
        copy::{Range, Snapshot},
        reader::Part,
    },
};
use futures_util::{StreamExt, TryStreamExt, future::BoxFuture, stream};

use super::{PassReport, TableReport, Verdict, compare, reading::Reading};
use crate::transform::Pair;

/// Bytes on disk of one range.
const RANGE_BYTES: u64 = 128 << 20;
/// Tables whose sizes are asked for at once.
const MEASURED: usize = 1000;
/// So many small ranges, of so many bytes, are read by one request.
const TOGETHER: usize = 64;
const TOGETHER_BYTES: u64 = 8 << 20;
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
    /// The rows of the owner of the writes, and those of the other side.
    #[must_use]
    pub fn of(
        owner: Side,
        position: Position,
        mine: Arc<dyn Snapshot>,
        other: Arc<dyn Snapshot>,
    ) -> Self {
        let (blue, green) = match owner {
            Side::Blue => (mine, other),
            Side::Green => (other, mine),
        };
        Self { position, blue, green }
    }

    /// One of the two.
    pub(super) fn side(&self, side: Side) -> &Arc<dyn Snapshot> {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }
}

/// Compares `pairs`. `workers` ranges are read at the same time; `reading` is told of each.
///
/// # Errors
///
/// A read failed: nothing is proven.
pub async fn pass(
    aligned: &Aligned,
    pairs: &[Pair],
    workers: usize,
    reading: &Reading,
) -> Result<PassReport> {
    let started = Instant::now();
    let mut pieces = Vec::new();
    for side in [Side::Blue, Side::Green] {
        let tables: Vec<(usize, u32, &Table)> = pairs
            .iter()
            .enumerate()
            .flat_map(|(i, pair)| {
                let buckets = compare::bucket_count(rows(&pair.blue).max(rows(&pair.green)));
                pair.side(side).iter().map(move |table| (i, buckets, table))
            })
            .collect();
        for some in tables.chunks(MEASURED) {
            let names: Vec<&Table> = some.iter().map(|(_, _, table)| *table).collect();
            let ranges = aligned.side(side).split_all(&names, RANGE_BYTES).await?;
            for (&(pair, buckets, table), ranges) in some.iter().zip(ranges) {
                let piece = |range| Piece { pair, side, table, range, buckets };
                pieces.extend(ranges.into_iter().map(piece));
            }
        }
    }

    type Sums = [Vec<Digest>; 2];
    let sums: Vec<Mutex<Sums>> = pairs.iter().map(|_| Mutex::default()).collect();
    let sums_ref = &sums;
    reading.expect(pieces.iter().map(|piece| piece.range.bytes).sum());
    let mut reads: Vec<BoxFuture<'_, Result<()>>> = Vec::new();
    for batch in batches(pieces) {
        reads.push(Box::pin(async move {
            let side = batch[0].side;
            let parts: Vec<Part<'_>> = batch
                .iter()
                .map(|p| Part { table: p.table, range: &p.range, buckets: p.buckets })
                .collect();
            let digests = aligned.side(side).digests(&parts).await?;
            for (piece, part) in batch.iter().zip(digests) {
                reading.read(piece.range.bytes);
                let mut sums =
                    sums_ref[piece.pair].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let total = &mut sums[index(side)];
                total.resize(piece.buckets as usize, Digest::default());
                total.iter_mut().zip(part).for_each(|(t, p)| t.add(p));
            }
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

/// Rows of one table that are read at once.
struct Piece<'a> {
    pair: usize,
    side: Side,
    table: &'a Table,
    range: Range,
    buckets: u32,
}

/// What is asked for in one request: a large piece alone, small ones of a side together. The
/// largest come first, so that the end is not one worker with one large range.
fn batches(mut pieces: Vec<Piece<'_>>) -> Vec<Vec<Piece<'_>>> {
    pieces.sort_by_key(|p| (p.side, std::cmp::Reverse(p.range.bytes)));
    let mut batches: Vec<(u64, Vec<Piece<'_>>)> = Vec::new();
    for piece in pieces {
        match batches.last_mut() {
            Some((bytes, batch))
                if batch[0].side == piece.side
                    && batch.len() < TOGETHER
                    && *bytes + piece.range.bytes <= TOGETHER_BYTES =>
            {
                *bytes += piece.range.bytes;
                batch.push(piece);
            }
            _ => batches.push((piece.range.bytes, vec![piece])),
        }
    }
    batches.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    batches.into_iter().map(|(_, batch)| batch).collect()
}

fn rows(tables: &[Table]) -> u64 {
    tables.iter().filter_map(|t| t.estimated_rows).sum()
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

#[cfg(test)]
mod tests {
    use cutover_core::model::schema::{RowIdentity, TableName};

    use super::*;

    #[test]
    fn small_ranges_travel_together_and_large_ones_alone() {
        let table = Table {
            name: TableName::new("public", "t"),
            columns: Vec::new(),
            identity: RowIdentity::Nothing,
            primary_key: Vec::new(),
            root: None,
            estimated_rows: None,
            bytes: 0,
        };
        let piece = |side, bytes| Piece {
            pair: 0,
            side,
            table: &table,
            range: Range { condition: String::new(), bytes },
            buckets: 1,
        };
        let mut pieces = vec![piece(Side::Blue, RANGE_BYTES), piece(Side::Green, RANGE_BYTES)];
        pieces.extend((0..100).map(|_| piece(Side::Blue, 8192)));
        pieces.extend((0..3).map(|_| piece(Side::Green, TOGETHER_BYTES / 2)));
        let batches = batches(pieces);
        let lengths: Vec<usize> = batches.iter().map(Vec::len).collect();
        assert_eq!(lengths, [1, 1, 2, 1, 64, 36]);
        assert!(batches.iter().all(|b| b.iter().all(|p| p.side == b[0].side)));
    }
}

//! Every row of every pair, at one position on both sides.
//!
//! The snapshots come from whoever can stop the stream at a position; this room only reads them.
//! Each side is read in ranges of its own, in parallel; digests of disjoint ranges add up, so the
//! two sides need not be cut alike.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use cutover_core::{
    model::{digest::Digest, position::Position, schema::Table, side::Side},
    port::{
        PortError, Result,
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
pub const NAMED: usize = 20_000;
/// So many rows of both sides together are read to name those that differ.
const READ: u64 = 1_000_000;
/// So many buckets are in hand for one request.
const TOGETHER_BUCKETS: u32 = 1 << 17;

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

/// Compares `pairs`. `workers` ranges are read at the same time; `reading` is told of each, and `done`
/// of each pair when its last row was read.
///
/// # Errors
///
/// A read failed: nothing is proven of the pairs that are not done.
pub async fn pass(
    aligned: &Aligned,
    pairs: &[Pair],
    workers: usize,
    reading: &Reading,
    done: &(dyn Fn(usize, &TableReport) + Sync),
) -> Result<PassReport> {
    let started = Instant::now();
    let pieces = cut(aligned, pairs).await?;
    reading.expect(pieces.iter().map(|piece| piece.range.bytes).sum());
    let tallies: Vec<Mutex<Tally>> = pairs.iter().map(|_| Mutex::default()).collect();
    let tally = |i: usize| tallies[i].lock().unwrap_or_else(PoisonError::into_inner);
    // One table at a time: so many rows take room.
    let naming = tokio::sync::Mutex::new(());
    pieces.iter().for_each(|piece| tally(piece.pair).left += 1);
    let end = async |i: usize| {
        let sums = std::mem::take(&mut tally(i).sums);
        let report = report(aligned, &pairs[i], &sums, &naming).await?;
        done(i, &report);
        tally(i).report = Some(report);
        Ok::<(), PortError>(())
    };
    let (end, tally) = (&end, &tally);
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
                if tally(piece.pair).add(piece, part) {
                    end(piece.pair).await?;
                }
            }
            Ok(())
        }));
    }
    stream::iter(reads).buffer_unordered(workers.max(1)).try_collect::<()>().await?;

    let mut tables = Vec::with_capacity(pairs.len());
    for i in 0..pairs.len() {
        // Of tables without a page nothing was read.
        if tally(i).report.is_none() {
            end(i).await?;
        }
        tables.extend(tally(i).report.take());
    }
    let verdict = tables.iter().fold(Verdict::Equal, |v, t| v.and(t.verdict));
    Ok(PassReport {
        position: aligned.position.clone(),
        tables,
        took_ms: started.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
        verdict,
    })
}

/// What is known of a pair so far.
#[derive(Default)]
struct Tally {
    /// Pieces that were not read yet.
    left: usize,
    sums: [Vec<Digest>; 2],
    report: Option<TableReport>,
}

impl Tally {
    /// Adds what a piece holds; whether it was the last one.
    fn add(&mut self, piece: &Piece<'_>, part: Vec<Digest>) -> bool {
        let total = &mut self.sums[piece.side.index()];
        total.resize(piece.buckets as usize, Digest::default());
        total.iter_mut().zip(part).for_each(|(t, p)| t.add(p));
        self.left -= 1;
        self.left == 0
    }
}

/// All there is to read, table by table.
async fn cut<'a>(aligned: &Aligned, pairs: &'a [Pair]) -> Result<Vec<Piece<'a>>> {
    let mut pieces = Vec::new();
    for side in [Side::Blue, Side::Green] {
        let of = |(i, pair): (usize, &'a Pair)| pair.side(side).iter().map(move |t| (i, t));
        let tables: Vec<(usize, &Table)> = pairs.iter().enumerate().flat_map(of).collect();
        for some in tables.chunks(MEASURED) {
            let names: Vec<&Table> = some.iter().map(|(_, table)| *table).collect();
            let ranges = aligned.side(side).split_all(&names, RANGE_BYTES).await?;
            for (&(pair, table), ranges) in some.iter().zip(ranges) {
                let piece = |range| Piece { pair, side, table, range, buckets: 1 };
                pieces.extend(ranges.into_iter().map(piece));
            }
        }
    }
    // The same number on both sides, also of tables that nobody has analyzed.
    let mut bytes = vec![[0; 2]; pairs.len()];
    pieces.iter().for_each(|piece| bytes[piece.pair][piece.side.index()] += piece.range.bytes);
    let counts: Vec<u32> = pairs
        .iter()
        .zip(bytes)
        .map(|(pair, [blue, green])| {
            let estimated = rows(&pair.blue).max(rows(&pair.green));
            compare::bucket_count(estimated.max(blue.max(green) / compare::ROW_BYTES))
        })
        .collect();
    pieces.iter_mut().for_each(|piece| piece.buckets = counts[piece.pair]);
    Ok(pieces)
}

/// Rows of one table that are read at once.
struct Piece<'a> {
    pair: usize,
    side: Side,
    table: &'a Table,
    range: Range,
    buckets: u32,
}

/// What is asked for in one request: a large piece alone, small ones of a side together. The large
/// ones come first, so that the end is not one worker with one large range; those of a pair one after
/// the other, by turns from both sides, so that it is soon done.
fn batches(pieces: Vec<Piece<'_>>) -> Vec<Vec<Piece<'_>>> {
    let (large, mut small): (Vec<Piece<'_>>, Vec<Piece<'_>>) =
        pieces.into_iter().partition(|piece| piece.range.bytes > TOGETHER_BYTES);
    let mut counts: HashMap<(usize, Side), usize> = HashMap::new();
    let mut numbered: Vec<(usize, usize, Piece<'_>)> = large
        .into_iter()
        .map(|piece| {
            let count = counts.entry((piece.pair, piece.side)).or_default();
            *count += 1;
            (piece.pair, *count, piece)
        })
        .collect();
    let most = |pair: usize| {
        [Side::Blue, Side::Green].into_iter().filter_map(|side| counts.get(&(pair, side))).max()
    };
    numbered.sort_by_key(|(pair, number, piece)| {
        (std::cmp::Reverse(most(*pair)), *pair, *number, piece.side)
    });
    let alone = numbered.into_iter().map(|(_, _, piece)| vec![piece]);

    small.sort_by_key(|p| (p.side, std::cmp::Reverse(p.range.bytes)));
    let buckets = |batch: &[Piece<'_>]| batch.iter().map(|p| p.buckets).sum::<u32>();
    let mut batches: Vec<(u64, Vec<Piece<'_>>)> = Vec::new();
    for piece in small {
        match batches.last_mut() {
            Some((bytes, batch))
                if batch[0].side == piece.side
                    && batch.len() < TOGETHER
                    && *bytes + piece.range.bytes <= TOGETHER_BYTES
                    && buckets(batch) + piece.buckets <= TOGETHER_BUCKETS =>
            {
                *bytes += piece.range.bytes;
                batch.push(piece);
            }
            _ => batches.push((piece.range.bytes, vec![piece])),
        }
    }
    batches.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    alone.chain(batches.into_iter().map(|(_, batch)| batch)).collect()
}

fn rows(tables: &[Table]) -> u64 {
    tables.iter().filter_map(|t| t.estimated_rows).sum()
}

/// Names the rows that differ where digests do. Of a table that was emptied since, the two sides may
/// have been read before and after that.
async fn report(
    aligned: &Aligned,
    pair: &Pair,
    sums: &[Vec<Digest>; 2],
    naming: &tokio::sync::Mutex<()>,
) -> Result<TableReport> {
    let count = |side: Side| sums[side.index()].iter().map(|d| d.rows).sum();
    let wanted = compare::buckets(&sums[0], &sums[1]);
    let mut report = TableReport {
        table: pair.name.clone(),
        blue_rows: count(Side::Blue),
        green_rows: count(Side::Green),
        different: 0,
        differences: Vec::new(),
        verdict: Verdict::Equal,
    };
    if wanted.is_empty() {
        return Ok(report);
    }
    let (read, unread) = compare::affordable(&sums[0], &sums[1], wanted, READ);
    if !read.is_empty() {
        let _alone = naming.lock().await;
        let buckets = u32::try_from(sums[0].len().max(sums[1].len())).unwrap_or(u32::MAX);
        let (mut blue, mut green) = (Vec::new(), Vec::new());
        for table in &pair.blue {
            blue.extend(aligned.blue.bucket_rows(table, buckets, &read).await?);
        }
        for table in &pair.green {
            green.extend(aligned.green.bucket_rows(table, buckets, &read).await?);
        }
        report.differences = compare::rows(&blue, &green);
    }
    report.different = report.differences.len() as u64 + unread;
    report.differences.truncate(NAMED);
    report.verdict = Verdict::Different;
    // Behind the last read: what is emptied later was read as it was.
    let why = match is_emptied(aligned, pair).await? {
        true => "it was emptied while it was compared",
        // Else it would be taken for a table whose differences are all known, and mended.
        false if report.different == 0 => "its sums differ, and none of its rows",
        false => return Ok(report),
    };
    tracing::info!(table = %pair.name, "{why}");
    let (different, differences) = (0, Vec::new());
    Ok(TableReport { different, differences, verdict: Verdict::Inconclusive, ..report })
}

/// Whether a table of the pair was emptied since the position, on either side: not even a view of
/// then shows its rows.
async fn is_emptied(aligned: &Aligned, pair: &Pair) -> Result<bool> {
    for side in [Side::Blue, Side::Green] {
        let tables: Vec<&Table> = pair.side(side).iter().collect();
        if aligned.side(side).emptied(&tables).await?.contains(&true) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use async_trait::async_trait;
    use cutover_core::{
        model::{
            digest::{RowDigest, RowKey},
            schema::TableName,
        },
        port::{
            copy::{CopyFormat, Opened},
            reader::{Lookup, RowReader},
        },
    };

    use super::*;
    use crate::verify::{ledger::tests::pair, reading::Readings};

    /// Each table has two large ranges of one row; table `empty` has none, and table `locked` never
    /// answers.
    struct Rows(i64);

    #[async_trait]
    impl RowReader for Rows {
        async fn digests_of(&self, parts: &[Part<'_>]) -> Result<Vec<Vec<Digest>>> {
            if parts.iter().any(|part| part.table.name.name == "locked") {
                return pending().await;
            }
            let odd =
                |part: &Part<'_>| i128::from(part.table.name.name == "odd") * i128::from(self.0);
            let digests = |part: &Part<'_>| {
                let mut all = vec![Digest::default(); part.buckets as usize];
                all[0] = Digest { rows: 1, sum: odd(part) };
                all
            };
            Ok(parts.iter().map(digests).collect())
        }

        async fn bucket_rows(&self, t: &Table, _: u32, wanted: &[u32]) -> Result<Vec<RowDigest>> {
            let hash = if t.name.name == "even" { 0 } else { self.0 };
            let row = |n: &u32| RowDigest { key: RowKey(vec![n.to_string()]), hash };
            Ok(wanted.iter().map(row).collect())
        }

        async fn rows_of(&self, _: &[Lookup<'_>]) -> Result<Vec<Vec<RowDigest>>> {
            unreachable!("nobody asks")
        }
    }

    #[async_trait]
    impl Snapshot for Rows {
        fn visible(&self) -> &str {
            ""
        }

        async fn ranges_of(&self, tables: &[&Table], bytes: u64) -> Result<Vec<Vec<Range>>> {
            let range = || Range { condition: String::new(), bytes };
            let of = |table: &&Table| match &*table.name.name {
                "empty" => Vec::new(),
                _ => vec![range(), range()],
            };
            Ok(tables.iter().map(of).collect())
        }

        async fn keys_range(&self, _: &Table, _: &[RowKey]) -> Result<Range> {
            unreachable!("nobody asks")
        }

        async fn read(&self, _: &Table, _: &Range, _: CopyFormat) -> Result<Opened> {
            unreachable!("nobody asks")
        }
    }

    fn aligned() -> Aligned {
        let position = Position::Postgres { timeline: 1, lsn: 9 };
        Aligned::of(Side::Blue, position, Arc::new(Rows(1)), Arc::new(Rows(2)))
    }

    fn pairs(names: &[&str]) -> Vec<Pair> {
        names.iter().map(|name| pair(TableName::new("public", *name))).collect()
    }

    #[tokio::test]
    async fn each_pair_is_done_once() {
        let pairs = pairs(&["empty", "odd", "even"]);
        let told = Mutex::new(Vec::new());
        let done = |n: usize, report: &TableReport| {
            told.lock().unwrap().push((n, report.blue_rows, report.different));
        };
        let reading = Readings::default().begin();
        let report = pass(&aligned(), &pairs, 3, &reading, &done).await.unwrap();
        assert_eq!((report.rows(), report.different()), (4, 1));
        assert_eq!(report.verdict, Verdict::Different);
        let order: Vec<&TableName> = report.tables.iter().map(|t| &t.table).collect();
        assert_eq!(order, pairs.iter().map(|p| &p.name).collect::<Vec<_>>());
        let mut told = told.into_inner().unwrap();
        told.sort_unstable();
        assert_eq!(told, [(0, 0, 0), (1, 2, 1), (2, 2, 0)]);
    }

    #[tokio::test]
    async fn rows_are_named_as_far_as_they_can_be_read() {
        let named = async |table: &str, blue: &[u64], green: &[u64]| {
            let sums = [(blue, 1), (green, 2)]
                .map(|(side, sum)| side.iter().map(|&rows| Digest { rows, sum }).collect());
            let naming = tokio::sync::Mutex::default();
            let report = report(&aligned(), &pairs(&[table])[0], &sums, &naming).await.unwrap();
            let keys: Vec<String> =
                report.differences.iter().map(|d| d.key.0[0].to_string()).collect();
            (keys.join(" "), report.different, report.verdict)
        };
        let of = |keys: &str, different, verdict| (keys.to_owned(), different, verdict);
        // A large one counts for what it has more, or for one row.
        let (small, large) = (10, 2_000_000);
        let found = named("t", &[small, large, small], &[small, large, small]).await;
        assert_eq!(found, of("0 2", 3, Verdict::Different));
        let found = named("t", &[small, large, small], &[small, large - 5, small]).await;
        assert_eq!(found, of("0 2", 7, Verdict::Different));
        assert_eq!(named("t", &[large], &[large]).await, of("", 1, Verdict::Different));
        // Each can be read, not all of them.
        let half = READ / 5;
        let found = named("t", &[half, half, half], &[half, half, half]).await;
        assert_eq!(found, of("0 1", 3, Verdict::Different));
        let found = named("even", &[small], &[small]).await;
        assert_eq!(found, of("", 0, Verdict::Inconclusive), "no row differs");
    }

    /// Nobody has analyzed the table, and it is large.
    #[tokio::test]
    async fn tables_have_buckets_for_their_size() {
        let mut pairs = pairs(&["t"]);
        pairs[0].blue[0].estimated_rows = None;
        pairs[0].green[0].estimated_rows = None;
        let pieces = cut(&aligned(), &pairs).await.unwrap();
        let counts: Vec<u32> = pieces.iter().map(|piece| piece.buckets).collect();
        // Two ranges of 128 MiB on each side.
        assert_eq!(counts, [2048; 4]);
    }

    /// Hours of reading are not for nothing because the last table could not be read.
    #[tokio::test]
    async fn what_is_done_before_a_pass_is_given_up_is_known() {
        let pairs = pairs(&["odd", "even", "locked"]);
        let told = Mutex::new(Vec::new());
        let done = |n: usize, _: &TableReport| told.lock().unwrap().push(n);
        let (aligned, reading) = (aligned(), Readings::default().begin());
        let pass = pass(&aligned, &pairs, 1, &reading, &done);
        tokio::time::timeout(Duration::from_millis(50), pass).await.unwrap_err();
        assert_eq!(*told.lock().unwrap(), [0, 1]);
    }

    #[test]
    fn small_ranges_travel_together_and_large_ones_alone() {
        let table = pairs(&["t"]).remove(0).blue.remove(0);
        let of = |pair, side, bytes| Piece {
            pair,
            side,
            table: &table,
            range: Range { condition: String::new(), bytes },
            buckets: 1,
        };
        let piece = |side, bytes| of(0, side, bytes);
        let mut pieces = vec![piece(Side::Blue, RANGE_BYTES), piece(Side::Green, RANGE_BYTES)];
        pieces.extend((0..100).map(|_| piece(Side::Blue, 8192)));
        pieces.extend((0..3).map(|_| piece(Side::Green, TOGETHER_BYTES / 2)));
        let batches = batches(pieces);
        let lengths: Vec<usize> = batches.iter().map(Vec::len).collect();
        assert_eq!(lengths, [1, 1, 2, 1, 64, 36]);
        assert!(batches.iter().all(|b| b.iter().all(|p| p.side == b[0].side)));
        // The pair with the most to read comes first, and both sides of it by turns.
        let mut pieces = vec![of(0, Side::Blue, RANGE_BYTES)];
        for side in [Side::Blue, Side::Green] {
            pieces.extend((0..2).map(|_| of(1, side, RANGE_BYTES)));
        }
        let order: Vec<(usize, Side)> =
            super::batches(pieces).iter().map(|b| (b[0].pair, b[0].side)).collect();
        let both = [(1, Side::Blue), (1, Side::Green)];
        assert_eq!(order, [&both[..], &both[..], &[(0, Side::Blue)]].concat());
    }
}

//! Tables without a key that only grow: what has come since a full comparison is at their ends.
//!
//! A [`Mark`] remembers, as of a comparison that found a pair equal, what was at the end of its
//! tables, on each side. Later the ends are read again, and nothing else. The pair is equal if both
//! have gained the same, as many rows as the stream brought, and the stream brought nothing but
//! rows: then none of them went elsewhere, and no other has changed. Rows that found free space
//! further up are missed at the end, which leaves the pair unproven, never equal.

use std::sync::Arc;

use cutover_core::{
    model::{digest::Digest, event::Change, schema::Table, side::Side},
    port::{
        Result,
        copy::Range,
        reader::{Part, RowReader},
    },
};

use super::{Verdict, full::Aligned};
use crate::transform::Pair;

/// The ends of the tables of a pair on one side.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ends {
    /// Of each table, in the order of the pair.
    ranges: Vec<Range>,
    /// What was in them.
    held: Digest,
}

/// The ends of a pair's tables when all of its rows were equal.
#[derive(Debug, PartialEq, Eq)]
pub struct Mark {
    blue: Ends,
    green: Ends,
}

/// What a pair has gained since a place in the stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Growth {
    /// Rows that were inserted.
    pub rows: u64,
    /// What they measured in the stream, in bytes.
    pub bytes: u64,
    /// Anything else happened, or may have.
    pub otherwise: bool,
}

impl Growth {
    /// Nobody knows what happened.
    pub const UNKNOWN: Self = Self { rows: 0, bytes: 0, otherwise: true };

    /// What a change of one row is. `foreign`: it came where nobody may write.
    #[must_use]
    pub fn of(change: &Change, foreign: bool) -> Self {
        match change {
            Change::Insert { .. } if !foreign => {
                Self { rows: 1, bytes: change.bytes() as u64, otherwise: false }
            }
            _ => Self::UNKNOWN,
        }
    }

    /// And this as well.
    pub fn add(&mut self, more: Self) {
        self.rows += more.rows;
        self.bytes += more.bytes;
        self.otherwise |= more.otherwise;
    }
}

/// A pair that has only grown since a mark.
#[derive(Debug, Clone)]
pub struct Grown {
    /// The mark.
    pub mark: Arc<Mark>,
    /// What came since.
    pub growth: Growth,
}

/// The marks of one pair: of comparisons that are under way, and of the newest that has finished.
#[derive(Debug, Default)]
pub(super) struct Marks {
    begun: u64,
    all: Vec<Since>,
}

#[derive(Debug)]
struct Since {
    number: u64,
    growth: Growth,
    /// `None` while its comparison is under way.
    mark: Option<Arc<Mark>>,
}

impl Marks {
    /// A comparison begins at the place where the stream stands.
    pub(super) fn begin(&mut self) -> u64 {
        self.begun += 1;
        let number = self.begun;
        self.all.push(Since { number, growth: Growth::default(), mark: None });
        number
    }

    /// The comparison that began with this number has come to its end. Without a mark nothing is
    /// known of the pair any more than what a later one found.
    pub(super) fn finish(&mut self, number: u64, mark: Option<Arc<Mark>>) {
        self.all.retain(|since| since.mark.is_none() || since.number > number);
        let later = self.all.iter().any(|since| since.mark.is_some());
        match mark {
            Some(mark) if !later => {
                self.all
                    .iter_mut()
                    .filter(|since| since.number == number)
                    .for_each(|since| since.mark = Some(Arc::clone(&mark)));
            }
            _ => self.give_up(number),
        }
    }

    /// The comparison that began with this number came to no end.
    pub(super) fn give_up(&mut self, number: u64) {
        self.all.retain(|since| since.number != number);
    }

    /// Something happened to the pair.
    pub(super) fn note(&mut self, growth: Growth) {
        self.all.iter_mut().for_each(|since| since.growth.add(growth));
    }

    /// The newest mark, if the pair has only grown since.
    pub(super) fn grown(&self) -> Option<Grown> {
        let newest = self.all.iter().find(|since| since.mark.is_some())?;
        let mark = Arc::clone(newest.mark.as_ref()?);
        (!newest.growth.otherwise).then_some(Grown { mark, growth: newest.growth })
    }
}

/// Marks of all pairs without a key as of a position; `None` for others, and where a side cannot
/// say where its tables end. Soon after the position: rows that come in the meantime belong to the
/// end.
///
/// # Errors
///
/// A read failed.
pub async fn marks(aligned: &Aligned, pairs: &[Pair]) -> Result<Vec<Option<Mark>>> {
    let keyless: Vec<&Pair> = pairs.iter().filter(|pair| !pair.keyed).collect();
    if keyless.is_empty() {
        return Ok(pairs.iter().map(|_| None).collect());
    }
    let (blue, green) = tokio::try_join!(
        ends(aligned, Side::Blue, &keyless),
        ends(aligned, Side::Green, &keyless)
    )?;
    let mut both = blue.into_iter().zip(green);
    Ok(pairs
        .iter()
        .map(|pair| {
            let (blue, green) = if pair.keyed { None } else { both.next() }?;
            Some(Mark { blue: blue?, green: green? })
        })
        .collect())
}

async fn ends(aligned: &Aligned, side: Side, pairs: &[&Pair]) -> Result<Vec<Option<Ends>>> {
    let snapshot = aligned.side(side);
    let tables: Vec<&Table> = pairs.iter().flat_map(|pair| pair.side(side)).collect();
    let mut ranges = snapshot.ends(&tables).await?.into_iter();
    let ranges: Vec<Option<Vec<Range>>> = pairs
        .iter()
        .map(|pair| {
            // All of them are taken, also where one is not known.
            let all: Vec<_> = ranges.by_ref().take(pair.side(side).len()).collect();
            all.into_iter().collect()
        })
        .collect();
    let known: Vec<(&[Table], &[Range])> = pairs
        .iter()
        .zip(&ranges)
        .filter_map(|(pair, ranges)| Some((pair.side(side), ranges.as_deref()?)))
        .collect();
    let mut held = digests(&**snapshot, &known).await?.into_iter();
    let mut ends = |ranges| Some(Ends { ranges, held: held.next()? });
    Ok(ranges.into_iter().map(|ranges| ranges.and_then(&mut ends)).collect())
}

/// What is in these ranges of these tables, together.
async fn digests(
    reader: &(impl RowReader + ?Sized),
    wanted: &[(&[Table], &[Range])],
) -> Result<Vec<Digest>> {
    let parts: Vec<Part<'_>> = wanted
        .iter()
        .flat_map(|(tables, ranges)| tables.iter().zip(*ranges))
        .map(|(table, range)| Part { table, range, buckets: 1 })
        .collect();
    let mut read = reader.digests(&parts).await?.into_iter();
    let mut all = Vec::with_capacity(wanted.len());
    for (tables, _) in wanted {
        let mut sum = Digest::default();
        read.by_ref().take(tables.len()).flatten().for_each(|digest| sum.add(digest));
        all.push(sum);
    }
    Ok(all)
}

/// What the ends of pairs hold that they did not hold at their marks: on blue, on green.
///
/// # Errors
///
/// A read failed.
pub async fn gains(
    blue: &(impl RowReader + ?Sized),
    green: &(impl RowReader + ?Sized),
    pairs: &[(&Pair, &Grown)],
) -> Result<Vec<[Gain; 2]>> {
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let of = |side: Side| -> Vec<(&[Table], &[Range])> {
        pairs
            .iter()
            .map(|(pair, grown)| (pair.side(side), &grown.mark.side(side).ranges[..]))
            .collect()
    };
    let (on_blue, on_green) = (of(Side::Blue), of(Side::Green));
    let (blue, green) = tokio::try_join!(digests(blue, &on_blue), digests(green, &on_green))?;
    Ok(pairs
        .iter()
        .zip(blue.into_iter().zip(green))
        .map(|((_, grown), (blue, green))| {
            let since = |side, now| Gain::between(grown.mark.side(side).held, now);
            [since(Side::Blue, blue), since(Side::Green, green)]
        })
        .collect())
}

/// What the ends of a pair's tables hold more than before, on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gain {
    rows: i128,
    sum: i128,
}

impl Gain {
    fn between(before: Digest, now: Digest) -> Self {
        Self { rows: i128::from(now.rows) - i128::from(before.rows), sum: now.sum - before.sum }
    }

    /// Whether at least so many rows are there.
    #[must_use]
    pub fn reaches(self, rows: u64) -> bool {
        self.rows >= i128::from(rows)
    }
}

/// What is proven of a pair whose tables gained this while the stream brought `growth`, as of one
/// position on both sides.
#[must_use]
pub fn verdict([blue, green]: [Gain; 2], growth: Growth) -> Verdict {
    let all = i128::from(growth.rows);
    if growth.otherwise || blue.rows != all || green.rows != all {
        return Verdict::Inconclusive;
    }
    // No row is anywhere else, and these are not the same.
    if blue.sum == green.sum { Verdict::Equal } else { Verdict::Different }
}

impl Mark {
    fn side(&self, side: Side) -> &Ends {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }
}

#[cfg(test)]
mod tests {
    use cutover_core::model::value::{TupleBuilder, Value};

    use super::*;

    impl Mark {
        /// Of no table.
        pub(in crate::verify) fn empty() -> Self {
            let ends = Ends { ranges: Vec::new(), held: Digest::default() };
            Self { blue: ends.clone(), green: ends }
        }
    }

    fn mark(rows: u64) -> Arc<Mark> {
        let ends = Ends { ranges: Vec::new(), held: Digest { rows, sum: 0 } };
        Arc::new(Mark { blue: ends.clone(), green: ends })
    }

    fn rows(rows: u64) -> Growth {
        Growth { rows, bytes: 0, otherwise: false }
    }

    /// The mark by its rows, and how many came since.
    fn newest(marks: &Marks) -> Option<(u64, u64)> {
        marks.grown().map(|g| (g.mark.blue.held.rows, g.growth.rows))
    }

    #[test]
    fn only_a_client_that_inserts_lets_a_table_grow() {
        let tuple = |text: &[u8]| {
            let mut b = TupleBuilder::new();
            b.push(Value::Text(text));
            b.finish()
        };
        let insert = Change::Insert { new: tuple(b"x") };
        let grown = Growth::of(&insert, false);
        assert_eq!((grown.rows, grown.otherwise), (1, false));
        assert!(grown.bytes > 0);
        assert!(Growth::of(&insert, true).otherwise, "written behind our back");
        let update = Change::Update { old: None, new: tuple(b"x") };
        for change in [update, Change::Delete { old: tuple(b"x") }] {
            assert!(Growth::of(&change, false).otherwise);
        }
    }

    #[test]
    fn a_mark_counts_what_comes_from_the_place_where_its_comparison_began() {
        let mut marks = Marks::default();
        marks.note(rows(5));
        let first = marks.begin();
        marks.note(rows(1));
        assert_eq!(newest(&marks), None, "nothing is known before it has finished");
        marks.finish(first, Some(mark(10)));
        assert_eq!(newest(&marks), Some((10, 1)));
        // Until the next one has finished, the first one holds.
        let second = marks.begin();
        marks.note(rows(2));
        assert_eq!(newest(&marks), Some((10, 3)));
        marks.finish(second, Some(mark(11)));
        assert_eq!(newest(&marks), Some((11, 2)));
        // One that comes to no end changes nothing; one that finds a difference leaves nothing.
        let third = marks.begin();
        marks.give_up(third);
        assert_eq!(newest(&marks), Some((11, 2)));
        let fourth = marks.begin();
        marks.finish(fourth, None);
        assert_eq!(newest(&marks), None);
        assert!(marks.all.is_empty());
    }

    #[test]
    fn what_began_last_is_kept_in_whatever_order_comparisons_finish() {
        let mut marks = Marks::default();
        let (first, second) = (marks.begin(), marks.begin());
        marks.note(rows(1));
        marks.finish(second, Some(mark(2)));
        marks.finish(first, Some(mark(1)));
        assert_eq!(newest(&marks), Some((2, 1)));
        let (third, fourth) = (marks.begin(), marks.begin());
        marks.finish(third, Some(mark(3)));
        marks.finish(fourth, Some(mark(4)));
        assert_eq!(newest(&marks), Some((4, 0)));
        assert_eq!(marks.all.len(), 1);
    }

    #[test]
    fn anything_but_an_insert_spoils_every_mark() {
        let mut marks = Marks::default();
        let first = marks.begin();
        marks.finish(first, Some(mark(1)));
        let second = marks.begin();
        marks.note(Growth::UNKNOWN);
        marks.note(rows(3));
        assert_eq!(newest(&marks), None);
        marks.finish(second, Some(mark(2)));
        assert_eq!(newest(&marks), None, "it came after its position as well");
        let third = marks.begin();
        marks.finish(third, Some(mark(3)));
        assert_eq!(newest(&marks), Some((3, 0)));
    }

    #[test]
    fn equal_is_what_has_gained_the_same_and_all_of_it() {
        let gain = |rows, sum| Gain { rows, sum };
        let of = |blue, green, count| verdict([blue, green], rows(count));
        assert_eq!(of(gain(3, 7), gain(3, 7), 3), Verdict::Equal);
        assert_eq!(of(gain(0, 0), gain(0, 0), 0), Verdict::Equal);
        assert_eq!(of(gain(3, 7), gain(3, 8), 3), Verdict::Different);
        // One went elsewhere, or is missing, or nobody knows: also where both ends are the same.
        for (blue, green) in [
            (gain(2, 7), gain(2, 7)),
            (gain(3, 7), gain(2, 7)),
            (gain(2, 7), gain(3, 7)),
            (gain(4, 7), gain(4, 7)),
            (gain(-3, 7), gain(3, 7)),
        ] {
            assert_eq!(of(blue, green, 3), Verdict::Inconclusive);
        }
        let unknown = Growth { rows: 3, ..Growth::UNKNOWN };
        assert_eq!(verdict([gain(3, 7), gain(3, 7)], unknown), Verdict::Inconclusive);
        assert!(gain(3, 0).reaches(3) && !gain(3, 0).reaches(4) && !gain(-1, 0).reaches(0));
        let (before, now) = (Digest { rows: 5, sum: -9 }, Digest { rows: 4, sum: 3 });
        assert_eq!(Gain::between(before, now), gain(-1, 12));
    }
}

//! Tables without a key that only grow: what has come since a full comparison is at their ends.
//!
//! A [`Mark`] remembers, as of a comparison that found a pair equal, what was at the end of its
//! tables, on each side. Later the ends are read again, and nothing else. The pair is equal if both
//! have gained the same, as many rows as the stream brought, and the stream brought nothing but
//! rows: then none of them went elsewhere, and no other has changed. Rows that found free space
//! further up are missed at the end, which leaves the pair unproven, never equal. From then on its
//! marks also know what came anywhere: reading that looks at every row, which is too long for a
//! pause and much less than comparing all, and a new mark follows from it.

use std::sync::Arc;

use cutover_core::{
    model::{digest::Digest, event::Change, schema::Table, side::Side},
    port::{
        Result,
        copy::Coming,
        reader::{Part, RowReader},
    },
};

use serde::{Deserialize, Serialize};

use super::{Verdict, full::Aligned};
use crate::transform::Pair;

/// Where to look for what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At the ends of the tables.
    End,
    /// Wherever there was room.
    Anywhere,
}

/// Where rows come to in the tables of a pair on one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ends {
    /// Of each table, in the order of the pair.
    coming: Vec<Coming>,
    /// What was at the ends.
    held: Digest,
    /// What was in any place; not known of every mark.
    anywhere: Option<Digest>,
}

impl Ends {
    fn held(&self, place: Place) -> Option<Digest> {
        match place {
            Place::End => Some(self.held),
            Place::Anywhere => self.anywhere,
        }
    }
}

/// The ends of a pair's tables when all of its rows were equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    blue: Ends,
    green: Ends,
}

/// What a pair has gained since a place in the stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Some of it is known to have come elsewhere than at the ends.
    pub elsewhere: bool,
}

/// The marks of one pair: of comparisons that are under way, and of the newest that has finished.
#[derive(Debug, Default)]
pub(super) struct Marks {
    begun: u64,
    all: Vec<Since>,
    scattered: bool,
}

#[derive(Debug)]
struct Since {
    number: u64,
    growth: Growth,
    elsewhere: bool,
    /// `None` while its comparison is under way.
    mark: Option<Arc<Mark>>,
    /// An earlier process left it, and nobody knows yet from where on the streams tell what came.
    unsure: bool,
}

/// What a process leaves of the newest mark of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    mark: Mark,
    growth: Growth,
    scattered: bool,
}

impl Marks {
    /// A comparison begins at the place where the stream stands.
    pub(super) fn begin(&mut self) -> u64 {
        self.begun += 1;
        let number = self.begun;
        self.all.push(Since {
            number,
            growth: Growth::default(),
            elsewhere: false,
            mark: None,
            unsure: false,
        });
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
        let newest = self.all.iter().find(|since| since.mark.is_some() && !since.unsure)?;
        let mark = Arc::clone(newest.mark.as_ref()?);
        let Since { growth, elsewhere, .. } = *newest;
        (!growth.otherwise).then_some(Grown { mark, growth, elsewhere })
    }

    /// What the next process can go on with.
    pub(super) fn end(&self) -> Option<End> {
        let Grown { mark, growth, .. } = self.grown()?;
        Some(End { mark: Mark::clone(&mark), growth, scattered: self.scattered })
    }

    /// Goes on with what an earlier process left, once [`Marks::sure`] says so.
    pub(super) fn go_on(&mut self, end: End) {
        let End { mark, growth, scattered } = end;
        let mark = Some(Arc::new(mark));
        self.all.push(Since { number: 0, growth, elsewhere: false, mark, unsure: true });
        self.scattered = scattered;
    }

    /// More of what came before this process.
    pub(super) fn came_before(&mut self, growth: Growth) {
        self.all.iter_mut().filter(|since| since.unsure).for_each(|s| s.growth.add(growth));
    }

    /// All of that is known.
    pub(super) fn sure(&mut self) {
        self.all.iter_mut().for_each(|since| since.unsure = false);
    }

    /// Rows came elsewhere than at the ends that the newest mark knows.
    pub(super) fn missed(&mut self) {
        self.scattered = true;
        self.all.iter_mut().filter(|s| s.mark.is_some()).for_each(|s| s.elsewhere = true);
    }

    /// Whether rows ever came elsewhere than at the end.
    pub(super) fn scattered(&self) -> bool {
        self.scattered
    }
}

/// Marks of all pairs without a key as of a position; `None` for others, and where a side cannot
/// say where rows come to. Of `scattered` pairs they know what came anywhere. Soon after the
/// position: rows that come in the meantime belong to the end.
///
/// # Errors
///
/// A read failed.
pub async fn marks(
    aligned: &Aligned,
    pairs: &[Pair],
    scattered: &[bool],
) -> Result<Vec<Option<Mark>>> {
    let keyless: Vec<(&Pair, bool)> =
        pairs.iter().zip(scattered.iter().copied()).filter(|(pair, _)| !pair.keyed).collect();
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

async fn ends(aligned: &Aligned, side: Side, pairs: &[(&Pair, bool)]) -> Result<Vec<Option<Ends>>> {
    let snapshot = aligned.side(side);
    let tables: Vec<&Table> = pairs.iter().flat_map(|(pair, _)| pair.side(side)).collect();
    let mut coming = snapshot.coming(&tables).await?.into_iter();
    let mut all: Vec<Option<Ends>> = pairs
        .iter()
        .map(|(pair, _)| {
            // All of them are taken, also where one is not known.
            let coming: Vec<_> = coming.by_ref().take(pair.side(side).len()).collect();
            let coming = coming.into_iter().collect::<Option<_>>()?;
            Some(Ends { coming, held: Digest::default(), anywhere: None })
        })
        .collect();
    for place in [Place::End, Place::Anywhere] {
        let mut wanted: Vec<(&[Table], &mut Ends)> = pairs
            .iter()
            .zip(&mut all)
            .filter(|((_, scattered), _)| place == Place::End || *scattered)
            .filter_map(|((pair, _), ends)| Some((pair.side(side), ends.as_mut()?)))
            .collect();
        let ranges: Vec<(&[Table], &[Coming])> =
            wanted.iter().map(|(tables, ends)| (*tables, &ends.coming[..])).collect();
        let held = digests(&**snapshot, place, &ranges).await?;
        for ((_, ends), held) in wanted.iter_mut().zip(held) {
            match place {
                Place::End => ends.held = held,
                Place::Anywhere => ends.anywhere = Some(held),
            }
        }
    }
    Ok(all)
}

/// What is in one place of these tables, together.
async fn digests(
    reader: &(impl RowReader + ?Sized),
    place: Place,
    wanted: &[(&[Table], &[Coming])],
) -> Result<Vec<Digest>> {
    let parts: Vec<Part<'_>> = wanted
        .iter()
        .flat_map(|(tables, coming)| tables.iter().zip(*coming))
        .map(|(table, coming)| {
            let range = match place {
                Place::End => &coming.end,
                Place::Anywhere => &coming.anywhere,
            };
            Part { table, range, buckets: 1 }
        })
        .collect();
    if parts.is_empty() {
        return Ok(vec![Digest::default(); wanted.len()]);
    }
    let mut read = reader.digests(&parts).await?.into_iter();
    let mut all = Vec::with_capacity(wanted.len());
    for (tables, _) in wanted {
        let mut sum = Digest::default();
        read.by_ref().take(tables.len()).flatten().for_each(|digest| sum.add(digest));
        all.push(sum);
    }
    Ok(all)
}

/// What pairs hold in a place that they did not hold at their marks: on blue, on green. `None` where
/// the mark does not know that place.
///
/// # Errors
///
/// A read failed.
pub async fn gains(
    blue: &(impl RowReader + ?Sized),
    green: &(impl RowReader + ?Sized),
    place: Place,
    pairs: &[(&Pair, &Grown)],
) -> Result<Vec<Option<[Gain; 2]>>> {
    let held = |grown: &Grown| Some([grown.mark.blue.held(place)?, grown.mark.green.held(place)?]);
    let known: Vec<(&Pair, &Grown)> =
        pairs.iter().copied().filter(|(_, grown)| held(grown).is_some()).collect();
    let of = |side: Side| -> Vec<(&[Table], &[Coming])> {
        known.iter().map(|(pair, g)| (pair.side(side), &g.mark.side(side).coming[..])).collect()
    };
    let (on_blue, on_green) = (of(Side::Blue), of(Side::Green));
    let (blue, green) =
        tokio::try_join!(digests(blue, place, &on_blue), digests(green, place, &on_green))?;
    let mut now = blue.into_iter().zip(green);
    Ok(pairs
        .iter()
        .map(|(_, grown)| {
            let [held_on_blue, held_on_green] = held(grown)?;
            let (blue, green) = now.next()?;
            Some([Gain::between(held_on_blue, blue), Gain::between(held_on_green, green)])
        })
        .collect())
}

/// What a pair's tables hold in a place more than before, on one side.
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
pub fn verdict(gains: Option<[Gain; 2]>, growth: Growth) -> Verdict {
    let Some([blue, green]) = gains else { return Verdict::Inconclusive };
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
            let ends = Ends { coming: Vec::new(), held: Digest::default(), anywhere: None };
            Self { blue: ends.clone(), green: ends }
        }
    }

    fn mark(rows: u64) -> Arc<Mark> {
        let ends = Ends { coming: Vec::new(), held: Digest { rows, sum: 0 }, anywhere: None };
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
    fn rows_that_came_elsewhere_count_until_the_next_mark_and_are_remembered() {
        let mut marks = Marks::default();
        let first = marks.begin();
        marks.finish(first, Some(mark(1)));
        let second = marks.begin();
        assert!(!marks.scattered());
        marks.missed();
        assert!(marks.scattered() && marks.grown().unwrap().elsewhere);
        marks.finish(second, Some(mark(2)));
        assert!(marks.scattered() && !marks.grown().unwrap().elsewhere);
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
        let of = |blue, green, count| verdict(Some([blue, green]), rows(count));
        assert_eq!(of(gain(3, 7), gain(3, 7), 3), Verdict::Equal);
        assert_eq!(of(gain(0, 0), gain(0, 0), 0), Verdict::Equal);
        assert_eq!(verdict(None, rows(0)), Verdict::Inconclusive);
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
        assert_eq!(verdict(Some([gain(3, 7), gain(3, 7)]), unknown), Verdict::Inconclusive);
        assert!(gain(3, 0).reaches(3) && !gain(3, 0).reaches(4) && !gain(-1, 0).reaches(0));
        let (before, now) = (Digest { rows: 5, sum: -9 }, Digest { rows: 4, sum: 3 });
        assert_eq!(Gain::between(before, now), gain(-1, 12));
    }
}

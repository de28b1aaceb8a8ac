//! Pure: digests in, differences out.

use std::collections::{BTreeMap, HashMap};

use cutover_core::model::digest::{Digest, RowDigest, RowKey};

use super::{Difference, How};

/// Numbers of the buckets that differ.
#[must_use]
pub fn buckets(blue: &[Digest], green: &[Digest]) -> Vec<u32> {
    let longest = blue.len().max(green.len());
    let at = |side: &[Digest], i: usize| side.get(i).copied().unwrap_or_default();
    (0..longest).filter(|&i| at(blue, i) != at(green, i)).map(|i| i as u32).collect()
}

/// Bytes of a row, where nobody has counted rows.
pub const ROW_BYTES: u64 = 256;

/// The most buckets of one table. Servers keep as many in the memory that they have for one query, and
/// send as many for each range.
const MOST: u32 = 16_384;

/// How many buckets a table of so many rows gets: a power of two, about 1,000 rows a bucket.
#[must_use]
pub fn bucket_count(rows: u64) -> u32 {
    u32::try_from((rows / 1000).next_power_of_two()).unwrap_or(u32::MAX).clamp(1, MOST)
}

/// Which of the buckets are read so that no more than `most` rows come, the smallest first, and how
/// many rows differ at least in the others.
#[must_use]
pub fn affordable(
    blue: &[Digest],
    green: &[Digest],
    mut buckets: Vec<u32>,
    most: u64,
) -> (Vec<u32>, u64) {
    let rows = |side: &[Digest], i: u32| side.get(i as usize).map_or(0, |d| d.rows);
    let both = |i: u32| rows(blue, i).saturating_add(rows(green, i));
    buckets.sort_by_key(|&i| both(i));
    let mut sum: u64 = 0;
    let fits = |i: &u32| {
        sum = sum.saturating_add(both(*i));
        sum <= most
    };
    let read = buckets.iter().copied().take_while(fits).count();
    let unread = buckets.split_off(read);
    let least = unread.into_iter().map(|i| rows(blue, i).abs_diff(rows(green, i)).max(1));
    (buckets, least.sum())
}

/// Rows that differ, in key order. Rows with the same key on one side (a table without a key) are
/// counted, not merged.
#[must_use]
pub fn rows(blue: &[RowDigest], green: &[RowDigest]) -> Vec<Difference> {
    type Hashes = (Vec<i64>, Vec<i64>);
    let mut keys: HashMap<&RowKey, Hashes> = HashMap::new();
    for row in blue {
        keys.entry(&row.key).or_default().0.push(row.hash);
    }
    for row in green {
        keys.entry(&row.key).or_default().1.push(row.hash);
    }
    let mut out = BTreeMap::new();
    for (key, (mut b, mut g)) in keys {
        b.sort_unstable();
        g.sort_unstable();
        if b != g {
            let how = match b.len().cmp(&g.len()) {
                std::cmp::Ordering::Greater => How::OnlyBlue,
                std::cmp::Ordering::Less => How::OnlyGreen,
                std::cmp::Ordering::Equal => How::Values,
            };
            out.insert(key.clone(), how);
        }
    }
    out.into_iter().map(|(key, how)| Difference { key, how }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, hash: i64) -> RowDigest {
        RowDigest { key: RowKey(vec![key.into()]), hash }
    }

    fn names(blue: &[RowDigest], green: &[RowDigest]) -> Vec<(String, How)> {
        rows(blue, green).into_iter().map(|d| (d.key.0[0].clone(), d.how)).collect()
    }

    #[test]
    fn names_what_differs() {
        let blue = [row("a", 1), row("b", 2), row("c", 3)];
        let green = [row("c", 4), row("a", 1), row("d", 5)];
        assert_eq!(
            names(&blue, &green),
            [("b".into(), How::OnlyBlue), ("c".into(), How::Values), ("d".into(), How::OnlyGreen)]
        );
        assert!(rows(&blue, &blue).is_empty());
    }

    #[test]
    fn duplicates_do_not_cancel() {
        assert_eq!(
            names(&[row("a", 1), row("a", 1)], &[row("a", 1)]),
            [("a".into(), How::OnlyBlue)]
        );
        let one = Digest { rows: 2, sum: 8 };
        assert_eq!(buckets(&[one], &[Digest { rows: 0, sum: 0 }]), [0]);
        assert_eq!(buckets(&[one], &[one]), Vec::<u32>::new());
    }

    #[test]
    fn bucket_counts_are_powers_of_two() {
        for (rows, want) in [(0, 1), (999, 1), (1_000, 1), (3_000, 4), (u64::MAX / 2, MOST)] {
            assert_eq!(bucket_count(rows), want, "{rows}");
        }
    }
}

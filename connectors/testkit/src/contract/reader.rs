//! What every reader promises about tables that are asked for together: an answer for each, in
//! their order, and the same as for each alone.

use cutover_core::{
    model::{
        digest::{RowDigest, RowKey},
        schema::Table,
    },
    port::{
        copy::{Range, Snapshot},
        reader::{Lookup, Part, RowReader},
    },
};

/// Bytes per range: so few that a table of some pages has several.
const FEW: u64 = 16 << 10;

/// Over how many buckets rows are spread, by turns.
const BUCKETS: [u32; 3] = [1, 8, 2];

/// Runs all of it; `tables` should be many, of different sizes, and some of them empty.
///
/// # Panics
///
/// When a promise is broken, saying which.
pub async fn check(snapshot: &dyn Snapshot, tables: &[Table]) {
    ranges(snapshot, tables).await;
    digests(snapshot, tables).await;
    rows_by_key(snapshot, tables).await;
}

/// Ranges of many tables are those of each.
///
/// # Panics
///
/// When a promise is broken.
pub async fn ranges(snapshot: &dyn Snapshot, tables: &[Table]) {
    let none = snapshot.split_all(&[], FEW).await.expect("ranges of no table");
    assert!(none.is_empty(), "ranges of no table: {none:?}");
    let all: Vec<&Table> = tables.iter().collect();
    let together = snapshot.split_all(&all, FEW).await.expect("ranges");
    assert_eq!(together.len(), tables.len(), "as many answers as tables");
    for (table, ranges) in tables.iter().zip(together) {
        let alone = snapshot.split(table, FEW).await.expect("ranges");
        assert_eq!(ranges, alone, "ranges of {}", table.name);
    }
}

/// Digests of many parts are those of each.
///
/// # Panics
///
/// When a promise is broken.
pub async fn digests(reader: &dyn RowReader, tables: &[Table]) {
    let none = reader.digests(&[]).await.expect("digests of no part");
    assert!(none.is_empty(), "digests of no part: {none:?}");
    let range = Range { condition: String::new(), bytes: 0 };
    let parts: Vec<Part<'_>> = tables
        .iter()
        .zip(BUCKETS.into_iter().cycle())
        .map(|(table, buckets)| Part { table, range: &range, buckets })
        .collect();
    let together = reader.digests(&parts).await.expect("digests");
    assert_eq!(together.len(), parts.len(), "as many answers as parts");
    for (part, digests) in parts.iter().zip(together) {
        let name = &part.table.name;
        assert_eq!(digests.len(), part.buckets as usize, "buckets of {name}");
        let alone = reader.bucket_digests(part.table, &range, part.buckets).await;
        assert_eq!(digests, alone.expect("digests"), "digests of {name}");
    }
}

/// Rows of many tables by key are those of each; keys without a row have none.
///
/// # Panics
///
/// When a promise is broken.
pub async fn rows_by_key(reader: &dyn RowReader, tables: &[Table]) {
    let none = reader.lookup(&[]).await.expect("rows of no table");
    assert!(none.is_empty(), "rows of no table: {none:?}");
    let mut asked: Vec<(&Table, Vec<RowKey>)> = Vec::new();
    for table in tables.iter().filter(|table| !table.key().is_empty()) {
        let rows = reader.bucket_rows(table, 1, &[0]).await.expect("rows");
        asked.push((table, rows.into_iter().map(|row| row.key).collect()));
    }
    // Nothing is asked of every other table.
    asked.iter_mut().skip(1).step_by(2).for_each(|(_, keys)| keys.clear());
    let wanted: Vec<Lookup<'_>> =
        asked.iter().map(|(table, keys)| Lookup { table, keys }).collect();
    let together = reader.lookup(&wanted).await.expect("rows by key");
    assert_eq!(together.len(), wanted.len(), "as many answers as lookups");
    for (lookup, rows) in wanted.iter().zip(together) {
        let name = &lookup.table.name;
        assert_eq!(rows.len(), lookup.keys.len(), "rows of {name}");
        let alone = reader.key_digests(lookup.table, lookup.keys).await.expect("rows by key");
        assert_eq!(sorted(rows), sorted(alone), "rows of {name}");
    }
}

fn sorted(mut rows: Vec<RowDigest>) -> Vec<RowDigest> {
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    rows
}

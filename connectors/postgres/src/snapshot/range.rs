//! Parts of a table as conditions. Pure.

use cutover_core::{
    model::{digest::RowKey, schema::Table},
    port::copy::{Coming, Range},
};

use super::digest;
use crate::{connect::Hashing, shelf::KeyPart, sql};

/// The whole table.
pub(super) fn whole(bytes: u64) -> Range {
    Range { condition: String::new(), bytes }
}

/// Whether a range is a place in a table: some of its pages.
pub(super) fn is_place(range: &Range) -> bool {
    range.condition.starts_with("ctid ")
}

/// Pages before the last one in which rows that come may still find room: those that several
/// sessions fill just now, and those where a large row found none and a small one does.
const END_PAGES: u64 = 2048;

/// So many transactions from the oldest one that a snapshot does not see may have made the rows at
/// the end of a table. More would take in rows of long ago, whose numbers come round again.
const TRANSACTIONS: u64 = 1 << 28;

/// The rows of a heap table of so many pages that are not in the snapshot, or were made while those
/// were. Whether a row belongs to them never changes: the numbers are compared with each other and
/// not with the newest one, which moves on. `visible` is the snapshot's text.
pub(super) fn coming(pages: u64, visible: &str) -> Option<Coming> {
    let oldest: u64 = visible.split(':').next()?.parse().ok()?;
    let (page, oldest) = (pages.saturating_sub(END_PAGES), oldest & u64::from(u32::MAX));
    let made = format!(
        "(((SELECT age('{oldest}'::xid))::int8 - age(xmin)) & {}) < {TRANSACTIONS}",
        u32::MAX
    );
    let end = format!("ctid >= '({page},0)'::tid AND {made}");
    let range = |condition| Range { condition, bytes: 0 };
    Some(Coming { end: range(end), anywhere: range(made) })
}

/// Ranges of about `target` bytes of a heap table. `bytes` counts what lies outside of the pages
/// (TOAST) as well, so that a range with large values is not larger than others. The last one is
/// open: rows of the snapshot are never behind it, whatever happened since the size was read.
/// Without pages there are no ranges: rows of the snapshot that a vacuum could have cut off are
/// none, and a table that was emptied since is empty to every snapshot.
pub(super) fn by_pages(pages: u64, bytes: u64, target: u64) -> Vec<Range> {
    if pages == 0 {
        return Vec::new();
    }
    let wanted = (bytes / target.max(1)).clamp(1, pages.max(1));
    let step = pages.div_ceil(wanted).max(1);
    let count = pages.div_ceil(step).max(1);
    if count == 1 {
        return vec![whole(bytes)];
    }
    let from = |page: u64| format!("ctid >= '({page},0)'::tid");
    let to = |page: u64| format!("ctid < '({page},0)'::tid");
    (0..count)
        .map(|i| {
            let (first, end) = (i * step, (i + 1) * step);
            let condition = match i {
                0 => to(end),
                _ if i + 1 == count => from(first),
                _ => format!("{} AND {}", from(first), to(end)),
            };
            Range { condition, bytes: bytes / count }
        })
        .collect()
}

/// Exactly the rows with these keys; for a table without key, with these hashes. `parts` says how
/// the key is compared.
pub(super) fn of_keys(
    table: &Table,
    keys: &[RowKey],
    parts: &[KeyPart],
    hashing: Hashing,
) -> Range {
    let condition = if keys.is_empty() {
        "false".to_owned()
    } else if table.key().is_empty() {
        let hashes: Vec<String> =
            keys.iter().map(|k| format!("{}::int8", sql::literal(&k.0.concat()))).collect();
        format!("{} IN ({})", digest::row_hash(table, hashing), hashes.join(", "))
    } else {
        let below = |at: usize| parts.get(at).and_then(|part| part.found_as.as_deref());
        let types = digest::key_types(table).into_iter().enumerate();
        let types: Vec<&str> = types.map(|(at, of)| below(at).unwrap_or(of)).collect();
        let rows: Vec<String> = keys.iter().map(|key| literals(key, &types)).collect();
        let names: Vec<String> = (1..=types.len()).map(|i| format!("k{i}")).collect();
        // The columns have the table's name before them, so that those of `w` do not hide them.
        let tests: Vec<String> = table
            .key()
            .iter()
            .zip(&names)
            .enumerate()
            .map(|(i, (column, name))| {
                // PostgreSQL makes the keys unique by their own collation and then joins by that of
                // the column: a row would come twice by two keys that only the latter calls equal.
                let collation = table.column(column).and_then(|c| c.collation.as_deref());
                let collate = collation.map(|c| format!(" COLLATE {c}")).unwrap_or_default();
                let column = format!("{}.{}", sql::table(&table.name), sql::ident(column));
                match parts.get(i) {
                    None => format!("{column} = w.{name}{collate}"),
                    Some(KeyPart { operator, compared_as, .. }) => {
                        format!("{column}{compared_as} {operator} w.{name}{compared_as}{collate}")
                    }
                }
            })
            .collect();
        format!(
            "EXISTS (SELECT FROM (VALUES {}) AS w({}) WHERE {})",
            rows.join(", "),
            names.join(", "),
            tests.join(" AND ")
        )
    };
    Range { condition, bytes: 0 }
}

fn literals(key: &RowKey, types: &[&str]) -> String {
    let values: Vec<String> = key
        .0
        .iter()
        .zip(types)
        .map(|(value, of)| format!("{}::{of}", sql::literal(value)))
        .collect();
    format!("({})", values.join(", "))
}

#[cfg(test)]
mod tests {
    use cutover_core::model::schema::{Column, Generated, Identity, RowIdentity, TableName};

    use super::*;

    #[test]
    fn ranges_cover_every_page_once() {
        for (pages, bytes, target) in
            [(1, 8192, 1), (10, 81920, 81920), (10, 81920, 20000), (7, 1_000_000, 1)]
        {
            let ranges = by_pages(pages, bytes, target);
            if ranges.len() == 1 {
                assert_eq!(ranges[0].condition, "");
                assert!(!is_place(&ranges[0]));
                continue;
            }
            assert!(ranges.iter().all(is_place));
            let mut next = 0;
            for (i, range) in ranges.iter().enumerate() {
                let parts: Vec<&str> = range.condition.split(" AND ").collect();
                if i > 0 {
                    assert_eq!(parts[0], format!("ctid >= '({next},0)'::tid"));
                }
                let Some(end) = parts.iter().find_map(|p| {
                    p.strip_prefix("ctid < '(")?.strip_suffix(",0)'::tid")?.parse::<u64>().ok()
                }) else {
                    assert_eq!(i + 1, ranges.len(), "only the last one is open");
                    assert!(next < pages);
                    continue;
                };
                assert!(end > next && end < pages);
                next = end;
            }
        }
        assert_eq!(by_pages(0, 8192, 100), []);
        assert_eq!(by_pages(100, 819_200, 81_920).len(), 10);
        // A small heap with large values outside of it.
        assert_eq!(by_pages(4, 100 << 20, 16 << 20).len(), 4);
    }

    fn table(key: &[&str]) -> Table {
        let column = |name: &str, of: &str| Column {
            name: name.into(),
            base_type: of.into(),
            declared_type: of.into(),
            nullable: false,
            generated: Generated::No,
            identity: Identity::No,
            collation: None,
        };
        Table {
            name: TableName::new("s", "t"),
            columns: vec![column("A b", "integer"), column("c", "text")].into(),
            identity: RowIdentity::Key(key.iter().map(ToString::to_string).collect()),
            primary_key: Vec::new(),
            root: None,
            estimated_rows: None,
            bytes: 0,
        }
    }

    #[test]
    fn conditions_on_keys() {
        let key = |parts: &[&str]| RowKey(parts.iter().map(ToString::to_string).collect());
        let condition =
            |t: &Table, keys: &[RowKey]| of_keys(t, keys, &[], Hashing::AsStored).condition;
        assert_eq!(
            condition(&table(&["c", "A b"]), &[key(&["it's", "1"]), key(&["x", "2"])]),
            "EXISTS (SELECT FROM (VALUES ('it''s'::text, '1'::integer), \
             ('x'::text, '2'::integer)) AS w(k1, k2) \
             WHERE \"s\".\"t\".\"c\" = w.k1 AND \"s\".\"t\".\"A b\" = w.k2)"
        );
        assert_eq!(condition(&table(&["c"]), &[]), "false");
        assert!(condition(&table(&[]), &[key(&["-5"])]).ends_with(" IN ('-5'::int8)"));
    }
}

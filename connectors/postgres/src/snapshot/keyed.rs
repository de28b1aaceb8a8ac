//! Tables in ranges of their keys.
//!
//! A range is read by the index of the key, and costs what it should as long as rows lie in its
//! order: then it is a stretch of pages. How many ranges a page belongs to is counted on some of
//! them.

use cutover_core::{
    model::{ranges::KeyRanges, schema::Table},
    port::{
        Result,
        copy::{Keyed, Range},
    },
};

use super::{View, measure::Measured};
use crate::{connect::port_error, sql};

/// Ranges of a table: what a journal line, and whoever looks for a key, can bear.
const MOST: u64 = 4096;
/// Pages that are looked at, at least, of tables that have as many.
const SAMPLE: u64 = 256;
/// How many ranges a page may belong to on the average. One is none too many: each page is read
/// that often.
const PER_PAGE: f64 = 1.1;

/// How the condition of such a range begins.
const BY_KEY: &str = "/* by key */ ";

/// Tables in a heap of their own with an index of a key that begins with a whole number and that the
/// stream brings with every change; and what else keeps rows of several ranges apart.
fn keyed_tables() -> String {
    let others = others("c.oid", "a.attnum");
    format!(
        "SELECT w.n, a.attname::text,
           concat_ws(' ', c.relpersistence, c.relam,
                     (SELECT string_agg(d.attnum || ':' || d.xmin, ' ' ORDER BY d.attnum)
                        FROM pg_attribute d WHERE d.attrelid = c.oid AND d.attnum > 0),
                     (SELECT 'below ' || h.inhparent FROM pg_inherits h
                       WHERE h.inhrelid = c.oid AND c.relispartition),
                     others.names),
           others.names IS NULL
      FROM unnest($1::text[]) WITH ORDINALITY AS w(name, n)
      JOIN pg_class c ON c.oid = to_regclass(w.name)
      JOIN pg_am m ON m.oid = c.relam AND m.amname = 'heap'
      JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary AND i.indisvalid
                     AND i.indimmediate AND NOT i.indisexclusion
      JOIN pg_opclass o ON o.oid = i.indclass[0] AND o.opcdefault
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
                         AND a.atttypid IN (21, 23, 20) AND a.attgenerated = ''
      CROSS JOIN LATERAL (SELECT string_agg(u.indexrelid || ':' || x.relname, ' '
                                            ORDER BY u.indexrelid)
                            FROM {others} JOIN pg_class x ON x.oid = u.indexrelid) AS others(names)
     WHERE c.relkind = 'r' AND c.relreplident IN ('d', 'f')"
    )
}

/// Indexes `u` of the table `table` that may refuse a row for the sake of one with another value of
/// `column`: unique ones without this column, as it is usually compared, and exclusion constraints.
pub(crate) fn others(table: &str, column: &str) -> String {
    format!(
        "(SELECT * FROM pg_catalog.pg_index u WHERE u.indrelid = {table}
           AND (u.indisexclusion OR u.indisunique AND NOT EXISTS (
                  SELECT FROM unnest(u.indkey::int2[], u.indclass::oid[]) AS k(att, class)
                    JOIN pg_catalog.pg_opclass p ON p.oid = k.class AND p.opcdefault
                   WHERE k.att = {column}))) AS u"
    )
}

impl View {
    pub(super) async fn keyed(&self, tables: &[&Table]) -> Result<Vec<Option<Keyed>>> {
        let warm = self.session().await?;
        let names: Vec<String> = tables.iter().map(|t| sql::table(&t.name)).collect();
        let rows = warm
            .session
            .query(&keyed_tables(), &[&names])
            .await
            .map_err(|e| port_error(self.doing("looking at the keys"), e))?;
        self.idle.put(warm);
        let mut all = vec![None; tables.len()];
        for row in &rows {
            let at = usize::try_from(row.get::<_, i64>(0)).ok().and_then(|n| n.checked_sub(1));
            if let Some(place) = at.and_then(|at| all.get_mut(at)) {
                *place =
                    Some(Keyed { column: row.get(1), definition: row.get(2), alone: row.get(3) });
            }
        }
        Ok(all)
    }

    pub(super) async fn by_key(
        &self,
        table: &Table,
        column: &str,
        target: u64,
    ) -> Result<Option<KeyRanges>> {
        let measured = self.measured(&[table]).await?.pop().flatten();
        let Some(Measured { pages: Some(pages), bytes }) = measured else { return Ok(None) };
        let wanted = (bytes / target.max(1)).clamp(1, pages.clamp(1, MOST));
        let warm = self.holding(&[(table, true)]).await?;
        let keys = warm
            .session
            .query(&sample(table, column), &[&looked_at(pages, wanted)])
            .await
            .map_err(|e| port_error(self.doing(&format!("looking at {}", table.name)), e))?;
        self.rest(warm).await;
        let pages: Vec<Vec<i64>> = keys.iter().filter_map(|row| row.get(0)).collect();
        let bounds = bounds(&pages, usize::try_from(wanted).unwrap_or(1));
        Ok(bounds.map(|bounds| KeyRanges { column: column.to_owned(), bounds }))
    }
}

/// Numbers of pages, evenly.
fn looked_at(pages: u64, wanted: u64) -> Vec<i64> {
    let count = wanted.max(SAMPLE).min(pages);
    (0..count).filter_map(|i| i64::try_from(i * pages / count).ok()).collect()
}

/// The keys of some pages, a row for each page; NULL where it has none.
fn sample(table: &Table, column: &str) -> String {
    let page = |at: &str| format!("format('(%s,0)', {at})::tid");
    format!(
        "SELECT (SELECT array_agg(t.{}::int8) FROM ONLY {} t WHERE t.ctid >= {} AND t.ctid < {}) \
           FROM unnest($1::int8[]) AS s(page)",
        sql::ident(column),
        sql::table(&table.name),
        page("s.page"),
        page("s.page + 1"),
    )
}

/// Where to cut into about `wanted` ranges of as many pages each, from the keys of some pages.
/// `None` where pages belong to too many of them.
fn bounds(pages: &[Vec<i64>], wanted: usize) -> Option<Vec<i64>> {
    let mut middles: Vec<i64> = pages
        .iter()
        .filter_map(|keys| {
            let mut keys = keys.clone();
            keys.sort_unstable();
            keys.get(keys.len() / 2).copied()
        })
        .collect();
    middles.sort_unstable();
    let mut bounds: Vec<i64> =
        (1..wanted).filter_map(|i| middles.get(i * middles.len() / wanted).copied()).collect();
    bounds.dedup();
    let ranges = KeyRanges { column: String::new(), bounds };
    let belongs_to = |keys: &Vec<i64>| {
        let mut numbers: Vec<usize> = keys.iter().map(|key| ranges.of(*key)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.len()
    };
    // Every bound is inside of a page that was looked at.
    let cut = ranges.bounds.len();
    let reads: usize = pages.iter().map(belongs_to).sum();
    let ordered = reads.saturating_sub(cut) as f64 <= pages.len() as f64 * PER_PAGE;
    (cut > 0 && ordered).then_some(ranges.bounds)
}

/// One range.
pub(super) fn range(ranges: &KeyRanges, number: usize) -> Range {
    let column = sql::ident(&ranges.column);
    let (low, high) = ranges.limits(number);
    let low = low.map(|low| format!("{column} >= '{low}'::int8"));
    let high = high.map(|high| format!("{column} < '{high}'::int8"));
    let tests: Vec<String> = low.into_iter().chain(high).collect();
    let tests = if tests.is_empty() { "true".into() } else { tests.join(" AND ") };
    Range { condition: format!("{BY_KEY}{tests}"), bytes: 0 }
}

/// Whether a range is one of a key.
pub(super) fn is_by_key(range: &Range) -> bool {
    range.condition.starts_with(BY_KEY)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of ten rows each.
    fn pages(keys: impl Iterator<Item = i64>) -> Vec<Vec<i64>> {
        keys.collect::<Vec<_>>().chunks(10).map(<[i64]>::to_vec).collect()
    }

    #[test]
    fn rows_in_the_order_of_their_key_are_cut_evenly() {
        let up = bounds(&pages(0..10_000), 8).expect("ordered");
        assert_eq!(up.len(), 7);
        for (i, bound) in up.iter().enumerate() {
            assert!((bound - (i as i64 + 1) * 1250).abs() <= 10, "{up:?}");
        }
        // The other way round, and with gaps.
        assert!(bounds(&pages((0..10_000).rev()), 8).is_some());
        let gaps = bounds(&pages((0..10_000).map(|k| k * k)), 8).expect("ordered");
        assert!(gaps.windows(2).all(|two| two[0] < two[1]), "{gaps:?}");
        assert_eq!(bounds(&pages(0..10_000), 1000).map(|b| b.len()), Some(999), "a page each");
    }

    #[test]
    fn rows_all_over_the_table_are_not_cut() {
        assert_eq!(bounds(&pages((0..10_000).map(|k| k * 7919 % 10_007)), 8), None);
        // A tenth of them has moved.
        let moved = |k: i64| if k % 10 == 3 { k * 7919 % 10_007 } else { k };
        assert_eq!(bounds(&pages((0..10_000).map(moved)), 8), None);
        let few = |k: i64| if k % 1000 == 3 { k * 7919 % 10_007 } else { k };
        assert!(bounds(&pages((0..10_000).map(few)), 8).is_some());
        for too_few in [vec![], vec![vec![1]], vec![vec![]]] {
            assert_eq!(bounds(&too_few, 1), None);
            assert_eq!(bounds(&too_few, 8).unwrap_or_default().len(), too_few.concat().len());
        }
    }

    #[test]
    fn ranges_as_conditions() {
        let ranges = KeyRanges { column: "A b".into(), bounds: vec![-5, 7] };
        let condition = |number| range(&ranges, number).condition;
        assert_eq!(condition(0), "/* by key */ \"A b\" < '-5'::int8");
        assert_eq!(condition(1), "/* by key */ \"A b\" >= '-5'::int8 AND \"A b\" < '7'::int8");
        assert_eq!(condition(2), "/* by key */ \"A b\" >= '7'::int8");
        assert!(is_by_key(&range(&ranges, 0)));
    }

    #[test]
    fn pages_are_looked_at_evenly() {
        assert_eq!(looked_at(4, 100), [0, 1, 2, 3]);
        let some = looked_at(100_000, 1000);
        assert_eq!((some.len(), some[1], some.last()), (1000, 100, Some(&99_900)));
        assert!(looked_at(0, 1).is_empty());
    }
}

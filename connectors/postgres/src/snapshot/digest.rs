//! Digests of rows, computed inside the server.
//!
//! A row is rendered to text by its types' own output functions and that text is hashed
//! (`hashtextextended`, the same on every supported version of one byte order). Sessions of both
//! sides pin every setting that decides about rendering.

use cutover_core::{
    model::{
        digest::{Digest, RowDigest, RowKey},
        schema::Table,
    },
    port::copy::Range,
};
use tokio_postgres::{Error, Row, types::ToSql};

use crate::{database::Database, shelf::Warm, sql};

/// What to say while digests of a table are read.
pub(super) fn doing(db: &Database, table: &Table) -> String {
    format!("reading digests of {} on {}", table.name, db.side)
}

/// Hash of all columns, generated ones included.
pub(super) fn row_hash(table: &Table) -> String {
    hash(table.columns.iter().map(|c| c.name.as_str()))
}

/// Hash that decides about the bucket.
fn key_hash(table: &Table) -> String {
    match table.key() {
        [] => row_hash(table),
        key => hash(key.iter().map(String::as_str)),
    }
}

fn hash<'a>(columns: impl Iterator<Item = &'a str>) -> String {
    let columns: Vec<String> = columns.map(sql::ident).collect();
    format!("hashtextextended((ROW({}))::text COLLATE \"C\", 0)", columns.join(", "))
}

/// The key as an array of texts; the hash of the row for a table without key.
fn key_texts(table: &Table) -> String {
    match table.key() {
        [] => format!("ARRAY[({})::text]", row_hash(table)),
        key => {
            let texts: Vec<String> =
                key.iter().map(|c| format!("{}::text", sql::ident(c))).collect();
            format!("ARRAY[{}]", texts.join(", "))
        }
    }
}

/// Types of the key columns, for casts.
pub(super) fn key_types(table: &Table) -> Vec<&str> {
    let of = |name: &String| table.column(name).map_or("text", |c| c.base_type.as_str());
    table.key().iter().map(of).collect()
}

fn buckets_statement(table: &Table, range: &Range, buckets: u32) -> String {
    let name = sql::table(&table.name);
    let condition = if range.condition.is_empty() { "true" } else { &range.condition };
    let row = row_hash(table);
    if buckets <= 1 {
        return format!("SELECT 0, count(*), sum({row})::text FROM ONLY {name} WHERE {condition}");
    }
    let mask = buckets - 1;
    if table.key().is_empty() {
        // OFFSET 0 so that the hash is computed once per row.
        return format!(
            "SELECT (h & {mask})::int4, count(*), sum(h)::text \
             FROM (SELECT {row} AS h FROM ONLY {name} WHERE {condition} OFFSET 0) r GROUP BY 1"
        );
    }
    format!(
        "SELECT ({} & {mask})::int4, count(*), sum({row})::text \
         FROM ONLY {name} WHERE {condition} GROUP BY 1",
        key_hash(table)
    )
}

fn rows_statement(table: &Table, buckets: u32) -> String {
    format!(
        "SELECT {}, {} FROM ONLY {} WHERE ({} & {})::int4 = ANY ($1::int4[])",
        key_texts(table),
        row_hash(table),
        sql::table(&table.name),
        key_hash(table),
        buckets.max(1) - 1
    )
}

/// One parameter per key column: an array of texts. `equal` holds the operator of the index per
/// key column, since an extension's type may have its own outside of the search path.
fn keyed_statement(table: &Table, equal: &[String]) -> String {
    let parameters: Vec<String> =
        (1..=table.key().len()).map(|i| format!("${i}::text[]")).collect();
    let names: Vec<String> = (1..=table.key().len()).map(|i| format!("k{i}")).collect();
    let matches: Vec<String> = table
        .key()
        .iter()
        .zip(key_types(table))
        .zip(&names)
        .enumerate()
        .map(|(i, ((column, of), name))| {
            let operator = equal.get(i).map_or("=", String::as_str);
            format!("t.{} {operator} w.{name}::{of}", sql::ident(column))
        })
        .collect();
    // The columns of `w` cannot hide those of the table: expressions on `t` are made in a
    // subquery that does not see `w`.
    format!(
        "SELECT r.key, r.hash FROM unnest({}) w({}) CROSS JOIN LATERAL \
         (SELECT {} AS key, {} AS hash FROM ONLY {} t WHERE {}) r",
        parameters.join(", "),
        names.join(", "),
        key_texts(table),
        row_hash(table),
        sql::table(&table.name),
        matches.join(" AND ")
    )
}

/// Operators of the unique index whose columns are the key, in key order.
async fn key_operators(warm: &mut Warm, table: &Table) -> Result<Vec<String>, Error> {
    let statement = warm
        .prepared(
            "SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname) \
             FROM pg_index i \
             CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) \
                  WITH ORDINALITY AS k(attnum, class, at) \
             JOIN pg_opclass c ON c.oid = k.class \
             JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3 \
                  AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype \
             JOIN pg_operator o ON o.oid = m.amopopr \
             JOIN pg_namespace n ON n.oid = o.oprnamespace \
             WHERE i.indrelid = to_regclass($1::text) AND i.indisunique AND i.indisvalid \
               AND k.at <= i.indnkeyatts \
               AND (SELECT array_agg(a.attname::text ORDER BY p.at) \
                    FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS p(attnum, at) \
                    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = p.attnum \
                    WHERE p.at <= i.indnkeyatts) = $2::text[] \
             ORDER BY i.indisprimary DESC, i.indexrelid, k.at LIMIT cardinality($2::text[])",
        )
        .await?;
    let (name, key) = (sql::table(&table.name), table.key());
    let rows = warm.session.query(&statement, &[&name, &key]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Digest of a range per bucket.
pub(super) async fn buckets(
    warm: &mut Warm,
    table: &Table,
    range: &Range,
    buckets: u32,
) -> Result<Vec<Digest>, Error> {
    let rows = warm.session.query(&buckets_statement(table, range, buckets), &[]).await?;
    let mut digests = vec![Digest::default(); buckets.max(1) as usize];
    for row in &rows {
        let at: i32 = row.get(0);
        let count: i64 = row.get(1);
        let sum: Option<&str> = row.get(2);
        if let Some(digest) = usize::try_from(at).ok().and_then(|at| digests.get_mut(at)) {
            digest.rows = u64::try_from(count).unwrap_or(0);
            digest.sum = sum.and_then(|s| s.parse().ok()).unwrap_or(0);
        }
    }
    Ok(digests)
}

/// Every row of the given buckets.
pub(super) async fn rows(
    warm: &mut Warm,
    table: &Table,
    buckets: u32,
    wanted: &[u32],
) -> Result<Vec<RowDigest>, Error> {
    let wanted: Vec<i32> = wanted.iter().filter_map(|b| i32::try_from(*b).ok()).collect();
    let rows = warm.session.query(&rows_statement(table, buckets), &[&wanted]).await?;
    Ok(rows.iter().map(row_digest).collect())
}

/// The rows with these keys, in one round trip once the table's statement is prepared.
pub(super) async fn keyed(
    warm: &mut Warm,
    table: &Table,
    keys: &[RowKey],
) -> Result<Vec<RowDigest>, Error> {
    let equal = match warm.operators(&table.name) {
        Some(known) => known,
        None => {
            let operators = key_operators(warm, table).await?;
            warm.remember_operators(&table.name, operators)
        }
    };
    let statement = warm.prepared(&keyed_statement(table, &equal)).await?;
    let columns: Vec<Vec<&str>> = (0..table.key().len())
        .map(|i| keys.iter().map(|k| k.0.get(i).map_or("", String::as_str)).collect())
        .collect();
    let parameters: Vec<&(dyn ToSql + Sync)> =
        columns.iter().map(|c| c as &(dyn ToSql + Sync)).collect();
    let rows = warm.session.query(&statement, &parameters).await?;
    Ok(rows.iter().map(row_digest).collect())
}

fn row_digest(row: &Row) -> RowDigest {
    RowDigest { key: RowKey(row.get(0)), hash: row.get(1) }
}

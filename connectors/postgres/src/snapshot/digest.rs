//! Digests of rows, computed inside the server.
//!
//! A row is rendered to text by its types' own output functions and that text is hashed
//! (`hashtextextended`, the same on every supported version of one byte order), in UTF-8 whatever the
//! encoding of the database. Sessions of both
//! sides pin every setting that decides about rendering.

use cutover_core::{
    model::{
        digest::{Digest, RowDigest, RowKey},
        schema::Table,
    },
    port::copy::Range,
};
use tokio_postgres::{Error, Row, types::ToSql};

use crate::{
    connect::Hashing,
    database::Database,
    shelf::{KeyPart, Warm},
    sql,
};
use std::sync::Arc;

/// What to say while digests of a table are read.
pub(super) fn doing(db: &Database, table: &Table) -> String {
    format!("reading digests of {} on {}", table.name, db.side)
}

/// Hash of all columns, generated ones included.
pub(super) fn row_hash(table: &Table, hashing: Hashing) -> String {
    hash(table.columns.iter().map(|c| c.name.as_str()), hashing)
}

/// Hash that decides about the bucket.
fn key_hash(table: &Table, hashing: Hashing) -> String {
    match table.key() {
        [] => row_hash(table, hashing),
        key => hash(key.iter().map(String::as_str), hashing),
    }
}

/// Both forms give the same number for the same text: the hash of a record of one column is that
/// of the column, and both hash bytes.
fn hash<'a>(columns: impl Iterator<Item = &'a str>, hashing: Hashing) -> String {
    let columns: Vec<String> = columns.map(sql::ident).collect();
    let text = format!("(ROW({}))::text", columns.join(", "));
    match hashing {
        Hashing::AsStored => format!("hashtextextended({text} COLLATE \"C\", 0)"),
        Hashing::AsUtf8 => format!("hash_record_extended(ROW(convert_to({text}, 'UTF8')), 0)"),
    }
}

/// The key as an array of texts; the hash of the row for a table without key. `concat` gives what
/// the type's output gives, as the stream does; a cast to text may not (`true` for `t`).
fn key_texts(table: &Table, hashing: Hashing) -> String {
    match table.key() {
        [] => format!("ARRAY[({})::text]", row_hash(table, hashing)),
        key => {
            let texts: Vec<String> =
                key.iter().map(|c| format!("concat({})", sql::ident(c))).collect();
            format!("ARRAY[{}]", texts.join(", "))
        }
    }
}

/// Types of the key columns, for casts.
pub(super) fn key_types(table: &Table) -> Vec<&str> {
    let of = |name: &String| table.column(name).map_or("text", |c| c.base_type.as_str());
    table.key().iter().map(of).collect()
}

fn buckets_statement(table: &Table, range: &Range, buckets: u32, hashing: Hashing) -> String {
    let name = sql::table(&table.name);
    let condition = if range.condition.is_empty() { "true" } else { &range.condition };
    let row = row_hash(table, hashing);
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
        key_hash(table, hashing)
    )
}

fn rows_statement(table: &Table, buckets: u32, hashing: Hashing) -> String {
    format!(
        "SELECT {}, {} FROM ONLY {} WHERE ({} & {})::int4 = ANY ($1::int4[])",
        key_texts(table, hashing),
        row_hash(table, hashing),
        sql::table(&table.name),
        key_hash(table, hashing),
        buckets.max(1) - 1
    )
}

/// One parameter per key column: an array of texts.
fn keyed_statement(table: &Table, parts: &[KeyPart], hashing: Hashing) -> String {
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
            let column = sql::ident(column);
            match parts.get(i) {
                None => format!("t.{column} = w.{name}::{of}"),
                Some(KeyPart { operator, via, compared_as }) => {
                    format!("t.{column}{compared_as} {operator} w.{name}{via}::{of}{compared_as}")
                }
            }
        })
        .collect();
    // The columns of `w` cannot hide those of the table: expressions on `t` are made in a
    // subquery that does not see `w`.
    format!(
        "SELECT r.key, r.hash FROM unnest({}) w({}) CROSS JOIN LATERAL \
         (SELECT {} AS key, {} AS hash FROM ONLY {} t WHERE {}) r",
        parameters.join(", "),
        names.join(", "),
        key_texts(table, hashing),
        row_hash(table, hashing),
        sql::table(&table.name),
        matches.join(" AND ")
    )
}

/// How the key is compared: by the operators of the unique index whose columns are the key, in
/// key order. Only a btree numbers its operators so; a key `WITHOUT OVERLAPS` has another index.
pub(super) async fn key_parts(warm: &mut Warm, table: &Table) -> Result<Arc<[KeyPart]>, Error> {
    if let Some(known) = warm.key(&table.name) {
        return Ok(known);
    }
    let statement = warm
        .prepared(
            "SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname), \
                    CASE WHEN EXISTS (SELECT FROM pg_cast x WHERE x.casttarget = f.oid \
                              AND x.castmethod = 'f' AND x.castsource = 'text'::regtype) \
                          AND NOT EXISTS (SELECT FROM pg_cast x WHERE x.casttarget = f.oid \
                              AND x.castsource = 'bpchar'::regtype) \
                         THEN '::bpchar' ELSE '' END, \
                    CASE WHEN f.typtype = 'e' AND f.oid <> f1.oid \
                         THEN '::' || format_type(f.oid, NULL) ELSE '' END \
             FROM pg_index i \
             CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) \
                  WITH ORDINALITY AS k(attnum, class, at) \
             JOIN pg_attribute f0 ON f0.attrelid = i.indrelid AND f0.attnum = k.attnum \
             JOIN pg_type f1 ON f1.oid = f0.atttypid \
             JOIN pg_type f ON f.oid = CASE f1.typbasetype WHEN 0 THEN f1.oid \
                                       ELSE f1.typbasetype END \
             JOIN pg_opclass c ON c.oid = k.class \
             JOIN pg_am w ON w.oid = c.opcmethod AND w.amname = 'btree' \
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
    let part =
        |row: &Row| KeyPart { operator: row.get(0), via: row.get(1), compared_as: row.get(2) };
    let parts = rows.iter().map(part).collect();
    Ok(warm.remember_key(&table.name, parts))
}

/// Digest of a range per bucket.
pub(super) async fn buckets(
    warm: &mut Warm,
    table: &Table,
    range: &Range,
    buckets: u32,
) -> Result<Vec<Digest>, Error> {
    let text = buckets_statement(table, range, buckets, warm.session.hashing());
    let rows = warm.session.query(&text, &[]).await?;
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
    let text = rows_statement(table, buckets, warm.session.hashing());
    let rows = warm.session.query(&text, &[&wanted]).await?;
    Ok(rows.iter().map(row_digest).collect())
}

/// The rows with these keys, in one round trip once the table's statement is prepared.
pub(super) async fn keyed(
    warm: &mut Warm,
    table: &Table,
    keys: &[RowKey],
) -> Result<Vec<RowDigest>, Error> {
    let parts = key_parts(warm, table).await?;
    let statement = warm.prepared(&keyed_statement(table, &parts, warm.session.hashing())).await?;
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

//! Digests of rows, computed inside the server.
//!
//! A row is rendered to text by its types' own output functions and that text is hashed
//! (`hashtextextended`, the same on every supported version of one byte order), in UTF-8 whatever
//! the encoding of the database. Sessions of both sides pin every setting that decides about
//! rendering.

use std::sync::Arc;

use cutover_core::{
    model::{
        digest::{Digest, RowDigest, RowKey},
        schema::Table,
    },
    port::reader::{Lookup, Part},
};
use futures_util::future::join_all;
use tokio_postgres::{Error, Row, types::ToSql};

use crate::{
    connect::{Hashing, Session},
    database::Database,
    shelf::{KeyPart, Keys, Warm},
    sql,
};

/// Parts whose digests are read by one statement.
const PER_STATEMENT: usize = 64;

/// What to say while digests of a table are read.
pub(super) fn doing(db: &Database, table: &Table) -> String {
    format!("reading digests of {} on {}", table.name, db.side)
}

/// The same for several tables.
pub(super) fn doing_all<'a>(db: &Database, tables: impl Iterator<Item = &'a Table>) -> String {
    let tables: Vec<&Table> = tables.collect();
    match &tables[..] {
        [one] => doing(db, one),
        [first, rest @ ..] => {
            format!("reading digests of {} and {} more on {}", first.name, rest.len(), db.side)
        }
        [] => format!("reading digests on {}", db.side),
    }
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

/// Rows of it are part, bucket, count, sum.
fn part_statement(number: usize, part: &Part<'_>, hashing: Hashing) -> String {
    let Part { table, range, buckets } = *part;
    let name = sql::table(&table.name);
    let condition = if range.condition.is_empty() { "true" } else { &range.condition };
    let row = row_hash(table, hashing);
    if buckets <= 1 {
        return format!(
            "SELECT {number}, 0, count(*), sum({row})::text FROM ONLY {name} WHERE {condition}"
        );
    }
    let mask = buckets - 1;
    if table.key().is_empty() {
        // OFFSET 0 so that the hash is computed once per row.
        return format!(
            "SELECT {number}, (h & {mask})::int4, count(*), sum(h)::text \
             FROM (SELECT {row} AS h FROM ONLY {name} WHERE {condition} OFFSET 0) r GROUP BY 2"
        );
    }
    format!(
        "SELECT {number}, ({} & {mask})::int4, count(*), sum({row})::text \
         FROM ONLY {name} WHERE {condition} GROUP BY 2",
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
                Some(KeyPart { operator, via, compared_as, found_as }) => {
                    let of = found_as.as_deref().unwrap_or(of);
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

/// How the keys are compared: by the operators of the unique index whose columns are the key, in
/// key order. Only a btree numbers its operators so; a key `WITHOUT OVERLAPS` has another index.
/// What is not known yet is asked for in one question.
pub(super) async fn key_parts(
    warm: &mut Warm,
    keys: &Keys,
    tables: &[&Table],
) -> Result<Vec<Arc<[KeyPart]>>, Error> {
    let new: Vec<&Table> = tables.iter().copied().filter(|t| keys.get(&t.name).is_none()).collect();
    if !new.is_empty() {
        let names: Vec<String> = new.iter().map(|t| sql::table(&t.name)).collect();
        let statement = warm.prepared(KEY_PARTS).await?;
        let rows = warm.session.query(&statement, &[&names]).await?;
        let mut rows = rows.iter().peekable();
        for (n, table) in (1_i64..).zip(new) {
            let mut found: Option<Vec<KeyPart>> = None;
            while let Some(first) = rows.next_if(|row| row.get::<_, i64>(0) == n) {
                let index: u32 = first.get(1);
                let mut all = vec![first];
                while let Some(more) =
                    rows.next_if(|row| row.get::<_, i64>(0) == n && row.get::<_, u32>(1) == index)
                {
                    all.push(more);
                }
                let names: Vec<&str> = all.iter().map(|row| row.get(2)).collect();
                if found.is_none() && names == table.key() {
                    found = Some(all.into_iter().map(key_part).collect());
                }
            }
            keys.remember(&table.name, found.unwrap_or_default());
        }
    }
    Ok(tables.iter().map(|t| keys.get(&t.name).unwrap_or_default()).collect())
}

fn key_part(row: &Row) -> KeyPart {
    let (operator, via, compared_as) = (row.get(3), row.get(4), row.get(5));
    KeyPart { operator, via, compared_as, found_as: row.get(6) }
}

/// A row per table, unique index and column of it, the primary key first. A domain counts as what it
/// is built on. `OFFSET 0` keeps the planner from reading all constraints there are for each column.
const KEY_PARTS: &str = "\
    SELECT w.n, i.indexrelid, f0.attname::text, \
           format('OPERATOR(%I.%s)', n.nspname, o.oprname), \
           CASE WHEN EXISTS (SELECT FROM pg_cast x WHERE x.casttarget = f.oid \
                     AND x.castmethod = 'f' AND x.castsource = 'text'::regtype) \
                 AND NOT EXISTS (SELECT FROM pg_cast x WHERE x.casttarget = f.oid \
                     AND x.castsource = 'bpchar'::regtype) \
                THEN '::bpchar' ELSE '' END, \
           CASE WHEN f.typtype = 'e' AND f.oid <> f0.atttypid \
                THEN '::' || format_type(f.oid, NULL) ELSE '' END, \
           CASE WHEN f.unproven THEN format_type(f.oid, -1) END \
    FROM unnest($1::text[]) WITH ORDINALITY AS w(name, n) \
    JOIN pg_index i ON i.indrelid = to_regclass(w.name) AND i.indisunique AND i.indisvalid \
    CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) \
         WITH ORDINALITY AS k(attnum, class, at) \
    JOIN pg_attribute f0 ON f0.attrelid = i.indrelid AND f0.attnum = k.attnum \
    CROSS JOIN LATERAL ( \
        WITH RECURSIVE b(oid, base) AS ( \
            SELECT y.oid, y.typbasetype FROM pg_type y WHERE y.oid = f0.atttypid \
          UNION ALL \
            SELECT y.oid, y.typbasetype FROM b JOIN pg_type y ON y.oid = b.base WHERE b.base <> 0) \
        SELECT y.oid, y.typtype, EXISTS ( \
                   SELECT FROM b x WHERE EXISTS ( \
                       SELECT FROM pg_constraint k \
                       WHERE k.contypid = x.oid AND NOT k.convalidated OFFSET 0)) AS unproven \
        FROM b JOIN pg_type y ON y.oid = b.oid WHERE b.base = 0) AS f \
    JOIN pg_opclass c ON c.oid = k.class \
    JOIN pg_am m0 ON m0.oid = c.opcmethod AND m0.amname = 'btree' \
    JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3 \
         AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype \
    JOIN pg_operator o ON o.oid = m.amopopr \
    JOIN pg_namespace n ON n.oid = o.oprnamespace \
    WHERE k.at <= i.indnkeyatts \
    ORDER BY w.n, i.indisprimary DESC, i.indexrelid, k.at";

/// Digest of every part, per bucket.
pub(super) async fn parts(
    session: &Session,
    parts: &[Part<'_>],
) -> Result<Vec<Vec<Digest>>, Error> {
    let mut digests: Vec<Vec<Digest>> =
        parts.iter().map(|p| vec![Digest::default(); p.buckets.max(1) as usize]).collect();
    for (start, group) in (0..).step_by(PER_STATEMENT).zip(parts.chunks(PER_STATEMENT)) {
        let statements: Vec<String> = group
            .iter()
            .enumerate()
            .map(|(i, part)| part_statement(start + i, part, session.hashing()))
            .collect();
        let rows = session.query(&statements.join(" UNION ALL "), &[]).await?;
        for row in &rows {
            let (part, at): (i32, i32) = (row.get(0), row.get(1));
            let count: i64 = row.get(2);
            let sum: Option<&str> = row.get(3);
            let place = usize::try_from(part).ok().and_then(|part| digests.get_mut(part));
            let at = usize::try_from(at).ok();
            if let Some(digest) = place.zip(at).and_then(|(part, at)| part.get_mut(at)) {
                digest.rows = u64::try_from(count).unwrap_or(0);
                digest.sum = sum.and_then(|s| s.parse().ok()).unwrap_or(0);
            }
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

/// Does what a lookup in these tables does before it reads.
pub(super) async fn get_ready(
    warm: &mut Warm,
    keys: &Keys,
    tables: &[&Table],
) -> Result<(), Error> {
    let texts = keyed_statements(warm, keys, tables).await?;
    warm.make_room(&texts);
    warm.prepared_all(&texts).await.map(drop)
}

async fn keyed_statements(
    warm: &mut Warm,
    keys: &Keys,
    tables: &[&Table],
) -> Result<Vec<String>, Error> {
    let parts = key_parts(warm, keys, tables).await?;
    let hashing = warm.session.hashing();
    Ok(tables
        .iter()
        .zip(parts)
        .map(|(table, parts)| keyed_statement(table, &parts, hashing))
        .collect())
}

/// The rows with these keys, in one round trip once the statements of the tables are prepared.
pub(super) async fn keyed(
    warm: &mut Warm,
    keys: &Keys,
    wanted: &[Lookup<'_>],
) -> Result<Vec<Vec<RowDigest>>, Error> {
    let tables: Vec<&Table> = wanted.iter().map(|l| l.table).collect();
    let texts = keyed_statements(warm, keys, &tables).await?;
    let statements = warm.prepared_all(&texts).await?;
    let session = &warm.session;
    let reads = wanted.iter().zip(&statements).map(async |(lookup, statement)| {
        let columns: Vec<Vec<&str>> = (0..lookup.table.key().len())
            .map(|i| lookup.keys.iter().map(|k| k.0.get(i).map_or("", String::as_str)).collect())
            .collect();
        let parameters: Vec<&(dyn ToSql + Sync)> =
            columns.iter().map(|c| c as &(dyn ToSql + Sync)).collect();
        let rows = session.query(statement, &parameters).await?;
        Ok(rows.iter().map(row_digest).collect())
    });
    join_all(reads).await.into_iter().collect()
}

fn row_digest(row: &Row) -> RowDigest {
    RowDigest { key: RowKey(row.get(0)), hash: row.get(1) }
}

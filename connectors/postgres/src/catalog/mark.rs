//! Whether the catalog still says what it said, without reading it again.
//!
//! A version of a row carries the transaction that wrote it. What an earlier look did not see was
//! written by a transaction that is not older than the oldest which was under way then. So the rows
//! of a kind are counted, and only those that are not older are looked at closely: when these are
//! the same nothing came, and when there are as many as before nothing went. Numbers of
//! transactions are compared around their circle, which is right for 2^31 of them: a mark that is
//! older than half of that is never the same again. What the server writes in place (statistics,
//! hints) counts as no change.

/// Rows of a catalog, called `k`, that are told apart by nothing but what they say themselves: so
/// that whatever comes among them is new, and whatever leaves them is gone.
struct Kind(&'static str, &'static str);

/// The same, of tables, where a row goes only with another one that is counted, or is replaced. `.2`:
/// the number of the table. Those of temporary tables do not count.
struct Part(&'static str, &'static str, &'static str);

/// What tables are like: themselves, columns, keys, partitions, types and collations, names of
/// schemas, what belongs to an extension. A column that is dropped stays as one that was.
const DEFINITIONS: (&[Kind], &[Part]) = (
    &[
        Kind("pg_class", "k.relkind IN ('r', 'p', 'i', 'I') AND k.relpersistence <> 't'"),
        Kind("pg_inherits", "true"),
        // Neither arrays nor rows of tables: they say nothing of their own.
        Kind("pg_type", "k.typrelid = 0 AND k.typarray <> 0"),
        Kind("pg_enum", "true"),
        Kind("pg_collation", "true"),
        Kind("pg_namespace", "k.nspname !~ '^pg_'"),
        Kind("pg_depend", "k.refclassid = 'pg_extension'::regclass"),
    ],
    &[Part("pg_attribute", "k.attnum > 0", "attrelid"), Part("pg_index", "true", "indrelid")],
);

/// What [`super::all_sequences`] reads. Whose a sequence is changes with its own row.
const SEQUENCES: (&[Kind], &[Part]) = (
    &[
        Kind("pg_class", "k.relkind = 'S' AND k.relpersistence <> 't'"),
        Kind("pg_sequence", "true"),
        Kind("pg_attrdef", "true"),
        Kind("pg_namespace", "k.nspname !~ '^pg_'"),
        Kind("pg_depend", "k.refclassid = 'pg_extension'::regclass"),
    ],
    &[],
);

/// Asks about definitions: a text that is `$1`, that of an earlier look, as long as nothing changed;
/// without one (NULL), a new one.
pub(crate) fn definitions_mark() -> String {
    statement(DEFINITIONS)
}

/// The same about sequences.
pub(crate) fn sequences_mark() -> String {
    statement(SEQUENCES)
}

/// A mark begins with the transaction from which on rows are looked at closely.
fn statement((kinds, parts): (&[Kind], &[Part])) -> String {
    const NOT_OLDER: &str = "age(k.xmin) <= (SELECT age(xid::text::xid8::xid) FROM since)";
    const SUM: &str = "sum(hashtidextended(k.ctid, k.xmin::text::int8))";
    let kinds = kinds.iter().map(|Kind(catalog, condition)| {
        format!(
            "(SELECT concat_ws(':', count(*), {SUM} FILTER (WHERE {NOT_OLDER})) \
              FROM pg_catalog.{catalog} k WHERE {condition})"
        )
    });
    // OFFSET 0: few rows are left to be asked for their table, which the planner cannot know.
    let parts = parts.iter().map(|Part(catalog, condition, table)| {
        format!(
            "(SELECT concat_ws(':', count(*), {SUM}) \
              FROM (SELECT k.ctid, k.xmin, k.{table} AS relid FROM pg_catalog.{catalog} k \
                     WHERE {NOT_OLDER} AND {condition} OFFSET 0) k \
              WHERE (SELECT c.relkind IN ('r', 'p') AND c.relpersistence <> 't' \
                       FROM pg_catalog.pg_class c WHERE c.oid = k.relid))"
        )
    });
    let all: Vec<String> = kinds.chain(parts).collect();
    format!(
        "WITH since AS MATERIALIZED ( \
           SELECT CASE WHEN now - was BETWEEN 0 AND 1073741824 THEN was ELSE now END AS xid \
             FROM (SELECT split_part($1::text, ' ', 1)::int8 AS was, \
                          pg_snapshot_xmin(pg_current_snapshot())::text::int8 AS now) AS x) \
         SELECT concat_ws(' ', (SELECT xid FROM since), {})",
        all.join(", ")
    )
}

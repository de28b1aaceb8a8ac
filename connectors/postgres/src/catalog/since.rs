//! Since when a publication carries a table.
//!
//! A partition is carried with the nearest of its ancestors that is published, and only while it
//! hangs there: when it leaves and comes back, what was written in between is in no stream. So
//! what tells is the entry of the publication, the table's number, and the transaction that
//! attached it at each level; all of them are the same for as long as nothing was missed.

use crate::sql::{self, Names};

/// The text as an SQL expression; NULL for a table that is not carried. `oid` is an expression.
pub(crate) fn since(oid: &str, names: &Names) -> String {
    format!(
        "(WITH RECURSIVE up(at, level, path) AS (
    SELECT ({oid})::oid, 0, (({oid})::oid)::text
    UNION ALL
    SELECT i.inhparent, up.level + 1, up.path || ':' || i.xmin::text
      FROM up JOIN pg_class k ON k.oid = up.at AND k.relispartition
      JOIN pg_inherits i ON i.inhrelid = up.at AND NOT i.inhdetachpending)
  SELECT coalesce(r.oid, 0)::text || ':' || up.path
    FROM up JOIN pg_publication b ON b.pubname = {publication}
    LEFT JOIN pg_publication_rel r ON r.prpubid = b.oid AND r.prrelid = up.at
   WHERE r.oid IS NOT NULL OR b.puballtables ORDER BY up.level LIMIT 1)",
        publication = sql::literal(names.publication())
    )
}

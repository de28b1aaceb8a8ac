//! CHECK and NOT NULL constraints that are not valid: rows of before may break them. Both sides hold
//! such rows, and COPY takes them only while the constraint is away.
//!
//! A table has such constraints of its own, of a table further up, or of the domains of its columns.

use std::collections::HashSet;

use cutover_core::{model::schema::TableName, port::Result};
use tokio_postgres::{Client, Error};

use crate::{connect::port_error, sql};

/// Constraints of tables that ask rows of today and not those of before.
const UNPROVEN: &str = "k.contype IN ('c', 'n') AND NOT k.convalidated
    AND coalesce(pg_catalog.to_jsonb(k)->>'conenforced', 'true') = 'true'";

/// All tables with such constraints.
const TABLES: &str = "
WITH RECURSIVE d(oid) AS (
  SELECT k.contypid FROM pg_catalog.pg_constraint k
   WHERE k.contypid <> 0 AND k.contype = 'c' AND NOT k.convalidated
  UNION
  SELECT x.oid FROM d CROSS JOIN LATERAL (
    SELECT t.oid FROM pg_catalog.pg_type t WHERE d.oid IN (t.typbasetype, t.typelem)
    UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE r.rngsubtype = d.oid
    UNION ALL SELECT r.rngmultitypid FROM pg_catalog.pg_range r WHERE r.rngsubtype = d.oid
    UNION ALL SELECT c.reltype FROM pg_catalog.pg_attribute a
                JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
               WHERE a.atttypid = d.oid AND NOT a.attisdropped AND c.reltype <> 0
  ) AS x
)
SELECT n.nspname::text, c.relname::text
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid IN (SELECT k.conrelid FROM pg_catalog.pg_constraint k WHERE UNPROVEN)
    OR c.oid IN (SELECT a.attrelid FROM d JOIN pg_catalog.pg_attribute a ON a.atttypid = d.oid
                  WHERE NOT a.attisdropped)";

/// Where the constraints of table `$1` are defined, those furthest up first, and how each is dropped
/// and put back. What one of them was found valid for stays valid, up to `$2` bytes of it: they are
/// read for that each time. Those that we may not alter are left.
const OF_TABLE: &str = "
WITH RECURSIVE up(oid, height) AS (
  SELECT $1::text::pg_catalog.regclass::pg_catalog.oid, 0
  UNION
  SELECT i.inhparent, up.height + 1
    FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid
), k AS (
  SELECT k.oid, k.conrelid, k.conname, k.contype, k.connoinherit,
         k.conislocal OR k.coninhcount = 0 AS is_local,
         CASE WHEN k.contype = 'n' THEN a.attname ELSE k.conname END AS what
    FROM pg_catalog.pg_constraint k
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
   WHERE k.conrelid IN (SELECT oid FROM up) AND UNPROVEN
), definers AS (
  SELECT k.*, max(up.height) AS height FROM k JOIN up ON up.oid = k.conrelid
   WHERE k.is_local AND (up.height = 0 OR NOT k.connoinherit)
     AND EXISTS (SELECT FROM k AS own WHERE own.conrelid = $1::text::pg_catalog.regclass
                    AND own.contype = k.contype AND own.what = k.what)
   GROUP BY k.oid, k.conrelid, k.conname, k.contype, k.connoinherit, k.is_local, k.what
)
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.quote_ident(d.conname),
       pg_catalog.pg_get_constraintdef(d.oid), all_below.ours, all_below.proven,
       coalesce(all_below.proven_bytes, 0) <= $2::int8, all_below.comments
  FROM definers d JOIN pg_catalog.pg_class c ON c.oid = d.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  CROSS JOIN LATERAL (
    WITH RECURSIVE down(oid) AS (
      SELECT d.conrelid
      UNION
      SELECT i.inhrelid FROM down JOIN pg_catalog.pg_inherits i ON i.inhparent = down.oid
       WHERE NOT d.connoinherit
    )
    SELECT bool_and(pg_catalog.pg_has_role(b.relowner, 'USAGE')) AS ours,
           array_agg(pg_catalog.format('ALTER TABLE %I.%I VALIDATE CONSTRAINT %I', s.nspname,
                                       b.relname, x.conname)) FILTER (WHERE x.convalidated) AS proven,
           sum(pg_catalog.pg_relation_size(b.oid)) FILTER (WHERE x.convalidated) AS proven_bytes,
           array_agg(pg_catalog.format('COMMENT ON CONSTRAINT %I ON %I.%I IS %L', x.conname,
                                       s.nspname, b.relname, o.description))
             FILTER (WHERE o.description IS NOT NULL) AS comments
      FROM down JOIN pg_catalog.pg_class b ON b.oid = down.oid
      JOIN pg_catalog.pg_namespace s ON s.oid = b.relnamespace
      LEFT JOIN pg_catalog.pg_constraint x
        ON x.conrelid = b.oid AND x.contype = d.contype
       AND CASE WHEN d.contype = 'n'
                THEN d.what = (SELECT a.attname FROM pg_catalog.pg_attribute a
                                WHERE a.attrelid = b.oid AND a.attnum = x.conkey[1])
                ELSE d.what = x.conname END
      LEFT JOIN pg_catalog.pg_description o
        ON o.objoid = x.oid AND o.classoid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
  ) AS all_below
 ORDER BY d.height DESC, d.conrelid, d.conname";

/// How the constraints of the domains below the columns of table `$1` are dropped and put back.
const OF_DOMAINS: &str = "
WITH RECURSIVE below(oid) AS (
  SELECT a.atttypid FROM pg_catalog.pg_attribute a
   WHERE a.attrelid = $1::text::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped
  UNION
  SELECT x.oid FROM below JOIN pg_catalog.pg_type t ON t.oid = below.oid CROSS JOIN LATERAL (
    SELECT unnest(ARRAY[t.typbasetype, t.typelem]) AS oid
    UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
               WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r
               WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
  ) AS x WHERE x.oid <> 0
)
SELECT pg_catalog.format('ALTER DOMAIN %s DROP CONSTRAINT %I', y.name, k.conname),
       pg_catalog.format('ALTER DOMAIN %s ADD CONSTRAINT %I %s', y.name, k.conname,
                         pg_catalog.pg_get_constraintdef(k.oid)),
       pg_catalog.format('COMMENT ON CONSTRAINT %I ON DOMAIN %s IS %L', k.conname, y.name,
                         nullif(pg_catalog.obj_description(k.oid, 'pg_constraint'), ''))
  FROM below JOIN pg_catalog.pg_constraint k ON k.contypid = below.oid
  JOIN pg_catalog.pg_type t ON t.oid = k.contypid
  JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  CROSS JOIN LATERAL (SELECT pg_catalog.format('%I.%I', n.nspname, t.typname) AS name) AS y
 WHERE k.contype = 'c' AND NOT k.convalidated AND pg_catalog.pg_has_role(t.typowner, 'USAGE')
 ORDER BY k.contypid, k.conname";

/// Held by whoever alters domains: the server would let the second one fail.
const ALONE: &str = "SELECT pg_catalog.pg_advisory_xact_lock(\
                     pg_catalog.hashtextextended('cutover: domains', 0))";

/// What may have to be read again for each part of a table, in bytes.
const PROVEN_BYTES: i64 = 64 << 20;

/// All tables with such constraints.
pub(super) async fn tables(client: &Client, at: &str) -> Result<HashSet<TableName>> {
    let rows = client.query(&TABLES.replace("UNPROVEN", UNPROVEN), &[]).await;
    let rows = rows.map_err(|e| port_error(format!("reading the constraints of {at}"), e))?;
    Ok(rows.iter().map(|r| TableName::new(r.get::<_, &str>(0), r.get::<_, &str>(1))).collect())
}

/// Constraints that are away until the transaction ends or they are put back.
pub(super) struct Away(String);

/// Drops them, in the transaction of `client`. Nobody else uses the table until it ends, nor those
/// that share a constraint with it.
pub(super) async fn set_aside(client: &Client, at: &str, table: &TableName) -> Result<Away> {
    let dropped = drop_all(client, table).await;
    dropped.map(Away).map_err(|e| port_error(doing(at, table), e))
}

/// Statements, in their order.
#[derive(Default)]
struct Statements {
    lock: Vec<String>,
    drop: Vec<String>,
    put_back: Vec<String>,
}

async fn drop_all(client: &Client, table: &TableName) -> std::result::Result<String, Error> {
    let on = sql::table(table);
    let found = of_table(client, &on).await?;
    client.batch_execute(&found.lock.join(";")).await?;
    // Once more: somebody else may have been doing the same.
    let mut all = of_table(client, &on).await?;
    client.batch_execute(&all.drop.join(";")).await?;

    if !client.query(OF_DOMAINS, &[&on]).await?.is_empty() {
        client.batch_execute(ALONE).await?;
        let mut drop = Vec::new();
        for row in client.query(OF_DOMAINS, &[&on]).await? {
            drop.push(row.get::<_, String>(0));
            all.put_back.extend([1, 2].into_iter().filter_map(|i| row.get(i)));
        }
        client.batch_execute(&drop.join(";")).await?;
    }
    Ok(all.put_back.join(";"))
}

async fn of_table(client: &Client, on: &str) -> std::result::Result<Statements, Error> {
    let mut all = Statements::default();
    let (mut proven, mut comments) = (Vec::new(), Vec::new());
    let query = OF_TABLE.replace("UNPROVEN", UNPROVEN);
    for row in client.query(&query, &[&on, &PROVEN_BYTES]).await? {
        let (definer, name): (&str, &str) = (row.get(0), row.get(1));
        // Nothing where somebody else has dropped it just now, who will be waited for.
        let text: &str = row.get::<_, Option<_>>(2).unwrap_or_default();
        if !row.get::<_, bool>(3) || !row.get::<_, bool>(5) {
            continue;
        }
        all.lock.push(format!("LOCK TABLE {definer} IN ACCESS EXCLUSIVE MODE"));
        all.drop.push(format!("ALTER TABLE {definer} DROP CONSTRAINT {name}"));
        // Below first: what comes from further up is joined with what is there.
        all.put_back.insert(0, format!("ALTER TABLE {definer} ADD CONSTRAINT {name} {text}"));
        proven.extend(row.get::<_, Option<Vec<String>>>(4).unwrap_or_default());
        comments.extend(row.get::<_, Option<Vec<String>>>(6).unwrap_or_default());
    }
    all.put_back.extend(proven);
    all.put_back.extend(comments);
    Ok(all)
}

impl Away {
    /// Puts them back, not valid as they were.
    pub(super) async fn put_back(self, client: &Client, at: &str, table: &TableName) -> Result<()> {
        client.batch_execute(&self.0).await.map_err(|e| port_error(doing(at, table), e))
    }
}

fn doing(at: &str, table: &TableName) -> String {
    format!("copying rows that may break a constraint of table {table} on {at}")
}

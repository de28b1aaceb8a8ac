//! CHECK and NOT NULL constraints that are not valid: rows of before may break them. Both sides hold such rows, and
//! COPY takes them only while the constraint is away.

use std::collections::HashSet;

use cutover_core::{model::schema::TableName, port::Result};
use tokio_postgres::{Client, Error};

use crate::{connect::port_error, sql};

/// Those that we may drop. What is inherited, or has heirs, is defined elsewhere, too.
const UNPROVEN: &str = "
  FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE k.contype IN ('c', 'n') AND NOT k.convalidated
   AND coalesce(pg_catalog.to_jsonb(k)->>'conenforced', 'true') = 'true'
   AND k.coninhcount = 0 AND pg_catalog.pg_has_role(c.relowner, 'USAGE')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = k.conrelid)";

/// All tables with such constraints.
pub(super) async fn tables(client: &Client, at: &str) -> Result<HashSet<TableName>> {
    let query = format!("SELECT n.nspname::text, c.relname::text{UNPROVEN}");
    let rows = client.query(&query, &[]).await;
    let rows = rows.map_err(|e| port_error(format!("reading the constraints of {at}"), e))?;
    Ok(rows.iter().map(|r| TableName::new(r.get::<_, &str>(0), r.get::<_, &str>(1))).collect())
}

/// Constraints that are away until the transaction ends or they are put back.
pub(super) struct Away(String);

/// Drops them, in the transaction of `client`. Nobody else uses the table until it ends.
pub(super) async fn set_aside(client: &Client, at: &str, table: &TableName) -> Result<Away> {
    let dropped = drop_all(client, table).await;
    dropped.map(Away).map_err(|e| port_error(doing(at, table), e))
}

async fn drop_all(client: &Client, table: &TableName) -> std::result::Result<String, Error> {
    let on = sql::table(table);
    // Before they are read: somebody else may be doing the same.
    client.batch_execute(&format!("LOCK TABLE ONLY {on} IN ACCESS EXCLUSIVE MODE")).await?;
    let query = format!(
        "SELECT k.conname::text, pg_catalog.pg_get_constraintdef(k.oid), \
                pg_catalog.obj_description(k.oid, 'pg_constraint'){UNPROVEN} \
           AND k.conrelid = $1::text::regclass ORDER BY k.conname"
    );
    let (mut drop, mut put_back) = (String::new(), String::new());
    for row in client.query(&query, &[&on]).await? {
        let (name, text): (&str, &str) = (row.get(0), row.get(1));
        let name = sql::ident(name);
        drop += &format!("ALTER TABLE {on} DROP CONSTRAINT {name};");
        put_back += &format!("ALTER TABLE {on} ADD CONSTRAINT {name} {text};");
        if let Some(comment) = row.get::<_, Option<&str>>(2) {
            let comment = sql::literal(comment);
            put_back += &format!("COMMENT ON CONSTRAINT {name} ON {on} IS {comment};");
        }
    }
    client.batch_execute(&drop).await?;
    Ok(put_back)
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

//! Which parts of a table are there.
//!
//! A part and its row here are one transaction, so that they are committed, forgotten by a server
//! that crashes, or missing on one that takes over, together. A row counts for the file that the
//! table had: whoever empties a table, or makes it anew, gives it another one.

use cutover_core::{
    model::schema::TableName,
    port::{
        PortError, Result,
        sink::{Part, PartThere},
    },
};
use tokio_postgres::{Client, error::SqlState};

use super::refusal::{self, is_state};
use crate::{
    connect::port_error,
    snapshot::others,
    sql::{self, Names},
};

/// The statement that makes the table. Idempotent.
pub(super) fn create(names: &Names) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (
             target oid NOT NULL,
             file oid NOT NULL,
             part integer NOT NULL,
             snapshot text NOT NULL,
             rows bigint NOT NULL,
             PRIMARY KEY (target, part))",
        names.parts()
    )
}

/// Whether nothing keeps rows of several ranges of `column`, a whole number, apart but the column
/// itself.
pub(super) async fn takes(
    client: &Client,
    at: &str,
    table: &TableName,
    column: &str,
) -> Result<bool> {
    let takes = format!(
        "SELECT c.relkind = 'r' AND a.atttypid IN (21, 23, 20) AND NOT EXISTS (SELECT FROM {})
           FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_attribute a
             ON a.attrelid = c.oid AND a.attname = $2 AND a.attnum > 0
          WHERE c.oid = pg_catalog.to_regclass($1)",
        others("c.oid", "a.attnum")
    );
    let row = client.query_opt(&takes, &[&sql::table(table), &column]).await;
    let row = row.map_err(|e| port_error(format!("looking at table {table} on {at}"), e))?;
    Ok(row.is_some_and(|row| row.get(0)))
}

/// Notes a part, in the transaction that has written it.
pub(super) async fn note(
    client: &Client,
    at: &str,
    names: &Names,
    table: &TableName,
    part: &Part,
    rows: u64,
) -> Result<()> {
    let text = format!(
        "INSERT INTO {} SELECT c.oid, pg_catalog.pg_relation_filenode(c.oid), $2, $3, $4 \
           FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass($1)",
        names.parts()
    );
    let doing = || format!("noting that part {} of table {table} is on {at}", part.number);
    let (number, rows) = (i32::try_from(part.number), i64::try_from(rows));
    let (Ok(number), Ok(rows)) = (number, rows) else {
        return Err(refusal::not_a_stream(format!("{}: it has no such number", doing())));
    };
    let name = sql::table(table);
    let noted = client.execute(&text, &[&name, &number, &part.snapshot, &rows]).await;
    match noted {
        Ok(1) => Ok(()),
        Ok(_) => Err(refusal::table_missing(table)),
        // Who was cut off has committed after all: whoever looks again finds it there.
        Err(e) if is_state(&e, &SqlState::UNIQUE_VIOLATION) => {
            Err(PortError::transient(doing(), "it is there already"))
        }
        Err(e) => Err(port_error(doing(), e)),
    }
}

/// A row that comes and goes. A server that hands out a transaction in pieces takes from its first
/// change whose it is, and where a table is emptied or altered first there is nothing to be taken:
/// whoever follows this side would see a stranger in our own transaction.
pub(super) fn first_change(names: &Names) -> String {
    let parts = names.parts();
    format!(
        "INSERT INTO {parts} VALUES (0, 0, pg_catalog.pg_backend_pid(), '', 0); \
         DELETE FROM {parts} WHERE target = 0 AND part = pg_catalog.pg_backend_pid()"
    )
}

/// The parts that are there. Whoever is writing one has ended before.
pub(super) async fn there(
    client: &Client,
    at: &str,
    names: &Names,
    table: &TableName,
) -> Result<Vec<PartThere>> {
    let query = format!(
        "SELECT p.part, p.snapshot, p.rows FROM {} p \
          WHERE p.target = pg_catalog.to_regclass($1) \
            AND p.file = pg_catalog.pg_relation_filenode(p.target) ORDER BY p.part",
        names.parts()
    );
    let err = |e| failed(at, table, e);
    client.batch_execute(&format!("BEGIN; {}", wait(table))).await.map_err(err)?;
    let rows = client.query(&query, &[&sql::table(table)]).await.map_err(err)?;
    client.batch_execute("COMMIT").await.map_err(err)?;
    let there = rows.iter().map(|row| PartThere {
        part: Part { number: row.get::<_, i32>(0).cast_unsigned(), snapshot: row.get(1) },
        rows: row.get::<_, i64>(2).cast_unsigned(),
    });
    Ok(there.collect())
}

/// Forgets the parts of a table that is about to be emptied. Whoever is writing one has ended before.
pub(super) async fn forget(
    client: &Client,
    at: &str,
    names: &Names,
    table: &TableName,
) -> Result<()> {
    let (parts, err) = (names.parts(), |e| failed(at, table, e));
    // Whoever empties a table need not have prepared anything.
    let noted = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";
    let noted = client.query_one(noted, &[&parts]).await.map_err(err)?.get(0);
    let delete = match noted {
        true => format!(
            "DELETE FROM {parts} WHERE target = {}::pg_catalog.regclass;",
            sql::literal(&sql::table(table))
        ),
        false => String::new(),
    };
    let text = format!("BEGIN; {}; {delete} COMMIT", wait(table));
    client.batch_execute(&text).await.map_err(err)
}

/// Nobody has an open transaction that has written to the table.
fn wait(table: &TableName) -> String {
    format!("LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE", sql::table(table))
}

fn failed(at: &str, table: &TableName, e: tokio_postgres::Error) -> PortError {
    if is_state(&e, &SqlState::UNDEFINED_TABLE) {
        return refusal::table_missing(table);
    }
    port_error(format!("looking for parts of table {table} on {at}"), e)
}

//! Tables stay where they are while they are read.
//!
//! A session under a snapshot holds what it reads until its transaction ends, and looks first
//! whether the table was written anew since the snapshot. A table in parts is read from one set of
//! pages then: `VACUUM FULL` and `CLUSTER` move its rows from part to part. And what `ALTER TABLE`
//! wrote anew no older snapshot sees, so that the table would seem to be empty.
//!
//! Nothing is held before its turn, and nothing for long: whoever alters a table waits for us, and
//! clients wait behind. What is written anew between two turns is read again from its beginning.

use std::collections::BTreeMap;

use cutover_core::{
    model::schema::{Table, TableName},
    port::{Result, error::PortError},
};
use futures_util::future::join;
use tokio_postgres::error::SqlState;

use super::View;
use crate::{connect::port_error, shelf::Warm, sql};

/// Reads after which a session lets go of everything, so that it holds no more tables either: the
/// server's lock table is shared by everybody.
pub(super) const READS: usize = 64;

/// A table, and whether a place in it is read and not the whole.
pub(super) type Wanted<'a> = (&'a Table, bool);

/// Which of these tables have other pages than the snapshot knows: the catalog is read as of the
/// snapshot, and the function knows what is.
const REWRITTEN: &str = "
    SELECT w.name FROM unnest($1::text[]) AS w(name)
      JOIN pg_class c ON c.oid = to_regclass(w.name)
     WHERE pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode";

/// What `ALTER TABLE` changes whenever it writes a table anew, and nothing else that does.
const DEFINITION: &str = "
    SELECT concat_ws(' ', c.relpersistence, c.relam,
                     string_agg(a.attnum || ':' || a.xmin, ' ' ORDER BY a.attnum))
      FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
     WHERE c.oid = to_regclass($1) GROUP BY c.oid";

impl View {
    /// An idle session under the snapshot, or a new one, that holds these tables.
    ///
    /// # Errors
    ///
    /// A transient one when a table is not any more what the snapshot knows: a later one does.
    pub(super) async fn holding(&self, wanted: &[Wanted<'_>]) -> Result<Warm> {
        let mut warm = self.session().await?;
        let mut parts: BTreeMap<&TableName, bool> = BTreeMap::new();
        for (table, in_part) in wanted {
            *parts.entry(&table.name).or_default() |= in_part;
        }
        if warm.reads > 0 && warm.reads + wanted.len() > READS {
            self.begin_again(&mut warm).await?;
        }
        warm.reads += wanted.len();
        let new: Vec<TableName> =
            parts.keys().filter(|t| !warm.held.contains_key(**t)).map(|t| (*t).clone()).collect();
        if !new.is_empty() {
            self.hold(&mut warm, new).await?;
        }
        // A whole table may have been packed anew: its rows are the same.
        match parts.iter().find(|(table, in_part)| **in_part && warm.held[**table]) {
            Some((table, _)) => Err(self.moved(table)),
            None => Ok(warm),
        }
    }

    async fn hold(&self, warm: &mut Warm, tables: Vec<TableName>) -> Result<()> {
        let doing = || self.doing(&format!("holding {}", tables[0]));
        let names: Vec<String> = tables.iter().map(sql::table).collect();
        let lock = format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", names.join(", ONLY "));
        let look = warm.prepared(REWRITTEN).await.map_err(|e| port_error(doing(), e))?;
        // In one round trip: the second is not begun before the first is done.
        let (locked, rewritten) =
            join(warm.session.batch_execute(&lock), warm.session.query(&look, &[&names])).await;
        let rewritten = locked.and(rewritten).map_err(|e| match e.code() {
            // Nothing was held yet, or a standby took from us what we held.
            Some(&SqlState::UNDEFINED_TABLE) => PortError::transient(doing(), e),
            _ => port_error(doing(), e),
        })?;
        let rewritten: Vec<&str> = rewritten.iter().map(|row| row.get(0)).collect();
        for (table, name) in tables.iter().zip(&names) {
            let moved = rewritten.contains(&name.as_str()) && self.has_moved(warm, table).await?;
            warm.held.insert(table.clone(), moved);
        }
        Ok(())
    }

    /// Whether the rows of a table that was written anew have other places. Where we see none, it
    /// was emptied, and that is what the stream says too; or all of them are rows of `ALTER TABLE`.
    async fn has_moved(&self, warm: &Warm, table: &TableName) -> Result<bool> {
        let err = |e| port_error(self.doing(&format!("looking at {table}")), e);
        let name = sql::table(table);
        let some = format!("SELECT FROM ONLY {name} LIMIT 1");
        if warm.session.query_opt(&some, &[]).await.map_err(err)?.is_some() {
            return Ok(true);
        }
        let now = self.db.control().await?;
        let mut definitions = Vec::new();
        for session in [&warm.session, &now] {
            let row = session.query_opt(DEFINITION, &[&name]).await.map_err(err)?;
            definitions.push(row.map(|row| row.get::<_, String>(0)));
        }
        if definitions[0] == definitions[1] { Ok(false) } else { Err(self.moved(table)) }
    }

    fn moved(&self, table: &TableName) -> PortError {
        PortError::transient(
            self.doing(&format!("reading {table}")),
            format!(
                "{table} was written anew meanwhile (VACUUM FULL, CLUSTER, ALTER TABLE): it is read \
                 again under a later snapshot"
            ),
        )
    }
}

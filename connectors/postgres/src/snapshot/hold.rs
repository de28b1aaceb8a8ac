//! Tables stay where they are while they are read.
//!
//! A session under a snapshot holds what it reads as long as it reads it, and looks first whether
//! the table was written anew since the snapshot. A table in parts is read from one set of pages
//! then: `VACUUM FULL` and `CLUSTER` move its rows from part to part. And what `ALTER TABLE` wrote
//! anew no older snapshot sees, so that the table would seem to be empty.
//!
//! Nothing is held before its turn, and nothing behind it: whoever alters a table waits for us, and
//! clients wait behind. What is written anew between two turns is read again from its beginning,
//! under a later snapshot.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use cutover_core::{
    model::schema::{Table, TableName},
    port::{Result, error::PortError},
};
use futures_util::future::join;
use tokio::time::sleep;
use tokio_postgres::error::SqlState;

use super::View;
use crate::{catalog, connect::port_error, patience, shelf::Warm, sql};

/// Reads that a session does before it lets go of everything, so that it holds no more tables
/// either: the server's lock table is shared by everybody.
pub(super) const READS: usize = 64;

/// How long somebody may have a table for himself before we give up: whoever reads under a snapshot
/// keeps its server from cleaning up, and the one on the other side as well.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Between two tries to hold several tables: clients who wait for one of them get it meanwhile.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// Gives up a statement before the server looks for a deadlock in the session of a client who waits
/// for what it has taken: the client would be the one to lose. Nor does one wait for long where the
/// server looks late.
const HURRY: &str = "SELECT set_config('statement_timeout', greatest(1, least(500, \
    500 * extract(epoch FROM current_setting('deadlock_timeout')::interval))::int)::text, true)";

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

/// What a table that is held has become since the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pages {
    /// As it was.
    Same,
    /// Its rows have other places.
    Packed,
    /// It was emptied. The stream says so as well.
    Emptied,
    /// No row of it can be seen: all of them are rows of `ALTER TABLE`, or it is gone.
    Unseen,
}

/// What came of a try to hold tables.
enum Held {
    All,
    /// One of them is not there any more. The session is of no use.
    Gone,
    /// Somebody has one of them, and may wait for another. The transaction has failed.
    Busy,
}

impl Pages {
    /// Whether what the snapshot sees there, in a part of the table or in all of it, is less than
    /// it contains.
    fn are_others(self, in_part: bool) -> bool {
        self == Self::Unseen || (self == Self::Packed && in_part)
    }
}

impl View {
    /// An idle session under the snapshot, or a new one, that holds these tables.
    ///
    /// # Errors
    ///
    /// A transient one when a table is not any more what the snapshot knows, or is not to be had: a
    /// later one does.
    pub(super) async fn holding(&self, wanted: &[Wanted<'_>]) -> Result<Warm> {
        let warm = self.held(wanted).await??;
        match wanted.iter().find(|(table, part)| warm.held[&table.name].are_others(*part)) {
            Some((table, _)) => Err(self.moved(&table.name)),
            None => Ok(warm),
        }
    }

    /// The same for one table of which rows are to be read; what it has become, or why a later
    /// snapshot is needed.
    pub(super) async fn opening(
        &self,
        (table, in_part): Wanted<'_>,
    ) -> Result<std::result::Result<(Warm, Pages), PortError>> {
        let name = &table.name;
        let warm = match self.held(&[(table, in_part)]).await? {
            Ok(warm) => warm,
            Err(why) => return Ok(Err(why)),
        };
        let pages = warm.held[name];
        Ok(if pages.are_others(in_part) { Err(self.moved(name)) } else { Ok((warm, pages)) })
    }

    /// A session that holds them, or why a later snapshot is needed.
    async fn held(&self, wanted: &[Wanted<'_>]) -> Result<std::result::Result<Warm, PortError>> {
        let tables: BTreeSet<&TableName> = wanted.iter().map(|(table, _)| &table.name).collect();
        let tables: Vec<TableName> = tables.into_iter().cloned().collect();
        let doing = || match &tables[..] {
            [table] => self.doing(&format!("reading {table}")),
            _ => self.doing("holding tables"),
        };
        let mut warm = self.session().await?;
        let begun = Instant::now();
        loop {
            match self.hold(&mut warm, &tables).await? {
                Held::All => return Ok(Ok(warm)),
                Held::Gone => {
                    let gone = format!("{} is gone", if tables.len() > 1 { "one" } else { "it" });
                    return Ok(Err(PortError::transient(doing(), gone)));
                }
                Held::Busy if begun.elapsed() >= PATIENCE => {
                    return Ok(Err(self.kept_from(doing(), &tables).await));
                }
                Held::Busy => tracing::debug!("somebody has one of {} tables", tables.len()),
            }
            self.begin_again(&mut warm).await?;
            sleep(PAUSE).await;
        }
    }

    /// Why these tables are not to be had: who has the first of them that somebody has.
    pub(super) async fn kept_from(&self, doing: String, tables: &[TableName]) -> PortError {
        let names: Vec<String> = tables.iter().map(sql::table).collect();
        let why = async {
            let session = self.db.control().await?;
            let taken = format!(
                "WITH taken(oid) AS MATERIALIZED ({})
                 SELECT w.n FROM unnest($1::text[]) WITH ORDINALITY AS w(name, n)
                   JOIN pg_class c ON c.oid = to_regclass(w.name)
                  WHERE c.oid IN (SELECT oid FROM taken)
                     OR c.reltoastrelid IN (SELECT oid FROM taken) ORDER BY w.n",
                catalog::TAKEN
            );
            let failed = |e| port_error(doing.as_str(), e);
            let rows = session.query(&taken, &[&names]).await.map_err(failed)?;
            let at = |n: i64| tables.get(usize::try_from(n).ok()?.checked_sub(1)?).cloned();
            let busy: Vec<TableName> = rows.iter().filter_map(|row| at(row.get(0))).collect();
            // It may be over by now.
            let busy = if busy.is_empty() { tables } else { &busy };
            patience::busy_for(&session, busy, PATIENCE).await.map_err(failed)
        };
        why.await.map_or_else(|e| e, |why| PortError::transient(doing.as_str(), why))
    }

    /// One try, by a session that holds nothing. It waits for a single table as long as we ever do.
    async fn hold(&self, warm: &mut Warm, tables: &[TableName]) -> Result<Held> {
        let doing = || self.doing(&format!("holding {}", tables[0]));
        let names: Vec<String> = tables.iter().map(sql::table).collect();
        let mut lock = format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", names.join(", ONLY "));
        if tables.len() > 1 {
            lock = format!("{HURRY}; {lock}; SET LOCAL statement_timeout = 0");
        }
        let look = warm.prepared(REWRITTEN).await.map_err(|e| port_error(doing(), e))?;
        // In one round trip: the second is not begun before the first is done.
        let (locked, rewritten) =
            join(warm.session.batch_execute(&lock), warm.session.query(&look, &[&names])).await;
        let rewritten = match locked.and(rewritten) {
            Ok(rewritten) => rewritten,
            Err(e) => match e.code() {
                Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME) => {
                    return Ok(Held::Gone);
                }
                Some(&SqlState::QUERY_CANCELED | &SqlState::T_R_DEADLOCK_DETECTED)
                    if tables.len() > 1 =>
                {
                    return Ok(Held::Busy);
                }
                Some(&SqlState::LOCK_NOT_AVAILABLE) => return Ok(Held::Busy),
                _ => return Err(port_error(doing(), e)),
            },
        };
        let rewritten: Vec<&str> = rewritten.iter().map(|row| row.get(0)).collect();
        for (table, name) in tables.iter().zip(&names) {
            let pages = match rewritten.contains(&name.as_str()) {
                true => self.pages(warm, table).await?,
                false => Pages::Same,
            };
            warm.held.insert(table.clone(), pages);
        }
        Ok(Held::All)
    }

    /// What became of a table that was written anew.
    async fn pages(&self, warm: &Warm, table: &TableName) -> Result<Pages> {
        let err = |e| port_error(self.doing(&format!("looking at {table}")), e);
        let name = sql::table(table);
        let some = format!("SELECT FROM ONLY {name} LIMIT 1");
        if warm.session.query_opt(&some, &[]).await.map_err(err)?.is_some() {
            return Ok(Pages::Packed);
        }
        let now = self.db.control().await?;
        let mut definitions = Vec::new();
        for session in [&warm.session, &now] {
            let row = session.query_opt(DEFINITION, &[&name]).await.map_err(err)?;
            definitions.push(row.map(|row| row.get::<_, String>(0)));
        }
        Ok(if definitions[0] == definitions[1] { Pages::Emptied } else { Pages::Unseen })
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

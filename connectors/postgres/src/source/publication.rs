//! The publication: which tables the stream carries.
//!
//! Its comment remembers the tables and their entries by number, and the transaction that altered
//! the options last: what leaves is noticed even when it came back before anybody looked.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use cutover_core::{
    model::{
        run::RunId,
        schema::{Generated, RowIdentity, Table, TableName},
    },
    port::{PortError, Result},
};

use tokio_postgres::{Row, error::SqlState};

use super::stops;
use crate::{
    connect::{Session, port_error},
    database::Database,
    ddl,
    patience::{self, Patience, WaitsFor},
    sql::{self, Names},
};

/// Tables that are added or taken out in one transaction.
const PER_TRANSACTION: usize = 100;

/// Who writes is not in the way, and nobody who does waits for us; who defines something may.
const PATIENCE: Patience = Patience {
    waits_for: WaitsFor::Definers,
    within: Duration::from_secs(60),
    at_once: PER_TRANSACTION,
};

/// How the comment begins; the transaction and the entries follow.
const COMMENT: &str = "cutover tables since";

/// The options that the stream relies on. Leaves arrive under their own names, so that a
/// TRUNCATE of one partition is not lost.
fn options(whole_rows: bool) -> String {
    let computed = if whole_rows { ", publish_generated_columns = stored" } else { "" };
    format!(
        "publish = 'insert, update, delete, truncate', publish_via_partition_root = false{computed}"
    )
}

/// Whether stored generated columns must be published as well: from 18 on the server refuses
/// updates and deletes by clients where the identity is the whole row and the publication leaves a
/// part of it out.
fn needs_whole_rows(version: u32, tables: &[Table]) -> bool {
    let computed = |t: &Table| t.columns.iter().any(|c| c.generated == Generated::Stored);
    version >= 180_000 && tables.iter().any(|t| t.identity == RowIdentity::Full && computed(t))
}

/// What a publication carries. An entry that was taken out and made again has another number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Carried {
    /// The transaction that altered the options last.
    altered: String,
    /// The number of each table's entry, by the table's.
    entries: BTreeMap<u32, u32>,
}

impl Carried {
    fn comment(&self) -> String {
        let entries = self.entries.iter().map(|(table, entry)| format!(" {table}/{entry}"));
        format!("{COMMENT} {}:{}", self.altered, entries.collect::<String>())
    }

    fn of_comment(comment: &str) -> Option<Self> {
        let (altered, entries) = comment.strip_prefix(COMMENT)?.split_once(':')?;
        let entry = |text: &str| {
            let (table, entry) = text.split_once('/')?;
            Some((table.parse().ok()?, entry.parse().ok()?))
        };
        let entries = entries.split_whitespace().filter_map(entry).collect();
        Some(Self { altered: altered.trim().to_owned(), entries })
    }
}

/// A publication as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Published {
    carries: Carried,
    recorded: Option<Carried>,
    options_fit: bool,
    whole_rows: bool,
    for_all: bool,
}

impl Published {
    /// Recorded once and published no more.
    fn left(&self) -> Vec<u32> {
        self.recorded_where(|now, _| now.is_none())
    }

    /// Taken out since they were recorded, and published again.
    fn came_back(&self) -> Vec<u32> {
        self.recorded_where(|now, then| now.is_some_and(|now| now != then))
    }

    fn recorded_where(&self, is: impl Fn(Option<u32>, u32) -> bool) -> Vec<u32> {
        let Some(recorded) = self.recorded.as_ref().filter(|_| !self.for_all) else {
            return Vec::new();
        };
        let now = |table: &u32| self.carries.entries.get(table).copied();
        let is = |(table, then): &(&u32, &u32)| is(now(table), **then);
        recorded.entries.iter().filter(is).map(|(table, _)| *table).collect()
    }

    /// Whether the options are what the stream relies on, and always were.
    fn carries_all_kinds(&self) -> bool {
        let same = |then: &Carried| then.altered == self.carries.altered;
        self.options_fit && self.recorded.as_ref().is_none_or(same)
    }
}

/// The tables to publish: a leaf partition by its topmost parent, so that partitions that appear
/// later are published too.
fn roots(tables: &[Table]) -> BTreeSet<&TableName> {
    tables.iter().map(|t| t.root.as_ref().unwrap_or(&t.name)).collect()
}

impl Database {
    /// Brings the publication to carry `tables`. With `followed` a slot exists already: then the
    /// publication must exist, and a table that was in it once must still be.
    pub(super) async fn publish(
        &self,
        run: &RunId,
        tables: &[Table],
        followed: bool,
    ) -> Result<()> {
        let doing = self.doing("creating the publication");
        let names = Names::of(run);
        let name = names.publication();
        let warm = self.errand().await?;
        let session = &warm.session;
        let err = |e| port_error(&doing, e);
        let whole_rows = needs_whole_rows(session.version(), tables);
        let options = options(whole_rows);
        let roots: Vec<TableName> = roots(tables).into_iter().cloned().collect();
        let lists: Vec<String> = roots.iter().map(sql::table).collect();
        let rows = session.query(NOT_LOGGED, &[&lists]).await.map_err(err)?;
        if !rows.is_empty() {
            let names: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
            return Err(stops::not_logged(doing, &names));
        }
        match read(session, name).await.map_err(err)? {
            None if followed => return Err(stops::no_publication(doing, name)),
            Some(there) if followed => {
                // One that was dropped has nothing that could be missing.
                if let Some(Left::TakenOut(tables)) = self.left(session, &there).await? {
                    return Err(named(session, doing, &tables, stops::table_left).await);
                }
                // Setting them back would hide what is missing since.
                if !there.carries_all_kinds() {
                    return Err(kinds_left(doing));
                }
                if whole_rows && !there.whole_rows {
                    alter(session, name, &options, &there).await.map_err(err)?;
                }
                if !there.for_all {
                    let missing = missing(session, roots, &there).await.map_err(err)?;
                    are_identified(session, &doing, &missing).await?;
                    add(session, &doing, name, missing).await?;
                }
            }
            _ => {
                are_identified(session, &doing, &roots).await?;
                // What an attempt before the slot left behind may have other tables.
                self.unpublish(session, run).await?;
                // Whoever is cut off before the slot exists begins here again.
                let create = format!("CREATE PUBLICATION {} WITH ({options})", sql::ident(name));
                session.batch_execute(&create).await.map_err(err)?;
                add(session, &doing, name, roots).await?;
            }
        }
        if let Some(now) = read(session, name).await.map_err(err)? {
            session.batch_execute(&record(name, &now.carries)).await.map_err(err)?;
        }
        self.put_back(warm);
        Ok(())
    }

    /// Whether the stream still carries what it should: the publication exists, is the one that was
    /// recorded, and no table has left it. One that was dropped has not where the stream tells of
    /// that.
    pub(crate) async fn check_publication(&self, session: &Session, run: &RunId) -> Result<()> {
        let doing = self.doing("checking the publication");
        let names = Names::of(run);
        match read(session, names.publication()).await.map_err(|e| port_error(&doing, e))? {
            None => Err(stops::no_publication(doing, names.publication())),
            Some(Published { recorded: None, .. }) => {
                Err(stops::publication_made_anew(doing, names.publication()))
            }
            Some(there) => {
                match self.left(session, &there).await? {
                    Some(Left::TakenOut(tables)) => {
                        return Err(named(session, doing, &tables, stops::table_left).await);
                    }
                    Some(Left::Dropped(tables)) if !ddl::armed(session, run, &doing).await? => {
                        return Err(named(session, doing, &tables, stops::table_dropped).await);
                    }
                    _ => {}
                }
                if !there.carries_all_kinds() {
                    return Err(kinds_left(doing));
                }
                match there.came_back() {
                    back if back.is_empty() => Ok(()),
                    back => Err(named(session, doing, &back, stops::table_came_back).await),
                }
            }
        }
    }

    /// Drops the publication.
    pub(super) async fn unpublish(&self, session: &Session, run: &RunId) -> Result<()> {
        let err = |e| port_error(self.doing("dropping the publication"), e);
        let names = Names::of(run);
        let name = sql::ident(names.publication());
        // A table that is taken out takes room among the locks until the transaction ends.
        let many: Vec<TableName> = session
            .query(ALL_BUT_SOME, &[&names.publication(), &(PER_TRANSACTION as i64)])
            .await
            .map_err(err)?
            .iter()
            .map(|row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)))
            .collect();
        if !many.is_empty() {
            let take_out =
                |some: &[TableName]| format!("ALTER PUBLICATION {name} DROP TABLE {}", only(some));
            match patience::lock_each(session, many, take_out, PATIENCE).await {
                // One left meanwhile. As those that are busy, the rest goes with the publication,
                // which waits for nobody.
                Err(e) if is_gone(&e) => {}
                other => drop(other.map_err(err)?),
            }
        }
        session.batch_execute(&format!("DROP PUBLICATION IF EXISTS {name}")).await.map_err(err)
    }

    /// Tables that have left.
    async fn left(&self, session: &Session, there: &Published) -> Result<Option<Left>> {
        let left = there.left();
        if left.is_empty() {
            return Ok(None);
        }
        let existing = "SELECT oid FROM pg_class WHERE oid = ANY($1::oid[])";
        let existing = session
            .query(existing, &[&left])
            .await
            .map_err(|e| port_error(self.doing("checking the publication"), e))?;
        let existing: Vec<u32> = existing.iter().map(|row| row.get(0)).collect();
        Ok(Some(if existing.is_empty() { Left::Dropped(left) } else { Left::TakenOut(existing) }))
    }
}

/// Tables that are in the publication no more, by number.
enum Left {
    /// They exist: their changes are missing.
    TakenOut(Vec<u32>),
    /// None of them exists.
    Dropped(Vec<u32>),
}

/// A stop that names tables.
async fn named(
    session: &Session,
    doing: String,
    tables: &[u32],
    stop: fn(String, &[String]) -> PortError,
) -> PortError {
    match names_of(session, tables).await {
        Ok(names) => stop(doing, &names),
        Err(e) => port_error(doing, e),
    }
}

/// Names tables by their numbers.
async fn names_of(
    session: &Session,
    tables: &[u32],
) -> std::result::Result<Vec<String>, tokio_postgres::Error> {
    let query = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = n), \
                 n::regclass::text FROM unnest($1::oid[]) AS n";
    let name = |row: &Row| {
        let name: String = row.get(1);
        if row.get(0) { name } else { format!("a table that was dropped ({name})") }
    };
    Ok(session.query(query, &[&tables]).await?.iter().map(name).collect())
}

/// Alters the options and records that it was us, both or neither.
async fn alter(
    session: &Session,
    name: &str,
    options: &str,
    there: &Published,
) -> std::result::Result<(), tokio_postgres::Error> {
    let set = format!("BEGIN; ALTER PUBLICATION {} SET ({options})", sql::ident(name));
    let done = async {
        session.batch_execute(&set).await?;
        let now = read(session, name).await?.map(|now| now.carries.altered).unwrap_or_default();
        let entries = there.recorded.clone().unwrap_or_default().entries;
        let record = record(name, &Carried { altered: now, entries });
        session.batch_execute(&format!("{record}; COMMIT")).await
    };
    let done = done.await;
    if done.is_err() && !session.is_closed() {
        session.batch_execute("ROLLBACK").await?;
    }
    done
}

/// The statement that remembers what a publication carries.
fn record(name: &str, carried: &Carried) -> String {
    let comment = sql::literal(&carried.comment());
    format!("COMMENT ON PUBLICATION {} IS {comment}", sql::ident(name))
}

/// The publication was altered so that it does not carry every change.
fn kinds_left(doing: String) -> PortError {
    stops::table_left(doing, &["some kinds of change (options)".to_owned()])
}

/// Those of the wanted tables that are not published.
async fn missing(
    session: &Session,
    wanted: Vec<TableName>,
    there: &Published,
) -> std::result::Result<Vec<TableName>, tokio_postgres::Error> {
    let names: Vec<String> = wanted.iter().map(sql::table).collect();
    let query = "SELECT to_regclass(t)::oid FROM unnest($1::text[]) WITH ORDINALITY AS w(t, n) \
                 ORDER BY n";
    let rows = session.query(query, &[&names]).await?;
    let is_there = |row: &Row| {
        row.get::<_, Option<u32>>(0).is_some_and(|n| there.carries.entries.contains_key(&n))
    };
    Ok(wanted.into_iter().zip(&rows).filter(|(_, row)| !is_there(row)).map(|(t, _)| t).collect())
}

/// Clients could not change rows of a table that is published and has nothing to tell them by, nor
/// of any other leaf in the same statement: all of its leaves count, moved or not.
async fn are_identified(session: &Session, doing: &str, tables: &[TableName]) -> Result<()> {
    let names: Vec<String> = tables.iter().map(sql::table).collect();
    let rows = session.query(UNIDENTIFIED, &[&names]).await.map_err(|e| port_error(doing, e))?;
    if rows.is_empty() {
        return Ok(());
    }
    let name = |row: &Row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
    let names: Vec<String> = rows.iter().map(|row| sql::table(&name(row))).collect();
    Err(stops::unidentified(doing.to_owned(), &names))
}

/// Adds tables, not too many in one transaction: each is locked until its end.
async fn add(session: &Session, doing: &str, name: &str, tables: Vec<TableName>) -> Result<()> {
    let err = |e| port_error(doing, e);
    if tables.is_empty() {
        return Ok(());
    }
    let add = |some: &[TableName]| {
        format!("ALTER PUBLICATION {} ADD TABLE {}", sql::ident(name), only(some))
    };
    let busy = patience::lock_each(session, tables, add, PATIENCE).await.map_err(err)?;
    if busy.is_empty() {
        return Ok(());
    }
    let why = patience::held_up(session, &busy, PATIENCE).await.map_err(err)?;
    Err(PortError::transient(doing, why))
}

/// A list of tables without what is below them.
fn only(tables: &[TableName]) -> String {
    let names: Vec<String> = tables.iter().map(|t| format!("ONLY {}", sql::table(t))).collect();
    names.join(", ")
}

fn is_gone(e: &tokio_postgres::Error) -> bool {
    matches!(e.code(), Some(&SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_OBJECT))
}

/// Those of some tables that no publication takes.
const NOT_LOGGED: &str = "
    SELECT t FROM unnest($1::text[]) AS t JOIN pg_catalog.pg_class c ON c.oid = to_regclass(t)
     WHERE c.relpersistence <> 'p'";

/// Those of some tables, and of the leaves below them, whose rows the log would not tell apart.
const UNIDENTIFIED: &str = "
    WITH RECURSIVE down(oid) AS (
        SELECT to_regclass(t)::oid FROM unnest($1::text[]) AS t
      UNION
        SELECT i.inhrelid FROM down
          JOIN pg_catalog.pg_inherits i ON i.inhparent = down.oid AND NOT i.inhdetachpending
          JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition)
    SELECT n.nspname::text, c.relname::text
      FROM down
      JOIN pg_catalog.pg_class c ON c.oid = down.oid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND c.relreplident <> 'f' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisvalid
           AND CASE c.relreplident WHEN 'd' THEN i.indisprimary AND i.indimmediate
                    WHEN 'i' THEN i.indisreplident ELSE false END)
     ORDER BY 1, 2";

/// All tables of a publication but so many.
const ALL_BUT_SOME: &str = "
    SELECT n.nspname::text, c.relname::text
      FROM pg_catalog.pg_publication p
      JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
      JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE p.pubname = $1 ORDER BY r.oid OFFSET $2";

async fn read(
    session: &Session,
    name: &str,
) -> std::result::Result<Option<Published>, tokio_postgres::Error> {
    // Row filters and column lists came with 15.
    let whole = if session.version() >= 150_000 {
        "NOT EXISTS (SELECT FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid \
         AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL))"
    } else {
        "true"
    };
    let whole_rows = if session.version() >= 180_000 { "p.pubgencols = 's'" } else { "false" };
    let query = format!(
        "SELECT p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate \
           AND NOT p.pubviaroot AND {whole}, \
         p.puballtables, obj_description(p.oid, 'pg_publication'), p.xmin::text, \
         ARRAY(SELECT r.prrelid FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid \
               ORDER BY r.oid), \
         ARRAY(SELECT r.oid FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid \
               ORDER BY r.oid), \
         {whole_rows} \
         FROM pg_catalog.pg_publication p WHERE p.pubname = $1"
    );
    Ok(session.query_opt(&query, &[&name]).await?.map(|row| {
        let (tables, entries): (Vec<u32>, Vec<u32>) = (row.get(4), row.get(5));
        let comment: Option<&str> = row.get(2);
        Published {
            options_fit: row.get(0),
            for_all: row.get(1),
            recorded: comment.and_then(Carried::of_comment),
            carries: Carried {
                altered: row.get(3),
                entries: tables.into_iter().zip(entries).collect(),
            },
            whole_rows: row.get(6),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(altered: &str, entries: &[(u32, u32)]) -> Carried {
        Carried { altered: altered.into(), entries: entries.iter().copied().collect() }
    }

    #[test]
    fn what_was_recorded_and_is_gone_has_left() {
        let then = carried("7", &[(1, 11), (2, 12), (3, 13)]);
        let there = Published {
            carries: carried("7", &[(2, 12), (3, 23), (4, 14)]),
            recorded: Carried::of_comment(&then.comment()),
            options_fit: true,
            whole_rows: false,
            for_all: false,
        };
        assert_eq!(there.recorded.as_ref(), Some(&then));
        assert_eq!((there.left(), there.came_back()), (vec![1], vec![3]));
        assert!(there.carries_all_kinds());
        assert!(!Published { options_fit: false, ..there.clone() }.carries_all_kinds());
        let carries = Carried { altered: "8".into(), ..there.carries.clone() };
        assert!(!Published { carries, ..there.clone() }.carries_all_kinds());
        let all = Published { for_all: true, ..there };
        assert_eq!((all.left(), all.came_back()), (vec![], vec![]));
        assert_eq!(Carried::of_comment("somebody's note 5"), None);
        let none = Carried::default();
        assert_eq!(Carried::of_comment(&none.comment()), Some(none));
    }
}

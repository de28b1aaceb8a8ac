//! Materialized views and statistics.

use std::collections::{BTreeSet, HashSet};

use cutover_core::{
    model::{schema::TableName, selection::Selection},
    port::{Result, error::PortError},
};
use futures_util::future::try_join_all;
use tokio::sync::Mutex;
use tokio_postgres::{Error, Row, error::SqlState};

use super::{add, script::Entry};
use crate::{
    catalog::{self, USER_SCHEMA},
    connect::{Session, port_error},
    database::Database,
    sql,
};

/// Materialized views that came since the definitions before the rows were read, or rest on what did.
/// Of the others green has all but those that need a primary key: `said`, the definitions behind the
/// rows, makes them.
pub(super) async fn came_since(
    blue: &Session,
    green: &Session,
    selection: &Selection,
    said: &[Entry],
) -> Result<HashSet<TableName>> {
    let rows = blue
        .query(&rests_on(), &[])
        .await
        .map_err(|e| port_error("reading what views of blue rest on", e))?;
    let name = |row: &Row, at| TableName::new(row.get::<_, &str>(at), row.get::<_, &str>(at + 1));
    let all = rows.iter().map(|row| (name(row, 0), name(row, 2)));
    let all: Vec<(TableName, TableName)> =
        all.filter(|(view, _)| selection.selects(view)).collect();
    let below: BTreeSet<&TableName> = all.iter().map(|(_, below)| below).collect();
    let below: Vec<TableName> = below.into_iter().cloned().collect();
    let mut missing = add::missing(green, &below).await?;
    missing.retain(|relation| !said.iter().any(|entry| entry.makes_view(relation)));
    Ok(all.into_iter().filter(|(_, below)| missing.contains(below)).map(|(view, _)| view).collect())
}

/// Each materialized view with itself and all relations of users below it.
fn rests_on() -> String {
    format!(
        "WITH RECURSIVE below(view, oid) AS ( \
           SELECT oid, oid FROM pg_class WHERE relkind = 'm' \
           UNION SELECT b.view, d.refobjid FROM below b \
             JOIN pg_rewrite r ON r.ev_class = b.oid \
             JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid \
                             AND d.refclassid = 'pg_class'::regclass), \
         users(oid, schema, name) AS ( \
           SELECT c.oid, n.nspname::text, c.relname::text FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {USER_SCHEMA}) \
         SELECT v.schema, v.name, u.schema, u.name FROM below b \
           JOIN users v ON v.oid = b.view JOIN users u ON u.oid = b.oid"
    )
}

/// Fills materialized views that are filled on blue.
pub(super) async fn refresh(blue: &Session, green: &Session, db: &Database) -> Result<()> {
    let doing = format!("refreshing materialized views on {}", db.side);
    let filled: HashSet<TableName> = views(blue, true, &doing).await?.into_iter().collect();
    let mut waiting = views(green, false, &doing).await?;
    waiting.retain(|view| filled.contains(view));
    // One may read another: whoever comes too early gets its turn again.
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut again = Vec::new();
        let mut reason = None;
        for view in waiting {
            let statement = format!("REFRESH MATERIALIZED VIEW {}", sql::table(&view));
            match green.batch_execute(&statement).await {
                Ok(()) => {}
                Err(e) if e.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => {
                    reason = Some(e);
                    again.push(view);
                }
                Err(e) => return Err(unfilled(port_error(format!("{doing}: {view}"), e), &view)),
            }
        }
        if again.len() == before
            && let Some(e) = reason
        {
            return Err(unfilled(port_error(format!("{doing}: {}", again[0]), e), &again[0]));
        }
        waiting = again;
    }
    Ok(())
}

/// Says what helps where the server refuses to fill a view. Ours are sessions without a search path,
/// and from 17 on the server sees to that by itself.
fn unfilled(error: PortError, view: &TableName) -> PortError {
    if error.is_transient() {
        return error;
    }
    let doing = format!("filling the materialized view {view} on green");
    let what = "green refuses its query, see the cause; on blue it is filled";
    let remedy = format!(
        "give the functions that it calls `SET search_path` on both sides, or run `REFRESH \
         MATERIALIZED VIEW {}` on green yourself (before 17 your session's search path counts), or \
         drop it there; then start `cutover run`",
        sql::table(view)
    );
    PortError::definite("CUT0305", doing, what, remedy).caused_by(error)
}

async fn views(session: &Session, filled: bool, doing: &str) -> Result<Vec<TableName>> {
    let statement = format!(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'm' AND c.relispopulated = $1 AND {USER_SCHEMA} ORDER BY c.oid"
    );
    let rows = session.query(&statement, &[&filled]).await.map_err(|e| port_error(doing, e))?;
    Ok(rows
        .iter()
        .map(|row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)))
        .collect())
}

/// Tables up to this size are read in no time; many of them are named by one statement.
const SMALL: u64 = 1 << 20;
/// So many.
const TOGETHER: usize = 100;

/// Gathers statistics of every table, the largest first.
pub(super) async fn analyze(db: &Database, workers: usize) -> Result<()> {
    let doing = format!("gathering statistics on {}", db.side);
    let session = db.session("analyze").await?;
    let mut tables = catalog::tables(&session, &Selection::default()).await?;
    tables.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    let version = session.version();
    drop(session);
    let targets = targets(version, tables.into_iter().map(|t| (t.name, t.root, t.bytes)));
    let large = targets.iter().take_while(|(_, bytes)| *bytes > SMALL).count();
    let names: Vec<String> = targets.into_iter().map(|(target, _)| target).collect();
    let (large, small) = names.split_at(large);
    let lists = large.chunks(1).chain(small.chunks(TOGETHER));
    let workers = workers.min(lists.clone().count());
    let queue = Mutex::new(lists);
    let workers = (0..workers).map(async |_| {
        let session = db.session("analyze").await?;
        // Statistics that a crash of the server takes are gathered again by itself.
        session
            .batch_execute("SET synchronous_commit = off")
            .await
            .map_err(|e| port_error(doing.as_str(), e))?;
        loop {
            let Some(list) = queue.lock().await.next() else { return Ok::<_, PortError>(()) };
            // Each of a list is a transaction of its own.
            let gather = async |list: &[String]| {
                session.batch_execute(&format!("ANALYZE {}", list.join(", "))).await
            };
            let gone = |e: &Error| {
                let gone = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME];
                e.code().is_some_and(|code| gone.contains(code))
            };
            match gather(list).await {
                Ok(()) => continue,
                Err(e) if gone(&e) => {}
                Err(e) => return Err(port_error(doing.as_str(), e)),
            }
            // One was dropped meanwhile; the others are there.
            for one in list.chunks(1) {
                match gather(one).await {
                    Err(e) if !gone(&e) => return Err(port_error(doing.as_str(), e)),
                    _ => {}
                }
            }
        }
    });
    try_join_all(workers).await.map(drop)
}

/// What to name, in the order of `tables`. A partitioned table has statistics of its own that
/// nothing else ever gathers. Before 18 that reads its partitions as well.
fn targets(
    version: u32,
    tables: impl Iterator<Item = (TableName, Option<TableName>, u64)>,
) -> Vec<(String, u64)> {
    let mut roots = HashSet::new();
    let mut work = Vec::new();
    for (name, root, bytes) in tables {
        let first = root.clone().is_some_and(|root| roots.insert(root));
        match root {
            None => work.push((sql::table(&name), bytes)),
            Some(root) if version < 180_000 => {
                if first {
                    work.push((sql::table(&root), bytes));
                }
            }
            Some(root) => {
                work.push((sql::table(&name), bytes));
                if first {
                    work.push((format!("ONLY {}", sql::table(&root)), bytes));
                }
            }
        }
    }
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_once() {
        let name = |n: &str| TableName::new("s", n);
        let targets = |version| -> Vec<String> {
            let tables = [("t", None), ("p1", Some("p")), ("p2", Some("p"))];
            let tables = tables.into_iter().map(|(n, r)| (name(n), r.map(name), 1));
            targets(version, tables).into_iter().map(|(target, _)| target).collect()
        };
        assert_eq!(targets(170_000), ["\"s\".\"t\"", "\"s\".\"p\""]);
        assert_eq!(
            targets(180_001),
            ["\"s\".\"t\"", "\"s\".\"p1\"", "ONLY \"s\".\"p\"", "\"s\".\"p2\""]
        );
    }
}

//! Materialized views and statistics.

use std::collections::{HashSet, VecDeque};

use cutover_core::{
    model::{schema::TableName, selection::Selection},
    port::{Result, error::PortError},
};
use futures_util::future::try_join_all;
use tokio::sync::Mutex;
use tokio_postgres::error::SqlState;

use crate::{
    catalog::{self, USER_SCHEMA},
    connect::{Session, port_error},
    database::Database,
    sql,
};

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
                Err(e) => return Err(port_error(format!("{doing}: {view}"), e)),
            }
        }
        if again.len() == before
            && let Some(e) = reason
        {
            return Err(port_error(format!("{doing}: {}", again[0]), e));
        }
        waiting = again;
    }
    Ok(())
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

/// Gathers statistics of every table, the largest first.
pub(super) async fn analyze(db: &Database, workers: usize) -> Result<()> {
    let doing = format!("gathering statistics on {}", db.side);
    let session = db.session("analyze").await?;
    let mut tables = catalog::tables(&session, &Selection::default()).await?;
    tables.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    let version = session.version();
    drop(session);
    let work: Vec<String> = statements(version, tables.into_iter().map(|t| (t.name, t.root)));
    let queue = Mutex::new(VecDeque::from(work));
    let workers = (0..workers).map(async |_| {
        let session = db.session("analyze").await?;
        loop {
            let Some(statement) = queue.lock().await.pop_front() else {
                return Ok::<_, PortError>(());
            };
            match session.batch_execute(&statement).await {
                Ok(()) => {}
                // Dropped meanwhile.
                Err(e) if e.code() == Some(&SqlState::UNDEFINED_TABLE) => {}
                Err(e) => return Err(port_error(doing.as_str(), e)),
            }
        }
    });
    try_join_all(workers).await.map(drop)
}

/// A partitioned table has statistics of its own that nothing else ever gathers. Before 18 that
/// reads its partitions as well.
fn statements(
    version: u32,
    tables: impl Iterator<Item = (TableName, Option<TableName>)>,
) -> Vec<String> {
    let mut roots = HashSet::new();
    let mut work = Vec::new();
    for (name, root) in tables {
        let first = root.clone().is_some_and(|root| roots.insert(root));
        match root {
            None => work.push(format!("ANALYZE {}", sql::table(&name))),
            Some(root) if version < 180_000 => {
                if first {
                    work.push(format!("ANALYZE {}", sql::table(&root)));
                }
            }
            Some(root) => {
                work.push(format!("ANALYZE {}", sql::table(&name)));
                if first {
                    work.push(format!("ANALYZE ONLY {}", sql::table(&root)));
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
        let tables = || {
            [("t", None), ("p1", Some("p")), ("p2", Some("p"))]
                .into_iter()
                .map(|(n, r)| (name(n), r.map(name)))
        };
        assert_eq!(statements(170_000, tables()), ["ANALYZE \"s\".\"t\"", "ANALYZE \"s\".\"p\""]);
        assert_eq!(
            statements(180_001, tables()),
            [
                "ANALYZE \"s\".\"t\"",
                "ANALYZE \"s\".\"p1\"",
                "ANALYZE ONLY \"s\".\"p\"",
                "ANALYZE \"s\".\"p2\""
            ]
        );
    }
}

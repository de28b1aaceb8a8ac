//! Putting the fence up ahead of the move, and taking it down.

use std::{collections::HashSet, time::Duration};

use cutover_core::{
    model::{
        run::RunId,
        schema::{Table, TableName},
    },
    port::{Result, error::PortError},
};

use super::{
    HELD_UP, State, close, installed,
    text::{self, Triggers},
};
use crate::{
    catalog,
    connect::{Session, port_error},
    database::Database,
    patience::{self, Patience, WaitsFor},
    sql::Names,
};

/// What to do about those who hold a table.
const FREE_THEM: &str = "let them end and try again, or end them: SELECT \
                         pg_terminate_backend(PROCESS); or ROLLBACK PREPARED 'NAME'";

/// What triggers are changed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Preparing,
    /// Somebody waits for a move, but no client.
    Moving,
    Removing,
}

impl Manner {
    fn waits_for(self) -> WaitsFor {
        match self {
            Self::Preparing | Self::Moving => WaitsFor::Writers,
            Self::Removing => WaitsFor::Everybody,
        }
    }

    fn patience(self) -> Patience {
        let within = Duration::from_secs(match self {
            Self::Preparing | Self::Removing => 60,
            Self::Moving => 10,
        });
        Patience { waits_for: self.waits_for(), within, at_once: 1 }
    }
}

/// Installs the fence open; adds what is new, wakes what is asleep when it shall be awake, takes it
/// from tables that are no part of the run any more, and leaves the rest as it is.
pub(in crate::primary) async fn install(
    db: &Database,
    run: &RunId,
    tables: &[Table],
    triggers: Triggers,
) -> Result<()> {
    let names = Names::of(run);
    let doing = format!("installing the fence on {}", db.side);
    let failed = |e| port_error(doing.as_str(), e);
    let warm = db.errand().await?;
    let session = &warm.session;
    session.batch_execute(&text::foundation(&names)).await.map_err(failed)?;
    let wanted: Vec<&TableName> = tables.iter().map(|t| &t.name).collect();
    let families = catalog::families(session, &wanted).await.map_err(failed)?;
    let done: HashSet<u32> = session
        .query(&text::fenced_well(&names, triggers), &[])
        .await
        .map_err(failed)?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let wanted: Vec<u32> = families.iter().map(|f| f.oid).collect();
    let work: Vec<_> =
        families.into_iter().filter(|f| !done.contains(&f.oid)).map(|f| f.name).collect();
    let manner = match triggers {
        Triggers::Asleep => Manner::Preparing,
        Triggers::Awake => Manner::Moving,
    };
    let statement = |table: &TableName| text::fence_one(&names, table, triggers);
    patiently(session, &doing, work, statement, manner).await?;
    let rows = session.query(&text::fenced_beside(&names), &[&wanted]).await.map_err(failed)?;
    let work: Vec<_> = rows
        .iter()
        .map(|row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)))
        .collect();
    if !work.is_empty() {
        let statement = |table: &TableName| text::leave_one(&names, table);
        patiently(session, &doing, work, statement, Manner::Removing).await?;
    }
    session.batch_execute(&text::settled(&names)).await.map_err(failed)?;
    db.put_back(warm);
    Ok(())
}

/// Wakes what was laid.
pub(in crate::primary) async fn wake(db: &Database, run: &RunId) -> Result<()> {
    let names = Names::of(run);
    let doing = format!("waking the fence on {}", db.side);
    let failed = |e| port_error(doing.as_str(), e);
    let warm = db.errand().await?;
    let session = &warm.session;
    let Some(rows) = installed(session.query(&text::asleep(&names), &[]).await).map_err(failed)?
    else {
        return Err(State::default().gap(&doing).expect("what is not installed has a gap"));
    };
    let work: Vec<_> = rows
        .iter()
        .map(|row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)))
        .collect();
    if !work.is_empty() {
        let statement = |table: &TableName| text::fence_one(&names, table, Triggers::Awake);
        patiently(session, &doing, work, statement, Manner::Moving).await?;
        session.batch_execute(&text::settled(&names)).await.map_err(failed)?;
    }
    db.put_back(warm);
    Ok(())
}

/// Opens and removes the fence.
pub(in crate::primary) async fn remove(db: &Database, run: &RunId) -> Result<()> {
    close::open(db, run).await?;
    let names = Names::of(run);
    let doing = format!("removing the fence from {}", db.side);
    let warm = db.errand().await?;
    let session = &warm.session;
    let rows = session
        .query(&text::fenced_tables(&names), &[])
        .await
        .map_err(|e| port_error(doing.as_str(), e))?;
    let work = rows
        .iter()
        .map(|row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)))
        .collect();
    let statement = |table: &TableName| text::unfence_one(&names, table);
    patiently(session, &doing, work, statement, Manner::Removing).await?;
    // The kept session has statements prepared on what goes now; the next use opens another.
    db.kept.fence.clear();
    db.forget_epoch();
    // Waits for the disk, as do all transactions before it with it.
    let end = text::remove_foundation(&names);
    session.batch_execute(&end).await.map_err(|e| port_error(doing.as_str(), e))?;
    db.put_back(warm);
    Ok(())
}

/// Runs one transaction per table, so that clients wait for one table at a time and never long.
async fn patiently(
    session: &Session,
    doing: &str,
    tables: Vec<TableName>,
    statement: impl Fn(&TableName) -> String,
    manner: Manner,
) -> Result<()> {
    let failed = |e| port_error(doing, e);
    let patience = manner.patience();
    let one = |tables: &[TableName]| tables.iter().map(&statement).collect::<String>();
    let busy = patience::lock_each(session, tables, one, patience).await.map_err(failed)?;
    if busy.is_empty() {
        return Ok(());
    }
    let why = patience::held_up(session, &busy, patience).await.map_err(failed)?;
    Err(match manner {
        Manner::Moving => PortError::definite(HELD_UP, doing, why, FREE_THEM),
        Manner::Preparing | Manner::Removing => PortError::transient(doing, why),
    })
}

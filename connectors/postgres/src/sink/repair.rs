//! Replacing rows that were found to differ.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use cutover_core::{
    model::{digest::RowKey, schema::Table, value::Value},
    port::{
        PortError, Result,
        copy::{CopyFormat, CopyStream},
    },
};
use tokio::time::sleep;
use tokio_postgres::types::ToSql;

use super::{cache::Kind, copy, encode::Unfit, parts, refusal, router, set, unproven};
use crate::{
    connect::{ServerError, Session, row_error},
    patience,
    sql::Names,
};

/// How long a table may be in use by others before we give up: the stream stands still for us. Once
/// we have it, the same for whatever else its constraints need.
const PATIENCE: Duration = Duration::from_secs(30);

/// Removes the rows with these keys (all rows without keys) and writes others, in one transaction.
/// Whoever wants to read the table while we want it for ourselves waits for a moment only.
///
/// # Errors
///
/// `CUT0402` when a new row collides with one that stays; a transient one that says who holds the
/// table.
pub(super) async fn replace(
    (session, at, names): (&Session, &str, &Names),
    table: &Table,
    keys: Option<&[RowKey]>,
    format: CopyFormat,
    rows: Box<dyn CopyStream>,
) -> Result<u64> {
    let doing = || format!("repairing table {} on {at}", table.name);
    let run =
        async |text: &str| session.batch_execute(text).await.map_err(|e| row_error(doing(), e));
    let (begun, mut round) = (Instant::now(), 0);
    let away = loop {
        let change = parts::first_change(names);
        run(&format!("BEGIN; {}; {change}", patience::limit(round, true))).await?;
        match make_room(session, at, table, keys).await {
            Ok(away) => break away,
            Err(e) if !is_busy(&e) => return Err(e),
            Err(_) => run("ROLLBACK").await?,
        }
        if begun.elapsed() >= PATIENCE {
            let table = std::slice::from_ref(&table.name);
            let why = patience::busy_for(session, table, PATIENCE).await;
            let why = why.map_err(|e| row_error(doing(), e))?;
            return Err(PortError::transient(doing(), why));
        }
        round += 1;
        sleep(patience::PAUSE).await;
    };
    run(&format!("SET LOCAL lock_timeout = {}", PATIENCE.as_millis())).await?;
    let written = copy::copy_rows(session, at, table, format, rows).await?;
    if let Some(away) = away {
        away.put_back(session, at, &table.name).await?;
    }
    run("COMMIT").await?;
    Ok(written)
}

/// Removes what is to be replaced, and what would keep the new rows out.
async fn make_room(
    session: &Session,
    at: &str,
    table: &Table,
    keys: Option<&[RowKey]>,
) -> Result<Option<unproven::Away>> {
    let away = match unproven::tables(session, at).await?.contains(&table.name) {
        true => Some(unproven::set_aside(session, at, &table.name).await?),
        false => None,
    };
    match keys {
        None => copy::empty(session, at, &table.name, copy::Room::Leave).await?,
        Some(keys) => remove(session, at, table, keys).await?,
    }
    Ok(away)
}

/// Whether somebody else had what we waited for.
fn is_busy(e: &PortError) -> bool {
    let server = e.source().and_then(|e| e.downcast_ref::<ServerError>());
    server.is_some_and(|e| matches!(&*e.sqlstate, "55P03" | "40P01"))
}

async fn remove(session: &Session, at: &str, table: &Table, keys: &[RowKey]) -> Result<()> {
    let failed = |e| row_error(format!("repairing table {} on {at}", table.name), e);
    let targets = router::targets(session, &[table]).await?;
    let Some(target) = targets.first().filter(|t| !t.key.is_empty()) else {
        return Err(no_key(table));
    };
    let mut arrays = set::arrays(target, target.key.iter().copied(), keys.len());
    for key in keys {
        if key.0.len() != arrays.len() {
            return Err(no_key(table));
        }
        for (array, text) in arrays.iter_mut().zip(&key.0) {
            array.push(Value::Text(text.as_bytes())).map_err(|unfit| match unfit {
                Unfit::NoText => set::no_text(target),
                Unfit::NotNumber => no_key(table),
            })?;
        }
    }
    let kind = Kind::DeleteMany(target.key.clone());
    let prepared = session.prepare_typed(&kind.text(target), &kind.types(target)).await;
    let statement = prepared.map_err(failed)?;
    let parameters: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|a| a as _).collect();
    session.execute(&statement, &parameters).await.map_err(failed)?;
    Ok(())
}

fn no_key(table: &Table) -> PortError {
    refusal::not_a_stream(format!("rows of table {} are not named by such keys", table.name))
}

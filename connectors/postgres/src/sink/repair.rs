//! Replacing rows that were found to differ.

use cutover_core::{
    model::{digest::RowKey, schema::Table, value::Value},
    port::{
        PortError, Result,
        copy::{CopyFormat, CopyStream},
    },
};
use tokio_postgres::types::ToSql;

use super::{cache::Kind, copy, encode::Unfit, refusal, router, set, unproven};
use crate::connect::{Session, port_error};

/// How long a table may be in use by others, who keep its constraints.
const PATIENCE: &str = "SET LOCAL lock_timeout = '30s'";

/// Removes the rows with these keys (all rows without keys) and writes others, in one transaction.
///
/// # Errors
///
/// `CUT0402` when a new row collides with one that stays.
pub(super) async fn replace(
    session: &Session,
    at: &str,
    table: &Table,
    keys: Option<&[RowKey]>,
    format: CopyFormat,
    rows: Box<dyn CopyStream>,
) -> Result<u64> {
    let failed = |e| port_error(format!("repairing table {} on {at}", table.name), e);
    session.batch_execute("BEGIN").await.map_err(failed)?;
    let away = if unproven::tables(session, at).await?.contains(&table.name) {
        // The stream stands still for us.
        session.batch_execute(PATIENCE).await.map_err(failed)?;
        Some(unproven::set_aside(session, at, &table.name).await?)
    } else {
        None
    };
    match keys {
        None => copy::empty(session, at, &table.name, copy::Room::Leave).await?,
        Some(keys) => remove(session, at, table, keys).await?,
    }
    let written = copy::copy_rows(session, at, table, format, rows).await?;
    if let Some(away) = away {
        away.put_back(session, at, &table.name).await?;
    }
    session.batch_execute("COMMIT").await.map_err(failed)?;
    Ok(written)
}

async fn remove(session: &Session, at: &str, table: &Table, keys: &[RowKey]) -> Result<()> {
    let failed = |e| port_error(format!("repairing table {} on {at}", table.name), e);
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

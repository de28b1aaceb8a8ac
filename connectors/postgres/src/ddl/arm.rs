//! Installing the event triggers and taking them away.

use cutover_core::{
    model::{run::RunId, schema::TableName},
    port::Result,
};
use tokio_postgres::error::SqlState;

use super::text;
use crate::{
    connect::{Session, port_error},
    sql::{self, Names},
};

/// Whether all triggers are there and fire.
pub(crate) async fn armed(session: &Session, run: &RunId, doing: &str) -> Result<bool> {
    let row = session
        .query_one(&text::firing(&Names::of(run)), &[])
        .await
        .map_err(|e| port_error(doing, e))?;
    Ok(row.get::<_, i64>(0) == text::EVENTS.len() as i64)
}

/// Installs the triggers when we may; whether they are there now. Leaves alone what is there.
pub(crate) async fn arm(session: &Session, run: &RunId, doing: &str) -> Result<bool> {
    if armed(session, run, doing).await? {
        return Ok(true);
    }
    let create = format!("BEGIN; {} COMMIT", text::create(run, &Names::of(run)));
    let Err(e) = session.batch_execute(&create).await else { return Ok(true) };
    if !session.is_closed() {
        session.batch_execute("ROLLBACK").await.map_err(|e| port_error(doing, e))?;
    }
    if e.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        return Ok(false);
    }
    Err(port_error(doing, e))
}

/// Removes the triggers. Idempotent.
pub(crate) async fn disarm(session: &Session, run: &RunId, doing: &str) -> Result<()> {
    let names = Names::of(run);
    let there = session
        .query_one(
            &format!("SELECT to_regprocedure('{}()') IS NOT NULL", text::function(&names)),
            &[],
        )
        .await
        .map_err(|e| port_error(doing, e))?;
    if !there.get::<_, bool>(0) {
        return Ok(());
    }
    session.batch_execute(&text::remove(&names)).await.map_err(|e| port_error(doing, e))
}

/// What the triggers would say about these tables now; tables that are gone are left out.
pub(crate) async fn describe(
    session: &Session,
    tables: &[TableName],
    doing: &str,
) -> Result<String> {
    let names: Vec<String> = tables.iter().map(sql::table).collect();
    let query = format!(
        "SELECT jsonb_build_object('tag', 'now', 'items', coalesce(jsonb_agg(jsonb_build_object( \
         'what', 'table', 'created', false, 'table', {})), '[]'))::text \
         FROM unnest($1::text[]) AS w(name) WHERE to_regclass(w.name) IS NOT NULL",
        text::table("to_regclass(w.name)")
    );
    let row = session.query_one(&query, &[&names]).await.map_err(|e| port_error(doing, e))?;
    Ok(row.get(0))
}

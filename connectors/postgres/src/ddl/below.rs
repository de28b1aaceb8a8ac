//! Types of users that tables rest on.

use cutover_core::{
    model::schema::TableName,
    port::{PortError, Result},
};

use super::{message::UserType, text, types};
use crate::{
    connect::{Session, port_error},
    sql,
};

/// A type that tables rest on.
pub(crate) struct NewType {
    pub(crate) name: TableName,
    /// What makes it; `None` where functions belong to it.
    pub(crate) statement: Option<String>,
}

/// Types of users that these tables rest on, what those rest on first.
pub(crate) async fn types_below(
    session: &Session,
    tables: &[&TableName],
    doing: &str,
) -> Result<Vec<NewType>> {
    let of = |there: &UserType| {
        let statement = types::create(there).and_then(|step| step.statement);
        NewType { name: TableName::new(&there.schema, &there.name), statement }
    };
    Ok(read_types(session, tables, doing).await?.iter().map(of).collect())
}

/// The same as the catalog has them.
pub(super) async fn read_types(
    session: &Session,
    tables: &[&TableName],
    doing: &str,
) -> Result<Vec<UserType>> {
    let names: Vec<String> = tables.iter().map(|table| sql::table(table)).collect();
    let rows = session.query(&text::types_below(), &[&names]).await;
    let of = |row: &tokio_postgres::Row| {
        serde_json::from_str(row.get(2)).map_err(|e| PortError::transient(doing, e))
    };
    rows.map_err(|e| port_error(doing, e))?.iter().map(of).collect()
}

//! Expressions that two servers write in different ways: what this one would make of the other's.

use tokio_postgres::{Error, Row};

use cutover_core::model::schema::TableName;

use super::{
    change::{self, Step},
    message::{Column, Definition, UserType},
    own::{self, Spelled},
    types,
};
use crate::{connect::Session, sql};

/// Where an expression is tried.
const TRIED: &str = "pg_temp.cutover_spelled";

/// Defaults, and what columns are computed from, that are other ones there and not only written in
/// another way. Looks inside of the transaction that is open, and leaves nothing in it.
pub(super) async fn other_expressions(
    session: &Session,
    there: &Definition,
    here: &Definition,
) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    for column in &there.columns {
        let Some(known) = here.column(&column.name) else { continue };
        let (Some(wanted), Some(now)) = (&column.expression, &known.expression) else { continue };
        if wanted == now || column.generated != known.generated {
            continue;
        }
        let spelled = spelled(session, &here.table(), column, wanted).await?;
        if spelled.is_none_or(|spelled| spelled != *now) {
            steps.push(change::expression(&here.table(), column, wanted));
        }
    }
    Ok(steps)
}

/// Partitions on both sides whose defaults are not alike, as [`own::defaults_below`] says.
pub(super) async fn defaults_below(
    session: &Session,
    there: &Definition,
    here: &Definition,
    parent: &[Step],
) -> Result<Vec<Step>, Error> {
    let (mut steps, doubtful) = own::defaults_below(there, here, parent);
    for Spelled { table, column: like, wanted, has } in doubtful {
        let column = Column { expression: None, ..like };
        let spelled = spelled(session, &table, &column, &wanted).await?;
        if spelled.is_none_or(|spelled| spelled != has) {
            let (name, wanted) = (&column.name, Some(wanted.as_str()));
            steps.push(own::default_only(&table, name, wanted, "a default of its own"));
        }
    }
    Ok(steps)
}

/// The same for the default of a domain.
pub(super) async fn other_default(
    session: &Session,
    there: &UserType,
    here: &UserType,
) -> Result<Option<Step>, Error> {
    let (Some(wanted), Some(now), Some(base)) = (&there.default, &here.default, &here.base) else {
        return Ok(None);
    };
    if wanted == now {
        return Ok(None);
    }
    let make = format!("CREATE DOMAIN {TRIED} AS {base} DEFAULT {wanted}");
    let read = format!(
        "SELECT pg_get_expr(typdefaultbin, 0) FROM pg_type WHERE oid = to_regtype('{TRIED}')"
    );
    let spelled = tried(session, &make, session.query_opt(&read, &[])).await?;
    let other = spelled.is_none_or(|spelled| spelled != *now);
    Ok(other.then(|| types::domain_default(there, wanted)))
}

/// How this server writes an expression; `None` where it does not accept it, or we
/// may not try.
async fn spelled(
    session: &Session,
    table: &TableName,
    column: &Column,
    expression: &str,
) -> Result<Option<String>, Error> {
    let name = sql::ident(&column.name);
    let action = if column.generated.is_empty() {
        format!("ALTER {name} SET DEFAULT {expression}")
    } else {
        let kind = &column.type_name;
        format!("DROP {name}, ADD {name} {kind} GENERATED ALWAYS AS ({expression}) STORED")
    };
    let make = format!(
        "CREATE TEMP TABLE cutover_spelled (LIKE {}); ALTER TABLE {TRIED} {action}",
        sql::table(table)
    );
    let read = "SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d \
                JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum \
                WHERE a.attrelid = to_regclass($1) AND a.attname = $2";
    tried(session, &make, session.query_opt(read, &[&TRIED, &column.name])).await
}

/// Makes something, reads a text of it, and takes it back.
async fn tried(
    session: &Session,
    make: &str,
    read: impl Future<Output = Result<Option<Row>, Error>>,
) -> Result<Option<String>, Error> {
    session.batch_execute("SAVEPOINT cutover_spelled").await?;
    let spelled = match session.batch_execute(make).await {
        Ok(()) => read.await?.and_then(|row| row.get(0)),
        Err(e) if e.as_db_error().is_none() => return Err(e),
        Err(_) => None,
    };
    session
        .batch_execute("ROLLBACK TO SAVEPOINT cutover_spelled; RELEASE SAVEPOINT cutover_spelled")
        .await?;
    Ok(spelled)
}

//! What tables lack that are about to be filled, on a look at both sides. Only what can be made
//! without a look at rows.

use std::collections::BTreeMap;

use cutover_core::{
    model::schema::TableName,
    port::{PortError, Result},
};

use super::{
    arm::describe,
    below::read_types,
    change::{self, Context, Step},
    message::{Definition, Item, Message, UserType},
    text, types,
};
use crate::{
    connect::{Session, port_error},
    sql,
};

/// What a table or a type lacks.
#[derive(Debug, Clone)]
pub(crate) struct Lack {
    pub(crate) of: TableName,
    /// In words.
    pub(crate) what: String,
    /// What makes it, in this order. A new value of an enum is a transaction of its own.
    pub(crate) statements: Vec<String>,
}

fn lack(of: TableName, steps: Vec<Step>) -> Option<Lack> {
    let safe = steps.into_iter().filter_map(|step| Some((step.what, step.statement?)));
    let (words, statements): (Vec<String>, Vec<String>) = safe.unzip();
    let what = words.join("; ");
    (!statements.is_empty()).then_some(Lack { of, what, statements })
}

/// Tables here whose columns are behind those of the tables of the same names there.
pub(crate) async fn lacking_columns(
    there: &Session,
    here: &Session,
    tables: &[TableName],
) -> Result<Vec<Lack>> {
    let there = definitions(there, tables).await?;
    let here = definitions(here, tables).await?;
    // What older rows have is copied.
    let context = Context { plain: true, filled: false, rewritten: false };
    let of = |(name, there): (TableName, Definition)| {
        let steps = change::columns(&there, here.get(&name)?, context);
        lack(name, steps)
    };
    Ok(there.into_iter().filter_map(of).collect())
}

async fn definitions(
    session: &Session,
    tables: &[TableName],
) -> Result<BTreeMap<TableName, Definition>> {
    let doing = "reading definitions ahead of a copy";
    let said = describe(session, tables, doing).await?;
    let said: Message = serde_json::from_str(&said).map_err(|e| PortError::transient(doing, e))?;
    let table = |item| match item {
        Item::Table { table, .. } => Some((table.table(), *table)),
        _ => None,
    };
    Ok(said.items.into_iter().filter_map(table).collect())
}

/// Types that tables there rest on and that are not here, or have fewer values here.
pub(crate) async fn lacking_types(
    there: &Session,
    here: &Session,
    tables: &[TableName],
) -> Result<Vec<Lack>> {
    let doing = "reading types ahead of a copy";
    let tables: Vec<&TableName> = tables.iter().collect();
    let all = read_types(there, &tables, doing).await?;
    let names: Vec<String> =
        all.iter().map(|t| sql::table(&TableName::new(&t.schema, &t.name))).collect();
    let query = format!(
        "SELECT {}::text FROM unnest($1::text[]) WITH ORDINALITY AS w(name, n) ORDER BY n",
        text::user_type("to_regtype(w.name)")
    );
    let rows = here.query(&query, &[&names]).await.map_err(|e| port_error(doing, e))?;
    let mut lacks = Vec::new();
    for (there, row) in all.iter().zip(&rows) {
        let here: Option<UserType> = row
            .get::<_, Option<&str>>(0)
            .map(serde_json::from_str)
            .transpose()
            .map_err(|e| PortError::transient(doing, e))?;
        let steps = match here {
            // Rows of the stream may be of an earlier shape of any other type.
            Some(_) if there.kind != "e" => continue,
            Some(here) => types::type_steps(there, &here),
            None => types::create(there).into_iter().collect(),
        };
        lacks.extend(lack(TableName::new(&there.schema, &there.name), steps));
    }
    Ok(lacks)
}

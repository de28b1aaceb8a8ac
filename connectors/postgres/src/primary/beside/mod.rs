//! What is defined beside tables and their columns: functions, triggers, policies, views, grants,
//! operators, storage parameters, comments and so on.
//!
//! One query over sets; views in portions, because asking for the text of one locks what it reads.
//! Reads only what every role may read of the catalog.
//!
//! - `text`: the queries. Pure.

mod text;

use std::collections::BTreeMap;

use cutover_core::{
    model::{schema::TableName, selection::Selection},
    port::Result,
};
use tokio_postgres::Row;

use self::text::{objects, views};
use crate::{
    catalog,
    connect::{Session, port_error},
};

/// Views in one portion: what they read is locked at a time.
const PORTION: usize = 100;
/// How long somebody who alters what a view reads is waited for. Far less than it takes a server to
/// look for deadlocks: clients are to be its victims in none.
const WAIT: &str = "SET lock_timeout = '200ms'";
const AS_BEFORE: &str = "SET lock_timeout = 0";

/// A short text per object that changes with its definition, by kind and name.
pub(super) async fn read(
    session: &Session,
    selection: &Selection,
) -> Result<BTreeMap<String, String>> {
    let tables = catalog::named(session, selection).await?;
    let version = session.version() / 10_000;
    let mut found = BTreeMap::new();
    let mut take = |row: &Row| {
        if !row.get::<_, bool>("extended") && is_selected(row, selection) {
            found.extend([named(row, version)]);
        }
    };
    let all = async {
        let mut schemas = catalog::schemas(session).await?;
        schemas.retain(|schema| catalog::selects_schema(selection, &tables, schema));
        session.batch_execute(WAIT).await?;
        session.each(&objects(), &[&schemas], &mut take).await?;
        let (views, mut last) = (session.prepare(&views()).await?, 0_u32);
        loop {
            let portion = session.query(&views, &[&schemas, &last, &(PORTION as i64)]).await?;
            last = portion.last().map_or(last, |row| row.get("id"));
            portion.iter().for_each(&mut take);
            if portion.len() < PORTION {
                break;
            }
        }
        session.batch_execute(AS_BEFORE).await
    };
    all.await.map_err(|e| port_error("reading what is defined beside tables", e))?;
    Ok(found)
}

/// Whether the relation that the object is, or is on, belongs to the run, if there is one.
fn is_selected(row: &Row, selection: &Selection) -> bool {
    let name = |schema: &str, name: &str| -> Option<TableName> {
        let (schema, name): (Option<&str>, Option<&str>) = (row.get(schema), row.get(name));
        Some(TableName::new(schema?, name?))
    };
    let Some(relation) = name("schema", "relation") else { return true };
    if row.get("is_table") {
        selection.selects_any(&relation, name("root_schema", "root").as_ref())
    } else {
        !selection.excludes(&relation)
    }
}

fn named(row: &Row, version: u32) -> (String, String) {
    let digest: &str = row.get("digest");
    let rendered = if row.get("rendered") { format!("@{version}") } else { String::new() };
    (row.get("name"), format!("{digest}{rendered}"))
}

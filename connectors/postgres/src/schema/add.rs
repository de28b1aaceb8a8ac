//! Tables that came into being during the run.

use std::collections::HashSet;

use cutover_core::{
    model::{schema::TableName, selection::Selection},
    port::Result,
};

use super::{
    PgSchemaCopy, apply, entries_for, owned_schemas,
    script::{Entry, Section},
};
use crate::{
    catalog,
    connect::{Session, port_error},
    ddl, sql,
};

impl PgSchemaCopy {
    /// Makes tables, what they are partitions of, and what is below those, where it is not there;
    /// also partitioned tables that have no partition with rows. All of it in one transaction.
    ///
    /// Whatever is made here has all parts that it has on blue: the stream may have told of them
    /// already. What becomes a part of something that is there, the stream tells later.
    pub(super) async fn add_some(
        &self,
        selection: &Selection,
        tables: &[TableName],
        attach: bool,
    ) -> Result<()> {
        let doing = "looking for new tables on blue";
        let blue = self.blue.session("schema").await?;
        let green = self.green.session("schema").await?;
        let trees = catalog::trees(&blue, tables).await.map_err(|e| port_error(doing, e))?;
        let names: Vec<TableName> = trees.iter().map(|t| t.name.clone()).collect();
        let missing = missing(&green, &names).await?;
        let missing: Vec<&TableName> = trees
            .iter()
            .filter(|t| missing.contains(&t.name) && selection.selects_any(&t.name, t.above.last()))
            .filter(|t| t.asked || t.above.iter().any(|above| missing.contains(above)))
            .map(|t| &t.name)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let arguments: Vec<String> =
            missing.iter().map(|t| format!("--table={}", sql::table(t))).collect();
        let program = self.pg_dump(&blue, &green).await?;
        let sections = [Section::PreData, Section::PostData];
        let text = program.dump(&self.blue, &blue, &sections, &arguments).await?;
        let said = entries_for(&green, &text).await?;
        let types = new_types(&blue, &green, &missing).await?;
        let whose: Vec<Entry> = said.iter().chain(&types).cloned().collect();
        let schemas = owned_schemas(&blue, &whose).await?;
        apply::schemas(&self.green, &green, &schemas).await?;
        let (mut all, outside): (Vec<Entry>, Vec<Entry>) =
            said.iter().cloned().partition(|entry| is_inside(entry, &said));
        if attach {
            // Its indexes are there by now, and become parts of those above by themselves.
            all.extend(outside.into_iter().filter(|entry| entry.kind == TABLE_ATTACH));
        }
        all.splice(0..0, types);
        apply::at_once(&self.green, &green, &all).await
    }

    /// Drops tables in one statement, so that they may rest on each other.
    pub(super) async fn drop_made(&self, tables: &[TableName]) -> Result<()> {
        let names: Vec<String> = tables.iter().map(sql::table).collect();
        let names = names.join(", ");
        let green = self.green.session("schema").await?;
        let doing = "dropping new tables on green, to make them as they are now";
        let drop = format!("DROP TABLE IF EXISTS {names}");
        green.batch_execute(&drop).await.map_err(|e| apply::refused(doing, &names, e))
    }

    /// Adds foreign keys that partitions have from what they belong to on blue.
    pub(super) async fn keys(&self, tables: &[TableName]) -> Result<()> {
        let keys = "SELECT k.conname::text, pg_get_constraintdef(k.oid) FROM pg_constraint k \
                    WHERE k.conrelid = to_regclass($1::text) AND k.contype = 'f' \
                      AND k.conparentid <> 0 AND k.confrelid <> k.conrelid";
        let alone = "SELECT NOT c.relispartition AND NOT EXISTS (SELECT FROM pg_constraint k \
                     WHERE k.conrelid = c.oid AND k.conname = $2) \
                     FROM pg_class c WHERE c.oid = to_regclass($1::text)";
        let blue = self.blue.session("schema").await?;
        let green = self.green.session("schema").await?;
        for table in tables {
            let name = sql::table(table);
            let failed = |e| port_error(format!("adding foreign keys to {table} on green"), e);
            for key in blue.query(keys, &[&name]).await.map_err(failed)? {
                let (key, text): (&str, &str) = (key.get(0), key.get(1));
                let row = green.query_opt(alone, &[&name, &key]).await.map_err(failed)?;
                if row.is_some_and(|row| row.get(0)) {
                    let add =
                        format!("ALTER TABLE {name} ADD CONSTRAINT {} {text}", sql::ident(key));
                    green.batch_execute(&add).await.map_err(failed)?;
                }
            }
        }
        Ok(())
    }
}

const TABLE_ATTACH: &str = "TABLE ATTACH";

/// Whether what the entry makes a part of something is a part of what the same script makes. Where
/// the other end is there already, it has indexes and rows of its own.
fn is_inside(entry: &Entry, said: &[Entry]) -> bool {
    if !entry.is_attachment() {
        return true;
    }
    let Some(above) = entry.is_part_of() else { return false };
    said.iter().any(|other| other.makes(&above))
}

/// Types that tables of blue rest on and that green does not have, as far as they can be made.
async fn new_types(blue: &Session, green: &Session, tables: &[&TableName]) -> Result<Vec<Entry>> {
    let doing = "looking for new types on blue";
    let below = ddl::types_below(blue, tables, doing).await?;
    let names: Vec<String> = below.iter().map(|t| sql::table(&t.name)).collect();
    let rows = green
        .query("SELECT to_regtype(n) IS NULL FROM unnest($1::text[]) AS n", &[&names])
        .await
        .map_err(|e| port_error("looking for new types on green", e))?;
    let missing = below.into_iter().zip(rows).filter(|(_, row)| row.get(0));
    let entry = |(new, _): (ddl::NewType, _)| {
        let text = format!("{};\n", new.statement?);
        let TableName { schema, name } = new.name;
        Some(Entry { kind: "TYPE".into(), name, schema, owner: String::new(), text })
    };
    Ok(missing.filter_map(entry).collect())
}

/// Those of the tables that do not exist.
pub(super) async fn missing(session: &Session, tables: &[TableName]) -> Result<HashSet<TableName>> {
    let names: Vec<String> = tables.iter().map(sql::table).collect();
    let rows = session
        .query("SELECT to_regclass(n) IS NULL FROM unnest($1::text[]) AS n", &[&names])
        .await
        .map_err(|e| port_error("looking for new tables on green", e))?;
    let missing = tables.iter().zip(rows).filter(|(_, row)| row.get(0));
    Ok(missing.map(|(table, _)| table.clone()).collect())
}

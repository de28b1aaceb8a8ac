//! Tables that came into being during the run.

use std::collections::HashSet;

use cutover_core::{model::schema::TableName, port::Result};

use super::{
    PgSchemaCopy, apply, owned_schemas,
    program::PgDump,
    script::{self, Entry, Section},
};
use crate::{
    catalog,
    connect::{Session, port_error},
    sql,
};

impl PgSchemaCopy {
    /// Makes tables and what they are partitions of, where they are not there; goes on with those
    /// that were begun here.
    pub(super) async fn add_some(&self, tables: &[TableName], attach: bool) -> Result<()> {
        let doing = "looking for new tables on blue";
        let blue = self.blue.session("schema").await?;
        let green = self.green.session("schema").await?;
        let names: Vec<&TableName> = tables.iter().collect();
        let wanted: Vec<TableName> = catalog::families(&blue, &names)
            .await
            .map_err(|e| port_error(doing, e))?
            .into_iter()
            .map(|family| family.name)
            .collect();
        let (there, missing): (Vec<TableName>, Vec<TableName>) = {
            let there = existing(&green, &wanted).await?;
            wanted.into_iter().partition(|table| there.contains(table))
        };
        let program = self.pg_dump(&blue, &green).await?;
        let alone = match attach {
            true => HashSet::new(),
            false => partitions_of(&blue, &there).await?,
        };
        // Those that are half made first: an entry of theirs is marked, and those of users have none.
        for table in there.iter().filter(|table| tables.contains(table)) {
            let [before, after] = self.said(&program, std::slice::from_ref(table)).await?;
            if apply::is_begun(&self.green, &green, &before, table).await? {
                self.make(&green, [before, after], &alone).await?;
            }
            self.keys(&blue, &green, std::slice::from_ref(table)).await?;
        }
        if missing.is_empty() {
            return Ok(());
        }
        let said = self.said(&program, &missing).await?;
        let schemas = owned_schemas(&blue, &said[0]).await?;
        apply::schemas(&self.green, &green, &schemas).await?;
        // Tables of the same names may have been made before, and dropped since.
        apply::forget(&self.green, &green, Section::PreData, &said[0]).await?;
        apply::forget(&self.green, &green, Section::PostData, &said[1]).await?;
        self.make(&green, said, &alone).await?;
        self.keys(&blue, &green, &missing).await
    }

    /// Both halves of what `pg_dump` says of tables.
    async fn said(&self, program: &PgDump, tables: &[TableName]) -> Result<[Vec<Entry>; 2]> {
        let arguments: Vec<String> =
            tables.iter().map(|t| format!("--table={}", sql::table(t))).collect();
        let mut halves = [Vec::new(), Vec::new()];
        for (half, section) in halves.iter_mut().zip([Section::PreData, Section::PostData]) {
            let text = program.dump(&self.blue, section, &arguments).await?;
            *half = script::entries(&text).into_iter().filter(Entry::travels).collect();
        }
        Ok(halves)
    }

    /// Makes it all; what is to be `alone` is made a part of nothing.
    async fn make(
        &self,
        green: &Session,
        said: [Vec<Entry>; 2],
        alone: &HashSet<TableName>,
    ) -> Result<()> {
        let stays = |entry: &Entry| {
            let name = TableName::new(&entry.schema, &entry.name);
            !entry.is_attachment() || !alone.contains(&name)
        };
        for (entries, section) in said.into_iter().zip([Section::PreData, Section::PostData]) {
            let entries: Vec<Entry> = entries.into_iter().filter(stays).collect();
            apply::in_order(&self.green, green, section, &entries).await?;
        }
        Ok(())
    }

    /// Foreign keys that partitions have from what they belong to, before there are rows: those
    /// would be compared when the stream makes them partitions, with tables that may be behind.
    async fn keys(&self, blue: &Session, green: &Session, tables: &[TableName]) -> Result<()> {
        let keys = "SELECT k.conname::text, pg_get_constraintdef(k.oid) FROM pg_constraint k \
                    WHERE k.conrelid = to_regclass($1::text) AND k.contype = 'f' \
                      AND k.conparentid <> 0 AND k.confrelid <> k.conrelid";
        let alone = "SELECT NOT c.relispartition AND NOT EXISTS (SELECT FROM pg_constraint k \
                     WHERE k.conrelid = c.oid AND k.conname = $2) \
                     FROM pg_class c WHERE c.oid = to_regclass($1::text)";
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

/// Direct partitions of these tables on blue, and their indexes.
async fn partitions_of(blue: &Session, tables: &[TableName]) -> Result<HashSet<TableName>> {
    let names: Vec<String> = tables.iter().map(sql::table).collect();
    let query = "WITH parts AS (SELECT i.inhrelid AS oid FROM pg_inherits i \
                   JOIN unnest($1::text[]) AS w(name) ON i.inhparent = to_regclass(w.name)) \
                 SELECT n.nspname::text, c.relname::text FROM pg_class c \
                 JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE c.oid IN (SELECT oid FROM parts) OR c.oid IN (SELECT x.indexrelid \
                   FROM pg_index x WHERE x.indrelid IN (SELECT oid FROM parts))";
    let rows = blue
        .query(query, &[&names])
        .await
        .map_err(|e| port_error("looking for new tables on blue", e))?;
    let name =
        |row: &tokio_postgres::Row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
    Ok(rows.iter().map(name).collect())
}

/// Those of the tables that exist.
async fn existing(session: &Session, tables: &[TableName]) -> Result<HashSet<TableName>> {
    let names: Vec<String> = tables.iter().map(sql::table).collect();
    let rows = session
        .query("SELECT to_regclass(n) IS NOT NULL FROM unnest($1::text[]) AS n", &[&names])
        .await
        .map_err(|e| port_error("looking for new tables on green", e))?;
    Ok(tables.iter().zip(rows).filter(|(_, row)| row.get(0)).map(|(t, _)| t.clone()).collect())
}

//! Since when the publication carries the tables of the run.

use cutover_core::{
    model::{
        run::RunId,
        schema::{Table, TableName},
    },
    port::{Result, source::Since},
};

use crate::{catalog, connect::port_error, database::Database, sql::Names};

impl Database {
    /// Since when the publication of the run carries these tables.
    pub(super) async fn since(&self, run: &RunId, tables: &[Table]) -> Result<Since> {
        let warm = self.errand().await?;
        let (schemas, names): (Vec<&str>, Vec<&str>) =
            tables.iter().map(|t| (t.name.schema.as_str(), t.name.name.as_str())).unzip();
        let query = format!(
            "SELECT w.s, w.t, {} FROM unnest($1::text[], $2::text[]) AS w(s, t) \
             JOIN pg_namespace n ON n.nspname = w.s \
             JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.t",
            catalog::since("c.oid", &Names::of(run))
        );
        let rows = warm
            .session
            .query(&query, &[&schemas, &names])
            .await
            .map_err(|e| port_error(self.doing("asking since when tables are published"), e))?;
        self.put_back(warm);
        Ok(rows
            .iter()
            .filter_map(|row| {
                let name = TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
                row.get::<_, Option<String>>(2).map(|since| (name, since))
            })
            .collect())
    }
}

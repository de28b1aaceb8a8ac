//! Tables that are copied again and have changed since they were made: their rows need what is there
//! by now, and the stream tells of it only later.

use cutover_core::{model::schema::TableName, port::Result};

use super::{PgSchemaCopy, apply};
use crate::{connect::Session, ddl};

impl PgSchemaCopy {
    /// Tables whose columns on green are behind those of blue, and with `make` are not any more.
    pub(super) async fn align_columns(
        &self,
        tables: &[TableName],
        make: bool,
    ) -> Result<Vec<TableName>> {
        let blue = self.blue.session("schema").await?;
        let green = self.green.session("schema").await?;
        let lacks = ddl::lacking_columns(&blue, &green, tables).await?;
        if make && !lacks.is_empty() {
            let behind: Vec<TableName> = lacks.iter().map(|lack| lack.of.clone()).collect();
            make_all(&green, ddl::lacking_types(&blue, &green, &behind).await?).await?;
            make_all(&green, lacks.clone()).await?;
        }
        Ok(lacks.into_iter().map(|lack| lack.of).collect())
    }

    /// Gives green the types and values that these tables of blue rest on.
    pub(super) async fn add_types(&self, tables: &[TableName]) -> Result<()> {
        let blue = self.blue.session("schema").await?;
        let green = self.green.session("schema").await?;
        make_all(&green, ddl::lacking_types(&blue, &green, tables).await?).await
    }
}

async fn make_all(green: &Session, lacks: Vec<ddl::Lack>) -> Result<()> {
    let doing = "changing definitions on green ahead of a copy";
    for lack in lacks {
        tracing::info!("made on green, for rows that are copied: {}", lack.what);
        for statement in &lack.statements {
            let made = green.batch_execute(statement).await;
            made.map_err(|e| apply::refused(doing, &lack.what, e))?;
        }
    }
    Ok(())
}

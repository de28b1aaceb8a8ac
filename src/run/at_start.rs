//! A table that the stream announces with another shape than before: what does the catalog say?

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use cutover_core::{
    model::{schema::TableName, selection::Selection, side::Side},
    port::{PortError, Result, primary::Primary},
};

use crate::stream::Definitions;

/// Definitions as of the start of this process.
pub(super) struct AtStart {
    primary: Arc<dyn Primary>,
    selection: Selection,
    known: Arc<BTreeMap<String, String>>,
}

impl AtStart {
    /// `known`: definitions of this side at the start of this process.
    pub(super) fn new(
        primary: Arc<dyn Primary>,
        selection: Selection,
        known: Arc<BTreeMap<String, String>>,
    ) -> Self {
        Self { primary, selection, known }
    }
}

#[async_trait]
impl Definitions for AtStart {
    async fn unchanged(&self, from: Side, table: &TableName) -> Result<()> {
        let now = self.primary.fingerprint(&self.selection).await?;
        let name = table.to_string();
        if now.get(&name) == self.known.get(&name) {
            return Ok(());
        }
        Err(PortError::definite(
            "CUT0509",
            format!("following {table} on {from}"),
            "its definition changed while the run is on; nothing of the new shape was applied",
            format!(
                "make the same change to {table} on {}, then stop and start `cutover run`; or take \
                 it back",
                from.other()
            ),
        ))
    }
}

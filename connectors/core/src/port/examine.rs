//! The port behind preflight.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::Result;
use crate::model::{
    finding::{Finding, Scope},
    inventory::Belonging,
    run::RunId,
    schema::{Table, TableName},
    selection::Selection,
    side::Side,
};

/// What a check needs to know about the run.
#[derive(Debug, Clone)]
pub struct Question {
    /// The run.
    pub run: RunId,
    /// Which side this database is.
    pub side: Side,
    /// When.
    pub scope: Scope,
    /// What is moved.
    pub selection: Selection,
    /// Tables of blue that are moved (empty when blue could not be read).
    pub tables: Vec<Table>,
    /// Roles that own those tables on blue (empty when blue could not be read).
    pub owners: Vec<String>,
    /// Schemas of those tables, each with a role that owns some in it on blue.
    pub owned_in: Vec<(String, String)>,
    /// Owners of the schemas that the schema copy makes, as on blue, by schema.
    pub schema_owners: BTreeMap<String, String>,
    /// What that copy makes beside tables, and not every role may make, as on blue.
    pub belongings: Vec<Belonging>,
    /// Those tables on which row-level security is forced on blue, also for their owners.
    pub forced: Vec<TableName>,
    /// Whether clients' writes belong to this side now.
    pub owns_writes: bool,
    /// Whether the run has begun already, so that its own objects are expected.
    pub resuming: bool,
    /// Whether rows will be copied (so green must be empty) and the schema created by us.
    pub copies_schema: bool,
    /// Ranges of tables that copy and comparison read at once, each in a session of its own.
    pub workers: usize,
}

/// Anything that can tell in advance why it would fail later.
///
/// Engine-specific knowledge (settings, privileges, identities, retention) stays in the
/// connector; the engine only collects.
#[async_trait]
pub trait Examine: Send + Sync {
    /// Runs every check and returns all findings in a fixed order.
    ///
    /// # Errors
    ///
    /// A check could not be made, which is not the same as a finding.
    async fn examine(&self, question: &Question) -> Result<Vec<Finding>>;
}

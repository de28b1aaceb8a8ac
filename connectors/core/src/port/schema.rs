//! Moving table definitions between two databases of the same engine.

use async_trait::async_trait;

use super::Result;
use crate::model::{schema::TableName, selection::Selection};

/// Copies definitions, not rows.
#[async_trait]
pub trait SchemaCopy: Send + Sync {
    /// Creates what must exist before rows: schemas, types, tables without indexes and
    /// constraints, functions, sequences. Repeating it after a crash is harmless.
    async fn before_rows(&self, selection: &Selection) -> Result<()>;

    /// Creates the rest in parallel: indexes, constraints, foreign keys, triggers, policies; then
    /// gathers statistics. Where the rows are not of `one_view`, foreign keys that they break are
    /// left for [`SchemaCopy::complete`]. Repeating it after a crash is harmless.
    async fn after_rows(&self, selection: &Selection, workers: usize, one_view: bool)
    -> Result<()>;

    /// Creates what [`SchemaCopy::after_rows`] has left, in this process or an earlier one: the
    /// stream has brought what was missing. Gives way to whoever holds the tables, with a transient
    /// error.
    async fn complete(&self) -> Result<()>;

    /// Creates these tables, and what they are partitions of, with everything that belongs to them,
    /// when they came into being during the run. Those that somebody else has created there stay as
    /// they are. Without `attach` a partition of a table that is there already is made as a table
    /// of its own: the stream will tell when it becomes one. Repeating it after a crash is harmless.
    async fn add(&self, tables: &[TableName], attach: bool) -> Result<()>;

    /// Gathers planner statistics of the target (also after `provided` schemas).
    async fn analyze(&self, workers: usize) -> Result<()>;
}

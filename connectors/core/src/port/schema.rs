//! Moving table definitions between two databases of the same engine.

use std::collections::BTreeMap;

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
    /// gathers statistics. `None` says that the rows are of one view. Else foreign keys that they
    /// break are left for [`SchemaCopy::complete`]. So is, of the tables `torn`, in which ranges of
    /// the column named are of several views, whatever forbids rows of two ranges to be there
    /// together, but for the primary key, and what rests on it. Where the stream tells of changes
    /// (`told`), indexes and constraints on columns that came since are left to it. What belongs to
    /// tables that came since comes with them. Repeating it after a crash is harmless.
    async fn after_rows(
        &self,
        selection: &Selection,
        workers: usize,
        torn: Option<&BTreeMap<TableName, String>>,
        told: bool,
    ) -> Result<()>;

    /// Creates what [`SchemaCopy::after_rows`] has left, in this process or an earlier one: the
    /// stream has brought what was missing. What the source has no more is forgotten. Gives way to
    /// whoever holds the tables, with a transient error.
    async fn complete(&self) -> Result<()>;

    /// Creates these tables, what they are partitions of, and what is selected below those, with
    /// everything that belongs to them, when they came into being during the run; so are partitioned
    /// tables below which there are no rows. Tables that are there stay as they are. Without
    /// `attach` a partition of a table that is there already is made as a table of its own: the
    /// stream will tell when it becomes one. All of it is there, or nothing.
    async fn add(&self, selection: &Selection, tables: &[TableName], attach: bool) -> Result<()>;

    /// Drops tables that [`SchemaCopy::add`] made and that hold nothing yet, with what is below
    /// them: all of them or none. Those that are not there are passed over.
    ///
    /// # Errors
    ///
    /// Definite when something else rests on them.
    async fn discard(&self, tables: &[TableName]) -> Result<()>;

    /// Those of these tables that lack columns, or whose columns have narrower types than on the
    /// source, as far as that can be made without a look at rows. With `make` it is made: they hold
    /// nothing, or nothing that stays. The whole stands for its partitions. Differences of other
    /// kinds stay.
    async fn align(&self, tables: &[TableName], make: bool) -> Result<Vec<TableName>>;

    /// Makes the types and the values of enums that these tables rest on where they are missing.
    async fn add_values(&self, tables: &[TableName]) -> Result<()>;

    /// Adds the foreign keys that these tables have on the source from what they are partitions of,
    /// where they are no partitions yet. Called while they are empty: when the stream makes them
    /// partitions, their rows would be compared with tables that may be behind.
    async fn inherit_keys(&self, tables: &[TableName]) -> Result<()>;

    /// Gathers planner statistics of the target (also after `provided` schemas).
    async fn analyze(&self, workers: usize) -> Result<()>;
}

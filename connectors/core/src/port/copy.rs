//! Reading the initial rows, and digests, under one snapshot.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    PortError, Result,
    answers::{even, only},
    reader::RowReader,
};
use crate::model::{digest::RowKey, ranges::KeyRanges, schema::Table, value::Tuple};

/// A part of a table, in the words of the connector that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// For example `ctid >= '(0,0)' AND ctid < '(2048,0)'`; empty for the whole table.
    pub condition: String,
    /// Size on disk in bytes, an estimate.
    pub bytes: u64,
}

/// Where rows of a table are that come after a view of it. The same rows are there whenever one
/// reads, unless they were changed; also in another session, as long as the server has the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coming {
    /// Those that come where rows are appended, and few others. Quick to read. A row may come
    /// elsewhere, so whoever relies on it counts.
    pub end: Range,
    /// All of them, and few others. As slow as looking at every row.
    pub anywhere: Range,
}

/// What makes ranges of a table's key possible that are read under several snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed {
    /// The first column of its key, of whole numbers.
    pub column: String,
    /// Another text once a column of the table was altered: its rows may be others then, without a
    /// word in the stream. And once something else keeps rows of several ranges apart.
    pub definition: String,
    /// Nothing but this column says that rows of two ranges cannot be there together. Else, where one
    /// range is older than another, the same value may be in both, until the stream has joined them.
    pub alone: bool,
}

/// How rows of a copy travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    /// PostgreSQL's binary COPY stream, piped through without decoding.
    PostgresBinary,
    /// PostgreSQL's text COPY stream.
    PostgresText,
    /// Decoded rows.
    Rows,
}

/// A piece of a copy.
#[derive(Debug, Clone)]
pub enum CopyChunk {
    /// Bytes of a COPY stream.
    Raw(Bytes),
    /// Rows, in the order of the carried columns.
    Rows(Vec<Tuple>),
}

/// What is being done when an answer is missing.
const MEASURING: &str = "measuring the size";
const ENDS: &str = "looking for the end";
const KEYS: &str = "looking at the keys";

/// A consistent view of a database, shared by all workers that read under it.
///
/// Dropping it ends the view.
#[async_trait]
pub trait Snapshot: RowReader {
    /// Which transactions it contains, as text for the journal (PostgreSQL:
    /// `pg_current_snapshot()`).
    fn visible(&self) -> &str;

    /// Cuts every table into ranges of about `target_bytes`, in the order to read them; none for a
    /// table that holds nothing.
    ///
    /// # Errors
    ///
    /// Those of the connector, and `CUT0308` when a table has no answer.
    async fn split_all(&self, tables: &[&Table], target_bytes: u64) -> Result<Vec<Vec<Range>>> {
        let all = self.ranges_of(tables, target_bytes).await?;
        even(MEASURING, tables.first().map(|table| &table.name), tables.len(), all.len())?;
        Ok(all)
    }

    /// The connector's part of [`Snapshot::split_all`], which counts the answers: call that.
    async fn ranges_of(&self, tables: &[&Table], target_bytes: u64) -> Result<Vec<Vec<Range>>>;

    /// The same for one table.
    async fn split(&self, table: &Table, target_bytes: u64) -> Result<Vec<Range>> {
        let all = self.split_all(&[table], target_bytes).await?;
        only(MEASURING, &table.name, all)
    }

    /// Where the rows of every table are that come after this view. `None` where nobody knows.
    ///
    /// # Errors
    ///
    /// Those of the connector, and `CUT0308` when a table has no answer.
    async fn coming(&self, tables: &[&Table]) -> Result<Vec<Option<Coming>>> {
        let all = self.coming_of(tables).await?;
        even(ENDS, tables.first().map(|table| &table.name), tables.len(), all.len())?;
        Ok(all)
    }

    /// The connector's part of [`Snapshot::coming`], which counts the answers: call that.
    async fn coming_of(&self, tables: &[&Table]) -> Result<Vec<Option<Coming>>> {
        Ok(vec![None; tables.len()])
    }

    /// Whether ranges of their keys can be read under several snapshots; `None` where not.
    ///
    /// # Errors
    ///
    /// Those of the connector, and `CUT0308` when a table has no answer.
    async fn keyed(&self, tables: &[&Table]) -> Result<Vec<Option<Keyed>>> {
        let all = self.keyed_of(tables).await?;
        even(KEYS, tables.first().map(|table| &table.name), tables.len(), all.len())?;
        Ok(all)
    }

    /// The connector's part of [`Snapshot::keyed`], which counts the answers: call that.
    async fn keyed_of(&self, tables: &[&Table]) -> Result<Vec<Option<Keyed>>> {
        Ok(vec![None; tables.len()])
    }

    /// Cuts a table into ranges of its key, of about `target_bytes` each and 4096 at most. `None`
    /// where its rows do not lie in the order of the key: every range would be all over the table.
    async fn by_key(
        &self,
        _table: &Table,
        _column: &str,
        _target_bytes: u64,
    ) -> Result<Option<KeyRanges>> {
        Ok(None)
    }

    /// Range `number` of a key. Only asked for tables that were cut so.
    fn key_range(&self, _ranges: &KeyRanges, _number: usize) -> Option<Range> {
        None
    }

    /// The range of exactly the rows with these keys (in the order of [`Table::key`]), for repair.
    async fn keys_range(&self, table: &Table, keys: &[RowKey]) -> Result<Range>;

    /// Starts to read one range of the carried columns.
    async fn read(&self, table: &Table, range: &Range, format: CopyFormat) -> Result<Opened>;
}

/// What was found where rows were to be read.
pub enum Opened {
    /// Those of the snapshot.
    Rows(Box<dyn CopyStream>),
    /// Nothing: the table was emptied since the snapshot. What happened to its rows before that is
    /// in the stream, and they are not here any more.
    Emptied(Box<dyn CopyStream>),
    /// The table is not any more what the snapshot knows, and can be read under a later one; why.
    Later(PortError),
}

impl Opened {
    /// The rows, of an emptied table as well.
    ///
    /// # Errors
    ///
    /// A transient one when only a later snapshot has them.
    pub fn rows(self) -> Result<Box<dyn CopyStream>> {
        match self {
            Self::Rows(rows) | Self::Emptied(rows) => Ok(rows),
            Self::Later(why) => Err(why),
        }
    }
}

/// An open read of one range.
#[async_trait]
pub trait CopyStream: Send {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Result<Option<CopyChunk>>;
}

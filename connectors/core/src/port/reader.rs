//! Digests, computed inside the servers.

use async_trait::async_trait;

use super::{Result, copy::Range};
use crate::model::{
    digest::{Digest, RowDigest, RowKey},
    schema::Table,
};

/// A part of a table whose digest is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// The table on this side; its columns are the ones to compare, in order.
    pub table: &'a Table,
    /// Which of its rows.
    pub range: &'a Range,
    /// Over how many buckets rows are spread by the hash of their key: a power of two.
    pub buckets: u32,
}

/// Rows of one table that are asked for by key.
#[derive(Debug, Clone, Copy)]
pub struct Lookup<'a> {
    /// The table on this side. It must have a key.
    pub table: &'a Table,
    /// The keys.
    pub keys: &'a [RowKey],
}

/// Reads digests of rows. Both sides render a row to the same text under the same pinned
/// settings and hash that, so equal digests mean equal rows.
///
/// `table` names the table on this side; its columns are the ones to compare, in order.
#[async_trait]
pub trait RowReader: Send + Sync {
    /// Digest of every part, per bucket: as many entries as the part has buckets. Many small
    /// parts cost few round trips.
    async fn digests(&self, parts: &[Part<'_>]) -> Result<Vec<Vec<Digest>>>;

    /// The same of one part.
    async fn bucket_digests(
        &self,
        table: &Table,
        range: &Range,
        buckets: u32,
    ) -> Result<Vec<Digest>> {
        let all = self.digests(&[Part { table, range, buckets }]).await?;
        Ok(all.into_iter().next().unwrap_or_default())
    }

    /// Every row of the given buckets.
    async fn bucket_rows(
        &self,
        table: &Table,
        buckets: u32,
        wanted: &[u32],
    ) -> Result<Vec<RowDigest>>;

    /// For every lookup the hashes of its rows, in no order; a key without a row is left out.
    /// Many tables cost no more round trips than one.
    async fn lookup(&self, wanted: &[Lookup<'_>]) -> Result<Vec<Vec<RowDigest>>>;

    /// The same for one table.
    async fn key_digests(&self, table: &Table, keys: &[RowKey]) -> Result<Vec<RowDigest>> {
        let all = self.lookup(&[Lookup { table, keys }]).await?;
        Ok(all.into_iter().next().unwrap_or_default())
    }

    /// Does ahead what the first reads by key of these tables would have to do; the first ones are
    /// the most likely to be read, and get more of it.
    async fn get_ready(&self, _tables: &[&Table]) -> Result<()> {
        Ok(())
    }
}

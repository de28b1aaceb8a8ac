//! Digests, computed inside the servers.

use async_trait::async_trait;

use super::{Result, copy::Range};
use crate::model::{
    digest::{Digest, RowDigest, RowKey},
    schema::Table,
};

/// Reads digests of rows. Both sides render a row to the same text under the same pinned
/// settings and hash that, so equal digests mean equal rows.
///
/// `table` names the table on this side; its columns are the ones to compare, in order.
#[async_trait]
pub trait RowReader: Send + Sync {
    /// Digest of a range per bucket: rows are spread over `buckets` (a power of two) by the hash
    /// of their key. The vector has `buckets` entries.
    async fn bucket_digests(
        &self,
        table: &Table,
        range: &Range,
        buckets: u32,
    ) -> Result<Vec<Digest>>;

    /// Every row of the given buckets.
    async fn bucket_rows(
        &self,
        table: &Table,
        buckets: u32,
        wanted: &[u32],
    ) -> Result<Vec<RowDigest>>;

    /// Hashes of the rows with these keys, in no order; a key without a row is left out. The table
    /// must have a key.
    async fn key_digests(&self, table: &Table, keys: &[RowKey]) -> Result<Vec<RowDigest>>;

    /// Does ahead whatever the first reads by key of these tables would have to do.
    async fn get_ready(&self, _tables: &[Table]) -> Result<()> {
        Ok(())
    }
}

//! Digests, computed inside the servers.

use async_trait::async_trait;

use super::{
    Result,
    answers::{even, only},
    copy::Range,
};
use crate::model::{
    digest::{Digest, RowDigest, RowKey},
    event::TransactionId,
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

/// What is being done when an answer is missing.
const DIGESTS: &str = "reading digests";
const ROWS: &str = "reading rows by key";
const SIZES: &str = "measuring tables";
const FILES: &str = "asking whether rows were written anew";
const EMPTIED: &str = "asking whether tables were emptied";

/// Reads digests of rows. Both sides render a row to the same text under the same pinned
/// settings and hash that, so equal digests mean equal rows.
///
/// `table` names the table on this side; its columns are the ones to compare, in order.
#[async_trait]
pub trait RowReader: Send + Sync {
    /// Digest of every part, per bucket: as many entries as the part has buckets. Many small
    /// parts cost few round trips.
    ///
    /// # Errors
    ///
    /// Those of the connector, and `CUT0308` when a part or a bucket has no answer.
    async fn digests(&self, parts: &[Part<'_>]) -> Result<Vec<Vec<Digest>>> {
        let all = self.digests_of(parts).await?;
        even(DIGESTS, parts.first().map(|part| &part.table.name), parts.len(), all.len())?;
        for (part, digests) in parts.iter().zip(&all) {
            let buckets = part.buckets.max(1) as usize;
            even("reading buckets", Some(&part.table.name), buckets, digests.len())?;
        }
        Ok(all)
    }

    /// The connector's part of [`RowReader::digests`], which counts the answers: call that.
    async fn digests_of(&self, parts: &[Part<'_>]) -> Result<Vec<Vec<Digest>>>;

    /// The same of one part.
    async fn bucket_digests(
        &self,
        table: &Table,
        range: &Range,
        buckets: u32,
    ) -> Result<Vec<Digest>> {
        let all = self.digests(&[Part { table, range, buckets }]).await?;
        only(DIGESTS, &table.name, all)
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
    ///
    /// # Errors
    ///
    /// Those of the connector, and `CUT0308` when a lookup has no answer.
    async fn lookup(&self, wanted: &[Lookup<'_>]) -> Result<Vec<Vec<RowDigest>>> {
        let all = self.rows_of(wanted).await?;
        even(ROWS, wanted.first().map(|lookup| &lookup.table.name), wanted.len(), all.len())?;
        Ok(all)
    }

    /// The connector's part of [`RowReader::lookup`], which counts the answers: call that.
    async fn rows_of(&self, wanted: &[Lookup<'_>]) -> Result<Vec<Vec<RowDigest>>>;

    /// The same for one table.
    async fn key_digests(&self, table: &Table, keys: &[RowKey]) -> Result<Vec<RowDigest>> {
        let all = self.lookup(&[Lookup { table, keys }]).await?;
        only(ROWS, &table.name, all)
    }

    /// Which files hold the rows of these tables: another number than before means that the rows
    /// were written anew, by something that need not be in the change log. 0 where nobody knows.
    ///
    /// # Errors
    ///
    /// Those of the connector, and `CUT0308` when a table has no answer.
    async fn files(&self, tables: &[&Table]) -> Result<Vec<u64>> {
        let all = self.files_of(tables).await?;
        even(FILES, tables.first().map(|table| &table.name), tables.len(), all.len())?;
        Ok(all)
    }

    /// A text that changes whenever the answer to [`RowReader::files`] does, of whatever tables, and
    /// sometimes without need; cheap enough for a pause. `None` where there is no such thing.
    ///
    /// # Errors
    ///
    /// Those of the connector.
    async fn files_mark(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Bytes of these tables by now.
    ///
    /// # Errors
    ///
    /// As [`RowReader::files`].
    async fn sizes(&self, tables: &[&Table]) -> Result<Vec<u64>> {
        let all = self.sizes_of(tables).await?;
        even(SIZES, tables.first().map(|table| &table.name), tables.len(), all.len())?;
        Ok(all)
    }

    /// The connector's part of [`RowReader::sizes`], which counts the answers: call that.
    async fn sizes_of(&self, tables: &[&Table]) -> Result<Vec<u64>> {
        Ok(tables.iter().map(|table| table.bytes).collect())
    }

    /// The connector's part of [`RowReader::files`], which counts the answers: call that.
    async fn files_of(&self, tables: &[&Table]) -> Result<Vec<u64>> {
        Ok(vec![0; tables.len()])
    }

    /// Whether a read that begins now sees what each of these transactions did. A commit is in the
    /// change log before others see its rows.
    ///
    /// # Errors
    ///
    /// Those of the connector, and `CUT0308` when a transaction has no answer.
    async fn sees(&self, transactions: &[TransactionId]) -> Result<Vec<bool>> {
        let all = self.seen_of(transactions).await?;
        even("asking what can be seen", None, transactions.len(), all.len())?;
        Ok(all)
    }

    /// The connector's part of [`RowReader::sees`], which counts the answers: call that.
    async fn seen_of(&self, transactions: &[TransactionId]) -> Result<Vec<bool>> {
        Ok(vec![true; transactions.len()])
    }

    /// Whether these tables were emptied since the moment whose rows are read here, by something
    /// that leaves nothing of them to be read: how many there were then is not known any more.
    ///
    /// # Errors
    ///
    /// Those of the connector, and `CUT0308` when a table has no answer.
    async fn emptied(&self, tables: &[&Table]) -> Result<Vec<bool>> {
        let all = self.emptied_of(tables).await?;
        even(EMPTIED, tables.first().map(|table| &table.name), tables.len(), all.len())?;
        Ok(all)
    }

    /// The connector's part of [`RowReader::emptied`], which counts the answers: call that.
    async fn emptied_of(&self, tables: &[&Table]) -> Result<Vec<bool>> {
        Ok(vec![false; tables.len()])
    }

    /// Does ahead what the first reads by key of these tables would have to do; the first ones are
    /// the most likely to be read, and get more of it.
    async fn get_ready(&self, _tables: &[&Table]) -> Result<()> {
        Ok(())
    }
}

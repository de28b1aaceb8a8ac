//! The target role: rows of the initial copy, and changes with progress in the same transaction.
//!
//! - `setup`: schema, progress table, origin. `lease`: the only process of a run. `copy`, `repair`: rows in bulk. `parts`: which
//!   parts of a table are there. `unproven`: constraints that such rows may break.
//! - `batch`, `shape`, `reduce`, `set`, `statement`, `encode`: pure; events to statements.
//! - `writer`, `attempt`: one transaction per call. `rows`: the ordered row path behind it.
//! - `early`: the second writer, for a transaction that is still in progress on the source.
//!
//! Strict: a number of rows that is not as expected is never written. Expects values in text form.
//! Does not decide what is applied when, and knows nothing of the source's log.

mod attempt;
mod batch;
mod cache;
mod copy;
mod early;
mod encode;
mod lease;
mod parts;
mod pipeline;
mod reduce;
mod refusal;
mod repair;
mod router;
mod rows;
mod set;
mod setup;
mod shape;
mod statement;
mod unproven;
mod writer;

use async_trait::async_trait;
use cutover_core::{
    model::{run::RunId, schema::Table},
    port::{
        Result,
        copy::CopyFormat,
        sink::{Lease, Load, PartThere, Route, Sink, SinkWriter},
    },
};

pub(crate) use copy::Copiers;

use crate::{database::Database, sql::Names};

#[async_trait]
impl Sink for Database {
    async fn prepare(&self, run: &RunId) -> Result<()> {
        let warm = self.errand().await?;
        setup::create(&warm.session, self.side.as_str(), &Names::of(run)).await?;
        self.put_back(warm);
        Ok(())
    }

    fn copy_formats(&self) -> &[CopyFormat] {
        &[CopyFormat::PostgresBinary, CopyFormat::PostgresText, CopyFormat::Rows]
    }

    async fn clear(&self, run: &RunId, table: &Table) -> Result<()> {
        copy::clear(self, &Names::of(run), &table.name).await
    }

    async fn takes_parts(&self, table: &Table, column: &str) -> Result<bool> {
        let warm = self.errand().await?;
        let takes = parts::takes(&warm.session, self.side.as_str(), &table.name, column).await?;
        self.put_back(warm);
        Ok(takes)
    }

    async fn parts(&self, run: &RunId, table: &Table) -> Result<Vec<PartThere>> {
        let warm = self.errand().await?;
        let (at, names) = (self.side.as_str(), Names::of(run));
        let there = parts::there(&warm.session, at, &names, &table.name).await?;
        self.put_back(warm);
        Ok(there)
    }

    async fn load(&self, run: &RunId) -> Result<Box<dyn Load>> {
        Ok(Box::new(copy::BulkLoad::new(self, Names::of(run)).await?))
    }

    async fn writer(&self, run: &RunId, routes: &[Route]) -> Result<Box<dyn SinkWriter>> {
        let names = Names::of(run);
        let at = self.side.to_string();
        let session = self.session("apply").await?;
        setup::become_writer(&session, &at, &names).await?;
        Ok(Box::new(writer::Writer::new(self.clone(), session, at, names, routes).await?))
    }

    async fn lease(&self, run: &RunId) -> Result<Box<dyn Lease>> {
        let session = Some(lease::take(self, run).await?);
        Ok(Box::new(lease::Held { database: self.clone(), run: run.clone(), session }))
    }

    async fn release(&self, run: &RunId) -> Result<()> {
        self.copiers.close();
        let warm = self.errand().await?;
        setup::remove(&warm.session, self.side.as_str(), &Names::of(run)).await?;
        self.put_back(warm);
        Ok(())
    }
}

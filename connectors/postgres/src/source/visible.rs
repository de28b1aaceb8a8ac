//! When what the log says is committed can be read as well.

use std::time::Duration;

use cutover_core::port::{PortError, Result};

use crate::{connect::port_error, database::Database};

/// How often running transactions are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl Database {
    /// Waits until every transaction that has begun so far has ended.
    ///
    /// A commit record is written, and may be decoded, before its backend leaves the list of
    /// running transactions; with synchronous standbys that can take long. Only then others see
    /// its rows (`RecordTransactionCommit` before `ProcArrayEndTransaction` in `xact.c`).
    pub(super) async fn wait_for_begun(&self, within: Duration) -> Result<bool> {
        let session = self.control().await?;
        let doing = || self.doing("waiting for transactions to end");
        let number = async |sql: &'static str| {
            let row = session.query_one(sql, &[]).await.map_err(|e| port_error(doing(), e))?;
            Ok::<i64, PortError>(row.get(0))
        };
        let begun = number(
            "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint",
        )
        .await?;
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let oldest = number(
                "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint",
            )
            .await?;
            if oldest >= begun {
                return Ok(true);
            }
            if tokio::time::Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

//! Transactions that are open now.

use cutover_core::{
    model::run::RunId,
    port::{Result, primary::OpenTransaction},
};
use tokio_postgres::Row;

use super::fence::{MIGHT_BE, in_the_way, is_fenced, ours};
use crate::{connect::port_error, database::Database, sql::Names};

/// A transaction of somebody else.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    pub(crate) transaction: OpenTransaction,
    pub(crate) user: String,
    /// It has written, somewhere on this server: a new slot waits for it.
    pub(crate) writes: bool,
    /// It is in this database.
    pub(crate) here: bool,
    /// It belongs to a client, or to somebody's worker, and not to the server.
    pub(crate) foreign: bool,
}

/// Transactions of others in this database, oldest first.
pub(super) async fn open_transactions(db: &Database, run: &RunId) -> Result<Vec<OpenTransaction>> {
    let names = Names::of(run);
    let doing = format!("listing open transactions of {}", db.side);
    let mut warm = db.errand().await?;
    let ask = async {
        let installed = warm.prepared(&is_fenced(&names)).await?;
        let fenced: bool = warm.session.query_one(&installed, &[]).await?.get(0);
        let statement = warm.prepared(&statement(run, &names, fenced)).await?;
        warm.session.query(&statement, &[]).await
    };
    let rows = ask.await.map_err(|e| port_error(doing, e))?;
    db.put_back(warm);
    Ok(rows.iter().map(open).filter(|open| open.here).map(|open| open.transaction).collect())
}

/// Reads a row of [`statement`].
pub(crate) fn open(row: &Row) -> Open {
    let transaction = OpenTransaction {
        who: row.get(0),
        application: row.get(1),
        age_seconds: row.get(2),
        blocks_fence: row.get(3),
        blocks_waking: row.get(4),
        prepared: row.get(5),
    };
    let (user, writes, here, foreign) = (row.get(6), row.get(7), row.get(8), row.get(9));
    Open { transaction, user, writes, here, foreign }
}

/// Transactions of others on this server. Processes that cannot write (log senders) are left out,
/// and so is an autovacuum, which the server ends when it is in the way; not one that prevents a
/// wraparound.
pub(crate) fn statement(run: &RunId, names: &Names, fenced: bool) -> String {
    let [closing, waking] = in_the_way(names, fenced);
    let process = "w.pid = a.pid";
    let prepared = "w.pid IS NULL AND w.virtualtransaction IN \
                        (SELECT x.virtualtransaction FROM pg_locks x WHERE x.pid IS NULL \
                         AND x.locktype = 'transactionid' \
                         AND x.transactionid = p.transaction)";
    let holds =
        |what: &str, whose: &str| format!("EXISTS (SELECT FROM way w WHERE w.{what} AND {whose})");
    // Locks are listed once, and not for each transaction: a dump holds one on every table.
    let way = format!(
        "way AS MATERIALIZED (SELECT l.pid, l.virtualtransaction, \
                                     bool_or({closing}) AS closing, bool_or({waking}) AS waking \
                                FROM pg_locks l WHERE {MIGHT_BE} GROUP BY 1, 2)"
    );
    format!(
        "WITH {way} \
         SELECT a.pid::text, coalesce(a.application_name, ''), \
                extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS age, \
                NOT k.vacuums AND {closing_process}, {waking_process}, false, \
                coalesce(a.usename::text, ''), a.backend_xid IS NOT NULL, \
                a.datname = current_database(), NOT k.vacuums \
         FROM pg_stat_activity a \
         CROSS JOIN LATERAL (SELECT coalesce(a.backend_type, '') = 'autovacuum worker') k(vacuums) \
         WHERE a.datname IS NOT NULL AND a.xact_start IS NOT NULL \
           AND a.pid <> pg_backend_pid() AND NOT {ours} \
           AND coalesce(a.backend_type, '') NOT IN ('walsender', 'parallel worker') \
           AND (NOT k.vacuums OR a.query ~ 'to prevent wraparound') \
         UNION ALL \
         SELECT p.gid, '', extract(epoch FROM clock_timestamp() - p.prepared)::float8, \
                {closing_prepared}, {waking_prepared}, true, p.owner::text, true, true, true \
         FROM pg_prepared_xacts p WHERE p.database = current_database() \
         ORDER BY age DESC",
        closing_process = holds("closing", process),
        waking_process = holds("waking", process),
        closing_prepared = holds("closing", prepared),
        waking_prepared = holds("waking", prepared),
        ours = ours(run)
    )
}

//! Transactions that are open now.

use cutover_core::{
    model::run::RunId,
    port::{Result, primary::OpenTransaction},
};

use super::fence::{WRITING_MODES, fenced_literal, fenced_table, ours};
use crate::{connect::port_error, database::Database, sql::Names};

/// Transactions of others in this database, oldest first. Processes that cannot write (log
/// senders, vacuum) are left out.
pub(super) async fn open_transactions(db: &Database, run: &RunId) -> Result<Vec<OpenTransaction>> {
    let names = Names::of(run);
    let doing = format!("listing open transactions of {}", db.side);
    let mut warm = db.errand().await?;
    let ask = async {
        let question = format!("SELECT to_regclass({}) IS NOT NULL", fenced_literal(&names));
        let installed = warm.prepared(&question).await?;
        let fenced: bool = warm.session.query_one(&installed, &[]).await?.get(0);
        let statement = warm.prepared(&statement(run, &names, fenced)).await?;
        warm.session.query(&statement, &[]).await
    };
    let rows = ask.await.map_err(|e| port_error(doing, e))?;
    db.put_back(warm);
    Ok(rows
        .iter()
        .map(|row| OpenTransaction {
            who: row.get(0),
            application: row.get(1),
            age_seconds: row.get(2),
            blocks_fence: row.get(3),
            prepared: row.get(4),
        })
        .collect())
}

/// Without a fence yet, every table that is not the system's counts.
fn statement(run: &RunId, names: &Names, fenced: bool) -> String {
    let relations = if fenced {
        format!("l.relation IN (SELECT relid FROM {})", fenced_table(names))
    } else {
        // Numbers below belong to the system's catalogs.
        "l.relation >= 16384".to_owned()
    };
    let locks = format!(
        "SELECT FROM pg_locks l WHERE l.locktype = 'relation' AND l.granted \
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND l.mode IN ({WRITING_MODES}) AND {relations}"
    );
    format!(
        "SELECT a.pid::text, coalesce(a.application_name, ''), \
                extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS age, \
                EXISTS ({locks} AND l.pid = a.pid), false \
         FROM pg_stat_activity a \
         WHERE a.datname = current_database() AND a.xact_start IS NOT NULL \
           AND a.pid <> pg_backend_pid() AND NOT {ours} \
           AND coalesce(a.backend_type, '') NOT IN \
               ('walsender', 'autovacuum worker', 'parallel worker') \
         UNION ALL \
         SELECT p.gid, '', extract(epoch FROM clock_timestamp() - p.prepared)::float8, \
                EXISTS ({locks} AND l.pid IS NULL AND l.virtualtransaction IN \
                        (SELECT x.virtualtransaction FROM pg_locks x WHERE x.pid IS NULL \
                         AND x.locktype = 'transactionid' \
                         AND x.transactionid = p.transaction)), true \
         FROM pg_prepared_xacts p WHERE p.database = current_database() \
         ORDER BY age DESC",
        ours = ours(run)
    )
}

//! How large tables are. `pg_table_size()` waits for whoever has a table for himself alone, as
//! `VACUUM FULL` has for hours, and whoever asks for a size would wait with it.

use futures_util::future::join3;
use tokio_postgres::{Error, Statement, error::SqlState};

use crate::connect::Session;

/// How long a lock may keep us that came after we had looked for it, and how often.
const IMPATIENT: &str = "SET LOCAL lock_timeout = '300ms'";
const TRIES: u32 = 3;

/// Tables whose size nobody is told at once: somebody has them for himself alone, or waits for that.
/// The index of what lies outside of a table counts as well.
pub(crate) const TAKEN: &str = "
    SELECT coalesce(x.indrelid, l.relation) FROM pg_locks l
      LEFT JOIN (pg_index x JOIN pg_class o ON o.oid = x.indrelid AND o.relkind = 't')
        ON x.indexrelid = l.relation
     WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Bytes of tables in their order; of those that are taken, as many as were counted when they were
/// last vacuumed or analyzed.
pub(crate) fn sizes_statement() -> String {
    format!(
        "WITH taken(oid) AS MATERIALIZED ({TAKEN})
         SELECT coalesce(CASE
                  WHEN c.oid IN (SELECT oid FROM taken) OR o.oid IN (SELECT oid FROM taken)
                  THEN (c.relpages::int8 + coalesce(o.relpages, 0))
                       * current_setting('block_size')::int8
                  ELSE pg_table_size(c.oid) END, 0)
           FROM unnest($1::text[]) WITH ORDINALITY AS w(name, n)
           LEFT JOIN pg_class c ON c.oid = to_regclass(w.name)
           LEFT JOIN pg_class o ON o.oid = c.reltoastrelid
          ORDER BY w.n"
    )
}

/// Asks it; `session` must not be in a transaction. A table that is gone has no bytes.
pub(crate) async fn sizes(
    session: &Session,
    statement: &Statement,
    names: &[String],
) -> Result<Vec<u64>, Error> {
    let begin = format!("BEGIN; {IMPATIENT}");
    let mut tries = 1;
    loop {
        // In one round trip: each is begun when the one before is done.
        let (begun, rows, ended) = join3(
            session.batch_execute(&begin),
            session.query(statement, &[&names]),
            session.batch_execute("COMMIT"),
        )
        .await;
        begun?;
        ended?;
        match rows {
            Ok(rows) => {
                let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
                return Ok(rows.iter().map(|row| bytes(row.get(0))).collect());
            }
            Err(e) if e.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) && tries < TRIES => {
                tries += 1;
            }
            Err(e) => return Err(e),
        }
    }
}

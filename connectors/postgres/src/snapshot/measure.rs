//! How large tables are, to the page: ranges are cut by it.

use std::time::Instant;

use cutover_core::{model::schema::Table, port::Result};
use tokio::time::sleep;

use super::{View, hold};
use crate::{catalog, connect::port_error, sql};

/// How large a table is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// Where its rows are in pages.
    pub(super) pages: Option<u64>,
    /// With what lies outside of the pages.
    pub(super) bytes: u64,
}

fn statement() -> String {
    format!(
        "WITH taken(oid) AS MATERIALIZED ({})
         SELECT w.n, t.taken, coalesce(a.amname = 'heap', false),
                CASE WHEN NOT t.taken
                     THEN pg_relation_size(c.oid) / current_setting('block_size')::int8 END,
                CASE WHEN NOT t.taken THEN pg_table_size(c.oid) END
           FROM unnest($1::text[]) WITH ORDINALITY AS w(name, n)
           JOIN pg_class c ON c.oid = to_regclass(w.name)
           LEFT JOIN pg_am a ON a.oid = c.relam
          CROSS JOIN LATERAL (SELECT c.oid IN (SELECT oid FROM taken)
                                     OR c.reltoastrelid IN (SELECT oid FROM taken)) AS t(taken)",
        catalog::TAKEN
    )
}

impl View {
    /// How large the tables are by now; `None` for one that is not there any more. What somebody
    /// has for himself alone is waited for, for a while.
    pub(super) async fn measured(&self, tables: &[&Table]) -> Result<Vec<Option<Measured>>> {
        let warm = self.session().await?;
        let doing = || self.doing("measuring the tables");
        let ask = warm.session.prepare(&statement()).await.map_err(|e| port_error(doing(), e))?;
        let mut all = vec![None; tables.len()];
        let mut left: Vec<usize> = (0..tables.len()).collect();
        let begun = Instant::now();
        loop {
            let names: Vec<String> = left.iter().map(|i| sql::table(&tables[*i].name)).collect();
            let rows = warm.session.query(&ask, &[&names]).await;
            let rows = rows.map_err(|e| port_error(doing(), e))?;
            let mut taken = Vec::new();
            for row in &rows {
                let number =
                    |i: usize| row.get::<_, Option<i64>>(i).and_then(|n| u64::try_from(n).ok());
                let at = number(0).and_then(|n| left.get(usize::try_from(n).ok()?.checked_sub(1)?));
                let Some(&at) = at else { continue };
                if row.get(1) {
                    taken.push(at);
                } else if let Some(bytes) = number(4) {
                    let heap = row.get(2);
                    all[at] = Some(Measured { pages: number(3).filter(|_| heap), bytes });
                }
            }
            if taken.is_empty() {
                self.idle.put(warm);
                return Ok(all);
            }
            if begun.elapsed() >= hold::PATIENCE {
                let names: Vec<_> = taken.iter().map(|i| tables[*i].name.clone()).collect();
                return Err(self.kept_from(doing(), &names).await);
            }
            left = taken;
            sleep(hold::PAUSE).await;
        }
    }
}

//! Room for the locks of the fence: it takes all tables of the run in one transaction.

use super::super::{Answer, facts::Context, found::*};

struct Facts {
    per_transaction: i64,
    /// Sessions and prepared transactions that share the lock table.
    sharers: i64,
    /// Tables of the run and their parents.
    tables: i64,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let mut all = [0; 3];
    for (value, name) in all.iter_mut().zip([
        "max_locks_per_transaction",
        "max_connections",
        "max_prepared_transactions",
    ]) {
        *value = context.number(name).await?.unwrap_or(0);
    }
    let [per_transaction, connections, prepared] = all;
    let touched = context.relations.iter().filter(|r| r.touched).count();
    Ok(judge(&Facts {
        per_transaction,
        sharers: connections + prepared,
        tables: i64::try_from(touched).unwrap_or(i64::MAX),
    }))
}

fn judge(facts: &Facts) -> Vec<Found> {
    let capacity = facts.per_transaction * facts.sharers;
    // A table, and while its trigger changes also its catalog entries and the trigger's function.
    let needed = facts.tables * 2 + 64;
    if needed * 2 <= capacity {
        return Vec::new();
    }
    let what = format!(
        "the fence locks {} at once, and the server's lock table has room for about {capacity} \
         locks of all sessions together",
        number(usize::try_from(facts.tables).unwrap_or(0), "table")
    );
    let enough = needed * 4 / facts.sharers.max(1) + 1;
    let remedy = restart_with("max_locks_per_transaction", enough.max(facts.per_transaction));
    vec![if needed > capacity {
        error("CUT0111", what, remedy)
    } else {
        warning("CUT0111", what, remedy)
    }]
}

#[cfg(test)]
mod tests {
    use cutover_core::model::finding::Severity;

    use super::*;

    #[test]
    fn half_of_the_table_is_enough() {
        let judge = |tables| {
            judge(&Facts { per_transaction: 64, sharers: 100, tables }).first().map(|f| f.severity)
        };
        assert_eq!(judge(100), None);
        assert_eq!(judge(1_568), None);
        assert_eq!(judge(1_569), Some(Severity::Warning));
        assert_eq!(judge(3_169), Some(Severity::Error));
    }

    #[test]
    fn the_remedy_is_enough() {
        let found = judge(&Facts { per_transaction: 10, sharers: 20, tables: 1_000 });
        // 20 * 413 > 2 * (2 * 1000 + 64)
        assert!(found[0].remedy.contains("= '413'"), "{}", found[0].remedy);
        assert!(judge(&Facts { per_transaction: 413, sharers: 20, tables: 1_000 }).is_empty());
    }
}

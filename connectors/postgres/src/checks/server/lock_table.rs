//! Room for the locks of `pg_dump`: it takes all tables in one transaction. Nothing of ours does.

use cutover_core::model::{finding::Scope, side::Side};

use super::super::{Answer, facts::Context, found::*};

struct Facts {
    per_transaction: i64,
    /// Sessions and prepared transactions that share the lock table.
    sharers: i64,
    /// Tables of the run and their parents.
    tables: i64,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let question = context.question;
    let dumped =
        question.side == Side::Blue && question.scope == Scope::Start && question.copies_schema;
    if !dumped {
        return Ok(Vec::new());
    }
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
    // A table each, and some of the catalog.
    let needed = facts.tables + 100;
    // Clients need locks as well.
    if needed * 4 <= capacity * 3 {
        return Vec::new();
    }
    let what = format!(
        "copying the definitions with pg_dump locks {} at once, and the server's lock table has \
         room for about {capacity} locks of all sessions together",
        number(usize::try_from(facts.tables).unwrap_or(0), "table")
    );
    let enough = needed * 2 / facts.sharers.max(1) + 1;
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
    fn clients_keep_a_quarter() {
        let judge = |tables| {
            judge(&Facts { per_transaction: 64, sharers: 100, tables }).first().map(|f| f.severity)
        };
        assert_eq!(judge(1_000), None);
        assert_eq!(judge(4_700), None);
        assert_eq!(judge(4_701), Some(Severity::Warning));
        assert_eq!(judge(6_301), Some(Severity::Error));
    }

    #[test]
    fn the_remedy_is_enough() {
        let found = judge(&Facts { per_transaction: 64, sharers: 100, tables: 10_000 });
        // 100 * 203 > 2 * (10,000 + 100)
        assert!(found[0].remedy.contains("= '203'"), "{}", found[0].remedy);
        assert!(judge(&Facts { per_transaction: 203, sharers: 100, tables: 10_000 }).is_empty());
    }
}

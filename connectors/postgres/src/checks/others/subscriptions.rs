//! Somebody else's replication that writes the tables of the run.

use super::super::{Answer, facts::Context, found::*};
use crate::sql;

#[derive(Debug, Clone)]
struct Subscription {
    name: String,
    /// It writes tables of the run.
    overlaps: bool,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let rows = context
        .session
        .query(
            "SELECT s.subname::text, coalesce(bool_or(r.srrelid = ANY ($1)), false) \
             FROM pg_subscription s LEFT JOIN pg_subscription_rel r ON r.srsubid = s.oid \
             WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
               AND s.subenabled GROUP BY 1 ORDER BY 1",
            &[&context.relations.iter().filter(|r| r.touched).map(|r| r.oid).collect::<Vec<u32>>()],
        )
        .await?;
    let all: Vec<Subscription> =
        rows.iter().map(|row| Subscription { name: row.get(0), overlaps: row.get(1) }).collect();
    Ok(judge(&all))
}

fn judge(all: &[Subscription]) -> Vec<Found> {
    let (ours, others): (Vec<&Subscription>, Vec<&Subscription>) =
        all.iter().partition(|s| s.overlaps);
    let disable = |all: &[&Subscription]| {
        lines(all.iter().map(|s| format!("ALTER SUBSCRIPTION {} DISABLE;", sql::ident(&s.name))))
    };
    let mut found = Vec::new();
    if !ours.is_empty() {
        found.push(error(
            "CUT0143",
            format!(
                "tables of the run are written by {}, before the move and after it: {}",
                number(ours.len(), "subscription"),
                list(ours.iter().map(|s| &s.name))
            ),
            disable(&ours),
        ));
    }
    if !others.is_empty() {
        found.push(warning(
            "CUT0143",
            format!(
                "other tables here are written by {}, which will not move along: {}",
                number(others.len(), "subscription"),
                list(others.iter().map(|s| &s.name))
            ),
            format!("-- nothing if that is meant; else:\n{}", disable(&others)),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use cutover_core::model::finding::Severity;

    use super::*;

    #[test]
    fn only_those_on_our_tables_stop() {
        let one = |name: &str, overlaps| Subscription { name: name.into(), overlaps };
        assert!(judge(&[]).is_empty());
        let found = judge(&[one("a", true), one("b", false)]);
        assert_eq!(found[0].severity, Severity::Error);
        assert_eq!(found[0].remedy, "ALTER SUBSCRIPTION \"a\" DISABLE;");
        assert_eq!(found[1].severity, Severity::Warning);
    }
}

//! Free WAL senders: one for the stream, one that opens snapshots.

use cutover_core::model::finding::Scope;

use super::{
    super::{Answer, facts::Context, found::*},
    of_streams,
};

struct Facts {
    scope: Scope,
    limit: i64,
    used: i64,
    /// Senders of this run.
    ours: i64,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let ours = format!("cutover {} ", context.run());
    let row = context
        .session
        .query_one(
            "SELECT current_setting('max_wal_senders')::bigint, count(*), \
                    count(*) FILTER (WHERE left(application_name, length($1)) = $1) FROM pg_stat_replication",
            &[&ours],
        )
        .await?;
    let scope = context.question.scope;
    Ok(judge(&Facts { scope, limit: row.get(0), used: row.get(1), ours: row.get(2) }))
}

fn judge(facts: &Facts) -> Vec<Found> {
    let needed = (of_streams(facts.scope) - facts.ours).max(0);
    let free = facts.limit - facts.used;
    if free >= needed {
        return Vec::new();
    }
    vec![error(
        "CUT0105",
        format!("{free} of {} WAL senders are free, {needed} are needed", facts.limit),
        restart_with("max_wal_senders", facts.used + of_streams(Scope::Start) + 2),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_senders_are_not_needed_twice() {
        for (limit, used, ours, count) in
            [(10, 8, 0, 0), (10, 9, 0, 1), (10, 9, 1, 0), (10, 10, 2, 0), (0, 0, 0, 1)]
        {
            let facts = Facts { scope: Scope::Start, limit, used, ours };
            assert_eq!(judge(&facts).len(), count, "{limit} {used} {ours}");
        }
        for (ours, count) in [(1, 0), (0, 1)] {
            let facts = Facts { scope: Scope::Move, limit: 10, used: 10, ours };
            assert_eq!(judge(&facts).len(), count, "{ours}");
        }
    }
}

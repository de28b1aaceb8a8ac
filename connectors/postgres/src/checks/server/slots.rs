//! Free replication slots: one for the stream, one for snapshots at a position.

use cutover_core::model::finding::Scope;

use super::{
    super::{Answer, facts::Context, found::*},
    of_streams,
};
use crate::sql::Names;

struct Facts {
    scope: Scope,
    limit: i64,
    used: i64,
    /// Whether the slot of the run exists.
    ours: bool,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let names = Names::of(context.run());
    let row = context
        .session
        .query_one(
            "SELECT current_setting('max_replication_slots')::bigint, count(*), \
                    coalesce(bool_or(slot_name = $1), false) FROM pg_replication_slots",
            &[&names.slot()],
        )
        .await?;
    let scope = context.question.scope;
    Ok(judge(&Facts { scope, limit: row.get(0), used: row.get(1), ours: row.get(2) }))
}

fn judge(facts: &Facts) -> Vec<Found> {
    let needed = of_streams(facts.scope) - i64::from(facts.ours);
    let free = facts.limit - facts.used;
    if free >= needed {
        return Vec::new();
    }
    vec![error(
        "CUT0104",
        format!("{free} of {} replication slots are free, {needed} are needed", facts.limit),
        format!(
            "-- drop slots that nobody uses any more, or allow more of them:\n{}",
            restart_with("max_replication_slots", facts.used + of_streams(Scope::Start) + 2)
        ),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_slot_is_not_needed_twice() {
        for (limit, used, ours, count) in
            [(10, 8, false, 0), (10, 9, false, 1), (10, 9, true, 0), (10, 10, true, 1)]
        {
            let facts = Facts { scope: Scope::Start, limit, used, ours };
            assert_eq!(judge(&facts).len(), count, "{limit} {used} {ours}");
        }
        for (ours, count) in [(true, 0), (false, 1)] {
            let facts = Facts { scope: Scope::Move, limit: 10, used: 10, ours };
            assert_eq!(judge(&facts).len(), count, "{ours}");
        }
    }
}

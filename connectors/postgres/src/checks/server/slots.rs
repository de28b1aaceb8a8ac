//! Free replication slots: one for the stream, one for snapshots at a position.

use super::super::{Answer, facts::Context, found::*};
use crate::sql::Names;

/// The stream's own, and a temporary one at a time.
const NEEDED: i64 = 2;

struct Facts {
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
    Ok(judge(&Facts { limit: row.get(0), used: row.get(1), ours: row.get(2) }))
}

fn judge(facts: &Facts) -> Vec<Found> {
    let needed = NEEDED - i64::from(facts.ours);
    let free = facts.limit - facts.used;
    if free >= needed {
        return Vec::new();
    }
    vec![error(
        "CUT0104",
        format!("{free} of {} replication slots are free, {needed} are needed", facts.limit),
        format!(
            "-- drop slots that nobody uses any more, or allow more of them:\n{}",
            restart_with("max_replication_slots", facts.used + NEEDED + 2)
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
            assert_eq!(judge(&Facts { limit, used, ours }).len(), count, "{limit} {used} {ours}");
        }
    }
}

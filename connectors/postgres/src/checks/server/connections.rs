//! Free connections: copy, apply, verify, fence and guard have sessions of their own, and so has the
//! early writer of large transactions.

use cutover_core::model::finding::Scope;

use super::super::{Answer, facts::Context, found::*};

/// Sessions that a run needs at once beside those of its workers, the early writer's included.
const BESIDE_WORKERS: i64 = 7;

/// What a move opens anew on either primary: the fence, control and errand sessions of its guard.
/// Those of the run stand, or are opened before anybody is held; one that cannot be ends the move.
/// Whoever goes back because a server has no connections left must not need what a copy needs.
const OF_A_GUARD: i64 = 3;

struct Facts {
    /// Connections that ordinary roles may have.
    limit: i64,
    used: i64,
    /// Limit of our role, and its connections, those of other databases included.
    own: Option<(i64, i64)>,
    /// Those of the needed ones that there are already.
    ours: i64,
    /// Sessions that are needed at once.
    needed: i64,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let ours = format!("cutover {} ", context.run());
    let row = context
        .session
        .query_one(
            "SELECT current_setting('max_connections')::bigint \
                      - current_setting('superuser_reserved_connections')::bigint \
                      - coalesce(current_setting('reserved_connections', true)::bigint, 0), \
                    (SELECT sum(numbackends)::bigint FROM pg_stat_database), \
                    count(*) FILTER (WHERE usename = current_user), \
                    count(*) FILTER (WHERE left(application_name, length($1)) = $1) FROM pg_stat_activity",
            &[&ours],
        )
        .await?;
    let own = context.role.connections.map(|limit| (i64::from(limit), row.get(2)));
    let (needed, ours) = match context.question.scope {
        Scope::Start => {
            let workers = i64::try_from(context.question.workers).unwrap_or(i64::MAX / 2);
            (workers + BESIDE_WORKERS, row.get(3))
        }
        Scope::Move if context.database.is_standby => (0, 0),
        // Those of this process are none of the guard's.
        Scope::Move => (OF_A_GUARD, 0),
    };
    let facts = Facts { limit: row.get(0), used: row.get(1), own, ours, needed };
    Ok(judge(&facts, &context.me()))
}

fn judge(facts: &Facts, me: &str) -> Vec<Found> {
    let needed = (facts.needed - facts.ours).max(0);
    let mut found = Vec::new();
    let free = facts.limit - facts.used;
    if free < needed {
        found.push(error(
            "CUT0110",
            format!("{free} of {} connections are free, {needed} are needed", facts.limit),
            format!(
                "-- close sessions that nobody needs, or allow more of them:\n{}",
                restart_with("max_connections", facts.limit + facts.needed + 10)
            ),
        ));
    }
    if let Some((limit, used)) = facts.own
        && limit - used < needed
    {
        found.push(error(
            "CUT0110",
            format!(
                "our role may have {limit} connections and has {used}, {needed} more are needed"
            ),
            format!("ALTER ROLE {me} CONNECTION LIMIT -1;"),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_server_and_of_the_role() {
        let of = |used, own, ours, needed| {
            judge(&Facts { limit: 100, used, own, ours, needed }, "\"c\"").len()
        };
        let count = |used, own, ours| of(used, own, ours, 10);
        assert_eq!(count(90, None, 0), 0);
        assert_eq!(count(91, None, 0), 1);
        assert_eq!(count(91, None, 3), 0);
        assert_eq!(count(0, Some((5, 1)), 1), 1);
        assert_eq!(count(95, Some((5, 1)), 0), 2);
        assert_eq!(count(0, Some((20, 1)), 0), 0);
        assert_eq!([of(85, None, 0, 15), of(86, None, 0, 15)], [0, 1]);
        assert_eq!([97, 98].map(|used| of(used, None, 0, OF_A_GUARD)), [0, 1]);
        assert_eq!(of(100, Some((5, 5)), 0, 0), 0);
    }
}

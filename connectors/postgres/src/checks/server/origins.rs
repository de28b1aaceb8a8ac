//! A free replication origin: it marks what our sink wrote, so that it does not come back.

use super::super::{Answer, facts::Context, found::*};
use crate::sql::Names;

struct Facts {
    /// The setting that limits them on this version, and its value.
    setting: &'static str,
    limit: i64,
    used: i64,
    /// Whether the origin of the run exists.
    ours: bool,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let setting = if context.version() >= 180_000 {
        "max_active_replication_origins"
    } else {
        "max_replication_slots"
    };
    let names = Names::of(context.run());
    let row = context
        .session
        .query_one(
            "SELECT count(*), coalesce(bool_or(roname = $1), false), \
                    has_function_privilege('pg_show_replication_origin_status()', 'EXECUTE') \
             FROM pg_replication_origin",
            &[&names.origin()],
        )
        .await?;
    // Those that are in memory are what counts; those that exist are an upper bound.
    let used = if row.get(2) {
        let sql = "SELECT count(*) FROM pg_show_replication_origin_status()";
        context.session.query_one(sql, &[]).await?.get(0)
    } else {
        row.get(0)
    };
    let limit = context.number(setting).await?.unwrap_or(0);
    Ok(judge(&Facts { setting, limit, used, ours: row.get(1) }))
}

fn judge(facts: &Facts) -> Vec<Found> {
    if facts.ours || facts.used < facts.limit {
        return Vec::new();
    }
    vec![error(
        "CUT0106",
        format!(
            "all {} replication origins are in use ({} limits them)",
            facts.limit, facts.setting
        ),
        restart_with(facts.setting, facts.used + 4),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_must_be_free_unless_it_is_ours() {
        let facts = |used, ours| Facts { setting: "max_replication_slots", limit: 10, used, ours };
        assert!(judge(&facts(9, false)).is_empty());
        assert!(judge(&facts(10, true)).is_empty());
        let found = judge(&facts(10, false));
        assert!(found[0].remedy.starts_with("ALTER SYSTEM SET max_replication_slots = '14';"));
    }
}

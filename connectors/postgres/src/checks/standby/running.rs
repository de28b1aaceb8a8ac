//! A standby begins to decode where its primary has logged which transactions run. We ask for that.

use super::super::{Answer, facts::Context, found::*};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    if context.database.standby.is_none() {
        return Ok(Vec::new());
    }
    // By its name: versions that do not have it are told elsewhere that they are too old.
    let row = context
        .session
        .query_one(
            "SELECT coalesce(bool_and(has_function_privilege(oid, 'EXECUTE')), true) \
             FROM pg_proc WHERE oid = to_regprocedure('pg_catalog.pg_log_standby_snapshot()')",
            &[],
        )
        .await?;
    Ok(judge(row.get(0), &context.me()))
}

fn judge(allowed: bool, me: &str) -> Vec<Found> {
    if allowed {
        return Vec::new();
    }
    vec![error(
        "CUT0181",
        "our role may not log which transactions run, and a standby begins to decode nowhere else",
        format!("GRANT EXECUTE ON FUNCTION pg_log_standby_snapshot() TO {me};"),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_is_granted_by_name() {
        assert!(judge(true, "\"c\"").is_empty());
        assert!(judge(false, "\"c\"")[0].remedy.ends_with("TO \"c\";"));
    }
}

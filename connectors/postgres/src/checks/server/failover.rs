//! Standbys that may take over, and what becomes of the run then.

use super::super::{Answer, facts::Context, found::*};

struct Facts {
    version: u32,
    /// Physical slots that standbys read, sorted.
    standbys: Vec<String>,
    /// `synchronized_standby_slots`.
    waited_for: String,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let rows = context
        .session
        .query(
            "SELECT slot_name::text FROM pg_replication_slots \
             WHERE slot_type = 'physical' AND active ORDER BY 1",
            &[],
        )
        .await?;
    let waited_for = context.setting("synchronized_standby_slots").await?.unwrap_or_default();
    let standbys = rows.iter().map(|row| row.get(0)).collect();
    Ok(judge(&Facts { version: context.version(), standbys, waited_for }))
}

fn judge(facts: &Facts) -> Vec<Found> {
    if facts.version < 170_000 {
        if facts.standbys.is_empty() {
            return Vec::new();
        }
        return vec![info(
            "CUT0193",
            "this server has standbys, and before PostgreSQL 17 they cannot take our replication \
             slot along: a failover ends the run",
            "after a failover end the run with `cutover abort` and start a new one",
        )];
    }
    let waited: Vec<&str> =
        facts.waited_for.split(',').map(|s| s.trim().trim_matches('"')).collect();
    let free: Vec<&String> =
        facts.standbys.iter().filter(|s| !waited.contains(&s.as_str())).collect();
    if free.is_empty() {
        return Vec::new();
    }
    let mut all: Vec<&str> = waited.into_iter().filter(|s| !s.is_empty()).collect();
    all.extend(free.iter().map(|s| s.as_str()));
    vec![warning(
        "CUT0193",
        format!(
            "our stream may be ahead of {}: a failover to one that is behind ends the run",
            list(free)
        ),
        format!(
            "-- the stream then waits for these slots; name only standbys that are always up:\n{}",
            reload_with("synchronized_standby_slots", all.join(", "))
        ),
    )]
}

#[cfg(test)]
mod tests {
    use cutover_core::model::finding::Severity;

    use super::*;

    #[test]
    fn standbys_that_we_do_not_wait_for() {
        let judge = |version, standbys: &[&str], waited: &str| {
            let standbys = standbys.iter().map(ToString::to_string).collect();
            judge(&Facts { version, standbys, waited_for: waited.into() })
        };
        assert!(judge(160_000, &[], "").is_empty());
        assert_eq!(judge(160_000, &["a"], "")[0].severity, Severity::Info);
        assert!(judge(170_000, &["a", "b"], "b, \"a\"").is_empty());
        let found = judge(180_000, &["a", "b"], "b");
        assert_eq!(found[0].severity, Severity::Warning);
        assert!(found[0].remedy.contains("= 'b, a';"), "{}", found[0].remedy);
    }
}

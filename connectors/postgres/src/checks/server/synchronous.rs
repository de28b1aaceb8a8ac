//! Commits that wait for standbys make copy, apply and pause as slow as the slowest of them.

use super::super::{Answer, facts::Context, found::*};

struct Facts {
    /// `synchronous_standby_names`.
    names: String,
    /// Whether commits wait at all.
    waits: bool,
    /// Synchronous standbys that are connected, without our own stream.
    connected: i64,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let row = context
        .session
        .query_one(
            "SELECT current_setting('synchronous_standby_names'), \
                    current_setting('synchronous_commit') NOT IN ('off', 'local'), \
                    (SELECT count(*) FROM pg_stat_replication \
                     WHERE sync_state IN ('sync', 'quorum') \
                       AND left(application_name, length($1)) <> $1)",
            &[&format!("cutover {} ", context.run())],
        )
        .await?;
    Ok(judge(&Facts { names: row.get(0), waits: row.get(1), connected: row.get(2) }))
}

fn judge(facts: &Facts) -> Vec<Found> {
    if facts.names.trim().is_empty() || !facts.waits {
        return Vec::new();
    }
    if names_everybody(&facts.names) {
        // Any session that streams counts, a logical one too.
        return vec![error(
            "CUT0112",
            "synchronous_standby_names has '*', which names our own stream as well: commits could \
             wait until we have carried them over, and a standby that they should wait for could \
             be passed over",
            "-- name the standbys one by one, as application_name in pg_stat_replication shows \
             them:\nSELECT application_name FROM pg_stat_replication;\n\
             -- ALTER SYSTEM SET synchronous_standby_names = 'NAME, NAME';\n\
             -- SELECT pg_reload_conf();",
        )];
    }
    let remedy = "-- make sure that enough of these standbys are connected, or do without for the \
                  time of the move:\nALTER SYSTEM SET synchronous_standby_names = '';\n\
                  SELECT pg_reload_conf();";
    vec![if facts.connected == 0 {
        error(
            "CUT0112",
            "commits wait for synchronous standbys and none is connected: every write hangs",
            remedy,
        )
    } else {
        warning(
            "CUT0112",
            format!(
                "commits wait for synchronous standbys ({} connected): their round trips are part \
                 of every pause",
                facts.connected
            ),
            remedy,
        )
    }]
}

/// Whether `*` is one of the names: `*`, `FIRST 1 (*)`, `ANY 2 (a, "*")`.
fn names_everybody(names: &str) -> bool {
    names
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | '(' | ')'))
        .any(|name| matches!(name, "*" | "\"*\""))
}

#[cfg(test)]
mod tests {
    use cutover_core::model::finding::Severity;

    use super::*;

    #[test]
    fn a_missing_standby_hangs_and_a_present_one_slows() {
        let judge = |names: &str, waits, connected| {
            judge(&Facts { names: names.into(), waits, connected }).first().map(|f| f.severity)
        };
        assert_eq!(judge("", true, 0), None);
        assert_eq!(judge("a", false, 0), None);
        assert_eq!(judge("a", true, 1), Some(Severity::Warning));
        assert_eq!(judge("a", true, 0), Some(Severity::Error));
    }

    #[test]
    fn a_star_names_our_own_stream() {
        for names in ["*", "FIRST 1 (*)", "2(a, *)", "ANY 1 (\"*\")"] {
            let facts = Facts { names: names.into(), waits: true, connected: 1 };
            let found = judge(&facts);
            assert_eq!((found.len(), found[0].severity), (1, Severity::Error), "{names}");
            assert!(found[0].what.contains("our own stream"), "{names}");
            assert!(judge(&Facts { waits: false, ..facts }).is_empty());
        }
        for names in ["a", "FIRST 1 (a, \"b*\")", ""] {
            assert!(!names_everybody(names), "{names}");
        }
    }
}

//! Clients on the side that should have none.

use std::collections::BTreeMap;

use super::super::{Answer, facts::Context, found::*};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    if context.question.owns_writes {
        return Ok(Vec::new());
    }
    let rows = context
        .session
        .query(
            "SELECT coalesce(usename::text, ''), count(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND backend_type = 'client backend' \
               AND usename <> current_user GROUP BY 1 ORDER BY 1",
            &[],
        )
        .await?;
    Ok(judge(&rows.iter().map(|row| (row.get(0), row.get(1))).collect()))
}

/// Sessions by role.
fn judge(sessions: &BTreeMap<String, i64>) -> Vec<Found> {
    if sessions.is_empty() {
        return Vec::new();
    }
    let total = usize::try_from(sessions.values().sum::<i64>()).unwrap_or(0);
    vec![warning(
        "CUT0147",
        format!(
            "{} of others on the side that clients should not use yet: {}",
            number(total, "session"),
            list(sessions.iter().map(|(role, count)| format!("{role} ({count})")))
        ),
        "find out who they are (pg_stat_activity); what they write here is lost or stops the run",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_by_role() {
        assert!(judge(&BTreeMap::new()).is_empty());
        let found = judge(&[("app".to_owned(), 2), ("web".to_owned(), 1)].into());
        assert!(found[0].what.starts_with("3 sessions of others"), "{}", found[0].what);
        assert!(found[0].what.ends_with("app (2), web (1)"), "{}", found[0].what);
    }
}

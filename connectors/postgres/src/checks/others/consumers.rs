//! Others who read this database's changes. They do not move along.

use super::super::{Answer, facts::Context, found::*};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    if !context.question.owns_writes {
        return Ok(Vec::new());
    }
    let rows = context
        .session
        .query(
            "SELECT 'publication', pubname::text FROM pg_publication WHERE pubname !~ '^cutover_' \
             UNION ALL SELECT 'slot', slot_name::text FROM pg_replication_slots \
               WHERE database = current_database() AND NOT temporary \
                 AND slot_name !~ '^cutover_' ORDER BY 1, 2",
            &[],
        )
        .await?;
    let all: Vec<String> = rows
        .iter()
        .map(|row| format!("{} {}", row.get::<_, &str>(0), row.get::<_, &str>(1)))
        .collect();
    Ok(judge(&all))
}

fn judge(all: &[String]) -> Vec<Found> {
    if all.is_empty() {
        return Vec::new();
    }
    vec![warning(
        "CUT0144",
        format!("others read the changes of this database and will not move along: {}", list(all)),
        "plan for them: create their publications and slots on green before the move, and point \
         the readers there after it; what they have read of blue says nothing about green",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_in_one() {
        assert!(judge(&[]).is_empty());
        assert!(judge(&["publication p".into(), "slot s".into()])[0].what.ends_with("p, slot s"));
    }
}

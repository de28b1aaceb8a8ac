//! Constraints that transactions may break for a while.

use cutover_core::model::schema::TableName;

use super::super::{Answer, facts::Context, found::*};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    if !context.question.owns_writes {
        return Ok(Vec::new());
    }
    // Foreign keys are quiet in sessions that replicate; what is left can refuse rows of ours.
    let rows = context
        .session
        .query(
            "SELECT n.nspname::text, c.relname::text, k.conname::text \
             FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE k.conrelid = ANY ($1) AND k.condeferrable AND k.contype IN ('p', 'u', 'x') \
             ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\", k.conname COLLATE \"C\"",
            &[&context.moved_oids()],
        )
        .await?;
    let names: Vec<String> = rows
        .iter()
        .map(|row| {
            let table = TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
            format!("{} on {table}", row.get::<_, &str>(2))
        })
        .collect();
    Ok(judge(&names))
}

fn judge(names: &[String]) -> Vec<Found> {
    if names.is_empty() {
        return Vec::new();
    }
    vec![info(
        "CUT0136",
        format!(
            "tables with {} are written row by row, in the order of blue, where that matters: {}",
            number(names.len(), "deferrable constraint"),
            list(names)
        ),
        "nothing; expect a lower rate on these tables",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_in_one() {
        assert!(judge(&[]).is_empty());
        let found = judge(&["u on a.t".into()]);
        assert!(found[0].what.starts_with("tables with 1 deferrable constraint are"));
    }
}

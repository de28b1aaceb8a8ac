//! Triggers that fire for our own writes too, and would do their work a second time.

use cutover_core::model::{schema::TableName, side::Side};

use super::super::{Answer, facts::Context, found::*};
use crate::sql;

/// Quoted names of a table and its trigger.
struct Trigger {
    table: String,
    name: String,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    // The fences of runs are such triggers, on purpose.
    let rows = context
        .session
        .query(
            "SELECT n.nspname::text, c.relname::text, t.tgname::text \
             FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace pn ON pn.oid = p.pronamespace \
             WHERE t.tgrelid = ANY ($1) AND NOT t.tgisinternal AND t.tgenabled IN ('A', 'R') \
               AND pn.nspname !~ '^cutover_' \
             ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\", t.tgname COLLATE \"C\"",
            &[&context.moved_oids()],
        )
        .await?;
    let triggers: Vec<Trigger> = rows
        .iter()
        .map(|row| Trigger {
            table: sql::table(&TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1))),
            name: sql::ident(row.get(2)),
        })
        .collect();
    let question = context.question;
    // What the schema copy finds on blue it makes on green.
    let copied = question.side == Side::Blue && question.copies_schema && !question.resuming;
    Ok(judge(&triggers, !question.owns_writes || copied))
}

/// `target_now`: the rows of the next days are written on this side, or on a copy of its schema.
fn judge(triggers: &[Trigger], target_now: bool) -> Vec<Found> {
    if triggers.is_empty() {
        return Vec::new();
    }
    let what = format!(
        "{} on rows that replication writes as well: {}",
        match triggers.len() {
            1 => "1 trigger fires".to_owned(),
            count => format!("{count} triggers fire"),
        },
        list(triggers.iter().map(|t| format!("{} on {}", t.name, t.table)))
    );
    let remedy = lines(
        triggers.iter().map(|t| format!("ALTER TABLE {} ENABLE TRIGGER {};", t.table, t.name)),
    );
    vec![if target_now {
        error("CUT0132", what, remedy)
    } else {
        warning("CUT0132", format!("on the way back, {what}"), remedy)
    }]
}

#[cfg(test)]
mod tests {
    use cutover_core::model::finding::Severity;

    use super::*;

    #[test]
    fn an_error_where_we_write_first() {
        let all = [Trigger { table: "t".into(), name: "audit".into() }];
        assert!(judge(&[], true).is_empty());
        assert_eq!(judge(&all, true)[0].severity, Severity::Error);
        assert_eq!(judge(&all, false)[0].severity, Severity::Warning);
        assert_eq!(judge(&all, false)[0].remedy, "ALTER TABLE t ENABLE TRIGGER audit;");
    }
}

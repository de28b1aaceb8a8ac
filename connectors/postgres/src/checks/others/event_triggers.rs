//! Event triggers see the statements that create and remove what a run needs.

use super::super::{Answer, facts::Context, found::*};
use crate::sql;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let rows = context
        .session
        .query(
            "SELECT evtname::text FROM pg_event_trigger t WHERE evtenabled <> 'D' \
               AND evtname !~ '^cutover_' \
               AND NOT EXISTS (SELECT FROM pg_depend d \
                               WHERE d.classid = 'pg_event_trigger'::regclass \
                                 AND d.objid = t.oid AND d.deptype = 'e') ORDER BY 1",
            &[],
        )
        .await?;
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let mut found = judge(&names);
    found.extend(judge_right(context.role.superuser, &context.role.name));
    Ok(found)
}

/// Only a superuser may create event triggers, or a role that a provider lets do so.
fn judge_right(superuser: bool, role: &str) -> Option<Found> {
    (!superuser).then(|| {
        info(
            "CUT0150",
            format!(
                "role {role} may not create event triggers: definitions that change during the \
                 run are noticed at the next row of another shape, and never made on the other \
                 side"
            ),
            "nothing, if definitions stay as they are; else give the run a superuser, or set \
             `ddl: stop` and announce changes",
        )
    })
}

fn judge(names: &[String]) -> Vec<Found> {
    if names.is_empty() {
        return Vec::new();
    }
    vec![warning(
        "CUT0145",
        format!(
            "{} on what the run creates and removes here, and may refuse it: {}",
            match names.len() {
                1 => "1 event trigger fires".to_owned(),
                count => format!("{count} event triggers fire"),
            },
            list(names)
        ),
        format!(
            "-- for the time of the run, as superuser:\n{}",
            lines(names.iter().map(|n| format!("ALTER EVENT TRIGGER {} DISABLE;", sql::ident(n))))
        ),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superuser_watches_statements() {
        assert_eq!(judge_right(true, "postgres"), None);
        assert_eq!(judge_right(false, "mover").map(|f| f.code), Some("CUT0150"));
    }

    #[test]
    fn one_statement_each() {
        assert!(judge(&[]).is_empty());
        let found = judge(&["a".into(), "B".into()]);
        assert!(
            found[0].remedy.ends_with(
                "\nALTER EVENT TRIGGER \"a\" DISABLE;\nALTER EVENT TRIGGER \"B\" DISABLE;"
            )
        );
    }
}

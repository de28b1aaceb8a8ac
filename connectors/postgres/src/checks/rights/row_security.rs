//! Policies that would hide rows from us.

use std::collections::BTreeSet;

use cutover_core::model::schema::TableName;

use super::super::{Answer, facts::Context, facts::Relation, found::*};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let question = context.question;
    // The schema copy makes tables here that restrict us as on blue.
    let makes = !question.owns_writes && question.copies_schema && !question.resuming;
    let later: &[TableName] =
        if makes && !context.role.bypasses { &question.forced } else { Default::default() };
    Ok(judge(context.relations.iter(), later, &context.me()))
}

fn judge<'a>(
    relations: impl Iterator<Item = &'a Relation>,
    later: &'a [TableName],
    me: &str,
) -> Vec<Found> {
    let restricted = relations.filter(|r| r.touched && r.restricted).map(|r| &r.name);
    let hidden: BTreeSet<&TableName> = restricted.chain(later).collect();
    let hidden: Vec<&TableName> = hidden.into_iter().collect();
    if hidden.is_empty() {
        return Vec::new();
    }
    vec![error(
        "CUT0124",
        format!(
            "row-level security restricts our role {me} on {}: {}",
            number(hidden.len(), "table"),
            list(&hidden)
        ),
        format!("ALTER ROLE {me} BYPASSRLS;"),
    )]
}

#[cfg(test)]
mod tests {
    use super::{super::super::facts::tests::relation, *};

    #[test]
    fn only_tables_of_the_run() {
        let restricted =
            |name: &str, touched| Relation { restricted: true, touched, ..relation(name) };
        assert!(judge([relation("a"), restricted("b", false)].iter(), &[], "\"c\"").is_empty());
        let found = judge([restricted("a", true), restricted("b", false)].iter(), &[], "\"c\"");
        assert!(found[0].what.ends_with("on 1 table: app.a"), "{}", found[0].what);
        let later = [TableName::new("app", "a"), TableName::new("app", "l")];
        let found = judge([restricted("a", true)].iter(), &later, "\"c\"");
        assert!(found[0].what.ends_with("on 2 tables: app.a, app.l"), "{}", found[0].what);
    }
}

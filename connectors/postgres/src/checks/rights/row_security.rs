//! Policies that would hide rows from us.

use super::super::{Answer, facts::Context, facts::Relation, found::*};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    Ok(judge(context.relations.iter(), &context.me()))
}

fn judge<'a>(relations: impl Iterator<Item = &'a Relation>, me: &str) -> Vec<Found> {
    let hidden: Vec<_> = relations.filter(|r| r.touched && r.restricted).map(|r| &r.name).collect();
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
        assert!(judge([relation("a"), restricted("b", false)].iter(), "\"c\"").is_empty());
        let found = judge([restricted("a", true), restricted("b", false)].iter(), "\"c\"");
        assert!(found[0].what.ends_with("on 1 table: app.a"), "{}", found[0].what);
    }
}

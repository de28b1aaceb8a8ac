//! Unlogged tables never reach the change log.

use cutover_core::model::finding::Scope;

use super::super::{Answer, facts::Context, facts::Relation, found::*};
use crate::sql;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    Ok(judge(context.moved(), context.question.scope))
}

fn judge<'a>(moved: impl Iterator<Item = &'a Relation>, scope: Scope) -> Vec<Found> {
    let tables: Vec<&Relation> = moved.filter(|r| r.unlogged).collect();
    if tables.is_empty() {
        return Vec::new();
    }
    vec![error(
        "CUT0128",
        format!(
            "changes of {} cannot be followed: {}",
            number(tables.len(), "unlogged table"),
            list(tables.iter().map(|r| &r.name))
        ),
        lines(tables.iter().map(|r| remedy(r, scope))),
    )]
}

fn remedy(table: &Relation, scope: Scope) -> String {
    let logged = format!(
        "ALTER TABLE {} SET LOGGED; -- or exclude it under `tables`",
        sql::table(&table.name)
    );
    match scope {
        Scope::Start => logged,
        // Rows that it had before are in no log even then.
        Scope::Move => format!("{logged}; then stop and start `cutover run`"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::facts::tests::relation, *};

    #[test]
    fn one_statement_per_table() {
        assert!(judge([relation("a")].iter(), Scope::Start).is_empty());
        let unlogged = |name: &str| Relation { unlogged: true, ..relation(name) };
        let found = judge([unlogged("a"), relation("b"), unlogged("c")].iter(), Scope::Start);
        assert_eq!(found[0].remedy.lines().count(), 2);
        let found = judge([unlogged("a")].iter(), Scope::Move);
        assert!(found[0].remedy.ends_with("`cutover run`"), "{}", found[0].remedy);
    }
}

//! Unlogged tables never reach the change log.

use super::super::{Answer, facts::Context, facts::Relation, found::*};
use crate::sql;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    Ok(judge(context.moved()))
}

fn judge<'a>(moved: impl Iterator<Item = &'a Relation>) -> Vec<Found> {
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
        lines(tables.iter().map(|r| {
            format!(
                "ALTER TABLE {} SET LOGGED; -- or exclude it under `tables`",
                sql::table(&r.name)
            )
        })),
    )]
}

#[cfg(test)]
mod tests {
    use super::{super::super::facts::tests::relation, *};

    #[test]
    fn one_statement_per_table() {
        assert!(judge([relation("a")].iter()).is_empty());
        let unlogged = |name: &str| Relation { unlogged: true, ..relation(name) };
        let found = judge([unlogged("a"), relation("b"), unlogged("c")].iter());
        assert_eq!(found[0].remedy.lines().count(), 2);
    }
}

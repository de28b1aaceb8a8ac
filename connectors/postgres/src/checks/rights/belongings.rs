//! Definitions beside tables that our role may not make on green. What somebody else made there is
//! taken as it is.

use std::collections::{BTreeSet, HashSet};

use cutover_core::model::inventory::Belonging;

use super::super::{Answer, facts::Context, found::*};
use crate::{catalog, sql};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let question = context.question;
    if context.role.superuser
        || question.owns_writes
        || !question.copies_schema
        || question.resuming
        || question.belongings.is_empty()
    {
        return Ok(Vec::new());
    }
    let owners: Vec<&str> = question.belongings.iter().map(|it| it.owner.as_str()).collect();
    let right = catalog::right_to_become(context.version());
    let lacking = "SELECT DISTINCT w.name, coalesce(r.rolsuper, false) FROM unnest($1::text[]) w(name) \
                   LEFT JOIN pg_roles r ON r.rolname = w.name \
                   WHERE r.oid IS NULL OR NOT pg_has_role(r.oid, $2)";
    let rows = context.session.query(lacking, &[&owners, &right]).await?;
    let lacking: HashSet<&str> = rows.iter().map(|row| row.get(0)).collect();
    let superusers: HashSet<&str> =
        rows.iter().filter(|row| row.get(1)).map(|row| row.get(0)).collect();
    let there = catalog::belongings(context.session).await?;
    let is_there = |it: &Belonging| {
        there.iter().any(|made| {
            (&made.what.kind, &made.what.schema, &made.what.name)
                == (&it.kind, &it.schema, &it.name)
        })
    };
    let left: Vec<&Belonging> = question
        .belongings
        .iter()
        .filter(|it| it.privileged || lacking.contains(it.owner.as_str()))
        .filter(|it| !is_there(it))
        .collect();
    Ok(judge(&left, &superusers, &context.me()))
}

fn judge(left: &[&Belonging], superusers: &HashSet<&str>, me: &str) -> Vec<Found> {
    if left.is_empty() {
        return Vec::new();
    }
    let owners: BTreeSet<&str> = left
        .iter()
        .filter(|it| !it.privileged && !superusers.contains(it.owner.as_str()))
        .map(|it| it.owner.as_str())
        .collect();
    let grants = owners.iter().map(|owner| format!("GRANT {} TO {me};", sql::ident(owner)));
    let comment = "-- a superuser makes them here as they are on blue (what is there is left as it \
                   is): docs/errors/CUT0187.md has the commands";
    vec![warning(
        "CUT0187",
        format!(
            "our role {me} may not make {} of blue here, and the copy of definitions stops at each \
             that is not there: {}",
            number(left.len(), "definition"),
            list(left)
        ),
        lines(grants.chain([comment.to_owned()])),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn belonging(kind: &str, owner: &str, privileged: bool) -> Belonging {
        let text = str::to_owned;
        Belonging {
            kind: text(kind),
            schema: text(if privileged { "-" } else { "s" }),
            name: text("x"),
            owner: text(owner),
            privileged,
        }
    }

    #[test]
    fn nobody_has_to_become_a_superuser() {
        assert!(judge(&[], &HashSet::new(), "\"c\"").is_empty());
        let all = [
            belonging("VIEW", "root", false),
            belonging("EVENT TRIGGER", "app", true),
            belonging("FUNCTION", "other", false),
        ];
        let [found] = &judge(&all.iter().collect::<Vec<_>>(), &["root"].into(), "\"c\"")[..] else {
            panic!()
        };
        let names = "3 definitions of blue here, and the copy of definitions stops at each that is \
                     not there: view s.x of root, event trigger x of app, function s.x of other";
        assert!(found.what.contains(names), "{}", found.what);
        assert!(found.remedy.starts_with("GRANT \"other\" TO \"c\";\n-- a superuser"));
    }
}

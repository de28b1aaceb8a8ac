//! Rights on schemas: to see their tables, and on the target to make tables in them.

use std::collections::BTreeSet;

use super::super::{Answer, facts::Context, found::*};
use crate::sql;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let hidden: BTreeSet<&str> = context
        .relations
        .iter()
        .filter(|r| r.touched && r.hidden_schema)
        .map(|r| r.name.schema.as_str())
        .collect();
    let mut closed = Vec::new();
    let question = context.question;
    if !question.owns_writes && question.copies_schema && !question.resuming {
        let wanted: BTreeSet<&str> = question
            .tables
            .iter()
            .flat_map(|t| std::iter::once(&t.name).chain(&t.root))
            .map(|name| name.schema.as_str())
            .collect();
        let wanted: Vec<&str> = wanted.into_iter().collect();
        let rows = context
            .session
            .query(
                "SELECT n.nspname::text FROM pg_namespace n WHERE n.nspname = ANY ($1) \
                 AND NOT has_schema_privilege(n.oid, 'CREATE') ORDER BY 1",
                &[&wanted],
            )
            .await?;
        closed.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    let hidden: Vec<String> = hidden.into_iter().map(str::to_owned).collect();
    Ok(judge(&hidden, &closed, &context.me()))
}

fn judge(hidden: &[String], closed: &[String], me: &str) -> Vec<Found> {
    let one = |lack: &str, schemas: &[String]| {
        let names: Vec<String> = schemas.iter().map(|s| sql::ident(s)).collect();
        error(
            "CUT0119",
            format!(
                "our role {me} lacks {lack} on {}",
                number(schemas.len(), "schema") + ": " + &list(schemas)
            ),
            format!("GRANT {lack} ON SCHEMA {} TO {me};", names.join(", ")),
        )
    };
    let mut found = Vec::new();
    if !hidden.is_empty() {
        found.push(one("USAGE", hidden));
    }
    if !closed.is_empty() {
        found.push(one("CREATE", closed));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_and_create_are_two_findings() {
        let names = |n: &[&str]| n.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert!(judge(&[], &[], "\"c\"").is_empty());
        let found = judge(&names(&["a", "B"]), &names(&["public"]), "\"c\"");
        assert_eq!(found[0].remedy, "GRANT USAGE ON SCHEMA \"a\", \"B\" TO \"c\";");
        assert_eq!(found[1].remedy, "GRANT CREATE ON SCHEMA \"public\" TO \"c\";");
    }
}

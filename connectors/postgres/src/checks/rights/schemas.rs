//! Rights on schemas: to see their tables, and on the target to make tables in them.

use std::collections::BTreeSet;

use super::super::{Answer, facts::Context, found::*};
use crate::sql;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let mut hidden: BTreeSet<String> = context
        .relations
        .iter()
        .filter(|r| r.touched && r.hidden_schema)
        .map(|r| r.name.schema.clone())
        .collect();
    let mut closed = Vec::new();
    let mut barred = Vec::new();
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
                "SELECT n.nspname::text, has_schema_privilege(n.oid, 'CREATE'), \
                        has_schema_privilege(n.oid, 'USAGE') \
                 FROM pg_namespace n WHERE n.nspname = ANY ($1) ORDER BY 1",
                &[&wanted],
            )
            .await?;
        let without = |right: usize| rows.iter().filter(move |row| !row.get::<_, bool>(right));
        closed.extend(without(1).map(|row| row.get::<_, String>(0)));
        hidden.extend(without(2).map(|row| row.get::<_, String>(0)));
        // A table can only be given to a role that could have made it, but by a superuser. One that
        // does not exist yet will have the rights of everybody.
        let owned = if context.role.superuser { &[][..] } else { &question.owned_in };
        let (schemas, owners): (Vec<&str>, Vec<&str>) =
            owned.iter().map(|(schema, owner)| (schema.as_str(), owner.as_str())).unzip();
        let rows = context
            .session
            .query(
                "SELECT n.nspname::text, w.name, r.oid IS NOT NULL \
                 FROM unnest($1::text[], $2::text[]) w(schema, name) \
                 JOIN pg_namespace n ON n.nspname = w.schema \
                 LEFT JOIN pg_roles r ON r.rolname = w.name \
                 WHERE NOT CASE WHEN r.oid IS NULL \
                     THEN has_schema_privilege('public'::name, n.oid, 'CREATE') \
                     ELSE has_schema_privilege(r.oid, n.oid, 'CREATE') END ORDER BY 1, 2",
                &[&schemas, &owners],
            )
            .await?;
        barred.extend(rows.iter().map(|row| Barred {
            schema: row.get(0),
            owner: row.get(1),
            exists: row.get(2),
        }));
    }
    let hidden: Vec<String> = hidden.into_iter().collect();
    Ok(judge(&hidden, &closed, &barred, &context.me()))
}

/// An owner on blue that may not make tables in a schema here.
struct Barred {
    schema: String,
    owner: String,
    /// Whether the role is here already.
    exists: bool,
}

fn judge(hidden: &[String], closed: &[String], barred: &[Barred], me: &str) -> Vec<Found> {
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
    if !barred.is_empty() {
        let grant = |b: &Barred| {
            let hint = if b.exists { "" } else { " -- once it exists here" };
            let (schema, owner) = (sql::ident(&b.schema), sql::ident(&b.owner));
            format!("GRANT CREATE ON SCHEMA {schema} TO {owner};{hint}")
        };
        found.push(error(
            "CUT0119",
            format!(
                "tables cannot be given to owners who may not make some in their schema: {}",
                list(barred.iter().map(|b| format!("{} in {}", b.owner, b.schema)))
            ),
            lines(barred.iter().map(grant)),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn us_and_the_owners() {
        let names = |n: &[&str]| n.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert!(judge(&[], &[], &[], "\"c\"").is_empty());
        let barred = [Barred { schema: "public".into(), owner: "App".into(), exists: true }];
        let found = judge(&names(&["a", "B"]), &names(&["public"]), &barred, "\"c\"");
        assert_eq!(found[0].remedy, "GRANT USAGE ON SCHEMA \"a\", \"B\" TO \"c\";");
        assert_eq!(found[1].remedy, "GRANT CREATE ON SCHEMA \"public\" TO \"c\";");
        assert_eq!(found[2].remedy, "GRANT CREATE ON SCHEMA \"public\" TO \"App\";");
    }
}

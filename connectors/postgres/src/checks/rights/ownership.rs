//! We must act as the owner of every table: publications, triggers and TRUNCATE ask for it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Answer, facts::Context, facts::Relation, found::*};
use crate::{catalog, sql};

/// An owner whose rights we lack.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    superuser: bool,
    /// Whether the role is here already.
    exists: bool,
    tables: Vec<String>,
    /// Schemas that are to be made here.
    schemas: Vec<String>,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let mut owners = of_tables(context.relations.iter());
    // The schema copy makes tables here and gives them to the owners they have on blue.
    if !context.question.owns_writes && context.question.copies_schema {
        let schemas = missing_schemas(context).await?;
        for (name, mut owner) in of_blue(context, &schemas).await? {
            let question = context.question;
            // Who owns tables has to be one of ours in any case.
            if !question.owners.contains(&name) {
                let of = |schema: &&String| question.schema_owners.get(*schema) == Some(&name);
                owner.schemas = schemas.iter().filter(of).cloned().collect();
            }
            owners.entry(name).or_insert(owner);
        }
    }
    Ok(judge(&owners, &context.me()))
}

fn of_tables<'a>(relations: impl Iterator<Item = &'a Relation>) -> BTreeMap<String, Owner> {
    let mut owners = BTreeMap::new();
    for relation in relations.filter(|r| r.touched && !r.owned) {
        owners
            .entry(relation.owner.clone())
            .or_insert_with(|| Owner {
                superuser: relation.owner_superuser,
                exists: true,
                tables: Vec::new(),
                schemas: Vec::new(),
            })
            .tables
            .push(relation.name.to_string());
    }
    owners
}

/// Schemas of blue that are to be made here.
async fn missing_schemas(context: &Context<'_>) -> Result<Vec<String>, tokio_postgres::Error> {
    let names: Vec<&String> = context.question.schema_owners.keys().collect();
    let missing = "SELECT w.name FROM unnest($1::text[]) w(name) \
                   WHERE NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = w.name) ORDER BY 1";
    let rows = context.session.query(missing, &[&names]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Owners on blue that we could not give a table to, or one of these schemas.
async fn of_blue(
    context: &Context<'_>,
    schemas: &[String],
) -> Result<Vec<(String, Owner)>, tokio_postgres::Error> {
    let question = context.question;
    let of_schemas = schemas.iter().filter_map(|schema| question.schema_owners.get(schema));
    let names: BTreeSet<&String> = question.owners.iter().chain(of_schemas).collect();
    let names: Vec<&String> = names.into_iter().collect();
    let right = catalog::right_to_become(context.version());
    let rows = context
        .session
        .query(
            "SELECT w.name, coalesce(r.rolsuper, false), r.oid IS NOT NULL \
             FROM unnest($1::text[]) w(name) LEFT JOIN pg_roles r ON r.rolname = w.name \
             WHERE r.oid IS NULL OR NOT pg_has_role(r.oid, $2)",
            &[&names, &right],
        )
        .await?;
    Ok(rows
        .iter()
        // A superuser may do everything once the role is there.
        .filter(|row| row.get(2) || !context.role.superuser)
        .map(|row| {
            let (superuser, exists) = (row.get(1), row.get(2));
            (row.get(0), Owner { superuser, exists, tables: Vec::new(), schemas: Vec::new() })
        })
        .collect())
}

fn judge(owners: &BTreeMap<String, Owner>, me: &str) -> Vec<Found> {
    if owners.is_empty() {
        return Vec::new();
    }
    let what = |(name, owner): (&String, &Owner)| match owner.tables.len() {
        0 if !owner.schemas.is_empty() => {
            let count = number(owner.schemas.len(), "schema");
            format!("{name} (owns {count} on blue: {})", list(&owner.schemas))
        }
        0 => format!("{name} (owns tables on blue)"),
        count => format!("{name} (owns {}: {})", number(count, "table"), list(&owner.tables)),
    };
    let grant = |(name, owner): (&String, &Owner)| {
        if owner.superuser && owner.exists && owner.tables.is_empty() && !owner.schemas.is_empty() {
            // Nobody should become a superuser for the sake of a schema.
            let make = |schema| {
                let (schema, name) = (sql::ident(schema), sql::ident(name));
                format!(
                    "CREATE SCHEMA {schema} AUTHORIZATION {name};\n\
                     GRANT USAGE, CREATE ON SCHEMA {schema} TO {me};"
                )
            };
            return owner.schemas.iter().map(|s| make(s)).collect::<Vec<_>>().join("\n");
        }
        let hint = match (owner.exists, owner.superuser) {
            (false, _) => " -- once it exists here",
            (true, true) => " -- a superuser: better give its tables to another owner first",
            (true, false) => "",
        };
        format!("GRANT {} TO {me};{hint}", sql::ident(name))
    };
    vec![error(
        "CUT0117",
        format!("our role {me} does not have the rights of {}", list(owners.iter().map(what))),
        lines(owners.iter().map(grant)),
    )]
}

#[cfg(test)]
mod tests {
    use super::{super::super::facts::tests::relation, *};

    fn owner(superuser: bool, exists: bool, schemas: &[&str]) -> Owner {
        let schemas = schemas.iter().map(ToString::to_string).collect();
        Owner { superuser, exists, tables: Vec::new(), schemas }
    }

    #[test]
    fn one_finding_names_every_owner_with_its_tables() {
        let other = |name: &str| Relation { owned: false, ..relation(name) };
        let boss = Relation {
            owner: "postgres".into(),
            owner_superuser: true,
            owned: false,
            ..relation("c")
        };
        let untouched = Relation { touched: false, ..other("d") };
        let all = [other("a"), other("b"), boss, untouched, relation("mine")];
        let mut owners = of_tables(all.iter());
        owners.insert("later".into(), owner(false, false, &[]));
        let [found] = &judge(&owners, "\"c\"")[..] else { panic!() };
        assert!(found.what.contains("app (owns 2 tables: app.a, app.b)"), "{}", found.what);
        assert_eq!(
            found.remedy,
            "GRANT \"app\" TO \"c\";\n\
             GRANT \"later\" TO \"c\"; -- once it exists here\n\
             GRANT \"postgres\" TO \"c\"; -- a superuser: better give its tables to another owner \
             first"
        );
        assert!(judge(&of_tables([relation("mine")].iter()), "\"c\"").is_empty());
    }
}

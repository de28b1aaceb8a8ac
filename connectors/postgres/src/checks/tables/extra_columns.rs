//! Columns that only this side has, must be filled, and nobody fills.

use std::collections::{BTreeMap, BTreeSet};

use cutover_core::model::schema::TableName;

use super::super::{Answer, facts::Context, found::*};
use crate::sql;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let question = context.question;
    let rows = context
        .session
        .query(
            "SELECT n.nspname::text, c.relname::text, a.attname::text FROM pg_attribute a \
             JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped \
               AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' \
             ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\", a.attnum",
            &[&context.moved_oids()],
        )
        .await?;
    let known: BTreeMap<&TableName, BTreeSet<&str>> = question
        .tables
        .iter()
        .map(|t| (&t.name, t.columns.iter().map(|c| c.name.as_str()).collect()))
        .collect();
    let extra: Vec<(TableName, String)> = rows
        .iter()
        .map(|row| {
            (TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)), row.get::<_, String>(2))
        })
        .filter(|(table, column)| {
            known.get(table).is_some_and(|columns| !columns.contains(column.as_str()))
        })
        .collect();
    Ok(judge(&extra))
}

fn judge(extra: &[(TableName, String)]) -> Vec<Found> {
    if extra.is_empty() {
        return Vec::new();
    }
    vec![error(
        "CUT0138",
        format!(
            "{} that blue lacks must not be NULL and {} no default: {}",
            number(extra.len(), "column"),
            if extra.len() == 1 { "has" } else { "have" },
            list(extra.iter().map(|(table, column)| format!("{table}.{column}")))
        ),
        lines(extra.iter().map(|(table, column)| {
            format!(
                "ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL; -- or give it a default",
                sql::table(table),
                sql::ident(column)
            )
        })),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_statement_per_column() {
        assert!(judge(&[]).is_empty());
        let found = judge(&[(TableName::new("a", "t"), "new".into())]);
        assert!(found[0].what.contains("1 column that blue lacks must not be NULL and has no"));
        assert!(found[0].remedy.starts_with("ALTER TABLE \"a\".\"t\" ALTER COLUMN \"new\" DROP"));
    }
}

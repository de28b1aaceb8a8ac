//! Schemas with a name as ours have: they are no part of any run.

use cutover_core::model::schema::TableName;

use super::super::{Answer, facts::Context, found::*};
use crate::sql;

/// Tables and sequences of a schema with such a name that no run has made.
pub(in super::super) const NOT_OURS: &str = "c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't' \
     AND c.relname NOT IN ('progress', 'parts', 'fence', 'fenced', 'schema_done')";

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let query = format!(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname ~ '^cutover_' AND {NOT_OURS} \
         ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\""
    );
    let rows = context.session.query(&query, &[]).await?;
    let names: Vec<TableName> = rows
        .iter()
        .map(|row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)))
        .filter(|name| context.question.owns_writes && context.question.selection.selects(name))
        .collect();
    Ok(judge(&names))
}

fn judge(names: &[TableName]) -> Vec<Found> {
    let Some(first) = names.first() else { return Vec::new() };
    vec![error(
        "CUT0183",
        format!(
            "schemas whose name begins with cutover_ belong to runs and are not moved, and here is \
             something of yours: {}",
            list(names.iter().map(sql::table))
        ),
        format!(
            "give the schema another name, or leave it behind: exclude `{}.*` under `tables`",
            first.schema
        ),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_names_the_schema() {
        assert!(judge(&[]).is_empty());
        let found = judge(&[TableName::new("cutover_old", "t")]);
        assert!(found[0].remedy.contains("`cutover_old.*`"), "{found:?}");
    }
}

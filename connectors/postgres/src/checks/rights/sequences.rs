//! Rights on sequences: read before a move on one side, set on the other.

use std::collections::HashSet;

use cutover_core::model::schema::TableName;

use super::super::{Answer, facts::Context, found::*};
use crate::{catalog, sql};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let all = catalog::sequences(context.session, &context.question.selection).await?;
    let oids: Vec<u32> = all.iter().map(|s| s.oid).collect();
    let rows = context
        .session
        .query(
            // Not a join with pg_class: its filter could come first and ask about tables.
            "SELECT w.oid FROM unnest($1::oid[]) w(oid) \
             WHERE NOT (has_sequence_privilege(w.oid, 'SELECT') \
                        AND has_sequence_privilege(w.oid, 'UPDATE') \
                        AND has_schema_privilege((SELECT c.relnamespace FROM pg_class c \
                                                  WHERE c.oid = w.oid), 'USAGE'))",
            &[&oids],
        )
        .await?;
    let lacking: HashSet<u32> = rows.iter().map(|row| row.get(0)).collect();
    let closed: Vec<TableName> =
        all.into_iter().filter(|s| lacking.contains(&s.oid)).map(|s| s.name).collect();
    Ok(judge(&closed, &context.me()))
}

fn judge(closed: &[TableName], me: &str) -> Vec<Found> {
    if closed.is_empty() {
        return Vec::new();
    }
    let names: Vec<String> = closed.iter().map(sql::table).collect();
    vec![error(
        "CUT0120",
        format!(
            "our role {me} may not read and set {}: {}",
            number(closed.len(), "sequence"),
            list(closed)
        ),
        format!("GRANT SELECT, UPDATE ON SEQUENCE {} TO {me};", names.join(", ")),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_grant_for_all() {
        assert!(judge(&[], "\"c\"").is_empty());
        let found = judge(&[TableName::new("a", "b"), TableName::new("a", "C")], "\"c\"");
        assert_eq!(
            found[0].remedy,
            "GRANT SELECT, UPDATE ON SEQUENCE \"a\".\"b\", \"a\".\"C\" TO \"c\";"
        );
    }
}

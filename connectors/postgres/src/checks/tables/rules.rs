//! Rules that would rewrite our own writes.

use super::super::{Answer, facts::Context, found::*};
use crate::sql;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    // Ordinary rules are quiet in sessions that replicate.
    let rows = context
        .session
        .query(
            "SELECT n.nspname::text, c.relname::text, r.rulename::text \
             FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE r.ev_class = ANY ($1) AND r.ev_type <> '1' AND r.ev_enabled IN ('A', 'R') \
             ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\", r.rulename COLLATE \"C\"",
            &[&context.moved_oids()],
        )
        .await?;
    let rules: Vec<(String, String)> = rows
        .iter()
        .map(|row| {
            let table = cutover_core::model::schema::TableName::new(
                row.get::<_, &str>(0),
                row.get::<_, &str>(1),
            );
            (sql::table(&table), sql::ident(row.get(2)))
        })
        .collect();
    Ok(judge(&rules))
}

/// Pairs of table and rule, quoted.
fn judge(rules: &[(String, String)]) -> Vec<Found> {
    if rules.is_empty() {
        return Vec::new();
    }
    vec![error(
        "CUT0131",
        format!(
            "{} would rewrite the rows we write: {}",
            number(rules.len(), "rule"),
            list(rules.iter().map(|(table, rule)| format!("{rule} on {table}")))
        ),
        lines(rules.iter().map(|(table, rule)| format!("ALTER TABLE {table} ENABLE RULE {rule};"))),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_statement() {
        assert!(judge(&[]).is_empty());
        let found = judge(&[("t".into(), "r".into()), ("t".into(), "s".into())]);
        assert_eq!(found[0].remedy, "ALTER TABLE t ENABLE RULE r;\nALTER TABLE t ENABLE RULE s;");
    }
}

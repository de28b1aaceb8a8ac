//! Green must be empty: its rows would be mixed with those of blue.

use cutover_core::model::schema::TableName;

use super::super::{Answer, facts::Context, found::*};
use crate::sql;

/// Tables per statement: one round trip for many, and no statement of a megabyte.
const AT_ONCE: usize = 200;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let question = context.question;
    if question.owns_writes || question.resuming {
        return Ok(Vec::new());
    }
    // What we may not read is a finding of its own.
    let readable: Vec<&TableName> = context
        .moved()
        .filter(|r| !r.hidden_schema && !r.restricted && !r.lacking.iter().any(|p| p == "SELECT"))
        .map(|r| &r.name)
        .collect();
    let mut filled = Vec::new();
    for part in readable.chunks(AT_ONCE) {
        let questions: Vec<String> = part
            .iter()
            .enumerate()
            .map(|(i, name)| {
                format!("SELECT {i} WHERE EXISTS (SELECT FROM ONLY {})", sql::table(name))
            })
            .collect();
        let rows = context.session.query(&questions.join(" UNION ALL "), &[]).await?;
        for row in &rows {
            if let Some(name) = usize::try_from(row.get::<_, i32>(0)).ok().and_then(|i| part.get(i))
            {
                filled.push((*name).clone());
            }
        }
    }
    filled.sort();
    Ok(judge(&filled))
}

fn judge(filled: &[TableName]) -> Vec<Found> {
    if filled.is_empty() {
        return Vec::new();
    }
    let names: Vec<String> = filled.iter().map(sql::table).collect();
    vec![error(
        "CUT0133",
        format!("there are rows in {} already: {}", number(filled.len(), "table"), list(filled)),
        format!(
            "-- if nobody needs these rows, and this really is the new database:\n\
             TRUNCATE {} CASCADE;",
            names.join(", ")
        ),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_statement_empties_all() {
        assert!(judge(&[]).is_empty());
        let found = judge(&[TableName::new("a", "b"), TableName::new("a", "C")]);
        assert!(found[0].remedy.ends_with("\nTRUNCATE \"a\".\"b\", \"a\".\"C\" CASCADE;"));
    }
}

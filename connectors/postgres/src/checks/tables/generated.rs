//! Generated columns are not carried: the target computes them itself.

use cutover_core::model::schema::{Generated, Table};

use super::super::{Answer, facts::Context, found::*};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let question = context.question;
    Ok(if question.owns_writes { judge(&question.tables) } else { Vec::new() })
}

fn judge(tables: &[Table]) -> Vec<Found> {
    let columns: Vec<String> = tables
        .iter()
        .flat_map(|t| {
            t.columns
                .iter()
                .filter(|c| c.generated != Generated::No)
                .map(|c| format!("{}.{}", t.name, c.name))
        })
        .collect();
    if columns.is_empty() {
        return Vec::new();
    }
    vec![info(
        "CUT0135",
        format!(
            "the other side computes {} itself, and the verification compares: {}",
            number(columns.len(), "generated column"),
            list(&columns)
        ),
        "nothing; functions in their expressions must give the same results on both servers",
    )]
}

#[cfg(test)]
mod tests {
    use cutover_core::model::schema::{Column, Identity, RowIdentity, TableName};

    use super::*;

    #[test]
    fn columns_are_named_with_their_table() {
        let column = |name: &str, generated| Column {
            name: name.into(),
            base_type: "text".into(),
            declared_type: "text".into(),
            nullable: true,
            generated,
            identity: Identity::No,
            collation: None,
        };
        let table = |columns: Vec<Column>| Table {
            name: TableName::new("a", "t"),
            columns: columns.into(),
            identity: RowIdentity::Nothing,
            primary_key: Vec::new(),
            root: None,
            estimated_rows: None,
            bytes: 0,
        };
        assert!(judge(&[table(vec![column("x", Generated::No)])]).is_empty());
        let found = judge(&[table(vec![
            column("x", Generated::Stored),
            column("y", Generated::No),
            column("z", Generated::Virtual),
        ])]);
        assert!(found[0].what.ends_with("a.t.x, a.t.z"), "{}", found[0].what);
    }
}

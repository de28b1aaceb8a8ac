//! Rows that are identified by what the server computes, and the log does not carry.

use cutover_core::model::schema::{Generated, RowIdentity, Table};

use super::super::{Answer, facts::Context, found::*};
use crate::sql;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    // Of blue's tables: the other side gets the same columns and identities.
    Ok(judge(&context.question.tables, context.version()))
}

fn judge(tables: &[Table], version: u32) -> Vec<Found> {
    let (mut keys, mut rows) = (Vec::new(), Vec::new());
    for table in tables {
        let is = |name: &String, kind: fn(Generated) -> bool| {
            table.column(name).is_some_and(|c| kind(c.generated))
        };
        match &table.identity {
            RowIdentity::Key(key) if key.iter().any(|c| is(c, |g| g != Generated::No)) => {
                keys.push(table);
            }
            // From 18 on the server checks that the whole row can be published.
            RowIdentity::Full
                if version >= 180_000
                    && table.columns.iter().any(|c| c.generated == Generated::Virtual) =>
            {
                rows.push(table);
            }
            _ => {}
        }
    }
    let names = |tables: &[&Table]| {
        format!("{}: {}", number(tables.len(), "table"), list(tables.iter().map(|t| &t.name)))
    };
    let mut found = Vec::new();
    if !keys.is_empty() {
        found.push(error(
            "CUT0148",
            format!("generated columns identify the rows of {}; no log has them", names(&keys)),
            lines(
                keys.iter()
                    .map(|t| format!("ALTER TABLE {} REPLICA IDENTITY FULL;", sql::table(&t.name))),
            ),
        ));
    }
    if !rows.is_empty() {
        found.push(error(
            "CUT0149",
            format!(
                "the server would refuse updates and deletes of clients, because whole rows with \
                 virtual columns cannot be published, on {}",
                names(&rows)
            ),
            lines(rows.iter().map(|t| {
                let table = sql::table(&t.name);
                match t.primary_key.is_empty() {
                    true => format!("-- ALTER TABLE {table} ADD PRIMARY KEY (columns that are unique);\nALTER TABLE {table} REPLICA IDENTITY DEFAULT;"),
                    false => format!("ALTER TABLE {table} REPLICA IDENTITY DEFAULT;"),
                }
            })),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use cutover_core::model::schema::{Column, Identity, TableName};

    use super::*;

    #[test]
    fn by_version_and_identity() {
        let column = |name: &str, generated| Column {
            name: name.into(),
            base_type: "integer".into(),
            declared_type: "integer".into(),
            nullable: false,
            generated,
            identity: Identity::No,
            collation: None,
        };
        let table = |generated, identity| Table {
            name: TableName::new("a", "t"),
            columns: vec![column("k", Generated::No), column("g", generated)],
            identity,
            primary_key: Vec::new(),
            root: None,
            estimated_rows: None,
            bytes: 0,
        };
        let key = |name: &str| RowIdentity::Key(vec![name.into()]);
        for (generated, identity, version, want) in [
            (Generated::Stored, key("k"), 180_000, None),
            (Generated::Stored, key("g"), 180_000, Some("CUT0148")),
            (Generated::Stored, key("g"), 140_000, Some("CUT0148")),
            (Generated::Stored, RowIdentity::Full, 180_000, None),
            (Generated::Virtual, RowIdentity::Full, 180_000, Some("CUT0149")),
            (Generated::Virtual, key("k"), 180_000, None),
        ] {
            let found = judge(&[table(generated, identity.clone())], version);
            assert_eq!(found.first().map(|f| f.code), want, "{generated:?} {identity:?}");
        }
    }
}

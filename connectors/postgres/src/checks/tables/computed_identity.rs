//! Rows that are identified by what the server computes, and the log does not carry.

use std::collections::BTreeSet;

use cutover_core::model::schema::{Generated, RowIdentity, Table, TableName};

use super::super::{Answer, facts::Context, found::*};
use crate::sql;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    // Of blue's tables, since the other side gets the same columns and identities; and what is
    // here already, since somebody else may have defined it.
    Ok(judge(&context.question.tables, &whole_and_virtual(context).await?, context.version()))
}

/// Tables of this side with virtual columns whose rows are identified as a whole.
async fn whole_and_virtual(context: &Context<'_>) -> Result<Vec<TableName>, tokio_postgres::Error> {
    let whole: Vec<_> = context.moved().filter(|r| r.replica_identity == 'f').collect();
    let oids: Vec<u32> = whole.iter().map(|r| r.oid).collect();
    let sql = "SELECT DISTINCT attrelid FROM pg_attribute \
               WHERE attrelid = ANY ($1) AND attgenerated = 'v' AND NOT attisdropped";
    let rows = context.session.query(sql, &[&oids]).await?;
    let with_virtual: BTreeSet<u32> = rows.iter().map(|row| row.get(0)).collect();
    let both = whole.into_iter().filter(|r| with_virtual.contains(&r.oid));
    Ok(both.map(|r| r.name.clone()).collect())
}

/// `here`: tables of this side with virtual columns whose rows are identified as a whole.
fn judge(tables: &[Table], here: &[TableName], version: u32) -> Vec<Found> {
    let mut keys = Vec::new();
    let mut rows: BTreeSet<&TableName> = here.iter().collect();
    for table in tables {
        let is = |name: &String, kind: fn(Generated) -> bool| {
            table.column(name).is_some_and(|c| kind(c.generated))
        };
        match &table.identity {
            RowIdentity::Key(key) if key.iter().any(|c| is(c, |g| g != Generated::No)) => {
                keys.push(&table.name);
            }
            // From 18 on the server checks that the whole row can be published.
            RowIdentity::Full
                if version >= 180_000
                    && table.columns.iter().any(|c| c.generated == Generated::Virtual) =>
            {
                rows.insert(&table.name);
            }
            _ => {}
        }
    }
    let names = |tables: &[&TableName]| {
        format!("{}: {}", number(tables.len(), "table"), list(tables.iter()))
    };
    let mut found = Vec::new();
    if !keys.is_empty() {
        found.push(error(
            "CUT0148",
            format!("generated columns identify the rows of {}; no log has them", names(&keys)),
            lines(
                keys.iter()
                    .map(|t| format!("ALTER TABLE {} REPLICA IDENTITY FULL;", sql::table(t))),
            ),
        ));
    }
    if !rows.is_empty() {
        let keyed =
            |name: &TableName| tables.iter().any(|t| t.name == *name && !t.primary_key.is_empty());
        let rows: Vec<&TableName> = rows.into_iter().collect();
        found.push(error(
            "CUT0149",
            format!(
                "the server would refuse updates and deletes of clients, because whole rows with \
                 virtual columns cannot be published, on {}",
                names(&rows)
            ),
            lines(rows.iter().map(|name| {
                let table = sql::table(name);
                let default = format!("ALTER TABLE {table} REPLICA IDENTITY DEFAULT;");
                if keyed(name) {
                    return default;
                }
                format!(
                    "-- ALTER TABLE {table} ADD PRIMARY KEY (columns that are unique);\n{default}"
                )
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
            columns: vec![column("k", Generated::No), column("g", generated)].into(),
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
            let found = judge(&[table(generated, identity.clone())], &[], version);
            assert_eq!(found.first().map(|f| f.code), want, "{generated:?} {identity:?}");
        }
        // Stored on blue, virtual here by somebody else's definition.
        let blue = [table(Generated::Stored, RowIdentity::Full)];
        let found = judge(&blue, &[blue[0].name.clone()], 180_000);
        assert_eq!(found.iter().map(|f| f.code).collect::<Vec<_>>(), ["CUT0149"]);
    }
}

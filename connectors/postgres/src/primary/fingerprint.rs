//! Whether the definition of a table changed.

use std::collections::{BTreeMap, HashMap};

use cutover_core::{
    model::{
        schema::{Table, TableName},
        selection::Selection,
    },
    port::Result,
};

use crate::{
    catalog,
    connect::{Session, port_error},
    shelf::Warm,
};

/// A text per table that changes with its definition.
pub(super) async fn read(
    session: &Session,
    selection: &Selection,
) -> Result<BTreeMap<String, String>> {
    let tables = catalog::definitions(session, selection).await?;
    let labels = labels(session).await?;
    let numbers = numbers(session).await?;
    let number = |table: &Table| numbers.get(&table.name).map_or("", String::as_str);
    Ok(tables
        .iter()
        .map(|table| (table.name.to_string(), text(table, &labels, number(table))))
        .collect())
}

/// A text that changes with any definition, and is `since` otherwise.
pub(super) async fn mark(warm: &mut Warm, since: Option<&str>) -> Result<String> {
    let ask = async {
        let statement = warm.prepared(&catalog::definitions_mark()).await?;
        warm.session.query_one(&statement, &[&since]).await
    };
    let row = ask.await.map_err(|e| port_error("looking for changes in the catalog", e))?;
    Ok(row.get(0))
}

/// Numbers of every table and its columns: what has taken the name of another, with the same
/// definition, has other rows.
async fn numbers(session: &Session) -> Result<HashMap<TableName, String>> {
    let mut found = HashMap::new();
    session
        .each(
            "SELECT n.nspname::text, c.relname::text, \
                    concat_ws(' ', c.oid, string_agg(a.attnum::text, ' ' ORDER BY a.attnum)) \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             LEFT JOIN pg_attribute a \
                  ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
             WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' GROUP BY n.nspname, c.oid",
            &[],
            |row| {
                let name = TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
                found.insert(name, row.get(2));
            },
        )
        .await
        .map_err(|e| port_error("reading the numbers of tables in the catalog", e))?;
    Ok(found)
}

/// Labels of every enum by type name: a new one is a new definition of all tables that use it.
async fn labels(session: &Session) -> Result<HashMap<String, String>> {
    let rows = session
        .query(
            "SELECT format_type(e.enumtypid, -1), \
                    string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder) \
             FROM pg_enum e GROUP BY e.enumtypid",
            &[],
        )
        .await
        .map_err(|e| port_error("reading enums of the catalog", e))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Everything but what changes with the rows.
fn text(table: &Table, labels: &HashMap<String, String>, number: &str) -> String {
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|c| {
            let element = c.base_type.strip_suffix("[]").unwrap_or(&c.base_type);
            format!(
                "{:?} {} null={} generated={:?} identity={:?} collation={:?}{}",
                c.name,
                c.declared_type,
                c.nullable,
                c.generated,
                c.identity,
                c.collation,
                labels.get(element).map(|l| format!(" labels={l}")).unwrap_or_default()
            )
        })
        .collect();
    format!(
        "number: {number}; columns: {}; identity: {:?}; key: {:?}; root: {:?}",
        columns.join(", "),
        table.identity,
        table.primary_key,
        table.root.as_ref().map(ToString::to_string)
    )
}

#[cfg(test)]
mod tests {
    use cutover_core::model::schema::{Column, Generated, Identity, RowIdentity, TableName};

    use super::*;

    #[test]
    fn what_changes_it_and_what_does_not() {
        let table = Table {
            name: TableName::new("s", "t"),
            columns: vec![Column {
                name: "c".into(),
                base_type: "s.mood[]".into(),
                declared_type: "s.mood[]".into(),
                nullable: true,
                generated: Generated::No,
                identity: Identity::No,
                collation: None,
            }]
            .into(),
            identity: RowIdentity::Full,
            primary_key: Vec::new(),
            root: None,
            estimated_rows: Some(1),
            bytes: 1,
        };
        let none = HashMap::new();
        let was = text(&table, &none, "5 1");
        let grown = Table { estimated_rows: Some(9), bytes: 9, ..table.clone() };
        assert_eq!(text(&grown, &none, "5 1"), was);
        let labels = HashMap::from([("s.mood".to_owned(), "'happy'".to_owned())]);
        assert_ne!(text(&table, &labels, "5 1"), was);
        assert_ne!(text(&table, &none, "6 1"), was);
        let attached = Table { root: Some(TableName::new("s", "r")), ..table.clone() };
        assert_ne!(text(&attached, &none, "5 1"), was);
        let mut altered = table.clone();
        altered.columns[0].nullable = false;
        assert_ne!(text(&altered, &none, "5 1"), was);
        let keyed = Table { identity: RowIdentity::Nothing, ..table };
        assert_ne!(text(&keyed, &none, "5 1"), was);
    }
}

//! Whether the definition of a table changed.

use std::collections::{BTreeMap, HashMap};

use cutover_core::{
    model::{schema::Table, selection::Selection},
    port::Result,
};

use crate::{
    catalog,
    connect::{Session, port_error},
};

/// A text per table that changes with its definition.
pub(super) async fn read(
    session: &Session,
    selection: &Selection,
) -> Result<BTreeMap<String, String>> {
    let tables = catalog::definitions(session, selection).await?;
    let labels = labels(session).await?;
    Ok(tables.iter().map(|table| (table.name.to_string(), text(table, &labels))).collect())
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
fn text(table: &Table, labels: &HashMap<String, String>) -> String {
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
        "columns: {}; identity: {:?}; key: {:?}; root: {:?}",
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
            }],
            identity: RowIdentity::Full,
            primary_key: Vec::new(),
            root: None,
            estimated_rows: Some(1),
            bytes: 1,
        };
        let none = HashMap::new();
        let was = text(&table, &none);
        let grown = Table { estimated_rows: Some(9), bytes: 9, ..table.clone() };
        assert_eq!(text(&grown, &none), was);
        let labels = HashMap::from([("s.mood".to_owned(), "'happy'".to_owned())]);
        assert_ne!(text(&table, &labels), was);
        let attached = Table { root: Some(TableName::new("s", "r")), ..table.clone() };
        assert_ne!(text(&attached, &none), was);
        let mut altered = table.clone();
        altered.columns[0].nullable = false;
        assert_ne!(text(&altered, &none), was);
        let keyed = Table { identity: RowIdentity::Nothing, ..table };
        assert_ne!(text(&keyed, &none), was);
    }
}

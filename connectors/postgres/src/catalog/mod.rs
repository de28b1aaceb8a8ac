//! What a database's catalog says: tables, and everything else that its successor must share.
//!
//! A handful of queries over sets, never one per table, so that ten thousand tables take a second.
//! Reads only; judges nothing (that is `checks`).

mod belongings;
mod inventory;
mod left;
mod mark;
mod sequences;
mod since;
mod sizes;
mod tables;

use cutover_core::{
    model::{
        schema::{Table, TableName},
        selection::Selection,
    },
    port::Result,
};

pub(crate) use belongings::{belongings, builtin_grants, members_of_others, right_to_become};
pub(crate) use inventory::{inventory, schemas};
pub(crate) use mark::{definitions_mark, sequences_mark};
pub(crate) use sequences::{Sequence, all_sequences, all_statement, sequences, sorted};
pub(crate) use since::since;
pub(crate) use sizes::{TAKEN, sizes, sizes_statement};
pub(crate) use tables::{definitions, definitions_now, families, named, tables, trees};

use crate::connect::{Session, port_error};

/// Condition on `n.nspname` for schemas that belong to users.
pub(crate) const USER_SCHEMA: &str = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
                                      AND n.nspname !~ '^cutover_'";

/// Whether the schema as a whole belongs to the run: it holds a selected table, or a pattern
/// covers all of it.
pub(crate) fn selects_schema(selection: &Selection, tables: &[Table], schema: &str) -> bool {
    let inside = |name: &TableName| name.schema == schema;
    // A star in the name is matched by patterns that end in a star of their own only.
    selection.selects(&TableName::new(schema, "*"))
        || tables.iter().any(|t| inside(&t.name) || t.root.as_ref().is_some_and(inside))
}

/// Runs `work` in one read-only view of the catalog. `session` must not be in a transaction.
async fn in_one_view<T>(
    session: &Session,
    doing: &str,
    work: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    let all = async {
        session.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let answer = work.await?;
        session.batch_execute("COMMIT").await?;
        Ok(answer)
    };
    match all.await {
        Ok(answer) => Ok(answer),
        Err(e) => {
            if !session.is_closed() {
                session.batch_execute("ROLLBACK").await.map_err(|e| port_error(doing, e))?;
            }
            Err(port_error(doing, e))
        }
    }
}

#[cfg(test)]
mod tests {
    use cutover_core::model::schema::RowIdentity;

    use super::*;

    #[test]
    fn a_schema_is_selected_by_its_tables_or_as_a_whole() {
        let table = |schema: &str| Table {
            name: TableName::new(schema, "t"),
            columns: Default::default(),
            identity: RowIdentity::Nothing,
            primary_key: Vec::new(),
            root: Some(TableName::new("roots", "r")),
            estimated_rows: None,
            bytes: 0,
        };
        let select = |include: &str, exclude: &[&str]| Selection {
            include: vec![include.into()],
            exclude: exclude.iter().map(ToString::to_string).collect(),
        };
        for (selection, tables, schema, want) in [
            (select("*.*", &[]), vec![], "empty", true),
            (select("public.*", &[]), vec![], "public", true),
            (select("public.*", &[]), vec![], "other", false),
            (select("public.users", &[]), vec![], "public", false),
            (select("a.t", &[]), vec![table("a")], "a", true),
            (select("a.t", &[]), vec![table("a")], "roots", true),
            (select("*.*", &["audit.*"]), vec![], "audit", false),
            (select("*.*", &["audit.old_*"]), vec![], "audit", true),
        ] {
            assert_eq!(selects_schema(&selection, &tables, schema), want, "{selection:?} {schema}");
        }
    }
}

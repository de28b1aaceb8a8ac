//! Sequences that belong to a selection.

use std::collections::HashMap;

use cutover_core::{
    model::{schema::TableName, selection::Selection},
    port::Result,
};
use tokio_postgres::{Error, Row};

use super::{USER_SCHEMA, in_one_view, tables};
use crate::connect::Session;

/// What the catalog says about a sequence; its value is not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) oid: u32,
    pub(crate) name: TableName,
    pub(crate) increment: i64,
    pub(crate) cycle: bool,
    /// The least and the greatest value.
    pub(crate) bounds: (i64, i64),
    /// The table whose column owns it.
    pub(crate) owner: Option<u32>,
    /// Tables that have a default with it.
    users: Vec<u32>,
}

/// Sequences of selected tables, those that a default of such a table uses, and free ones whose
/// own name is selected, sorted by name.
/// `session` must not be in a transaction.
pub(crate) async fn sequences(session: &Session, selection: &Selection) -> Result<Vec<Sequence>> {
    in_one_view(session, "reading the sequences of the catalog", async {
        let all = all_sequences(session).await?;
        select(session, selection, all).await
    })
    .await
}

/// Every sequence of users, sorted by name: one query.
pub(crate) async fn all_sequences(session: &Session) -> std::result::Result<Vec<Sequence>, Error> {
    Ok(sorted(&session.query(&all_statement(), &[]).await?))
}

/// Rows of [`all_statement`], sorted by name.
pub(crate) fn sorted(rows: &[Row]) -> Vec<Sequence> {
    let mut all: Vec<Sequence> = rows.iter().map(sequence).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The same, prepared by the caller, for the pause. `OFFSET 0` keeps a server that has no statistics
/// of its catalog yet from reading all defaults there are for each sequence.
pub(crate) fn all_statement() -> String {
    format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, s.seqincrement, s.seqcycle, d.refobjid, \
                s.seqmin, s.seqmax, \
                ARRAY(SELECT e.adrelid \
                      FROM (SELECT u.classid, u.objid FROM pg_depend u \
                             WHERE u.refclassid = 'pg_class'::regclass AND u.refobjid = c.oid \
                            OFFSET 0) u \
                      JOIN pg_attrdef e ON e.oid = u.objid \
                      WHERE u.classid = 'pg_attrdef'::regclass ORDER BY 1) \
         FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         CROSS JOIN LATERAL \
              (SELECT max(d.refobjid) FILTER (WHERE d.objsubid = 0 AND d.deptype IN ('a', 'i') \
                          AND d.refclassid = 'pg_class'::regclass) AS refobjid, \
                      coalesce(bool_or(d.deptype = 'e'), false) AS of_extension \
               FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid) d \
         WHERE c.relpersistence <> 't' AND {USER_SCHEMA} AND NOT d.of_extension"
    )
}

fn sequence(row: &Row) -> Sequence {
    Sequence {
        oid: row.get(0),
        name: TableName::new(row.get::<_, &str>(1), row.get::<_, &str>(2)),
        increment: row.get(3),
        cycle: row.get(4),
        owner: row.get(5),
        bounds: (row.get(6), row.get(7)),
        users: row.get(8),
    }
}

/// Leaves out what does not belong to the selection.
async fn select(
    session: &Session,
    selection: &Selection,
    all: Vec<Sequence>,
) -> std::result::Result<Vec<Sequence>, Error> {
    let relations = tables::relations(session).await?;
    let roots = tables::roots(session, &relations).await?;
    // A partitioned table owns the sequence of an identity column for all of its leaves.
    let mut selected: HashMap<&TableName, bool> = HashMap::new();
    for (oid, relation) in relations.iter().filter(|(_, relation)| !relation.partitioned) {
        let root = roots.get(oid);
        let yes = selection.selects_any(&relation.name, root);
        for name in std::iter::once(&relation.name).chain(root) {
            *selected.entry(name).or_default() |= yes;
        }
    }
    let moved = |oid: &u32| {
        let Some(table) = relations.get(oid) else { return false };
        // A partitioned table without partitions is not in the map.
        selected
            .get(&table.name)
            .copied()
            .unwrap_or_else(|| selection.selects_any(&table.name, roots.get(oid)))
    };
    let belongs = |sequence: &Sequence| {
        let own = match &sequence.owner {
            Some(owner) => moved(owner),
            None => selection.selects(&sequence.name),
        };
        own || sequence.users.iter().any(moved)
    };
    let keep: Vec<bool> = all.iter().map(belongs).collect();
    Ok(all.into_iter().zip(keep).filter_map(|(s, keep)| keep.then_some(s)).collect())
}

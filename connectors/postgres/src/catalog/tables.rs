//! Tables: ordinary ones and leaf partitions, with columns and identity.

use std::collections::{HashMap, HashSet};

use cutover_core::{
    model::{
        schema::{Column, Columns, Generated, Identity, RowIdentity, Table, TableName},
        selection::Selection,
    },
    port::Result,
};
use tokio_postgres::{Error, Row};

use super::{USER_SCHEMA, in_one_view, sizes, sizes_statement};
use crate::{
    connect::{Session, port_error},
    sql,
};

/// Describes the selected tables, sorted by name, with their sizes: the server looks at a dozen
/// files per table. `session` must not be in a transaction.
pub(crate) async fn tables(session: &Session, selection: &Selection) -> Result<Vec<Table>> {
    let mut tables = definitions(session, selection).await?;
    let names: Vec<String> = tables.iter().map(|table| sql::table(&table.name)).collect();
    let ask = async {
        let statement = session.prepare(&sizes_statement()).await?;
        sizes(session, &statement, &names).await
    };
    let sizes = ask.await.map_err(|e| port_error("measuring the tables of the catalog", e))?;
    tables.iter_mut().zip(sizes).for_each(|(table, bytes)| table.bytes = bytes);
    Ok(tables)
}

/// The same without sizes.
pub(crate) async fn definitions(session: &Session, selection: &Selection) -> Result<Vec<Table>> {
    let doing = "reading the tables of the catalog";
    in_one_view(session, doing, definitions_now(session, selection)).await
}

/// The same in the transaction that `session` is in.
pub(crate) async fn definitions_now(
    session: &Session,
    selection: &Selection,
) -> std::result::Result<Vec<Table>, Error> {
    Ok(sorted(found(session, selection).await?))
}

fn sorted(found: HashMap<u32, Table>) -> Vec<Table> {
    let mut tables: Vec<Table> = found.into_values().collect();
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    tables
}

/// The selected tables without columns and keys, in no order: what they are called, and their roots.
pub(crate) async fn named(session: &Session, selection: &Selection) -> Result<Vec<Table>> {
    in_one_view(session, "reading the names of tables in the catalog", async {
        let (_, found) = selected(session, selection).await?;
        Ok(found.into_values().collect())
    })
    .await
}

/// All relations, and by number the selected tables, still without columns and keys.
async fn selected(
    session: &Session,
    selection: &Selection,
) -> std::result::Result<(HashMap<u32, Relation>, HashMap<u32, Table>), Error> {
    let relations = relations(session).await?;
    let roots = roots(session, &relations).await?;
    let found = relations
        .iter()
        .filter(|(_, relation)| !relation.partitioned)
        .filter(|(oid, relation)| selection.selects_any(&relation.name, roots.get(oid)))
        .map(|(oid, relation)| (*oid, relation.table(roots.get(oid).cloned())))
        .collect();
    Ok((relations, found))
}

/// Descriptions of the selected tables by their numbers.
async fn found(
    session: &Session,
    selection: &Selection,
) -> std::result::Result<HashMap<u32, Table>, Error> {
    let (relations, mut found) = selected(session, selection).await?;
    let oids: Vec<u32> = found.keys().copied().collect();
    let numbers = columns(session, &oids, &mut found).await?;
    keys(session, &oids, &relations, &numbers, &mut found).await?;
    Ok(found)
}

/// A table and every table that a statement must name to write its rows: itself, and all
/// partitioned and inheritance parents above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Family {
    /// The table's number.
    pub(crate) oid: u32,
    /// Its name.
    pub(crate) name: TableName,
}

/// The named tables and everything above them, each once, sorted by name. Names without a table
/// are left out.
pub(crate) async fn families(
    session: &Session,
    names: &[&TableName],
) -> std::result::Result<Vec<Family>, Error> {
    let schemas: Vec<&str> = names.iter().map(|n| n.schema.as_str()).collect();
    let tables: Vec<&str> = names.iter().map(|n| n.name.as_str()).collect();
    let rows = session
        .query(
            "WITH RECURSIVE up(oid) AS ( \
                 SELECT c.oid FROM unnest($1::text[], $2::text[]) w(s, t) \
                 JOIN pg_namespace n ON n.nspname = w.s \
                 JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.t \
                 WHERE c.relkind IN ('r', 'p') \
               UNION \
                 SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.oid) \
             SELECT c.oid, n.nspname::text, c.relname::text FROM up \
             JOIN pg_class c ON c.oid = up.oid JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p') ORDER BY n.nspname, c.relname",
            &[&schemas, &tables],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| Family {
            oid: row.get(0),
            name: TableName::new(row.get::<_, &str>(1), row.get::<_, &str>(2)),
        })
        .collect())
}

/// A table of a tree of partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Branch {
    /// Its name.
    pub(crate) name: TableName,
    /// What it is a partition of, the nearest first.
    pub(crate) above: Vec<TableName>,
    /// It was asked for, or leads to what was.
    pub(crate) asked: bool,
}

/// The named tables, everything that they are partitions of, and everything below that; so of
/// partitioned tables below which there are none with rows, as if they had been asked for. Sorted
/// by name.
pub(crate) async fn trees(
    session: &Session,
    names: &[TableName],
) -> std::result::Result<Vec<Branch>, Error> {
    let relations = relations(session).await?;
    let rows = session
        .query(
            "SELECT i.inhrelid, i.inhparent FROM pg_inherits i \
             JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relispartition",
            &[],
        )
        .await?;
    let parents: HashMap<u32, u32> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let line = |oid: &u32| std::iter::successors(Some(*oid), |at| parents.get(at).copied());
    let with_rows: HashSet<u32> =
        relations.iter().filter(|(_, r)| !r.partitioned).flat_map(|(oid, _)| line(oid)).collect();
    let asked: HashSet<u32> = relations
        .iter()
        .filter(|(oid, r)| {
            names.contains(&r.name) || (r.partitioned && !r.partition && !with_rows.contains(oid))
        })
        .flat_map(|(oid, _)| line(oid))
        .collect();
    let mut found: Vec<Branch> = relations
        .iter()
        .filter(|(oid, _)| line(oid).any(|at| asked.contains(&at)))
        .map(|(oid, relation)| Branch {
            name: relation.name.clone(),
            above: line(oid)
                .skip(1)
                .filter_map(|at| Some(relations.get(&at)?.name.clone()))
                .collect(),
            asked: asked.contains(oid),
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// A relation that holds rows, or the partitioned parent of such.
pub(super) struct Relation {
    pub(super) name: TableName,
    pub(super) partitioned: bool,
    partition: bool,
    replica_identity: String,
    estimated_rows: Option<u64>,
}

impl Relation {
    fn table(&self, root: Option<TableName>) -> Table {
        Table {
            name: self.name.clone(),
            columns: Default::default(),
            identity: RowIdentity::Nothing,
            primary_key: Vec::new(),
            root,
            estimated_rows: self.estimated_rows,
            bytes: 0,
        }
    }
}

pub(super) async fn relations(
    session: &Session,
) -> std::result::Result<HashMap<u32, Relation>, Error> {
    let sql = format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relispartition, \
                c.relreplident::text, c.reltuples \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND {USER_SCHEMA} \
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass \
                           AND d.objid = c.oid AND d.deptype = 'e')"
    );
    let mut found = HashMap::new();
    session
        .each(&sql, &[], |row| {
            let tuples: f32 = row.get(6);
            let relation = Relation {
                name: TableName::new(row.get::<_, &str>(1), row.get::<_, &str>(2)),
                partitioned: row.get::<_, &str>(3) == "p",
                partition: row.get(4),
                replica_identity: row.get(5),
                // Negative means never analysed.
                estimated_rows: (tuples >= 0.0).then_some(tuples as u64),
            };
            found.insert(row.get(0), relation);
        })
        .await?;
    Ok(found)
}

/// Topmost ancestor of every partition. One that is being detached is none: its changes are not
/// published with its parent any more.
pub(super) async fn roots(
    session: &Session,
    relations: &HashMap<u32, Relation>,
) -> std::result::Result<HashMap<u32, TableName>, Error> {
    if !relations.values().any(|relation| relation.partition) {
        return Ok(HashMap::new());
    }
    let rows = session
        .query(
            "SELECT i.inhrelid, i.inhparent FROM pg_inherits i \
             JOIN pg_class c ON c.oid = i.inhrelid \
             WHERE c.relispartition AND NOT i.inhdetachpending",
            &[],
        )
        .await?;
    let parents: HashMap<u32, u32> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let top = |oid: &u32| {
        let mut at = *parents.get(oid)?;
        while let Some(above) = parents.get(&at) {
            at = *above;
        }
        relations.get(&at).map(|relation| relation.name.clone())
    };
    Ok(relations.keys().filter_map(|oid| Some((*oid, top(oid)?))).collect())
}

/// Fills in the columns; returns their numbers by table. Tables with the same columns share them.
async fn columns(
    session: &Session,
    oids: &[u32],
    found: &mut HashMap<u32, Table>,
) -> std::result::Result<HashMap<u32, Vec<i16>>, Error> {
    let mut numbers: HashMap<u32, Vec<i16>> = HashMap::with_capacity(oids.len());
    let mut known: HashSet<Columns> = HashSet::new();
    let mut complete = |table: &mut Table| {
        table.columns.shrink_to_fit();
        match known.get(&table.columns) {
            Some(same) => table.columns = same.clone(),
            None => drop(known.insert(table.columns.clone())),
        }
    };
    let mut last: Option<u32> = None;
    session
        .each(
            "SELECT a.attrelid, a.attnum, a.attname::text, format_type(a.atttypid, -1), \
                    format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated::text, \
                    a.attidentity::text, \
                    CASE WHEN a.attcollation <> t.typcollation \
                         THEN quote_ident(cn.nspname) || '.' || quote_ident(co.collname) END \
             FROM unnest($1::oid[]) w(oid) \
             JOIN pg_attribute a ON a.attrelid = w.oid \
             JOIN pg_type t ON t.oid = a.atttypid \
             LEFT JOIN pg_collation co ON co.oid = a.attcollation \
             LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace \
             WHERE a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum",
            &[&oids],
            |row| {
                let oid: u32 = row.get(0);
                if let Some(before) = last.replace(oid).filter(|before| *before != oid)
                    && let Some(table) = found.get_mut(&before)
                {
                    complete(table);
                }
                if let Some(table) = found.get_mut(&oid) {
                    numbers.entry(oid).or_default().push(row.get(1));
                    table.columns.push(column(row));
                }
            },
        )
        .await?;
    if let Some(table) = last.and_then(|oid| found.get_mut(&oid)) {
        complete(table);
    }
    Ok(numbers)
}

fn column(row: &Row) -> Column {
    Column {
        name: row.get(2),
        base_type: row.get(3),
        declared_type: row.get(4),
        nullable: !row.get::<_, bool>(5),
        generated: match row.get(6) {
            "s" => Generated::Stored,
            "v" => Generated::Virtual,
            _ => Generated::No,
        },
        identity: match row.get(7) {
            "a" => Identity::Always,
            "d" => Identity::ByDefault,
            _ => Identity::No,
        },
        collation: row.get(8),
    }
}

/// Fills in primary key and row identity.
async fn keys(
    session: &Session,
    oids: &[u32],
    relations: &HashMap<u32, Relation>,
    numbers: &HashMap<u32, Vec<i16>>,
    found: &mut HashMap<u32, Table>,
) -> std::result::Result<(), Error> {
    let rows = session
        .query(
            "SELECT i.indrelid, i.indisprimary, i.indisreplident, i.indimmediate, \
                    (i.indkey::int2[])[0:i.indnkeyatts - 1] \
             FROM unnest($1::oid[]) w(oid) JOIN pg_index i ON i.indrelid = w.oid \
             WHERE (i.indisprimary OR i.indisreplident) AND i.indisvalid \
             ORDER BY i.indrelid, i.indexrelid",
            &[&oids],
        )
        .await?;
    for (oid, table) in found.iter_mut() {
        if relations.get(oid).is_some_and(|relation| relation.replica_identity == "f") {
            table.identity = RowIdentity::Full;
        }
    }
    for row in &rows {
        let oid: u32 = row.get(0);
        let (primary, chosen, immediate): (bool, bool, bool) = (row.get(1), row.get(2), row.get(3));
        let (Some(table), Some(relation)) = (found.get_mut(&oid), relations.get(&oid)) else {
            continue;
        };
        let place = |number: &i16| numbers.get(&oid)?.iter().position(|n| n == number);
        let key: Vec<String> = row
            .get::<_, Vec<i16>>(4)
            .iter()
            .filter_map(|number| Some(table.columns.get(place(number)?)?.name.clone()))
            .collect();
        let identifies = match relation.replica_identity.as_str() {
            // The server does not log a deferrable primary key.
            "d" => primary && immediate,
            "i" => chosen,
            _ => false,
        };
        if identifies {
            table.identity = RowIdentity::Key(key.clone());
        }
        if primary {
            table.primary_key = key;
        }
    }
    Ok(())
}

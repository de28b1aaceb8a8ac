//! Where the rows of a source table go, and which tables are compared with which. Pure.
//!
//! A partitioned table is followed through its leaves. Where the other side has a leaf of the same
//! name the rows go there; where it is partitioned in another way, or not at all, they go to the
//! table of the root's name and the database routes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cutover_core::{
    model::{
        schema::{Counterparts, RowIdentity, Table, TableName},
        side::Side,
    },
    port::sink::Route,
};

/// Tables that must hold the same rows: usually one on each side, all leaves of a root where the
/// two sides are partitioned differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Name for reports: the table, or the root.
    pub name: TableName,
    /// Tables on blue, with exactly the columns to compare, in one order for both sides.
    pub blue: Vec<Table>,
    /// Tables on green.
    pub green: Vec<Table>,
    /// Whether rows can be told apart by a key.
    pub keyed: bool,
}

impl Pair {
    /// Its tables on one side.
    #[must_use]
    pub fn side(&self, side: Side) -> &[Table] {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }

    /// Whether it goes by this name (`schema.name`), or a table of it or its root does.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let tables = self.blue.iter().chain(&self.green);
        let mut names = tables.flat_map(|t| [Some(&t.name), t.root.as_ref()]).flatten();
        self.name.to_string() == name || names.any(|n| n.to_string() == name)
    }
}

/// Everything that follows from the two catalogs; shared by all who work with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mapping {
    /// From blue to green.
    pub forward: Arc<Vec<Route>>,
    /// From green to blue.
    pub back: Arc<Vec<Route>>,
    /// What the verifier compares.
    pub pairs: Arc<Vec<Pair>>,
}

/// A table without a counterpart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} has no counterpart on the other side")]
pub struct Unmatched(pub TableName);

/// Matches the tables of both sides by name.
///
/// # Errors
///
/// [`Unmatched`] when a table of blue has no place on green. Tables that only green has are no
/// part of the run.
pub fn map(blue: &[Table], green: &[Table]) -> Result<Mapping, Unmatched> {
    let forward = routes(blue, green)?;
    let wanted: BTreeSet<&TableName> = blue.iter().map(group).collect();
    let followed: Vec<Table> = green
        .iter()
        .filter(|t| wanted.contains(group(t)) || wanted.contains(&t.name))
        .cloned()
        .collect();
    let back = routes(&followed, blue)?;

    // Leaves are compared one by one where both sides agree on all of them.
    let mut pairs = Vec::with_capacity(blue.len());
    let (blue_groups, green_groups) = (groups(blue), groups(&followed));
    for (name, blue) in blue_groups {
        let green = green_groups.get(name).cloned().unwrap_or_default();
        let names = |tables: &[&Table]| -> BTreeSet<TableName> {
            tables.iter().map(|t| t.name.clone()).collect()
        };
        if names(&blue) == names(&green) {
            for b in blue {
                if let Some(g) = green.iter().find(|g| g.name == b.name) {
                    pairs.push(pair(b.name.clone(), &[b], &[g]));
                }
            }
        } else {
            pairs.push(pair(name.clone(), &blue, &green));
        }
    }
    Ok(Mapping { forward: forward.into(), back: back.into(), pairs: pairs.into() })
}

fn group(table: &Table) -> &TableName {
    table.root.as_ref().unwrap_or(&table.name)
}

fn groups(tables: &[Table]) -> BTreeMap<&TableName, Vec<&Table>> {
    let mut map: BTreeMap<&TableName, Vec<&Table>> = BTreeMap::new();
    for table in tables {
        map.entry(group(table)).or_default().push(table);
    }
    map
}

fn routes(from: &[Table], to: &[Table]) -> Result<Vec<Route>, Unmatched> {
    let counterparts = Counterparts::new(to);
    from.iter()
        .map(|source| {
            let target =
                counterparts.of(source).ok_or_else(|| Unmatched(source.name.clone()))?.into_owned();
            Ok(Route { source: source.name.clone(), target })
        })
        .collect()
}

fn pair(name: TableName, blue: &[&Table], green: &[&Table]) -> Pair {
    let first = blue[0];
    let common: Vec<String> = first
        .columns
        .iter()
        .map(|c| c.name.clone())
        .filter(|c| blue.iter().chain(green).all(|t| t.column(c).is_some()))
        .collect();
    let key = first.key().to_vec();
    let keyed = !key.is_empty() && key.iter().all(|k| common.contains(k));
    let columns = |t: &Table| {
        // Shared, as long as they are the same.
        if t.columns.iter().map(|c| &c.name).eq(&common) {
            return t.columns.clone();
        }
        common.iter().filter_map(|c| t.column(c)).cloned().collect()
    };
    let align = |tables: &[&Table]| -> Vec<Table> {
        tables
            .iter()
            .map(|t| Table {
                columns: columns(t),
                identity: if keyed { RowIdentity::Key(key.clone()) } else { RowIdentity::Full },
                primary_key: if keyed { key.clone() } else { Vec::new() },
                ..(*t).clone()
            })
            .collect()
    };
    Pair { name, blue: align(blue), green: align(green), keyed }
}

#[cfg(test)]
mod tests {
    use cutover_core::model::schema::{Column, Generated, Identity};

    use super::*;

    fn column(name: &str) -> Column {
        Column {
            name: name.into(),
            base_type: "integer".into(),
            declared_type: "integer".into(),
            nullable: false,
            generated: Generated::No,
            identity: Identity::No,
            collation: None,
        }
    }

    fn table(name: &str, root: Option<&str>, columns: &[&str]) -> Table {
        Table {
            name: TableName::new("public", name),
            columns: columns.iter().map(|c| column(c)).collect(),
            identity: RowIdentity::Key(vec!["id".into()]),
            primary_key: vec!["id".into()],
            root: root.map(|r| TableName::new("public", r)),
            estimated_rows: None,
            bytes: 0,
        }
    }

    fn targets(routes: &[Route]) -> Vec<String> {
        routes.iter().map(|r| format!("{}>{}", r.source.name, r.target.name.name)).collect()
    }

    #[test]
    fn same_names_meet_and_columns_are_put_in_one_order() {
        let m = map(
            &[table("t", None, &["id", "a", "b"])],
            &[table("t", None, &["b", "id", "x", "a"])],
        )
        .unwrap();
        assert_eq!(targets(&m.forward), ["t>t"]);
        assert_eq!(targets(&m.back), ["t>t"]);
        let names = |t: &Table| t.columns.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&m.pairs[0].green[0]), ["id", "a", "b"]);
    }

    #[test]
    fn leaves_go_to_a_plain_table_and_are_compared_as_a_whole() {
        let blue = [table("p1", Some("p"), &["id"]), table("p2", Some("p"), &["id"])];
        let m = map(&blue, &[table("p", None, &["id"])]).unwrap();
        assert_eq!(targets(&m.forward), ["p1>p", "p2>p"]);
        assert_eq!(targets(&m.back), ["p>p"], "through blue's root");
        assert_eq!(m.pairs.len(), 1);
        assert_eq!((m.pairs[0].blue.len(), m.pairs[0].green.len()), (2, 1));
    }

    #[test]
    fn equal_partitions_are_compared_one_by_one() {
        let tables = [table("p1", Some("p"), &["id"]), table("p2", Some("p"), &["id"])];
        let m = map(&tables, &tables).unwrap();
        assert_eq!(m.pairs.len(), 2);
        assert_eq!(targets(&m.forward), ["p1>p1", "p2>p2"]);
    }

    #[test]
    fn a_table_without_a_counterpart_is_named_and_an_extra_one_on_green_is_left_alone() {
        assert_eq!(
            map(&[table("t", None, &["id"])], &[]),
            Err(Unmatched(TableName::new("public", "t")))
        );
        let m = map(&[], &[table("x", None, &["id"])]).unwrap();
        assert!(m.back.is_empty() && m.pairs.is_empty());
    }
}

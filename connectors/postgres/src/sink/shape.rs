//! Where the columns of a streamed table go: target tables, and the map from one to the other.
//! Pure.

use std::{collections::HashSet, sync::Arc};

use cutover_core::{
    model::{
        event::Relation,
        schema::{Column, Generated, Identity, Table, TableName},
        value::{Tuple, Value},
    },
    port::PortError,
};

use super::{encode::Wire, refusal};
use crate::sql;

/// A table that receives changes, ready for building statements.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) name: TableName,
    /// The quoted name, with `ONLY` unless the table is partitioned.
    pub(super) only: String,
    /// The quoted name.
    pub(super) quoted: String,
    pub(super) columns: Vec<TargetColumn>,
    /// Columns that name a row: replica identity, else primary key, else none.
    pub(super) key: Vec<u16>,
    /// Within a transaction the primary key may name several rows.
    pub(super) late_key: bool,
}

/// Texts that many columns have in common are there once: of ten thousand tables all are described.
#[derive(Debug, Default)]
pub(super) struct Texts(HashSet<Arc<str>>);

impl Texts {
    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.0.insert(Arc::clone(&new));
        new
    }
}

/// A column of a [`Target`].
#[derive(Debug, Clone)]
pub(super) struct TargetColumn {
    pub(super) name: Arc<str>,
    pub(super) quoted: Arc<str>,
    /// What stands behind `::` where a value is written.
    pub(super) cast: Arc<str>,
    /// What stands behind `::` where a value is looked for: a domain may refuse one that is there.
    pub(super) found_as: Arc<str>,
    /// How its values travel in arrays.
    pub(super) wire: Wire,
    /// Equality of the type as an operator, when every two values of the type can be compared.
    pub(super) equality: Option<Arc<str>>,
    /// What stands behind both sides of a comparison: nothing, or a cast.
    pub(super) compared_as: Arc<str>,
    pub(super) identity_always: bool,
    pub(super) generated: bool,
    /// Values that are there may break a constraint of its domain.
    pub(super) unproven: bool,
}

impl TargetColumn {
    fn new<'f>(column: &Column, facts: &'f Facts, texts: &mut Texts) -> Self {
        let name = &column.name;
        let among = |all: &'f [(String, String)]| {
            all.iter().find(|(known, _)| known == name).map(|(_, what)| what.as_str())
        };
        let cast = |of: &str| match facts.by_input.contains(name) {
            true => format!("pg_catalog.bpchar::{of}"),
            false => of.to_owned(),
        };
        let below = among(&facts.unproven);
        Self {
            name: texts.share(name),
            quoted: texts.share(&sql::ident(name)),
            cast: texts.share(&cast(&column.base_type)),
            found_as: texts.share(&cast(below.unwrap_or(&column.base_type))),
            wire: Wire::of(&column.base_type),
            equality: among(&facts.equality).map(|operator| texts.share(operator)),
            compared_as: texts
                .share(&among(&facts.compared_as).map(|of| format!("::{of}")).unwrap_or_default()),
            identity_always: column.identity == Identity::Always,
            generated: column.generated != Generated::No,
            unproven: below.is_some(),
        }
    }
}

/// What the catalog adds to the description of a table.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) partitioned: bool,
    /// The primary key is deferrable.
    pub(super) late_key: bool,
    /// Column name and its equality operator.
    pub(super) equality: Vec<(String, String)>,
    /// Columns whose texts must be cast by way of `bpchar` to be read by the type's input.
    pub(super) by_input: Vec<String>,
    /// Columns whose values may break a constraint of their domain, and what that is built on.
    pub(super) unproven: Vec<(String, String)>,
    /// Columns that must be cast before they are compared, and the type.
    pub(super) compared_as: Vec<(String, String)>,
}

impl Target {
    pub(super) fn new(table: &Table, facts: &Facts, texts: &mut Texts) -> Self {
        let columns: Vec<TargetColumn> =
            table.columns.iter().map(|c| TargetColumn::new(c, facts, texts)).collect();
        let quoted = sql::table(&table.name);
        let key: Option<Vec<u16>> = table.key().iter().map(|name| find(&columns, name)).collect();
        Self {
            name: table.name.clone(),
            only: if facts.partitioned { quoted.clone() } else { format!("ONLY {quoted}") },
            quoted,
            columns,
            key: key.unwrap_or_default(),
            late_key: facts.late_key,
        }
    }

    pub(super) fn column(&self, index: u16) -> &TargetColumn {
        &self.columns[usize::from(index)]
    }
}

/// Where one column of a target is found in the rows of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) target: u16,
    pub(super) source: u16,
}

/// How rows of one relation map to one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    /// Index of the target.
    pub(super) target: usize,
    /// Columns in the rows of the relation.
    pub(super) width: usize,
    /// Carried columns, in the target's order.
    pub(super) columns: Vec<Link>,
    /// Columns that name a row, in the target's order; empty when nothing does.
    pub(super) key: Vec<Link>,
    /// Whether old rows travel whole.
    pub(super) full: bool,
}

impl Shape {
    /// Maps a relation.
    ///
    /// # Errors
    ///
    /// `CUT0403` when the target lacks a column of the relation.
    pub(super) fn new(
        relation: &Relation,
        index: usize,
        target: &Target,
    ) -> Result<Self, PortError> {
        let mut columns = Vec::with_capacity(relation.columns.len());
        let mut missing = Vec::new();
        for (source, column) in relation.columns.iter().enumerate() {
            match (find(&target.columns, &column.name), u16::try_from(source)) {
                (Some(at), Ok(source)) if !target.column(at).generated => {
                    columns.push(Link { target: at, source });
                }
                (Some(_), _) => {}
                (None, _) => missing.push(column.name.as_str()),
            }
        }
        if !missing.is_empty() {
            return Err(refusal::columns_missing(&relation.name, &target.name, &missing));
        }
        columns.sort_by_key(|link| link.target);
        let wanted = |link: &&Link| {
            if relation.full_identity {
                target.key.contains(&link.target)
            } else {
                relation.columns[usize::from(link.source)].key
            }
        };
        let key: Vec<Link> = columns.iter().filter(wanted).copied().collect();
        // Part of a key names nothing.
        let wanted = if relation.full_identity { target.key.len() } else { keys(relation).count() };
        let key = if key.len() == wanted { key } else { Vec::new() };
        Ok(Self {
            target: index,
            width: relation.columns.len(),
            columns,
            key,
            full: relation.full_identity,
        })
    }

    /// The target columns of the carried columns.
    pub(super) fn targets(&self) -> Vec<u16> {
        self.columns.iter().map(|link| link.target).collect()
    }

    /// The target columns of the key.
    pub(super) fn key_targets(&self) -> Vec<u16> {
        self.key.iter().map(|link| link.target).collect()
    }

    /// The value of the link's column.
    pub(super) fn value(tuple: &Tuple, link: Link) -> Value<'_> {
        tuple.get(usize::from(link.source))
    }
}

fn keys(relation: &Relation) -> impl Iterator<Item = &str> {
    relation.columns.iter().filter(|c| c.key).map(|c| c.name.as_str())
}

fn find(columns: &[TargetColumn], name: &str) -> Option<u16> {
    columns.iter().position(|c| *c.name == *name).and_then(|at| u16::try_from(at).ok())
}

#[cfg(test)]
pub(super) mod tests {
    use cutover_core::model::{
        event::RelationColumn,
        schema::{Column, RowIdentity},
    };

    use super::*;

    /// A relation `s.t` from names; a `*` behind a name makes it part of the key.
    pub(in crate::sink) fn relation(columns: &[&str], full: bool) -> Relation {
        Relation {
            id: 1,
            name: TableName::new("s", "t"),
            columns: columns
                .iter()
                .map(|name| RelationColumn {
                    name: name.trim_end_matches('*').to_owned(),
                    key: full || name.ends_with('*'),
                    type_id: 25,
                    type_modifier: -1,
                })
                .collect(),
            full_identity: full,
        }
    }

    /// A target `S.t` from names of text columns; `*` key, `!` identity always, `=` generated.
    pub(in crate::sink) fn target(columns: &[&str]) -> Target {
        let bare = |n: &str| n.trim_end_matches(['*', '!', '=']).to_owned();
        let key: Vec<String> =
            columns.iter().filter(|n| n.contains('*')).map(|n| bare(n)).collect();
        let table = Table {
            name: TableName::new("S", "t"),
            columns: columns
                .iter()
                .map(|n| Column {
                    name: bare(n),
                    base_type: "text".into(),
                    declared_type: "text".into(),
                    nullable: true,
                    generated: if n.contains('=') { Generated::Stored } else { Generated::No },
                    identity: if n.contains('!') { Identity::Always } else { Identity::No },
                    collation: None,
                })
                .collect(),
            identity: if key.is_empty() { RowIdentity::Full } else { RowIdentity::Key(key) },
            primary_key: Vec::new(),
            root: None,
            estimated_rows: None,
            bytes: 0,
        };
        let equality =
            table.columns.iter().map(|c| (c.name.clone(), "pg_catalog.=".into())).collect();
        Target::new(&table, &Facts { equality, ..Facts::default() }, &mut Texts::default())
    }

    #[test]
    fn columns_meet_by_name_and_generated_ones_stay_out() {
        let shape =
            Shape::new(&relation(&["b", "g", "a*"], false), 3, &target(&["a*", "b", "x", "g="]))
                .unwrap();
        assert_eq!(shape.columns, [Link { target: 0, source: 2 }, Link { target: 1, source: 0 }]);
        assert_eq!(shape.key, [Link { target: 0, source: 2 }]);
    }

    #[test]
    fn a_column_that_the_target_lacks_is_named() {
        let error = Shape::new(&relation(&["a*", "gone"], false), 0, &target(&["a*"])).unwrap_err();
        assert_eq!(error.code(), Some("CUT0403"));
        assert!(error.to_string().contains("gone"), "{error}");
    }

    #[test]
    fn full_identity_uses_the_key_of_the_target_when_there_is_one() {
        let full = relation(&["a", "b"], true);
        assert_eq!(Shape::new(&full, 0, &target(&["a*", "b"])).unwrap().key_targets(), [0]);
        assert!(Shape::new(&full, 0, &target(&["a", "b"])).unwrap().key.is_empty());
        let keys_elsewhere = target(&["a", "b", "c*"]);
        assert!(Shape::new(&full, 0, &keys_elsewhere).unwrap().key.is_empty());
    }

    #[test]
    fn half_a_key_is_none() {
        let shape = Shape::new(&relation(&["a*", "b*"], false), 0, &target(&["a*", "b="])).unwrap();
        assert!(shape.key.is_empty());
    }
}

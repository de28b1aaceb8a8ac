//! What an event trigger said.

use std::collections::BTreeMap;

use cutover_core::model::schema::TableName;
use serde::Deserialize;

/// One message.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Message {
    /// The statement's tag, for example `ALTER TABLE`.
    pub(super) tag: String,
    /// The statement is an `ALTER` as far as we can see, and has no `USING`, which could change
    /// values in ways that definitions do not show.
    #[serde(default)]
    pub(super) plain: bool,
    /// It could not be told what happened: SQLSTATE of the failure.
    #[serde(default)]
    pub(super) untold: Option<String>,
    #[serde(default)]
    pub(super) items: Vec<Item>,
}

impl Message {
    /// Takes tables as they are by now, and forgets that something was dropped which is there.
    pub(super) fn overtake(&mut self, now: &Self) {
        for later in &now.items {
            let Item::Table { table: later, .. } = later else { continue };
            for item in &mut self.items {
                if let Item::Table { table, .. } = item
                    && table.table() == later.table()
                {
                    *table = later.clone();
                }
            }
            self.items.retain(|item| !item.is_back(later));
        }
    }

    /// What it says of a table.
    pub(super) fn table(&self, name: &TableName) -> Option<&Definition> {
        self.items.iter().find_map(|item| match item {
            Item::Table { table, .. } if table.table() == *name => Some(table.as_ref()),
            _ => None,
        })
    }
}

/// One object of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub(super) enum Item {
    /// A table as it is now.
    Table {
        created: bool,
        /// Since when it is carried.
        #[serde(default)]
        since: Option<String>,
        table: Box<Definition>,
    },
    /// A type as it is now, and who uses it.
    Type {
        #[serde(rename = "type")]
        definition: Box<UserType>,
        #[serde(default)]
        tables: Vec<TableName>,
    },
    /// Something is gone.
    Dropped {
        #[serde(rename = "type")]
        kind: String,
        schema: String,
        name: String,
        #[serde(default)]
        part: Option<String>,
    },
    /// A table's rows are being written anew; bit 2: because of a default, bit 4: of a type.
    Rewrite { reason: i32 },
}

impl Item {
    /// The table of `later` that has what this says is gone.
    pub(super) fn back_in<'a>(&self, later: &'a Self) -> Option<&'a Definition> {
        match later {
            Self::Table { table, .. } => Some(table.as_ref()).filter(|table| self.is_back(table)),
            _ => None,
        }
    }

    /// Whether what it says is gone is there in both, and the same. Never where rows are concerned: a
    /// table or a column that is made anew has other values.
    pub(super) fn is_alike(&self, there: &Definition, here: &Definition) -> bool {
        let Self::Dropped { kind, name, part, .. } = self else { return false };
        let part = part.as_deref().unwrap_or_default();
        match kind.as_str() {
            "table" | "table column" => false,
            "table constraint" => there.constraints.get(part) == here.constraints.get(part),
            _ => there.indexes.get(name) == here.indexes.get(name),
        }
    }

    /// Whether it says that something is gone which this table has.
    fn is_back(&self, table: &Definition) -> bool {
        let Self::Dropped { kind, schema, name, part } = self else { return false };
        let part = part.as_deref().unwrap_or_default();
        let here = (schema, name) == (&table.schema, &table.name);
        match kind.as_str() {
            "table" => here,
            "type" | "domain constraint" => false,
            "table column" => here && table.column(part).is_some(),
            "table constraint" => here && table.constraints.contains_key(part),
            _ => *schema == table.schema && table.indexes.contains_key(name),
        }
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Definition {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) persistence: String,
    pub(super) owner: String,
    /// What others may do with it; not told by triggers of earlier versions.
    #[serde(default)]
    pub(super) grants: Vec<Grant>,
    pub(super) root: Option<TableName>,
    pub(super) parents: Vec<TableName>,
    pub(super) bound: Option<String>,
    /// How a partitioned table is partitioned.
    #[serde(default)]
    pub(super) key: Option<String>,
    /// What is below a partitioned table, at every level.
    pub(super) partitions: Vec<Partition>,
    /// Tables below a partitioned table that hold rows, at every level.
    #[serde(default)]
    pub(super) leaves: Vec<TableName>,
    /// Tables that inherit from one that is not partitioned, at every level, as if they were its
    /// partitions; not told by triggers of earlier versions.
    #[serde(default)]
    pub(super) heirs: Vec<Partition>,
    pub(super) columns: Vec<Column>,
    pub(super) indexes: BTreeMap<String, String>,
    pub(super) constraints: BTreeMap<String, String>,
}

impl Definition {
    pub(super) fn table(&self) -> TableName {
        TableName::new(&self.schema, &self.name)
    }

    /// The topmost table above a partition, or the table itself.
    pub(super) fn whole(&self) -> TableName {
        self.root.clone().unwrap_or_else(|| self.table())
    }

    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }
}

/// A right of somebody else than the owner.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Grant {
    /// `None`: everybody.
    pub(super) to: Option<String>,
    pub(super) what: String,
    /// It may be granted on.
    pub(super) on: bool,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Partition {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) bound: String,
    /// Whose it is, where that is not the table that is spoken of.
    #[serde(default)]
    pub(super) parent: Option<TableName>,
    /// Defaults of columns in which it is unlike the table that is spoken of; not told by triggers
    /// of earlier versions.
    #[serde(default)]
    pub(super) defaults: Option<BTreeMap<String, Option<String>>>,
}

impl Partition {
    pub(super) fn table(&self) -> TableName {
        TableName::new(&self.schema, &self.name)
    }
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Column {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) type_name: String,
    pub(super) domain: bool,
    pub(super) not_null: bool,
    /// Empty, `s` or `v`.
    pub(super) generated: String,
    /// Empty, `a` or `d`.
    pub(super) identity: String,
    pub(super) collation: Option<String>,
    /// Default, or what it is generated from.
    pub(super) expression: Option<String>,
    /// What rows have that are older than the column.
    pub(super) missing: Option<String>,
}

/// A type.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct UserType {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) labels: Vec<String>,
    pub(super) attributes: Vec<String>,
    pub(super) base: Option<String>,
    /// What a domain gives to columns without a default.
    #[serde(default)]
    pub(super) default: Option<String>,
    /// Of a domain: its constraints by name.
    pub(super) checks: BTreeMap<String, String>,
    pub(super) not_null: bool,
    #[serde(default)]
    pub(super) owner: Option<String>,
    /// What stands in its `CREATE`, but for labels; `None` where a function belongs to it that has
    /// to be there before.
    #[serde(default)]
    pub(super) definition: Option<String>,
}

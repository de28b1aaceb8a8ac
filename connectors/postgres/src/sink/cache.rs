//! Prepared statements of the writer, by what they do.

use std::collections::{HashMap, HashSet};

use cutover_core::port::Result;
use tokio_postgres::{Client, Statement, types::Type};

use super::{
    pipeline::pipeline,
    router::Router,
    shape::Target,
    statement::{self, Find},
};
use crate::connect::port_error;

/// Statements kept before all are forgotten. Patterns of NULLs and unchanged values could make
/// any number of them.
const MOST: usize = 2_000;

/// What a statement does to a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Key columns.
    DeleteMany(Vec<u16>),
    /// Key columns, columns to set, columns that must be equal.
    UpdateMany(Vec<u16>, Vec<u16>, Vec<u16>),
    /// Columns.
    InsertMany(Vec<u16>),
    /// Columns.
    Copy(Vec<u16>),
    /// Columns.
    InsertOne(Vec<u16>),
    /// Columns to set.
    UpdateOne(Find, Vec<u16>),
    /// Columns to set, in a row that is written anew.
    MoveOne(Find, Vec<u16>),
    DeleteOne(Find),
}

impl Kind {
    /// The statement.
    pub(super) fn text(&self, target: &Target) -> String {
        match self {
            Self::DeleteMany(key) => statement::delete_many(target, key),
            Self::UpdateMany(key, set, same) => statement::update_many(target, key, set, same),
            Self::InsertMany(columns) => statement::insert_many(target, columns),
            Self::Copy(columns) => statement::copy_in(target, columns),
            Self::InsertOne(columns) => statement::insert_one(target, columns),
            Self::UpdateOne(find, set) => statement::update_one(target, find, set),
            Self::MoveOne(find, set) => statement::move_one(target, find, set),
            Self::DeleteOne(find) => statement::delete_one(target, find),
        }
    }

    /// The types of its parameters.
    pub(super) fn types(&self, target: &Target) -> Vec<Type> {
        let arrays = |lists: &[&Vec<u16>]| -> Vec<Type> {
            lists.iter().copied().flatten().map(|c| target.column(*c).wire.array()).collect()
        };
        let texts = |find: Option<&Find>, set: &[u16]| {
            vec![Type::TEXT; find.map_or(0, Find::parameters) + set.len()]
        };
        match self {
            Self::Copy(_) => Vec::new(),
            Self::DeleteMany(key) => arrays(&[key]),
            Self::UpdateMany(key, set, same) => arrays(&[key, set, same]),
            Self::InsertMany(columns) => arrays(&[columns]),
            Self::InsertOne(columns) => texts(None, columns),
            Self::UpdateOne(find, set) | Self::MoveOne(find, set) => texts(Some(find), set),
            Self::DeleteOne(find) => texts(Some(find), &[]),
        }
    }
}

/// A statement of one target table.
pub(super) type Key = (usize, Kind);

/// Prepared statements.
#[derive(Debug, Default)]
pub(super) struct Cache {
    known: HashMap<Key, Statement>,
}

impl Cache {
    /// Prepares what is not there yet, in one round trip.
    pub(super) async fn prepare<'k>(
        &mut self,
        client: &Client,
        router: &Router,
        wanted: impl Iterator<Item = &'k Key>,
    ) -> Result<()> {
        let wanted: HashSet<&Key> = wanted.collect();
        let new = |known: &HashMap<Key, Statement>| -> Vec<&'k Key> {
            wanted.iter().copied().filter(|key| !known.contains_key(*key)).collect()
        };
        let mut missing = new(&self.known);
        if missing.is_empty() {
            return Ok(());
        }
        if self.known.len() + missing.len() > MOST {
            self.known.clear();
            missing = new(&self.known);
        }
        let prepared = pipeline(missing.iter().map(|(index, kind)| {
            let target = router.target(*index);
            let (text, types) = (kind.text(target), kind.types(target));
            async move { client.prepare_typed(&text, &types).await }
        }))
        .await;
        for (key, statement) in missing.into_iter().zip(prepared) {
            let (index, _) = key;
            let doing = || format!("preparing to write table {}", router.target(*index).name);
            let statement = statement.map_err(|e| port_error(doing(), e))?;
            self.known.insert(key.clone(), statement);
        }
        Ok(())
    }

    /// A prepared statement.
    pub(super) fn get(&self, key: &Key) -> Option<&Statement> {
        self.known.get(key)
    }
}

//! Sessions that are kept open between uses.
//!
//! What is taken from a shelf and not put back is closed: a dropped future or a failed statement
//! never leaves a session behind in a state that the next user does not expect.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cutover_core::model::schema::TableName;
use futures_util::future::join_all;
use tokio_postgres::{Error, Statement};

use crate::{connect::Session, snapshot::Pages};

/// Statements that a session keeps: each costs the server some ten kilobytes.
const MOST_KEPT: usize = 500;

/// A session with what was prepared in it.
pub(crate) struct Warm {
    pub(crate) session: Session,
    /// Tables that the transaction that is open holds, and what they have become since its snapshot
    /// was taken.
    pub(crate) held: HashMap<TableName, Pages>,
    statements: HashMap<String, Statement>,
}

/// How the keys of tables are compared, for all sessions of a reader. Most are compared like others.
#[derive(Default)]
pub(crate) struct Keys(Mutex<Known>);

#[derive(Default)]
struct Known {
    of: HashMap<TableName, Arc<[KeyPart]>>,
    all: HashSet<Arc<[KeyPart]>>,
}

impl Keys {
    /// What was looked up before.
    pub(crate) fn get(&self, table: &TableName) -> Option<Arc<[KeyPart]>> {
        self.lock().of.get(table).cloned()
    }

    /// Keeps it for the next time.
    pub(crate) fn remember(&self, table: &TableName, parts: Vec<KeyPart>) {
        let mut known = self.lock();
        let parts = match known.all.get(&parts[..]) {
            Some(same) => Arc::clone(same),
            None => parts.into(),
        };
        known.all.insert(Arc::clone(&parts));
        known.of.insert(table.clone(), parts);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a column of a key is compared with a text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct KeyPart {
    /// `OPERATOR(schema.=)` of the index: an extension's type may have its own outside of the
    /// search path.
    pub(crate) operator: String,
    /// What stands between the text and its cast: a cast of a text may call a function instead of
    /// the type's input.
    pub(crate) via: String,
    /// What stands behind both sides of the comparison: nothing, or a cast to the enum of a
    /// domain, which the operators of enums do not know.
    pub(crate) compared_as: String,
    /// What the text is cast to, where that is not the type of the column: a domain may refuse
    /// values that are there.
    pub(crate) found_as: Option<String>,
}

impl Warm {
    pub(crate) fn new(session: Session) -> Self {
        Self { session, held: HashMap::new(), statements: HashMap::new() }
    }

    /// The statement, prepared once per session.
    pub(crate) async fn prepared(&mut self, sql: &str) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.session.prepare(sql).await?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// The statements in their order; those that are new are prepared in one round trip, and kept
    /// as far as there is room.
    pub(crate) async fn prepared_all(&mut self, all: &[String]) -> Result<Vec<Statement>, Error> {
        let new = all.iter().filter(|sql| !self.statements.contains_key(*sql));
        let new: Vec<&String> = new.collect::<BTreeSet<_>>().into_iter().collect();
        let prepared = join_all(new.iter().map(|sql| self.session.prepare(sql))).await;
        let mut passing = HashMap::new();
        for (sql, statement) in new.into_iter().zip(prepared) {
            if self.statements.len() < MOST_KEPT {
                self.statements.insert(sql.clone(), statement?);
            } else {
                passing.insert(sql, statement?);
            }
        }
        Ok(all
            .iter()
            .filter_map(|sql| self.statements.get(sql).or_else(|| passing.get(sql)).cloned())
            .collect())
    }

    /// Makes room for statements that will be used soon, when there is none for all of them.
    pub(crate) fn make_room(&mut self, soon: &[String]) {
        let new = soon.iter().filter(|sql| !self.statements.contains_key(*sql)).count();
        if self.statements.len() + new > MOST_KEPT {
            self.statements.retain(|sql, _| soon.contains(sql));
        }
    }
}

/// Idle sessions, the one used last on top.
#[derive(Default)]
pub(crate) struct Shelf(Mutex<Vec<Warm>>);

impl Shelf {
    /// An idle session that was open a moment ago.
    pub(crate) fn take(&self) -> Option<Warm> {
        let mut idle = self.lock();
        while let Some(warm) = idle.pop() {
            if !warm.session.is_closed() {
                return Some(warm);
            }
        }
        None
    }

    /// Keeps a session for the next user. It must not be in a failed or foreign state.
    pub(crate) fn put(&self, warm: Warm) {
        self.lock().push(warm);
    }

    /// Keeps it when fewer than `most` are idle, and closes it otherwise.
    pub(crate) fn put_below(&self, most: usize, warm: Warm) {
        let mut idle = self.lock();
        if idle.len() < most {
            idle.push(warm);
        }
    }

    /// Closes all idle sessions.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Warm>> {
        // Nothing can be half done: the lock is held for a push or a pop.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

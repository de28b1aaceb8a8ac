//! Sessions that are kept open between uses.
//!
//! What is taken from a shelf and not put back is closed: a dropped future or a failed statement
//! never leaves a session behind in a state that the next user does not expect.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cutover_core::model::schema::TableName;
use tokio_postgres::{Error, Statement};

use crate::connect::Session;

/// A session with what was prepared and looked up in it.
pub(crate) struct Warm {
    pub(crate) session: Session,
    statements: HashMap<String, Statement>,
    keys: HashMap<TableName, Arc<[KeyPart]>>,
}

/// How a column of a key is compared with a text.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

impl Warm {
    pub(crate) fn new(session: Session) -> Self {
        Self { session, statements: HashMap::new(), keys: HashMap::new() }
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

    /// How a table's key is compared, when that was looked up before.
    pub(crate) fn key(&self, table: &TableName) -> Option<Arc<[KeyPart]>> {
        self.keys.get(table).cloned()
    }

    /// Keeps it for the next time.
    pub(crate) fn remember_key(
        &mut self,
        table: &TableName,
        parts: Vec<KeyPart>,
    ) -> Arc<[KeyPart]> {
        let parts: Arc<[KeyPart]> = parts.into();
        self.keys.insert(table.clone(), Arc::clone(&parts));
        parts
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

    /// Closes all idle sessions.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Warm>> {
        // Nothing can be half done: the lock is held for a push or a pop.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

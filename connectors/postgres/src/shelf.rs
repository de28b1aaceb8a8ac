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
    operators: HashMap<TableName, Arc<[String]>>,
}

impl Warm {
    pub(crate) fn new(session: Session) -> Self {
        Self { session, statements: HashMap::new(), operators: HashMap::new() }
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

    /// The operators that compare a table's key, when they were looked up before.
    pub(crate) fn operators(&self, table: &TableName) -> Option<Arc<[String]>> {
        self.operators.get(table).cloned()
    }

    /// Keeps them for the next time.
    pub(crate) fn remember_operators(
        &mut self,
        table: &TableName,
        operators: Vec<String>,
    ) -> Arc<[String]> {
        let operators: Arc<[String]> = operators.into();
        self.operators.insert(table.clone(), Arc::clone(&operators));
        operators
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

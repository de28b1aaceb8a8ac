//! How ports fail: the variant decides what the engine does.

use std::error::Error;

use crate::model::schema::TableName;

/// Result of a port.
pub type Result<T> = std::result::Result<T, PortError>;

/// A failure of a connector. Messages name what and where; never values or credentials.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Worth trying again by itself: a lost connection, a server that is starting, a lock timeout.
    #[error("{doing} failed")]
    Transient {
        /// What was being done and where, for example `reading slot cutover_shop on blue`.
        doing: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Trying again cannot help; somebody must do what the remedy says.
    #[error("{code}: {doing}: {what}")]
    Definite {
        /// Stable code with a page under `docs/errors/`.
        code: &'static str,
        /// What was being done and where.
        doing: String,
        /// What is wrong.
        what: String,
        /// What to do, copyable.
        remedy: String,
        /// The receiving side's table whose rows are not what the stream builds on: a new copy of
        /// it would put that right.
        spoiled: Option<Box<TableName>>,
        /// Why, when something below said so.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
}

impl PortError {
    /// A failure worth repeating.
    pub fn transient(
        doing: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Transient { doing: doing.into(), source: source.into() }
    }

    /// A failure that needs somebody.
    pub fn definite(
        code: &'static str,
        doing: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::Definite {
            code,
            doing: doing.into(),
            what: what.into(),
            remedy: remedy.into(),
            spoiled: None,
            source: None,
        }
    }

    /// Adds the cause to a definite failure; a transient one keeps its own.
    #[must_use]
    pub fn caused_by(self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        match self {
            Self::Definite { code, doing, what, remedy, spoiled, .. } => {
                Self::Definite { code, doing, what, remedy, spoiled, source: Some(cause.into()) }
            }
            transient => transient,
        }
    }

    /// Says of a definite failure that a new copy of `table` would put it right.
    #[must_use]
    pub fn spoiling(mut self, table: &TableName) -> Self {
        if let Self::Definite { spoiled, .. } = &mut self {
            *spoiled = Some(Box::new(table.clone()));
        }
        self
    }

    /// Whether repeating may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. })
    }

    /// The code of a definite failure.
    #[must_use]
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Transient { .. } => None,
            Self::Definite { code, .. } => Some(code),
        }
    }

    /// The remedy of a definite failure.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        match self {
            Self::Transient { .. } => None,
            Self::Definite { remedy, .. } => Some(remedy),
        }
    }
}

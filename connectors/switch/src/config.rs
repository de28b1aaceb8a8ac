//! What is wrong with a section of the configuration.

/// A section that cannot work, found before anything is touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct BadConfig {
    /// What is wrong; never holds a credential.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

impl BadConfig {
    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

//! The name of a run, which everything created on a server carries.

use serde::{Deserialize, Serialize};

/// Name of a run: 1 to 40 characters of `a-z`, `0-9`, `-`, starting with a letter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

/// Why a text is not a run name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("run name {0:?} must be 1 to 40 characters of a-z, 0-9 and '-', starting with a letter")]
pub struct BadRunId(String);

impl RunId {
    /// Checks and wraps a name.
    ///
    /// # Errors
    ///
    /// [`BadRunId`] when the name has other characters or another length.
    pub fn new(name: &str) -> Result<Self, BadRunId> {
        let ok = (1..=40).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if ok { Ok(Self(name.to_owned())) } else { Err(BadRunId(name.to_owned())) }
    }

    /// The name as the user wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `cutover_` and the name with `-` as `_`: valid unquoted as a slot, origin, schema,
    /// publication, trigger and function name, at most 48 bytes.
    #[must_use]
    pub fn object_name(&self) -> String {
        format!("cutover_{}", self.0.replace('-', "_"))
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RunId {
    type Error = BadRunId;

    fn try_from(name: String) -> Result<Self, BadRunId> {
        Self::new(&name)
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_identifiers() {
        assert_eq!(RunId::new("shop-pg17").unwrap().object_name(), "cutover_shop_pg17");
        for bad in ["", "Shop", "1a", "a b", "a'b", "a_b", &"a".repeat(41)] {
            assert!(RunId::new(bad).is_err(), "{bad:?}");
        }
    }
}

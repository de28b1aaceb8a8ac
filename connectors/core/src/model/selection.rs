//! Which tables a run moves.

use serde::{Deserialize, Serialize};

use super::schema::TableName;

/// Patterns `schema.table` with `*` for any run of characters, matched case-exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// At least one must match.
    pub include: Vec<String>,
    /// None may match.
    pub exclude: Vec<String>,
}

impl Default for Selection {
    /// Every table of every user schema.
    fn default() -> Self {
        Self { include: vec!["*.*".into()], exclude: Vec::new() }
    }
}

impl Selection {
    /// Whether the table belongs to the run. For a leaf partition ask for its root as well:
    /// [`Selection::selects_any`].
    #[must_use]
    pub fn selects(&self, table: &TableName) -> bool {
        let text = table.to_string();
        self.include.iter().any(|p| glob(p, &text)) && !self.exclude.iter().any(|p| glob(p, &text))
    }

    /// Whether an exclude pattern names the table. Leaves of a followed root arrive in the change
    /// log whether they are excluded or not.
    #[must_use]
    pub fn excludes(&self, table: &TableName) -> bool {
        let text = table.to_string();
        self.exclude.iter().any(|p| glob(p, &text))
    }

    /// Whether a leaf partition belongs to the run: it or its root is included and neither is
    /// excluded.
    #[must_use]
    pub fn selects_any(&self, table: &TableName, root: Option<&TableName>) -> bool {
        let names: Vec<String> =
            std::iter::once(table).chain(root).map(ToString::to_string).collect();
        names.iter().any(|n| self.include.iter().any(|p| glob(p, n)))
            && !names.iter().any(|n| self.exclude.iter().any(|p| glob(p, n)))
    }
}

/// `*` matches any run of characters, everything else itself.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else { return false };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, want) in [
            ("public.*", "public.users", true),
            ("public.*", "Public.users", false),
            ("*.*", "a.b", true),
            ("public.users", "public.users", true),
            ("public.users", "public.users2", false),
            ("public.a*z", "public.az", true),
            ("public.a*z", "public.a", false),
            ("*.audit_*", "x.audit_2019", true),
        ] {
            assert_eq!(glob(pattern, text), want, "{pattern} {text}");
        }
    }

    #[test]
    fn a_leaf_follows_its_root() {
        let s =
            Selection { include: vec!["public.events".into()], exclude: vec!["*.*_old".into()] };
        let root = TableName::new("public", "events");
        assert!(s.selects_any(&TableName::new("public", "events_2024"), Some(&root)));
        assert!(!s.selects_any(&TableName::new("public", "events_old"), Some(&root)));
        assert!(!s.selects(&TableName::new("public", "other")));
    }
}

//! What one check says, and the words that messages share.
//!
//! A remedy is SQL that can be pasted into `psql` as it is, with hints as SQL comments, wherever
//! SQL can do it; else plain words.

use cutover_core::model::finding::{Finding, Severity};

/// How many names a message spells out.
const SHOWN: usize = 10;

/// A finding that does not know yet where it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) code: &'static str,
    pub(super) severity: Severity,
    pub(super) what: String,
    pub(super) remedy: String,
}

impl Found {
    pub(super) fn at(self, place: String) -> Finding {
        Finding {
            code: self.code.into(),
            severity: self.severity,
            place,
            what: self.what,
            remedy: self.remedy,
        }
    }
}

/// The run must not start, or the move must not begin.
pub(super) fn error(
    code: &'static str,
    what: impl Into<String>,
    remedy: impl Into<String>,
) -> Found {
    Found { code, severity: Severity::Error, what: what.into(), remedy: remedy.into() }
}

/// Something is at risk or will be slow.
pub(super) fn warning(
    code: &'static str,
    what: impl Into<String>,
    remedy: impl Into<String>,
) -> Found {
    Found { code, severity: Severity::Warning, what: what.into(), remedy: remedy.into() }
}

/// Worth knowing.
pub(super) fn info(
    code: &'static str,
    what: impl Into<String>,
    remedy: impl Into<String>,
) -> Found {
    Found { code, severity: Severity::Info, what: what.into(), remedy: remedy.into() }
}

/// `a, b, c`, or the first ten `and 3 more`.
pub(super) fn list<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}

/// `1 table`, `2 tables`.
pub(super) fn number(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// One statement per line.
pub(super) fn lines(statements: impl IntoIterator<Item = String>) -> String {
    statements.into_iter().collect::<Vec<_>>().join("\n")
}

/// Changes a server setting that is read at start.
pub(super) fn restart_with(name: &str, value: impl std::fmt::Display) -> String {
    format!("ALTER SYSTEM SET {name} = '{value}';\n-- then restart the server")
}

/// Changes a server setting that takes effect at once.
pub(super) fn reload_with(name: &str, value: impl std::fmt::Display) -> String {
    format!("ALTER SYSTEM SET {name} = '{value}';\nSELECT pg_reload_conf();")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(list(["a", "b"]), "a, b");
        assert_eq!(list(1..=12), "1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more");
        assert_eq!(number(1, "table"), "1 table");
        assert_eq!(number(0, "table"), "0 tables");
    }
}

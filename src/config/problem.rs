//! Mistakes in a configuration file: where, what, the line with a caret, and the remedy.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_saphyr::Location;

use super::raw::{SECTIONS, UNQUOTED};
use crate::error::{Exit, Explain, Failure};

/// Why a configuration cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {} cannot be read", .file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The file has mistakes; never empty.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Mistakes(Vec<Problem>),
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Code with a page.
    pub code: &'static str,
    /// The file.
    pub file: PathBuf,
    /// Line and column, from 1; `None` for a key that is missing.
    pub at: Option<(usize, usize)>,
    /// What is wrong. Never holds a password.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
    /// The line with a caret, unless it may hold a password.
    pub excerpt: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let place = match problem.at {
            Some((line, column)) => format!("{}:{line}:{column}", problem.file.display()),
            None => problem.file.display().to_string(),
        };
        Self {
            place: Some(place),
            excerpt: problem.excerpt,
            ..Self::new(problem.what).code(problem.code).remedy(problem.remedy).exit(Exit::Usage)
        }
    }
}

impl ConfigError {
    /// The first mistake with its place in the file, and with all others.
    #[must_use]
    pub fn failure(self) -> Failure {
        let Self::Mistakes(problems) = self else { return Failure::from(self) };
        let mut all = problems.into_iter().map(Failure::from);
        let first = all.next();
        let first = first
            .unwrap_or_else(|| Failure::new("the configuration cannot be used").exit(Exit::Usage));
        Failure { also: all.collect(), ..first }
    }

    /// A mistake that the YAML reader found.
    pub(super) fn yaml(file: &Path, text: &str, error: &serde_saphyr::Error) -> Self {
        let error = error.without_snippet();
        let location = error.location();
        let (code, what, remedy) = explain(error);
        let excerpt = location.and_then(|at| {
            // What stands behind an unknown key is not known to be harmless.
            excerpt(text, at, code == UNKNOWN_KEY)
        });
        Self::Mistakes(vec![Problem {
            code,
            file: file.to_path_buf(),
            at: location.map(place),
            what,
            remedy,
            excerpt,
        }])
    }
}

impl Explain for ConfigError {
    fn code(&self) -> Option<&str> {
        match self {
            Self::Unreadable { .. } => Some("CUT0001"),
            Self::Mistakes(problems) => problems.first().map(|p| p.code),
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Unreadable { .. } => Some(
                "name the file with `-c FILE`, or write one with `cutover init --blue DSN \
                 --green DSN`"
                    .to_owned(),
            ),
            Self::Mistakes(problems) => problems.first().map(|p| p.remedy.clone()),
        }
    }

    fn exit(&self) -> Exit {
        Exit::Usage
    }
}

const BAD_YAML: &str = "CUT0002";
const UNKNOWN_KEY: &str = "CUT0003";
/// A value that breaks a rule.
pub(super) const BAD_VALUE: &str = "CUT0004";

fn explain(error: &serde_saphyr::Error) -> (&'static str, String, String) {
    use serde_saphyr::Error as E;
    match error {
        E::SerdeUnknownField { field, expected, .. } => {
            (UNKNOWN_KEY, format!("the key `{field}` is not known here"), known(field, expected))
        }
        // The text may be an address with a password; a word is not.
        E::SerdeUnknownVariant { variant, expected, .. } if is_word(variant) => {
            (UNKNOWN_KEY, format!("`{variant}` is not known here"), known(variant, expected))
        }
        E::SerdeUnknownVariant { expected, .. } => {
            (UNKNOWN_KEY, "this is not known here".to_owned(), known("", expected))
        }
        E::SerdeInvalidType { unexpected, expected, .. }
        | E::SerdeInvalidValue { unexpected, expected, .. } => {
            let kind = unexpected.split_whitespace().next().unwrap_or("something else");
            let expected = friendly(expected);
            (BAD_VALUE, format!("expected {expected}, found {}", friendly(kind)), REFERENCE.into())
        }
        E::DuplicateMappingKey { key: Some(key), .. } => (
            BAD_YAML,
            format!("the key `{key}` stands here twice"),
            "keep one of the two".to_owned(),
        ),
        E::Message { msg, .. } if msg == UNQUOTED => {
            (BAD_VALUE, UNQUOTED.to_owned(), "write it in quotes".to_owned())
        }
        other => {
            let text = other.to_string();
            let first = text.lines().next().unwrap_or("this is no YAML");
            // The reader appends the place, which is shown anyway.
            let first = first.split(" at line ").next().unwrap_or(first);
            (BAD_YAML, first.trim_end_matches('.').to_owned(), REFERENCE.to_owned())
        }
    }
}

const REFERENCE: &str = "docs/CONFIG.md shows every key with its type and an example";

fn is_word(text: &str) -> bool {
    text.len() <= 40 && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// Names of Rust and YAML in words of the reference page.
fn friendly(kind: &str) -> &str {
    match kind {
        "map" | "a map" | "mapping" => "a mapping (`key: value` lines)",
        "sequence" | "a sequence" => "a list",
        "string" | "a string" => "a text",
        "integer" | "u64" => "a whole number",
        "floating" => "a number with a fraction",
        "boolean" | "a boolean" => "true or false",
        "unit" | "null" => "nothing",
        struct_name if struct_name.starts_with("struct ") => "a mapping (`key: value` lines)",
        other => other,
    }
}

/// The nearest known name, else all of them.
fn known(written: &str, expected: &[&'static str]) -> String {
    if let Some(near) = nearest(written, expected) {
        return format!("did you mean `{near}`?");
    }
    // A key of another mapping is often just indented wrongly.
    let elsewhere = SECTIONS.iter().find(|s| s.key(written).is_some() && !s.path.is_empty());
    let list = expected.iter().map(|e| format!("`{e}`")).collect::<Vec<_>>().join(", ");
    match elsewhere {
        Some(section) => format!("it belongs into `{}`; known here: {list}", section.path),
        None => format!("known here: {list}"),
    }
}

/// The candidate with the smallest edit distance, when it is near enough to be meant.
pub(super) fn nearest<'a>(written: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates
        .iter()
        .map(|c| (distance(&written.to_lowercase(), c), *c))
        .filter(|(d, c)| *d <= 1 + c.len() / 4 && *d < c.len())
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Edit distance with swaps of neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// Line and column, from 1.
pub(super) fn place(at: Location) -> (usize, usize) {
    (to_usize(at.line()), to_usize(at.column()))
}

/// The line with a caret below; `None` when it may hold a password. `only_to_caret` cuts the line
/// behind the marked text.
pub(super) fn excerpt(text: &str, at: Location, only_to_caret: bool) -> Option<String> {
    let (line, column) = place(at);
    let source = text.lines().nth(line.checked_sub(1)?)?;
    if may_hold_secret(source) {
        return None;
    }
    let chars: Vec<char> = source.chars().collect();
    let start = column.checked_sub(1)?.min(chars.len());
    // Tabs stay tabs, so that the caret stands below its place.
    let margin: String =
        chars[..start].iter().map(|c| if *c == '\t' { '\t' } else { ' ' }).collect();
    let marked = to_usize(at.span().len()).clamp(1, (chars.len() - start).max(1));
    let shown: String = if only_to_caret {
        chars[..(start + marked).min(chars.len())].iter().collect::<String>() + " …"
    } else {
        source.trim_end().to_owned()
    };
    let number = line.to_string();
    let gutter = " ".repeat(number.len());
    Some(format!("{gutter} |\n{number} | {shown}\n{gutter} | {margin}{}", "^".repeat(marked)))
}

fn may_hold_secret(line: &str) -> bool {
    let lower = line.to_lowercase();
    let in_address = lower
        .split_once("://")
        .and_then(|(_, rest)| rest.rsplit_once('@'))
        .is_some_and(|(credentials, _)| credentials.contains(':'));
    in_address
        || ["password", "secret", "token", "passwd"].iter().any(|word| {
            lower.split_once(word).is_some_and(|(_, after)| {
                // `{env: NAME}` and `{file: PATH}` are names of secrets, not secrets.
                let value = after.trim_start_matches([':', '"', '\'', ' ']);
                !value.starts_with("{env:") && !value.starts_with("{file:") && !value.is_empty()
            })
        })
}

fn to_usize(n: impl TryInto<usize>) -> usize {
    n.try_into().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names() {
        let keys = ["include", "exclude", "url", "password", "pause_budget"];
        for (written, want) in [
            ("includes", Some("include")),
            ("exlcude", Some("exclude")),
            ("pasword", Some("password")),
            ("URL", Some("url")),
            ("pause-budget", Some("pause_budget")),
            ("workers", None),
            ("x", None),
        ] {
            assert_eq!(nearest(written, &keys), want, "{written}");
        }
    }

    #[test]
    fn lines_with_secrets_are_recognised() {
        for (line, want) in [
            ("blue: { url: postgres://u:pw@h/d }", true),
            ("  password: hunter2", true),
            ("  password: {env: BLUE}", false),
            ("  \"password\": {file: /x}", false),
            ("  password:", false),
            ("  url: postgres://u@h:5432/d", false),
            ("run: shop", false),
        ] {
            assert_eq!(may_hold_secret(line), want, "{line}");
        }
    }
}

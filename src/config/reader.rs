//! Reads single values of the file: environment variables put in, defaults, units; collects what is
//! wrong instead of stopping at the first mistake.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_saphyr::Spanned;

use super::{
    Environment,
    keys::Given,
    problem::{BAD_VALUE, Problem, excerpt, place},
    raw::{self, SECTIONS, Text},
    units,
};

/// Reads values, substitutes, and collects what is wrong.
pub(super) struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    pub(super) environment: Environment<'a>,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str, environment: Environment<'a>) -> Self {
        Self { file, text, environment, problems: Vec::new() }
    }

    pub(super) fn flag<S>(
        &mut self,
        path: &str,
        field: impl Fn(&S) -> &Option<Spanned<bool>>,
        section: &Option<S>,
    ) -> bool {
        section
            .as_ref()
            .and_then(|s| field(s).as_ref())
            .map_or_else(|| default_of(path) == "true", |flag| flag.value)
    }

    pub(super) fn duration(
        &mut self,
        path: &str,
        raw: Option<&Text>,
        allowed: RangeInclusive<Duration>,
    ) -> Duration {
        let text = raw.and_then(|t| self.text(path, t));
        let given = units::parse_duration(text.as_deref().unwrap_or_else(|| default_of(path)));
        match given {
            Some(d) if allowed.contains(&d) => d,
            Some(_) => {
                let remedy = format!(
                    "use {} to {}",
                    units::format_duration(*allowed.start()),
                    units::format_duration(*allowed.end())
                );
                self.refuse(path, raw, "is out of bounds", &remedy);
                *allowed.start()
            }
            None => {
                self.refuse(
                    path,
                    raw,
                    "is no duration",
                    "write a whole number with ms, s, m, h or d, for example 250ms",
                );
                *allowed.start()
            }
        }
    }

    pub(super) fn size(
        &mut self,
        path: &str,
        raw: Option<&Text>,
        default: Option<&str>,
        allowed: RangeInclusive<u64>,
    ) -> u64 {
        let text = raw.and_then(|t| self.text(path, t)).or_else(|| default.map(str::to_owned));
        match text.as_deref().and_then(|t| units::parse_size(t.trim_end_matches("/s"))) {
            Some(n) if allowed.contains(&n) => n,
            Some(_) => {
                let remedy = format!(
                    "use {} to {}",
                    units::format_size(*allowed.start()),
                    units::format_size(*allowed.end())
                );
                self.refuse(path, raw, "is out of bounds", &remedy);
                *allowed.start()
            }
            None => {
                self.refuse(
                    path,
                    raw,
                    "is no size",
                    "write a whole number with B, KiB, MiB, GiB or TiB, for example 16MiB",
                );
                *allowed.start()
            }
        }
    }

    pub(super) fn texts(&mut self, path: &str, list: Option<&Vec<Text>>) -> Vec<String> {
        let list = list.map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|t| self.text(path, t)).collect()
    }

    pub(super) fn names(
        &mut self,
        path: &str,
        raw: Option<&Spanned<raw::Names>>,
    ) -> Option<Vec<String>> {
        let Some(raw) = raw else {
            self.missing(path);
            return None;
        };
        let names: Vec<String> =
            raw.value.0.iter().filter_map(|name| self.substitute(path, raw, name)).collect();
        if names.is_empty() || names.iter().any(|name| name.trim().is_empty()) {
            self.problem(
                BAD_VALUE,
                Some(raw),
                format!("{path} names nothing"),
                "give it a name or a list of names",
            );
            return None;
        }
        Some(names)
    }

    pub(super) fn required(&mut self, path: &str, raw: Option<&Text>) -> Option<String> {
        let Some(raw) = raw else {
            self.missing(path);
            return None;
        };
        let text = self.text(path, raw)?;
        if text.trim().is_empty() {
            self.refuse(path, Some(raw), "is empty", "give it a value");
            return None;
        }
        Some(text)
    }

    /// A path of the file: relative ones start at the file's folder.
    pub(super) fn path(&self, text: &str) -> PathBuf {
        let folder = self.file.parent().filter(|p| !p.as_os_str().is_empty());
        folder.unwrap_or(Path::new(".")).join(text.strip_prefix("./").unwrap_or(text))
    }

    pub(super) fn text(&mut self, path: &str, raw: &Text) -> Option<String> {
        self.substitute(path, raw, &raw.value)
    }

    /// Replaces `${NAME}`; `$${` is a literal `${`.
    pub(super) fn substitute<T>(
        &mut self,
        path: &str,
        at: &Spanned<T>,
        text: &str,
    ) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            if let Some(before) = rest[..start].strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = &rest[start + 2..];
                continue;
            }
            out.push_str(&rest[..start]);
            let Some(end) = rest[start..].find('}') else {
                self.problem(
                    BAD_VALUE,
                    Some(at),
                    format!("{path} has a `${{` without a `}}`"),
                    "write ${NAME}, or $${ for these two characters",
                );
                return None;
            };
            let name = &rest[start + 2..start + end];
            match (self.environment)(name) {
                Some(value) => out.push_str(&value),
                None => {
                    self.unset(path, at, name);
                    return None;
                }
            }
            rest = &rest[start + end + 1..];
        }
        out.push_str(rest);
        Some(out)
    }

    pub(super) fn unset<T>(&mut self, path: &str, at: &Spanned<T>, name: &str) {
        self.problem(
            "CUT0005",
            Some(at),
            format!("{path} needs the environment variable `{name}`, which is not set"),
            &format!("export {name} before the command, or write the value in another way"),
        );
    }

    pub(super) fn missing(&mut self, path: &str) {
        let remedy = format!("add it, or write a new file with `cutover init`; {SEE}");
        self.problem::<()>(BAD_VALUE, None, format!("`{path}` is missing"), &remedy);
    }

    /// Refuses a value. The value is not repeated: the excerpt shows it where that is safe.
    pub(super) fn refuse(&mut self, path: &str, at: Option<&Text>, what: &str, remedy: &str) {
        self.problem(BAD_VALUE, at, format!("{path} {what}"), remedy);
    }

    pub(super) fn problem<T>(
        &mut self,
        code: &'static str,
        at: Option<&Spanned<T>>,
        what: String,
        remedy: &str,
    ) {
        let location = at.map(|at| at.referenced);
        self.problems.push(Problem {
            code,
            file: self.file.to_path_buf(),
            at: location.map(place),
            what,
            remedy: remedy.to_owned(),
            excerpt: location.and_then(|at| excerpt(self.text, at, false)),
        });
    }
}

/// The default of a key as it would be written. `path` is dotted.
pub(super) fn default_of(path: &str) -> &'static str {
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let key = SECTIONS.iter().find(|s| s.path == section).and_then(|s| s.key(name));
    match key.map(|k| k.given) {
        Some(Given::Default(value)) => value,
        _ => unreachable!("{path} is read with a default and defines none"),
    }
}

const SEE: &str = "docs/CONFIG.md has an example";

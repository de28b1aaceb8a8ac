//! PgBouncer's ini file as PgBouncer reads it, and the smallest change that moves an entry.
//!
//! Works on bytes: whatever is not the host, port or dbname of our entries stays as it is. No I/O.

use std::ops::Range;

use super::target::Target;

/// Why a file cannot be changed safely.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum IniError {
    /// PgBouncer itself would not read it.
    #[error("line {line}: {what}")]
    Syntax { line: usize, what: &'static str },
    /// The entry is not in this file.
    #[error("[databases] has no entry {name:?}{also}")]
    Missing { name: String, also: String },
    /// The entry is there more than once; PgBouncer takes the last, readers rarely do.
    #[error("[databases] has {count} entries {name:?}")]
    Twice { name: String, count: usize },
}

/// One thing in the file, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Section(Vec<u8>),
    Include(String),
    Pair { name: Vec<u8>, value: Range<usize> },
}

/// An entry of `[databases]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// What clients ask for, unquoted.
    pub(super) name: String,
    /// Where PgBouncer connects; `None` is the default Unix socket.
    pub(super) host: Option<String>,
    /// 5432 when not given.
    pub(super) port: u16,
    /// The name of the entry when not given.
    pub(super) dbname: String,
    value: Range<usize>,
}

/// What a file says about databases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Databases {
    /// In the order of the file; the wildcard is not among them.
    pub(super) entries: Vec<Entry>,
    /// Whether there is a `*` entry.
    pub(super) wildcard: bool,
    /// Files named by `%include`, anywhere in the file.
    pub(super) includes: Vec<String>,
}

impl Databases {
    /// The one entry of that name.
    pub(super) fn only(&self, name: &str) -> Result<&Entry, IniError> {
        let found: Vec<&Entry> = self.entries.iter().filter(|e| e.name == name).collect();
        match found[..] {
            [one] => Ok(one),
            [] => Err(IniError::Missing {
                name: name.to_owned(),
                also: match (self.wildcard, self.includes.is_empty()) {
                    (true, _) => " of its own; only the wildcard `*` covers it".to_owned(),
                    (false, false) => {
                        format!("; it may be in an included file: {}", self.includes.join(", "))
                    }
                    (false, true) => String::new(),
                },
            }),
            _ => Err(IniError::Twice { name: name.to_owned(), count: found.len() }),
        }
    }
}

/// Reads the `[databases]` section. Lines before any section count as well: a file that is
/// included inside the section has no header of its own.
pub(super) fn databases(text: &[u8]) -> Result<Databases, IniError> {
    let mut found = Databases::default();
    let mut inside = true;
    for item in scan(text)? {
        match item {
            Item::Section(name) => inside = name == b"databases",
            Item::Include(path) => found.includes.push(path),
            Item::Pair { name, .. } if inside && name == b"*" => found.wildcard = true,
            Item::Pair { name, value } if inside => {
                let line = line_of(text, value.start);
                found.entries.push(entry(text, &name, value, line)?);
            }
            Item::Pair { .. } => {}
        }
    }
    Ok(found)
}

/// The file with every named entry leading to `target`; the same bytes when they do already.
pub(super) fn pointed_at(
    text: &[u8],
    names: &[String],
    target: &Target,
) -> Result<Vec<u8>, IniError> {
    let found = databases(text)?;
    let mut edits: Vec<(Range<usize>, Vec<u8>)> = Vec::new();
    for name in names {
        let entry = found.only(name)?;
        let pairs = connection(&text[entry.value.clone()])
            .map_err(|what| IniError::Syntax { line: line_of(text, entry.value.start), what })?;
        let mut missing = Vec::new();
        let wanted = [
            ("host", target.host.clone(), entry.host.as_deref() == Some(&*target.host)),
            ("port", target.port.to_string(), entry.port == target.port),
            ("dbname", target.dbname.clone(), entry.dbname == target.dbname),
        ];
        for (key, value, already) in wanted {
            if already {
                continue;
            }
            let places: Vec<&Pair> = pairs.iter().filter(|p| p.key == key.as_bytes()).collect();
            if places.is_empty() {
                missing.push(format!("{key}={}", quoted(&value)));
            }
            for place in places {
                let start = entry.value.start;
                edits.push((
                    start + place.span.start..start + place.span.end,
                    quoted(&value).into_bytes(),
                ));
            }
        }
        if !missing.is_empty() {
            let end = entry.value.end;
            let gap = if entry.value.is_empty() { "" } else { " " };
            edits.push((end..end, format!("{gap}{}", missing.join(" ")).into_bytes()));
        }
    }
    // From the back, so that earlier ranges stay true.
    edits.sort_by_key(|(range, _)| std::cmp::Reverse((range.start, range.end)));
    let mut out = text.to_vec();
    for (range, bytes) in edits {
        out.splice(range, bytes);
    }
    Ok(out)
}

/// An entry that leads nowhere and that nobody uses, to see whether PgBouncer reads a file.
pub(super) const PROBE: &str = "cutover_probe";

/// Its line, and the end of the line before.
const PROBE_LINE: &[u8] = b"\ncutover_probe = host=127.0.0.1 port=1 dbname=none";

/// The file with that entry behind the one of `name`.
pub(super) fn with_probe(text: &[u8], name: &str) -> Result<Vec<u8>, IniError> {
    let end = databases(text)?.only(name)?.value.end;
    let mut out = text.to_vec();
    out.splice(end..end, PROBE_LINE.iter().copied());
    Ok(out)
}

/// The file without it.
pub(super) fn without_probe(text: &[u8]) -> Vec<u8> {
    match text.windows(PROBE_LINE.len()).position(|bytes| bytes == PROBE_LINE) {
        Some(at) => [&text[..at], &text[at + PROBE_LINE.len()..]].concat(),
        None => text.to_vec(),
    }
}

fn entry(text: &[u8], name: &[u8], value: Range<usize>, line: usize) -> Result<Entry, IniError> {
    let name = String::from_utf8_lossy(name).into_owned();
    let mut one = Entry { dbname: name.clone(), name, host: None, port: 5432, value };
    let pairs =
        connection(&text[one.value.clone()]).map_err(|what| IniError::Syntax { line, what })?;
    for pair in pairs {
        let word = String::from_utf8_lossy(&pair.value).into_owned();
        match &pair.key[..] {
            b"host" => one.host = Some(word),
            b"dbname" => one.dbname = word,
            b"port" => {
                one.port = word
                    .parse()
                    .map_err(|_| IniError::Syntax { line, what: "the port is not a number" })?;
            }
            _ => {}
        }
    }
    Ok(one)
}

/// Follows PgBouncer's own reader: sections, `%include`, comments at the start of a line only,
/// values to the end of the line.
fn scan(text: &[u8]) -> Result<Vec<Item>, IniError> {
    let mut items = Vec::new();
    let mut at = 0;
    loop {
        at += run(&text[at..], is_space);
        let rest = &text[at..];
        let Some(&first) = rest.first() else { return Ok(items) };
        let bad = |what| IniError::Syntax { line: line_of(text, at), what };
        if let Some(path) = rest.strip_prefix(b"%include")
            && path.first().is_some_and(|&b| is_blank(b))
        {
            let line = run(path, |b| b != b'\n');
            items.push(Item::Include(
                String::from_utf8_lossy(path[..line].trim_ascii()).into_owned(),
            ));
            at += b"%include".len() + line;
        } else if first == b'#' || first == b';' {
            at += run(rest, |b| b != b'\n');
        } else if first == b'[' {
            let end = run(rest, |b| b != b']' && b != b'\n');
            if rest.get(end) != Some(&b']') {
                return Err(bad("a section without `]`"));
            }
            items.push(Item::Section(rest[1..end].to_vec()));
            at += end + 1;
        } else {
            let (name, length) = key(rest).map_err(bad)?;
            let mut here = at + length;
            here += run(&text[here..], is_blank);
            if text.get(here) != Some(&b'=') {
                return Err(bad("neither a section nor `name = value`"));
            }
            here += 1;
            here += run(&text[here..], is_blank);
            let mut end = here + run(&text[here..], |b| b != b'\n');
            at = end;
            while end > here && is_space(text[end - 1]) {
                end -= 1;
            }
            items.push(Item::Pair { name, value: here..end });
        }
    }
}

/// A name, plain or in double quotes, and its length in the file.
fn key(rest: &[u8]) -> Result<(Vec<u8>, usize), &'static str> {
    if rest[0] != b'"' {
        let length = run(rest, |b| b.is_ascii_alphanumeric() || b"_.-*".contains(&b));
        return Ok((rest[..length].to_vec(), length));
    }
    let mut name = Vec::new();
    let mut at = 1;
    loop {
        match (rest.get(at), rest.get(at + 1)) {
            (Some(b'"'), Some(b'"')) => {
                name.push(b'"');
                at += 2;
            }
            (Some(b'"'), _) => return Ok((name, at + 1)),
            (None | Some(b'\n'), _) => return Err("a quoted name without its end"),
            (Some(&byte), _) => {
                name.push(byte);
                at += 1;
            }
        }
    }
}

/// One `key=value` of a connection string; `span` is where the value stands, quotes included.
struct Pair {
    key: Vec<u8>,
    value: Vec<u8>,
    span: Range<usize>,
}

fn connection(text: &[u8]) -> Result<Vec<Pair>, &'static str> {
    let mut pairs = Vec::new();
    let mut at = 0;
    loop {
        at += run(&text[at..], |b| b == b' ');
        if at == text.len() {
            return Ok(pairs);
        }
        let length = run(&text[at..], |b| b != b'=' && b != b' ');
        let key = text[at..at + length].to_vec();
        at += length;
        at += run(&text[at..], |b| b == b' ');
        if key.is_empty() || text.get(at) != Some(&b'=') {
            return Err("a connection string that is not `key=value key=value`");
        }
        at += 1;
        at += run(&text[at..], |b| b == b' ');
        let start = at;
        let mut value = Vec::new();
        if text.get(at) == Some(&b'\'') {
            at += 1;
            loop {
                match (text.get(at), text.get(at + 1)) {
                    (Some(b'\''), Some(b'\'')) => {
                        value.push(b'\'');
                        at += 2;
                    }
                    (Some(b'\''), _) => break,
                    (None, _) => return Err("a quoted value without its end"),
                    (Some(&byte), _) => {
                        value.push(byte);
                        at += 1;
                    }
                }
            }
            at += 1;
        } else {
            let length = run(&text[at..], |b| b != b' ');
            value.extend_from_slice(&text[at..at + length]);
            at += length;
        }
        if value.is_empty() {
            return Err("an empty value in a connection string");
        }
        pairs.push(Pair { key, value, span: start..at });
    }
}

fn quoted(value: &str) -> String {
    if value.contains([' ', '\'']) {
        format!("'{}'", value.replace('\'', "''"))
    } else {
        value.to_owned()
    }
}

fn run(text: &[u8], wanted: impl Fn(u8) -> bool) -> usize {
    text.iter().position(|&b| !wanted(b)).unwrap_or(text.len())
}

fn line_of(text: &[u8], at: usize) -> usize {
    1 + text[..at].iter().filter(|&&b| b == b'\n').count()
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// C's `isspace`, which also knows the vertical tab.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

#[cfg(test)]
mod tests {
    use super::*;

    fn green() -> Target {
        Target { host: "10.0.0.2".into(), port: 6000, dbname: "shop".into() }
    }

    fn leads_to(text: &[u8], name: &str, target: &Target) -> bool {
        let found = databases(text).unwrap();
        let entry = found.only(name).unwrap();
        (entry.host.as_deref(), entry.port, &entry.dbname)
            == (Some(&*target.host), target.port, &target.dbname)
    }

    #[track_caller]
    fn moves(before: &str, after: &str) {
        let names = ["shop".to_owned()];
        let moved = pointed_at(before.as_bytes(), &names, &green()).unwrap();
        assert_eq!(String::from_utf8(moved.clone()).unwrap(), after);
        assert_eq!(pointed_at(&moved, &names, &green()).unwrap(), moved, "twice is as once");
        assert!(leads_to(&moved, "shop", &green()));
    }

    #[test]
    fn only_the_entry_changes() {
        moves(
            "; ours\n[databases]\n# the shop\nshop =  host=10.0.0.1 port=5432  dbname=shop pool_size=7\n\
             other = host=10.0.0.1 port=5432\n[pgbouncer]\nshop = 1\n",
            "; ours\n[databases]\n# the shop\nshop =  host=10.0.0.2 port=6000  dbname=shop pool_size=7\n\
             other = host=10.0.0.1 port=5432\n[pgbouncer]\nshop = 1\n",
        );
    }

    #[test]
    fn a_trailing_comment_is_no_comment_to_pgbouncer() {
        let text = b"[databases]\nshop = host=a ; here\n";
        assert_eq!(
            databases(text),
            Err(IniError::Syntax {
                line: 2,
                what: "a connection string that is not `key=value key=value`"
            })
        );
    }

    #[test]
    fn what_is_missing_is_added_and_what_is_quoted_stays_readable() {
        moves("[databases]\nshop =\n", "[databases]\nshop =host=10.0.0.2 port=6000\n");
        moves("[databases]\nshop = user=a", "[databases]\nshop = user=a host=10.0.0.2 port=6000");
        moves(
            "[databases]\r\nshop = host='a b' port = '1' password='x''host=y' dbname=old\r\n",
            "[databases]\r\nshop = host=10.0.0.2 port = 6000 password='x''host=y' dbname=shop\r\n",
        );
        moves(
            "[databases]\n\"shop\"=host=h1,h2 port=6000 connect_query='set a = ''b'''\n",
            "[databases]\n\"shop\"=host=10.0.0.2 port=6000 connect_query='set a = ''b'''\n",
        );
    }

    #[test]
    fn several_entries_move_together() {
        let text =
            b"[databases]\na = host=x dbname=shop\nb = host=x port=1 dbname=shop\nc = host=x\n";
        let moved = pointed_at(text, &["b".into(), "a".into()], &green()).unwrap();
        assert_eq!(
            String::from_utf8(moved).unwrap(),
            "[databases]\na = host=10.0.0.2 dbname=shop port=6000\n\
             b = host=10.0.0.2 port=6000 dbname=shop\nc = host=x\n"
        );
    }

    #[test]
    fn awkward_targets_are_quoted() {
        let odd = Target { host: "h".into(), port: 1, dbname: "it's a db".into() };
        let moved = pointed_at(b"[databases]\ns=host=h port=1\n", &["s".into()], &odd).unwrap();
        assert_eq!(
            String::from_utf8(moved.clone()).unwrap(),
            "[databases]\ns=host=h port=1 dbname='it''s a db'\n"
        );
        assert!(leads_to(&moved, "s", &odd));
    }

    #[test]
    fn what_cannot_be_changed_safely_is_refused() {
        for (text, want) in [
            ("[databases]\nother = host=a\n", "[databases] has no entry \"shop\""),
            (
                "[databases]\n* = host=a\n",
                "[databases] has no entry \"shop\" of its own; only the wildcard `*` covers it",
            ),
            (
                "%include /etc/more.ini \n[databases]\n",
                "[databases] has no entry \"shop\"; it may be in an included file: /etc/more.ini",
            ),
            ("[databases]\nshop=host=a\nshop=host=b\n", "[databases] has 2 entries \"shop\""),
            ("[databases\nshop=host=a\n", "line 1: a section without `]`"),
            ("[databases]\nshop host=a\n", "line 2: neither a section nor `name = value`"),
            ("[databases]\nshop=host='a\n", "line 2: a quoted value without its end"),
            ("[databases]\n\"shop=host=a\n", "line 2: a quoted name without its end"),
            ("[databases]\nshop=host=a port=x\n", "line 2: the port is not a number"),
            ("[databases]\nshop=port=1 host=\n", "line 2: an empty value in a connection string"),
        ] {
            let error = pointed_at(text.as_bytes(), &["shop".into()], &green()).unwrap_err();
            assert!(error.to_string().starts_with(want), "{text:?}: {error}");
        }
    }

    #[test]
    fn an_included_file_needs_no_header() {
        let found = databases(b"shop = host=/run/pg\n").unwrap();
        let entry = found.only("shop").unwrap();
        assert_eq!(
            (entry.host.as_deref(), entry.port, &*entry.dbname),
            (Some("/run/pg"), 5432, "shop")
        );
    }

    #[test]
    fn bytes_that_are_no_text_survive() {
        let text = b"; caf\xe9\n[databases]\nshop = host=a dbname=shop port=6000\n";
        let moved = pointed_at(text, &["shop".into()], &green()).unwrap();
        assert!(moved.starts_with(b"; caf\xe9\n"));
    }
}

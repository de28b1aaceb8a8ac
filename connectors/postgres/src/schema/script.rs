//! The script that `pg_dump` writes, as entries. Pure.

use std::borrow::Cow;

use cutover_core::model::schema::TableName;

/// One half of the definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    /// What must exist before rows.
    PreData,
    /// Indexes, constraints, triggers and what else is better made after them.
    PostData,
}

impl Section {
    /// As `pg_dump` calls it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::PreData => "pre-data",
            Self::PostData => "post-data",
        }
    }
}

/// One thing to create, with the statements that belong to it (owner, for example).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// `TABLE`, `FK CONSTRAINT` and so on.
    pub(super) kind: String,
    /// Unquoted; for things on a table `table name`.
    pub(super) name: String,
    /// Unquoted; `-` for things outside of any schema.
    pub(super) schema: String,
    /// Unquoted; empty for what has none.
    pub(super) owner: String,
    /// SQL, ends with a line break.
    pub(super) text: String,
}

impl Entry {
    /// The kind of a constraint that takes over an index of its own name (`index`); none of
    /// `pg_dump`'s.
    pub(super) const BY_INDEX: &'static str = "CONSTRAINT BY INDEX";

    /// Names the entry in messages.
    pub(super) fn label(&self) -> String {
        match self.in_schema() {
            Some(schema) => format!("{} {schema}.{}", self.kind.to_lowercase(), self.name),
            None => format!("{} {}", self.kind.to_lowercase(), self.name),
        }
    }

    /// Key of the mark that it is done: readable, and another text is another entry.
    pub(super) fn mark(&self, section: Section) -> String {
        format!("{} {} {}", section.word(), self.label(), digest(&self.text))
    }

    /// Its schema; the schema itself for what is about a schema.
    pub(super) fn in_schema(&self) -> Option<&str> {
        if self.schema != "-" {
            return Some(&self.schema);
        }
        match self.kind.as_str() {
            "SCHEMA" => Some(&self.name),
            "ACL" | "COMMENT" => self.name.strip_prefix("SCHEMA "),
            _ => None,
        }
    }

    /// Whether it belongs on the other side: not the triggers of a run, and not the comments of
    /// extensions, which only their owner may write and which come with them. Schemas are made
    /// before, because those that exist must not be an error.
    pub(super) fn travels(&self) -> bool {
        let fence = self.kind == "TRIGGER"
            && self
                .name
                .rsplit(' ')
                .next()
                .is_some_and(|t| t.starts_with("cutover_") && t.ends_with("_fence"));
        let event = self.kind == "EVENT TRIGGER" && self.name.starts_with("cutover_");
        let comment = self.kind == "COMMENT" && self.name.starts_with("EXTENSION ");
        !fence && !event && !comment
    }

    /// The same without acting as others who gave rights: the owner gives them.
    pub(super) fn given_by_owner(mut self) -> Self {
        let acts = |line: &str| {
            line.starts_with("SET SESSION AUTHORIZATION ") || line == "RESET SESSION AUTHORIZATION;"
        };
        if self.kind == "ACL" && self.text.split_terminator('\n').any(acts) {
            let own = self.text.split_terminator('\n').filter(|line| !acts(line));
            self.text = own.flat_map(|line| [line, "\n"]).collect();
        }
        self
    }

    /// Whether it makes a partition, or the index of one, a part of what it belongs to.
    pub(super) fn is_attachment(&self) -> bool {
        matches!(self.kind.as_str(), "TABLE ATTACH" | "INDEX ATTACH")
    }

    /// What an attachment makes it a part of.
    pub(super) fn is_part_of(&self) -> Option<TableName> {
        self.text.lines().find_map(|line| {
            let rest = line
                .strip_prefix("ALTER TABLE ONLY ")
                .or_else(|| line.strip_prefix("ALTER INDEX "))?;
            let (schema, rest) = identifier(rest)?;
            let (name, rest) = identifier(rest.strip_prefix('.')?)?;
            rest.starts_with(" ATTACH PARTITION ").then(|| TableName::new(&schema, &name))
        })
    }

    /// Whether it makes the table or the index of this name.
    pub(super) fn makes(&self, relation: &TableName) -> bool {
        self.schema == relation.schema
            && match self.kind.as_str() {
                "TABLE" | "INDEX" => self.name == relation.name,
                // On a table, whose name comes first.
                "CONSTRAINT" => {
                    self.name.strip_suffix(&relation.name).is_some_and(|table| table.ends_with(' '))
                }
                _ => false,
            }
    }

    /// Whether it makes the materialized view of this name.
    pub(super) fn makes_view(&self, view: &TableName) -> bool {
        self.kind == "MATERIALIZED VIEW" && self.schema == view.schema && self.name == view.name
    }

    /// Whether it takes long and may be made beside others of its kind.
    pub(super) fn is_heavy(&self) -> bool {
        matches!(self.kind.as_str(), "INDEX" | "CONSTRAINT")
    }

    /// Whether it looks like one that forbids two rows of a table to be there together.
    pub(super) fn may_forbid(&self) -> bool {
        let words = ["UNIQUE", "EXCLUDE", "PRIMARY KEY"];
        self.is_heavy() && words.iter().any(|word| self.text.contains(word))
    }

    /// Whether it compares rows of two tables.
    pub(super) fn is_foreign_key(&self) -> bool {
        self.kind == "FK CONSTRAINT"
    }

    /// Whether `schemas` makes it.
    pub(super) fn is_schema(&self) -> bool {
        self.kind == "SCHEMA"
    }
}

/// FNV-1a: any stable hash does.
pub(super) fn digest(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Splits a script at the headings that `pg_dump` writes before each entry:
///
/// ```text
/// --
/// -- Name: users; Type: TABLE; Schema: public; Owner: app
/// --
/// ```
///
/// What stands before the first one are settings, which our sessions have pinned already.
pub(super) fn entries(script: &str) -> Vec<Entry> {
    // Not `lines`: a carriage return at the end of one is part of somebody's text.
    let lines: Vec<&str> = script.strip_suffix('\n').unwrap_or(script).split('\n').collect();
    let mut entries: Vec<Entry> = Vec::new();
    // Settings between two entries are for all that follow.
    let mut settings: Option<&str> = None;
    let mut body: Vec<&str> = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let heading = match lines.get(at..at + 3) {
            Some(["--", heading, "--"]) => heading,
            _ => {
                body.push(lines[at]);
                at += 1;
                continue;
            }
        };
        let next = heading_of(heading);
        let end = *heading == "-- PostgreSQL database dump complete";
        if next.is_none() && !end {
            body.push(lines[at]);
            at += 1;
            continue;
        }
        close(&mut entries, &mut body, &mut settings);
        if end {
            return entries;
        }
        entries.extend(next);
        at += 3;
    }
    close(&mut entries, &mut body, &mut settings);
    entries
}

/// Gives the lines gathered so far to the last entry, but for settings at their end.
fn close<'a>(entries: &mut [Entry], body: &mut Vec<&'a str>, settings: &mut Option<&'a str>) {
    let head = *settings;
    while let Some(last) = body.last() {
        if last.is_empty() {
            body.pop();
        } else if last.starts_with("SET default_table_access_method = ") && last.ends_with(';') {
            *settings = body.pop();
        } else if last.starts_with("SET default_tablespace = ") && last.ends_with(';') {
            body.pop();
        } else {
            break;
        }
    }
    if let Some(entry) = entries.last_mut() {
        let skip = body.iter().take_while(|l| l.is_empty()).count();
        let lines = head.into_iter().chain(body.iter().skip(skip).copied());
        let columns = matches!(entry.kind.as_str(), "TABLE" | "FOREIGN TABLE");
        entry.text = lines
            .filter_map(|l| if columns { without_versions(l) } else { Some(Cow::Borrowed(l)) })
            .flat_map(|l| [l, Cow::Borrowed("\n")])
            .collect();
    }
    body.clear();
}

/// Servers from 17.12 (and its sisters) on keep a number of their own among the options of a
/// column. Their `pg_dump` leaves it out; one of an older minor release writes it down, and other
/// servers refuse it. `None` when nothing is left of the line.
fn without_versions(line: &str) -> Option<Cow<'_, str>> {
    const OPTION: &str = "pg_attver=";
    let options = line
        .strip_prefix("ALTER ")
        .filter(|l| l.contains(" ALTER COLUMN "))
        .and_then(|l| l.strip_suffix(");"))
        .and_then(|l| l.rsplit_once(" SET ("))
        .map(|(_, options)| options);
    let Some(options) = options.filter(|o| o.contains(OPTION)) else {
        return Some(Cow::Borrowed(line));
    };
    let rest: Vec<&str> = options.split(", ").filter(|o| !o.starts_with(OPTION)).collect();
    if rest.is_empty() {
        return None;
    }
    let head = &line[..line.len() - options.len() - 2];
    Some(Cow::Owned(format!("{head}{});", rest.join(", "))))
}

/// The identifier that a text begins with, without its quotes, and what follows.
fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find(['.', ' '])?;
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    loop {
        let (part, behind) = rest.split_once('"')?;
        name.push_str(part);
        match behind.strip_prefix('"') {
            Some(more) => rest = more,
            None => return Some((name, behind)),
        }
        name.push('"');
    }
}

fn heading_of(line: &str) -> Option<Entry> {
    let rest = line.strip_prefix("-- Name: ")?;
    // From the right: names may hold anything but a line break.
    let (rest, owner) = rest.rsplit_once("; Owner: ")?;
    // A table space may follow.
    let owner = owner.split_once("; ").map_or(owner, |(owner, _)| owner);
    let (rest, schema) = rest.rsplit_once("; Schema: ")?;
    let (name, kind) = rest.rsplit_once("; Type: ")?;
    Some(Entry {
        kind: kind.to_owned(),
        name: name.to_owned(),
        schema: schema.to_owned(),
        owner: owner.to_owned(),
        text: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_server_among_column_options_stay_behind() {
        let line = "ALTER TABLE ONLY public.\"a b\" ALTER COLUMN \"c (x\" SET (pg_attver=266);";
        assert_eq!(without_versions(line), None);
        let line = "ALTER TABLE ONLY s.t ALTER COLUMN c SET (n_distinct=5, pg_attver=266);";
        let left = "ALTER TABLE ONLY s.t ALTER COLUMN c SET (n_distinct=5);";
        assert_eq!(without_versions(line).as_deref(), Some(left));
        for line in [left, "CREATE TABLE s.t (", "    c text DEFAULT 'pg_attver=1);'::text"] {
            assert_eq!(without_versions(line).as_deref(), Some(line));
        }
        let script = "--\n-- Name: t; Type: TABLE; Schema: s; Owner: a\n--\n\nCREATE TABLE s.t (\n    \
                      c int\n);\nALTER TABLE ONLY s.t ALTER COLUMN c SET (pg_attver=1);\n";
        assert_eq!(entries(script)[0].text, "CREATE TABLE s.t (\n    c int\n);\n");
    }

    #[test]
    fn what_an_attachment_is_about() {
        let entry = |kind: &str, name: &str, text: &str| Entry {
            kind: kind.into(),
            name: name.into(),
            schema: "s".into(),
            owner: "app".into(),
            text: text.into(),
        };
        for (text, want) in [
            ("SET x = y;\nALTER TABLE ONLY s.p ATTACH PARTITION s.q DEFAULT;\n", Some("p")),
            ("ALTER INDEX s.\"a.b \"\"c\" ATTACH PARTITION s.q;\n", Some("a.b \"c")),
            ("ALTER TABLE ONLY s.p REPLICA IDENTITY FULL;\n", None),
        ] {
            let above = entry("TABLE ATTACH", "q", text).is_part_of();
            assert_eq!(above, want.map(|name| TableName::new("s", name)), "{text}");
        }
        let index = TableName::new("s", "t_pkey");
        assert!(entry("CONSTRAINT", "t t_pkey", "").makes(&index));
        assert!(entry("INDEX", "t_pkey", "").makes(&index));
        assert!(!entry("CONSTRAINT", "t at_pkey", "").makes(&index));
        assert!(!entry("INDEX ATTACH", "t_pkey", "").makes(&index));
    }

    const SCRIPT: &str = "--
-- PostgreSQL database dump
--

\\restrict abc

-- Dumped from database version 17

SET statement_timeout = 0;
SET transaction_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);

--
-- Name: f(); Type: FUNCTION; Schema: public; Owner: app
--

CREATE FUNCTION public.f() RETURNS text LANGUAGE sql AS $$

--
-- Name the thing
--

SELECT 1$$;


ALTER FUNCTION public.f() OWNER TO app;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: odd; Type: x; Type: TABLE; Schema: my schema; Owner: app
--

CREATE TABLE \"my schema\".\"odd; Type: x\" ();


--
-- Name: t cutover_shop_fence; Type: TRIGGER; Schema: public; Owner: app
--

CREATE TRIGGER cutover_shop_fence;


--
-- Name: EXTENSION hstore; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION hstore IS 'x';


--
-- Name: SCHEMA own; Type: ACL; Schema: -; Owner: app
--

GRANT USAGE ON SCHEMA own TO other;


--
-- PostgreSQL database dump complete
--

\\unrestrict abc
";

    #[test]
    fn a_script_in_entries() {
        let entries = entries(SCRIPT);
        let labels: Vec<String> = entries.iter().map(Entry::label).collect();
        assert_eq!(
            labels,
            [
                "function public.f()",
                "table my schema.odd; Type: x",
                "trigger public.t cutover_shop_fence",
                "comment EXTENSION hstore",
                "acl own.SCHEMA own",
            ]
        );
        assert!(entries[0].text.starts_with("CREATE FUNCTION"));
        assert!(entries[0].text.contains("-- Name the thing\n--\n"));
        assert!(entries[0].text.ends_with("OWNER TO app;\n"), "{}", entries[0].text);
        assert_eq!(
            entries[1].text,
            "SET default_table_access_method = heap;\n\
             CREATE TABLE \"my schema\".\"odd; Type: x\" ();\n"
        );
        let travels: Vec<bool> = entries.iter().map(Entry::travels).collect();
        assert_eq!(travels, [true, true, false, false, true]);
        assert_eq!(entries[4].text.lines().last(), Some("GRANT USAGE ON SCHEMA own TO other;"));
    }

    #[test]
    fn rights_that_others_gave() {
        let mut acl = entries(SCRIPT).remove(4);
        acl.text = "GRANT a;\nSET SESSION AUTHORIZATION \"Lead\";\nGRANT b;\n\
                    RESET SESSION AUTHORIZATION;\n"
            .into();
        let other = Entry { kind: "FUNCTION".into(), ..acl.clone() };
        assert_eq!(other.clone().given_by_owner(), other);
        assert_eq!(acl.given_by_owner().text, "GRANT a;\nGRANT b;\n");
    }

    #[test]
    fn marks_tell_texts_and_halves_apart() {
        let mut entry = entries(SCRIPT).remove(0);
        let mark = entry.mark(Section::PreData);
        assert!(mark.starts_with("pre-data function public.f() "), "{mark}");
        assert_ne!(entry.mark(Section::PostData), mark);
        entry.text.push(' ');
        assert_ne!(entry.mark(Section::PreData), mark);
    }
}

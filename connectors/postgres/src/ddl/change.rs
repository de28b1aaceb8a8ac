//! From what a table is like here and there to what has to be done here. Pure.
//!
//! Only what the other side has and this one lacks counts: an index, a column or a constraint that
//! only this side has may be there on purpose. What was dropped is said by name.

use std::collections::BTreeMap;

use cutover_core::model::schema::TableName;

use super::{
    message::{Column, Definition, Message, Partition},
    own,
};
use crate::sql;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// In words.
    pub(super) what: String,
    /// What makes this side equal without touching what a row says; `None`: nobody but an operator
    /// can tell.
    pub(super) statement: Option<String>,
    /// This table is missing; it can be made, and its rows copied, before the stream goes on.
    pub(super) absent: Option<TableName>,
    /// What it is about: a later look at the same thing speaks of the same.
    pub(super) about: String,
}

impl Step {
    pub(super) fn safe(what: impl Into<String>, statement: String) -> Self {
        Self { statement: Some(statement), ..Self::unsafe_(what) }
    }

    pub(super) fn unsafe_(what: impl Into<String>) -> Self {
        let what = what.into();
        Self { about: what.clone(), what, statement: None, absent: None }
    }

    fn absent(what: impl Into<String>, table: TableName) -> Self {
        Self { absent: Some(table), ..Self::unsafe_(what) }
    }

    /// The same about a column, whatever it is like.
    fn about(self, column: &str) -> Self {
        Self { about: column.to_owned(), ..self }
    }
}

/// What the statement did beside what definitions show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Context {
    /// Types were altered without `USING` as far as we can see.
    pub(super) plain: bool,
    /// Rows were written anew for the sake of a default.
    pub(super) filled: bool,
    /// Rows were written anew, for whatever reason: a default that is the same for all of them is in
    /// them then, and nowhere else.
    pub(super) rewritten: bool,
}

/// No log has the rows of such a table, whatever it is like on this side.
pub(super) fn unlogged(there: &Definition) -> Option<Step> {
    let unlogged = there.persistence == "u";
    unlogged.then(|| Step::unsafe_(format!("{} is unlogged and cannot be followed", there.table())))
}

/// Tables here that are no partitions, and what the source says of them by now, where it was asked.
#[derive(Debug, Default)]
pub(super) struct Alone<'a> {
    pub(super) tables: BTreeMap<TableName, Definition>,
    pub(super) now: Option<&'a Message>,
}

/// What it takes to make the table `here` like the table `there`. Partitions that `is_ours` does
/// not know are left alone.
pub(super) fn steps(
    there: &Definition,
    here: &Definition,
    context: Context,
    alone: &Alone<'_>,
    is_ours: impl Fn(&TableName) -> bool,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let table = there.table();
    if there.persistence != here.persistence {
        steps.push(Step::unsafe_(format!("{table} is logged on one side only")));
    }
    if there.bound.is_none() && here.bound.is_none() && there.parents != here.parents {
        steps.push(Step::unsafe_(format!("{table} inherits from other tables")));
    }
    steps.extend(columns(there, here, context));
    for (name, text) in &there.constraints {
        if !here.constraints.contains_key(name) && !here.constraints.values().any(|t| t == text) {
            steps.push(Step::unsafe_(format!("{table} has a constraint {name}: {text}")));
        }
    }
    for (name, text) in &there.indexes {
        if !here.indexes.contains_key(name) {
            // The index of a partitioned table comes with those of its partitions.
            let text = match there.kind.as_str() {
                "p" => text.replacen(" ON ONLY ", " ON ", 1),
                _ => text.clone(),
            };
            steps.push(Step::safe(format!("{table} has an index {name}"), text));
        }
    }
    if there.kind == "p" && here.kind == "p" {
        partitions(there, here, alone, is_ours, &mut steps);
    }
    steps
}

/// The same for the columns alone.
pub(super) fn columns(there: &Definition, here: &Definition, context: Context) -> Vec<Step> {
    let (table, mut steps) = (there.table(), Vec::new());
    let gone: Vec<&str> = here
        .columns
        .iter()
        .filter(|c| there.column(&c.name).is_none())
        .map(|c| c.name.as_str())
        .collect();
    for column in &there.columns {
        let step = match here.column(&column.name) {
            Some(known) => {
                alter(&table, column, known, context, &mut steps);
                continue;
            }
            None if !gone.is_empty() => Step::unsafe_(format!(
                "{table} has a column {}, and no column {}",
                column.name,
                gone.join(", ")
            )),
            None => add(&table, column, context),
        };
        steps.push(step.about(&format!("{table}.{}", column.name)));
    }
    steps
}

pub(super) fn alter_table(table: &TableName, action: &str) -> String {
    format!("ALTER TABLE {} {action}", sql::table(table))
}

fn alter(
    table: &TableName,
    there: &Column,
    here: &Column,
    context: Context,
    steps: &mut Vec<Step>,
) {
    let column = format!("ALTER COLUMN {}", sql::ident(&there.name));
    let label = format!("{table}.{}", there.name);
    if (&there.generated, &there.identity, &there.collation)
        != (&here.generated, &here.identity, &here.collation)
    {
        steps.push(Step::unsafe_(format!("{label} is generated or sorted in another way")));
    } else if there.type_name != here.type_name {
        let what = format!("{label} is {} and not {}", there.type_name, here.type_name);
        let safe = context.plain && widens(&here.type_name, &there.type_name);
        let mut action = format!("{column} TYPE {}", there.type_name);
        // Left out, it would be the one of the type.
        if let Some(collation) = &there.collation {
            action.push_str(&format!(" COLLATE {collation}"));
        }
        let statement = safe.then(|| alter_table(table, &action));
        steps.push(Step { statement, ..Step::unsafe_(what) }.about(&label));
    }
    match (there.not_null, here.not_null) {
        (true, false) => steps.push(Step::unsafe_(format!("{label} is NOT NULL"))),
        (false, true) => steps.push(Step::safe(
            format!("{label} may be null"),
            alter_table(table, &format!("{column} DROP NOT NULL")),
        )),
        _ => {}
    }
    if there.generated.is_empty() && here.generated.is_empty() {
        match (&there.expression, &here.expression) {
            (Some(default), None) => {
                let set = alter_table(table, &format!("{column} SET DEFAULT {default}"));
                steps.push(Step::safe(format!("{label} has a default"), set).about(&label));
            }
            (None, Some(_)) => {
                let drop = alter_table(table, &format!("{column} DROP DEFAULT"));
                steps.push(Step::safe(format!("{label} has no default"), drop).about(&label));
            }
            // Versions may write the same expression in two ways: see `spelled`.
            _ => {}
        }
    }
}

/// The same, and nothing that inherits from the table.
pub(super) fn alter_only(table: &TableName, action: &str) -> String {
    format!("ALTER TABLE ONLY {} {action}", sql::table(table))
}

/// A column's expression is another one.
pub(super) fn expression(table: &TableName, column: &Column, wanted: &str) -> Step {
    let label = format!("{table}.{}", column.name);
    if column.generated.is_empty() {
        let action = format!("ALTER COLUMN {} SET DEFAULT {wanted}", sql::ident(&column.name));
        let what = format!("{label} has another default");
        return Step::safe(what, alter_table(table, &action)).about(&label);
    }
    Step::unsafe_(format!("{label} is computed in another way"))
}

/// A column that is new. Rows that are older have the value that the source gave them, whatever
/// its default is now.
fn add(table: &TableName, column: &Column, context: Context) -> Step {
    let label = format!("{table} has a column {} ({})", column.name, column.type_name);
    let name = sql::ident(&column.name);
    let generated = !column.generated.is_empty();
    let inside = context.filled || context.rewritten && column.missing.is_none();
    let computed = inside && !generated && (column.expression.is_some() || column.domain);
    if computed || !column.identity.is_empty() {
        return Step::unsafe_(format!("{label}, whose values were computed row by row"));
    }
    let mut action = format!("ADD COLUMN {name} {}", column.type_name);
    if let Some(collation) = &column.collation {
        action.push_str(&format!(" COLLATE {collation}"));
    }
    match (&column.expression, generated) {
        (Some(expression), true) => {
            let kind = if column.generated == "v" { "VIRTUAL" } else { "STORED" };
            action.push_str(&format!(" GENERATED ALWAYS AS ({expression}) {kind}"));
        }
        _ => {
            if let Some(value) = &column.missing {
                action.push_str(&format!(" DEFAULT {}::{}", sql::literal(value), column.type_name));
            }
        }
    }
    if column.not_null {
        action.push_str(" NOT NULL");
    }
    let mut statement = alter_table(table, &action);
    if !generated {
        let default = match (&column.expression, &column.missing) {
            (Some(default), _) => Some(format!("SET DEFAULT {default}")),
            (None, Some(_)) => Some("DROP DEFAULT".to_owned()),
            (None, None) => None,
        };
        if let Some(default) = default {
            statement.push_str("; ");
            statement.push_str(&alter_table(table, &format!("ALTER COLUMN {name} {default}")));
        }
    }
    Step::safe(label, statement)
}

fn partitions(
    there: &Definition,
    here: &Definition,
    alone: &Alone<'_>,
    is_ours: impl Fn(&TableName) -> bool,
    steps: &mut Vec<Step>,
) {
    let table = there.table();
    let direct = |p: &&Partition| p.parent.is_none();
    for part in &there.partitions {
        let name = part.table();
        let is_it = |p: &Partition| (p.table(), &p.parent) == (name.clone(), &part.parent);
        if !is_ours(&name) || here.partitions.iter().any(is_it) {
            continue;
        }
        if let Some(known) = alone.tables.get(&name) {
            let parent = part.parent.as_ref().unwrap_or(&table);
            let attached = attach((parent, there), known, &part.bound, alone);
            if attached.as_ref().is_some_and(|step| step.statement.is_some()) {
                // What changed with its parent since it was made has passed it by.
                steps.extend(own::defaults(there, part, known));
            }
            steps.extend(attached);
        } else if direct(&part) {
            let what = format!("{name} is a partition of {table}, and is not here");
            steps.push(Step::absent(what, name));
        }
    }
    for part in here.partitions.iter().filter(direct) {
        let name = part.table();
        if is_ours(&name) && !there.partitions.iter().any(|p| p.table() == name) {
            steps.push(Step::unsafe_(format!("{name} is no partition of {table}")));
        }
    }
}

/// A table that is here becomes a partition of `parent`, whose columns are as those of `like`.
///
/// It may have been made ahead of the stream, with columns that its parent gets later. There is
/// nothing to do then: the last message that speaks of its parent before it was made finds both
/// alike, and attaches it.
pub(super) fn attach(
    (parent, like): (&TableName, &Definition),
    table: &Definition,
    bound: &str,
    alone: &Alone<'_>,
) -> Option<Step> {
    let name = table.table();
    let what = format!("{name} is a partition of {parent}");
    let unlike = unlike(table, like);
    if unlike.is_empty() {
        let attach = format!("ATTACH PARTITION {} {bound}", sql::table(&name));
        return Some(Step::safe(what, alter_table(parent, &attach)));
    }
    let later = alone.now.and_then(|now| now.table(&name));
    let comes = |column: &&str| {
        let later = later.and_then(|later| later.column(column));
        table.column(column).is_some() && later.is_some_and(|l| !fits(l, like.column(column)))
    };
    let is_ahead = later.is_some_and(|later| later.parents.first() == Some(parent));
    let stays = || Step::unsafe_(format!("{what}, and unlike it in {}", unlike.join(", ")));
    (!is_ahead || !unlike.iter().all(comes)).then(|| stays().about(&what))
}

/// Columns for which a table cannot become a partition of one with the columns of `parent`.
fn unlike<'a>(table: &'a Definition, parent: &'a Definition) -> Vec<&'a str> {
    let own = table.columns.iter().filter(|c| !fits(c, parent.column(&c.name)));
    let missing = parent.columns.iter().filter(|c| table.column(&c.name).is_none());
    own.chain(missing).map(|c| c.name.as_str()).collect()
}

/// Whether a partition may have a column where its parent has this one.
fn fits(column: &Column, parent: Option<&Column>) -> bool {
    parent.is_some_and(|parent| {
        (&column.type_name, &column.generated) == (&parent.type_name, &parent.generated)
            && (column.not_null || !parent.not_null)
    })
}

/// A partition that was created empty.
pub(super) fn new_partition(there: &Definition, parent: &TableName, bound: &str) -> Step {
    let table = there.table();
    let what = format!("{table} is a partition of {parent}");
    let divided = there.key.as_ref().map(|key| format!(" PARTITION BY {key}")).unwrap_or_default();
    if there.kind != "r" && divided.is_empty() {
        return Step::unsafe_(format!("{what}, and partitioned itself"));
    }
    Step::safe(
        what,
        format!(
            "CREATE TABLE {0} PARTITION OF {1} {bound}{divided}; ALTER TABLE {0} OWNER TO {2}{3}",
            sql::table(&table),
            sql::table(parent),
            sql::ident(&there.owner),
            there.grants.iter().map(|grant| own::granted(&table, grant)).collect::<String>()
        ),
    )
}

/// Whether every value of `from` is a value of `to` that is written in the same way.
fn widens(from: &str, to: &str) -> bool {
    let ((a, m), (b, n)) = (split(from), split(to));
    let numbers = ["smallint", "integer", "bigint", "numeric"];
    let rank = |name: &str| numbers.iter().position(|n| *n == name);
    let grows = match (m.first(), n.first()) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(m), Some(n)) => n >= m,
    };
    match (a, b) {
        ("numeric", "numeric") => n.is_empty() || (!m.is_empty() && m.get(1) == n.get(1) && grows),
        ("character varying", "text") => true,
        ("character varying" | "bit varying", _) if a == b => grows,
        ("real", "double precision") => true,
        _ => n.is_empty() && rank(a).zip(rank(b)).is_some_and(|(a, b)| a < b),
    }
}

/// A type's name and its modifiers.
fn split(text: &str) -> (&str, Vec<i64>) {
    let Some((name, rest)) = text.split_once('(') else { return (text, Vec::new()) };
    // Something behind the modifier makes it another type: `timestamp(3) with time zone`.
    match rest.strip_suffix(')') {
        Some(list) => (name, list.split(',').filter_map(|n| n.trim().parse().ok()).collect()),
        None => (text, Vec::new()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ddl::message::Item;

    pub(in crate::ddl) fn column(name: &str, type_name: &str) -> Column {
        Column {
            name: name.into(),
            type_name: type_name.into(),
            domain: false,
            not_null: false,
            generated: String::new(),
            identity: String::new(),
            collation: None,
            expression: None,
            missing: None,
        }
    }

    pub(in crate::ddl) fn table(columns: &[Column]) -> Definition {
        Definition {
            schema: "s".into(),
            name: "t".into(),
            kind: "r".into(),
            persistence: "p".into(),
            grants: Vec::new(),
            owner: "app".into(),
            root: None,
            parents: Vec::new(),
            bound: None,
            key: None,
            partitions: Vec::new(),
            leaves: Vec::new(),
            heirs: Vec::new(),
            columns: columns.to_vec(),
            indexes: BTreeMap::new(),
            constraints: BTreeMap::new(),
        }
    }

    fn statements(there: &Definition, here: &Definition, context: Context) -> Vec<Option<String>> {
        steps(there, here, context, &Alone::default(), |_| true)
            .into_iter()
            .map(|s| s.statement)
            .collect()
    }

    const PLAIN: Context = Context { plain: true, filled: false, rewritten: false };

    #[test]
    fn a_column_is_added_with_the_value_that_older_rows_have() {
        let here = table(&[column("id", "integer")]);
        let mut there = table(&[column("id", "integer"), column("at", "text")]);
        assert_eq!(
            statements(&there, &here, PLAIN),
            [Some("ALTER TABLE \"s\".\"t\" ADD COLUMN \"at\" text".to_owned())]
        );
        there.columns[1].missing = Some("it's".into());
        there.columns[1].expression = Some("now()".into());
        there.columns[1].not_null = true;
        assert_eq!(
            statements(&there, &here, PLAIN),
            [Some(
                "ALTER TABLE \"s\".\"t\" ADD COLUMN \"at\" text DEFAULT 'it''s'::text NOT NULL; \
                 ALTER TABLE \"s\".\"t\" ALTER COLUMN \"at\" SET DEFAULT now()"
                    .to_owned()
            )]
        );
        // Computed for each row.
        there.columns[1].missing = None;
        let filled = Context { filled: true, ..PLAIN };
        assert_eq!(statements(&there, &here, filled), [None]);
        // The same for all, and in the rows that were written anew for another reason.
        let rewritten = Context { rewritten: true, ..PLAIN };
        assert_eq!(statements(&there, &here, rewritten), [None]);
        there.columns[1].expression = None;
        there.columns[1].not_null = false;
        assert!(statements(&there, &here, rewritten)[0].is_some());
    }

    #[test]
    fn a_renamed_column_is_no_new_one() {
        let here = table(&[column("id", "integer"), column("a", "text")]);
        let there = table(&[column("id", "integer"), column("b", "text")]);
        assert_eq!(statements(&there, &here, PLAIN), [None]);
    }

    #[test]
    fn what_only_this_side_has_is_left_alone() {
        let mut here = table(&[column("id", "integer"), column("extra", "text")]);
        here.indexes.insert("mine".into(), "CREATE INDEX".into());
        here.constraints.insert("mine".into(), "CHECK (true)".into());
        assert!(statements(&table(&[column("id", "integer")]), &here, PLAIN).is_empty());
    }

    #[test]
    fn only_widening_is_safe_and_only_without_using() {
        for (from, to, safe) in [
            ("integer", "bigint", true),
            ("smallint", "numeric", true),
            ("bigint", "integer", false),
            ("integer", "text", false),
            ("integer", "numeric(5,0)", false),
            ("numeric(8,2)", "numeric(10,2)", true),
            ("numeric(8,2)", "numeric(10,3)", false),
            ("numeric(8,2)", "numeric", true),
            ("numeric", "numeric(10,2)", false),
            ("character varying(10)", "character varying(20)", true),
            ("character varying(20)", "character varying(10)", false),
            ("character varying(20)", "text", true),
            ("text", "character varying(20)", false),
            ("character(4)", "character(8)", false),
            ("real", "double precision", true),
            ("double precision", "real", false),
            ("timestamp(3) with time zone", "timestamp without time zone", false),
        ] {
            let (here, there) = (table(&[column("c", from)]), table(&[column("c", to)]));
            let found = statements(&there, &here, PLAIN);
            assert_eq!(found.len(), 1, "{from} {to}");
            assert_eq!(found[0].is_some(), safe, "{from} {to}");
            let using = Context { plain: false, ..PLAIN };
            assert_eq!(statements(&there, &here, using), [None], "{from} {to}");
        }
    }

    #[test]
    fn constraints_stop_and_indexes_are_made() {
        let here = table(&[]);
        let mut there = table(&[]);
        there.constraints.insert("k".into(), "UNIQUE (a)".into());
        there.indexes.insert("i".into(), "CREATE INDEX i ON ONLY s.t (a)".into());
        assert_eq!(
            statements(&there, &here, PLAIN),
            [None, Some("CREATE INDEX i ON ONLY s.t (a)".to_owned())]
        );
        there.kind = "p".into();
        assert_eq!(
            statements(&there, &here, PLAIN)[1].as_deref(),
            Some("CREATE INDEX i ON s.t (a)")
        );
    }

    #[test]
    fn partitions() {
        let part = |name: &str| Partition {
            schema: "s".into(),
            name: name.into(),
            bound: "FOR VALUES IN (1)".into(),
            parent: None,
            defaults: None,
        };
        let mut here = table(&[]);
        here.kind = "p".into();
        let mut there = here.clone();
        there.partitions.push(part("p1"));
        let alone = Definition { name: "p1".into(), ..table(&[]) };
        let alone = Alone { tables: [(alone.table(), alone)].into(), now: None };
        let attach = steps(&there, &here, PLAIN, &alone, |_| true);
        assert_eq!(
            attach[0].statement.as_deref(),
            Some("ALTER TABLE \"s\".\"t\" ATTACH PARTITION \"s\".\"p1\" FOR VALUES IN (1)")
        );
        let absent = steps(&there, &here, PLAIN, &Alone::default(), |_| true);
        assert!(
            absent[0].absent.is_some() && absent[0].statement.is_none(),
            "its rows are not here"
        );
        let not_ours = steps(&there, &here, PLAIN, &Alone::default(), |_| false);
        assert!(not_ours.is_empty(), "not ours");
        assert_eq!(statements(&here, &there, PLAIN), [None], "detached");
        // At a lower level only what is here and belongs to nothing counts.
        there.partitions[0].parent = Some(TableName::new("s", "b"));
        assert!(statements(&there, &here, PLAIN).is_empty());
        assert!(statements(&here, &there, PLAIN).is_empty());
        let attach = steps(&there, &here, PLAIN, &alone, |_| true);
        let statement = attach[0].statement.as_deref().unwrap();
        assert!(statement.starts_with("ALTER TABLE \"s\".\"b\" ATTACH PARTITION"), "{statement}");
    }

    #[test]
    fn a_partition_that_was_made_ahead_waits_for_its_parent() {
        let of = |name: &str, parents: &[&TableName], columns: &[Column]| Definition {
            name: name.into(),
            parents: parents.iter().map(|p| (*p).clone()).collect(),
            ..table(columns)
        };
        let root = TableName::new("s", "t");
        let (id, wide) = (column("id", "integer"), column("id", "bigint"));
        let (more, other) = (column("more", "text"), column("other", "text"));
        let attached = |part: &[Column], parent: &[Column], now: Option<Definition>| {
            let message = |table: Definition| {
                let table = Box::new(table);
                let items = vec![Item::Table { created: false, since: None, table }];
                Message { tag: "now".into(), plain: false, untold: None, items }
            };
            let now = now.map(message);
            let alone = Alone { tables: BTreeMap::new(), now: now.as_ref() };
            attach((&root, &table(parent)), &of("p", &[], part), "DEFAULT", &alone)
                .map(|step| step.statement.is_some())
        };
        let now = |columns: &[Column]| Some(of("p", &[&root], columns));
        let (ahead, behind) = ([wide.clone(), more.clone()], [id.clone()]);
        assert_eq!(attached(&behind, &behind, None), Some(true));
        assert_eq!(attached(&ahead, &behind, None), Some(false), "nobody was asked");
        assert_eq!(attached(&ahead, &behind, now(&ahead)), None);
        let further = [column("id", "numeric"), more.clone(), other.clone()];
        assert_eq!(attached(&ahead, &behind, now(&further)), None);
        assert_eq!(attached(&ahead, &behind, now(&behind)), Some(false), "nothing will be told");
        assert_eq!(attached(&behind, &ahead, now(&ahead)), Some(false), "behind");
        let apart = Some(of("p", &[], &ahead));
        assert_eq!(attached(&ahead, &behind, apart), Some(false), "no partition by now");
    }
}

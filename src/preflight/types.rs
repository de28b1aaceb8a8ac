//! Every column survives the journey. Pure: two lists of tables in, findings out.

use std::collections::BTreeSet;

use cutover_core::model::{
    finding::{Finding, Severity},
    schema::{Column, Counterparts, Generated, Identity, Table, TableName},
    side::Side,
};

use super::{
    fit::{Fit, fit},
    found,
    words::{ident, list, number, table as quoted},
};

/// Another primary key: a copy does not need it.
pub const OTHER_KEY: &str = "CUT0160";

/// Whether a finding is about the key of a table, of which a copy of definitions makes the keys
/// behind the rows.
#[must_use]
pub fn is_of_key(code: &str) -> bool {
    matches!(code, OTHER_KEY | "CUT0125" | "CUT0196")
}

/// Compares the tables that are moved with those of the same names on the other side. Findings
/// are about `to`, the side that must be able to take every row of the other.
///
/// With `creates`, tables that `to` lacks are made by the schema copy and are no finding.
#[must_use]
pub fn compare(from: &[Table], to: &[Table], side: Side, creates: bool) -> Vec<Finding> {
    let theirs = Counterparts::new(to);
    // Leaves that go to one table are compared with it once for all that is the same.
    let mut said = BTreeSet::new();
    let mut findings = Vec::new();
    let mut missing = Vec::new();
    for table in from {
        match theirs.of(table) {
            Some(other) if other.name == table.name => {
                compare_table(table, &other, side, &mut findings);
            }
            Some(other) => {
                // Findings are about the table that takes the rows.
                let alike = Table { name: other.name.clone(), ..table.clone() };
                let mut more = Vec::new();
                compare_table(&alike, &other, side, &mut more);
                more.retain(|f| said.insert((f.code.clone(), f.what.clone())));
                findings.extend(more);
            }
            None => missing.push(&table.name),
        }
    }
    if !missing.is_empty() && !creates {
        findings.push(found(
            "CUT0151",
            Severity::Error,
            side,
            format!(
                "{} of the run {} here: {}",
                number(missing.len(), "table"),
                if missing.len() == 1 { "is not" } else { "are not" },
                list(&missing)
            ),
            "create them with your own migrations, or let `schema: copy` create them, or exclude \
             them under `tables`",
        ));
    }
    findings
}

fn compare_table(from: &Table, to: &Table, side: Side, findings: &mut Vec<Finding>) {
    for column in &from.columns {
        match to.column(&column.name) {
            Some(other) => compare_column(&from.name, column, other, side, findings),
            None => missing_column(&from.name, column, side, findings),
        }
    }
    extra_columns(from, to, side, findings);
    compare_key(from, to, side, findings);
}

fn missing_column(table: &TableName, column: &Column, side: Side, findings: &mut Vec<Finding>) {
    // A generated column carries nothing that its inputs do not.
    if column.generated == Generated::No {
        findings.push(found(
            "CUT0152",
            Severity::Error,
            side,
            format!("table {table} has no column {}", ident(&column.name)),
            format!(
                "ALTER TABLE {} ADD COLUMN {} {};",
                quoted(table),
                ident(&column.name),
                column.declared_type
            ),
        ));
    }
}

fn compare_column(
    table: &TableName,
    from: &Column,
    to: &Column,
    side: Side,
    findings: &mut Vec<Finding>,
) {
    let other = side.other();
    let name = format!("column {} of {table}", ident(&from.name));
    let alter = format!("ALTER TABLE {} ALTER COLUMN {}", quoted(table), ident(&from.name));
    match (from.generated == Generated::No, to.generated == Generated::No) {
        (true, false) => findings.push(found(
            "CUT0156",
            Severity::Error,
            side,
            format!("{name} is computed here, on {other} clients write it"),
            format!("{alter} DROP EXPRESSION;"),
        )),
        (false, true) => findings.push(found(
            "CUT0156",
            Severity::Error,
            side,
            format!("{name} is computed on {other} but not here, and is not carried"),
            format!(
                "define {name} as GENERATED ALWAYS AS (the expression of {other}) here as well"
            ),
        )),
        (true, true) => carried_column(table, from, to, side, findings),
        (false, false) => {}
    }
    if from.identity != Identity::No && to.identity == Identity::No {
        findings.push(found(
            "CUT0157",
            Severity::Warning,
            side,
            format!(
                "{name} is an identity column on {other} but not here: after the move \
                     nothing fills it in unless it has a default"
            ),
            format!("{alter} SET NOT NULL;\n{alter} ADD GENERATED BY DEFAULT AS IDENTITY;"),
        ));
    }
}

/// Both sides store what clients write.
fn carried_column(
    table: &TableName,
    from: &Column,
    to: &Column,
    side: Side,
    findings: &mut Vec<Finding>,
) {
    let other = side.other();
    let name = format!("column {} of {table}", ident(&from.name));
    let alter = format!("ALTER TABLE {} ALTER COLUMN {}", quoted(table), ident(&from.name));
    let types = format!("{} here and {} on {other}", to.declared_type, from.declared_type);
    match fit(from, to) {
        Fit::Same => {}
        Fit::Wider => findings.push(found(
            "CUT0158",
            Severity::Info,
            side,
            format!("{name} is wider: {types}; every value fits, its table is copied as text"),
            format!("{alter} TYPE {}; -- only if you want it equal", from.declared_type),
        )),
        Fit::No => findings.push(found(
            "CUT0153",
            Severity::Error,
            side,
            format!("{name} may not hold every value: it is {types}"),
            format!("{alter} TYPE {};", from.declared_type),
        )),
    }
    if from.nullable && !to.nullable {
        findings.push(found(
            "CUT0154",
            Severity::Error,
            side,
            format!("{name} refuses NULL here and allows it on {other}"),
            format!("{alter} DROP NOT NULL;"),
        ));
    }
    if from.collation != to.collation {
        let word = |c: &Column| c.collation.clone().unwrap_or_else(|| "the default".into());
        findings.push(found(
            "CUT0155",
            Severity::Warning,
            side,
            format!(
                "{name} has another collation: {} here and {} on {other}; order and, for \
                 nondeterministic collations, uniqueness differ",
                word(to),
                word(from)
            ),
            format!(
                "{alter} TYPE {} COLLATE {};",
                to.declared_type,
                from.collation.as_deref().unwrap_or("\"default\"")
            ),
        ));
    }
}

/// Columns that nobody fills while the run lasts.
fn extra_columns(from: &Table, to: &Table, side: Side, findings: &mut Vec<Finding>) {
    let extra: Vec<String> =
        to.carried().filter(|c| from.column(&c.name).is_none()).map(|c| ident(&c.name)).collect();
    if !extra.is_empty() {
        let other = side.other();
        findings.push(found(
            "CUT0159",
            Severity::Warning,
            side,
            format!(
                "table {} has {} that {other} lacks: {}; rows that come from {other} get the \
                 default there, and values written there do not go to {other}",
                from.name,
                number(extra.len(), "column"),
                list(&extra)
            ),
            format!(
                "add the column on {other} before the run, or on {side} after `cutover finish`"
            ),
        ));
    }
}

fn compare_key(from: &Table, to: &Table, side: Side, findings: &mut Vec<Finding>) {
    let set = |t: &Table| t.primary_key.iter().cloned().collect::<BTreeSet<_>>();
    if set(from) == set(to) {
        return;
    }
    let other = side.other();
    let word = |t: &Table| match t.primary_key.as_slice() {
        [] => "none".to_owned(),
        key => key.iter().map(|c| ident(c)).collect::<Vec<_>>().join(", "),
    };
    let what = format!(
        "table {} has another primary key: {} here and {} on {other}",
        from.name,
        word(to),
        word(from)
    );
    let remedy = if from.primary_key.is_empty() {
        format!("add the same primary key on {other}, or drop the one on {side}")
    } else {
        format!(
            "ALTER TABLE {} ADD PRIMARY KEY ({}); -- drop the other one before",
            quoted(&from.name),
            word(from)
        )
    };
    findings.push(found(OTHER_KEY, Severity::Error, side, what, remedy));
}

#[cfg(test)]
pub(super) mod tests {
    use cutover_core::model::schema::RowIdentity;

    use super::*;
    use crate::preflight::fit::tests::column;

    /// `app.t` with primary key `id`.
    pub(crate) fn table(columns: Vec<Column>) -> Table {
        let mut id = column("id", "bigint");
        id.nullable = false;
        Table {
            name: TableName::new("app", "t"),
            columns: std::iter::once(id).chain(columns).collect(),
            identity: RowIdentity::Key(vec!["id".into()]),
            primary_key: vec!["id".into()],
            root: None,
            estimated_rows: None,
            bytes: 0,
        }
    }

    fn codes(from: Table, to: Table) -> Vec<String> {
        compare(&[from], &[to], Side::Green, false).into_iter().map(|f| f.code).collect()
    }

    fn with(declared: &str, change: impl FnOnce(&mut Column)) -> Table {
        let mut c = column("c", declared);
        change(&mut c);
        table(vec![c])
    }

    #[test]
    fn leaves_are_compared_with_the_table_that_takes_their_rows() {
        let leaf = |name: &str, columns| Table {
            name: TableName::new("app", name),
            root: Some(TableName::new("app", "p")),
            ..table(columns)
        };
        let blue = [leaf("p1", vec![column("c", "text")]), leaf("p2", vec![column("c", "text")])];
        let all = |green: &[Table]| compare(&blue, green, Side::Green, false);
        let plain = |columns| Table { name: TableName::new("app", "p"), ..table(columns) };
        assert!(all(&[plain(vec![column("c", "text")])]).is_empty());
        assert!(all(&[leaf("other", vec![column("c", "text")])]).is_empty());
        // Once for all leaves, and about the table that is there.
        let found = all(&[leaf("other", vec![column("c", "integer")])]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].what.contains("app.p "), "{}", found[0].what);
        assert_eq!(all(&[])[0].code, "CUT0151");
    }

    #[test]
    fn equal_tables_have_no_finding() {
        let t = with("numeric(10,2)", |c| c.collation = Some("public.de".into()));
        assert_eq!(codes(t.clone(), t), [""; 0]);
    }

    #[test]
    fn one_difference_one_code() {
        let plain = || with("text", |_| {});
        for (from, to, want) in [
            (plain(), table(vec![]), vec!["CUT0152"]),
            (plain(), with("bytea", |_| {}), vec!["CUT0153"]),
            (plain(), with("text", |c| c.nullable = false), vec!["CUT0154"]),
            (with("text", |c| c.nullable = false), plain(), vec![]),
            (plain(), with("text", |c| c.collation = Some("public.de".into())), vec!["CUT0155"]),
            (plain(), with("text", |c| c.generated = Generated::Stored), vec!["CUT0156"]),
            (with("text", |c| c.generated = Generated::Virtual), plain(), vec!["CUT0156"]),
            (with("text", |c| c.generated = Generated::Stored), table(vec![]), vec![]),
            (
                with("bigint", |c| c.identity = Identity::Always),
                with("bigint", |_| {}),
                vec!["CUT0157"],
            ),
            (with("integer", |_| {}), with("bigint", |_| {}), vec!["CUT0158"]),
            (table(vec![]), plain(), vec!["CUT0159"]),
            (table(vec![]), with("text", |c| c.generated = Generated::Stored), vec![]),
        ] {
            assert_eq!(codes(from.clone(), to.clone()), want, "{from:?} {to:?}");
        }
    }

    #[test]
    fn primary_keys_are_sets() {
        let key = |columns: &[&str]| {
            let mut t = table(vec![column("c", "text")]);
            t.primary_key = columns.iter().map(|c| (*c).to_owned()).collect();
            t
        };
        assert_eq!(codes(key(&["id", "c"]), key(&["c", "id"])), [""; 0]);
        assert_eq!(codes(key(&["id"]), key(&["c"])), ["CUT0160"]);
        assert_eq!(codes(key(&[]), key(&["id"])), ["CUT0160"]);
        assert_eq!(codes(key(&["id"]), key(&[])), ["CUT0160"]);
    }

    #[test]
    fn missing_tables_are_one_finding_unless_they_are_made() {
        let from: Vec<Table> = (0..12)
            .map(|i| Table { name: TableName::new("app", format!("t{i}")), ..table(vec![]) })
            .collect();
        assert!(compare(&from, &[], Side::Green, true).is_empty());
        let [finding] = &compare(&from, &[], Side::Green, false)[..] else { panic!() };
        assert_eq!((finding.code.as_str(), finding.place.as_str()), ("CUT0151", "green"));
        assert!(finding.what.starts_with("12 tables of the run are not here: app.t0, app.t1"));
        assert!(finding.what.ends_with("and 2 more"));
    }
}

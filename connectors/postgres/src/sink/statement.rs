//! The text of every statement that writes rows. Pure.
//!
//! Parameters are `text` (one row) or arrays (many rows), in the order of the columns given;
//! the server casts texts. Equality is spelled as an operator with its schema, because our
//! sessions have an empty search path.

use super::{encode::Wire, shape::Target};
use crate::sql;

/// Rows with these keys go. One array per key column.
pub(super) fn delete_many(target: &Target, key: &[u16]) -> String {
    format!(
        "DELETE FROM {} AS t USING {} WHERE {}",
        target.only,
        unnest(target, key.iter()),
        key_matches(target, key, 0)
    )
}

/// Rows with these keys get new values. One array per key column, then one per column of `set`,
/// then one per column of `same`: columns that cannot be set and must hold the value already.
pub(super) fn update_many(target: &Target, key: &[u16], set: &[u16], same: &[u16]) -> String {
    let assignments: Vec<String> = set
        .iter()
        .enumerate()
        .map(|(i, c)| {
            let at = key.len() + i;
            let value = element(target, at, *c);
            format!("{} = {}", target.column(*c).quoted, kept(target, "t", *c, &at_u(at), value))
        })
        .collect();
    let mut condition = key_matches(target, key, 0);
    if !same.is_empty() {
        condition.push_str(" AND ");
        condition.push_str(&key_matches(target, same, key.len() + set.len()));
    }
    format!(
        "UPDATE {} AS t SET {} FROM {} WHERE {condition}",
        target.only,
        assignments.join(", "),
        unnest(target, key.iter().chain(set).chain(same)),
    )
}

/// New rows. One array per column.
pub(super) fn insert_many(target: &Target, columns: &[u16]) -> String {
    let values: Vec<String> =
        columns.iter().enumerate().map(|(i, c)| element(target, i, *c)).collect();
    format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}",
        target.quoted,
        list(target, columns),
        values.join(", "),
        unnest(target, columns.iter())
    )
}

/// New rows by COPY, which writes identity columns as they come.
pub(super) fn copy_in(target: &Target, columns: &[u16]) -> String {
    format!("COPY {} ({}) FROM STDIN", target.quoted, list(target, columns))
}

/// One new row.
pub(super) fn insert_one(target: &Target, columns: &[u16]) -> String {
    if columns.is_empty() {
        return format!("INSERT INTO {} DEFAULT VALUES", target.quoted);
    }
    let values: Vec<String> =
        columns.iter().enumerate().map(|(i, c)| parameter(target, i, *c)).collect();
    format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
        target.quoted,
        list(target, columns),
        values.join(", ")
    )
}

/// How one row is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Find {
    /// By its key columns.
    Key(Vec<u16>),
    /// By all its columns: column, and whether it is NULL. Of equal rows one is taken; without
    /// columns all rows are equal.
    Whole(Vec<(u16, bool)>),
}

impl Find {
    /// Number of parameters.
    pub(super) fn parameters(&self) -> usize {
        match self {
            Self::Key(columns) => columns.len(),
            Self::Whole(columns) => columns.iter().filter(|(_, null)| !null).count(),
        }
    }

    /// `USING` or `FROM` items and the condition on `t`.
    fn clauses(&self, target: &Target) -> (String, String) {
        match self {
            Self::Key(columns) => {
                let tests: Vec<String> = columns
                    .iter()
                    .enumerate()
                    .map(|(i, c)| equal(target, *c, "t.", &wanted(target, &text(i), *c)))
                    .collect();
                (String::new(), tests.join(" AND "))
            }
            Self::Whole(columns) => {
                let mut next = 0;
                let tests: Vec<String> = columns
                    .iter()
                    .map(|(c, null)| {
                        let column = target.column(*c);
                        if *null {
                            // IS NULL would also be true of a row of NULLs.
                            return format!("{} IS NOT DISTINCT FROM NULL", column.quoted);
                        }
                        let value = wanted(target, &text(next), *c);
                        next += 1;
                        // Equality may be coarser than the text (1.0 and 1.00); it is there for
                        // the sake of an index. `concat` gives what the type's output gives; a
                        // cast to text may cut (bpchar) or add something (xml).
                        let text = format!(
                            "pg_catalog.concat({}) COLLATE pg_catalog.\"C\" \
                             OPERATOR(pg_catalog.=) pg_catalog.concat({value})",
                            column.quoted
                        );
                        match &column.equality {
                            Some(_) => format!("{} AND {text}", equal(target, *c, "", &value)),
                            None => text,
                        }
                    })
                    .collect();
                let same = if tests.is_empty() { "true".into() } else { tests.join(" AND ") };
                let from = format!(
                    "(SELECT tableoid AS o, ctid AS c FROM {} WHERE {same} LIMIT 1) AS f",
                    target.only
                );
                let one = "t.tableoid OPERATOR(pg_catalog.=) f.o \
                           AND t.ctid OPERATOR(pg_catalog.=) f.c";
                (from, one.to_owned())
            }
        }
    }
}

/// One row goes.
pub(super) fn delete_one(target: &Target, find: &Find) -> String {
    let (from, condition) = find.clauses(target);
    let using = if from.is_empty() { from } else { format!("USING {from} ") };
    format!("DELETE FROM {} AS t {using}WHERE {condition}", target.only)
}

/// One row gets new values: parameters of `find`, then one per column of `set`.
pub(super) fn update_one(target: &Target, find: &Find, set: &[u16]) -> String {
    let (from, condition) = find.clauses(target);
    let from = if from.is_empty() { from } else { format!("FROM {from} ") };
    let assignments: Vec<String> = set
        .iter()
        .enumerate()
        .map(|(i, c)| {
            let at = find.parameters() + i;
            let value = parameter(target, at, *c);
            format!("{} = {}", target.column(*c).quoted, kept(target, "t", *c, &text(at), value))
        })
        .collect();
    format!("UPDATE {} AS t SET {} {from}WHERE {condition}", target.only, assignments.join(", "))
}

/// One row is written anew, because a column that cannot be set changes: parameters of `find`,
/// then one per column of `set`. All other columns keep their values.
pub(super) fn move_one(target: &Target, find: &Find, set: &[u16]) -> String {
    let columns: Vec<u16> = (0..)
        .zip(&target.columns)
        .filter(|(_, column)| !column.generated)
        .map(|(i, _)| i)
        .collect();
    let values: Vec<String> = columns
        .iter()
        .map(|c| match set.iter().position(|s| s == c) {
            Some(i) => {
                let at = find.parameters() + i;
                kept(target, "gone", *c, &text(at), parameter(target, at, *c))
            }
            None => format!("gone.{}", target.column(*c).quoted),
        })
        .collect();
    format!(
        "WITH gone AS ({} RETURNING t.*) \
         INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM gone",
        delete_one(target, find),
        target.quoted,
        list(target, &columns),
        values.join(", ")
    )
}

/// Tables are emptied together.
pub(super) fn truncate(targets: &[&Target], restart_identity: bool) -> String {
    let tables: Vec<&str> = targets.iter().map(|t| t.only.as_str()).collect();
    let restart = if restart_identity { " RESTART IDENTITY" } else { "" };
    format!("TRUNCATE {}{restart}", tables.join(", "))
}

/// All rows of tables go where others that refer to them keep theirs: TRUNCATE refuses that.
pub(super) fn delete_all(targets: &[&Target]) -> String {
    let each: Vec<String> = targets.iter().map(|t| format!("DELETE FROM {}", t.only)).collect();
    each.join("; ")
}

/// `unnest` of one array per column as `u(a0, a1, ...)`. With several arrays it is syntax and not a
/// function, so it cannot have a schema.
fn unnest<'c>(target: &Target, columns: impl Iterator<Item = &'c u16>) -> String {
    let (arrays, names): (Vec<String>, Vec<String>) = columns
        .enumerate()
        .map(|(i, c)| {
            let element = target.column(*c).wire.element();
            (format!("${}::pg_catalog.{element}[]", i + 1), format!("a{i}"))
        })
        .unzip();
    format!("unnest({}) AS u({})", arrays.join(", "), names.join(", "))
}

/// The element of array `index` as a value of the column.
fn element(target: &Target, index: usize, column: u16) -> String {
    let column = target.column(column);
    match column.wire {
        Wire::Text => format!("{}::{}", at_u(index), column.cast),
        _ => at_u(index),
    }
}

/// The element of an array as it was sent.
fn at_u(index: usize) -> String {
    format!("u.a{index}")
}

/// What a column is set to. A value that stays as it is, is not cast where its domain might refuse it:
/// a constraint that is not valid asks nobody whose value was there before.
fn kept(target: &Target, row: &str, column: u16, sent: &str, value: String) -> String {
    let column = target.column(column);
    if !column.unproven {
        return value;
    }
    let here = format!("{row}.{}", column.quoted);
    let nulls = format!("pg_catalog.num_nulls({here}, {sent}) OPERATOR(pg_catalog.=)");
    format!(
        "CASE WHEN {nulls} 2 OR {nulls} 0 AND pg_catalog.concat({here}) COLLATE pg_catalog.\"C\" \
         OPERATOR(pg_catalog.=) {sent} THEN {here} ELSE {value} END"
    )
}

fn key_matches(target: &Target, columns: &[u16], first: usize) -> String {
    let tests: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(i, c)| {
            let sent = at_u(first + i);
            let value = match target.column(*c).wire {
                Wire::Text => wanted(target, &sent, *c),
                _ => sent,
            };
            equal(target, *c, "t.", &value)
        })
        .collect();
    tests.join(" AND ")
}

/// The column equals a value of its type. Arrays, ranges and composites have no operator of their
/// own; the one of `pg_catalog` is right.
fn equal(target: &Target, column: u16, before: &str, value: &str) -> String {
    let column = target.column(column);
    let operator = column.equality.as_deref().unwrap_or("pg_catalog.=");
    let of = &column.compared_as;
    format!("{before}{}{of} OPERATOR({operator}) {value}{of}", column.quoted)
}

fn parameter(target: &Target, index: usize, column: u16) -> String {
    format!("{}::{}", text(index), target.column(column).cast)
}

/// A text as a value to look for.
fn wanted(target: &Target, sent: &str, column: u16) -> String {
    format!("{sent}::{}", target.column(column).found_as)
}

/// A parameter as it was sent.
fn text(index: usize) -> String {
    format!("${}::pg_catalog.text", index + 1)
}

fn list(target: &Target, columns: &[u16]) -> String {
    let names: Vec<&str> = columns.iter().map(|c| &*target.column(*c).quoted).collect();
    names.join(", ")
}

/// The COPY statement for whole rows of a table in one of COPY's formats.
pub(super) fn copy_table(table: &cutover_core::model::schema::Table, binary: bool) -> String {
    let columns: Vec<String> = table.carried().map(|c| sql::ident(&c.name)).collect();
    // Nothing may stand between parentheses, and without them it means all that are not computed.
    let columns =
        if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) };
    let format = if binary { " WITH (FORMAT binary)" } else { "" };
    format!("COPY {}{columns} FROM STDIN{format}", sql::table(&table.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::shape::tests::target;

    #[test]
    fn many_rows() {
        let t = target(&["k*", "a", "Ä b", "i!"]);
        assert_eq!(
            delete_many(&t, &[0]),
            "DELETE FROM ONLY \"S\".\"t\" AS t USING \
             unnest($1::pg_catalog.text[]) AS u(a0) \
             WHERE t.\"k\" OPERATOR(pg_catalog.=) u.a0::text"
        );
        assert_eq!(
            update_many(&t, &[0], &[1, 2], &[3]),
            "UPDATE ONLY \"S\".\"t\" AS t SET \"a\" = u.a1::text, \"Ä b\" = u.a2::text FROM \
             unnest($1::pg_catalog.text[], $2::pg_catalog.text[], \
             $3::pg_catalog.text[], $4::pg_catalog.text[]) AS u(a0, a1, a2, a3) \
             WHERE t.\"k\" OPERATOR(pg_catalog.=) u.a0::text \
             AND t.\"i\" OPERATOR(pg_catalog.=) u.a3::text"
        );
        assert_eq!(
            insert_many(&t, &[0, 3]),
            "INSERT INTO \"S\".\"t\" (\"k\", \"i\") OVERRIDING SYSTEM VALUE \
             SELECT u.a0::text, u.a1::text FROM unnest($1::pg_catalog.text[], \
             $2::pg_catalog.text[]) AS u(a0, a1)"
        );
    }

    #[test]
    fn one_row() {
        let t = target(&["k*", "a", "g=", "i!"]);
        let key = Find::Key(vec![0]);
        assert_eq!(
            update_one(&t, &key, &[0, 1]),
            "UPDATE ONLY \"S\".\"t\" AS t SET \"k\" = $2::pg_catalog.text::text, \
             \"a\" = $3::pg_catalog.text::text \
             WHERE t.\"k\" OPERATOR(pg_catalog.=) $1::pg_catalog.text::text"
        );
        assert_eq!(
            move_one(&t, &key, &[0]),
            "WITH gone AS (DELETE FROM ONLY \"S\".\"t\" AS t \
             WHERE t.\"k\" OPERATOR(pg_catalog.=) $1::pg_catalog.text::text RETURNING t.*) \
             INSERT INTO \"S\".\"t\" (\"k\", \"a\", \"i\") OVERRIDING SYSTEM VALUE \
             SELECT $2::pg_catalog.text::text, gone.\"a\", gone.\"i\" FROM gone"
        );
        let whole = Find::Whole(vec![(0, false), (1, true)]);
        assert_eq!(
            delete_one(&t, &whole),
            "DELETE FROM ONLY \"S\".\"t\" AS t USING (SELECT tableoid AS o, ctid AS c \
             FROM ONLY \"S\".\"t\" WHERE \"k\" OPERATOR(pg_catalog.=) $1::pg_catalog.text::text \
             AND pg_catalog.concat(\"k\") COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) \
             pg_catalog.concat($1::pg_catalog.text::text) AND \"a\" IS NOT DISTINCT FROM NULL LIMIT 1) AS f \
             WHERE t.tableoid OPERATOR(pg_catalog.=) f.o AND t.ctid OPERATOR(pg_catalog.=) f.c"
        );
    }

    #[test]
    fn what_a_domain_might_refuse_stays_as_it_is() {
        let mut t = target(&["k*", "d"]);
        t.columns[1].unproven = true;
        assert_eq!(
            update_one(&t, &Find::Key(vec![0]), &[1]),
            "UPDATE ONLY \"S\".\"t\" AS t SET \"d\" = CASE WHEN pg_catalog.num_nulls(t.\"d\", \
             $2::pg_catalog.text) OPERATOR(pg_catalog.=) 2 OR pg_catalog.num_nulls(t.\"d\", \
             $2::pg_catalog.text) OPERATOR(pg_catalog.=) 0 AND pg_catalog.concat(t.\"d\") COLLATE \
             pg_catalog.\"C\" OPERATOR(pg_catalog.=) $2::pg_catalog.text THEN t.\"d\" \
             ELSE $2::pg_catalog.text::text END \
             WHERE t.\"k\" OPERATOR(pg_catalog.=) $1::pg_catalog.text::text"
        );
        assert!(update_many(&t, &[0], &[1], &[]).contains("u.a1 THEN t.\"d\" ELSE u.a1::text END"));
        assert!(move_one(&t, &Find::Key(vec![0]), &[0, 1]).contains("THEN gone.\"d\" ELSE"));
    }

    #[test]
    fn all_tables_of_a_truncate_go_together() {
        let (a, b) = (target(&["k*"]), target(&["k*"]));
        assert_eq!(
            truncate(&[&a, &b], true),
            "TRUNCATE ONLY \"S\".\"t\", ONLY \"S\".\"t\" RESTART IDENTITY"
        );
    }
}

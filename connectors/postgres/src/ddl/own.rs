//! What a partition has of its own, unlike the table above it. Pure.

use cutover_core::model::schema::TableName;

use super::{
    change::{Step, alter_only, alter_table},
    message::{Column, Definition, Grant, Partition},
};
use crate::sql;

/// Defaults of a table of its own that are to be those of the partition `part`.
pub(super) fn defaults(there: &Definition, part: &Partition, table: &Definition) -> Vec<Step> {
    let Some(own) = &part.defaults else { return Vec::new() };
    let plain = there.columns.iter().filter(|c| c.generated.is_empty());
    plain
        .filter_map(|column| {
            let wanted = own.get(&column.name).unwrap_or(&column.expression);
            let known = table.column(&column.name)?;
            (known.expression != *wanted).then(|| {
                default(&table.table(), &column.name, wanted.as_deref(), "another default")
            })
        })
        .collect()
}

/// Makes a default, or takes it away.
fn default(table: &TableName, column: &str, wanted: Option<&str>, what: &str) -> Step {
    Step::safe(format!("{table}.{column} has {what}"), alter_table(table, &action(column, wanted)))
}

/// The same of this table alone: what is below it is looked at by itself, and may come before it.
pub(super) fn default_only(
    table: &TableName,
    column: &str,
    wanted: Option<&str>,
    what: &str,
) -> Step {
    Step::safe(format!("{table}.{column} has {what}"), alter_only(table, &action(column, wanted)))
}

fn action(column: &str, wanted: Option<&str>) -> String {
    let name = sql::ident(column);
    match wanted {
        Some(wanted) => format!("ALTER COLUMN {name} SET DEFAULT {wanted}"),
        None => format!("ALTER COLUMN {name} DROP DEFAULT"),
    }
}

/// Defaults that partitions and heirs on both sides have of their own, made alike; and those of which
/// only a try can say whether they are.
///
/// `parent`: what will be done to the parent here.
pub(super) fn defaults_below(
    there: &Definition,
    here: &Definition,
    parent: &[Step],
) -> (Vec<Step>, Vec<Spelled>) {
    let (mut steps, mut doubtful) = (Vec::new(), Vec::new());
    for part in there.partitions.iter().chain(&there.heirs) {
        let mut below = here.partitions.iter().chain(&here.heirs);
        let known = below.find(|p| p.table() == part.table());
        let Some((own, here_own)) =
            part.defaults.as_ref().zip(known.and_then(|k| k.defaults.as_ref()))
        else {
            continue;
        };
        for column in there.columns.iter().filter(|c| c.generated.is_empty()) {
            if here.column(&column.name).is_none() {
                continue;
            }
            // Whatever the parent gets, all that is below gets.
            let label = format!("{}.{}", there.table(), column.name);
            let overridden = parent.iter().any(|step| step.about == label);
            let (name, table) = (&column.name, part.table());
            match (own.get(name), here_own.get(name).filter(|_| !overridden)) {
                (None, None) => {}
                (None, Some(_)) => {
                    let wanted = column.expression.as_deref();
                    steps.push(default_only(&table, name, wanted, "the default of its parent"));
                }
                (Some(Some(wanted)), Some(Some(has))) if wanted != has => {
                    let (wanted, has) = (wanted.clone(), has.clone());
                    doubtful.push(Spelled { table, column: column.clone(), wanted, has });
                }
                (Some(wanted), Some(has)) if wanted == has => {}
                (Some(wanted), _) => {
                    let wanted = wanted.as_deref();
                    steps.push(default_only(&table, name, wanted, "a default of its own"));
                }
            }
        }
    }
    (steps, doubtful)
}

/// A default that is written otherwise, and may be the same.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spelled {
    pub(super) table: TableName,
    pub(super) column: Column,
    pub(super) wanted: String,
    pub(super) has: String,
}

/// What a partition that is created as part of `like` has of its own; it is empty, so nobody reads
/// a row for it.
pub(super) fn of_its_own(there: &Definition, like: &Definition) -> Vec<Step> {
    let (table, mut steps) = (there.table(), Vec::new());
    for column in there.columns.iter().filter(|c| c.generated.is_empty()) {
        let Some(parent) = like.column(&column.name) else { continue };
        if column.expression != parent.expression {
            let wanted = column.expression.as_deref();
            steps.push(default(&table, &column.name, wanted, "a default of its own"));
        }
        if column.not_null && !parent.not_null {
            let action = format!("ALTER COLUMN {} SET NOT NULL", sql::ident(&column.name));
            let what = format!("{table}.{} is NOT NULL", column.name);
            steps.push(Step::safe(what, alter_table(&table, &action)));
        }
    }
    for (name, text) in &there.constraints {
        if like.constraints.contains_key(name) || like.constraints.values().any(|t| t == text) {
            continue;
        }
        let what = format!("{table} has a constraint {name}: {text}");
        let action = format!("ADD CONSTRAINT {} {text}", sql::ident(name));
        steps.push(match text.starts_with("FOREIGN KEY") {
            true => Step::unsafe_(what),
            false => Step::safe(what, alter_table(&table, &action)),
        });
    }
    steps
}

/// Default privileges of whoever created it are not ours. A role or a privilege that is not known
/// here is left out: what is missing is told before a move.
pub(super) fn granted(table: &TableName, grant: &Grant) -> String {
    let Grant { to, what, on } = grant;
    let to = to.as_ref().map_or("PUBLIC".to_owned(), |role| sql::ident(role));
    let on = if *on { " WITH GRANT OPTION" } else { "" };
    let grant = format!("GRANT {what} ON {} TO {to}{on}", sql::table(table));
    format!(
        "; DO $cutover$ BEGIN EXECUTE {}; \
         EXCEPTION WHEN undefined_object OR syntax_error THEN NULL; END $cutover$",
        sql::literal(&grant)
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ddl::change::tests::{column, table};

    fn with(name: &str, expression: Option<&str>) -> Column {
        Column { expression: expression.map(ToOwned::to_owned), ..column(name, "text") }
    }

    /// A partitioned table with one column, and the default that its partition has of its own.
    fn parent(expression: Option<&str>, own: Option<Option<&str>>) -> Definition {
        let own = own.map(|own| ("v".to_owned(), own.map(ToOwned::to_owned)));
        let part = Partition {
            schema: "s".into(),
            name: "p1".into(),
            bound: "DEFAULT".into(),
            parent: None,
            defaults: Some(own.into_iter().collect()),
        };
        let columns = [with("v", expression)];
        Definition { kind: "p".into(), partitions: vec![part], ..table(&columns) }
    }

    #[test]
    fn defaults_of_partitions_become_alike() {
        let set = |value: &str| {
            Some(format!("ALTER TABLE ONLY \"s\".\"p1\" ALTER COLUMN \"v\" SET DEFAULT {value}"))
        };
        let drop =
            || Some("ALTER TABLE ONLY \"s\".\"p1\" ALTER COLUMN \"v\" DROP DEFAULT".to_owned());
        let own = |value: Option<&'static str>| Some(value);
        for (name, there, here, altered, want) in [
            ("alike", (Some("a"), None), (Some("a"), None), false, None),
            ("its own", (Some("a"), own(Some("b"))), (Some("a"), None), false, set("b")),
            ("none", (Some("a"), own(None)), (Some("a"), None), false, drop()),
            ("not its own", (Some("a"), None), (Some("a"), own(Some("b"))), false, set("a")),
            ("not any more", (None, None), (None, own(Some("b"))), false, drop()),
            ("both", (Some("a"), own(Some("b"))), (Some("a"), own(Some("b"))), false, None),
            ("the parent's goes down", (Some("a"), None), (Some("c"), own(Some("b"))), true, None),
            (
                "only the parent's",
                (Some("a"), own(Some("b"))),
                (None, own(Some("b"))),
                true,
                set("b"),
            ),
        ] {
            let (there, here) = (parent(there.0, there.1), parent(here.0, here.1));
            let about = if altered { "s.t.v" } else { "s.t.w" };
            let step = Step { about: about.into(), ..Step::unsafe_("x") };
            let (steps, doubtful) = defaults_below(&there, &here, &[step]);
            let made: Vec<_> = steps.into_iter().map(|s| s.statement).collect();
            assert_eq!(made, want.map(Some).into_iter().collect::<Vec<_>>(), "{name}");
            assert!(doubtful.is_empty(), "{name}");
        }
        let (there, here) = (parent(None, own(Some("b"))), parent(None, own(Some("c"))));
        let (steps, doubtful) = defaults_below(&there, &here, &[]);
        assert!(steps.is_empty() && doubtful[0].wanted == "b", "only a try can say");
        let mut silent = there.clone();
        silent.partitions[0].defaults = None;
        assert_eq!(defaults_below(&silent, &here, &[]), (vec![], vec![]), "an earlier version");
    }

    #[test]
    fn what_a_new_partition_has_of_its_own_is_made() {
        let like = parent(Some("a"), None);
        let mut there = table(&[Column { not_null: true, ..with("v", Some("b")) }]);
        there.constraints = BTreeMap::from([
            ("c".to_owned(), "CHECK ((v > 'a'::text))".to_owned()),
            ("f".to_owned(), "FOREIGN KEY (v) REFERENCES s.u(v)".to_owned()),
        ]);
        let made: Vec<bool> =
            of_its_own(&there, &like).into_iter().map(|s| s.statement.is_some()).collect();
        assert_eq!(made, [true, true, true, false]);
        assert!(of_its_own(&table(&[with("v", Some("a"))]), &like).is_empty());
    }
}

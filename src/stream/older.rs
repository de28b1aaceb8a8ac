//! Rows that do not fit since they are older than a change of definitions that the other side has
//! already: they stand before it in the same transaction, or nobody was told of it.

use cutover_core::{
    model::{
        event::{Event, Relation},
        schema::{Table, TableName},
        side::Side,
    },
    port::{PortError, sink::Route},
};

use super::{batch::Batch, pipe::Worker};

/// A column is missing, a row is not accepted, a table has no place.
const COLUMNS: &str = "CUT0403";
const REFUSED: &str = "CUT0407";
const NO_PLACE: &str = "CUT0404";

/// What is known of rows that do not fit.
#[derive(Debug, PartialEq, Eq)]
enum Older {
    /// Their table is not there any more under this name.
    Gone,
    /// Both sides are alike by now; which columns of theirs the source has no more.
    Columns(Vec<String>),
}

impl Worker {
    /// Says so where that is why rows of the batch do not fit. Only then a new copy of the table
    /// would put it right.
    pub(super) async fn older(&mut self, error: PortError, batch: &Batch) -> PortError {
        let PortError::Definite { code, spoiled, .. } = &error else { return error };
        if ![COLUMNS, REFUSED, NO_PLACE].contains(code) {
            return error;
        }
        let mut relations = batch.events.iter().filter_map(|event| match event {
            Event::Row { relation, .. } => Some(&**relation),
            _ => None,
        });
        let route = |relation: &Relation| route(&self.config.routes, &relation.name);
        let about = |relation: &&Relation| match (spoiled, route(relation)) {
            (Some(table), Some(route)) => route.target.name == **table,
            (None, None) => *code == NO_PLACE,
            _ => false,
        };
        let Some(relation) = relations.find(about) else { return error };
        let target = route(relation).map(|route| &route.target);
        // What cannot be asked now may be asked by whoever comes next; the stop stands.
        let Ok(now) = self.config.source.definitions(&self.config.selection).await else {
            return without_copy(error);
        };
        let now = now.iter().find(|table| table.name == relation.name);
        match older(relation, now, target) {
            Some(found) => told(error, &found, &relation.name, self.config.from),
            None => without_copy(error),
        }
    }
}

fn route<'a>(routes: &'a [Route], source: &TableName) -> Option<&'a Route> {
    routes.iter().find(|route| &route.source == source)
}

/// Why a row of `relation` does not fit into `target`, its table being like `now`.
fn older(relation: &Relation, now: Option<&Table>, target: Option<&Table>) -> Option<Older> {
    match (now, target) {
        (None, None) => Some(Older::Gone),
        (Some(now), Some(target)) => {
            let takes = |column: &cutover_core::model::schema::Column| {
                target
                    .column(&column.name)
                    .is_some_and(|there| there.declared_type == column.declared_type)
            };
            let gone: Vec<String> = relation
                .columns
                .iter()
                .filter(|c| now.column(&c.name).is_none() && target.column(&c.name).is_none())
                .map(|c| c.name.clone())
                .collect();
            now.carried().all(takes).then_some(Older::Columns(gone))
        }
        _ => None,
    }
}

fn told(error: PortError, found: &Older, table: &TableName, from: Side) -> PortError {
    let to = from.other();
    let PortError::Definite { code, doing, what, remedy, spoiled, source } = error else {
        return error;
    };
    let (what, remedy) = match found {
        Older::Gone => (
            format!(
                "{what}: {table} is not there any more on {from}, and these rows are older than \
                 what became of it"
            ),
            format!(
                "if it was dropped, leave it out with `tables: exclude` ({table}), then stop and \
                 start `cutover run`; if it has another name by now, rename it on {to} as well, \
                 and restart: it is copied again"
            ),
        ),
        Older::Columns(gone) if gone.is_empty() => (
            format!("{what}; both sides are defined alike by now"),
            format!(
                "if {table} has changed since these rows were written (a type, for example), copy \
                 it again with `cutover verify --repair`: the stream then leaves out what the copy \
                 contains. Else: {remedy}"
            ),
        ),
        Older::Columns(gone) => (
            format!(
                "{what}; {table} on {from} has no such column any more either (dropped or renamed: \
                 {}), and these rows are older than that change",
                gone.join(", ")
            ),
            "copy the table again with `cutover verify --repair`: the stream then leaves out what \
             the copy contains. A column that was there only for a while may be added instead \
             (ALTER TABLE ... ADD COLUMN), until its rows have passed"
                .to_owned(),
        ),
    };
    PortError::Definite { code, doing, what, remedy, spoiled, source }
}

/// A copy would meet the same.
fn without_copy(mut error: PortError) -> PortError {
    if let PortError::Definite { spoiled, .. } = &mut error {
        *spoiled = None;
    }
    error
}

#[cfg(test)]
mod tests {
    use cutover_core::model::{
        event::RelationColumn,
        schema::{Column, Generated, Identity, RowIdentity},
    };

    use super::*;

    fn relation(columns: &[&str]) -> Relation {
        let column = |name: &&str| RelationColumn {
            name: (*name).into(),
            key: false,
            type_id: 25,
            type_modifier: -1,
        };
        Relation {
            id: 1,
            name: TableName::new("s", "t"),
            columns: columns.iter().map(column).collect(),
            full_identity: false,
        }
    }

    fn table(columns: &[(&str, &str)]) -> Table {
        let column = |(name, kind): &(&str, &str)| Column {
            name: (*name).into(),
            base_type: (*kind).into(),
            declared_type: (*kind).into(),
            nullable: true,
            generated: Generated::No,
            identity: Identity::No,
            collation: None,
        };
        Table {
            name: TableName::new("s", "t"),
            columns: columns.iter().map(column).collect(),
            identity: RowIdentity::Nothing,
            primary_key: Vec::new(),
            root: None,
            estimated_rows: None,
            bytes: 0,
        }
    }

    #[test]
    fn only_what_both_sides_have_not_any_more_is_older() {
        let row = relation(&["id", "v"]);
        let (old, new) =
            (table(&[("id", "int"), ("v", "text")]), table(&[("id", "int"), ("w", "text")]));
        let gone =
            |names: &[&str]| Some(Older::Columns(names.iter().map(ToString::to_string).collect()));
        assert_eq!(older(&row, Some(&new), Some(&new)), gone(&["v"]));
        assert_eq!(older(&row, Some(&old), Some(&new)), None, "green lacks what blue has");
        assert_eq!(older(&row, Some(&new), Some(&old)), None, "green is behind");
        assert_eq!(older(&row, Some(&old), Some(&old)), gone(&[]));
        let other = table(&[("id", "int"), ("v", "int")]);
        assert_eq!(older(&row, Some(&other), Some(&old)), None, "another type");
        assert_eq!(older(&row, None, None), Some(Older::Gone));
        assert_eq!(older(&row, Some(&old), None), None, "new on blue");
        assert_eq!(older(&row, None, Some(&old)), None);
    }

    #[test]
    fn a_copy_is_the_remedy_only_where_it_helps() {
        let name = TableName::new("s", "t");
        let error = || PortError::definite(COLUMNS, "mapping", "lacks v", "add it").spoiling(&name);
        let copied = |error: &PortError| match error {
            PortError::Definite { spoiled, remedy, .. } => {
                (spoiled.is_some(), remedy.contains("verify --repair"))
            }
            PortError::Transient { .. } => unreachable!(),
        };
        let found = Older::Columns(vec!["v".into()]);
        assert_eq!(copied(&told(error(), &found, &name, Side::Blue)), (true, true));
        assert_eq!(copied(&without_copy(error())), (false, false));
    }
}

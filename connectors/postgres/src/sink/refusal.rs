//! Why this side cannot take what the stream says. Never names values.

use cutover_core::{
    model::{position::Position, schema::TableName},
    port::PortError,
};
use tokio_postgres::error::{DbError, SqlState};

use crate::connect::{NOT_CONVERTIBLE, ServerError, is_of_a_function};

/// A row that must be there is not.
pub(super) const ROW_MISSING: &str = "CUT0401";
/// A row that must not be there is.
pub(super) const ROW_EXISTS: &str = "CUT0402";
/// The target lacks columns.
pub(super) const COLUMNS_MISSING: &str = "CUT0403";
/// Nobody said where the table goes.
pub(super) const NO_ROUTE: &str = "CUT0404";
/// A TRUNCATE cannot be repeated here.
pub(super) const TRUNCATE_REFUSED: &str = "CUT0405";
/// The stream and the stored position do not belong together.
pub(super) const WRONG_HISTORY: &str = "CUT0406";
/// The target does not accept a row.
pub(super) const ROW_REFUSED: &str = "CUT0407";
/// A key names several rows.
pub(super) const KEY_NOT_UNIQUE: &str = "CUT0408";
/// Somebody else writes for this run.
pub(super) const WRITER_BUSY: &str = "CUT0409";
/// The sink's own objects are missing or of another version.
pub(super) const NOT_PREPARED: &str = "CUT0410";
/// The events do not make a stream.
pub(super) const NOT_A_STREAM: &str = "CUT0411";
/// Another process works on the run.
pub(super) const LEASE_HELD: &str = "CUT0501";

/// Where in the stream a change stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In the transaction that ends here.
    Position(Position),
    /// In a transaction whose end has not been read.
    Open(u32),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Position(position) => write!(f, "the transaction at {position}"),
            Self::Open(xid) => write!(f, "the large transaction {xid} (its end is not read yet)"),
        }
    }
}

fn applying(table: &TableName, place: &Place) -> String {
    format!("applying {place} to table {table}")
}

fn repair(page: &str) -> String {
    format!(
        "the table was changed by somebody else, or its copy is damaged: find out who writes to \
         it, then copy it again with `cutover verify --repair`, or put a large one's row right by \
         hand (docs/errors/{page}.md)"
    )
}

pub(super) fn row_missing(table: &TableName, place: &Place) -> PortError {
    PortError::definite(
        ROW_MISSING,
        applying(table, place),
        "a row that is updated or deleted is missing; nothing of the batch was written",
        repair(ROW_MISSING),
    )
    .spoiling(table)
}

pub(super) fn row_exists(table: &TableName, place: &Place, constraint: Option<&str>) -> PortError {
    let by = constraint.map(|c| format!(" (constraint {c})")).unwrap_or_default();
    PortError::definite(
        ROW_EXISTS,
        applying(table, place),
        format!("a row that is written is there already{by}; nothing of the batch was written"),
        repair(ROW_EXISTS),
    )
    .spoiling(table)
}

pub(super) fn key_not_unique(table: &TableName, place: &Place, rows: u64) -> PortError {
    PortError::definite(
        KEY_NOT_UNIQUE,
        applying(table, place),
        format!(
            "the key of one row names {rows} rows on this side; nothing of the batch was written"
        ),
        format!(
            "copy the table again with `cutover verify --repair`, and create the unique index that \
             the source has for this key (docs/errors/{KEY_NOT_UNIQUE}.md)"
        ),
    )
    .spoiling(table)
}

pub(super) fn columns_missing(source: &TableName, target: &TableName, names: &[&str]) -> PortError {
    PortError::definite(
        COLUMNS_MISSING,
        format!("mapping table {source} to {target}"),
        format!("the target lacks columns of the source: {}", names.join(", ")),
        format!(
            "add the columns to {target} with the types they have on the source (ALTER TABLE ... \
             ADD COLUMN), then start the run again"
        ),
    )
    .spoiling(target)
}

pub(super) fn table_missing(table: &TableName) -> PortError {
    PortError::definite(
        COLUMNS_MISSING,
        format!("opening table {table}"),
        "the table does not exist on this side",
        format!("create {table} as it is on the source, then start the run again"),
    )
}

pub(super) fn no_route(table: &TableName) -> PortError {
    PortError::definite(
        NO_ROUTE,
        format!("applying changes of table {table}"),
        "the stream names a table that this run does not move",
        "create the table on this side as it is on the other one (a partition as a partition of the \
         same table; it may be empty, its rows are copied), or leave it out with `tables: exclude`; \
         then stop and start `cutover run`",
    )
}

pub(super) fn truncate_refused(tables: &str, place: &Place, what: &str) -> PortError {
    PortError::definite(
        TRUNCATE_REFUSED,
        format!("applying {place}: TRUNCATE of {tables}"),
        what.to_owned(),
        "empty the tables on this side by hand (or drop the foreign key that is in the way), \
         then start the run again",
    )
}

/// `holder` has rows of source tables that were not emptied with those of `target`.
pub(super) fn truncate_unshared(
    target: &TableName,
    holder: &TableName,
    place: &Place,
) -> PortError {
    PortError::definite(
        TRUNCATE_REFUSED,
        format!("applying {place}: TRUNCATE of {target}"),
        format!(
            "{holder} holds rows of several tables of the source here, and only some of them were \
             emptied; nothing of the batch was written"
        ),
        format!(
            "copy {holder} again with `cutover verify --repair`: the copy contains the TRUNCATE, and \
             the stream goes on behind it (docs/errors/{TRUNCATE_REFUSED}.md)"
        ),
    )
    .spoiling(holder)
}

pub(super) fn row_refused(table: &TableName, place: &Place, db: &DbError) -> PortError {
    let what = describe(db);
    PortError::definite(
        ROW_REFUSED,
        applying(table, place),
        format!("this side does not accept a row: {what}; nothing of the batch was written"),
        refused_remedy(db),
    )
    .spoiling(table)
}

/// What to do about a row that is refused.
pub(super) fn refused_remedy(db: &DbError) -> &'static str {
    if lacks_a_name(db) {
        return "a function that a CHECK, a generated column, a domain or an index of the table calls \
                finds something only by the search_path of clients: ALTER FUNCTION ... SET search_path \
                = ... on both sides, then start the run again; the server's log has the names \
                (docs/errors/CUT0407.md)";
    }
    "make the definitions of the table equal on both sides (types, lengths, NOT NULL, CHECK, \
     partitions, domains, enum labels), then start the run again; the server's log has the details"
}

/// Whether a function that is called for a row did not find what it names.
pub(super) fn lacks_a_name(db: &DbError) -> bool {
    let missing = ["42883", "42P01", "42704", "3F000"].contains(&db.code().code());
    missing && db.where_().is_some()
}

pub(super) fn row_suppressed(table: &TableName, place: &Place) -> PortError {
    PortError::definite(
        ROW_REFUSED,
        applying(table, place),
        "this side does not accept a row: a trigger or rule suppressed an insert; nothing of the \
         batch was written",
        "set the triggers and rules of the table back to what is quiet for `cutover` (ENABLE TRIGGER, \
         ENABLE RULE), then start the run again (docs/errors/CUT0407.md)",
    )
    .spoiling(table)
}

pub(super) fn not_convertible(table: &TableName, place: &Place, db: &DbError) -> PortError {
    PortError::definite(
        NOT_CONVERTIBLE,
        applying(table, place),
        format!("{}; nothing of the batch was written", ServerError::from(db)),
        "the encoding of this side lacks the character, so the change can never be applied here: \
         keep the application from writing such texts before the move; after it, give up the way \
         back with `cutover finish` (docs/errors/CUT0023.md)",
    )
}

pub(super) fn wrong_history(what: String) -> PortError {
    PortError::definite(
        WRONG_HISTORY,
        "storing how far the stream was applied",
        what,
        "the source was restored, failed over or exchanged: the stream cannot be continued. Run \
         `cutover abort` and begin a new run",
    )
}

pub(super) fn not_a_stream(what: impl Into<String>) -> PortError {
    PortError::definite(
        NOT_A_STREAM,
        "applying the stream",
        what,
        "report this together with the log of the run; starting the run again continues at the \
         last stored position",
    )
}

/// What the server says of itself, whatever the rows are: connections, transactions, prepared
/// statements, logins, resources, limits, states, operators, its system.
const OF_THE_SERVER: [&str; 11] =
    ["08", "25", "26", "28", "3D", "40", "53", "54", "55", "57", "58"];

/// Whether the server's answer is about the rows, so that writing them one by one gives a better
/// answer, or succeeds. Functions that are called for a row may raise any error.
pub(super) fn is_about_rows(error: &DbError) -> bool {
    let code = error.code().code();
    match code.get(..2).unwrap_or_default() {
        "XX" => code == "XX000" && is_of_a_function(error),
        class => code != "42501" && !OF_THE_SERVER.contains(&class),
    }
}

/// Whether the server said exactly this.
pub(super) fn is_state(error: &tokio_postgres::Error, state: &SqlState) -> bool {
    error.code() == Some(state)
}

/// What the server said without its message, which may quote values.
pub(super) fn describe(error: &DbError) -> String {
    let mut text = format!("SQLSTATE {}", error.code().code());
    let parts = [
        ("constraint", error.constraint()),
        ("column", error.column()),
        ("type", error.datatype()),
    ];
    for (what, name) in parts {
        if let Some(name) = name {
            text.push_str(&format!(", {what} {name}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_table_place_and_remedy() {
        let table = TableName::new("public", "orders");
        let place = Place::Position(Position::Postgres { timeline: 1, lsn: 0x2A });
        let error = row_missing(&table, &place);
        let text = error.to_string();
        assert!(text.contains("public.orders") && text.contains("0/2A"), "{text}");
        assert!(error.remedy().unwrap().contains("cutover verify --repair"));
    }
}

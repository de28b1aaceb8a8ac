//! What the server or the network said → what the engine should do about it.

use std::{error::Error, io};

use cutover_core::port::error::PortError;
use tokio_postgres::error::DbError;

use super::{config::ConfigError, stream::OpenError};

/// The address itself cannot be used.
pub(crate) const BAD_ADDRESS: &str = "CUT0010";
/// The server refuses the login.
pub(crate) const LOGIN_REFUSED: &str = "CUT0011";
/// There is no such database.
pub(crate) const NO_DATABASE: &str = "CUT0012";
/// TLS could not be settled.
pub(crate) const TLS_FAILED: &str = "CUT0013";
/// Something answers that is not a PostgreSQL server we can work with.
pub(crate) const WRONG_SERVER: &str = "CUT0014";
/// The role may not do this.
pub(crate) const NO_PRIVILEGE: &str = "CUT0015";
/// The server refused a statement.
pub(crate) const REFUSED: &str = "CUT0016";
/// The server has no room left.
pub(crate) const DISK_FULL: &str = "CUT0017";
/// A limit in the server's configuration is reached.
pub(crate) const LIMIT_REACHED: &str = "CUT0018";
/// A value or row is larger than a message can be.
pub(crate) const TOO_LARGE: &str = "CUT0019";

/// How the server begins when a value does not fit into its memory.
const TOO_LARGE_FOR_MEMORY: &str = "invalid memory alloc request size";

/// A text cannot be written in the encoding of the other side.
pub(crate) const NOT_CONVERTIBLE: &str = "CUT0023";

/// SQLSTATEs of a character that an encoding lacks, and of bytes that are no text in it.
pub(crate) fn is_about_encoding(sqlstate: &str) -> bool {
    matches!(sqlstate, "22P05" | "22021")
}

/// What a server said, without row values: PostgreSQL puts keys into DETAIL and input into some
/// messages, and both are left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} (SQLSTATE {sqlstate})")]
pub(crate) struct ServerError {
    /// Five characters.
    pub(crate) sqlstate: String,
    /// Message, and the table and constraint it is about.
    pub(crate) text: String,
}

impl ServerError {
    /// Builds the harmless form from the fields of an ErrorResponse.
    pub(crate) fn new(
        sqlstate: &str,
        message: &str,
        table: Option<&str>,
        constraint: Option<&str>,
    ) -> Self {
        let mut text = without_values(sqlstate, message);
        for (what, name) in [("table", table), ("constraint", constraint)] {
            if let Some(name) = name.filter(|n| !text.contains(*n)) {
                text.push_str(&format!(", {what} {name}"));
            }
        }
        Self { sqlstate: sqlstate.to_owned(), text }
    }
}

impl From<&DbError> for ServerError {
    fn from(e: &DbError) -> Self {
        Self::new(e.code().code(), e.message(), e.table(), e.constraint())
    }
}

/// Instead of what may hold values as a whole.
const UNSAID: &str = "its text may hold values: see the server's log";

/// Classes of the errors that PostgreSQL itself knows (documentation, appendix A).
const CLASSES: &str = "00 01 02 03 08 09 0A 0B 0F 0L 0P 0Z 10 20 21 22 23 24 25 26 27 28 2B 2D 2F 34 \
                       38 39 3B 3D 3F 40 42 44 53 54 55 57 58 72 F0 HV P0 XX";

/// Cuts out what may be a value. Data exceptions (class 22) quote the input, which may hold
/// quotes itself: everything from the first to the last one goes. Errors that functions raise may
/// say anything.
fn without_values(sqlstate: &str, message: &str) -> String {
    let known = CLASSES.split(' ').any(|class| sqlstate.starts_with(class));
    if (sqlstate.starts_with("P0") || !known) && !message.starts_with("cutover") {
        return format!("a function or trigger raised an error ({UNSAID})");
    }
    if !sqlstate.starts_with("22") {
        return message.to_owned();
    }
    if is_about_encoding(sqlstate) {
        return encoding_trouble(sqlstate, message);
    }
    match (message.find('"'), message.rfind('"')) {
        (Some(first), Some(last)) if first < last => {
            format!("{}\"...\"{}", &message[..first], &message[last + 1..])
        }
        (Some(first), _) => format!("{}\"...\"", &message[..first]),
        _ => message.to_owned(),
    }
}

/// These messages hold the bytes of a value outside of quotes, and names of encodings inside.
fn encoding_trouble(sqlstate: &str, message: &str) -> String {
    let is_name = |s: &&str| s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let quoted = message.split('"').skip(1).step_by(2).filter(is_name);
    let what = match sqlstate {
        "22021" => "a text is not valid in its encoding",
        _ => "a character of a text is missing in another encoding",
    };
    format!("{what} ({})", quoted.collect::<Vec<_>>().join(" to "))
}

/// What a failure of the driver means. `doing` says what was being done and where, for example
/// `reading the catalog of blue`.
pub(crate) fn port_error(doing: impl Into<String>, e: tokio_postgres::Error) -> PortError {
    let doing = doing.into();
    if let Some(db) = e.as_db_error() {
        return server_error(doing, ServerError::from(db));
    }
    let what = e.to_string();
    let io = e.source().and_then(|s| s.downcast_ref::<io::Error>());
    match (what.as_str(), io) {
        (_, _) if e.is_closed() => PortError::transient(doing, "the server closed the connection"),
        ("error parsing response from server" | "unexpected message from server", _) => {
            wrong_server(doing, "the answer is not PostgreSQL's protocol")
        }
        ("invalid configuration" | "authentication error", _) => {
            login_refused(doing, e.source().map_or_else(|| what.clone(), ToString::to_string))
        }
        (_, Some(io)) if io.kind() == io::ErrorKind::InvalidData => {
            wrong_server(doing, &io.to_string())
        }
        (_, Some(io)) => PortError::transient(doing, io::Error::new(io.kind(), io.to_string())),
        ("timeout waiting for server", _) => PortError::transient(doing, what),
        // Rows of another shape than asked for: a mistake of ours or a server we do not know.
        _ => PortError::definite(
            REFUSED,
            doing,
            format!("the answer has an unexpected shape ({what})"),
            "report this with the version of the server",
        ),
    }
}

/// Whether a function that was called for a row may have said this. COPY names its line itself.
pub(crate) fn is_of_a_function(e: &DbError) -> bool {
    let named = e.where_().is_some_and(|context| !context.starts_with("COPY "));
    named && !e.message().starts_with(TOO_LARGE_FOR_MEMORY)
}

/// As [`port_error`], for what was sent with rows: where a function spoke, its words may be of them,
/// whatever it calls the error.
pub(crate) fn row_error(doing: impl Into<String>, e: tokio_postgres::Error) -> PortError {
    match e.as_db_error() {
        Some(db) if is_of_a_function(db) => {
            let mut said = ServerError::from(db);
            said.text = format!("the server refused it ({UNSAID})");
            server_error(doing.into(), said)
        }
        _ => port_error(doing, e),
    }
}

/// What an ErrorResponse means.
pub(crate) fn server_error(doing: String, e: ServerError) -> PortError {
    let code = e.sqlstate.clone();
    let what = e.to_string();
    let definite =
        |code, remedy: &str| PortError::definite(code, doing.clone(), what.clone(), remedy);
    if e.text.contains("unsupported startup parameter") {
        return wrong_server(doing, "this is PgBouncer, not the database");
    }
    match code.as_str() {
        "28P01" | "28000" => login_refused(doing, what),
        "3D000" => definite(
            NO_DATABASE,
            "check the database name in the address, or create it: CREATE DATABASE name",
        ),
        "42501" => definite(
            NO_PRIVILEGE,
            "grant what is missing: docs/GRANTS.md lists the grants a run needs, and `cutover check` \
             finds all of them at once; then stop and start `cutover run` where one is working",
        ),
        "53100" => definite(DISK_FULL, "free space on the server, then start the run again"),
        "53400" => definite(
            LIMIT_REACHED,
            "raise the named limit in postgresql.conf (max_replication_slots, max_wal_senders, \
             max_active_replication_origins) and restart the server, or drop what is not used",
        ),
        "54000" | "XX000" if code == "54000" || what.contains(TOO_LARGE_FOR_MEMORY) => definite(
            TOO_LARGE,
            "a row does not fit into one message of the server (1 GiB; a bytea counts twice): \
             find it (WHERE octet_length(column) > 500000000), make it smaller or exclude its \
             table; when the stream met it, `cutover abort` and begin a new run after that",
        ),
        c if is_about_encoding(c) => definite(
            NOT_CONVERTIBLE,
            "find the text and write it anew (docs/errors/CUT0023.md has the statements), or \
             exclude its table; when the stream met it, `cutover abort` and begin a new run after \
             that",
        ),
        "57014" | "40001" | "40P01" | "55P03" | "55006" | "25P03" | "25P04" => {
            PortError::transient(doing, e)
        }
        c if c.starts_with("08") || c.starts_with("53") || c.starts_with("57P") => {
            PortError::transient(doing, e)
        }
        _ => definite(REFUSED, "see the server's log for the statement and its details"),
    }
}

pub(crate) fn open_error(doing: String, e: OpenError) -> PortError {
    match e {
        OpenError::Unreachable(..) => PortError::transient(doing, e),
        OpenError::NotPostgres(what) => wrong_server(doing, &what),
        OpenError::Tls(what, _) => PortError::definite(
            TLS_FAILED,
            doing,
            what,
            "check sslmode, sslrootcert and that the certificate names the host of the address; \
             `openssl s_client -starttls postgres -connect HOST:PORT` shows it",
        ),
    }
}

pub(crate) fn wrong_server(doing: String, what: &str) -> PortError {
    PortError::definite(
        WRONG_SERVER,
        doing,
        what,
        "give the address of the PostgreSQL server itself (version 14 or later), not of a pooler \
         or another program",
    )
}

pub(crate) fn login_refused(doing: String, what: impl Into<String>) -> PortError {
    PortError::definite(
        LOGIN_REFUSED,
        doing,
        what,
        "check user and password of this database in the configuration, and pg_hba.conf on the \
         server (a replication connection needs the role attribute REPLICATION)",
    )
}

impl From<ConfigError> for PortError {
    fn from(e: ConfigError) -> Self {
        Self::definite(BAD_ADDRESS, "reading the address", e.what, e.remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_out() {
        for (state, message, want) in [
            (
                "22P02",
                "invalid input syntax for type integer: \"se\"cret\"",
                "invalid input syntax for type integer: \"...\"",
            ),
            (
                "22003",
                "value \"99\" is out of range for type integer",
                "value \"...\" is out of range for type integer",
            ),
            (
                "22001",
                "value too long for type character varying(3)",
                "value too long for type character varying(3)",
            ),
            ("22P02", "broken \"sec", "broken \"...\""),
            (
                "23505",
                "duplicate key value violates unique constraint \"k\"",
                "duplicate key value violates unique constraint \"k\"",
            ),
            ("P0001", "cutover: closed", "cutover: closed"),
            (
                "22P05",
                "character with byte sequence 0xe6 0x97 0xa5 in encoding \"UTF8\" has no \
                 equivalent in encoding \"LATIN1\"",
                "a character of a text is missing in another encoding (UTF8 to LATIN1)",
            ),
            (
                "22021",
                "invalid byte sequence for encoding \"UTF8\": 0xe9",
                "a text is not valid in its encoding (UTF8)",
            ),
        ] {
            assert_eq!(ServerError::new(state, message, None, None).text, want);
        }
        for state in ["P0001", "P0004", "UE001", "12345"] {
            assert!(!ServerError::new(state, "balance of 42", None, None).text.contains("42"));
        }
    }

    #[test]
    fn what_to_do_about_a_state() {
        for (state, code) in [
            ("57P01", None),
            ("57P03", None),
            ("08006", None),
            ("53300", None),
            ("40P01", None),
            ("55P03", None),
            ("53100", Some(DISK_FULL)),
            ("53400", Some(LIMIT_REACHED)),
            ("28P01", Some(LOGIN_REFUSED)),
            ("3D000", Some(NO_DATABASE)),
            ("42501", Some(NO_PRIVILEGE)),
            ("23505", Some(REFUSED)),
            ("XX000", Some(REFUSED)),
            ("22P05", Some(NOT_CONVERTIBLE)),
            ("22021", Some(NOT_CONVERTIBLE)),
        ] {
            let e = server_error("x".into(), ServerError::new(state, "m", None, None));
            assert_eq!(e.code(), code, "{state}");
            assert_eq!(e.is_transient(), code.is_none());
        }
        let e = ServerError::new("08P01", "unsupported startup parameter: options", None, None);
        assert_eq!(server_error("x".into(), e).code(), Some(WRONG_SERVER));
    }
}

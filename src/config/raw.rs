//! The file as written. Every key is defined here and nowhere else.

use std::{fmt, path::Path};

use serde::{
    Deserialize,
    de::{self, Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

use super::{
    keys::{Section, section},
    problem::ConfigError,
    secret::Secret,
};

/// A text and its place.
pub type Text = Spanned<String>;

section! {
    /// The keys at the top of the file.
    Root at "" {
        /// Name of the run: 1 to 40 characters of `a-z`, `0-9` and `-`, starting with a letter.
        /// Everything that is created on a server carries it, and it never changes during a run.
        run ("run"): Text, "text", required, since "0.1";
        /// Folder of the journal, the control socket and the reports, relative to this file.
        /// It must survive a restart of the machine.
        state_dir ("state_dir"): Text, "path", default "./state", since "0.1";
        /// The database that owns the writes when the run begins.
        blue ("blue"): Database, "mapping", required, since "0.1";
        /// Its successor.
        green ("green"): Database, "mapping", required, since "0.1";
        /// Which tables are moved.
        tables ("tables"): Tables, "mapping", otherwise "every table of every user schema", since "0.1";
        /// Where green's tables come from: `copy` (blue's definitions are copied), `provided` (they
        /// are there already), or `{run: [commands]}` (copied, then these commands run, for example
        /// migrations).
        schema ("schema"): Spanned<Schema>, "`copy`, `provided` or mapping", default "copy", since "0.1";
        /// What happens when definitions change on the side that owns the writes: `stop` (the stream
        /// stops right before that transaction), `apply` (columns that are new or wider, indexes,
        /// partitions that are created or attached, enum values, new types, and new tables of blue
        /// are made on the other side too, in their place; anything else stops) or `ignore` (the
        /// stream goes on as long as rows fit). Seen before a row of another shape only where we
        /// may create event triggers.
        ddl ("ddl"): Text, "`stop`, `apply` or `ignore`", default "stop", since "0.1";
        /// How the initial rows are copied.
        copy ("copy"): Copy, "mapping", otherwise "the defaults below", since "0.1";
        /// How the two sides are compared while the run waits.
        verify ("verify"): Verify, "mapping", otherwise "the defaults below", since "0.1";
        /// What decides where the clients' writes go, in the order in which it is paused. Without
        /// one a run copies, streams and verifies, and refuses to move.
        switch ("switch"): Vec<Switch>, "list of mappings", otherwise "no move is possible", since "0.1";
        /// The bounds of a move, in either direction.
        moves ("move"): Move, "mapping", otherwise "the defaults below", since "0.1";
        /// The way back.
        rollback ("rollback"): Rollback, "mapping", otherwise "the defaults below", since "0.1";
        /// Status, metrics and health over HTTP.
        http ("http"): Http, "mapping", otherwise "nothing listens", since "0.1";
        /// What `cutover run` says about itself on standard error.
        log ("log"): Log, "mapping", otherwise "the defaults below", since "0.1";
    }
}

section! {
    /// One of the two databases. Both `blue` and `green` have these keys.
    Database at "blue" {
        /// `postgres://user@host:port/dbname?sslmode=...`. Parameters: `sslmode` (`disable`,
        /// `prefer`, `require`, `verify-ca`, `verify-full`), `sslrootcert`, `sslcert`, `sslkey`,
        /// `connect_timeout`, `application_name`, `host` (folder of a Unix socket).
        /// `connect_timeout` (10 s) also says when silence is suspicious: a session that has been
        /// waiting for an answer for three times as long asks the server, in another session,
        /// whether it still works for it, and is given up when it does not, as after a failover that
        /// nobody told of. A password in it works and is masked wherever the address is shown. Name
        /// the server itself and not the pooler in front of it.
        url ("url"): Text, "address", required, since "0.1";
        /// A physical standby of that server (PostgreSQL 16 or later), in the form of `url`, that is
        /// read in its place: its slot, the rows of the copy and full comparisons. Everything else
        /// stays with `url`. What the standby lags is part of every pause. It is part of the run
        /// like `url`: another one cannot take its place.
        read_from ("read_from"): Text, "address", otherwise "`url` is read", since "0.1";
        /// The password: `{env: NAME}`, `{file: PATH}` (relative to this file; a final line break
        /// does not belong to it) or the text itself. It wins over one in `url` or `read_from`.
        password ("password"): Spanned<Password>, "`{env: NAME}`, `{file: PATH}` or text", otherwise "the one in `url`, if any", since "0.1";
    }
}

section! {
    /// Which tables are moved. Patterns are `schema.table`, `*` stands for any run of characters,
    /// and upper and lower case differ. A partition follows its parent. Where whole schemas are left
    /// out, what is outside of schemas is not copied either: casts, default privileges of no schema,
    /// event triggers, foreign servers (`CUT0185`).
    Tables at "tables" {
        /// At least one pattern must match.
        include ("include"): Vec<Text>, "list of patterns", default "[\"*.*\"]", since "0.1";
        /// None of these may match.
        exclude ("exclude"): Vec<Text>, "list of patterns", default "[]", since "0.1";
    }
}

section! {
    /// How green's tables come into being.
    SchemaRun at "schema" {
        /// Commands that run after blue's definitions were copied and before any row, each with
        /// `/bin/sh -c` in the folder of this file. `PGHOST`, `PGPORT`, `PGUSER`, `PGDATABASE`,
        /// `PGPASSWORD` and `PGSSLMODE` of green are in their environment. They run once: a command
        /// that fails stops the run, and the next `cutover run` starts with that command.
        run ("run"): Vec<Text>, "list of commands", required, since "0.1";
    }
}

section! {
    /// How the initial rows are copied.
    Copy at "copy" {
        /// Ranges of tables that are read and written at the same time, 1 to 64. Each takes one
        /// connection on both sides.
        workers ("workers"): Spanned<u64>, "number", default "4", since "0.1";
        /// About how much of a table is one range, 64KiB to 16GiB. After a crash the ranges that
        /// are missing are copied, of a table with 64 or more (or of 4 GiB and four or more) whose
        /// rows lie in the order of a key that begins with a whole number; any other table is copied
        /// again as a whole.
        chunk ("chunk"): Text, "size", default "64MiB", since "0.1";
        /// Upper bound of all workers together, in bytes per second.
        rate ("rate"): Text, "size", otherwise "as fast as both servers go", since "0.1";
    }
}

section! {
    /// How the two sides are compared while the run waits for commands.
    Verify at "verify" {
        /// Compare keys that have changed again and again, and tables without a key every half minute
        /// at most: as a whole, or what came at the end of a large one that only grew. It takes a
        /// tenth of the time, and more only where more changes than is compared. Without it only
        /// `cutover verify` and a move compare.
        continuous ("continuous"): Spanned<bool>, "true or false", default "true", since "0.1";
    }
}

section! {
    /// A PgBouncer. Clients keep their connections: they wait while it is paused and go on with the
    /// other side when it resumes.
    PgBouncer at "switch.pgbouncer" {
        /// Address of its admin console, with a user that is in its `admin_users`:
        /// `postgres://user@host:port/pgbouncer`.
        admin ("admin"): Text, "address", required, since "0.1";
        /// Password of the admin console, in the forms of `blue.password`.
        password ("password"): Spanned<Password>, "`{env: NAME}`, `{file: PATH}` or text", otherwise "the one in `admin`, if any", since "0.1";
        /// The entry of its `[databases]` section that the clients use, or a list of entries that
        /// move together.
        database ("database"): Spanned<Names>, "text or list of texts", required, since "0.1";
        /// The file that holds these entries, which `cutover run` rewrites (atomically, and only
        /// the entries) before it says `RELOAD`. It must be writable on this machine.
        config ("config"): Text, "path", required, since "0.1";
        /// Blue as PgBouncer reaches it, when that differs from `blue.url`.
        blue ("blue"): Target, "mapping", otherwise "host, port and database of `blue.url`", since "0.1";
        /// Green as PgBouncer reaches it, when that differs from `green.url`.
        green ("green"): Target, "mapping", otherwise "host, port and database of `green.url`", since "0.1";
    }
}

section! {
    /// One database as PgBouncer reaches it. Both `blue` and `green` have these keys.
    Target at "switch.pgbouncer.blue" {
        /// Host name, address, or folder of a Unix socket, exactly as in PgBouncer's file.
        host ("host"): Text, "text", required, since "0.1";
        /// TCP port, or the number in the name of the Unix socket.
        port ("port"): Spanned<u64>, "number", default "5432", since "0.1";
        /// Name of the database there.
        dbname ("dbname"): Text, "text", required, since "0.1";
    }
}

section! {
    /// A program of yours that moves the traffic. It gets one JSON line on standard input and answers
    /// with its exit status; `docs/SWITCHES.md` has the contract.
    Command at "switch.command" {
        /// The program and its arguments. No shell is involved.
        argv ("argv"): Vec<Text>, "list of texts", required, since "0.1";
        /// How long it may take to answer, beyond the time in which a pause is allowed to wait for
        /// transactions. A call without an answer is neither success nor failure: the program is
        /// asked where the writes go.
        timeout ("timeout"): Text, "duration", default "5s", since "0.1";
        /// Names of environment variables that are passed on beside `PATH`, `HOME` and `LANG`.
        env ("env"): Vec<Text>, "list of names", default "[]", since "0.1";
    }
}

section! {
    /// A service of yours that moves the traffic, reached over HTTP with the same questions as a
    /// command; `docs/SWITCHES.md` has the contract.
    Webhook at "switch.webhook" {
        /// Where it is told to hold the clients and to move them.
        url ("url"): Text, "address", required, since "0.1";
        /// Where it is asked where the writes go.
        observe_url ("observe_url"): Text, "address", otherwise "it cannot say where writes go, and a run is refused (CUT0173)", since "0.1";
        /// Key of the signature in the header `x-cutover-signature`, in the forms of
        /// `blue.password`.
        secret ("secret"): Spanned<Password>, "`{env: NAME}`, `{file: PATH}` or text", otherwise "requests are not signed", since "0.1";
        /// How long an answer may take, beyond the time in which a pause is allowed to wait for
        /// transactions.
        timeout ("timeout"): Text, "duration", default "5s", since "0.1";
    }
}

section! {
    /// The bounds of a move, in either direction. A move that cannot keep them is refused before
    /// any client waits, or taken back while they wait.
    Move at "move" {
        /// Longest time in which clients wait, from the first held write to the first one let
        /// through. Past it the traffic goes back to where it was. 100ms to 5m.
        pause_budget ("pause_budget"): Text, "duration", default "1s", since "0.1";
        /// Largest lag with which a move may begin.
        max_lag ("max_lag"): Text, "duration", default "5s", since "0.1";
    }
}

section! {
    /// The way back.
    Rollback at "rollback" {
        /// How long `cutover run --until finished` keeps the way back open after the switch before
        /// it finishes by itself. Other runs keep it until `cutover finish`.
        window ("window"): Text, "duration", default "24h", since "0.1";
    }
}

section! {
    /// `/status`, `/metrics` (Prometheus), `/healthz` and a page. There is no authentication: keep
    /// it on a loopback address, or behind something that asks who is there. It shows table names,
    /// lag and the phase; it never shows rows or credentials, and it accepts no command.
    Http at "http" {
        /// Address and port. Port 0 takes a free one, which is logged.
        listen ("listen"): Text, "address:port", default "127.0.0.1:8484", since "0.1";
    }
}

section! {
    /// What `cutover run` says about itself on standard error.
    Log at "log" {
        /// `text` for people, `json` for machines.
        format ("format"): Text, "`text` or `json`", default "text", since "0.1";
        /// What is logged, in the form `info,cutover::copy=debug`. `--log` and the environment
        /// variable `CUTOVER_LOG` win over it.
        filter ("filter"): Text, "filter", default "info", since "0.1";
    }
}

/// Every mapping of the file in the order of the reference page.
pub const SECTIONS: [Section; 14] = [
    Root::SECTION,
    Database::SECTION,
    Tables::SECTION,
    SchemaRun::SECTION,
    Copy::SECTION,
    Verify::SECTION,
    PgBouncer::SECTION,
    Target::SECTION,
    Command::SECTION,
    Webhook::SECTION,
    Move::SECTION,
    Rollback::SECTION,
    Http::SECTION,
    Log::SECTION,
];

/// One name or several.
pub struct Names(pub Vec<String>);

/// Where a password comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// Written in the file.
    Plain(Secret),
    /// An environment variable.
    Env(String),
    /// A file.
    File(String),
}

/// Where green's tables come from.
pub enum Schema {
    /// Blue's definitions are copied.
    Copy,
    /// They are there already.
    Provided,
    /// They are copied, then commands run.
    Run(SchemaRun),
}

/// One entry of `switch`.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// A PgBouncer.
    #[serde(rename = "pgbouncer")]
    PgBouncer(Box<PgBouncer>),
    /// A program.
    Command(Command),
    /// A service.
    Webhook(Webhook),
}

/// Reads a file's text.
///
/// # Errors
///
/// The first place that is no YAML, names an unknown key or has a value of the wrong kind.
pub fn parse(file: &Path, text: &str) -> Result<Root, ConfigError> {
    if text.trim().is_empty() {
        return Ok(Root::default());
    }
    serde_saphyr::from_str::<Root>(text).map_err(|error| ConfigError::yaml(file, text, &error))
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Password;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quoted text, {env: NAME} or {file: PATH}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Password, E> {
                Ok(Password::Plain(Secret::new(text)))
            }

            // `invalid_type` would repeat the number.
            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Password, E> {
                Err(E::custom(UNQUOTED))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Password, E> {
                Err(E::custom(UNQUOTED))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Password, E> {
                Err(E::custom(UNQUOTED))
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Password, E> {
                Err(E::custom(UNQUOTED))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Password, A::Error> {
                let Some(key) = map.next_key::<String>()? else {
                    return Err(de::Error::custom("write {env: NAME} or {file: PATH}"));
                };
                let found = match key.as_str() {
                    "env" => Password::Env(map.next_value()?),
                    "file" => Password::File(map.next_value()?),
                    _ => return Err(de::Error::unknown_field(&key, &["env", "file"])),
                };
                match map.next_key::<String>()? {
                    None => Ok(found),
                    Some(_) => Err(de::Error::custom("a password has one source, env or file")),
                }
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A number as a password would lose its leading zeros.
pub(super) const UNQUOTED: &str = "a password that looks like a number must be quoted";

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Vec<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
                Ok(vec![text.to_owned()])
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
                let mut out = Vec::new();
                while let Some(text) = list.next_element()? {
                    out.push(text);
                }
                Ok(out)
            }
        }
        deserializer.deserialize_any(Reader).map(Self)
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Schema;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("copy, provided or {run: [commands]}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Schema, E> {
                match text {
                    "copy" => Ok(Schema::Copy),
                    "provided" => Ok(Schema::Provided),
                    _ => Err(E::unknown_variant(text, &["copy", "provided", "run"])),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Schema, A::Error> {
                SchemaRun::deserialize(de::value::MapAccessDeserializer::new(map)).map(Schema::Run)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

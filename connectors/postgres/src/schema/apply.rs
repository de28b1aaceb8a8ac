//! Creating entries on the target, each together with the mark that it is done.

use std::collections::{HashSet, VecDeque};

use cutover_core::port::{Result, error::PortError};
use futures_util::future::try_join_all;
use tokio::sync::Mutex;
use tokio_postgres::error::SqlState;

use super::{
    given::{self, Given},
    owed,
    script::{Entry, Section},
};
use crate::{
    connect::{Session, port_error},
    database::Database,
    sql::{self, Names},
};

/// Whether rows may break a foreign key that they will not break later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Breaks {
    /// What they break, blue's rows break.
    Never,
    /// They are of several snapshots, and the stream has yet to join them.
    ForNow,
}

/// What definitions and rows may be ahead of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead {
    pub(super) breaks: Breaks,
    /// The stream tells of what was defined since.
    pub(super) told: bool,
    /// Something is left for later on which others may rest.
    pub(super) waited_for: bool,
}

/// A definition that the target refuses.
const REFUSED: &str = "CUT0305";

/// Entries per transaction of the first half: small enough for the lock table of the server.
const PER_TRANSACTION: usize = 100;

/// How often an entry is tried again that met a deadlock with another worker.
const TRIES: u32 = 20;

/// The table with the marks.
pub(crate) fn marks(names: &Names) -> String {
    format!("{}.schema_done", sql::ident(names.schema()))
}

/// Creates the schemas that are missing, with their owners.
pub(super) async fn schemas(
    db: &Database,
    green: &Session,
    schemas: &[(String, String)],
) -> Result<()> {
    let doing = format!("creating the schemas on {}", db.side);
    let there: HashSet<String> = green
        .query("SELECT nspname::text FROM pg_namespace", &[])
        .await
        .map_err(|e| port_error(doing.as_str(), e))?
        .iter()
        .map(|row| row.get(0))
        .collect();
    for (schema, owner) in schemas.iter().filter(|(schema, _)| !there.contains(schema)) {
        let (schema, owner) = (sql::ident(schema), sql::ident(owner));
        green
            .batch_execute(&format!(
                "CREATE SCHEMA {schema}; ALTER SCHEMA {schema} OWNER TO {owner}"
            ))
            .await
            .map_err(|e| refused(&doing, &format!("schema {schema}"), e))?;
    }
    Ok(())
}

/// Creates entries one after the other.
pub(super) async fn in_order(
    db: &Database,
    green: &Session,
    section: Section,
    entries: &[Entry],
) -> Result<()> {
    prepare(db, green).await?;
    let open = open_entries(db, green, section, entries).await?;
    let doing = format!("creating definitions on {}", db.side);
    for group in open.chunks(PER_TRANSACTION) {
        // What is sent as one text is one transaction.
        let text: String = group.iter().map(|e| e.text.as_str()).collect();
        let all = format!("{text}\n{}", mark(db, group, section));
        if green.batch_execute(&all).await.is_ok() {
            continue;
        }
        if green.is_closed() {
            return Err(PortError::transient(doing, "the connection was lost"));
        }
        // One by one, to name the one that fails.
        for entry in group {
            one(db, green, section, entry).await.map_err(|e| refused(&doing, &entry.label(), e))?;
        }
    }
    settle(db, green).await
}

/// Creates entries one after the other, all of them or none.
pub(super) async fn at_once(db: &Database, green: &Session, entries: &[Entry]) -> Result<()> {
    let doing = format!("creating definitions on {}", db.side);
    let failed = |e| port_error(doing.as_str(), e);
    let begin = "BEGIN; SET LOCAL check_function_bodies = off; SET LOCAL default_tablespace = ''";
    green.batch_execute(begin).await.map_err(failed)?;
    for entry in entries.iter().filter(|entry| !entry.is_schema()) {
        if let Err(e) = green.batch_execute(&entry.text).await {
            if !green.is_closed() {
                green.batch_execute("ROLLBACK").await.map_err(failed)?;
            }
            return Err(match e.code() {
                Some(&SqlState::CHECK_VIOLATION) if entry.is_attachment() => {
                    holds_its_rows(&doing, &entry.label(), e)
                }
                _ => refused(&doing, &entry.label(), e),
            });
        }
    }
    green.batch_execute("COMMIT").await.map_err(failed)
}

/// Leaves entries for later.
pub(super) async fn leave(
    db: &Database,
    green: &Session,
    section: Section,
    entries: &[Entry],
) -> Result<()> {
    prepare(db, green).await?;
    let doing = format!("leaving definitions for later on {}", db.side);
    for entry in open_entries(db, green, section, entries).await? {
        tracing::info!("it waits until the stream has joined its rows: {}", entry.label());
        let later = format!("{}; {}", mark(db, &[entry], section), owed::leave(db, entry));
        green.batch_execute(&later).await.map_err(|e| port_error(doing.as_str(), e))?;
    }
    Ok(())
}

/// Creates indexes and constraints beside each other in the order they are given, then the rest in
/// order, then foreign keys.
pub(super) async fn in_parallel(
    db: &Database,
    green: &Session,
    section: Section,
    entries: &[Entry],
    workers: usize,
    ahead: Ahead,
) -> Result<()> {
    let breaks = ahead.breaks;
    prepare(db, green).await?;
    let open = open_entries(db, green, section, entries).await?;
    let (heavy, rest): (Vec<&Entry>, Vec<&Entry>) = open.into_iter().partition(|e| e.is_heavy());
    let (keys, rest): (Vec<&Entry>, Vec<&Entry>) =
        rest.into_iter().partition(|e| e.is_foreign_key());
    let (taking, rest): (Vec<&Entry>, Vec<&Entry>) =
        rest.into_iter().partition(|e| e.kind == Entry::BY_INDEX);
    // An index of a partitioned table is put together from those of its partitions, and a key
    // refers to it: that comes before the keys. Views and rules may need primary keys, and an
    // index may be on such a view.
    let (attach, rest): (Vec<&Entry>, Vec<&Entry>) =
        rest.into_iter().partition(|e| e.kind == "INDEX ATTACH");
    let mut late = beside(db, section, heavy, workers, Breaks::Never).await?;
    let mut rest_late = in_turn(db, green, section, &taking).await?;
    rest_late.extend(in_turn(db, green, section, &attach).await?);
    rest_late.extend(in_turn(db, green, section, &rest).await?);
    late = beside(db, section, late, workers, Breaks::Never).await?;
    late.extend(rest_late);
    last(db, green, section, late, Ahead { breaks: Breaks::Never, ..ahead }).await?;
    let late = beside(db, section, keys, workers, breaks).await?;
    last(db, green, section, late, ahead).await?;
    settle(db, green).await
}

/// Entries that wait for something that comes later: this is the end, now they must succeed, or be
/// what the stream will tell of.
async fn last(
    db: &Database,
    green: &Session,
    section: Section,
    entries: Vec<&Entry>,
    ahead: Ahead,
) -> Result<()> {
    let doing = format!("creating definitions on {}", db.side);
    let mut left: Vec<&Entry> = Vec::new();
    for entry in entries {
        let Err(e) = one_or_later(db, green, section, entry, ahead.breaks).await else { continue };
        if !(ahead.told && is_new(entry, &e, &left)) {
            if ahead.waited_for && is_too_early(&e) {
                leave(db, green, section, std::slice::from_ref(entry)).await?;
                continue;
            }
            return Err(refused(&doing, &entry.label(), e));
        }
        tracing::info!("left to the stream, which tells of what it rests on: {}", entry.label());
        left.push(entry);
    }
    Ok(())
}

/// Whether an entry came with a column that is not here yet, or rests on one that did: the stream
/// tells of both.
fn is_new(entry: &Entry, e: &tokio_postgres::Error, left: &[&Entry]) -> bool {
    match e.code() {
        Some(&SqlState::UNDEFINED_COLUMN) => entry.is_heavy() || entry.is_foreign_key(),
        Some(&SqlState::UNDEFINED_TABLE) if entry.is_foreign_key() => true,
        Some(&SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_OBJECT) => {
            let rests =
                entry.is_attachment() || matches!(entry.kind.as_str(), "COMMENT" | Entry::BY_INDEX);
            rests && left.iter().any(|other| entry.text.contains(&other.name))
        }
        _ => false,
    }
}

/// One after the other; returns those that need something that is not there yet.
async fn in_turn<'a>(
    db: &Database,
    green: &Session,
    section: Section,
    entries: &[&'a Entry],
) -> Result<Vec<&'a Entry>> {
    let doing = format!("creating definitions on {}", db.side);
    let mut late = Vec::new();
    for entry in entries {
        match one(db, green, section, entry).await {
            Ok(()) => {}
            Err(e) if is_too_early(&e) => late.push(*entry),
            Err(e) => return Err(refused(&doing, &entry.label(), e)),
        }
    }
    Ok(late)
}

/// `workers` at a time; returns those that need something that is not there yet.
async fn beside<'a>(
    db: &Database,
    section: Section,
    entries: Vec<&'a Entry>,
    workers: usize,
    breaks: Breaks,
) -> Result<Vec<&'a Entry>> {
    let workers = workers.min(entries.len());
    let queue = Mutex::new(VecDeque::from(entries));
    let late = Mutex::new(Vec::new());
    try_join_all((0..workers).map(|_| work(db, section, &queue, &late, breaks))).await?;
    Ok(late.into_inner())
}

/// One worker: takes entries until none is left.
async fn work<'a>(
    db: &Database,
    section: Section,
    queue: &Mutex<VecDeque<&'a Entry>>,
    late: &Mutex<Vec<&'a Entry>>,
    breaks: Breaks,
) -> Result<()> {
    let doing = format!("creating definitions on {}", db.side);
    let session = db.session("schema").await?;
    session.batch_execute(SETTINGS).await.map_err(|e| port_error(doing.as_str(), e))?;
    loop {
        let Some(entry) = queue.lock().await.pop_front() else { return Ok(()) };
        match one_or_later(db, &session, section, entry, breaks).await {
            Ok(()) => {}
            Err(e) if is_too_early(&e) => late.lock().await.push(entry),
            Err(e) => return Err(refused(&doing, &entry.label(), e)),
        }
    }
}

/// The settings of a dump, and memory for sorting an index. No commit waits for the disk: an entry
/// and its mark are lost together, if at all, and in the end [`settle`] waits for all of them.
pub(super) const SETTINGS: &str = "SET check_function_bodies = off; SET default_tablespace = ''; \
                        SET maintenance_work_mem = '256MB'; SET synchronous_commit = off";

/// One entry and its mark. After an error nothing of it is there.
async fn one(
    db: &Database,
    session: &Session,
    section: Section,
    entry: &Entry,
) -> std::result::Result<(), tokio_postgres::Error> {
    let all = format!("{}\n{}", entry.text, mark(db, &[entry], section));
    let mut tries = 0;
    loop {
        let Err(e) = session.batch_execute(&all).await else { return Ok(()) };
        if given::is_grant_of_others(session, entry, &e).await? {
            tracing::warn!("it stays on {} as it is there: {}", db.side, entry.label());
            return session.batch_execute(&mark(db, &[entry], section)).await;
        }
        tries += 1;
        // Two workers met on the same pair of tables.
        if e.code() != Some(&SqlState::T_R_DEADLOCK_DETECTED) || tries == TRIES {
            return Err(e);
        }
    }
}

/// The same; an entry that rows break only until the stream has brought others is left for later.
async fn one_or_later(
    db: &Database,
    session: &Session,
    section: Section,
    entry: &Entry,
    breaks: Breaks,
) -> std::result::Result<(), tokio_postgres::Error> {
    match one(db, session, section, entry).await {
        Err(e)
            if breaks == Breaks::ForNow && e.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) =>
        {
            let later = format!("{}; {}", mark(db, &[entry], section), owed::leave(db, entry));
            session.batch_execute(&later).await
        }
        other => other,
    }
}

/// The statement that marks entries as done.
fn mark(db: &Database, entries: &[&Entry], section: Section) -> String {
    let rows: Vec<String> =
        entries.iter().map(|e| format!("({})", sql::literal(&e.mark(section)))).collect();
    format!("INSERT INTO {} VALUES {}", marks(&Names::of(&db.run)), rows.join(", "))
}

/// Waits until everything that was created is on the disk. `green` is open since before the first
/// of it: a server that fails and forgets what is not on its disk ends this session as well.
pub(super) async fn settle(db: &Database, green: &Session) -> Result<()> {
    let write = format!(
        "SET synchronous_commit = on; INSERT INTO {} VALUES ('settled') \
         ON CONFLICT (entry) DO UPDATE SET entry = excluded.entry",
        marks(&Names::of(&db.run))
    );
    green.batch_execute(&write).await.map_err(|e| {
        port_error(format!("waiting for definitions to be on the disk of {}", db.side), e)
    })
}

/// Makes the table of marks, and gives the session the settings of a dump.
async fn prepare(db: &Database, green: &Session) -> Result<()> {
    let names = Names::of(&db.run);
    // Of an earlier version. Asked first: whoever builds beside us has written marks, and altering
    // their table would wait for that.
    let older = format!(
        "DO $cutover$ BEGIN IF NOT EXISTS (SELECT FROM pg_attribute \
           WHERE attrelid = {}::regclass AND attname = 'owed' AND NOT attisdropped) THEN \
           ALTER TABLE {} ADD COLUMN owed text; END IF; END $cutover$",
        sql::literal(&marks(&names)),
        marks(&names)
    );
    let statement = format!(
        "{SETTINGS}; CREATE SCHEMA IF NOT EXISTS {}; \
         CREATE TABLE IF NOT EXISTS {marks} (entry text PRIMARY KEY, owed text); {older}",
        sql::ident(names.schema()),
        marks = marks(&names),
    );
    green
        .batch_execute(&statement)
        .await
        .map_err(|e| port_error(format!("preparing {} for definitions", db.side), e))
}

/// Those that are not done; schemas are never among them.
async fn open_entries<'a>(
    db: &Database,
    green: &Session,
    section: Section,
    entries: &'a [Entry],
) -> Result<Vec<&'a Entry>> {
    let statement = format!("SELECT entry FROM {}", marks(&Names::of(&db.run)));
    let done: HashSet<String> = green
        .query(&statement, &[])
        .await
        .map_err(|e| port_error(format!("reading what is done on {}", db.side), e))?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let given = Given::read(db, green).await?;
    let open = |e: &&Entry| !e.is_schema() && !done.contains(&e.mark(section)) && !given.has(e);
    Ok(entries.iter().filter(open).collect())
}

/// Something that the entry needs does not exist (yet).
pub(super) fn is_too_early(e: &tokio_postgres::Error) -> bool {
    matches!(
        e.code(),
        Some(
            &SqlState::UNDEFINED_TABLE
                | &SqlState::UNDEFINED_OBJECT
                | &SqlState::UNDEFINED_COLUMN
                | &SqlState::INVALID_FOREIGN_KEY
        )
    )
}

/// A table cannot become a partition.
fn holds_its_rows(doing: &str, label: &str, e: tokio_postgres::Error) -> PortError {
    PortError::definite(
        REFUSED,
        doing,
        format!("{label}: its rows are in the default partition (SQLSTATE 23514)"),
        "detach the default partition on green, and start `cutover run`; once changes are followed, \
         attach it as it is on blue, then stop and start; see docs/errors/CUT0305.md",
    )
    .caused_by(e)
}

/// What the server says about an entry, without row values.
pub(super) fn refused(doing: &str, label: &str, e: tokio_postgres::Error) -> PortError {
    let remedy = match e.code() {
        Some(
            &SqlState::DUPLICATE_TABLE
            | &SqlState::DUPLICATE_OBJECT
            | &SqlState::DUPLICATE_SCHEMA
            | &SqlState::DUPLICATE_FUNCTION,
        ) => {
            "green must be empty: drop the object there, give it there to the owner that it has on \
             blue, or use `schema: provided`"
        }
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            "make our role a member of the owner (GRANT owner TO role), and let both create in the \
             schema (GRANT USAGE, CREATE ON SCHEMA ... TO role, owner); or let a superuser make it \
             on green as it is on blue, with its grants, and start again: what others made there is \
             left as it is (docs/errors/CUT0187.md)"
        }
        Some(&SqlState::UNDEFINED_OBJECT) => {
            "create what is missing on green (roles: CREATE ROLE ...; extensions: install their \
             package; types that are new: as they are on blue), then start again"
        }
        Some(c) if c.code().starts_with("23") => {
            "the rows of blue break this constraint: mend them there, then start again"
        }
        _ => "mend it on blue or green, or exclude the object, then start again",
    };
    match port_error(doing, e) {
        PortError::Definite { what, spoiled, source, .. } => PortError::Definite {
            code: REFUSED,
            doing: doing.to_owned(),
            what: format!("{label}: {what}"),
            remedy: remedy.to_owned(),
            spoiled,
            source,
        },
        transient => transient,
    }
}

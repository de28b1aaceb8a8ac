//! Foreign keys and unique indexes that wait for the stream.
//!
//! The rows of a copy that was begun again are of several snapshots. A row may refer to one that
//! came between two of them, or went: the stream brings that, and the key can be created then. In a
//! table whose own rows are of several snapshots, two may have a value that only one of them had at
//! any time, now or when the stream has come halfway: what forbids that must not be there before it
//! has passed all of them. Until then the text of either is among the marks.

use cutover_core::{model::schema::TableName, port::Result};
use serde::{Deserialize, Serialize};
use tokio_postgres::Error;

use super::{
    apply::{SETTINGS, is_too_early, marks, refused, settle},
    script::{Entry, digest},
};
use crate::{
    connect::{Session, port_error},
    database::Database,
    sql::{self, Names},
};

/// How a mark begins of something that is to be created. Its text is beside it: a mark is a key, and
/// a key may not be long. Earlier versions had the text behind this.
const OWED: &str = "owed ";

/// How a text begins that says what it is about.
const ABOUT: &str = "-- ";

/// Nobody waits longer for us: whoever writes for a run may be behind us, and in front of whoever
/// we wait for.
const GIVES_WAY: &str = "SET lock_timeout = '2s'";

type Asked<T> = std::result::Result<T, Error>;

/// A unique index or an exclusion constraint that is left for later, as the source knew it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Awaited {
    pub(super) number: u32,
    pub(super) schema: String,
    pub(super) table: String,
    /// Of the index, and of the constraint if it belongs to one.
    pub(super) name: String,
    pub(super) definition: String,
}

impl Awaited {
    /// The text that creates it, saying what it is about.
    pub(super) fn before(&self, text: &str) -> String {
        // One line: line breaks in names are escaped.
        let about = serde_json::to_string(self).unwrap_or_default();
        format!("{ABOUT}{about}\n{text}")
    }

    /// What a text is about.
    pub(super) fn of(text: &str) -> Option<Self> {
        let about = text.lines().next()?.strip_prefix(ABOUT)?;
        serde_json::from_str(about).ok()
    }

    /// What is still to be created of it, whose text this is: the source may have given it another
    /// name, made it anew, or dropped it, and the stream may have made it in its place.
    async fn wanted(&self, blue: &Session, green: &Session, text: &str) -> Asked<Option<String>> {
        let Some(now) = self.now(blue, self.number).await? else { return Ok(None) };
        if now.now(green, 0).await?.is_some() {
            return Ok(None);
        }
        let same = Self { number: self.number, ..now.clone() } == *self;
        if same {
            return Ok(Some(text.to_owned()));
        }
        let table = sql::table(&TableName::new(&now.schema, &now.table));
        Ok(Some(match now.definition.starts_with("CREATE ") {
            true => format!("{};", now.definition),
            false => {
                let name = sql::ident(&now.name);
                format!("ALTER TABLE {table} ADD CONSTRAINT {name} {};", now.definition)
            }
        }))
    }

    /// The same by its number, or else by its name.
    async fn now(&self, session: &Session, number: u32) -> Asked<Option<Self>> {
        let query = "SELECT x.indexrelid, n.nspname::text, t.relname::text, i.relname::text, \
                coalesce(pg_get_constraintdef(k.oid), pg_get_indexdef(i.oid)) \
             FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid \
             JOIN pg_class t ON t.oid = x.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace \
             LEFT JOIN pg_constraint k ON k.conindid = i.oid AND k.conrelid = t.oid \
                                      AND k.contype IN ('u', 'x') \
             WHERE NOT x.indisprimary AND (x.indisunique OR x.indisexclusion) AND x.indisvalid \
               AND (i.oid = $1 OR (n.nspname, t.relname, i.relname) = ($2, $3, $4)) \
             ORDER BY i.oid = $1 DESC LIMIT 1";
        let row =
            session.query_opt(query, &[&number, &self.schema, &self.table, &self.name]).await?;
        Ok(row.map(|row| Self {
            number: row.get(0),
            schema: row.get(1),
            table: row.get(2),
            name: row.get(3),
            definition: row.get(4),
        }))
    }
}

/// The statement that leaves an entry for later.
pub(super) fn leave(db: &Database, entry: &Entry) -> String {
    format!(
        "INSERT INTO {} VALUES ({}, {})",
        marks(&Names::of(&db.run)),
        sql::literal(&mark(&entry.text)),
        sql::literal(&entry.text)
    )
}

fn mark(text: &str) -> String {
    format!("{OWED}{}", digest(text))
}

/// Names of unique indexes and exclusion constraints of a table that are left for later: they count
/// as being there.
pub(crate) async fn awaited(
    session: &Session,
    names: &Names,
    table: &TableName,
) -> Asked<Vec<String>> {
    let found = texts(session, &marks(names)).await?;
    let awaited = found.iter().filter_map(|text| Awaited::of(text));
    let of = |a: &Awaited| (&a.schema, &a.table) == (&table.schema, &table.name);
    Ok(awaited.filter(of).map(|a| a.name).collect())
}

/// What was left, in no order that matters.
async fn texts(session: &Session, marks: &str) -> Asked<Vec<String>> {
    let there = session.query_one("SELECT to_regclass($1) IS NOT NULL", &[&marks]).await?;
    if !there.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    // A table of an earlier version has no such column.
    let query = format!(
        "SELECT coalesce(to_jsonb(m) ->> 'owed', substr(m.entry, {})) FROM {marks} m \
         WHERE m.entry LIKE '{OWED}%' ORDER BY 1",
        OWED.len() + 1
    );
    Ok(session.query(&query, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Creates what was left.
pub(super) async fn create(from: &Database, db: &Database) -> Result<()> {
    let doing = format!("creating foreign keys and unique indexes on {}", db.side);
    let err = |e| port_error(doing.as_str(), e);
    let marks = marks(&Names::of(&db.run));
    let look = db.control().await?;
    let mut owed = texts(&look, &marks).await.map_err(err)?;
    if owed.is_empty() {
        return Ok(());
    }
    let blue = from.session("schema").await?;
    let green = db.session("schema").await?;
    green.batch_execute(&format!("{SETTINGS}; {GIVES_WAY}")).await.map_err(err)?;
    // One may rest on another: whoever comes too early gets its turn again.
    while !owed.is_empty() {
        let (before, mut late, mut reason) = (owed.len(), Vec::new(), None);
        for text in owed {
            match pay(&blue, &green, &marks, &text).await {
                Ok(()) => {}
                Err(e) if is_too_early(&e) => {
                    late.push(text);
                    reason = Some(e);
                }
                Err(e) => return Err(refused(&doing, label(&text), e)),
            }
        }
        if late.len() == before
            && let Some(e) = reason
        {
            let text = late.remove(0);
            if !is_gone(&blue, &text).await.map_err(err)? {
                return Err(refused(&doing, label(&text), e));
            }
            tracing::warn!("left out, since it is gone from blue: {}", label(&text));
            green.batch_execute(&paid(&marks, &text)).await.map_err(err)?;
        }
        owed = late;
    }
    green.batch_execute("SET synchronous_commit = on; RESET lock_timeout").await.map_err(err)?;
    settle(db, &green).await
}

/// Creates one, and forgets that it is owed.
async fn pay(blue: &Session, green: &Session, marks: &str, text: &str) -> Asked<()> {
    let wanted = match Awaited::of(text) {
        Some(awaited) => awaited.wanted(blue, green, text).await?,
        None => Some(text.to_owned()),
    };
    let paid = paid(marks, text);
    green.batch_execute(&format!("{}\n{paid}", wanted.unwrap_or_default())).await
}

/// The statement that forgets that something is owed.
fn paid(marks: &str, text: &str) -> String {
    let (here, earlier) = (mark(text), format!("{OWED}{text}"));
    format!(
        "DELETE FROM {marks} WHERE entry IN ({}, {})",
        sql::literal(&here),
        sql::literal(&earlier)
    )
}

/// Whether the source has no more what rests on an index that it had.
async fn is_gone(blue: &Session, text: &str) -> Asked<bool> {
    if Awaited::of(text).is_some() {
        return Ok(false);
    }
    // Whatever else rests on an index says something about it.
    let Some(key) = foreign_key(text) else { return Ok(true) };
    let query = "SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND conname = $1)";
    Ok(!blue.query_one(query, &[&key]).await?.get::<_, bool>(0))
}

/// The name of the foreign key that a text creates.
fn foreign_key(text: &str) -> Option<String> {
    let (_, rest) = text.split_once(" ADD CONSTRAINT ")?;
    let (name, _) = rest.split_once(" FOREIGN KEY ")?;
    let quoted = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
    Some(quoted.map_or_else(|| name.to_owned(), |name| name.replace("\"\"", "\"")))
}

/// What to call it in messages.
fn label(text: &str) -> &'static str {
    match text.starts_with(ABOUT) {
        true => "a unique index or an exclusion constraint",
        false if text.contains("FOREIGN KEY") => "a foreign key",
        false => "what rests on a unique index",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_say_what_they_are_about() {
        let awaited = Awaited {
            number: 4711,
            schema: "s".into(),
            table: "a\n\"b".into(),
            name: "*/ c".into(),
            definition: "UNIQUE (d)".into(),
        };
        let text = awaited.before("ALTER TABLE x;\n");
        assert_eq!(text.lines().count(), 2, "{text}");
        assert_eq!(Awaited::of(&text), Some(awaited));
        assert_eq!(Awaited::of("ALTER TABLE x;"), None);
        assert_eq!(label(&text), "a unique index or an exclusion constraint");
    }

    #[test]
    fn names_of_foreign_keys() {
        let text = |name: &str| {
            format!(
                "ALTER TABLE ONLY s.t\n    ADD CONSTRAINT {name} FOREIGN KEY (a) REFERENCES s.u(b);"
            )
        };
        assert_eq!(foreign_key(&text("t_a_fkey")).as_deref(), Some("t_a_fkey"));
        assert_eq!(foreign_key(&text("\"T \"\"a\"")).as_deref(), Some("T \"a"));
        assert_eq!(foreign_key("COMMENT ON INDEX s.i IS 'x';"), None);
    }
}

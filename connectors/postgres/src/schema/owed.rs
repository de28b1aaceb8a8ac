//! Foreign keys that wait for the stream.
//!
//! The rows of a copy that was begun again are of several snapshots. A row may refer to one that
//! came between two of them, or went: the stream brings that, and the key can be created then. Until
//! then its text is among the marks.

use cutover_core::port::Result;

use super::{
    apply::{SETTINGS, marks, refused, settle},
    script::Entry,
};
use crate::{
    connect::port_error,
    database::Database,
    sql::{self, Names},
};

/// How a mark begins whose rest is what to create.
const OWED: &str = "owed ";

/// Nobody waits longer for us: whoever writes for a run may be behind us, and in front of whoever
/// we wait for.
const GIVES_WAY: &str = "SET lock_timeout = '2s'";

/// The statement that leaves an entry for later.
pub(super) fn leave(db: &Database, entry: &Entry) -> String {
    format!(
        "INSERT INTO {} VALUES ({})",
        marks(&Names::of(&db.run)),
        sql::literal(&format!("{OWED}{}", entry.text))
    )
}

/// Creates what was left.
pub(super) async fn create(db: &Database) -> Result<()> {
    let doing = format!("creating foreign keys on {}", db.side);
    let err = |e| port_error(doing.as_str(), e);
    let marks = marks(&Names::of(&db.run));
    let look = db.control().await?;
    let there = look.query_one("SELECT to_regclass($1) IS NOT NULL", &[&marks]).await;
    if !there.map_err(err)?.get::<_, bool>(0) {
        return Ok(());
    }
    let query = format!("SELECT entry FROM {marks} WHERE entry LIKE $1 ORDER BY entry");
    let owed = look.query(&query, &[&format!("{OWED}%")]).await.map_err(err)?;
    if owed.is_empty() {
        return Ok(());
    }
    let green = db.session("schema").await?;
    green.batch_execute(&format!("{SETTINGS}; {GIVES_WAY}")).await.map_err(err)?;
    for row in &owed {
        let mark: &str = row.get(0);
        let text = mark.strip_prefix(OWED).unwrap_or_default();
        let paid = format!("DELETE FROM {marks} WHERE entry = {}", sql::literal(mark));
        let created = green.batch_execute(&format!("{text}\n{paid}")).await;
        created.map_err(|e| refused(&doing, "a foreign key", e))?;
    }
    green.batch_execute("SET synchronous_commit = on; RESET lock_timeout").await.map_err(err)?;
    settle(db, &green).await
}

//! The fence: nobody but us can commit a write to a table of the run.
//!
//! # How
//!
//! Every table of the run, and every partitioned or inheritance parent above one, gets a statement
//! trigger `BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE`, which sleeps (`DISABLE`) on the side
//! that owns the writes: awake it costs small statements a tenth of their time. The first
//! rehearsal or move enables it `ALWAYS` (then it fires for superusers and under
//! `session_replication_role = replica`) while nobody waits, a table at a time and only where
//! nobody has to be waited for long. Its function lets everything pass. Closing replaces the
//! *function* by one that refuses whoever has not set `cutover.run`, and waits for the writers
//! that may still be under way. Opening replaces it back. No table is locked by either, so nobody
//! queues behind us, a reader or an autovacuum is never in the way, nothing can deadlock, and the
//! number of tables hardly matters.
//!
//! # Why no writer is missed
//!
//! 1. A statement that writes holds `ROW EXCLUSIVE` (`TRUNCATE`: `ACCESS EXCLUSIVE`) on each table
//!    it *names* until its transaction ends, and takes it before its triggers fire.
//! 2. A session that takes a lock it does not hold yet then reads all invalidations sent so far. A
//!    commit sends its invalidations before it returns. PL/pgSQL compares the catalog row of the
//!    function at every call.
//! 3. So after our commit returned, a transaction either took its lock later and sees the new
//!    function, or holds the lock now. The latter are listed from `pg_locks` (fast-path locks and
//!    prepared transactions included) and waited for until they are gone. `CREATE INDEX
//!    CONCURRENTLY` rests on the same three facts.
//!
//! Catalog rows are not read with the transaction's snapshot: `REPEATABLE READ` changes nothing.
//! Prepared statements, cursors, functions, `COPY FROM`, `MERGE`, `ON CONFLICT`, writable CTEs,
//! rules, views and cascades of foreign keys all run as statements on a named table and fire its
//! statement triggers. A rolled back savepoint gives its locks back, together with its writes.
//! `SELECT ... FOR UPDATE` changes no row and is let through. A transaction that hangs a filled
//! table below one of the run counts as a writer: it holds `SHARE UPDATE EXCLUSIVE` there, and `ACCESS
//! EXCLUSIVE` on what it hangs there.
//!
//! # What it does not stop
//!
//! - A client that sets `cutover.run` itself, and an owner who drops or disables the triggers, or
//!   alters a table, or attaches one later. Closing checks the triggers and that no new parent
//!   appeared; later changes show in [`state`] and in the fingerprint.
//! - The apply worker of a subscription: it fires row triggers only. Closing refuses while one
//!   writes into a table of the run.
//! - `nextval`: a value that was drawn but could not be written is simply lost.
//!
//! # Two processes
//!
//! A guard may open the fence for a process that died. Every opening raises `epoch`; closing names
//! the epoch it was decided under and does nothing when that is over, so that a late message of
//! the dead process cannot close what the guard opened.

mod close;
mod install;
mod text;

use cutover_core::{
    model::run::RunId,
    port::{Result, error::PortError, primary::Fence},
};
use tokio_postgres::error::SqlState;

pub(crate) use self::text::is_fenced;
pub(super) use self::{
    close::{close, open},
    install::{install, remove, wake},
    text::{MIGHT_BE, Triggers, in_the_way, ours},
};
use crate::{
    connect::port_error,
    database::Database,
    patience::some_of,
    shelf::Warm,
    sql::{self, Names},
};

/// Somebody holds up the fence.
pub(super) const HELD_UP: &str = "CUT0711";
/// The fence is not what we installed.
pub(super) const DAMAGED: &str = "CUT0712";
/// A subscription writes past the fence.
pub(super) const SUBSCRIBED: &str = "CUT0713";

/// What the database says about the fence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct State {
    /// Whether the function refuses; `None` when it is gone.
    refuses: Option<bool>,
    /// Tables of the run, and parents of such, without a working trigger.
    bare: Vec<String>,
    /// Subscriptions whose workers may write to tables of the run.
    subscriptions: Vec<String>,
}

impl State {
    fn fence(&self) -> Fence {
        match (self.refuses, self.bare.is_empty()) {
            (Some(true), true) => Fence::Closed,
            (Some(true), false) => Fence::Partial,
            _ => Fence::Open,
        }
    }

    /// Why a closed fence would not hold.
    fn gap(&self, doing: &str) -> Option<PortError> {
        if self.refuses.is_none() || !self.bare.is_empty() {
            let what = match self.refuses {
                None => "the fence is not installed".to_owned(),
                Some(_) => format!(
                    "the trigger of the fence is missing or disabled on {}",
                    some_of(&self.bare)
                ),
            };
            return Some(PortError::definite(
                DAMAGED,
                doing,
                what,
                "let `cutover run` install it again (start it, or wait for its next check), and \
                 find out who drops or disables triggers",
            ));
        }
        if !self.subscriptions.is_empty() {
            return Some(PortError::definite(
                SUBSCRIBED,
                doing,
                format!(
                    "subscription {} writes to tables of the run, and its worker passes any fence",
                    some_of(&self.subscriptions)
                ),
                format!("ALTER SUBSCRIPTION {} DISABLE;", sql::ident(&self.subscriptions[0])),
            ));
        }
        None
    }
}

/// Asks the database for the state of the fence.
pub(super) async fn state(db: &Database, run: &RunId) -> Result<Fence> {
    let mut warm = db.errand().await?;
    let state = read_state(&mut warm, &Names::of(run))
        .await
        .map_err(|e| port_error(format!("asking {} for its fence", db.side), e))?;
    db.put_back(warm);
    Ok(state.fence())
}

/// Opens and prepares everything that closing needs, and learns the epoch.
pub(super) async fn warm_up(db: &Database) -> Result<()> {
    let names = Names::of(&db.run);
    let mut warm = db.fence_session().await?;
    let doing = format!("preparing the fence of {}", db.side);
    read_state(&mut warm, &names).await.map_err(|e| port_error(doing.as_str(), e))?;
    db.forget_epoch();
    let epoch =
        close::epoch(db, &mut warm, &names).await.map_err(|e| port_error(doing.as_str(), e))?;
    if let Some(epoch) = epoch
        && let Err(e) = close::rehearse(&mut warm, &db.run, &names, epoch).await
    {
        // Another process moves the fence, say. What is not warm takes its time in the pause.
        tracing::debug!(side = %db.side, error = %e, "the fence is not warm");
        return Ok(());
    }
    db.kept.fence.put(warm);
    Ok(())
}

async fn read_state(
    warm: &mut Warm,
    names: &Names,
) -> std::result::Result<State, tokio_postgres::Error> {
    let Some(statement) = installed(warm.prepared(&text::state(names)).await)? else {
        return Ok(State::default());
    };
    let Some(row) = installed(warm.session.query_one(&statement, &[]).await)? else {
        return Ok(State::default());
    };
    Ok(State { refuses: row.get(0), bare: row.get(1), subscriptions: row.get(2) })
}

/// `None` when the fence's schema or tables do not exist.
fn installed<T>(
    answer: std::result::Result<T, tokio_postgres::Error>,
) -> std::result::Result<Option<T>, tokio_postgres::Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(e) => match e.code() {
            Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME) => Ok(None),
            _ => Err(e),
        },
    }
}

impl Database {
    /// The session of the fence; the caller puts it back.
    async fn fence_session(&self) -> Result<Warm> {
        match self.kept.fence.take() {
            Some(warm) => Ok(warm),
            None => Ok(Warm::new(self.session("fence").await?)),
        }
    }

    fn known_epoch(&self) -> Option<i64> {
        *self.kept.epoch.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn remember_epoch(&self, epoch: Option<i64>) {
        *self.kept.epoch.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = epoch;
    }

    fn forget_epoch(&self) {
        self.remember_epoch(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_only_when_every_table_is() {
        let state = |refuses, bare: &[&str]| State {
            refuses,
            bare: bare.iter().map(ToString::to_string).collect(),
            subscriptions: Vec::new(),
        };
        assert_eq!(State::default().fence(), Fence::Open);
        assert_eq!(state(Some(false), &[]).fence(), Fence::Open);
        assert_eq!(state(Some(true), &[]).fence(), Fence::Closed);
        assert_eq!(state(Some(true), &["a.b"]).fence(), Fence::Partial);
        assert_eq!(state(None, &["a.b"]).fence(), Fence::Open);
    }

    #[test]
    fn gaps_are_named() {
        let mut state = State { refuses: Some(true), ..State::default() };
        assert!(state.gap("x").is_none());
        state.subscriptions = vec!["my Sub".into()];
        let gap = state.gap("x").unwrap();
        assert_eq!(gap.code(), Some(SUBSCRIBED));
        assert_eq!(gap.remedy(), Some("ALTER SUBSCRIPTION \"my Sub\" DISABLE;"));
        state.bare = (0..7).map(|i| format!("t{i}")).collect();
        let gap = state.gap("x").unwrap();
        assert_eq!(gap.code(), Some(DAMAGED));
        assert!(gap.to_string().ends_with("t3, t4 and 2 more"), "{gap}");
        assert_eq!(State::default().gap("x").unwrap().code(), Some(DAMAGED));
    }
}

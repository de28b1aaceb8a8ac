//! The replication slot: creating it with a snapshot, judging it, dropping it.

use std::time::Duration;

use cutover_core::{
    model::{position::Position, run::RunId},
    port::{PortError, Result},
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    position::{lsn_text, parse_lsn},
    stops,
};
use crate::{
    connect::{Replication, Session, port_error},
    database::Database,
    sql::{self, Names},
};

/// How long a new slot may wait for transactions that were open when it was asked for.
const CREATION: Duration = Duration::from_secs(300);

/// Why a standby invalidates a slot, in the words of 17 and later, and that it did, in those of 16.
const CONFLICTS: [&str; 3] = ["rows_removed", "wal_level_insufficient", "conflict"];

/// How often the record is written that a new slot on a standby waits for.
const NUDGE: Duration = Duration::from_millis(50);

/// How often it is said that it waits.
const REMINDER: Duration = Duration::from_secs(10);

/// How long somebody else may hold the slot: our own predecessor needs a moment to end.
const RELEASED_WITHIN: Duration = Duration::from_secs(10);

/// How long the server may take to notice that we have left; then its process is ended.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);

/// A stream of ours, by its process and the beginning of its name.
const STREAMS: &str = "FROM pg_catalog.pg_stat_replication \
     WHERE pid OPERATOR(pg_catalog.=) $1 AND usename OPERATOR(pg_catalog.=) current_user \
           AND pg_catalog.starts_with(application_name, $2)";

/// A slot as the catalog has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SlotRow {
    plugin: Option<String>,
    database: Option<String>,
    temporary: bool,
    two_phase: bool,
    wal_status: Option<String>,
    invalid: Option<String>,
    confirmed: Option<u64>,
    pub(super) active_pid: Option<i32>,
}

/// What is wrong with a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    Lost(String),
    /// The standby replayed what the slot could not bear.
    Conflict(String),
    Unfit(String),
}

impl SlotRow {
    /// Up to where the slot was confirmed, or why it is of no use.
    fn judge(&self, database: &str) -> std::result::Result<u64, Fault> {
        let unfit = |why: &str| Err(Fault::Unfit(why.to_owned()));
        if self.plugin.as_deref() != Some("pgoutput") {
            return unfit("does not use the plugin pgoutput");
        }
        if self.database.as_deref() != Some(database) {
            return unfit("belongs to another database of this server");
        }
        if self.temporary {
            return unfit("is temporary");
        }
        if self.two_phase {
            return unfit("is two-phase: it sends transactions before they commit");
        }
        if let Some(reason) = &self.invalid {
            if CONFLICTS.contains(&reason.as_str()) {
                return Err(Fault::Conflict(reason.clone()));
            }
            return Err(Fault::Lost(format!("was invalidated ({reason})")));
        }
        if self.wal_status.as_deref() == Some("lost") {
            return Err(Fault::Lost("lost its log: the server removed what it needs".to_owned()));
        }
        self.confirmed.ok_or_else(|| Fault::Lost("has no position".to_owned()))
    }
}

/// A new slot, the snapshot it exported, and the session that keeps that snapshot.
pub(super) struct Created {
    pub(super) lsn: u64,
    pub(super) snapshot: Option<String>,
    pub(super) keeper: Replication,
}

impl Database {
    /// The slot's confirmed position; `None` when there is no such slot.
    pub(super) async fn slot(&self, session: &Session, name: &str) -> Result<Option<u64>> {
        let doing = self.doing("looking at the replication slot");
        let Some(row) = read(session, name).await.map_err(|e| port_error(&doing, e))? else {
            return Ok(None);
        };
        match row.judge(self.config.dbname()) {
            Ok(confirmed) => Ok(Some(confirmed)),
            Err(Fault::Lost(why)) => Err(stops::slot_lost(doing, name, &why)),
            Err(Fault::Conflict(why)) => Err(stops::slot_in_conflict(doing, name, &why)),
            Err(Fault::Unfit(why)) => Err(stops::slot_unfit(doing, name, &why)),
        }
    }

    /// Whether the slot exists, in whatever state.
    pub(super) async fn slot_exists(&self, session: &Session, name: &str) -> Result<bool> {
        let row = read(session, name)
            .await
            .map_err(|e| port_error(self.doing("looking at the replication slot"), e))?;
        Ok(row.is_some())
    }

    /// The slot's confirmed position, once nobody reads it and it may be read from `from`.
    pub(super) async fn slot_for_reading(
        &self,
        session: &Session,
        name: &str,
        from: Option<&Position>,
    ) -> Result<u64> {
        let doing = || self.doing("opening the change stream");
        let confirmed = self
            .slot(session, name)
            .await?
            .ok_or_else(|| stops::slot_lost(doing(), name, "does not exist"))?;
        // A stream from an earlier place than the slot's would silently begin at the slot's.
        if let Some(from @ Position::Postgres { lsn, .. }) = from
            && *lsn < confirmed
        {
            return Err(stops::slot_ahead(doing(), name, &lsn_text(confirmed), from));
        }
        let begun = Instant::now();
        let mut again = Duration::from_millis(5);
        let mut known = None;
        loop {
            let row = read(session, name).await.map_err(|e| port_error(doing(), e))?;
            let Some(pid) = row.and_then(|r| r.active_pid) else { return Ok(confirmed) };
            let waited = begun.elapsed();
            if waited >= RELEASED_WITHIN {
                // One that lives says something every second.
                let silent = match known {
                    Some((same, said @ Some(_))) if same == pid => {
                        self.said(session, pid).await? == said
                    }
                    _ => false,
                };
                return Err(match silent {
                    true => stops::slot_kept(doing(), name, pid),
                    false => stops::slot_in_use(doing(), name, pid),
                });
            }
            if known.as_ref().is_none_or(|(other, _)| *other != pid) {
                known = Some((pid, self.said(session, pid).await?));
            }
            if waited >= NOTICED_WITHIN && self.kept.left.is(pid) {
                self.end_stream(session, pid).await?;
            }
            sleep(again).await;
            again = (again * 2).min(Duration::from_millis(100));
        }
    }

    /// When a stream of this run said something last; `None` when the process is somebody else's.
    async fn said(&self, session: &Session, pid: i32) -> Result<Option<String>> {
        let last = format!("SELECT coalesce(reply_time::text, '') {STREAMS}");
        let row = session.query_opt(&last, &[&pid, &self.streams()]).await;
        let row = row.map_err(|e| port_error(self.doing("looking who reads the slot"), e))?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Ends a stream of this run.
    async fn end_stream(&self, session: &Session, pid: i32) -> Result<()> {
        let end = format!("SELECT pg_catalog.pg_terminate_backend(pid) {STREAMS}");
        let ended = session.query_opt(&end, &[&pid, &self.streams()]).await;
        ended.map(drop).map_err(|e| port_error(self.doing("ending our last stream"), e))
    }

    /// How the `application_name` of its streams begins.
    fn streams(&self) -> String {
        format!("cutover {} stream", self.run)
    }

    /// Creates a slot where changes are read; waits for the transactions that are open now.
    pub(super) async fn create_slot(
        &self,
        name: &str,
        temporary: bool,
        export: bool,
    ) -> Result<Created> {
        let doing = || self.doing("creating a replication slot");
        self.standby_has_caught_up().await?;
        let reader = self.reader_side();
        let mut keeper = reader.replication("slot").await?;
        // A standby can be no source of failover slots.
        let lasts = !temporary && !reader.is_standby;
        let command = create_command(name, keeper.version(), temporary, export, lasts);
        let deadline = Instant::now() + CREATION;
        let mut reminder = Instant::now() + REMINDER;
        let pid = keeper.pid();
        let rows = {
            let mut creation = std::pin::pin!(keeper.query(&command));
            loop {
                let pause = if reader.is_standby { NUDGE } else { REMINDER };
                if let Ok(done) = timeout(pause, &mut creation).await {
                    break done.map_err(|e| e.into_port(doing()))?;
                }
                if reader.is_standby
                    && let Err(e) = self.log_running().await
                {
                    // Nothing else makes it give up.
                    reader.terminate(pid).await.ok();
                    return Err(e);
                }
                if Instant::now() < reminder {
                    continue;
                }
                reminder = Instant::now() + REMINDER;
                let who = self.holding_back(pid).await?;
                tracing::info!(side = %self.side, transactions = who.len(),
                    "the slot waits for transactions that were open before it");
                if Instant::now() >= deadline {
                    reader.terminate(pid).await?;
                    return Err(stops::slot_waits(doing(), &who));
                }
            }
        };
        let row = rows.into_iter().next().unwrap_or_default();
        let field = |i: usize| row.get(i).cloned().flatten();
        let lsn = field(1)
            .as_deref()
            .and_then(parse_lsn)
            .ok_or_else(|| PortError::transient(doing(), "the server gave no position"))?;
        Ok(Created { lsn, snapshot: field(2).filter(|s| !s.is_empty()), keeper })
    }

    /// Drops a slot that somebody is still creating: a process of this run that is gone, since one
    /// at a time works on it. The server does not notice, and without new log it waits for ever.
    pub(super) async fn forget_unfinished(&self, session: &Session, name: &str) -> Result<()> {
        let row = read(session, name)
            .await
            .map_err(|e| port_error(self.doing("looking at the replication slot"), e))?;
        match row {
            Some(SlotRow { confirmed: None, active_pid: Some(_), .. }) => {
                self.drop_slot(name).await
            }
            _ => Ok(()),
        }
    }

    /// Drops the slot, whoever reads it.
    pub(super) async fn drop_slot(&self, name: &str) -> Result<()> {
        let doing = || self.doing("dropping the replication slot");
        let session = self.control().await?;
        let deadline = Instant::now() + RELEASED_WITHIN;
        loop {
            let row = read(&session, name).await.map_err(|e| port_error(doing(), e))?;
            let Some(row) = row else { return Ok(()) };
            if let Some(pid) = row.active_pid {
                if Instant::now() >= deadline {
                    return Err(stops::slot_in_use(doing(), name, pid));
                }
                self.terminate(pid).await?;
                sleep(Duration::from_millis(50)).await;
                continue;
            }
            let drop = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) \
                        FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
            match session.execute(drop, &[&name]).await {
                Ok(_) => return Ok(()),
                // Somebody took it or dropped it in between: look again.
                Err(e)
                    if Instant::now() < deadline
                        && matches!(e.code().map(|c| c.code()), Some("55006" | "42704")) => {}
                Err(e) => return Err(port_error(doing(), e)),
            }
        }
    }

    async fn terminate(&self, pid: i32) -> Result<()> {
        let session = self.control().await?;
        session
            .execute("SELECT pg_catalog.pg_terminate_backend($1)", &[&pid])
            .await
            .map(drop)
            .map_err(|e| port_error(self.doing("ending the reader of the slot"), e))
    }

    /// Transactions that are open and have written, oldest first: a new slot waits for them.
    async fn holding_back(&self, but: i32) -> Result<Vec<String>> {
        let session = self.control().await?;
        let rows = session
            .query(
                "SELECT 'process ' || pid || ' (' || left(application_name, 40) || ') since ' \
                   || xact_start::timestamp(0) \
                 FROM pg_catalog.pg_stat_activity \
                 WHERE backend_xid IS NOT NULL AND pid <> $1 \
                 UNION ALL \
                 SELECT 'prepared transaction since ' || prepared::timestamp(0) \
                 FROM pg_catalog.pg_prepared_xacts LIMIT 10",
                &[&but],
            )
            .await
            .map_err(|e| port_error(self.doing("looking for open transactions"), e))?;
        // Other roles' sessions are hidden from a role without pg_read_all_stats.
        let who: Vec<String> = rows.iter().filter_map(|r| r.get(0)).collect();
        if who.is_empty() { Ok(vec!["hidden from this role".to_owned()]) } else { Ok(who) }
    }

    /// Bytes of log kept for the slot where changes are read.
    pub(super) async fn kept_log(&self, run: &RunId) -> Result<Option<u64>> {
        let session = self.reader_side().control().await?;
        let row = session
            .query_opt(
                "SELECT pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() \
                   THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END, \
                   restart_lsn)::int8 \
                 FROM pg_catalog.pg_replication_slots \
                 WHERE slot_name = $1 AND restart_lsn IS NOT NULL",
                &[&Names::of(run).slot()],
            )
            .await
            .map_err(|e| port_error(self.doing("asking how much log the slot keeps"), e))?;
        Ok(row.map(|r| u64::try_from(r.get::<_, i64>(0)).unwrap_or(0)))
    }
}

/// The keyword form works on every version and for temporary slots; only FAILOVER needs the
/// other form, and comes with 17.
fn create_command(
    name: &str,
    version: u32,
    temporary: bool,
    export: bool,
    failover: bool,
) -> String {
    let name = sql::ident(name);
    let kind = if temporary { "TEMPORARY " } else { "" };
    let snapshot = if export { "export" } else { "nothing" };
    if version >= 170_000 && failover {
        format!(
            "CREATE_REPLICATION_SLOT {name} LOGICAL pgoutput (SNAPSHOT '{snapshot}', FAILOVER true)"
        )
    } else {
        let snapshot = if export { "EXPORT_SNAPSHOT" } else { "NOEXPORT_SNAPSHOT" };
        format!("CREATE_REPLICATION_SLOT {name} {kind}LOGICAL pgoutput {snapshot}")
    }
}

async fn read(
    session: &Session,
    name: &str,
) -> std::result::Result<Option<SlotRow>, tokio_postgres::Error> {
    let invalid = match session.version() {
        170_000.. => "invalidation_reason",
        // Whatever the reason; on a primary there is one only.
        160_000.. => {
            "CASE WHEN conflicting AND pg_is_in_recovery() THEN 'conflict' \
                  WHEN conflicting THEN 'wal_removed' END"
        }
        _ => "NULL::text",
    };
    let query = format!(
        "SELECT plugin::text, database::text, temporary, two_phase, wal_status, {invalid}, \
         confirmed_flush_lsn::text, active_pid \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = $1"
    );
    Ok(session.query_opt(&query, &[&name]).await?.map(|row| SlotRow {
        plugin: row.get(0),
        database: row.get(1),
        temporary: row.get(2),
        two_phase: row.get(3),
        wal_status: row.get(4),
        invalid: row.get(5),
        confirmed: row.get::<_, Option<&str>>(6).and_then(parse_lsn),
        active_pid: row.get(7),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_slots_can_be_read() {
        let good = SlotRow {
            plugin: Some("pgoutput".into()),
            database: Some("shop".into()),
            wal_status: Some("extended".into()),
            confirmed: Some(7),
            ..SlotRow::default()
        };
        assert_eq!(good.judge("shop"), Ok(7));
        let unfit = [
            SlotRow { plugin: None, ..good.clone() },
            SlotRow { plugin: Some("test_decoding".into()), ..good.clone() },
            SlotRow { database: Some("other".into()), ..good.clone() },
            SlotRow { temporary: true, ..good.clone() },
            SlotRow { two_phase: true, ..good.clone() },
        ];
        for slot in unfit {
            assert!(matches!(slot.judge("shop"), Err(Fault::Unfit(_))), "{slot:?}");
        }
        let lost = [
            SlotRow { wal_status: Some("lost".into()), ..good.clone() },
            SlotRow { invalid: Some("wal_removed".into()), ..good.clone() },
            SlotRow { confirmed: None, ..good.clone() },
        ];
        for slot in lost {
            assert!(matches!(slot.judge("shop"), Err(Fault::Lost(_))), "{slot:?}");
        }
        for reason in CONFLICTS {
            let slot = SlotRow { invalid: Some(reason.into()), ..good.clone() };
            assert_eq!(slot.judge("shop"), Err(Fault::Conflict(reason.into())));
        }
    }

    #[test]
    fn creation_by_version() {
        assert_eq!(
            create_command("s", 140_023, false, true, true),
            "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput EXPORT_SNAPSHOT"
        );
        assert_eq!(
            create_command("s", 170_001, false, true, true),
            "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput (SNAPSHOT 'export', FAILOVER true)"
        );
        assert_eq!(
            create_command("s", 180_000, true, true, false),
            "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT"
        );
        assert_eq!(
            create_command("s", 180_000, false, false, false),
            "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput NOEXPORT_SNAPSHOT"
        );
    }
}

//! Opening a stream, and its consumer's side.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use cutover_core::{
    model::{
        event::{Event, TransactionId},
        position::Position,
        run::RunId,
    },
    port::{
        PortError, Result,
        source::{ChangeStream, Large},
    },
};
use tokio::{task::JoinHandle, time::sleep};

use super::{
    assemble::{Assembler, Relations},
    inflight::{BUDGET, Cursor, InFlight},
    large::PgLarge,
    left::Leaves,
    position::lsn_text,
    queue::Shared,
    reader::Reader,
    stops,
};
use crate::{
    connect::{Replication, Session, port_error},
    database::Database,
    sql::Names,
};

/// Status messages are at least this frequent.
const STATUS: Duration = Duration::from_secs(1);

/// How often the publication is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// The server sends a transaction while it runs once so much of it has gathered, and what has
/// gathered at its end still has to be sent then. Less is left alone.
const LITTLE_MEMORY: &str = "SELECT pg_catalog.set_config('logical_decoding_work_mem', '8MB', false) \
     WHERE pg_catalog.pg_size_bytes(pg_catalog.current_setting('logical_decoding_work_mem')) \
           OPERATOR(pg_catalog.>) 8388608";

/// An open stream of one database. Dropping it ends its tasks and connections.
pub(super) struct PgStream {
    shared: Arc<Shared>,
    timeline: u32,
    in_flight: Arc<InFlight>,
    spill: Arc<Path>,
    definitions: String,
    doing: String,
    /// The server leaves out what was replicated to it; here it is asked whether it may.
    alone: Option<Alone>,
    tasks: [JoinHandle<()>; 2],
}

/// Knows whether anybody but the run replicates to a server.
struct Alone {
    session: Arc<Session>,
    origins: [String; 2],
    doing: String,
}

impl Alone {
    /// Whether the server knows no origin but ours. Origins belong to the whole server.
    async fn is(&self) -> Result<bool> {
        let others = "SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_origin \
             WHERE roname OPERATOR(pg_catalog.<>) ALL ($1::text[]))";
        let row = self.session.query_one(others, &[&&self.origins[..]]).await;
        Ok(!row.map_err(|e| port_error(&*self.doing, e))?.get::<_, bool>(0))
    }
}

#[async_trait]
impl ChangeStream for PgStream {
    async fn next(&mut self, out: &mut Vec<Event>) -> Result<()> {
        self.shared.next(out).await
    }

    fn confirm(&mut self, durable: &Position) {
        let Position::Postgres { timeline, lsn } = *durable;
        // A position of another history says nothing about this log.
        if timeline == self.timeline {
            // Before the reader is woken, which may wait for room.
            self.in_flight.confirmed(lsn);
            self.shared.confirm(lsn);
        }
    }

    async fn vouch(&mut self) -> Result<()> {
        match &self.alone {
            Some(alone) if !alone.is().await? => Err(PortError::transient(
                &*self.doing,
                "somebody else replicates to this server now: what came since is read again",
            )),
            _ => Ok(()),
        }
    }

    fn large(&mut self, transaction: TransactionId) -> Option<Box<dyn Large>> {
        let kept = self.in_flight.get(transaction)?;
        Some(Box::new(PgLarge {
            cursor: Cursor::new(Arc::clone(&kept), Arc::clone(&self.spill)),
            kept,
            in_flight: Arc::clone(&self.in_flight),
            transaction,
            definitions: self.definitions.clone(),
            relations: Relations::new(),
            doing: self.doing.clone(),
        }))
    }
}

impl Drop for PgStream {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Database {
    pub(super) async fn open_stream(
        &self,
        run: &RunId,
        from: Option<&Position>,
        watching: bool,
    ) -> Result<PgStream> {
        let doing = || self.doing("opening the change stream");
        let names = Names::of(run);
        let name = names.slot();
        let session = Arc::new(self.session("watch").await?);
        self.still_has(&session, from).await?;
        self.check_publication(&session, run).await?;
        let slots = match &self.standby {
            Some(standby) => {
                self.standby_follows().await?;
                standby.control().await?
            }
            None => Arc::clone(&session),
        };
        let reader = self.reader_side();
        let confirmed = reader.slot_for_reading(&slots, name, from).await?;
        let mut replication = reader.replication("stream").await?;
        let (timeline, interval) = identify(&mut replication, doing()).await?;
        replication.query(LITTLE_MEMORY).await.map_err(|e| e.into_port(doing()))?;
        let start = match from {
            Some(Position::Postgres { timeline: t, .. }) if *t < timeline => {
                return Err(PortError::transient(doing(), "another server takes over just now"));
            }
            Some(from @ Position::Postgres { timeline: t, .. }) if *t > timeline => {
                return Err(stops::other_timeline(doing(), from, timeline));
            }
            Some(Position::Postgres { lsn, .. }) => *lsn,
            None => confirmed,
        };
        let alone = Alone {
            session: Arc::clone(&session),
            origins: [names.origin().to_owned(), names.early_origin()],
            doing: self.doing("asking who replicates to the server"),
        };
        let filters = watching && replication.version() >= 160_000 && alone.is().await?;
        let command = start_command(&names, start, replication.version(), filters);
        let pid = replication.pid();
        let connection =
            replication.start(&command).await.map_err(|e| stops::at_start(doing(), name, e))?;
        let shared = Arc::new(Shared::new(start));
        let in_flight = Arc::new(InFlight::new(Arc::clone(&self.spill), BUDGET));
        let reader = Reader {
            connection,
            _leaves: Leaves { kept: Arc::clone(&reader.kept), pid },
            assembler: Assembler::new(
                [names.origin(), &names.early_origin()],
                &names.definitions(),
                timeline,
                start,
                Arc::clone(&in_flight),
            ),
            shared: Arc::clone(&shared),
            interval,
            doing: self.doing("reading the change stream"),
            name: name.to_owned(),
            received: start,
            db: self.clone(),
            run: run.clone(),
            waits: false,
        };
        let standby =
            self.clone().look_at_standby(Arc::clone(&session), timeline, Arc::clone(&shared));
        let look = self.clone().look(session, run.clone(), Arc::clone(&shared));
        let looks = async move {
            tokio::join!(look, standby);
        };
        let tasks = [tokio::spawn(reader.run()), tokio::spawn(looks)];
        Ok(PgStream {
            shared,
            timeline,
            in_flight,
            spill: Arc::clone(&self.spill),
            definitions: names.definitions(),
            doing: self.doing("reading the change stream"),
            alone: filters.then_some(alone),
            tasks,
        })
    }

    /// Looks from the side whether the stream still carries what it should: newer servers leave
    /// a missing publication out with a mere warning.
    async fn look(self, mut session: Arc<Session>, run: RunId, shared: Arc<Shared>) {
        loop {
            sleep(LOOK).await;
            if session.is_closed() {
                match self.session("watch").await {
                    Ok(new) => session = Arc::new(new),
                    // The stream itself notices when the server is gone.
                    Err(_) => continue,
                }
            }
            match self.check_publication(&session, &run).await {
                Err(why @ PortError::Definite { .. }) => {
                    shared.stop(why);
                    return;
                }
                Err(why) => tracing::debug!(error = %why, "the publication cannot be looked at"),
                Ok(()) => {}
            }
        }
    }
}

/// The timeline, and how often the server wants to hear from us.
async fn identify(replication: &mut Replication, doing: String) -> Result<(u32, Duration)> {
    let rows = replication.query("IDENTIFY_SYSTEM").await.map_err(|e| e.into_port(&doing))?;
    let timeline = rows
        .first()
        .and_then(|r| r.get(1))
        .and_then(Option::as_deref)
        .and_then(|t| t.parse().ok())
        .ok_or_else(|| PortError::transient(&doing, "the server names no timeline"))?;
    let rows = replication
        .query("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'")
        .await
        .map_err(|e| e.into_port(&doing))?;
    let patience = rows
        .first()
        .and_then(|r| r.first())
        .and_then(Option::as_deref)
        .and_then(|ms| ms.parse().ok())
        .filter(|ms| *ms > 0)
        .map_or(STATUS, Duration::from_millis);
    Ok((timeline, STATUS.min(patience / 3).max(Duration::from_millis(10))))
}

/// The highest protocol the server speaks. With `filters` (16 and later) it leaves out everything
/// that carries an origin, also what other subscriptions write; else we leave out what is ours.
fn start_command(names: &Names, from: u64, version: u32, filters: bool) -> String {
    let protocol = match version {
        160_000.. => 4,
        150_000.. => 3,
        _ => 2,
    };
    format!(
        "START_REPLICATION SLOT {} LOGICAL {} (proto_version '{protocol}', \
         publication_names '\"{}\"', messages 'true', streaming 'on'{})",
        crate::sql::ident(names.slot()),
        lsn_text(from),
        names.publication(),
        if filters { ", origin 'none'" } else { "" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_protocol_of_each_version() {
        let names = Names::of(&RunId::new("shop").unwrap());
        for (version, want) in [(140_000, '2'), (150_018, '3'), (160_000, '4'), (180_004, '4')] {
            let command = start_command(&names, 0x16_B374_D848, version, false);
            assert!(command.contains(&format!("proto_version '{want}'")), "{command}");
            assert!(
                command
                    .starts_with("START_REPLICATION SLOT \"cutover_shop\" LOGICAL 16/B374D848 (")
            );
            assert!(!command.contains("origin"), "{command}");
        }
        let filtered = start_command(&names, 7, 160_000, true);
        assert!(filtered.ends_with("streaming 'on', origin 'none')"), "{filtered}");
    }
}

//! The one writer of streamed changes: rows and position in one transaction per call.
//!
//! A call costs two round trips: everything including the position, then COMMIT once every
//! number of rows is as expected. When the set-wise path does not give the expected numbers, the
//! call is rolled back and done again with the tables concerned in order, row by row.
//!
//! A commit that may become durable later does not wait for the disk; the next one that waits
//! makes all of them durable (PostgreSQL 18, chapter 28.4, asynchronous commit).

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use cutover_core::{
    model::{
        digest::RowKey,
        event::Event,
        position::Position,
        schema::{Table, TableName},
        selection::Selection,
    },
    port::{
        Result,
        copy::{CopyFormat, CopyStream},
        sink::{EarlyWriter, Redefined, Route, SinkWriter},
    },
};
use tokio_postgres::{Statement, types::Type};

use super::{
    attempt::{Attempt, Failure},
    batch::{cut, has_rows},
    cache::Cache,
    early::Early,
    refusal,
    router::Router,
};
use crate::{
    catalog,
    connect::{Session, port_error},
    database::Database,
    ddl,
    sql::Names,
};

/// How often in a row a table is written in order before the set-wise path is tried again, at most.
const LONGEST_DETOUR: u32 = 64;

/// How long a commit may wait for the disk. Each wait costs the server a flush of its log, and
/// everything behind it waits as well.
const SOON: Duration = Duration::from_millis(100);

/// The writer of a run on one side.
pub(super) struct Writer {
    pub(super) session: Session,
    /// For messages: which side this is.
    pub(super) at: String,
    pub(super) names: Names,
    pub(super) router: Router,
    cache: Cache,
    pub(super) store: Statement,
    pub(super) progress: Progress,
    /// For another session.
    database: Database,
    /// The source transaction that is open, and with it ours.
    pub(super) open: Option<u32>,
    /// A call failed or was not finished: what the server holds is not known any more.
    broken: bool,
    detours: Vec<Detour>,
    /// Where rows go, for when tables change.
    routes: Vec<Route>,
    /// What the open transaction of the source did to definitions.
    course: ddl::Course,
}

/// What the progress table says, as far as the writers of a run know: one commits for both.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<Mutex<Positions>>);

#[derive(Default)]
struct Positions {
    /// What the table says.
    stored: Option<Position>,
    /// What it says after a crash of the server at the latest.
    durable: Option<Position>,
    /// Since when `stored` is ahead.
    ahead: Option<Instant>,
}

impl Progress {
    fn positions(&self) -> MutexGuard<'_, Positions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stored(&self) -> Option<Position> {
        self.positions().stored.clone()
    }

    fn durable(&self) -> Option<Position> {
        self.positions().durable.clone()
    }

    /// Committed, and so is all before it.
    pub(super) fn flushed(&self, position: Position) {
        *self.positions() =
            Positions { stored: Some(position.clone()), durable: Some(position), ahead: None };
    }

    /// Committed, and not known to be durable.
    fn committed(&self, position: Position) {
        let mut positions = self.positions();
        positions.stored = Some(position);
        positions.ahead.get_or_insert_with(Instant::now);
    }

    /// For how long something has been waiting for the disk.
    fn ahead(&self) -> Option<Duration> {
        self.positions().ahead.map(|since| since.elapsed())
    }
}

/// Memory of a table's failures on the set-wise path.
#[derive(Debug, Clone, Copy, Default)]
struct Detour {
    /// Calls to come that go the ordered way at once.
    left: u32,
    /// How long the last detour was.
    length: u32,
}

impl Detour {
    fn begin(&mut self) {
        self.length = (self.length * 2).clamp(1, LONGEST_DETOUR);
        self.left = self.length;
    }

    /// The set-wise path worked.
    fn calm(&mut self) {
        if self.left == 0 {
            self.length /= 2;
        }
    }

    /// Whether to go the ordered way now.
    fn step(&mut self) -> bool {
        let go = self.left > 0;
        self.left = self.left.saturating_sub(1);
        go
    }
}

impl Writer {
    /// Takes over a session that is set up for writing.
    pub(super) async fn new(
        database: Database,
        session: Session,
        at: String,
        names: Names,
        routes: &[Route],
    ) -> Result<Self> {
        let router = Router::new(&session, routes).await?;
        let text = format!(
            "UPDATE {} SET position = $1, updated_at = pg_catalog.clock_timestamp()",
            names.progress()
        );
        let store = session
            .prepare_typed(&text, &[Type::TEXT])
            .await
            .map_err(|e| super::setup::progress_error(&at, e))?;
        let progress = Progress::default();
        if let Some(stored) = super::setup::read_progress(&session, &at, &names).await? {
            progress.committed(stored);
        }
        let detours = vec![Detour::default(); router.len()];
        Ok(Self {
            session,
            at,
            names,
            router,
            cache: Cache::default(),
            store,
            progress,
            database,
            open: None,
            broken: false,
            detours,
            routes: routes.to_vec(),
            course: ddl::Course::default(),
        })
    }

    async fn apply_events(&mut self, events: &[Event], soon: bool) -> Result<Option<Position>> {
        self.router.trim();
        let cut = cut(events, self.open, self.progress.stored().as_ref())?;
        let soon = soon
            && self.open.is_none()
            && cut.open.is_none()
            && self.progress.ahead().is_none_or(|since| since < SOON);
        if cut.skip > 0 {
            tracing::debug!(at = %self.at, "skipping transactions that are applied already");
        }
        if cut.discard_open {
            self.command("ROLLBACK").await?;
            self.open = None;
            self.course = ddl::Course::default();
        }
        let mut stored = None;
        let closed = &events[cut.skip..cut.closed];
        if let Some(position) = cut.position
            && (self.open.is_some() || has_rows(closed))
        {
            self.write(events, cut.skip..cut.closed, Some(&position), None, soon).await?;
            self.open = None;
            self.course = ddl::Course::default();
            if soon {
                self.progress.committed(position);
            } else {
                self.progress.flushed(position.clone());
                stored = Some(position);
            }
        }
        if let Some(transaction) = cut.open {
            let range = cut.closed.max(cut.skip)..events.len();
            self.write(events, range, None, Some(transaction), false).await?;
            self.open = Some(transaction);
            return Ok(stored);
        }
        Ok(self.progress.durable())
    }

    /// Writes a range of the events; commits with `position`, else leaves the transaction open.
    async fn write(
        &mut self,
        events: &[Event],
        range: std::ops::Range<usize>,
        position: Option<&Position>,
        open: Option<u32>,
        soon: bool,
    ) -> Result<()> {
        let touched = self.router.learn_all(&events[range.clone()])?;
        let mut in_order: BTreeSet<usize> =
            touched.iter().copied().filter(|table| self.detours[*table].step()).collect();
        let attempt = Attempt {
            session: &self.session,
            at: &self.at,
            names: &self.names,
            router: &self.router,
            store: &self.store,
            events,
            range,
            position,
            open,
            nested: self.open.is_some(),
            soon,
        };
        loop {
            match attempt.run(&mut self.cache, &in_order).await {
                Ok(()) => break,
                Err(Failure::Stop(error)) => return Err(error),
                Err(Failure::Again(tables)) => {
                    attempt.undo().await?;
                    for table in tables {
                        let name = &self.router.target(table).name;
                        tracing::debug!(table = %name, "writing a call's changes in order");
                        self.detours[table].begin();
                        in_order.insert(table);
                    }
                }
            }
        }
        for table in touched.difference(&in_order) {
            self.detours[*table].calm();
        }
        Ok(())
    }

    async fn write_progress(&mut self, position: &Position) -> Result<()> {
        if self.open.is_some() || self.broken {
            return Err(refusal::not_a_stream(
                "a position cannot be stored while a transaction is open",
            ));
        }
        let text = super::setup::position_text(position)?;
        let rows = self
            .session
            .execute_raw(&self.store, [text])
            .await
            .map_err(|e| super::setup::progress_error(&self.at, e))?;
        if rows != 1 {
            return Err(super::setup::not_prepared(&self.at));
        }
        self.progress.flushed(position.clone());
        Ok(())
    }

    /// Waits for the disk if anything does.
    async fn settle(&mut self) -> Result<()> {
        match self.progress.stored() {
            Some(stored) if self.progress.ahead().is_some() => self.write_progress(&stored).await,
            _ => Ok(()),
        }
    }

    async fn apply_all(&mut self, events: &[Event], soon: bool) -> Result<Option<Position>> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(refusal::not_a_stream(
                "an earlier call failed: the writer must be opened again",
            ));
        }
        let result = self.apply_events(events, soon).await;
        self.broken = result.is_err();
        result
    }

    /// Learns tables anew, also those that are new on both sides.
    async fn learn(&mut self, selection: &Selection, places: &ddl::Places) -> Result<()> {
        let reading = |e| port_error("reading the target tables", e);
        let tables = catalog::definitions_now(&self.session, selection).await.map_err(reading)?;
        let tables: HashMap<&TableName, &Table> = tables.iter().map(|t| (&t.name, t)).collect();
        let find = |name: &TableName| tables.get(name).copied();
        for route in &mut self.routes {
            if let Some(table) = find(&route.target.name) {
                route.target = table.clone();
            }
        }
        for (source, target) in places {
            if self.routes.iter().any(|r| &r.source == source) {
                continue;
            }
            // What takes the rows of partitions may be a partitioned table.
            let known = || self.routes.iter().map(|r| &r.target).find(|t| &t.name == target);
            if let Some(target) = find(target).or_else(known).cloned() {
                self.routes.push(Route { source: source.clone(), target });
            }
        }
        self.routes.retain(|route| !self.course.gone.contains(&route.target.name));
        self.router = Router::new(&self.session, &self.routes).await?;
        self.cache = Cache::default();
        self.detours = vec![Detour::default(); self.router.len()];
        Ok(())
    }

    pub(super) async fn command(&self, text: &str) -> Result<()> {
        self.session.batch_execute(text).await.map_err(|e| port_error(self.writing(), e))
    }

    fn writing(&self) -> String {
        format!("applying changes to {}", self.at)
    }
}

#[async_trait]
impl SinkWriter for Writer {
    async fn progress(&mut self) -> Result<Option<Position>> {
        let stored = super::setup::read_progress(&self.session, &self.at, &self.names).await?;
        // The writer before may not have waited for the disk.
        if stored.is_some() && stored != self.progress.durable() {
            self.settle().await?;
        }
        Ok(stored)
    }

    async fn apply(&mut self, events: &[Event]) -> Result<Option<Position>> {
        let applied = self.apply_all(events, false).await?;
        // Nothing of the call was new, and what it repeats may not be on disk.
        if self.open.is_none() && self.progress.ahead().is_some() {
            return self.flush().await;
        }
        Ok(applied)
    }

    async fn apply_soon(&mut self, events: &[Event]) -> Result<Option<Position>> {
        self.apply_all(events, true).await
    }

    async fn flush(&mut self) -> Result<Option<Position>> {
        self.settle().await?;
        Ok(self.progress.durable())
    }

    async fn redefine(
        &mut self,
        content: &[u8],
        now: Option<&[u8]>,
        selection: &Selection,
        make: bool,
    ) -> Result<Redefined> {
        if self.open.is_none() || std::mem::replace(&mut self.broken, true) {
            return Err(refusal::not_a_stream("definitions change outside of a transaction"));
        }
        let followed = ddl::Followed { selection, routes: &self.routes, names: &self.names };
        let (made, places) =
            ddl::make(&self.session, &self.at, (content, now), followed, make, &mut self.course)
                .await?;
        if let Redefined::Made { .. } | Redefined::Alike { .. } = &made {
            self.learn(selection, &places).await?;
        }
        self.broken = false;
        Ok(made)
    }

    async fn store(&mut self, position: &Position) -> Result<()> {
        if let Some(stored) = self.progress.stored()
            && stored.covers(position).map_err(|e| refusal::wrong_history(e.to_string()))?
        {
            return self.settle().await;
        }
        self.write_progress(position).await
    }

    async fn rebase(&mut self, position: &Position) -> Result<()> {
        match self.progress.stored() {
            Some(stored) if position.renames(&stored) => self.write_progress(position).await,
            stored => Err(refusal::wrong_history(format!(
                "{position} does not follow from {}",
                stored.map_or("nothing".to_owned(), |p| p.to_string())
            ))),
        }
    }

    async fn replace(
        &mut self,
        table: &Table,
        keys: Option<&[RowKey]>,
        format: CopyFormat,
        rows: Box<dyn CopyStream>,
    ) -> Result<u64> {
        if self.open.is_some() || std::mem::replace(&mut self.broken, true) {
            return Err(refusal::not_a_stream(
                "rows cannot be replaced while a transaction is open",
            ));
        }
        let context = (&self.session, &*self.at, &self.names);
        let result = super::repair::replace(context, table, keys, format, rows).await;
        self.broken = result.is_err();
        result
    }

    async fn early(&mut self) -> Result<Option<Box<dyn EarlyWriter>>> {
        let early = Early::open(&self.database, &self.at, &self.names, &self.routes);
        let mut early = early.await?;
        early.writer.progress = self.progress.clone();
        Ok(Some(Box::new(early)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detours_get_longer_and_end() {
        let mut detour = Detour::default();
        assert!(!detour.step());
        detour.begin();
        assert_eq!((detour.step(), detour.step()), (true, false));
        for _ in 0..10 {
            detour.begin();
        }
        assert_eq!(detour.left, LONGEST_DETOUR);
        while detour.step() {}
        detour.calm();
        detour.begin();
        assert_eq!(detour.left, LONGEST_DETOUR);
        detour.left = 0;
        (0..10).for_each(|_| detour.calm());
        detour.begin();
        assert_eq!(detour.left, 1);
    }
}

//! The one writer of streamed changes: rows and position in one transaction per call.
//!
//! A call costs two round trips: everything including the position, then COMMIT once every
//! number of rows is as expected. When the set-wise path does not give the expected numbers, the
//! call is rolled back and done again with the tables concerned in order, row by row.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use cutover_core::{
    model::{digest::RowKey, event::Event, position::Position, schema::Table},
    port::{
        PortError, Result,
        copy::{CopyFormat, CopyStream},
        sink::SinkWriter,
    },
};
use futures_util::{SinkExt, future::BoxFuture};
use tokio_postgres::{Statement, error::SqlState, types::Type};

use super::{
    batch::{Batch, cut, has_rows, place},
    cache::Cache,
    pipeline::pipeline,
    reduce::{Net, Reason},
    refusal,
    router::Router,
    rows,
    set::{Copy, Plan},
    statement,
};
use crate::{
    connect::{Session, port_error},
    sql::Names,
};

/// How often in a row a table is written in order before the set-wise path is tried again, at most.
const LONGEST_DETOUR: u32 = 64;

/// The writer of a run on one side.
pub(super) struct Writer {
    pub(super) session: Session,
    /// For messages: which side this is.
    pub(super) at: String,
    pub(super) names: Names,
    pub(super) router: Router,
    cache: Cache,
    store: Statement,
    /// What the progress table says.
    durable: Option<Position>,
    /// The source transaction that is open, and with it ours.
    open: Option<u32>,
    /// A call failed or was not finished: what the server holds is not known any more.
    broken: bool,
    detours: Vec<Detour>,
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

/// Why an attempt did not succeed.
enum Failure {
    /// Do it again with these tables in order.
    Again(BTreeSet<usize>),
    /// There is no way.
    Stop(PortError),
}

impl From<PortError> for Failure {
    fn from(error: PortError) -> Self {
        Self::Stop(error)
    }
}

impl Writer {
    /// Takes over a session that is set up for writing.
    pub(super) async fn new(
        session: Session,
        at: String,
        names: Names,
        router: Router,
    ) -> Result<Self> {
        let text = format!(
            "UPDATE {} SET position = $1, updated_at = pg_catalog.clock_timestamp()",
            names.progress()
        );
        let store = session
            .prepare_typed(&text, &[Type::TEXT])
            .await
            .map_err(|e| super::setup::progress_error(&at, e))?;
        let durable = super::setup::read_progress(&session, &at, &names).await?;
        let detours = vec![Detour::default(); router.len()];
        Ok(Self {
            session,
            at,
            names,
            router,
            cache: Cache::default(),
            store,
            durable,
            open: None,
            broken: false,
            detours,
        })
    }

    async fn apply_events(&mut self, events: &[Event]) -> Result<Option<Position>> {
        self.router.trim();
        let cut = cut(events, self.open, self.durable.as_ref())?;
        if cut.skip > 0 {
            tracing::debug!(at = %self.at, "skipping transactions that are applied already");
        }
        if cut.discard_open {
            self.command("ROLLBACK").await?;
            self.open = None;
        }
        let mut stored = None;
        let closed = &events[cut.skip..cut.closed];
        if let Some(position) = cut.position
            && (self.open.is_some() || has_rows(closed))
        {
            self.write(events, cut.skip..cut.closed, Some(&position), None).await?;
            self.open = None;
            self.durable = Some(position.clone());
            stored = Some(position);
        }
        if let Some(transaction) = cut.open {
            self.write(events, cut.closed.max(cut.skip)..events.len(), None, Some(transaction))
                .await?;
            self.open = Some(transaction);
            return Ok(stored);
        }
        Ok(self.durable.clone())
    }

    /// Writes a range of the events; commits with `position`, else leaves the transaction open.
    async fn write(
        &mut self,
        events: &[Event],
        range: std::ops::Range<usize>,
        position: Option<&Position>,
        open: Option<u32>,
    ) -> Result<()> {
        let part = &events[range.clone()];
        for event in part {
            match event {
                Event::Row { relation, .. } => self.router.learn(relation)?,
                Event::Truncate { relations, .. } => {
                    relations.iter().try_for_each(|r| self.router.learn(r))?;
                }
                _ => {}
            }
        }
        let mut batch = Batch::collect(&self.router, part, range.start, open)?;
        for (index, pending) in &mut batch.tables {
            if self.detours[*index].step() {
                pending.keep_order(Reason::Detour);
            }
        }
        let mut attempt = Attempt {
            session: &self.session,
            at: &self.at,
            router: &self.router,
            cache: &mut self.cache,
            store: &self.store,
            events,
            position,
            open,
            nested: self.open.is_some(),
        };
        loop {
            match attempt.run(&batch).await {
                Ok(()) => {
                    for (index, pending) in &batch.tables {
                        if !pending.is_ordered() {
                            self.detours[*index].calm();
                        }
                    }
                    return Ok(());
                }
                Err(Failure::Stop(error)) => return Err(error),
                Err(Failure::Again(tables)) => {
                    attempt.undo().await?;
                    for (index, pending) in &mut batch.tables {
                        if tables.contains(index) {
                            self.detours[*index].begin();
                            pending.keep_order(Reason::Refused);
                        }
                    }
                }
            }
        }
    }

    async fn command(&self, text: &str) -> Result<()> {
        self.session.batch_execute(text).await.map_err(|e| port_error(self.writing(), e))
    }

    fn writing(&self) -> String {
        format!("applying changes to {}", self.at)
    }
}

/// One try to write a batch.
struct Attempt<'a> {
    session: &'a Session,
    at: &'a str,
    router: &'a Router,
    cache: &'a mut Cache,
    store: &'a Statement,
    events: &'a [Event],
    position: Option<&'a Position>,
    open: Option<u32>,
    /// Whether our transaction was open before this call.
    nested: bool,
}

/// What a request of the first round trip is for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Transaction,
    /// Which of the batch's truncates.
    Truncate(usize),
    /// Which table, and how many rows must be touched.
    Rows(usize, u64),
    Progress,
}

impl Attempt<'_> {
    async fn run(&mut self, batch: &Batch<'_>) -> std::result::Result<(), Failure> {
        let mut plan = Plan::default();
        let mut ordered = Vec::new();
        for (index, pending) in &batch.tables {
            let target = self.router.target(*index);
            let reason = match pending.net() {
                Net::Ordered(reason) => reason,
                Net::Set { deletes, updates, inserts } => {
                    if plan.add(*index, target, &deletes, &updates, &inserts)? {
                        continue;
                    }
                    Reason::KeptColumn
                }
            };
            tracing::debug!(table = %target.name, ?reason, "writing changes in order");
            ordered.push(&pending.steps);
        }
        let keys = plan.statements.iter().map(|m| &m.key).chain(plan.copies.iter().map(|c| &c.key));
        self.cache.prepare(self.session, self.router, keys).await?;
        self.first_round(batch, &plan, !ordered.is_empty()).await?;
        for copy in plan.copies {
            self.copy(copy).await?;
        }
        for steps in ordered {
            let context = rows::Context {
                client: self.session,
                router: self.router,
                events: self.events,
                open: self.open,
            };
            rows::write(context, self.cache, steps).await?;
        }
        match (self.position, self.nested) {
            (Some(_), _) => self.command("COMMIT").await?,
            (None, true) => self.command("RELEASE SAVEPOINT cutover").await?,
            (None, false) => {}
        }
        Ok(())
    }

    /// Everything but the copies, the ordered rows and the end of the transaction, in one round
    /// trip.
    async fn first_round(
        &self,
        batch: &Batch<'_>,
        plan: &Plan,
        ordered: bool,
    ) -> std::result::Result<(), Failure> {
        let mut purposes = Vec::new();
        let mut requests: Vec<BoxFuture<'_, std::result::Result<u64, tokio_postgres::Error>>> =
            Vec::new();
        let client = &**self.session;
        let begin = match (self.nested, ordered) {
            (false, false) => "BEGIN",
            (false, true) => "BEGIN; SET CONSTRAINTS ALL DEFERRED",
            (true, false) => "SAVEPOINT cutover",
            (true, true) => "SAVEPOINT cutover; SET CONSTRAINTS ALL DEFERRED",
        };
        purposes.push(Purpose::Transaction);
        requests.push(Box::pin(async move { client.batch_execute(begin).await.map(|()| 0) }));
        for (i, truncate) in batch.truncates.iter().enumerate() {
            let targets: Vec<_> = truncate.targets.iter().map(|t| self.router.target(*t)).collect();
            let text = statement::truncate(&targets, truncate.restart_identity);
            purposes.push(Purpose::Truncate(i));
            requests.push(Box::pin(async move { client.batch_execute(&text).await.map(|()| 0) }));
        }
        for many in &plan.statements {
            let Some(prepared) = self.cache.get(&many.key) else {
                return Err(refusal::not_a_stream("a statement was not prepared").into());
            };
            purposes.push(Purpose::Rows(many.key.0, many.rows));
            requests.push(Box::pin(client.execute_raw(prepared, &many.arrays)));
        }
        let position = self.position.map(super::setup::position_text).transpose()?;
        if let Some(position) = position {
            purposes.push(Purpose::Progress);
            requests
                .push(Box::pin(async move { client.execute_raw(self.store, [position]).await }));
        }
        let answers = pipeline(requests.into_iter()).await;
        let mut again = BTreeSet::new();
        for (purpose, answer) in purposes.into_iter().zip(answers) {
            match (purpose, answer) {
                (Purpose::Rows(table, expected), Ok(rows)) if rows != expected => {
                    again.insert(table);
                }
                (Purpose::Progress, Ok(rows)) if rows != 1 => {
                    return Err(super::setup::not_prepared(self.at).into());
                }
                (_, Ok(_)) => {}
                (Purpose::Rows(table, _), Err(error)) if is_about_rows(&error) => {
                    // What follows failed only because this did.
                    again.insert(table);
                    break;
                }
                (Purpose::Truncate(i), Err(error)) if is_about_rows(&error) => {
                    let truncate = &batch.truncates[i];
                    return Err(self.truncate_refused(truncate, &error).into());
                }
                (Purpose::Progress, Err(error)) => {
                    return Err(super::setup::progress_error(self.at, error).into());
                }
                (_, Err(error)) => return Err(port_error(self.writing(), error).into()),
            }
        }
        if again.is_empty() { Ok(()) } else { Err(Failure::Again(again)) }
    }

    async fn copy(&self, copy: Copy) -> std::result::Result<(), Failure> {
        let Copy { key, mut text, rows } = copy;
        let Some(prepared) = self.cache.get(&key) else {
            return Err(refusal::not_a_stream("a statement was not prepared").into());
        };
        // A COPY that does not even start leaves the driver out of step: no second try.
        let sink = self
            .session
            .copy_in::<_, Bytes>(prepared)
            .await
            .map_err(|e| port_error(self.writing(), e))?;
        let mut sink = std::pin::pin!(sink);
        // An error while sending means that the server has said why: finish asks for it.
        let sent = sink.send(text.take()).await;
        let result = sink.finish().await;
        match (sent, result) {
            (_, Ok(written)) if written == rows => Ok(()),
            (_, Ok(_)) => Err(Failure::Again([key.0].into())),
            (_, Err(error)) if is_about_rows(&error) => Err(Failure::Again([key.0].into())),
            (Err(error), Err(_)) | (Ok(()), Err(error)) => {
                Err(port_error(self.writing(), error).into())
            }
        }
    }

    async fn undo(&self) -> Result<()> {
        match self.nested {
            true => self.command("ROLLBACK TO SAVEPOINT cutover; RELEASE SAVEPOINT cutover").await,
            false => self.command("ROLLBACK").await,
        }
    }

    fn truncate_refused(
        &self,
        truncate: &super::batch::Truncate,
        error: &tokio_postgres::Error,
    ) -> PortError {
        let names: Vec<String> =
            truncate.targets.iter().map(|t| self.router.target(*t).name.to_string()).collect();
        let what = if error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED) {
            "a foreign key of a table that was not emptied with them is in the way".to_owned()
        } else {
            error.as_db_error().map(refusal::describe).unwrap_or_default()
        };
        let place = place(self.events, truncate.event, self.open);
        refusal::truncate_refused(&names.join(", "), &place, &what)
    }

    async fn command(&self, text: &str) -> Result<()> {
        self.session.batch_execute(text).await.map_err(|e| port_error(self.writing(), e))
    }

    fn writing(&self) -> String {
        format!("applying changes to {}", self.at)
    }
}

fn is_about_rows(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(refusal::is_about_rows)
}

#[async_trait]
impl SinkWriter for Writer {
    async fn progress(&mut self) -> Result<Option<Position>> {
        super::setup::read_progress(&self.session, &self.at, &self.names).await
    }

    async fn apply(&mut self, events: &[Event]) -> Result<Option<Position>> {
        // Also when the future is dropped half-way.
        if std::mem::replace(&mut self.broken, true) {
            return Err(refusal::not_a_stream(
                "an earlier call failed: the writer must be opened again",
            ));
        }
        let result = self.apply_events(events).await;
        self.broken = result.is_err();
        result
    }

    async fn store(&mut self, position: &Position) -> Result<()> {
        if self.open.is_some() || self.broken {
            return Err(refusal::not_a_stream(
                "a position cannot be stored while a transaction is open",
            ));
        }
        if let Some(durable) = &self.durable
            && durable.covers(position).map_err(|e| refusal::wrong_history(e.to_string()))?
        {
            return Ok(());
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
        self.durable = Some(position.clone());
        Ok(())
    }

    async fn replace(
        &mut self,
        table: &Table,
        keys: &[RowKey],
        format: CopyFormat,
        rows: Box<dyn CopyStream>,
    ) -> Result<u64> {
        if self.open.is_some() || std::mem::replace(&mut self.broken, true) {
            return Err(refusal::not_a_stream(
                "rows cannot be replaced while a transaction is open",
            ));
        }
        let result = super::repair::replace(&self.session, &self.at, table, keys, format, rows);
        let result = result.await;
        self.broken = result.is_err();
        result
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

//! One try to write a call's events in one transaction of this side.
//!
//! The events are taken in parts: while the server works on one, the next is reduced and encoded.

use std::{
    collections::BTreeSet,
    future::{Future, poll_fn},
    ops::Range,
    pin::Pin,
    task::Poll,
};

use bytes::Bytes;
use cutover_core::{
    model::{event::Event, position::Position},
    port::{PortError, Result},
};
use futures_util::{SinkExt, future::BoxFuture};
use tokio_postgres::{Statement, error::SqlState};

use super::{
    batch::{self, Batch, Truncate, place},
    cache::Cache,
    parts,
    pipeline::pipeline,
    reduce::{Net, Reason, Step},
    refusal,
    router::Router,
    rows,
    set::{Copy, Plan},
    setup, statement,
};
use crate::{
    connect::{Session, row_error},
    sql::Names,
};

/// Why an attempt did not succeed.
pub(super) enum Failure {
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

/// A call, and what it needs to be written.
pub(super) struct Attempt<'a> {
    pub(super) session: &'a Session,
    pub(super) at: &'a str,
    pub(super) names: &'a Names,
    pub(super) router: &'a Router,
    /// Stores a position.
    pub(super) store: &'a Statement,
    /// All events of the call.
    pub(super) events: &'a [Event],
    /// Those to be written.
    pub(super) range: Range<usize>,
    /// What to store at the end; `None` leaves our transaction open.
    pub(super) position: Option<&'a Position>,
    /// The source's transaction that has no end yet, for messages.
    pub(super) open: Option<u32>,
    /// Whether our transaction was open before this call.
    pub(super) nested: bool,
    /// COMMIT need not wait for the disk.
    pub(super) soon: bool,
}

/// A part of the events, ready to be sent.
struct Part<'a> {
    truncates: Vec<Truncate>,
    plan: Plan,
    ordered: Vec<Vec<Step<'a>>>,
}

/// Whether a part begins or ends the call.
#[derive(Debug, Clone, Copy)]
struct Edge {
    first: bool,
    last: bool,
}

/// What a request of the first round trip is for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Transaction,
    /// Which of the part's truncates.
    Truncate(usize),
    /// Which table, and how many rows must be touched.
    Rows(usize, u64),
    Progress,
}

type Outcome<T> = std::result::Result<T, Failure>;

impl<'a> Attempt<'a> {
    /// Writes everything and ends the transaction (or its part, when it stays open). Tables of
    /// `in_order` are written row by row.
    pub(super) async fn run(&self, cache: &mut Cache, in_order: &BTreeSet<usize>) -> Outcome<()> {
        let mut ranges = batch::parts(self.range.clone()).into_iter();
        let mut next = match ranges.next() {
            Some(range) => Some(self.prepare(range, in_order)?),
            None => None,
        };
        let mut first = true;
        while let Some(part) = next.take() {
            let following = ranges.next();
            let edge = Edge { first, last: following.is_none() };
            first = false;
            let mut running = Box::pin(self.execute(cache, part, edge));
            let Some(range) = following else {
                running.await?;
                break;
            };
            let early = begin(&mut running).await;
            let prepared = self.prepare(range, in_order);
            match early {
                Some(result) => result?,
                None => running.await?,
            }
            next = Some(prepared?);
        }
        match (self.position, self.nested) {
            (Some(_), _) => self.command("COMMIT").await?,
            (None, true) => self.command("RELEASE SAVEPOINT cutover").await?,
            (None, false) => {}
        }
        Ok(())
    }

    /// Takes back what this try has written.
    pub(super) async fn undo(&self) -> Result<()> {
        match self.nested {
            true => self.command("ROLLBACK TO SAVEPOINT cutover; RELEASE SAVEPOINT cutover").await,
            false => self.command("ROLLBACK").await,
        }
    }

    /// Reduces and encodes a part.
    fn prepare(&self, range: Range<usize>, in_order: &BTreeSet<usize>) -> Result<Part<'a>> {
        let events = &self.events[range.clone()];
        let batch = Batch::collect(self.router, events, range.start, self.open, in_order)?;
        let mut plan = Plan::default();
        let mut ordered = Vec::new();
        for (index, pending) in batch.tables {
            let target = self.router.target(index);
            let reason = match pending.net() {
                Net::Ordered(reason) => reason,
                Net::Set { deletes, updates, inserts } => {
                    if plan.add(index, target, &deletes, &updates, &inserts)? {
                        continue;
                    }
                    Reason::KeptColumn
                }
            };
            tracing::debug!(table = %target.name, ?reason, "writing changes in order");
            ordered.push(pending.into_steps());
        }
        Ok(Part { truncates: batch.truncates, plan, ordered })
    }

    async fn execute(&self, cache: &mut Cache, part: Part<'_>, edge: Edge) -> Outcome<()> {
        let Part { truncates, plan, ordered } = part;
        let keys = plan.statements.iter().map(|m| &m.key).chain(plan.copies.iter().map(|c| &c.key));
        cache.prepare(self.session, self.router, keys).await?;
        self.first_round(cache, &truncates, &plan, !ordered.is_empty(), edge).await?;
        for copy in plan.copies {
            self.copy(cache, copy).await?;
        }
        for steps in ordered {
            let context = rows::Context {
                client: self.session,
                router: self.router,
                events: self.events,
                open: self.open,
            };
            rows::write(context, cache, &steps).await?;
        }
        Ok(())
    }

    /// Everything of a part but the copies and the ordered rows, in one round trip.
    async fn first_round(
        &self,
        cache: &Cache,
        truncates: &[Truncate],
        plan: &Plan,
        ordered: bool,
        edge: Edge,
    ) -> Outcome<()> {
        let own = (edge.first && self.needs_a_change()).then(|| parts::first_change(self.names));
        let mut purposes = Vec::new();
        let mut requests: Vec<BoxFuture<'_, std::result::Result<u64, tokio_postgres::Error>>> =
            Vec::new();
        let client = &**self.session;
        let begin = match (edge.first, self.nested) {
            (true, false) if self.soon => Some("BEGIN; SET LOCAL synchronous_commit = off"),
            (true, false) => Some("BEGIN"),
            (true, true) => Some("SAVEPOINT cutover"),
            (false, _) => None,
        };
        let defer = ordered.then_some("SET CONSTRAINTS ALL DEFERRED");
        for text in begin.into_iter().chain(own.as_deref()).chain(defer) {
            purposes.push(Purpose::Transaction);
            requests.push(Box::pin(async move { client.batch_execute(text).await.map(|()| 0) }));
        }
        for (i, truncate) in truncates.iter().enumerate() {
            let targets: Vec<_> = truncate.targets.iter().map(|t| self.router.target(*t)).collect();
            let text = if truncate.others {
                statement::delete_all(&targets)
            } else {
                statement::truncate(&targets, truncate.restart_identity)
            };
            purposes.push(Purpose::Truncate(i));
            requests.push(Box::pin(async move { client.batch_execute(&text).await.map(|()| 0) }));
        }
        for many in &plan.statements {
            let Some(prepared) = cache.get(&many.key) else {
                return Err(refusal::not_a_stream("a statement was not prepared").into());
            };
            purposes.push(Purpose::Rows(many.key.0, many.rows));
            requests.push(Box::pin(client.execute_raw(prepared, &many.arrays)));
        }
        if edge.last
            && let Some(position) = self.position
        {
            let text = setup::position_text(position)?;
            purposes.push(Purpose::Progress);
            requests.push(Box::pin(async move { client.execute_raw(self.store, [text]).await }));
        }
        let answers = pipeline(requests.into_iter()).await;
        let mut again = BTreeSet::new();
        for (purpose, answer) in purposes.into_iter().zip(answers) {
            match (purpose, answer) {
                (Purpose::Rows(table, expected), Ok(rows)) if rows != expected => {
                    again.insert(table);
                }
                (Purpose::Progress, Ok(rows)) if rows != 1 => {
                    return Err(setup::not_prepared(self.at).into());
                }
                (_, Ok(_)) => {}
                (Purpose::Rows(table, _), Err(error)) if is_about_rows(&error) => {
                    // What follows failed only because this did.
                    again.insert(table);
                    break;
                }
                (Purpose::Truncate(i), Err(error)) if is_about_rows(&error) => {
                    return Err(self.truncate_refused(&truncates[i], &error).into());
                }
                (Purpose::Progress, Err(error)) => {
                    return Err(setup::progress_error(self.at, error).into());
                }
                (_, Err(error)) => return Err(row_error(self.writing(), error).into()),
            }
        }
        if again.is_empty() { Ok(()) } else { Err(Failure::Again(again)) }
    }

    /// Whether our transaction may begin with something else than rows.
    fn needs_a_change(&self) -> bool {
        let empties = |event: &Event| matches!(event, Event::Truncate { .. });
        // While it is open nobody knows what will be first.
        !self.nested
            && (self.position.is_none() || self.events[self.range.clone()].iter().any(empties))
    }

    async fn copy(&self, cache: &Cache, copy: Copy) -> Outcome<()> {
        let Copy { key, mut text, rows } = copy;
        let Some(prepared) = cache.get(&key) else {
            return Err(refusal::not_a_stream("a statement was not prepared").into());
        };
        // A COPY that does not even start leaves the driver out of step: no second try.
        let sink = self
            .session
            .copy_in::<_, Bytes>(prepared)
            .await
            .map_err(|e| row_error(self.writing(), e))?;
        let mut sink = std::pin::pin!(sink);
        // An error while sending means that the server has said why: finish asks for it.
        let sent = sink.send(text.take()).await;
        let result = sink.finish().await;
        match (sent, result) {
            (_, Ok(written)) if written == rows => Ok(()),
            (_, Ok(_)) => Err(Failure::Again([key.0].into())),
            (_, Err(error)) if is_about_rows(&error) => Err(Failure::Again([key.0].into())),
            (Err(error), Err(_)) | (Ok(()), Err(error)) => {
                Err(row_error(self.writing(), error).into())
            }
        }
    }

    fn truncate_refused(&self, truncate: &Truncate, error: &tokio_postgres::Error) -> PortError {
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
        self.session.batch_execute(text).await.map_err(|e| row_error(self.writing(), e))
    }

    fn writing(&self) -> String {
        format!("applying changes to {}", self.at)
    }
}

fn is_about_rows(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(refusal::is_about_rows)
}

/// Lets a future send what it can, and the connection's task put it on the wire.
async fn begin<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let early = poll_fn(|context| {
        Poll::Ready(match Pin::new(&mut *future).poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await;
    if early.is_none() {
        tokio::task::yield_now().await;
    }
    early
}

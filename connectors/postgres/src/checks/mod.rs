//! Reasons not to start, and reasons not to move: one file each, with a page per code.
//!
//! A check reads facts and a pure function beside it judges them. Both databases are asked about
//! both roles, because the way back makes blue a target and green a source. Nothing is changed:
//! the session is read-only. A check that fails becomes a finding of its own and the rest goes on.

mod facts;
mod found;
mod others;
mod rights;
mod server;
mod standby;
mod tables;

use async_trait::async_trait;
use cutover_core::{
    model::finding::{Finding, Scope},
    port::{
        PortError, Result,
        examine::{Examine, Question},
    },
};
use futures_util::future::BoxFuture;
use tokio_postgres::Error;

use crate::{Database, connect::port_error};
use facts::Context;
use found::{Found, error};

/// What one check returns.
type Answer = std::result::Result<Vec<Found>, Failure>;

/// Why a check could not be made.
enum Failure {
    /// The statement failed.
    Sql(Error),
    /// Something below knows better what it was doing.
    Port(PortError),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Sql(e)
    }
}

impl From<PortError> for Failure {
    fn from(e: PortError) -> Self {
        Self::Port(e)
    }
}

/// Which server is asked, where changes are read from a standby.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    /// The database itself.
    Here,
    /// Whoever is read.
    Reader,
    /// Both of them.
    Each,
    /// The database itself, and nobody when a standby is read.
    Alone,
}

/// One reason.
struct Check {
    name: &'static str,
    scopes: &'static [Scope],
    place: Where,
    run: for<'a> fn(&'a Context<'a>) -> BoxFuture<'a, Answer>,
}

const START: &[Scope] = &[Scope::Start];
const MOVE: &[Scope] = &[Scope::Move];
const BOTH: &[Scope] = &[Scope::Start, Scope::Move];

macro_rules! check {
    ($room:ident::$name:ident, $scopes:expr) => {
        check!($room::$name, $scopes, Here)
    };
    ($room:ident::$name:ident, $scopes:expr, $place:ident) => {
        Check {
            name: concat!(stringify!($room), "::", stringify!($name)),
            scopes: $scopes,
            place: Where::$place,
            run: |context| Box::pin($room::$name::check(context)),
        }
    };
}

/// Every reason, in the order of the findings.
const CHECKS: &[Check] = &[
    check!(server::version, START),
    check!(server::decoding, START, Reader),
    check!(server::standby, BOTH),
    check!(server::wal_level, BOTH, Each),
    check!(server::slots, BOTH, Reader),
    check!(server::senders, BOTH, Reader),
    check!(server::origins, START),
    check!(server::retention, START, Reader),
    check!(server::sender_timeout, START, Reader),
    check!(server::connections, BOTH, Each),
    check!(server::lock_table, START),
    check!(server::synchronous, BOTH),
    check!(server::failover, START, Alone),
    check!(server::defaults, START),
    check!(rights::replication, START, Each),
    check!(rights::database, START),
    check!(rights::ownership, START),
    check!(rights::belongings, START),
    check!(rights::tables, START),
    check!(rights::schemas, START),
    check!(rights::sequences, START),
    check!(rights::replica_role, START),
    check!(rights::origins, START),
    check!(rights::statistics, START),
    check!(rights::row_security, START),
    check!(tables::identity, BOTH),
    check!(tables::computed_identity, BOTH),
    check!(tables::unlogged, BOTH),
    check!(tables::foreign, START),
    check!(tables::large_objects, BOTH),
    check!(tables::reserved, BOTH),
    check!(tables::rules, START),
    check!(tables::triggers, BOTH),
    check!(tables::existing_rows, START),
    check!(tables::size, START),
    check!(tables::generated, START),
    check!(tables::deferrable, START),
    check!(tables::materialized_views, START),
    check!(tables::extra_columns, START),
    check!(others::long_transactions, BOTH),
    check!(others::prepared, BOTH),
    check!(others::leftovers, START, Each),
    check!(others::publication, MOVE),
    check!(others::subscriptions, BOTH),
    check!(others::consumers, START),
    check!(others::event_triggers, START),
    check!(others::extensions, START),
    check!(others::sessions, BOTH),
    check!(standby::follows, BOTH),
    check!(standby::conflicts, BOTH),
    check!(standby::running, BOTH),
];

#[async_trait]
impl Examine for Database {
    async fn examine(&self, question: &Question) -> Result<Vec<Finding>> {
        let Some(standby) = &self.standby else {
            return self.examine_at(question, |_| true).await;
        };
        let here = |at| matches!(at, Where::Here | Where::Each);
        let mut findings = self.examine_at(question, here).await?;
        let there = |at| matches!(at, Where::Reader | Where::Each);
        findings.extend(match standby.examine_at(question, there).await {
            Ok(found) => found,
            Err(e) => vec![unmade(&e).at(standby.place())],
        });
        Ok(findings)
    }
}

impl Database {
    /// Where its findings are made.
    fn place(&self) -> String {
        if self.is_standby { format!("{}.read_from", self.side) } else { self.side.to_string() }
    }

    /// Makes the checks whose place is `wanted`.
    async fn examine_at(
        &self,
        question: &Question,
        wanted: impl Fn(Where) -> bool,
    ) -> Result<Vec<Finding>> {
        // A new one: what a role or a database gives to a session is looked at as well.
        let session = self.session("check").await?;
        let doing = |what: &str| format!("checking {what} on {}", self.name());
        session
            .batch_execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            .await
            .map_err(|e| port_error(doing("the session"), e))?;
        let context = Context::read(&session, self, question)
            .await
            .map_err(|e| port_error(doing("our role and the tables"), e))?;
        let mut findings = Vec::new();
        let scoped = |check: &&Check| check.scopes.contains(&question.scope) && wanted(check.place);
        for check in CHECKS.iter().filter(scoped) {
            match (check.run)(&context).await {
                Ok(found) => findings.extend(found.into_iter().map(|f| f.at(self.place()))),
                Err(e) => {
                    let e = match e {
                        Failure::Sql(e) => port_error(doing(check.name), e),
                        Failure::Port(e) => e,
                    };
                    if session.is_closed() {
                        return Err(e);
                    }
                    findings.push(unmade(&e).at(self.place()));
                }
            }
        }
        Ok(findings)
    }
}

/// A check that could not be made is not known to be harmless.
fn unmade(e: &PortError) -> Found {
    let cause = std::error::Error::source(e).map(|cause| format!(": {cause}")).unwrap_or_default();
    error(
        "CUT0100",
        format!("{e}{cause}"),
        e.remedy().unwrap_or("run the check again when the server answers"),
    )
}

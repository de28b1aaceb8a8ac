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

/// One reason.
struct Check {
    name: &'static str,
    scopes: &'static [Scope],
    run: for<'a> fn(&'a Context<'a>) -> BoxFuture<'a, Answer>,
}

const START: &[Scope] = &[Scope::Start];
const BOTH: &[Scope] = &[Scope::Start, Scope::Move];

macro_rules! check {
    ($room:ident::$name:ident, $scopes:expr) => {
        Check {
            name: concat!(stringify!($room), "::", stringify!($name)),
            scopes: $scopes,
            run: |context| Box::pin($room::$name::check(context)),
        }
    };
}

/// Every reason, in the order of the findings.
const CHECKS: &[Check] = &[
    check!(server::version, START),
    check!(server::standby, BOTH),
    check!(server::wal_level, BOTH),
    check!(server::slots, BOTH),
    check!(server::senders, BOTH),
    check!(server::origins, START),
    check!(server::retention, START),
    check!(server::sender_timeout, START),
    check!(server::connections, BOTH),
    check!(server::lock_table, START),
    check!(server::synchronous, BOTH),
    check!(server::failover, START),
    check!(server::defaults, START),
    check!(rights::replication, START),
    check!(rights::database, START),
    check!(rights::ownership, START),
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
    check!(others::leftovers, START),
    check!(others::subscriptions, BOTH),
    check!(others::consumers, START),
    check!(others::event_triggers, START),
    check!(others::extensions, START),
    check!(others::sessions, BOTH),
];

#[async_trait]
impl Examine for Database {
    async fn examine(&self, question: &Question) -> Result<Vec<Finding>> {
        let session = self.session("check").await?;
        let doing = |what: &str| format!("checking {what} on {}", question.side);
        session
            .batch_execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            .await
            .map_err(|e| port_error(doing("the session"), e))?;
        let context = Context::read(&session, self, question)
            .await
            .map_err(|e| port_error(doing("our role and the tables"), e))?;
        let mut findings = Vec::new();
        for check in CHECKS.iter().filter(|check| check.scopes.contains(&question.scope)) {
            match (check.run)(&context).await {
                Ok(found) => findings.extend(found.into_iter().map(|f| f.at(question.side))),
                Err(e) => {
                    let e = match e {
                        Failure::Sql(e) => port_error(doing(check.name), e),
                        Failure::Port(e) => e,
                    };
                    if session.is_closed() {
                        return Err(e);
                    }
                    findings.push(unmade(&e).at(question.side));
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

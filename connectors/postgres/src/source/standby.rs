//! A standby that is read: it follows this very server, it has what is committed here, and it goes
//! on doing both while a stream is open.
//!
//! What a standby decodes it has replayed before, so that what arrives can be read there as well.

use std::{sync::Arc, time::Duration};

use cutover_core::{
    model::position::Position,
    port::{PortError, Result},
};
use tokio::time::{Instant, sleep};

use super::{
    position::{lsn_text, parse_lsn},
    queue::Shared,
    stops,
};
use crate::{
    connect::{Session, port_error},
    database::Database,
    sql::Names,
};

/// How often a standby is looked at while it is read.
const LOOK: Duration = Duration::from_secs(1);

/// How often it is asked how far it is.
const AGAIN: Duration = Duration::from_millis(10);

/// How far behind it may be, in time, when a slot is made there.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(60);

/// What tells one server's history from another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    system: String,
    timeline: u32,
    in_recovery: bool,
}

/// Whether a server is the standby that it should be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    /// It is.
    Yes,
    /// It, or its primary, is about to be another one.
    NotNow(String),
    /// It is none, or that of another server.
    Never(String),
}

impl Identity {
    /// Whether `standby` follows this server.
    pub(crate) fn is_followed_by(&self, standby: &Self) -> Follows {
        if self.system != standby.system {
            return Follows::Never("the server that is read is no copy of this one".into());
        }
        if !standby.in_recovery {
            return Follows::Never("the server that is read is no standby (any more)".into());
        }
        if self.timeline != standby.timeline {
            return Follows::NotNow(format!(
                "the standby is on timeline {}, and its primary is on {}",
                standby.timeline, self.timeline
            ));
        }
        Follows::Yes
    }
}

impl Database {
    /// What this server is.
    pub(crate) async fn identity(&self) -> Result<Identity> {
        let doing = || self.doing("asking which server it is");
        let session = self.control().await?;
        let in_recovery = self.in_recovery(&session).await?;
        let row = session
            .query_one("SELECT system_identifier::text FROM pg_catalog.pg_control_system()", &[])
            .await
            .map_err(|e| port_error(doing(), e))?;
        let timeline = if in_recovery {
            // Without a session of this kind a standby says it only to those who may see statistics.
            let mut replication = self.replication("identity").await?;
            let rows =
                replication.query("IDENTIFY_SYSTEM").await.map_err(|e| e.into_port(doing()))?;
            let said = rows.first().and_then(|row| row.get(1)?.as_deref()?.parse().ok());
            said.ok_or_else(|| PortError::transient(doing(), "the server names no timeline"))?
        } else {
            let Position::Postgres { timeline, .. } = self.log_end().await?;
            timeline
        };
        Ok(Identity { system: row.get(0), timeline, in_recovery })
    }

    /// The standby, when there is one, follows this server.
    ///
    /// # Errors
    ///
    /// `CUT0218` when it is none of this server; transient when it may be one soon.
    pub(super) async fn standby_follows(&self) -> Result<()> {
        let Some(standby) = &self.standby else { return Ok(()) };
        let doing = || standby.doing("looking for the primary");
        match self.identity().await?.is_followed_by(&standby.identity().await?) {
            Follows::Yes => Ok(()),
            Follows::NotNow(why) => Err(PortError::transient(doing(), why)),
            Follows::Never(why) => Err(stops::not_our_standby(doing(), &why)),
        }
    }

    /// Waits until the standby, when there is one, has replayed all that is committed here.
    ///
    /// # Errors
    ///
    /// As [`Database::standby_follows`], and transient when it is too far behind.
    pub(super) async fn standby_has_caught_up(&self) -> Result<()> {
        let Some(standby) = &self.standby else { return Ok(()) };
        self.standby_follows().await?;
        let doing = || standby.doing("waiting until all is replayed");
        let wanted = self.log_running().await?;
        let deadline = Instant::now() + CAUGHT_UP_WITHIN;
        let session = standby.control().await?;
        let sql = "SELECT pg_catalog.pg_last_wal_replay_lsn()::text";
        loop {
            let row = session.query_one(sql, &[]).await.map_err(|e| port_error(doing(), e))?;
            let replayed = row.get::<_, Option<&str>>(0).and_then(parse_lsn).unwrap_or(0);
            if replayed >= wanted {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let (now, wanted) = (lsn_text(replayed), lsn_text(wanted));
                return Err(PortError::transient(
                    doing(),
                    format!("the standby is at {now} and has not reached {wanted} in a minute"),
                ));
            }
            sleep(AGAIN).await;
        }
    }

    /// Writes into the log which transactions run, and returns the place behind it. A standby cannot
    /// begin to decode anywhere else, and a primary without writers says it by itself never.
    pub(super) async fn log_running(&self) -> Result<u64> {
        let doing = || self.doing("logging which transactions run");
        let session = self.control().await?;
        let row = session
            .query_one("SELECT pg_catalog.pg_log_standby_snapshot()::text", &[])
            .await
            .map_err(|e| port_error(doing(), e))?;
        let place = row.get::<_, Option<&str>>(0).and_then(parse_lsn);
        place.ok_or_else(|| PortError::transient(doing(), "the server gave no position"))
    }

    /// Looks from the side whether an open stream is one of a standby that follows this server.
    ///
    /// A promoted standby goes on sending, and it is not this server's log any more. And when this
    /// server ends, the standby may follow another one without a break: places have other names
    /// then than those of `timeline`, so that the stream has to be opened anew.
    pub(super) async fn look_at_standby(
        self,
        here: Arc<Session>,
        timeline: u32,
        shared: Arc<Shared>,
    ) {
        let Some(standby) = &self.standby else { return };
        let names = Names::of(&self.run);
        loop {
            sleep(LOOK).await;
            let follows = standby.follows_still(names.slot(), timeline).await;
            if here.is_closed() || matches!(follows, Ok(false)) {
                let doing = self.doing("following changes through a standby");
                shared.stop(PortError::transient(doing, "it may have another primary now"));
                return;
            }
            match follows {
                Ok(_) => {}
                Err(why @ PortError::Definite { .. }) => {
                    shared.stop(why);
                    return;
                }
                Err(why) => tracing::debug!(error = %why, "the standby cannot be looked at"),
            }
        }
    }

    /// Whether this standby receives that timeline still, as far as we may know.
    ///
    /// # Errors
    ///
    /// Definite when it is no standby any more, or its slot cannot be read.
    async fn follows_still(&self, slot: &str, timeline: u32) -> Result<bool> {
        let doing = || self.doing("following changes");
        let session = self.control().await?;
        if !self.in_recovery(&session).await? {
            return Err(stops::not_our_standby(doing(), "it was promoted"));
        }
        self.slot(&session, slot).await?;
        let received = "SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver \
                        WHERE received_tli IS NOT NULL";
        let row = session.query_opt(received, &[]).await.map_err(|e| port_error(doing(), e))?;
        Ok(row.is_none_or(|row| u32::try_from(row.get::<_, i32>(0)) == Ok(timeline)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_of_this_very_server() {
        let here = Identity { system: "7".into(), timeline: 2, in_recovery: false };
        let standby = Identity { in_recovery: true, ..here.clone() };
        assert_eq!(here.is_followed_by(&standby), Follows::Yes);
        for timeline in [1, 3] {
            let other = Identity { timeline, ..standby.clone() };
            assert!(matches!(here.is_followed_by(&other), Follows::NotNow(_)), "{timeline}");
        }
        let stranger = Identity { system: "8".into(), ..standby };
        for other in [stranger, here.clone()] {
            assert!(matches!(here.is_followed_by(&other), Follows::Never(_)), "{other:?}");
        }
    }
}

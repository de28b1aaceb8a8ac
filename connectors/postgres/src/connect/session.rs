//! Ordinary sessions with pinned settings.

use std::{ops::Deref, pin::pin, sync::Arc};

use cutover_core::port::{PortError, Result};
use futures_util::TryStreamExt;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Error, Row, SimpleQueryMessage, ToStatement, types::ToSql};

use super::{
    error::{open_error, port_error, wrong_server},
    pulse,
    stream::{Settled, Stream},
    worker::{Left, Worker},
};
use crate::{database::Database, sql};

/// Settings of every session of ours, replication included, whatever role, database or server
/// say. They decide how values are rendered, so both sides must agree to the letter.
const PINNED: &[(&str, &str)] = &[
    // We are who logged in: rights are judged, and sessions known, by that name.
    ("role", "none"),
    ("search_path", ""),
    ("DateStyle", "ISO,YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("xmloption", "content"),
    ("quote_all_identifiers", "off"),
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    ("array_nulls", "on"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    // A policy that would hide rows from us becomes an error instead of missing rows.
    ("row_security", "off"),
    // What is estimated to be dear is often asked every moment: compiling it takes a hundred times
    // as long as answering it.
    ("jit", "off"),
    // Places in a table are read without the rest of it.
    ("enable_tidscan", "on"),
    ("tcp_keepalives_idle", "20"),
    ("tcp_keepalives_interval", "5"),
    ("client_min_messages", "warning"),
];

/// The first version with that setting, which older ones refuse in a startup message.
pub(super) const SINCE_TRANSACTION_TIMEOUT: u32 = 170_000;

/// Pins it behind the login.
pub(super) const NO_TRANSACTION_TIMEOUT: &str = "SET transaction_timeout = 0";

/// Oldest major version whose protocol we use (logical messages in the stream).
const OLDEST: u32 = 140_000;

/// An ordinary session. Dereferences to the driver's client; dropping it closes the connection
/// at once.
pub struct Session {
    client: Client,
    connection: JoinHandle<()>,
    version: u32,
    encoding: String,
    worker: Option<Arc<Worker>>,
    left: Arc<Left>,
}

impl Session {
    /// The server's `server_version_num`.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Sessions to this database that are closed on our side.
    pub(crate) fn left(&self) -> &Left {
        &self.left
    }

    /// Gives each row of an answer to `take` as it comes: what a catalog says of ten thousand tables
    /// takes many times the room of what is kept of it.
    pub(crate) async fn each<T>(
        &self,
        statement: &T,
        parameters: &[&(dyn ToSql + Sync)],
        mut take: impl FnMut(&Row) + Send,
    ) -> std::result::Result<(), Error>
    where
        T: ?Sized + ToStatement,
    {
        let rows = self.client.query_raw(statement, parameters.iter().copied()).await?;
        let mut rows = pin!(rows);
        while let Some(row) = rows.try_next().await? {
            take(&row);
        }
        Ok(())
    }

    /// How the bytes of texts in this database are hashed.
    pub(crate) fn hashing(&self) -> Hashing {
        match self.encoding.as_str() {
            "UTF8" | "SQL_ASCII" => Hashing::AsStored,
            _ => Hashing::AsUtf8,
        }
    }
}

/// What is hashed of a text, so that servers of any two encodings agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hashing {
    /// Its bytes: they are UTF-8, or nobody knows what they are.
    AsStored,
    /// Its bytes in UTF-8.
    AsUtf8,
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl std::ops::DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
        if let Some(worker) = self.worker.take() {
            self.left.add(worker);
        }
    }
}

impl Database {
    /// Opens an ordinary session. `purpose` is one word or two for `application_name`.
    ///
    /// # Errors
    ///
    /// Transient when nobody answers; definite `CUT0011` to `CUT0014` when the login, the
    /// database, TLS or the kind of server is wrong.
    pub async fn session(&self, purpose: &str) -> Result<Session> {
        let doing = self.connecting();
        let limit = self.config.connect_timeout;
        tracing::debug!(side = %self.side, purpose, "opening a database session");
        timeout(limit, self.open_session(purpose)).await.unwrap_or_else(|_| {
            Err(PortError::transient(doing, format!("no answer within {} s", limit.as_secs())))
        })
    }

    /// What to say while a connection is made.
    pub(crate) fn connecting(&self) -> String {
        format!("connecting to {} at {}", self.name(), self.config.redacted())
    }

    /// `application_name` of a session of ours.
    pub(crate) fn application(&self, purpose: &str) -> String {
        let name = format!("cutover {} {purpose}", self.run);
        match &self.config.application_name {
            Some(own) => format!("{name} ({own})"),
            None => name,
        }
    }

    /// The pinned settings as the `options` of a startup message.
    pub(crate) fn startup_options(&self) -> String {
        let pass = self.run.object_name();
        PINNED
            .iter()
            .copied()
            .chain([(sql::PASS_SETTING, pass.as_str())])
            .map(|(name, value)| format!("-c {name}={}", value.replace(' ', "\\ ")))
            .collect::<Vec<_>>()
            .join(" ")
    }

    async fn open_session(&self, purpose: &str) -> Result<Session> {
        let stream =
            Stream::open(&self.config).await.map_err(|e| open_error(self.connecting(), e))?;
        let pulse = stream.pulse();
        let mut driver = tokio_postgres::Config::new();
        driver
            .user(&self.config.user)
            .dbname(&self.config.dbname)
            .application_name(self.application(purpose))
            .options(self.startup_options());
        if let Some(password) = self.config.password() {
            driver.password(password);
        }
        if stream.is_tls() {
            driver
                .ssl_mode(tokio_postgres::config::SslMode::Require)
                .ssl_negotiation(tokio_postgres::config::SslNegotiation::Direct);
        } else {
            driver.ssl_mode(tokio_postgres::config::SslMode::Disable);
        }
        let (client, connection) = driver
            .connect_raw(stream, Settled)
            .await
            .map_err(|e| port_error(self.connecting(), e))?;
        let greeting = {
            // In a block: the borrow of the connection must not live across an await.
            let said = |name: &str| connection.parameter(name).unwrap_or_default().to_owned();
            Greeting {
                version: said("server_version"),
                date_style: said("DateStyle"),
                cockroach: connection.parameter("crdb_version").is_some(),
            }
        };
        let encoding = connection.parameter("server_encoding").unwrap_or_default().to_owned();
        let version = greeting.version().map_err(|what| wrong_server(self.connecting(), &what))?;
        let (known, worker) = oneshot::channel();
        let stops = pulse::stops(self.bare(), worker, pulse);
        let side = self.side;
        let connection = tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(e) = ended {
                    // The session's own calls report it; this says when.
                    tracing::debug!(%side, error = %e, "a database session ended");
                },
                () = stops => tracing::warn!(
                    %side,
                    "closing a session that waits for a server process that is gone"
                ),
            }
        });
        let left = Arc::clone(&self.left);
        let mut session = Session { client, connection, version, encoding, worker: None, left };
        let worker = Arc::new(self.pin_late(&session).await?);
        session.worker = Some(Arc::clone(&worker));
        // Not received when the connection has just ended.
        known.send(worker).ok();
        Ok(session)
    }

    /// Settings that older servers or other platforms do not know, so that they cannot travel in
    /// the startup message. Returns who works for the session.
    async fn pin_late(&self, session: &Session) -> Result<Worker> {
        let known = session.version >= SINCE_TRANSACTION_TIMEOUT;
        let late = if known { NO_TRANSACTION_TIMEOUT } else { "" };
        let who = Worker::WHO;
        // So that a statement of a process that died (waiting for a lock, say) ends with it.
        let check = "SET client_connection_check_interval = '1s'";
        let said = match session.simple_query(&format!("{late}; {check}; {who}")).await {
            Err(e) if e.as_db_error().is_some() => {
                session.simple_query(&format!("{late}; {who}")).await
            }
            said => said,
        };
        let said = said.map_err(|e| port_error(self.connecting(), e))?;
        let who = said.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        // Without it every session would seem to be nobody's.
        let silent = || wrong_server(self.connecting(), "the server does not say who answers");
        who.map(Worker::answered).ok_or_else(silent)
    }
}

/// What a server says about itself after the login.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    pub(super) version: String,
    pub(super) date_style: String,
    pub(super) cockroach: bool,
}

impl Greeting {
    /// `server_version_num`, or why we cannot work with this server.
    pub(super) fn version(&self) -> std::result::Result<u32, String> {
        if self.cockroach {
            return Err("this is CockroachDB, not PostgreSQL".into());
        }
        if self.version.contains("bouncer") {
            return Err("this is PgBouncer's admin console, not a database".into());
        }
        let number = version_number(&self.version)
            .ok_or_else(|| format!("the server names no version we know ({:?})", self.version))?;
        if number < OLDEST {
            return Err(format!("PostgreSQL {} is older than 14", self.version));
        }
        // Nobody's default: when it is missing, somebody between us and the server dropped the
        // options of the startup message.
        if self.date_style != "ISO, YMD" {
            return Err(
                "a pooler sits between us and the database: our settings do not arrive".into()
            );
        }
        Ok(number)
    }
}

/// `15.18 (Debian 15.18-0)` → 150018, `18beta1` → 180000.
fn version_number(text: &str) -> Option<u32> {
    let digits = |s: &str| {
        let end = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
        (s[..end].parse::<u32>().ok(), s[end..].to_owned())
    };
    let (major, rest) = digits(text);
    let minor = rest.strip_prefix('.').and_then(|r| digits(r).0).unwrap_or(0);
    major?.checked_mul(10_000)?.checked_add(minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, want) in [
            ("15.18 (Debian 15.18-0+deb12u1)", Some(150_018)),
            ("18beta1", Some(180_000)),
            ("17.10", Some(170_010)),
            ("9.6.24", Some(90_006)),
            ("devel", None),
        ] {
            assert_eq!(version_number(text), want, "{text}");
        }
    }

    #[test]
    fn servers_we_cannot_work_with() {
        let good =
            || Greeting { version: "16.1".into(), date_style: "ISO, YMD".into(), cockroach: false };
        assert_eq!(good().version(), Ok(160_001));
        assert!(Greeting { version: "13.9".into(), ..good() }.version().is_err());
        assert!(Greeting { version: "1.18.0/bouncer".into(), ..good() }.version().is_err());
        assert!(Greeting { date_style: "ISO, MDY".into(), ..good() }.version().is_err());
        assert!(Greeting { cockroach: true, ..good() }.version().is_err());
    }
}

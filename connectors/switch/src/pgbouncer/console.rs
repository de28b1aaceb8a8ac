//! PgBouncer's admin console: one order at a time, simple queries only, never without a limit.

use std::{error::Error, time::Duration};

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow, config::SslMode};

use crate::{BadConfig, failure::Cause};

/// How the console is reached. Holds the password, so it has no `Debug`.
pub(super) struct Console {
    config: Config,
    place: String,
}

/// A session of the console. It ends when it is dropped, also in the middle of an order.
pub(super) struct Session {
    client: Client,
    driver: JoinHandle<()>,
    version: String,
}

/// Why an order brought no answer, or not the one wanted.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    /// PgBouncer said no: nothing has changed.
    #[error("PgBouncer answered {order}: {words}")]
    Refused { order: String, words: String },
    /// The order was sent, or may have been, and no answer came.
    #[error("no answer to {order}")]
    NoAnswer {
        order: String,
        #[source]
        cause: Cause,
    },
}

/// Time is up.
#[derive(Debug, thiserror::Error)]
#[error("not within {0:?}")]
pub(super) struct Late(pub(super) Duration);

impl Console {
    /// Reads the address; the password given apart wins over one inside it.
    pub(super) fn new(url: &str, password: Option<&str>) -> Result<Self, BadConfig> {
        let remedy = "write it as postgres://pgbouncer@127.0.0.1:6432/pgbouncer";
        // The driver's message can quote the address, which may hold a password.
        let mut config: Config = url
            .parse()
            .map_err(|_| BadConfig::new("the admin address of PgBouncer cannot be read", remedy))?;
        match config.get_dbname() {
            None => {
                config.dbname("pgbouncer");
            }
            Some("pgbouncer") => {}
            Some(other) => {
                return Err(BadConfig::new(
                    format!("the admin console is the database pgbouncer, not {other:?}"),
                    remedy,
                ));
            }
        }
        if config.get_hosts().is_empty() {
            return Err(BadConfig::new("the admin address of PgBouncer names no host", remedy));
        }
        if config.get_ssl_mode() == SslMode::Require {
            return Err(BadConfig::new(
                "the admin console is reached without TLS",
                "leave sslmode away and use the loopback address or the Unix socket of PgBouncer",
            ));
        }
        if config.get_user().is_none() {
            config.user("pgbouncer");
        }
        if let Some(password) = password {
            config.password(password);
        }
        config.application_name("cutover").ssl_mode(SslMode::Disable);
        let place = place(&config);
        Ok(Self { config, place })
    }

    /// The address without the password.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// The user the console knows us by.
    pub(super) fn user(&self) -> &str {
        self.config.get_user().unwrap_or("pgbouncer")
    }

    /// Opens a session.
    pub(super) async fn open(&self, within: Duration) -> Result<Session, Cause> {
        let opened = tokio::time::timeout(within, self.config.connect(NoTls)).await;
        let (client, connection) = opened.map_err(|_| Late(within))??;
        let version = connection.parameter("server_version").unwrap_or("unknown").to_owned();
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a session of PgBouncer's console ended");
            }
        });
        Ok(Session { client, driver, version })
    }
}

impl Session {
    /// For example `1.18.0/bouncer`.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Whether the other side has not hung up, as far as we have noticed.
    pub(super) fn is_open(&self) -> bool {
        !self.client.is_closed() && !self.driver.is_finished()
    }

    /// Gives an order and waits for its rows. After `NoAnswer` the session is of no use.
    pub(super) async fn order(
        &self,
        order: &str,
        within: Duration,
    ) -> Result<Vec<SimpleQueryRow>, OrderError> {
        let answer = tokio::time::timeout(within, self.client.simple_query(order)).await;
        let no_answer = |cause: Cause| OrderError::NoAnswer { order: order.to_owned(), cause };
        match answer {
            Err(_) => Err(no_answer(Late(within).into())),
            Ok(Ok(messages)) => Ok(messages
                .into_iter()
                .filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                })
                .collect()),
            Ok(Err(error)) => match error.as_db_error() {
                // An error that ends the session says nothing about the order.
                Some(said) if said.severity() != "FATAL" => Err(OrderError::Refused {
                    order: order.to_owned(),
                    words: said.message().to_owned(),
                }),
                _ => Err(no_answer(error.into())),
            },
        }
    }
}

impl Drop for Session {
    /// Dropping the client alone would wait for the answer of an order that never ends.
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A name for an order; the console's own quoting.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The driver says only "db error"; the words are in its source.
pub(super) fn words(error: &(dyn Error + 'static)) -> String {
    crate::failure::chain(error)
}

fn place(config: &Config) -> String {
    use tokio_postgres::config::Host;

    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.display().to_string(),
        None => String::new(),
    };
    format!("{host}:{}", config.get_ports().first().copied().unwrap_or(5432))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let console = Console::new("postgres://boss:s3cret@10.0.0.9:6432/pgbouncer", None).unwrap();
        assert_eq!((console.place(), console.user()), ("10.0.0.9:6432", "boss"));
        let socket = Console::new("host=/run/pgbouncer port=6432", Some("x")).unwrap();
        assert_eq!((socket.place(), socket.user()), ("/run/pgbouncer:6432", "pgbouncer"));
        for (bad, why) in [
            ("postgres://boss:s3cret@[", "cannot be read"),
            ("postgres://boss:s3cret@h/shop", "not \"shop\""),
            ("postgres://boss:s3cret@h/pgbouncer?sslmode=require", "without TLS"),
            ("user=boss", "names no host"),
        ] {
            let Err(error) = Console::new(bad, None) else { panic!("{bad}") };
            assert!(error.what.contains(why), "{error}");
            assert!(!error.what.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}

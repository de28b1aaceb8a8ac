//! What can go wrong with a throwaway server, and what to do about it.

use std::{error::Error, io, time::Duration};

/// Why a server could not be found, started or asked.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A program is not on this machine.
    #[error("{what} is not on this machine; {remedy}")]
    Missing {
        /// The program.
        what: String,
        /// How to get it.
        remedy: String,
    },
    /// A helper program ended with an error.
    #[error("{program} failed ({status}): {output}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit status in words.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// A file, folder or process could not be handled.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A server ended instead of answering.
    #[error("{server} ended while starting; the end of its log: {log}")]
    Died {
        /// The server.
        server: String,
        /// The last lines of its log.
        log: String,
    },
    /// Something did not happen in time.
    #[error("{what}: not within {limit:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// A server refused a statement or a connection.
    #[error("{what}: {reason}")]
    Sql {
        /// What was asked.
        what: String,
        /// The server's words.
        reason: String,
    },
}

impl SandboxError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(crate) fn sql(what: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let what = what.into();
        // The driver's own text is only "db error"; the server's words are in its source.
        move |error| Self::Sql {
            what,
            reason: match error.source() {
                Some(cause) => cause.to_string(),
                None => error.to_string(),
            },
        }
    }
}

/// The last lines of a log, short enough for a message.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(8)..].join(" | ")
}

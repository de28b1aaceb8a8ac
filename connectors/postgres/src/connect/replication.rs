//! A session that speaks the replication protocol, which the SQL driver does not.
//!
//! Login as the driver does it, simple queries and replication commands, and the two-way copy
//! that a started stream is. Reads frames; does not know what is inside of them.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use cutover_core::port::{PortError, Result};
use fallible_iterator::FallibleIterator;
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256},
    },
    message::{
        backend::{ErrorFields, Message},
        frontend,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    error::{ServerError, login_refused, open_error, server_error, wrong_server},
    session::{Greeting, NO_TRANSACTION_TIMEOUT, SINCE_TRANSACTION_TIMEOUT},
    stream::Stream,
};
use crate::database::Database;

/// Larger frames than this are not PostgreSQL's: a row message stays below 1 GiB.
const LARGEST_FRAME: usize = 1 << 30;

/// What one read of a stream takes at most.
const READ: usize = 256 * 1024;

/// A row of a simple query.
pub(crate) type TextRow = Vec<Option<String>>;

/// A logged-in replication session, idle between commands. Dropping it closes the connection,
/// which drops temporary slots and ends exported snapshots.
pub(crate) struct Replication {
    wire: Wire,
    version: u32,
    pid: i32,
}

/// Why a command failed: what the server said, or that it cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// The server refused.
    #[error("{0}")]
    Server(#[source] ServerError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[source] io::Error),
    /// The other end does not follow the protocol.
    #[error("{0}")]
    Protocol(String),
}

impl WireError {
    /// What the engine should do about it.
    pub(crate) fn into_port(self, doing: impl Into<String>) -> PortError {
        let doing = doing.into();
        match self {
            Self::Server(e) => server_error(doing, e),
            Self::Protocol(what) => wrong_server(doing, &what),
            broken @ Self::Broken(_) => PortError::transient(doing, broken),
        }
    }
}

impl From<io::Error> for WireError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                Self::Protocol(e.to_string())
            }
            _ => Self::Broken(e),
        }
    }
}

impl Database {
    /// Opens a replication session.
    pub(crate) async fn replication(&self, purpose: &str) -> Result<Replication> {
        let limit = self.config.connect_timeout;
        timeout(limit, self.open_replication(purpose)).await.unwrap_or_else(|_| {
            let why = format!("no answer within {} s", limit.as_secs());
            Err(PortError::transient(self.connecting(), why))
        })
    }

    async fn open_replication(&self, purpose: &str) -> Result<Replication> {
        let doing = || self.connecting();
        let stream = Stream::open(&self.config).await.map_err(|e| open_error(doing(), e))?;
        let mut wire = Wire { stream, read: BytesMut::new(), write: BytesMut::new() };
        let application = self.application(purpose);
        let options = self.startup_options();
        let parameters = [
            ("client_encoding", "UTF8"),
            ("user", self.config.user()),
            ("database", self.config.dbname()),
            ("replication", "database"),
            ("application_name", application.as_str()),
            ("options", options.as_str()),
        ];
        frontend::startup_message(parameters, &mut wire.write)
            .map_err(|e| wrong_server(doing(), &e.to_string()))?;
        wire.send().await.map_err(|e| e.into_port(doing()))?;
        self.log_in(&mut wire).await?;
        let mut greeting = Greeting::default();
        let mut pid = 0;
        loop {
            match wire.message().await.map_err(|e| e.into_port(doing()))? {
                Message::ParameterStatus(p) => {
                    let value = p.value().unwrap_or_default().to_owned();
                    match p.name().unwrap_or_default() {
                        "server_version" => greeting.version = value,
                        "DateStyle" => greeting.date_style = value,
                        "crdb_version" => greeting.cockroach = true,
                        _ => {}
                    }
                }
                Message::BackendKeyData(key) => pid = key.process_id(),
                Message::ReadyForQuery(_) => break,
                _ => {}
            }
        }
        let version = greeting.version().map_err(|what| wrong_server(doing(), &what))?;
        let mut replication = Replication { wire, version, pid };
        // A transaction of the session is open as long as its snapshot is exported, and while a
        // transaction of the log is decoded.
        if version >= SINCE_TRANSACTION_TIMEOUT {
            replication.query(NO_TRANSACTION_TIMEOUT).await.map_err(|e| e.into_port(doing()))?;
        }
        Ok(replication)
    }

    async fn log_in(&self, wire: &mut Wire) -> Result<()> {
        let doing = || self.connecting();
        let password = || {
            self.config
                .password()
                .map(str::as_bytes)
                .ok_or_else(|| login_refused(doing(), "the server asks for a password"))
        };
        let strange = |e: io::Error| login_refused(doing(), e.to_string());
        loop {
            match wire.message().await.map_err(|e| e.into_port(doing()))? {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationCleartextPassword => {
                    frontend::password_message(password()?, &mut wire.write).map_err(strange)?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(self.config.user().as_bytes(), password()?, body.salt());
                    frontend::password_message(hash.as_bytes(), &mut wire.write)
                        .map_err(strange)?;
                }
                Message::AuthenticationSasl(body) => {
                    let offered: Vec<String> =
                        body.mechanisms().map(|m| Ok(m.to_owned())).collect().map_err(strange)?;
                    self.scram(wire, password()?, &offered).await?;
                    continue;
                }
                Message::ParameterStatus(_) | Message::NoticeResponse(_) => continue,
                _ => {
                    return Err(login_refused(
                        doing(),
                        "the server asks for a login other than SCRAM, MD5 or a password",
                    ));
                }
            }
            wire.send().await.map_err(|e| e.into_port(doing()))?;
        }
    }

    async fn scram(&self, wire: &mut Wire, password: &[u8], offered: &[String]) -> Result<()> {
        let doing = || self.connecting();
        let strange = |e: io::Error| login_refused(doing(), e.to_string());
        let has = |name: &str| offered.iter().any(|o| o == name);
        let (mechanism, binding) = match wire.stream.end_point() {
            Some(digest) if has(SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(digest))
            }
            Some(_) if has(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None if has(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
            _ => return Err(login_refused(doing(), "the server offers no SCRAM we know")),
        };
        let mut scram = ScramSha256::new(password, binding);
        frontend::sasl_initial_response(mechanism, scram.message(), &mut wire.write)
            .map_err(strange)?;
        wire.send().await.map_err(|e| e.into_port(doing()))?;
        loop {
            match wire.message().await.map_err(|e| e.into_port(doing()))? {
                Message::AuthenticationSaslContinue(body) => {
                    scram.update(body.data()).map_err(strange)?;
                    frontend::sasl_response(scram.message(), &mut wire.write).map_err(strange)?;
                    wire.send().await.map_err(|e| e.into_port(doing()))?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    return scram.finish(body.data()).map_err(strange);
                }
                _ => return Err(login_refused(doing(), "the SCRAM exchange was cut short")),
            }
        }
    }
}

impl Replication {
    /// The server's `server_version_num`.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    /// The server process of this session.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Runs one command and returns its rows.
    pub(crate) async fn query(
        &mut self,
        command: &str,
    ) -> std::result::Result<Vec<TextRow>, WireError> {
        frontend::query(command, &mut self.wire.write)?;
        let asked = Instant::now();
        self.wire.send().await?;
        self.wire.peek_tag().await?;
        self.wire.stream.answered(asked.elapsed());
        let mut rows = Vec::new();
        let mut refused = None;
        loop {
            match self.wire.any_message().await? {
                Message::DataRow(row) => {
                    let text = |range: std::ops::Range<usize>| {
                        String::from_utf8_lossy(&row.buffer()[range]).into_owned()
                    };
                    rows.push(row.ranges().map(|r| Ok(r.map(text))).collect()?);
                }
                Message::ErrorResponse(e) => refused = Some(said(e.fields())?),
                Message::ReadyForQuery(_) => break,
                _ => {}
            }
        }
        match refused {
            Some(e) => Err(WireError::Server(e)),
            None => Ok(rows),
        }
    }

    /// Runs `START_REPLICATION` and hands the connection over to the two-way copy.
    pub(crate) async fn start(mut self, command: &str) -> std::result::Result<CopyBoth, WireError> {
        frontend::query(command, &mut self.wire.write)?;
        self.wire.send().await?;
        loop {
            // The answer to success is the one message the parser does not know.
            if self.wire.peek_tag().await? == b'W' {
                self.wire.skip_frame().await?;
                self.wire.stream.expect_many()?;
                return Ok(CopyBoth { wire: self.wire });
            }
            match self.wire.any_message().await? {
                Message::ErrorResponse(e) => return Err(WireError::Server(said(e.fields())?)),
                Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                _ => return Err(WireError::Protocol("the stream did not start".into())),
            }
        }
    }
}

/// One frame of a started stream.
#[derive(Debug)]
pub(crate) enum Frame {
    /// Content of a `CopyData`.
    Data(Bytes),
    /// The server warns.
    Notice(ServerError),
    /// The server ends the stream on its own.
    Done,
}

/// A started stream: frames one way, status the other.
pub(crate) struct CopyBoth {
    wire: Wire,
}

impl CopyBoth {
    /// Reads what has arrived, waiting for at least one byte, and returns the number of bytes.
    /// Cancel-safe.
    pub(crate) async fn fill(&mut self) -> std::result::Result<usize, WireError> {
        self.wire.fill().await
    }

    /// Lets bytes gather for `pause`: the next [`CopyBoth::fill`] gets them all at once.
    /// Cancel-safe.
    pub(crate) async fn rest(&mut self, pause: Duration) -> std::result::Result<(), WireError> {
        Ok(self.wire.stream.rest(pause).await?)
    }

    /// Appends all whole frames that were read.
    pub(crate) fn frames(&mut self, out: &mut Vec<Frame>) -> std::result::Result<(), WireError> {
        let buffer = &mut self.wire.read;
        let mut whole = 0;
        while let Some(length) = frame_length(&buffer[whole..])? {
            if buffer.len() - whole < length {
                buffer.reserve(length - (buffer.len() - whole));
                break;
            }
            whole += length;
        }
        // One shared buffer for everything that came with one read.
        let all = buffer.split_to(whole).freeze();
        let mut at = 0;
        while let Some(length) = frame_length(&all[at..])? {
            let body = at + 5..at + length;
            match all[at] {
                b'd' => out.push(Frame::Data(all.slice(body))),
                b'c' | b'C' | b'Z' => out.push(Frame::Done),
                b'S' => {}
                b'E' | b'N' => {
                    let mut one = BytesMut::from(&all[at..at + length]);
                    match Message::parse(&mut one)? {
                        Some(Message::ErrorResponse(e)) => {
                            return Err(WireError::Server(said(e.fields())?));
                        }
                        Some(Message::NoticeResponse(n)) => {
                            out.push(Frame::Notice(said(n.fields())?));
                        }
                        _ => {}
                    }
                }
                tag => {
                    let what = format!("unexpected message {:?} in a stream", char::from(tag));
                    return Err(WireError::Protocol(what));
                }
            }
            at += length;
        }
        Ok(())
    }

    /// Sends the content of one `CopyData`.
    pub(crate) async fn send(&mut self, content: &[u8]) -> std::result::Result<(), WireError> {
        frontend::CopyData::new(content)?.write(&mut self.wire.write);
        self.wire.send().await
    }
}

/// Bytes in both directions.
struct Wire {
    stream: Stream,
    read: BytesMut,
    write: BytesMut,
}

impl Wire {
    async fn send(&mut self) -> std::result::Result<(), WireError> {
        self.stream.write_all_buf(&mut self.write).await?;
        self.stream.flush().await?;
        Ok(())
    }

    async fn fill(&mut self) -> std::result::Result<usize, WireError> {
        self.stream.take_up()?;
        if self.read.capacity() - self.read.len() < READ / 4 {
            self.read.reserve(READ);
        }
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            n => Ok(n),
        }
    }

    /// The next message; an ErrorResponse is an error.
    async fn message(&mut self) -> std::result::Result<Message, WireError> {
        match self.any_message().await? {
            Message::ErrorResponse(e) => Err(WireError::Server(said(e.fields())?)),
            other => Ok(other),
        }
    }

    async fn any_message(&mut self) -> std::result::Result<Message, WireError> {
        loop {
            if let Some(length) = frame_length(&self.read)?
                && self.read.len() >= length
            {
                let parsed = Message::parse(&mut self.read)
                    .map_err(|e| WireError::Protocol(e.to_string()))?;
                return parsed.ok_or_else(|| WireError::Protocol("a message is cut short".into()));
            }
            self.fill().await?;
        }
    }

    async fn peek_tag(&mut self) -> std::result::Result<u8, WireError> {
        while self.read.is_empty() {
            self.fill().await?;
        }
        Ok(self.read[0])
    }

    async fn skip_frame(&mut self) -> std::result::Result<(), WireError> {
        loop {
            if let Some(length) = frame_length(&self.read)?
                && self.read.len() >= length
            {
                self.read.advance(length);
                return Ok(());
            }
            self.fill().await?;
        }
    }
}

/// Length of the frame at the start of `data` with its tag, once it is known.
fn frame_length(data: &[u8]) -> std::result::Result<Option<usize>, WireError> {
    let Some(&[a, b, c, d]) = data.get(1..5) else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if !(4..=LARGEST_FRAME).contains(&length) {
        return Err(WireError::Protocol("the answer is not PostgreSQL's protocol".into()));
    }
    Ok(Some(length + 1))
}

fn said(mut fields: ErrorFields<'_>) -> std::result::Result<ServerError, WireError> {
    let (mut code, mut message, mut table, mut constraint) = (None, None, None, None);
    let mut context = None;
    while let Some(field) = fields.next()? {
        let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => code = Some(value),
            b'M' => message = Some(value),
            b't' => table = Some(value),
            b'n' => constraint = Some(value),
            b'W' => context = Some(value),
            _ => {}
        }
    }
    let mut error = ServerError::new(
        code.as_deref().unwrap_or("XX000"),
        message.as_deref().unwrap_or("no message"),
        table.as_deref(),
        constraint.as_deref(),
    );
    if let Some(place) = context.as_deref().and_then(place) {
        error.text.push_str(&format!(", at {place}"));
    }
    Ok(error)
}

/// Where in the log a plugin failed: the only part of a context that is never a value.
fn place(context: &str) -> Option<&str> {
    let (_, after) = context.rsplit_once("LSN ")?;
    let end = after.find(|c: char| !c.is_ascii_hexdigit() && c != '/').unwrap_or(after.len());
    Some(&after[..end]).filter(|lsn| lsn.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_context_only_the_place_is_told() {
        let context = "slot \"s\", output plugin \"pgoutput\", in the change callback, \
                       associated LSN 0/1A2B3C8";
        assert_eq!(place(context), Some("0/1A2B3C8"));
        assert_eq!(place("COPY t, line 1, column a: \"LSN secret\""), None);
        assert_eq!(place("COPY t, line 1"), None);
    }
}

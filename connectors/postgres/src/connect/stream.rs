//! The bytes below every session: TCP or Unix socket, TLS settled.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use super::{
    config::{Host, PgConfig, SslMode},
    der,
    pulse::Pulse,
    socket::Socket,
    tls,
};

/// Why no usable stream came about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Nobody answers, or not in time.
    #[error("{0}")]
    Unreachable(String, #[source] Option<io::Error>),
    /// Certificates, names, files.
    #[error("{0}")]
    Tls(String, #[source] Option<io::Error>),
    /// Somebody answers who does not speak PostgreSQL's protocol.
    #[error("{0}")]
    NotPostgres(String),
}

/// A connection on which the startup message can be sent.
pub(crate) struct Stream {
    kind: Kind,
    /// Whether the first answer was looked at.
    greeted: bool,
    /// The other end has answered within [`NEAR`].
    near: bool,
    pulse: Arc<Pulse>,
}

/// Who answers a connection so fast is in the same place.
const NEAR: Duration = Duration::from_millis(2);

/// What the system may keep for us of a stream from near by.
///
/// A server sends every row by itself. While this much waits, what it sends next waits on its side
/// and travels in one piece later, which costs it a third of the processor time. With a longer way
/// between the two so little would limit the throughput.
const WAITING: usize = 64 * 1024;

enum Kind {
    /// Plain TCP, or a Unix socket.
    Plain(Socket),
    /// TLS over TCP.
    Tls(Box<tokio_rustls::client::TlsStream<Socket>>),
}

impl Stream {
    /// Connects and settles TLS, without a limit in time.
    pub(crate) async fn open(config: &PgConfig) -> Result<Self, OpenError> {
        let at = format!("{}:{}", config.host(), config.port);
        match &config.host {
            Host::Unix(folder) => {
                let path = folder.join(format!(".s.PGSQL.{}", config.port));
                let stream = UnixStream::connect(&path).await.map_err(|e| {
                    OpenError::Unreachable(
                        format!("nothing listens at {}: {e}", path.display()),
                        Some(e),
                    )
                })?;
                Ok(Kind::Plain(Socket::Unix(stream)).into())
            }
            Host::Tcp(host) => {
                let (stream, took) =
                    connect(host, config.port, config.connect_timeout).await.map_err(|e| {
                        OpenError::Unreachable(
                            format!("cannot connect to {at}: {e}; check host, port and firewall"),
                            Some(e),
                        )
                    })?;
                tune(&stream).map_err(|e| {
                    OpenError::Unreachable(format!("the connection to {at} broke: {e}"), Some(e))
                })?;
                let mut stream = secure(config, host, stream, &at).await?;
                stream.answered(took);
                Ok(stream)
            }
        }
    }

    /// What ties SCRAM to this TLS connection, when there is one.
    pub(crate) fn end_point(&self) -> Option<Vec<u8>> {
        match &self.kind {
            Kind::Tls(stream) => {
                let (_, session) = stream.get_ref();
                der::end_point_binding(session.peer_certificates()?.first()?.as_ref())
            }
            _ => None,
        }
    }

    /// The other end took so long for an answer. Once is enough: a busy machine answers late as
    /// well.
    pub(crate) fn answered(&mut self, took: Duration) {
        self.near |= took < NEAR;
    }

    /// Makes it good for much that comes in small pieces.
    pub(crate) fn expect_many(&mut self) -> io::Result<()> {
        match (self.near, self.socket()) {
            (true, Socket::Tcp(stream)) => SockRef::from(&*stream).set_recv_buffer_size(WAITING),
            _ => Ok(()),
        }
    }

    /// The socket below.
    fn socket(&mut self) -> &mut Socket {
        match &mut self.kind {
            Kind::Plain(socket) => socket,
            Kind::Tls(stream) => stream.get_mut().0,
        }
    }

    /// Lets bytes gather for `pause` without a wake-up for each packet. When the future is dropped,
    /// [`Stream::take_up`] is needed before the next byte.
    pub(crate) async fn rest(&mut self, pause: Duration) -> io::Result<()> {
        self.socket().lay_aside()?;
        tokio::time::sleep(pause).await;
        self.take_up()
    }

    /// Ends a rest that was cut short. Harmless otherwise.
    pub(crate) fn take_up(&mut self) -> io::Result<()> {
        self.socket().take_up()
    }

    /// What is seen of the connection from now on.
    pub(super) fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// Whether the bytes are encrypted.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self.kind, Kind::Tls(_))
    }
}

/// Tries all addresses of the host, each for its part of `within`: one that answers nothing must not
/// hide the next. Also says how long the last one took to answer.
async fn connect(host: &str, port: u16, within: Duration) -> io::Result<(TcpStream, Duration)> {
    let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    reach(&addresses, within).await
}

async fn reach(addresses: &[SocketAddr], within: Duration) -> io::Result<(TcpStream, Duration)> {
    let each = within / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut failed = None;
    for address in addresses {
        let began = Instant::now();
        match tokio::time::timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, began.elapsed())),
            Ok(Err(e)) => failed = Some(e),
            Err(_) => failed = Some(io::ErrorKind::TimedOut.into()),
        }
    }
    Err(failed.unwrap_or_else(|| io::Error::other("the name has no address")))
}

/// No delay for small messages; a dead peer is noticed within about a minute.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(20))
        .with_interval(Duration::from_secs(5));
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

async fn secure(
    config: &PgConfig,
    host: &str,
    mut stream: TcpStream,
    at: &str,
) -> Result<Stream, OpenError> {
    if config.ssl_mode == SslMode::Disable {
        return Ok(Kind::Plain(Socket::Tcp(stream)).into());
    }
    let broke = |e: io::Error| {
        OpenError::Unreachable(format!("{at} closed the connection at once: {e}"), Some(e))
    };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(broke)?;
    // One byte and no more: what follows must already be TLS.
    match stream.read_u8().await.map_err(broke)? {
        b'S' => {}
        b'N' if config.ssl_mode == SslMode::Prefer => {
            return Ok(Kind::Plain(Socket::Tcp(stream)).into());
        }
        b'N' => {
            return Err(OpenError::Tls(
                format!(
                    "{at} does not offer TLS and sslmode={} asks for it",
                    config.ssl_mode.as_str()
                ),
                None,
            ));
        }
        _ => {
            return Err(OpenError::NotPostgres(format!(
                "{at} answered, but not as a PostgreSQL server"
            )));
        }
    }
    let client = tls::client_config(config).map_err(|what| OpenError::Tls(what, None))?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| OpenError::Tls(format!("{host:?} is not a host name"), None))?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(client))
        .connect(name, Socket::Tcp(stream))
        .await
        .map_err(|e| OpenError::Tls(format!("TLS with {at} failed: {e}"), Some(e)))?;
    Ok(Kind::Tls(Box::new(stream)).into())
}

impl From<Kind> for Stream {
    fn from(kind: Kind) -> Self {
        Self { kind, greeted: false, near: false, pulse: Arc::default() }
    }
}

/// Whether the first bytes after our startup message can be PostgreSQL's: the driver would wait
/// for gigabytes when a web server answers.
fn is_greeting(bytes: &[u8]) -> bool {
    let kind = bytes.first().is_none_or(|b| b"RENv".contains(b));
    let length = bytes.get(1..5).is_none_or(|l| l[0] == 0 && l[1] == 0);
    kind && length
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let done = match &mut this.kind {
            Kind::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Kind::Tls(s) => Pin::new(s).poll_read(cx, buf),
        };
        if matches!(done, Poll::Ready(Ok(()))) {
            this.pulse.heard();
        }
        if !this.greeted && matches!(done, Poll::Ready(Ok(()))) {
            this.greeted = true;
            if !is_greeting(&buf.filled()[before..]) {
                let what = "the answer is not PostgreSQL's protocol";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
            }
        }
        done
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = match &mut this.kind {
            Kind::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Kind::Tls(s) => Pin::new(s).poll_write(cx, buf),
        };
        if matches!(done, Poll::Ready(Ok(_))) {
            this.pulse.said();
        }
        done
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            Kind::Plain(s) => Pin::new(s).poll_flush(cx),
            Kind::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            Kind::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Kind::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        match self.end_point() {
            Some(digest) => ChannelBinding::tls_server_end_point(digest),
            None => ChannelBinding::none(),
        }
    }
}

/// Tells the driver that TLS is settled: it wraps the stream without a handshake, but still asks
/// it for the channel binding.
pub(crate) struct Settled;

impl TlsConnect<Stream> for Settled {
    type Stream = Stream;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Stream>>;

    fn connect(self, stream: Stream) -> Self::Future {
        std::future::ready(Ok(stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers() {
        assert!(is_greeting(b"R\0\0\0\x17\0\0\0\x0aSCRAM"));
        assert!(is_greeting(b"E"));
        assert!(!is_greeting(b"HTTP/1.1"));
        assert!(!is_greeting(b"J\0\0\0\x0a9.7"));
        assert!(!is_greeting(b"R\x01\0\0\0"));
    }
}

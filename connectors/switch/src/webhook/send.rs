//! One HTTP POST on a connection of its own: no redirect, no proxy, no second try.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ureq::{
    Agent, Timeout,
    http::Uri,
    tls::{Certificate, RootCerts, TlsConfig},
};

use super::sign::signature;
use crate::{BadConfig, failure::Cause};

/// No honest answer is longer.
const BODY_LIMIT: u64 = 64 * 1024;

/// Bytes of an answer that go into messages.
const EXCERPT: usize = 300;

/// An address to post to. Holds the secret, so it has no `Debug`.
pub(super) struct Hook {
    url: String,
    secret: Option<String>,
    agent: Agent,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// No connection was made, so nothing can have happened.
    #[error("{place} cannot be reached")]
    NotSent {
        place: String,
        #[source]
        cause: Cause,
    },
    /// The request was sent, or may have been.
    #[error("no answer from {place}")]
    NoAnswer {
        place: String,
        #[source]
        cause: Cause,
    },
}

impl Hook {
    pub(super) fn new(url: &str, secret: Option<&str>) -> Result<Self, BadConfig> {
        let bad = || {
            BadConfig::new(
                "the address of the webhook is not an http or https address",
                "write for example https://deploy.example.com/traffic",
            )
        };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        if !known || uri.host().is_none_or(str::is_empty) {
            return Err(bad());
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            // A kept connection may be dead, and then nobody knows whether a request got through.
            .max_idle_connections(0)
            .user_agent(concat!("cutover/", env!("CARGO_PKG_VERSION")));
        if uri.scheme_str() == Some("https") {
            config = config.tls_config(tls()?);
        }
        let agent = config.build().new_agent();
        Ok(Self { url: url.to_owned(), secret: secret.map(str::to_owned), agent })
    }

    /// Scheme, host and port: what may be shown.
    pub(super) fn place(&self) -> String {
        place(&self.url)
    }

    pub(super) fn is_signed(&self) -> bool {
        self.secret.is_some()
    }

    /// Posts and waits. Blocks the thread, at most for `limit`.
    pub(super) fn post(&self, body: &str, limit: Duration) -> Result<Answer, SendError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = now.as_secs().to_string();
        let mut request = self
            .agent
            .post(&self.url)
            .header("content-type", "application/json")
            .header("x-cutover-timestamp", &timestamp);
        if let Some(secret) = &self.secret {
            request = request.header("x-cutover-signature", signature(secret, &timestamp, body));
        }
        let request = request
            .config()
            // The shorter one tells "never connected" from "no answer".
            .timeout_connect(Some(limit / 2))
            .timeout_global(Some(limit))
            .build();
        let mut response = request.send(body).map_err(|error| self.failed(error))?;
        let status = response.status().as_u16();
        let read = response.body_mut().with_config().limit(BODY_LIMIT).read_to_vec();
        match read {
            Ok(body) => Ok(Answer { status, body }),
            // The status alone is an answer where no body is needed.
            Err(error) if (200..300).contains(&status) => {
                Err(SendError::NoAnswer { place: self.place(), cause: error.into() })
            }
            Err(_) => Ok(Answer { status, body: Vec::new() }),
        }
    }

    /// Whether somebody listens there.
    pub(super) async fn reach(&self, within: Duration) -> Result<(), SendError> {
        let uri: Uri = self.url.parse().unwrap_or_default();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port =
            uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let connected =
            tokio::time::timeout(within, tokio::net::TcpStream::connect((host, port))).await;
        let cause: Cause = match connected {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.into(),
            Err(late) => late.into(),
        };
        Err(SendError::NotSent { place: self.place(), cause })
    }

    fn failed(&self, error: ureq::Error) -> SendError {
        let place = self.place();
        if never_sent(&error) {
            SendError::NotSent { place, cause: error.into() }
        } else {
            SendError::NoAnswer { place, cause: error.into() }
        }
    }
}

/// Whether the failure came before the first byte of the request: no name, no connection, or a
/// TLS handshake that we ended ourselves.
fn never_sent(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect)
        | ureq::Error::Rustls(rustls::Error::InvalidCertificate(_)) => true,
        ureq::Error::Io(cause) => {
            let by_us = cause
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>())
                .is_some_and(|inner| matches!(inner, rustls::Error::InvalidCertificate(_)));
            by_us
                || matches!(
                    cause.kind(),
                    io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::HostUnreachable
                        | io::ErrorKind::NetworkUnreachable
                )
        }
        _ => false,
    }
}

/// The machine's own certificates, with the same TLS library as everywhere.
fn tls() -> Result<TlsConfig, BadConfig> {
    let found = rustls_native_certs::load_native_certs();
    let certificates: Vec<Certificate<'static>> =
        found.certs.iter().map(|one| Certificate::from_der(one).to_owned()).collect();
    if certificates.is_empty() {
        return Err(BadConfig::new(
            "this machine has no certificates to check an https webhook with",
            "install ca-certificates, or set SSL_CERT_FILE",
        ));
    }
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(certificates)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

/// Scheme, host and port of an address.
pub(super) fn place(url: &str) -> String {
    let uri: Uri = url.parse().unwrap_or_default();
    let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", uri.scheme_str().unwrap_or("?"), uri.host().unwrap_or("?"))
}

/// The beginning of an answer on one line.
pub(super) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(EXCERPT)]);
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() { "it gave no reason".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_left_is_told_from_what_may_have() {
        let io = |kind: io::ErrorKind| ureq::Error::Io(kind.into());
        for (error, want) in [
            (io(io::ErrorKind::ConnectionRefused), true),
            (io(io::ErrorKind::ConnectionReset), false),
            (io(io::ErrorKind::UnexpectedEof), false),
            (ureq::Error::HostNotFound, true),
            (ureq::Error::Timeout(Timeout::Connect), true),
            (ureq::Error::Timeout(Timeout::Global), false),
            (ureq::Error::Timeout(Timeout::RecvResponse), false),
            (
                ureq::Error::Rustls(rustls::Error::InvalidCertificate(
                    rustls::CertificateError::Expired,
                )),
                true,
            ),
        ] {
            assert_eq!(never_sent(&error), want, "{error}");
        }
    }

    #[test]
    fn excerpts_are_short_and_on_one_line() {
        assert_eq!(excerpt(b" a\n b "), "a b");
        assert_eq!(excerpt(b""), "it gave no reason");
        assert!(excerpt(&[b'x'; 9000]).len() <= EXCERPT);
    }
}

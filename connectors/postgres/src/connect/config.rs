//! Addresses and credentials as a user writes them.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long opening a connection may take when the address does not say.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why an address cannot be used. Never holds the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ConfigError {
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

/// How the connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS when the server offers it, with any certificate.
    Prefer,
    /// TLS with any certificate.
    Require,
    /// TLS with a certificate that a trusted authority signed.
    VerifyCa,
    /// As `VerifyCa`, and the certificate names the host.
    VerifyFull,
}

impl SslMode {
    /// The word of the address.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Disable, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull]
            .into_iter()
            .find(|m| m.as_str() == word)
    }
}

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name or an IP address.
    Tcp(String),
    /// The folder of the Unix socket.
    Unix(PathBuf),
}

/// Address and credentials of one database. Its `Debug` and `Display` forms never show the
/// password.
#[derive(Clone, PartialEq, Eq)]
pub struct PgConfig {
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) user: String,
    password: Option<String>,
    pub(crate) dbname: String,
    pub(crate) ssl_mode: SslMode,
    /// Authorities to trust; `None`: those of the system.
    pub(crate) ssl_root_cert: Option<PathBuf>,
    /// Our own certificate and its key.
    pub(crate) ssl_client: Option<(PathBuf, PathBuf)>,
    pub(crate) connect_timeout: Duration,
    pub(crate) application_name: Option<String>,
}

impl PgConfig {
    /// Reads a `postgres://` or `postgresql://` address. `password`, when given, wins over the one
    /// in the address.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with a remedy: another scheme, several hosts, unknown or contradicting
    /// parameters. It never repeats the password.
    pub fn parse(url: &str, password: Option<String>) -> Result<Self, ConfigError> {
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .ok_or_else(|| {
                bad(
                    "the address does not start with postgres:// or postgresql://",
                    "write it as postgres://user@host:5432/dbname?sslmode=verify-full",
                )
            })?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // The last '@' ends the credentials: an unescaped one inside of a password is common.
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((c, a)) => (Some(c), a),
            None => (None, authority),
        };
        let mut draft = Draft::default();
        if let Some(credentials) = credentials {
            let (user, secret) = match credentials.split_once(':') {
                Some((u, p)) => (u, Some(p)),
                None => (credentials, None),
            };
            draft.user = Some(decode(user)?).filter(|u| !u.is_empty());
            draft.password = secret.map(decode).transpose()?;
        }
        draft.address(address)?;
        if !path.is_empty() {
            draft.dbname = Some(decode(path)?);
        }
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                bad(format!("parameter {pair:?} has no value"), "write it as name=value")
            })?;
            draft.parameter(&decode(key)?, decode(value)?)?;
        }
        draft.finish(password)
    }

    /// Host name, IP address or socket folder, for messages.
    #[must_use]
    pub fn host(&self) -> String {
        match &self.host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(folder) => folder.display().to_string(),
        }
    }

    /// TCP port, or the number in the name of the Unix socket.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Role to log in as.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Database.
    #[must_use]
    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    /// How the connection is protected.
    #[must_use]
    pub fn ssl_mode(&self) -> SslMode {
        self.ssl_mode
    }

    /// The same server and credentials, another database.
    #[must_use]
    pub fn with_dbname(&self, dbname: &str) -> Self {
        Self { dbname: dbname.to_owned(), ..self.clone() }
    }

    /// With the password of another address where it has none of its own.
    #[must_use]
    pub fn or_password_of(self, other: &Self) -> Self {
        Self { password: self.password.or_else(|| other.password.clone()), ..self }
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The address without the password: for messages, logs and reports.
    #[must_use]
    pub fn redacted(&self) -> String {
        let (address, socket) = match &self.host {
            Host::Tcp(h) if h.contains(':') => (format!("[{h}]:{}", self.port), None),
            Host::Tcp(h) => (format!("{h}:{}", self.port), None),
            Host::Unix(folder) => (format!(":{}", self.port), Some(folder)),
        };
        let mut text = format!(
            "postgres://{}@{address}/{}?sslmode={}",
            encode(&self.user),
            encode(&self.dbname),
            self.ssl_mode.as_str()
        );
        if let Some(folder) = socket {
            text.push_str("&host=");
            text.push_str(&folder.display().to_string());
        }
        text
    }

    /// Environment that makes a program of PostgreSQL (`pg_dump`, `pg_restore`, `psql`) connect
    /// exactly as we do. Holds the password: give it to the child only, never to a log.
    #[must_use]
    pub fn child_env(&self) -> Vec<(String, String)> {
        let path = |p: &Path| p.display().to_string();
        let mut env = vec![
            ("PGHOST", self.host()),
            ("PGPORT", self.port.to_string()),
            ("PGUSER", self.user.clone()),
            ("PGDATABASE", self.dbname.clone()),
            ("PGSSLMODE", self.ssl_mode.as_str().to_owned()),
            ("PGCONNECT_TIMEOUT", self.connect_timeout.as_secs().max(2).to_string()),
        ];
        if let Some(password) = &self.password {
            env.push(("PGPASSWORD", password.clone()));
        }
        match (&self.ssl_root_cert, self.ssl_mode) {
            (Some(root), _) => env.push(("PGSSLROOTCERT", path(root))),
            (None, SslMode::VerifyFull) => env.push(("PGSSLROOTCERT", "system".to_owned())),
            (None, _) => {}
        }
        if let Some((certificate, key)) = &self.ssl_client {
            env.push(("PGSSLCERT", path(certificate)));
            env.push(("PGSSLKEY", path(key)));
        }
        env.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    }
}

impl fmt::Debug for PgConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PgConfig({})", self.redacted())
    }
}

impl fmt::Display for PgConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

/// What was read so far.
#[derive(Default)]
struct Draft {
    host: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    password: Option<String>,
    dbname: Option<String>,
    ssl_mode: Option<SslMode>,
    ssl_root_cert: Option<String>,
    ssl_cert: Option<String>,
    ssl_key: Option<String>,
    connect_timeout: Option<Duration>,
    application_name: Option<String>,
}

impl Draft {
    /// `host`, `host:port`, `[v6]:port`, `:port` or nothing.
    fn address(&mut self, address: &str) -> Result<(), ConfigError> {
        if address.contains(',') {
            return Err(several_hosts());
        }
        let (host, port) = if let Some(rest) = address.strip_prefix('[') {
            let (host, after) = rest.split_once(']').ok_or_else(|| {
                bad("an IPv6 address is not closed by ']'", "write it as [2001:db8::1]:5432")
            })?;
            let port = match after.strip_prefix(':') {
                Some(port) => Some(port),
                None if after.is_empty() => None,
                None => {
                    return Err(bad(
                        "there is something other than a port after ']'",
                        "write it as [2001:db8::1]:5432",
                    ));
                }
            };
            (host, port)
        } else {
            match address.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return Err(bad(
                        "the host has several ':'",
                        "put an IPv6 address into brackets: [2001:db8::1]:5432",
                    ));
                }
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            }
        };
        if !host.is_empty() {
            self.host = Some(decode(host)?);
        }
        if let Some(port) = port.filter(|p| !p.is_empty()) {
            self.port = Some(parse_port(port)?);
        }
        Ok(())
    }

    fn parameter(&mut self, key: &str, value: String) -> Result<(), ConfigError> {
        match key {
            "host" if value.contains(',') => return Err(several_hosts()),
            "host" => self.host = Some(value),
            "port" => self.port = Some(parse_port(&value)?),
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "dbname" => self.dbname = Some(value),
            "application_name" => self.application_name = Some(value),
            "sslmode" => {
                self.ssl_mode = Some(SslMode::parse(&value).ok_or_else(|| {
                    bad(
                        format!("sslmode {value:?} is not known"),
                        "use disable, prefer, require, verify-ca or verify-full",
                    )
                })?);
            }
            "sslrootcert" => self.ssl_root_cert = Some(value),
            "sslcert" => self.ssl_cert = Some(value),
            "sslkey" => self.ssl_key = Some(value),
            "connect_timeout" => {
                let seconds = value.parse::<u64>().ok().filter(|s| (1..=3600).contains(s));
                let seconds = seconds.ok_or_else(|| {
                    bad(
                        format!("connect_timeout {value:?} is not a number of seconds"),
                        "use 1 to 3600",
                    )
                })?;
                self.connect_timeout = Some(Duration::from_secs(seconds));
            }
            "target_session_attrs" | "load_balance_hosts" => {
                return Err(bad(
                    format!("parameter {key} is not supported: a run belongs to one server"),
                    "remove it and name the primary itself",
                ));
            }
            "options" => {
                return Err(bad(
                    "parameter options is not supported: the settings of our sessions are fixed",
                    "remove it",
                ));
            }
            _ => {
                return Err(bad(
                    format!("parameter {key:?} is not known"),
                    "known are host, port, user, password, dbname, sslmode, sslrootcert, sslcert, \
                     sslkey, connect_timeout, application_name",
                ));
            }
        }
        Ok(())
    }

    fn finish(self, password: Option<String>) -> Result<PgConfig, ConfigError> {
        let host = self.host.filter(|h| !h.is_empty()).ok_or_else(|| {
            bad("the address names no host", "write it as postgres://user@host:5432/dbname")
        })?;
        let host =
            if host.starts_with('/') { Host::Unix(PathBuf::from(host)) } else { Host::Tcp(host) };
        let user = self.user.filter(|u| !u.is_empty()).ok_or_else(|| {
            bad("the address names no user", "write it as postgres://user@host:5432/dbname")
        })?;
        let mut ssl_mode = self.ssl_mode.unwrap_or(SslMode::Prefer);
        let ssl_root_cert =
            self.ssl_root_cert.filter(|r| !r.is_empty() && r != "system").map(PathBuf::from);
        match (ssl_mode, &ssl_root_cert) {
            // As libpq does: whoever names an authority wants it to be checked.
            (SslMode::Require, Some(_)) => ssl_mode = SslMode::VerifyCa,
            (SslMode::VerifyCa, None) => {
                return Err(bad(
                    "sslmode=verify-ca without sslrootcert accepts the certificate of anybody",
                    "add sslrootcert=/path/to/ca.pem, or use sslmode=verify-full",
                ));
            }
            _ => {}
        }
        if matches!(host, Host::Unix(_)) && ssl_mode > SslMode::Prefer {
            return Err(bad(
                format!("sslmode={} over a Unix socket: there is no TLS", ssl_mode.as_str()),
                "remove sslmode",
            ));
        }
        let ssl_client = match (self.ssl_cert, self.ssl_key) {
            (Some(certificate), Some(key)) => {
                Some((PathBuf::from(certificate), PathBuf::from(key)))
            }
            (None, None) => None,
            _ => {
                return Err(bad(
                    "sslcert and sslkey belong together and one is missing",
                    "give both, or neither",
                ));
            }
        };
        Ok(PgConfig {
            host,
            port: self.port.unwrap_or(5432),
            dbname: self.dbname.filter(|d| !d.is_empty()).unwrap_or_else(|| user.clone()),
            user,
            password: password.or(self.password),
            ssl_mode,
            ssl_root_cert,
            ssl_client,
            connect_timeout: self.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
            application_name: self.application_name,
        })
    }
}

impl PartialOrd for SslMode {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        (*self as u8).partial_cmp(&(*other as u8))
    }
}

fn bad(what: impl Into<String>, remedy: impl Into<String>) -> ConfigError {
    ConfigError { what: what.into(), remedy: remedy.into() }
}

fn several_hosts() -> ConfigError {
    bad(
        "the address names several hosts: a run belongs to one server",
        "name the primary itself, without a list",
    )
}

fn parse_port(text: &str) -> Result<u16, ConfigError> {
    text.parse::<u16>().ok().filter(|p| *p != 0).ok_or_else(|| {
        // Not repeated: with an unescaped '/' or '@' in the password this is a part of it.
        bad("the port is not a number from 1 to 65535", "percent-encode special characters")
    })
}

fn decode(text: &str) -> Result<String, ConfigError> {
    let wrong = || {
        bad(
            "a '%' is not followed by two hexadecimal digits, or the result is not UTF-8",
            "write a literal '%' as %25",
        )
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let [high, low, after @ ..] = tail else { return Err(wrong()) };
            let digit = |b: &u8| char::from(*b).to_digit(16);
            let (Some(high), Some(low)) = (digit(high), digit(low)) else { return Err(wrong()) };
            bytes.push((high * 16 + low) as u8);
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok().filter(|s| !s.contains('\0')).ok_or_else(wrong)
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(b).to_string()
            }
            _ => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> PgConfig {
        PgConfig::parse(url, None).unwrap_or_else(|e| panic!("{url}: {e}"))
    }

    #[test]
    fn addresses() {
        for (url, want) in [
            ("postgres://u@h/d", "postgres://u@h:5432/d?sslmode=prefer"),
            ("postgresql://u:p@h:1/d", "postgres://u@h:1/d?sslmode=prefer"),
            ("postgres://u@h", "postgres://u@h:5432/u?sslmode=prefer"),
            ("postgres://u@[::1]:7/d", "postgres://u@[::1]:7/d?sslmode=prefer"),
            ("postgres://u%40x@h/a%20b", "postgres://u%40x@h:5432/a%20b?sslmode=prefer"),
            (
                "postgres://u@h/d?sslmode=verify-full&connect_timeout=3",
                "postgres://u@h:5432/d?sslmode=verify-full",
            ),
            (
                "postgres:///d?host=/run/pg&port=6000&user=u",
                "postgres://u@:6000/d?sslmode=prefer&host=/run/pg",
            ),
            (
                "postgres://u@h/d?sslmode=require&sslrootcert=/ca",
                "postgres://u@h:5432/d?sslmode=verify-ca",
            ),
        ] {
            assert_eq!(parse(url).redacted(), want, "{url}");
        }
    }

    #[test]
    fn passwords_are_read_and_never_shown() {
        let config = parse("postgres://u:s%40c@ret@h/d");
        assert_eq!(config.password(), Some("s@c@ret"));
        assert!(!format!("{config:?} {config}").contains("ret"));
        let config = PgConfig::parse("postgres://u:a@h/d", Some("b".into())).unwrap();
        assert_eq!(config.password(), Some("b"));
        assert!(config.child_env().contains(&("PGPASSWORD".into(), "b".into())));
        // A slash in the password cuts the address at the wrong place: the error must not tell.
        let error = PgConfig::parse("postgres://u:se/cret@h/d", None).unwrap_err();
        assert!(!format!("{error:?}").contains("se/"), "{error:?}");
        assert!(!format!("{error:?}").contains("cret"), "{error:?}");
    }

    #[test]
    fn refused_with_a_remedy() {
        for url in [
            "mysql://u@h/d",
            "host=h user=u",
            "postgres://u@a,b/d",
            "postgres://u@a:1,b:2/d",
            "postgres://h/d",
            "postgres://u@/d",
            "postgres://u@h:0/d",
            "postgres://u@h:99999/d",
            "postgres://u@::1/d",
            "postgres://u@[::1/d",
            "postgres://u@h/d?sslmode=allow",
            "postgres://u@h/d?sslmode=verify-ca",
            "postgres://u@h/d?target_session_attrs=any",
            "postgres://u@h/d?sslmod=require",
            "postgres://u@h/d?options=-c%20a%3Db",
            "postgres://u@h/d?sslcert=/x",
            "postgres://u@h/d?connect_timeout=0",
            "postgres://u@h/d?sslmode",
            "postgres://u@h/%zz",
            "postgres://u@h/%00",
            "postgres://u@/d?host=/run&sslmode=require",
        ] {
            let error = PgConfig::parse(url, None).expect_err(url);
            assert!(!error.remedy.is_empty(), "{url}");
        }
    }

    #[test]
    fn children_connect_as_we_do() {
        let env = parse("postgres://u@h:6/d?sslmode=verify-full&sslrootcert=/ca.pem").child_env();
        for (key, value) in [
            ("PGHOST", "h"),
            ("PGPORT", "6"),
            ("PGUSER", "u"),
            ("PGDATABASE", "d"),
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", "/ca.pem"),
        ] {
            assert!(env.contains(&(key.into(), value.into())), "{key}");
        }
        assert!(!env.iter().any(|(k, _)| k == "PGPASSWORD"));
    }
}

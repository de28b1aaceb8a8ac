//! What a throwaway PostgreSQL server should be like.

use std::{fmt::Write, path::PathBuf};

/// Settings of a server. The default is right for tests of logical replication.
#[derive(Debug, Clone, Default)]
pub struct PgOptions {
    /// Whether commits survive a power cut. Off by default: killed processes lose nothing.
    pub fsync: bool,
    /// A locale of the machine; by default `C`, which every machine has.
    pub locale: Option<String>,
    /// A folder of compiled locales that the server knows instead of the machine's. Its user must
    /// be able to read it.
    pub locales: Option<PathBuf>,
    /// Settings for `postgresql.conf`, without quotes; they win over the built-in ones.
    pub settings: Vec<(String, String)>,
    /// Whether the server speaks TLS, with a certificate made for it.
    pub tls: Option<TlsOptions>,
}

/// The certificate of a server. The default is one for `localhost` and 127.0.0.1, signed by a new
/// certificate authority of its own, with plain connections allowed as well.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// Refuse connections without TLS, ours included: [`super::Postgres::connect`] will fail.
    pub required: bool,
    /// The certificate signs itself instead of being signed by an authority.
    pub self_signed: bool,
    /// Names in the certificate as openssl writes them, `DNS:other.example` or `IP:10.0.0.1`,
    /// instead of the two above.
    pub names: Vec<String>,
}

impl PgOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a setting.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Turns `fsync` on, for measurements.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.fsync = true;
        self
    }

    /// Turns TLS on.
    #[must_use]
    pub fn tls(mut self, tls: TlsOptions) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The text of `pg_hba.conf`.
    pub(super) fn access(&self) -> String {
        let required = self.tls.as_ref().is_some_and(|tls| tls.required);
        let kind = if required { "hostssl" } else { "host" };
        format!(
            "{kind} all all 127.0.0.1/32 scram-sha-256\n\
             {kind} replication all 127.0.0.1/32 scram-sha-256\n"
        )
    }

    /// The text of the included settings file.
    pub(super) fn settings(&self, port: u16) -> String {
        let on = |yes| if yes { "on" } else { "off" };
        let port = port.to_string();
        let mut all: Vec<(&str, &str)> = vec![
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", ""),
            ("wal_level", "logical"),
            ("max_replication_slots", "50"),
            ("max_wal_senders", "50"),
            ("max_prepared_transactions", "10"),
            ("max_connections", "200"),
            ("shared_buffers", "64MB"),
            ("password_encryption", "scram-sha-256"),
            ("fsync", on(self.fsync)),
            ("full_page_writes", on(self.fsync)),
            ("logging_collector", "off"),
            ("log_line_prefix", "%m [%p] %q%u@%d "),
        ];
        if self.tls.is_some() {
            all.push(("ssl", "on"));
            all.push(("ssl_cert_file", "server.crt"));
            all.push(("ssl_key_file", "server.key"));
        }
        all.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        all.iter().map(|(name, value)| setting(name, value)).collect()
    }
}

/// One line of `postgresql.conf`.
pub(super) fn setting(name: &str, value: &str) -> String {
    let mut line = String::new();
    // Writing to a string cannot fail.
    _ = writeln!(line, "{name} = '{}'", value.replace('\'', "''"));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_caller_sets_comes_last_and_so_wins() {
        let text = PgOptions::new().set("wal_level", "replica").settings(4711);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("wal_level")).collect();
        assert_eq!(lines, ["wal_level = 'logical'", "wal_level = 'replica'"]);
        assert!(text.contains("port = '4711'\n"));
    }

    #[test]
    fn quotes_in_a_value_are_doubled() {
        assert_eq!(setting("a", "it's"), "a = 'it''s'\n");
    }

    #[test]
    fn required_tls_leaves_no_plain_way_in() {
        let plain = PgOptions::new().access();
        assert!(plain.lines().all(|line| line.starts_with("host ")), "{plain}");
        let required = TlsOptions { required: true, ..TlsOptions::default() };
        let access = PgOptions::new().tls(required).access();
        assert!(access.lines().all(|line| line.starts_with("hostssl ")), "{access}");
    }
}

//! Values that never print: no `Debug`, `Display` or `Serialize` of what they hold.

use std::fmt;

/// What stands in the place of a secret.
pub const MASK: &str = "***";

/// A password or key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for the one who connects with it. Never put it into a message.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// An address that may hold a password. Prints without it.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// Wraps an address as written.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The address with its password, for the one who connects with it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What stands before `://`, in lower case; empty when nothing does.
    #[must_use]
    pub fn scheme(&self) -> String {
        self.0.split_once("://").map_or_else(String::new, |(s, _)| s.to_ascii_lowercase())
    }

    /// The address with every secret masked.
    #[must_use]
    pub fn redacted(&self) -> String {
        redact(&self.0)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

/// Masks the password before the last `@` (an unescaped `@` or `/` inside of a password is
/// common) and every parameter that is not known to be harmless.
fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return MASK.to_owned() };
    // An `@` among parameters: nobody can say what is which.
    if let Some((_, query)) = rest.split_once('?')
        && query.rsplit_once('@').is_some_and(|(before, _)| before.contains('='))
    {
        return format!("{scheme}://{MASK}");
    }
    let (credentials, address) = match rest.rsplit_once('@') {
        Some((c, a)) => (Some(c), a),
        None => (None, rest),
    };
    let mut out = format!("{scheme}://");
    if let Some(credentials) = credentials {
        match credentials.split_once(':') {
            Some((user, _)) => out.push_str(&format!("{user}:{MASK}@")),
            None => out.push_str(&format!("{credentials}@")),
        }
    }
    let (address, query) = match address.split_once('?') {
        Some((a, q)) => (a, Some(q)),
        None => (address, None),
    };
    out.push_str(address);
    if let Some(query) = query {
        let shown: Vec<String> = query.split('&').map(redact_parameter).collect();
        out.push('?');
        out.push_str(&shown.join("&"));
    }
    out
}

fn redact_parameter(pair: &str) -> String {
    const HARMLESS: [&str; 9] = [
        "host",
        "port",
        "user",
        "dbname",
        "sslmode",
        "sslrootcert",
        "sslcert",
        "connect_timeout",
        "application_name",
    ];
    match pair.split_once('=') {
        Some((key, _)) if HARMLESS.contains(&key) => pair.to_owned(),
        Some((key, _)) => format!("{key}={MASK}"),
        None => MASK.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_prints_a_secret() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
        for (url, want) in [
            (
                "postgres://u:hunter2@h:1/d?sslmode=require",
                "postgres://u:***@h:1/d?sslmode=require",
            ),
            ("postgres://u:hun@ter2@h/d", "postgres://u:***@h/d"),
            ("postgres://u:hun/ter?2@h/d", "postgres://u:***@h/d"),
            ("postgres://u@h/d", "postgres://u@h/d"),
            ("postgres://h/d?user=u&password=hunter2", "postgres://h/d?user=u&password=***"),
            ("https://h/hook?token=hunter2", "https://h/hook?token=***"),
            ("https://h/hook?hunter2", "https://h/hook?***"),
            ("postgres://h/d?user=me@srv&password=hunter2", "postgres://***"),
            ("postgres://h:5432/d?user=me@srv&password=hunter2", "postgres://***"),
            ("postgres://h/d?user=u&password=hun@ter2", "postgres://***"),
            ("https://h/hook?to=ops@x.org&token=hunter2", "https://***"),
            ("host=h password=hunter2", "***"),
        ] {
            let address = Address::new(url);
            assert_eq!(address.to_string(), want);
            assert_eq!(format!("{address:?}"), want);
            assert_eq!(address.expose(), url);
        }
    }
}

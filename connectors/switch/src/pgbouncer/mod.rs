//! PgBouncer as a traffic switch: PAUSE, a new target in its file, RELOAD, RESUME.
//!
//! One switch is one PgBouncer process; it may hold several entries of `[databases]`. Sessions of
//! the console are kept open and new files are written ahead, so that the pause holds little but
//! round trips. What a state means is decided in `state`, what a file becomes in `ini`, what would
//! go wrong in `checks`; `ready` acts ahead of a move, `drive` in it. Does not decide when to switch, and starts no PgBouncer.

mod checks;
mod console;
mod drive;
mod facts;
mod file;
mod idle;
mod ini;
mod quiet;
mod ready;
mod state;
mod target;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use cutover_core::{
    model::{finding::Finding, side::Side},
    port::switch::{Routing, SwitchError, TrafficSwitch},
};
use serde::{Deserialize, Deserializer, de::Error};

pub use target::{Target, Targets};

use crate::{BadConfig, failure};
use console::Console;
use drive::Inner;

/// The `pgbouncer` section of a switch.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PgBouncerConfig {
    /// Address of the admin console, for example `postgres://pgbouncer@127.0.0.1:6432/pgbouncer`.
    pub admin: String,
    /// Entries of `[databases]` that are switched together; one name or a list.
    #[serde(deserialize_with = "one_or_many")]
    pub database: Vec<String>,
    /// The ini file that holds these entries, the main one or an included one.
    pub config: PathBuf,
    /// Where PgBouncer finds blue, when that differs from how we find it.
    #[serde(default)]
    pub blue: Option<Target>,
    /// Where PgBouncer finds green, when that differs from how we find it.
    #[serde(default)]
    pub green: Option<Target>,
}

impl std::fmt::Debug for PgBouncerConfig {
    /// Without the address of the console, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PgBouncerConfig")
            .field("database", &self.database)
            .field("config", &self.config)
            .field("blue", &self.blue)
            .field("green", &self.green)
            .finish_non_exhaustive()
    }
}

/// One PgBouncer.
pub struct PgBouncerSwitch {
    inner: Arc<Inner>,
}

impl PgBouncerSwitch {
    /// Checks the section; connects to nothing.
    ///
    /// `blue` and `green` of the section win over `targets`; a `password` given here wins over one
    /// in the address.
    ///
    /// # Errors
    ///
    /// When the section cannot work: an address that cannot be read, no database, both sides the
    /// same.
    pub fn new(
        name: &str,
        config: PgBouncerConfig,
        password: Option<&str>,
        targets: Targets,
    ) -> Result<Self, BadConfig> {
        let console = Console::new(&config.admin, password)?;
        let targets = Targets {
            blue: config.blue.unwrap_or(targets.blue),
            green: config.green.unwrap_or(targets.green),
        };
        targets.check()?;
        let remedy = "name each entry of [databases] once in `database`";
        if config.database.is_empty() {
            return Err(BadConfig::new("no database is named", remedy));
        }
        for (i, name) in config.database.iter().enumerate() {
            let bad = name.is_empty()
                || matches!(&**name, "*" | "pgbouncer")
                || name.len() > 63
                || name.chars().any(char::is_control)
                || config.database[..i].contains(name);
            if bad {
                return Err(BadConfig::new(format!("{name:?} cannot be switched"), remedy));
            }
        }
        let inner = Inner::new(name.to_owned(), console, config.database, config.config, targets);
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Sets how long a pause may take, against which timeouts are judged by
    /// [`TrafficSwitch::examine`]. One second when not set.
    #[must_use]
    pub fn with_pause_budget(mut self, budget: Duration) -> Self {
        // Nobody else holds it before the first call.
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.pause_budget = budget;
        }
        self
    }

    /// Runs to its end even when the caller stops waiting: half a pause would hold clients
    /// forever. Calls follow one another.
    async fn carry_out<T, F>(&self, doing: &str, work: F) -> Result<T, SwitchError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, SwitchError>> + Send + 'static,
    {
        match tokio::spawn(work).await {
            Ok(result) => result,
            Err(error) => Err(failure::ambiguous(self.name(), doing, error)),
        }
    }

    /// Carries out what keeps pools from growing until the pause; should none come, they grow again.
    async fn narrow<F>(&self, doing: &str, work: F) -> Result<(), SwitchError>
    where
        F: Future<Output = Result<(), SwitchError>> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        let and_widen = async move {
            let done = work.await;
            tokio::spawn(async move { inner.widen().await });
            done
        };
        self.carry_out(doing, and_widen).await
    }
}

#[async_trait]
impl TrafficSwitch for PgBouncerSwitch {
    fn name(&self) -> &str {
        &self.inner.name
    }

    fn describe(&self, side: Side) -> String {
        let inner = &self.inner;
        format!(
            "set {} to {} in {}, then RELOAD and RESUME on the console at {}",
            inner.databases.join(", "),
            inner.targets.of(side),
            inner.path.display(),
            inner.console.place()
        )
    }

    async fn observe(&self) -> Result<Routing, SwitchError> {
        self.inner.observe().await
    }

    async fn pause(&self, within: Duration) -> Result<(), SwitchError> {
        let inner = Arc::clone(&self.inner);
        self.carry_out("PAUSE", async move { inner.pause(within).await }).await
    }

    async fn point_at(&self, side: Side) -> Result<(), SwitchError> {
        let inner = Arc::clone(&self.inner);
        self.carry_out("RELOAD and RESUME", async move { inner.point_at(side).await }).await?;
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move { inner.calm_down().await });
        Ok(())
    }

    async fn warm_up(&self) -> Result<(), SwitchError> {
        let inner = Arc::clone(&self.inner);
        self.carry_out("preparing", async move { inner.warm_up().await }).await
    }

    async fn prove(&self) -> Result<(), SwitchError> {
        let inner = Arc::clone(&self.inner);
        self.carry_out("RELOAD", async move { inner.prove().await }).await
    }

    async fn shed(&self) -> Result<(), SwitchError> {
        let inner = Arc::clone(&self.inner);
        self.narrow("closing idle connections", async move { inner.shed().await }).await
    }

    async fn quiet(&self) -> Result<(), SwitchError> {
        let inner = Arc::clone(&self.inner);
        self.narrow("waiting for a quiet moment", async move { inner.quiet().await }).await
    }

    async fn examine(&self) -> Vec<Finding> {
        let facts = facts::gather(&self.inner).await;
        checks::findings(&self.inner.name, &facts)
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Names {
        One(String),
        Many(Vec<String>),
    }
    match Names::deserialize(input) {
        Ok(Names::One(name)) => Ok(vec![name]),
        Ok(Names::Many(names)) => Ok(names),
        Err(_) => Err(D::Error::custom("a name or a list of names")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(json: &str) -> Result<PgBouncerConfig, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    fn targets() -> Targets {
        let target = |host: &str| Target { host: host.into(), port: 5432, dbname: "shop".into() };
        Targets { blue: target("b"), green: target("g") }
    }

    #[test]
    fn a_section_is_read_and_keeps_its_secret() {
        let one = section(
            r#"{"admin": "postgres://p:s3cret@h:6432/pgbouncer", "database": "shop",
                "config": "/etc/pgbouncer.ini"}"#,
        )
        .unwrap();
        assert_eq!(one.database, ["shop"]);
        assert!(!format!("{one:?}").contains("s3cret"));
        let switch = PgBouncerSwitch::new("pgbouncer[0]", one, None, targets()).unwrap();
        assert_eq!(
            switch.describe(Side::Green),
            "set shop to g:5432/shop in /etc/pgbouncer.ini, then RELOAD and RESUME on the \
             console at h:6432"
        );
        assert!(section(r#"{"admin": "x", "database": "a", "config": "c", "hots": 1}"#).is_err());
    }

    #[test]
    fn sections_that_cannot_work_are_refused() {
        let ours = |database: &str, more: &str| {
            let text = format!(
                r#"{{"admin": "postgres://p@h/pgbouncer", "database": {database},
                    "config": "c" {more}}}"#
            );
            PgBouncerSwitch::new("pgbouncer[0]", section(&text).unwrap(), None, targets())
                .err()
                .map(|error| error.what)
        };
        assert_eq!(ours(r#"["a", "b"]"#, ""), None);
        assert_eq!(ours("[]", "").unwrap(), "no database is named");
        assert_eq!(ours(r#"["a", "a"]"#, "").unwrap(), "\"a\" cannot be switched");
        assert_eq!(ours(r#""*""#, "").unwrap(), "\"*\" cannot be switched");
        let same = r#", "blue": {"host": "g", "port": 5432, "dbname": "shop"}"#;
        assert_eq!(
            ours(r#""a""#, same).unwrap(),
            "blue and green are both g:5432/shop for PgBouncer"
        );
    }
}

//! A PostgreSQL server of one's own: start, stop, kill, freeze, and start again.
//!
//! Data in a temporary folder, a free port on 127.0.0.1, a random password, settings made for
//! logical replication. Everything is gone when the value is dropped or the process ends.

mod options;
mod standby;
mod sysid;
mod template;
mod tls;

pub use options::{PgOptions, TlsOptions};
pub use standby::STANDBY_SLOT;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_postgres::{Client, NoTls};

use crate::{
    PgInstall, SandboxError, error::tail, keeper::Keeper, owner::Owner, port, process, secret,
    wait_for,
};

/// How long a server may take to start or to stop before that is an error.
const PATIENCE: Duration = Duration::from_secs(60);

/// The user that owns the server, with all rights.
const SUPERUSER: &str = "postgres";

/// How a server is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions are cut, then a clean end with a checkpoint.
    Fast,
    /// Everything is cut; the next start recovers from the log.
    Immediate,
}

/// A running (or stopped, to be started again) server.
#[derive(Debug)]
pub struct Postgres {
    install: PgInstall,
    port: u16,
    password: String,
    tls: Option<PathBuf>,
    plain: bool,
    owner: Owner,
    keeper: Keeper,
}

impl Postgres {
    /// Creates a server and waits until it answers.
    ///
    /// # Errors
    ///
    /// When the programs are broken, no port is free, or the server refuses a setting: the end of
    /// its log is part of the error.
    pub async fn start(install: &PgInstall, options: PgOptions) -> Result<Self, SandboxError> {
        let owner = Owner::find()?;
        let program = install.bindir.join("postgres");
        let keeper = Keeper::new(owner, "QUIT", |folder| {
            let data = folder.join("data");
            let locales = options.locales.as_ref().map(|at| format!("LOCPATH={}", at.display()));
            let with = locales.into_iter().flat_map(|locales| ["env".to_owned(), locales]);
            let run = [program.display().to_string(), "-D".to_owned(), data.display().to_string()];
            with.chain(run).collect()
        })?;
        let folder = keeper.folder().to_owned();
        let password = template::lay(install, &options, owner, &folder).await?;
        let tls = match &options.tls {
            Some(tls) => Some(tls::create(tls, owner, &folder).await?),
            None => None,
        };
        write(&folder.join("data/pg_hba.conf"), &options.access())?;
        let plain = !options.tls.as_ref().is_some_and(|tls| tls.required);
        let install = install.clone();
        let mut server = Self { install, port: 0, password, tls, plain, owner, keeper };
        server.listen_somewhere(&options).await?;
        server.renew_password().await?;
        Ok(server)
    }

    /// The programs this server was started from.
    #[must_use]
    pub fn install(&self) -> &PgInstall {
        &self.install
    }

    /// 17 of 17.2.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.install.major
    }

    /// Always 127.0.0.1.
    #[must_use]
    pub fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    /// The TCP port; stays the same when the server is started again.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser, `postgres`.
    #[must_use]
    pub fn user(&self) -> &'static str {
        SUPERUSER
    }

    /// The superuser's password: hexadecimal digits, so it needs no quoting anywhere.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// `postgres://postgres:PASSWORD@127.0.0.1:PORT/DATABASE` of the superuser.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_as(SUPERUSER, &self.password, database)
    }

    /// The address for another role. Nothing is escaped: use plain names.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        format!("postgres://{user}:{password}@{}:{}/{database}", self.host(), self.port)
    }

    /// The certificate that clients must trust, when the server speaks TLS.
    #[must_use]
    pub fn ca_file(&self) -> Option<&Path> {
        self.tls.as_deref()
    }

    /// The data folder. Readable by us, written by the server's user.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.keeper.folder().join("data")
    }

    /// What the server has logged since it was last started.
    #[must_use]
    pub fn log(&self) -> String {
        self.keeper.log()
    }

    /// The process id of the running server.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.keeper.pid()
    }

    /// A session of the superuser, without TLS. It ends when the client is dropped.
    ///
    /// # Errors
    ///
    /// When the server is stopped, wants TLS, or has no such database.
    pub async fn connect(&self, database: &str) -> Result<Client, SandboxError> {
        connect(&self.url(database)).await
    }

    /// Runs statements as superuser in a session of their own.
    ///
    /// # Errors
    ///
    /// With the server's words.
    pub async fn execute(&self, database: &str, sql: &str) -> Result<(), SandboxError> {
        let client = self.connect(database).await?;
        client.batch_execute(sql).await.map_err(SandboxError::sql(first_line(sql)))
    }

    /// The first column of the first row as text; None when there is no row or it is NULL.
    ///
    /// # Errors
    ///
    /// With the server's words.
    pub async fn query_text(
        &self,
        database: &str,
        sql: &str,
    ) -> Result<Option<String>, SandboxError> {
        let client = self.connect(database).await?;
        let answer = client.simple_query(sql).await.map_err(SandboxError::sql(first_line(sql)))?;
        Ok(answer.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }

    /// Creates an empty database. The name is quoted.
    ///
    /// # Errors
    ///
    /// With the server's words.
    pub async fn create_database(&self, name: &str) -> Result<(), SandboxError> {
        self.execute("postgres", &format!("create database {}", quoted(name))).await
    }

    /// Creates a role that may log in; `attributes` such as `REPLICATION` are added as they are.
    ///
    /// # Errors
    ///
    /// With the server's words.
    pub async fn create_role(
        &self,
        name: &str,
        password: &str,
        attributes: &str,
    ) -> Result<(), SandboxError> {
        let password = password.replace('\'', "''");
        let name = quoted(name);
        let quick = self.quick_logins();
        let sql = format!("{quick}create role {name} login password '{password}' {attributes}");
        self.execute("postgres", &sql).await
    }

    /// Adds settings that take effect at the next start; later ones win.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn configure(&self, settings: &[(&str, &str)]) -> Result<(), SandboxError> {
        let path = self.data_dir().join("sandbox.conf");
        let mut text = fs::read_to_string(&path)
            .map_err(SandboxError::io(format!("read {}", path.display())))?;
        for (name, value) in settings {
            text.push_str(&options::setting(name, value));
        }
        write(&path, &text)
    }

    /// Ends the server and keeps its data for [`Postgres::start_again`].
    ///
    /// # Errors
    ///
    /// When it does not end within a minute, for instance because it is paused.
    pub async fn stop(&mut self, mode: StopMode) -> Result<(), SandboxError> {
        let below = self.pid().map(process::descendants).unwrap_or_default();
        self.keeper.signal(match mode {
            StopMode::Fast => "INT",
            StopMode::Immediate => "QUIT",
        })?;
        self.keeper.wait_end("PostgreSQL to stop", &below, PATIENCE).await
    }

    /// Kills every process of the server at once, as a power cut would.
    ///
    /// # Errors
    ///
    /// When they do not go.
    pub async fn kill9(&mut self) -> Result<(), SandboxError> {
        self.keeper.kill9(PATIENCE).await
    }

    /// Starts a stopped or killed server on the same port with the same data.
    ///
    /// # Errors
    ///
    /// When it runs already, or does not come up.
    pub async fn start_again(&mut self) -> Result<(), SandboxError> {
        if self.pid().is_some() {
            return Err(SandboxError::Failed {
                program: "postgres".to_owned(),
                status: "running".to_owned(),
                output: "stop it first".to_owned(),
            });
        }
        // Somebody may hold the port for a moment: an outgoing connection, another test.
        wait_for("the server's port to be free again", PATIENCE, async || {
            match self.try_start().await {
                Ok(true) => Some(Ok(())),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            }
        })
        .await?
    }

    /// A clean stop and a start.
    ///
    /// # Errors
    ///
    /// As [`Postgres::stop`] and [`Postgres::start_again`].
    pub async fn restart(&mut self) -> Result<(), SandboxError> {
        self.stop(StopMode::Fast).await?;
        self.start_again().await
    }

    /// Freezes every process of the server: sessions stay open and nothing answers.
    ///
    /// # Errors
    ///
    /// When signals cannot be sent.
    pub fn pause(&mut self) -> Result<(), SandboxError> {
        self.keeper.pause()
    }

    /// Thaws what [`Postgres::pause`] froze.
    ///
    /// # Errors
    ///
    /// When signals cannot be sent.
    pub fn resume(&mut self) -> Result<(), SandboxError> {
        self.keeper.resume()
    }

    /// Tries ports until the server could take one.
    async fn listen_somewhere(&mut self, options: &PgOptions) -> Result<(), SandboxError> {
        let data = self.data_dir();
        let main = data.join("postgresql.conf");
        let text = fs::read_to_string(&main)
            .map_err(SandboxError::io(format!("read {}", main.display())))?;
        write(&main, &format!("{text}\ninclude 'sandbox.conf'\n"))?;
        let mut tries = 0;
        loop {
            self.port = port::free_port()?;
            let settings = data.join("sandbox.conf");
            write(&settings, &options.settings(self.port))?;
            self.owner.give(&settings)?;
            if self.try_start().await? {
                return Ok(());
            }
            tries += 1;
            if tries == 20 {
                return Err(SandboxError::Died { server: self.name(), log: tail(&self.log()) });
            }
        }
    }

    /// False when somebody else has the port.
    async fn try_start(&mut self) -> Result<bool, SandboxError> {
        self.keeper.forget_log()?;
        self.keeper.start()?;
        let keeper = &self.keeper;
        let status = self.data_dir().join("postmaster.pid");
        let what = format!("{} to be ready", self.name());
        let url = self.plain.then(|| self.url("postgres"));
        let alive = wait_for(&what, PATIENCE, async || {
            let Some(pid) = keeper.pid() else { return Some(false) };
            // Who listens on the port may be somebody else, and the file an old one.
            let text = fs::read_to_string(&status).ok()?;
            let mut lines = text.lines().map(str::trim);
            if lines.next()? != pid.to_string() || lines.nth(6)? != "ready" {
                return None;
            }
            match &url {
                Some(url) => connect(url).await.ok().map(|_| true),
                None => Some(true),
            }
        })
        .await?;
        if alive {
            return Ok(true);
        }
        let log = self.log();
        if log.contains("Address already in use") {
            return Ok(false);
        }
        Err(SandboxError::Died { server: self.name(), log: tail(&log) })
    }

    /// The cached data folder has a password that other servers share.
    async fn renew_password(&mut self) -> Result<(), SandboxError> {
        if !self.plain {
            return Ok(());
        }
        let password = secret::random_hex()?;
        let quick = self.quick_logins();
        let sql = format!("{quick}alter role {SUPERUSER} password '{password}'");
        let client = self.connect("postgres").await?;
        client.batch_execute(&sql).await.map_err(SandboxError::sql("set the password"))?;
        self.password = password;
        Ok(())
    }

    /// What makes the passwords that follow cheap for those who log in with them. They are random
    /// or known to all, and a login otherwise costs thousands of hashes.
    fn quick_logins(&self) -> &'static str {
        if self.major() >= 16 { "set scram_iterations = 1; " } else { "" }
    }

    fn name(&self) -> String {
        format!("PostgreSQL {}", self.install.version)
    }
}

async fn connect(url: &str) -> Result<Client, SandboxError> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.map_err(SandboxError::sql("connect"))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a session to a throwaway server ended");
        }
    });
    Ok(client)
}

fn write(path: &Path, text: &str) -> Result<(), SandboxError> {
    fs::write(path, text).map_err(SandboxError::io(format!("write {}", path.display())))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn first_line(sql: &str) -> String {
    sql.lines().next().unwrap_or_default().chars().take(80).collect()
}

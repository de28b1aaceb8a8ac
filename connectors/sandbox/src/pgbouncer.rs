//! A PgBouncer of one's own, in front of servers that are already there.
//!
//! Its configuration is an ordinary `pgbouncer.ini` that the caller may rewrite and RELOAD, as an
//! operator's would be. Knows nothing of pausing or switching traffic.

use std::{
    fmt::Write,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_postgres::{NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::{
    SandboxError, error::tail, find_pgbouncer, keeper::Keeper, owner::Owner, port, secret, wait_for,
};

/// How long it may take to start or to stop before that is an error.
const PATIENCE: Duration = Duration::from_secs(60);

/// The user of the admin console.
const ADMIN: &str = "pgbouncer";

/// One line of `[databases]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgBouncerDatabase {
    /// What clients ask for.
    pub name: String,
    /// Where the server is.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database on that server.
    pub dbname: String,
}

/// What a throwaway PgBouncer should be like.
#[derive(Debug, Clone)]
pub struct PgBouncerOptions {
    /// The databases it offers.
    pub databases: Vec<PgBouncerDatabase>,
    /// Users with their passwords, used both to check clients and to log in to the servers.
    pub users: Vec<(String, String)>,
    /// `transaction`, `session` or `statement`.
    pub pool_mode: String,
    /// Server connections per database and user.
    pub pool_size: u32,
    /// Settings for `[pgbouncer]`; they win over the built-in ones.
    pub settings: Vec<(String, String)>,
}

impl Default for PgBouncerOptions {
    fn default() -> Self {
        Self {
            databases: Vec::new(),
            users: Vec::new(),
            pool_mode: "transaction".to_owned(),
            pool_size: 20,
            settings: Vec::new(),
        }
    }
}

impl PgBouncerOptions {
    /// Transaction pooling with 20 server connections.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a database.
    #[must_use]
    pub fn database(mut self, name: &str, host: &str, port: u16, dbname: &str) -> Self {
        self.databases.push(PgBouncerDatabase {
            name: name.to_owned(),
            host: host.to_owned(),
            port,
            dbname: dbname.to_owned(),
        });
        self
    }

    /// Adds a user.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// Adds a setting.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    fn ini(&self, port: u16, userlist: &Path) -> String {
        let mut text = String::from("[databases]\n");
        // Writing to a string cannot fail.
        for one in &self.databases {
            _ = writeln!(
                text,
                "{} = host={} port={} dbname={}",
                one.name, one.host, one.port, one.dbname
            );
        }
        _ = write!(
            text,
            "\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {}\nadmin_users = {ADMIN}\n\
             pool_mode = {}\ndefault_pool_size = {}\nmax_client_conn = 1000\n\
             ignore_startup_parameters = extra_float_digits\n\
             server_login_retry = 1\n",
            userlist.display(),
            self.pool_mode,
            self.pool_size
        );
        for (name, value) in &self.settings {
            _ = writeln!(text, "{name} = {value}");
        }
        text
    }

    fn userlist(&self, admin_password: &str) -> String {
        let mut text = String::new();
        let quote = |word: &str| format!("\"{}\"", word.replace('"', "\"\""));
        let admin = (ADMIN.to_owned(), admin_password.to_owned());
        for (name, password) in self.users.iter().chain([&admin]) {
            // As above.
            _ = writeln!(text, "{} {}", quote(name), quote(password));
        }
        text
    }
}

/// A running (or killed, to be started again) PgBouncer.
#[derive(Debug)]
pub struct PgBouncer {
    options: PgBouncerOptions,
    port: u16,
    password: String,
    owner: Owner,
    keeper: Keeper,
}

impl PgBouncer {
    /// Writes the configuration, starts the program and waits until its console answers.
    ///
    /// # Errors
    ///
    /// When it is not installed, or refuses its configuration: its words are part of the error.
    pub async fn start(options: PgBouncerOptions) -> Result<Self, SandboxError> {
        let program = find_pgbouncer().ok_or_else(|| SandboxError::Missing {
            what: "PgBouncer".to_owned(),
            remedy: "install it: apt-get install pgbouncer".to_owned(),
        })?;
        let owner = Owner::find()?;
        // Nothing of it is worth saving, and before 1.23 it had no other immediate end.
        let keeper = Keeper::new(owner, "KILL", |folder| {
            vec![program.display().to_string(), config_in(folder).display().to_string()]
        })?;
        let password = secret::random_hex()?;
        let mut bouncer = Self { options, port: 0, password, owner, keeper };
        bouncer.listen_somewhere().await?;
        Ok(bouncer)
    }

    /// Always 127.0.0.1.
    #[must_use]
    pub fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    /// The TCP port; stays the same when it is started again.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of the admin console, which speaks the simple query protocol only.
    #[must_use]
    pub fn admin_url(&self) -> String {
        self.url_as(ADMIN, &self.password, "pgbouncer")
    }

    /// The admin's password.
    #[must_use]
    pub fn admin_password(&self) -> &str {
        &self.password
    }

    /// The address for clients. Nothing is escaped: use plain names.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        format!("postgres://{user}:{password}@{}:{}/{database}", self.host(), self.port)
    }

    /// The configuration it was started with. We may write it, also by renaming a file over it
    /// that is readable by all; no secret is in it.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        config_in(self.keeper.folder())
    }

    /// What it has logged since it was last started.
    #[must_use]
    pub fn log(&self) -> String {
        self.keeper.log()
    }

    /// The process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.keeper.pid()
    }

    /// Gives an order to the admin console and returns the rows it answers with.
    ///
    /// # Errors
    ///
    /// With PgBouncer's words.
    pub async fn admin(&self, order: &str) -> Result<Vec<SimpleQueryRow>, SandboxError> {
        admin(&self.admin_url(), order).await
    }

    /// Kills it; clients and servers see their connections break.
    ///
    /// # Errors
    ///
    /// When it does not go.
    pub async fn kill9(&mut self) -> Result<(), SandboxError> {
        self.keeper.kill9(PATIENCE).await
    }

    /// Starts it again on the same port with the configuration as it is in the file now.
    ///
    /// # Errors
    ///
    /// When it runs already, or does not come up.
    pub async fn start_again(&mut self) -> Result<(), SandboxError> {
        if self.pid().is_some() {
            return Err(SandboxError::Failed {
                program: "pgbouncer".to_owned(),
                status: "running".to_owned(),
                output: "kill it first".to_owned(),
            });
        }
        wait_for("PgBouncer's port to be free again", PATIENCE, async || {
            match self.try_start().await {
                Ok(true) => Some(Ok(())),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            }
        })
        .await?
    }

    /// Freezes the process: connections stay open and nothing answers. Not PgBouncer's PAUSE.
    ///
    /// # Errors
    ///
    /// When signals cannot be sent.
    pub fn pause(&mut self) -> Result<(), SandboxError> {
        self.keeper.pause()
    }

    /// Thaws what [`PgBouncer::pause`] froze.
    ///
    /// # Errors
    ///
    /// When signals cannot be sent.
    pub fn resume(&mut self) -> Result<(), SandboxError> {
        self.keeper.resume()
    }

    async fn listen_somewhere(&mut self) -> Result<(), SandboxError> {
        let userlist = self.keeper.folder().join("userlist.txt");
        self.write(&userlist, &self.options.userlist(&self.password), 0o600)?;
        let mut tries = 0;
        loop {
            self.port = port::free_port()?;
            let ini = self.options.ini(self.port, &userlist);
            self.write(&self.config_path(), &ini, 0o644)?;
            if self.try_start().await? {
                return Ok(());
            }
            tries += 1;
            if tries == 20 {
                return Err(self.died());
            }
        }
    }

    /// False when somebody else has the port.
    async fn try_start(&mut self) -> Result<bool, SandboxError> {
        self.keeper.forget_log()?;
        self.keeper.start()?;
        let (keeper, url) = (&self.keeper, self.admin_url());
        let alive = wait_for("PgBouncer to answer", PATIENCE, async || {
            if keeper.pid().is_none() {
                return Some(false);
            }
            // The password is ours alone, so this is no other server on the same port.
            admin(&url, "SHOW VERSION").await.ok().map(|_| true)
        })
        .await?;
        if alive {
            return Ok(true);
        }
        if self.log().contains("in use") {
            return Ok(false);
        }
        Err(self.died())
    }

    fn died(&self) -> SandboxError {
        SandboxError::Died { server: "PgBouncer".to_owned(), log: tail(&self.log()) }
    }

    fn write(&self, path: &Path, text: &str, mode: u32) -> Result<(), SandboxError> {
        fs::write(path, text)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
            .map_err(SandboxError::io(format!("write {}", path.display())))?;
        self.owner.give(path)
    }
}

fn config_in(folder: &Path) -> PathBuf {
    folder.join("pgbouncer.ini")
}

async fn admin(url: &str, order: &str) -> Result<Vec<SimpleQueryRow>, SandboxError> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.map_err(SandboxError::sql("connect"))?;
    let driver = tokio::spawn(connection);
    let answer = client.simple_query(order).await.map_err(SandboxError::sql(order));
    driver.abort();
    let rows = answer?.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_holds_no_password() {
        let options =
            PgBouncerOptions::new().database("shop", "127.0.0.1", 5432, "shop").user("app", "pw1");
        let ini = options.ini(6432, Path::new("/x/userlist.txt"));
        assert!(ini.starts_with("[databases]\nshop = host=127.0.0.1 port=5432 dbname=shop\n"));
        assert!(!ini.contains("pw1"), "{ini}");
        assert_eq!(options.userlist("pw2"), "\"app\" \"pw1\"\n\"pgbouncer\" \"pw2\"\n");
    }

    #[test]
    fn settings_of_the_caller_come_last() {
        let ini = PgBouncerOptions::new().set("pool_mode", "session").ini(1, Path::new("/u"));
        assert!(ini.ends_with("pool_mode = session\n"), "{ini}");
    }
}

//! A second server that follows the first, and takes over from it.

use std::fs;

use super::{PATIENCE, Postgres, SUPERUSER, StopMode, write};
use crate::{SandboxError, error::tail, keeper::Keeper, port, process, wait_for};

/// Physical slot of the standby on its primary.
pub const STANDBY_SLOT: &str = "standby";

impl Postgres {
    /// A hot standby of this server with settings of its own. This server is stopped while its
    /// data is copied. On 17 and later the standby takes logical failover slots along.
    ///
    /// # Errors
    ///
    /// When a server does not stop or start.
    pub async fn standby(&mut self, settings: &[(&str, &str)]) -> Result<Self, SandboxError> {
        let slot = format!("select pg_create_physical_replication_slot('{STANDBY_SLOT}', true)");
        self.execute("postgres", &slot).await?;
        self.stop(StopMode::Fast).await?;
        let program = self.install.bindir.join("postgres");
        let keeper = Keeper::new(self.owner, "QUIT", |folder| {
            let data = folder.join("data");
            vec![program.display().to_string(), "-D".to_owned(), data.display().to_string()]
        })?;
        let data = keeper.folder().join("data");
        let mut copy = self.owner.command("cp", keeper.folder());
        copy.arg("-a").arg(self.data_dir()).arg(&data);
        process::run(copy).await?;
        // Slots belong to one server.
        for slot in fs::read_dir(data.join("pg_replslot")).into_iter().flatten().flatten() {
            fs::remove_dir_all(slot.path()).map_err(SandboxError::io("remove a copied slot"))?;
        }
        self.start_again().await?;
        let mut standby = Self {
            install: self.install.clone(),
            port: 0,
            password: self.password.clone(),
            tls: self.tls.clone(),
            plain: self.plain,
            owner: self.owner,
            keeper,
        };
        standby.follow(self, settings).await?;
        Ok(standby)
    }

    /// Makes a standby take over at the address of its dead primary, as a name that follows the
    /// primary does: first it answers there as a standby, then it is promoted.
    ///
    /// # Errors
    ///
    /// When the address is taken, or the server does not start.
    pub async fn take_over(&mut self, port: u16) -> Result<(), SandboxError> {
        self.answer_at(port).await?;
        self.promote().await
    }

    /// The first half of it: the standby answers at the address of its dead primary.
    ///
    /// # Errors
    ///
    /// When the address is taken, or the server does not start.
    pub async fn answer_at(&mut self, port: u16) -> Result<(), SandboxError> {
        self.stop(StopMode::Fast).await?;
        self.port = port;
        self.configure(&[("port", &port.to_string())])?;
        self.start_again().await
    }

    /// The second half: it is promoted.
    ///
    /// # Errors
    ///
    /// When it is none, or does not become a primary within a minute.
    pub async fn promote(&self) -> Result<(), SandboxError> {
        self.execute("postgres", "select pg_promote(true)").await
    }

    /// Waits until the standby has replayed all that `primary` has written.
    ///
    /// # Errors
    ///
    /// When it does not within a minute.
    pub async fn catch_up(&self, primary: &Self) -> Result<(), SandboxError> {
        let end = primary.query_text("postgres", "select pg_current_wal_lsn()").await?;
        let end = end.unwrap_or_default();
        let sql = format!("select pg_last_wal_replay_lsn() >= '{end}'::pg_lsn");
        wait_for("the standby to catch up", PATIENCE, async || {
            let reached = self.query_text("postgres", &sql).await.ok().flatten();
            (reached.as_deref() == Some("t")).then_some(())
        })
        .await
    }

    async fn follow(&mut self, primary: &Self, own: &[(&str, &str)]) -> Result<(), SandboxError> {
        let data = self.data_dir();
        write(&data.join("standby.signal"), "")?;
        self.owner.give(&data.join("standby.signal"))?;
        let from = format!(
            "host={} port={} user={SUPERUSER} password={} dbname=postgres \
             application_name={STANDBY_SLOT}",
            primary.host(),
            primary.port(),
            primary.password()
        );
        let mut settings = vec![
            ("primary_conninfo", from.as_str()),
            ("primary_slot_name", STANDBY_SLOT),
            ("hot_standby_feedback", "on"),
            ("wal_receiver_status_interval", "1"),
        ];
        if self.major() >= 17 {
            settings.push(("sync_replication_slots", "on"));
        }
        settings.extend(own);
        self.configure(&settings)?;
        for _ in 0..20 {
            self.port = port::free_port()?;
            self.configure(&[("port", &self.port.to_string())])?;
            if self.try_start().await? {
                return Ok(());
            }
        }
        Err(SandboxError::Died { server: self.name(), log: tail(&self.log()) })
    }
}

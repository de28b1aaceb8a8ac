//! One PostgreSQL database of a run; the ports are implemented on it, each in its own room.

use std::{path::Path, sync::Arc};

use cutover_core::{
    model::{run::RunId, side::Side},
    port::Result,
};
use tokio::sync::Mutex;

use crate::{
    connect::{Left, PgConfig, Session, port_error},
    shelf::Warm,
};

/// Sessions for errands that stay open between two of them. Few errands are run at the same time.
const IDLE_ERRANDS: usize = 2;

/// One PostgreSQL database of a run. Cheap to clone; opens sessions when they are needed.
#[derive(Clone)]
pub struct Database {
    pub(crate) config: Arc<PgConfig>,
    pub(crate) side: Side,
    pub(crate) run: RunId,
    pub(crate) spill: Arc<Path>,
    /// A standby of this database, where rows and changes are read instead.
    pub(crate) standby: Option<Arc<Database>>,
    /// This is such a standby.
    pub(crate) is_standby: bool,
    control: Arc<Mutex<Option<Arc<Session>>>>,
    pub(crate) copiers: crate::sink::Copiers,
    pub(crate) kept: Arc<crate::primary::Kept>,
    pub(crate) left: Arc<Left>,
}

impl Database {
    /// Describes a database; nothing is opened yet. Large transactions are spilled into `spill`,
    /// a folder that is created when it is needed.
    #[must_use]
    pub fn new(config: PgConfig, side: Side, run: RunId, spill: &Path) -> Self {
        Self {
            config: Arc::new(config),
            side,
            run,
            spill: Arc::from(spill),
            standby: None,
            is_standby: false,
            control: Arc::default(),
            copiers: crate::sink::Copiers::default(),
            kept: Arc::default(),
            left: Arc::default(),
        }
    }

    /// The same with a physical standby of it (PostgreSQL 16 and later), where rows and changes are
    /// read. Everything that is written, and whatever says what is to be read, stays here.
    #[must_use]
    pub fn reading_from(self, config: PgConfig) -> Self {
        let standby = Self::new(config, self.side, self.run.clone(), &self.spill);
        Self { standby: Some(Arc::new(Self { is_standby: true, ..standby })), ..self }
    }

    /// The same without the sessions that it keeps: what a session has must not keep them alive.
    pub(crate) fn bare(&self) -> Self {
        Self {
            standby: None,
            control: Arc::default(),
            copiers: crate::sink::Copiers::default(),
            kept: Arc::default(),
            ..self.clone()
        }
    }

    /// Where rows and changes are read: the standby, or here.
    pub(crate) fn reader_side(&self) -> &Self {
        self.standby.as_deref().unwrap_or(self)
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> String {
        if self.is_standby {
            format!("the standby of {}", self.side)
        } else {
            self.side.to_string()
        }
    }

    /// The side this database is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }

    /// Its address without credentials, and that of its standby, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        let here = self.config.redacted();
        match &self.standby {
            Some(standby) => format!("{here} (read from {})", standby.address()),
            None => here,
        }
    }

    /// Host name, address, or folder of a Unix socket.
    #[must_use]
    pub fn host(&self) -> String {
        self.config.host()
    }

    /// TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.config.port()
    }

    /// Name of the database.
    #[must_use]
    pub fn dbname(&self) -> &str {
        self.config.dbname()
    }

    /// A session for an errand: an idle one, whose catalogs are known and which costs no login, or
    /// a new one. Whoever is done brings it back ([`Self::put_back`]) outside of a transaction and
    /// with the settings it had; what fails does not.
    pub(crate) async fn errand(&self) -> Result<Warm> {
        match self.kept.errands.take() {
            Some(warm) => Ok(warm),
            None => Ok(Warm::new(self.session("errand").await?)),
        }
    }

    /// Keeps the session of an errand for the next one.
    pub(crate) fn put_back(&self, warm: Warm) {
        self.kept.errands.put_below(IDLE_ERRANDS, warm);
    }

    /// A session that stays open, for single quick statements that must not wait for a login:
    /// positions, markers, states. Shared by all clones: never begin a transaction in it, and
    /// never wait for a lock. Its commits are flushed but wait for no standby.
    pub(crate) async fn control(&self) -> Result<Arc<Session>> {
        let mut kept = self.control.lock().await;
        if let Some(session) = kept.as_ref().filter(|s| !s.is_closed()) {
            return Ok(Arc::clone(session));
        }
        let session = self.session("control").await?;
        session
            .batch_execute("SET synchronous_commit = local")
            .await
            .map_err(|e| port_error(self.connecting(), e))?;
        let session = Arc::new(session);
        *kept = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Leaves a [control](Self::control) session that hangs to whoever waits in it: the next one
    /// is new.
    pub(crate) async fn give_control_up(&self) {
        self.control.lock().await.take();
    }
}

//! One PostgreSQL database of a run; the ports are implemented on it, each in its own room.

use std::sync::Arc;

use cutover_core::model::{run::RunId, side::Side};

use crate::connect::PgConfig;

/// One PostgreSQL database of a run. Cheap to clone; opens sessions when they are needed.
#[derive(Clone)]
pub struct Database {
    pub(crate) config: Arc<PgConfig>,
    pub(crate) side: Side,
    pub(crate) run: RunId,
    pub(crate) spill: Arc<std::path::Path>,
}

impl Database {
    /// Describes a database; nothing is opened yet. Large transactions are spilled into `spill`,
    /// a folder that is created when it is needed.
    #[must_use]
    pub fn new(config: PgConfig, side: Side, run: RunId, spill: &std::path::Path) -> Self {
        Self { config: Arc::new(config), side, run, spill: Arc::from(spill) }
    }

    /// The side this database is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }
}

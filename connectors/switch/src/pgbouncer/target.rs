//! Where PgBouncer finds the databases.

use cutover_core::model::side::Side;
use serde::{Deserialize, Serialize};

use crate::BadConfig;

/// One database as PgBouncer must reach it, which may differ from how we reach it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Host name, address, or the folder of a Unix socket, exactly as in `pgbouncer.ini`.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Name of the database there.
    pub dbname: String,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.dbname)
    }
}

/// Both databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    /// Where blue is.
    pub blue: Target,
    /// Where green is.
    pub green: Target,
}

impl Targets {
    /// The target of a side.
    #[must_use]
    pub fn of(&self, side: Side) -> &Target {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }

    /// The side at an address, if it is one of ours.
    pub(super) fn side_at(&self, host: Option<&str>, port: u16, dbname: &str) -> Option<Side> {
        [Side::Blue, Side::Green].into_iter().find(|&side| {
            let target = self.of(side);
            host == Some(&*target.host) && port == target.port && dbname == target.dbname
        })
    }

    pub(super) fn check(&self) -> Result<(), BadConfig> {
        for side in [Side::Blue, Side::Green] {
            let target = self.of(side);
            for (what, text) in [("host", &target.host), ("dbname", &target.dbname)] {
                if text.is_empty() || text.chars().any(char::is_control) {
                    return Err(BadConfig::new(
                        format!("the {what} of {side} is empty or has control characters"),
                        format!("set {side}.{what} in the pgbouncer section of the switch"),
                    ));
                }
            }
        }
        if self.blue == self.green {
            return Err(BadConfig::new(
                format!("blue and green are both {} for PgBouncer", self.blue),
                "set blue and green in the pgbouncer section to the addresses as PgBouncer \
                 reaches them",
            ));
        }
        Ok(())
    }
}

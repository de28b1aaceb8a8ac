//! Quoting, and the names of what a run creates on a server.

use cutover_core::model::{run::RunId, schema::TableName};

/// The session setting that lets our own sessions through the fence; its value is
/// [`RunId::object_name`].
pub const PASS_SETTING: &str = "cutover.run";

/// Leaves triggers, rules and foreign keys quiet in a session. A role without the right to set it
/// may have it already: before PostgreSQL 15 that is the only way without a superuser.
pub const QUIET: &str = "SELECT pg_catalog.set_config('session_replication_role', 'replica', \
                         false) WHERE pg_catalog.current_setting('session_replication_role') \
                         OPERATOR(pg_catalog.<>) 'replica'";

/// Prefix of the logical messages of a run: markers and heartbeats.
pub const MESSAGE_PREFIX: &str = "cutover";

/// An identifier, always quoted.
#[must_use]
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string literal, safe under any `standard_conforming_strings`.
#[must_use]
pub fn literal(text: &str) -> String {
    if text.contains('\\') {
        format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

/// A table as `"schema"."name"`.
#[must_use]
pub fn table(name: &TableName) -> String {
    format!("{}.{}", ident(&name.schema), ident(&name.name))
}

/// Whether a row `l` of `pg_locks` is that of whoever holds the advisory lock `$1` in this database.
pub(crate) const HOLDS: &str = "l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
    AND l.database = (SELECT oid FROM pg_catalog.pg_database
                       WHERE datname = pg_catalog.current_database())
    AND l.classid::bigint = ($1::bigint >> 32) & 4294967295
    AND l.objid::bigint = $1::bigint & 4294967295";

/// Names of everything that a run creates on a server. All come from the run's name, so that
/// whatever a crash left behind is found again.
#[derive(Debug, Clone)]
pub struct Names {
    /// Publication, slot, replication origin and schema share this name.
    pub base: String,
}

impl Names {
    /// The names of one run.
    #[must_use]
    pub fn of(run: &RunId) -> Self {
        Self { base: run.object_name() }
    }

    /// The publication.
    #[must_use]
    pub fn publication(&self) -> &str {
        &self.base
    }

    /// The logical replication slot.
    #[must_use]
    pub fn slot(&self) -> &str {
        &self.base
    }

    /// The replication origin that marks what our sink wrote.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.base
    }

    /// The replication origin that marks what it wrote of transactions in progress: an origin
    /// belongs to one session at a time. Another run has no name with this character.
    #[must_use]
    pub fn early_origin(&self) -> String {
        format!("{}/early", self.base)
    }

    /// The schema with our tables and the fence's function, unquoted.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.base
    }

    /// The progress table: `position` as text, one row.
    #[must_use]
    pub fn progress(&self) -> String {
        format!("{}.progress", ident(&self.base))
    }

    /// The parts of tables that were copied, a row for each.
    #[must_use]
    pub fn parts(&self) -> String {
        format!("{}.parts", ident(&self.base))
    }

    /// Name of the fence's triggers and of its function.
    #[must_use]
    pub fn fence(&self) -> String {
        format!("{}_fence", self.base)
    }

    /// Name of the event triggers' function, and prefix of the messages that it writes.
    #[must_use]
    pub fn definitions(&self) -> String {
        format!("{}_ddl", self.base)
    }

    /// Key of the advisory lock that is the lease of the run.
    #[must_use]
    pub fn lease_key(&self) -> i64 {
        // FNV-1a: any stable hash does, two runs on one server must differ.
        self.base.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
        }) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        assert_eq!(ident("a\"B"), "\"a\"\"B\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
        assert_eq!(table(&TableName::new("My S", "t.x")), "\"My S\".\"t.x\"");
    }
}

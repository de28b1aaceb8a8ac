//! What a database has beside its tables, so that two databases can be compared in one place.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::schema::TableName;

/// Facts about one database that its successor must share.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// `postgresql`, later `mysql`, `mariadb`.
    pub engine: String,
    /// Comparable version number (PostgreSQL: `server_version_num`).
    pub version: u32,
    /// Version for messages.
    pub version_text: String,
    /// The same text for two databases exactly when one running server serves both (PostgreSQL:
    /// system identifier and start time of the postmaster).
    pub server: String,
    /// Name of the database.
    pub database: String,
    /// Character encoding of the database.
    pub encoding: String,
    /// How text is sorted by default: provider and locale.
    pub locale: String,
    /// Version of that locale's rules on the server, when it says.
    pub locale_version: Option<String>,
    /// Settings of the database itself and of roles in it: where and name, to a digest of the
    /// value. The value may be a secret.
    pub settings: BTreeMap<String, String>,
    /// Installed extensions.
    pub extensions: Vec<String>,
    /// Their versions.
    pub extension_versions: BTreeMap<String, String>,
    /// Extensions that could be installed.
    pub available_extensions: Vec<String>,
    /// Roles that own or are granted something among the selected objects.
    pub needed_roles: Vec<String>,
    /// Roles that own a selected table, so that creating it elsewhere means acting as them.
    pub owners: Vec<String>,
    /// Schemas with the roles that own a selected table in them.
    pub owned_in: Vec<(String, String)>,
    /// Owners of the selected schemas, by schema.
    pub schema_owners: BTreeMap<String, String>,
    /// Selected tables with row-level security that is forced on their owner.
    pub forced: Vec<TableName>,
    /// All roles.
    pub roles: Vec<String>,
    /// Names of user-defined types in selected schemas, schema-qualified.
    pub types: Vec<String>,
    /// Names of all collations, schema-qualified.
    pub collations: Vec<String>,
    /// Names of sequences in selected schemas.
    pub sequences: Vec<TableName>,
    /// Size of the database on disk in bytes.
    pub bytes: u64,
}

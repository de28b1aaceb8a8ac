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
    /// Settings of roles wherever they connect: role, to name, to a digest of the value.
    pub role_settings: BTreeMap<String, BTreeMap<String, String>>,
    /// What ordinary roles may do with the database, in the words of a grant.
    pub database_rights: BTreeMap<String, Vec<String>>,
    /// Those of these roles that use it: they can log in, or were granted something.
    pub database_users: Vec<String>,
    /// Installed extensions.
    pub extensions: Vec<String>,
    /// Their versions.
    pub extension_versions: BTreeMap<String, String>,
    /// The schemas they are in.
    pub extension_schemas: BTreeMap<String, String>,
    /// Extensions that could be installed.
    pub available_extensions: Vec<String>,
    /// Roles that own or are granted something among the selected objects.
    pub needed_roles: Vec<String>,
    /// Roles that own a selected table, so that creating it elsewhere means acting as them.
    pub owners: Vec<String>,
    /// Schemas with the roles that own a selected table in them.
    pub owned_in: Vec<(String, String)>,
    /// Owners of the selected schemas, and of those that extensions are in, by schema.
    pub schema_owners: BTreeMap<String, String>,
    /// What others than their owner and our role were granted on schemas: schema, role (`PUBLIC`
    /// for everybody), right.
    pub schema_grants: Vec<(String, String, String)>,
    /// Schemas that somebody else owns, whose grants our role cannot make.
    pub schemas_of_others: Vec<String>,
    /// What roles were granted on what comes with the server or with an extension.
    pub builtin_grants: Vec<BuiltinGrant>,
    /// Our role may do everything, grant in the name of others among it.
    pub superuser: bool,
    /// What the copy of definitions makes beside tables, and not every role may make.
    pub belongings: Vec<Belonging>,
    /// What no copy of these definitions brings, in words: `tablespace fast`, or, where whole schemas
    /// are left out, what is in none.
    pub left_behind: Vec<String>,
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

/// A right on something that comes with the server or with an extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltinGrant {
    /// Kind and name, in the words of a grant.
    pub object: String,
    /// Who has it; `PUBLIC` for everybody.
    pub role: String,
    /// The right.
    pub right: String,
    /// The role, or everybody, has it from the start.
    pub initial: bool,
}

/// Something beside tables that belongs to a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Belonging {
    /// `FUNCTION`, `EVENT TRIGGER` and so on.
    pub kind: String,
    /// Its schema; `-` for things outside of any.
    pub schema: String,
    /// Its name, with the types of what it takes.
    pub name: String,
    /// Who owns it.
    pub owner: String,
    /// Only a superuser may make it, whoever owns it.
    pub privileged: bool,
}

impl std::fmt::Display for Belonging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let schema = if self.schema == "-" { "" } else { &self.schema };
        let dot = if schema.is_empty() { "" } else { "." };
        write!(f, "{} {schema}{dot}{} of {}", self.kind.to_lowercase(), self.name, self.owner)
    }
}

//! What somebody else made on the target, because our role may not: it is taken as it is.

use std::collections::HashSet;

use cutover_core::{model::inventory::Belonging, port::Result};

use tokio_postgres::{Error, error::SqlState};

use super::script::Entry;
use crate::{
    catalog,
    connect::{Session, port_error},
    database::Database,
};

/// By the tags of a dump.
#[derive(Debug, Default)]
pub(super) struct Given {
    servers: HashSet<String>,
    /// Schema, and kind with name, as entries, grants and comments call them.
    made: HashSet<(String, String)>,
    /// Schemas of others: what is said of them is theirs.
    schemas: HashSet<String>,
}

/// Whether our role may do everything.
pub(super) async fn is_superuser(session: &Session) -> std::result::Result<bool, Error> {
    let asked = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
    Ok(session.query_one(asked, &[]).await?.get(0))
}

impl Given {
    pub(super) async fn read(db: &Database, green: &Session) -> Result<Self> {
        let failed = |e| port_error(format!("reading what others made on {}", db.side), e);
        let mut given = Self::default();
        let superuser = is_superuser(green).await.map_err(failed)?;
        let servers = green.query(SERVERS, &[]).await.map_err(failed)?;
        given.servers = servers.iter().map(|row| row.get(0)).collect();
        let schemas = green.query(SCHEMAS, &[]).await.map_err(failed)?;
        given.schemas = schemas.iter().map(|row| row.get(0)).collect();
        for made in catalog::belongings(green).await.map_err(failed)? {
            if !made.ours || made.what.privileged && !superuser {
                given.add(&made.what, &made.quoted);
            }
        }
        Ok(given)
    }

    fn add(&mut self, what: &Belonging, quoted: &str) {
        let mut called = vec![format!("{} {}", what.kind, what.name)];
        // Those of one owner may be there while those of another are not.
        if what.kind == DEFAULTS {
            called = vec![defaults(&what.name, &what.owner)];
        }
        called.push(format!("{} {quoted}", what.kind));
        match what.kind.as_str() {
            "VIEW" | "MATERIALIZED VIEW" | "FOREIGN TABLE" => {
                called.push(format!("TABLE {quoted}"))
            }
            "AGGREGATE" => called.push(format!("FUNCTION {quoted}")),
            "DOMAIN" => called.push(format!("TYPE {quoted}")),
            _ => {}
        }
        self.made.extend(called.into_iter().map(|called| (what.schema.clone(), called)));
    }

    /// Whether the entry is about something that is there already, and no matter of ours.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        if entry.kind == "COMMENT" && self.schemas.contains(&entry.name) {
            return true;
        }
        let called = match entry.kind.as_str() {
            // Columns of a view or the like: tables are made by us.
            "ACL" | "COMMENT" | "SECURITY LABEL" => said_of(entry),
            DEFAULTS => defaults(&entry.name, &entry.owner),
            kind => format!("{kind} {}", entry.name),
        };
        self.made.contains(&(entry.schema.clone(), called)) || about_servers(entry, &self.servers)
    }
}

/// What grants, comments and labels are about; for a column, its relation.
fn said_of(entry: &Entry) -> String {
    match entry.name.strip_prefix("COLUMN ") {
        Some(column) => {
            let relation = column.rsplit_once('.').map_or(column, |(relation, _)| relation);
            format!("TABLE {relation}")
        }
        None => entry.name.clone(),
    }
}

/// Whether it failed because it grants rights on something that comes with the server or with an
/// extension: our role may not, or this server has it no more.
pub(super) async fn is_grant_of_others(
    green: &Session,
    entry: &Entry,
    failed: &Error,
) -> std::result::Result<bool, Error> {
    let builtin = entry.schema == "pg_catalog";
    Ok(match failed.code() {
        _ if entry.kind != "ACL" => false,
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) if !builtin => {
            let members = catalog::members_of_others(green).await?;
            members.contains(&(entry.schema.clone(), said_of(entry)))
        }
        Some(
            &SqlState::INSUFFICIENT_PRIVILEGE
            | &SqlState::UNDEFINED_FUNCTION
            | &SqlState::UNDEFINED_TABLE
            | &SqlState::UNDEFINED_COLUMN
            | &SqlState::UNDEFINED_OBJECT,
        ) => builtin,
        _ => false,
    })
}

/// The kind of default privileges.
const DEFAULTS: &str = "DEFAULT ACL";

fn defaults(name: &str, owner: &str) -> String {
    format!("{DEFAULTS} {name} of {owner}")
}

/// What there is of foreign servers; what others own there with its grants. Ordinary roles may make
/// none of it.
const SERVERS: &str = "
    SELECT 'SERVER ' || srvname FROM pg_foreign_server
    UNION ALL SELECT 'FOREIGN DATA WRAPPER ' || fdwname FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'USER MAPPING ' || usename || ' SERVER ' || srvname FROM pg_user_mappings
    UNION ALL SELECT 'FOREIGN SERVER ' || name
      FROM pg_foreign_server CROSS JOIN unnest(ARRAY[srvname, quote_ident(srvname)]) AS name
     WHERE NOT pg_has_role(srvowner, 'USAGE')";

/// Schemas that others own, as comments call them.
const SCHEMAS: &str = "
    SELECT 'SCHEMA ' || name FROM pg_namespace CROSS JOIN unnest(ARRAY[nspname, quote_ident(nspname)])
        AS name WHERE NOT pg_has_role(nspowner, 'USAGE')";

/// Whether it is about a foreign server, and among `given`.
fn about_servers(entry: &Entry, given: &HashSet<String>) -> bool {
    match entry.kind.as_str() {
        "SERVER" | "FOREIGN DATA WRAPPER" => {
            given.contains(&format!("{} {}", entry.kind, entry.name))
        }
        // A comment calls it otherwise than a grant.
        "USER MAPPING" | "ACL" | "COMMENT" => match entry.name.strip_prefix("SERVER ") {
            Some(server) => given.contains(&format!("FOREIGN SERVER {server}")),
            None => given.contains(&entry.name),
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &str, schema: &str, name: &str, owner: &str) -> Entry {
        let text = str::to_owned;
        Entry {
            kind: text(kind),
            name: text(name),
            schema: text(schema),
            owner: text(owner),
            text: String::new(),
        }
    }

    #[test]
    fn what_is_there_with_all_that_is_said_of_it() {
        let mut given = Given::default();
        let made = |kind: &str, schema: &str, name: &str| Belonging {
            kind: kind.into(),
            schema: schema.into(),
            name: name.into(),
            owner: "root".into(),
            privileged: false,
        };
        given.add(&made("FUNCTION", "s", "Auth(text)"), "\"Auth\"(text)");
        given.add(&made("VIEW", "s", "V 1"), "\"V 1\"");
        given.add(&made("DEFAULT ACL", "-", "DEFAULT PRIVILEGES FOR TABLES"), "");
        for (kind, schema, name, owner, want) in [
            ("FUNCTION", "s", "Auth(text)", "root", true),
            ("FUNCTION", "other", "Auth(text)", "root", false),
            ("FUNCTION", "s", "Auth(integer)", "root", false),
            ("ACL", "s", "FUNCTION \"Auth\"(text)", "root", true),
            ("COMMENT", "s", "FUNCTION \"Auth\"(text)", "root", true),
            ("VIEW", "s", "V 1", "root", true),
            ("ACL", "s", "TABLE \"V 1\"", "root", true),
            ("COMMENT", "s", "VIEW \"V 1\"", "root", true),
            ("COMMENT", "s", "COLUMN \"V 1\".id", "root", true),
            ("COMMENT", "s", "COLUMN \"V 2\".id", "root", false),
            ("DEFAULT ACL", "-", "DEFAULT PRIVILEGES FOR TABLES", "root", true),
            ("DEFAULT ACL", "-", "DEFAULT PRIVILEGES FOR TABLES", "app", false),
        ] {
            assert_eq!(given.has(&entry(kind, schema, name, owner)), want, "{kind} {name} {owner}");
        }
    }
}

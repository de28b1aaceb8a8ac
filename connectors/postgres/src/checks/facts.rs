//! What many checks look at, read once: our role and the relations of user schemas.

use cutover_core::{
    model::{run::RunId, schema::TableName, side::Side},
    port::examine::Question,
};
use tokio_postgres::Error;

use crate::{
    Database,
    catalog::{self, USER_SCHEMA},
    connect::Session,
    sql,
};

/// What every check is given.
pub(super) struct Context<'a> {
    pub(super) session: &'a Session,
    pub(super) database: &'a Database,
    pub(super) question: &'a Question,
    pub(super) role: Role,
    /// Relations of user schemas that hold rows, or parents of such: sorted by name.
    pub(super) relations: Vec<Relation>,
}

/// The role we work as.
#[derive(Debug, Clone)]
pub(super) struct Role {
    pub(super) name: String,
    pub(super) superuser: bool,
    pub(super) replication: bool,
    /// Whether no policy restricts it.
    pub(super) bypasses: bool,
    /// Connections it may have; `None` without a limit of its own.
    pub(super) connections: Option<u32>,
    pub(super) database: String,
}

/// A table, partitioned table, foreign table or materialized view.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub(super) oid: u32,
    pub(super) name: TableName,
    pub(super) root: Option<TableName>,
    pub(super) kind: Kind,
    pub(super) unlogged: bool,
    pub(super) owner: String,
    pub(super) owner_superuser: bool,
    /// Whether we have the rights of the owner.
    pub(super) owned: bool,
    /// Privileges that we lack.
    pub(super) lacking: Vec<String>,
    /// Whether we lack USAGE of its schema.
    pub(super) hidden_schema: bool,
    /// Whether policies restrict us.
    pub(super) restricted: bool,
    /// `d`, `n`, `f` or `i`.
    pub(super) replica_identity: char,
    /// Whether its rows are moved.
    pub(super) moved: bool,
    /// Whether it or something below it is moved.
    pub(super) touched: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Table,
    Partitioned,
    Foreign,
    MaterializedView,
}

impl<'a> Context<'a> {
    pub(super) async fn read(
        session: &'a Session,
        database: &'a Database,
        question: &'a Question,
    ) -> Result<Self, Error> {
        let role = role(session).await?;
        let relations = relations(session, question).await?;
        Ok(Self { session, database, question, role, relations })
    }

    pub(super) fn version(&self) -> u32 {
        self.session.version()
    }

    pub(super) fn run(&self) -> &RunId {
        &self.question.run
    }

    /// Our role as an identifier.
    pub(super) fn me(&self) -> String {
        sql::ident(&self.role.name)
    }

    /// Tables whose rows are moved.
    pub(super) fn moved(&self) -> impl Iterator<Item = &Relation> {
        self.relations.iter().filter(|r| r.moved)
    }

    /// Numbers of the tables whose rows are moved.
    pub(super) fn moved_oids(&self) -> Vec<u32> {
        self.moved().map(|r| r.oid).collect()
    }

    /// Relations of that kind that the selection names, moved or not.
    pub(super) fn selected(&self, kind: Kind) -> impl Iterator<Item = &Relation> {
        self.relations.iter().filter(move |r| {
            r.kind == kind && self.question.selection.selects_any(&r.name, r.root.as_ref())
        })
    }

    /// A setting as the server shows it; `None` when this version does not know it.
    pub(super) async fn setting(&self, name: &str) -> Result<Option<String>, Error> {
        let row = self.session.query_one("SELECT current_setting($1, true)", &[&name]).await?;
        Ok(row.get(0))
    }

    /// A setting as a number in its base unit; `None` when this version does not know it.
    pub(super) async fn number(&self, name: &str) -> Result<Option<i64>, Error> {
        let sql = "SELECT setting::bigint FROM pg_settings WHERE name = $1";
        let row = self.session.query_opt(sql, &[&name]).await?;
        Ok(row.map(|row| row.get(0)))
    }
}

async fn role(session: &Session) -> Result<Role, Error> {
    let row = session
        .query_one(
            "SELECT rolname::text, rolsuper, rolreplication, rolconnlimit, \
                    current_database()::text, rolsuper OR rolbypassrls \
             FROM pg_roles WHERE rolname = current_user",
            &[],
        )
        .await?;
    Ok(Role {
        name: row.get(0),
        superuser: row.get(1),
        replication: row.get(2),
        connections: u32::try_from(row.get::<_, i32>(3)).ok(),
        database: row.get(4),
        bypasses: row.get(5),
    })
}

async fn relations(session: &Session, question: &Question) -> Result<Vec<Relation>, Error> {
    let mut names: Vec<&TableName> = question.tables.iter().map(|t| &t.name).collect();
    if question.side == Side::Green {
        // It may be partitioned in another way than blue, whose tables these are.
        names.extend(question.tables.iter().filter_map(|t| t.root.as_ref()));
    }
    let touched: Vec<u32> =
        catalog::families(session, &names).await?.into_iter().map(|family| family.oid).collect();
    // Other tables may come and go meanwhile, so nothing here may fail for one that is gone.
    let sql = format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, rn.nspname::text, r.relname::text, \
                c.relkind::text, c.relpersistence = 'u', o.rolname::text, o.rolsuper, \
                pg_has_role(c.relowner, 'USAGE'), \
                ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', \
                          'TRUNCATE', 'TRIGGER']) p WHERE NOT has_table_privilege(c.oid, p)), \
                coalesce(NOT has_schema_privilege(n.oid, 'USAGE'), false), \
                CASE WHEN c.oid = ANY ($1) THEN row_security_active(c.oid) ELSE false END, \
                c.relreplident::text, c.oid = ANY ($1) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_roles o ON o.oid = c.relowner \
         LEFT JOIN pg_class r ON c.relispartition AND r.oid = pg_partition_root(c.oid) \
         LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'f', 'm') AND c.relpersistence <> 't' AND {USER_SCHEMA} \
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass \
                           AND d.objid = c.oid AND d.deptype = 'e') \
         ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\""
    );
    let moved: std::collections::HashSet<&TableName> = names.into_iter().collect();
    let rows = session.query(&sql, &[&touched]).await?;
    Ok(rows
        .iter()
        .map(|row| {
            let name = TableName::new(row.get::<_, &str>(1), row.get::<_, &str>(2));
            let root = row
                .get::<_, Option<&str>>(3)
                .zip(row.get::<_, Option<&str>>(4))
                .map(|(schema, table)| TableName::new(schema, table));
            let kind = match row.get(5) {
                "p" => Kind::Partitioned,
                "f" => Kind::Foreign,
                "m" => Kind::MaterializedView,
                _ => Kind::Table,
            };
            let moved = kind == Kind::Table
                && (moved.contains(&name) || root.as_ref().is_some_and(|r| moved.contains(r)));
            Relation {
                oid: row.get(0),
                moved,
                name,
                root,
                kind,
                unlogged: row.get(6),
                owner: row.get(7),
                owner_superuser: row.get(8),
                owned: row.get(9),
                lacking: row.get(10),
                hidden_schema: row.get(11),
                restricted: row.get(12),
                replica_identity: row.get::<_, &str>(13).chars().next().unwrap_or('d'),
                touched: moved || row.get::<_, bool>(14),
            }
        })
        .collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A moved, ordinary table `app.NAME` of the role `app`, to which we have every right.
    pub(crate) fn relation(name: &str) -> Relation {
        Relation {
            oid: 1,
            name: TableName::new("app", name),
            root: None,
            kind: Kind::Table,
            unlogged: false,
            owner: "app".into(),
            owner_superuser: false,
            owned: true,
            lacking: Vec::new(),
            hidden_schema: false,
            restricted: false,
            replica_identity: 'd',
            moved: true,
            touched: true,
        }
    }
}

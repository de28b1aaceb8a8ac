//! Definitions from one PostgreSQL database to another, in two halves around the rows.
//!
//! `pg_dump` says what to create; we create it ourselves, entry by entry. Each entry and the mark
//! that it is done are one transaction, so a crash at any moment is harmless and nothing has to be
//! guessed from "already exists". Roles, tablespaces, publications and subscriptions do not
//! travel.
//!
//! - `program`: which `pg_dump`, and running it.
//! - `script`: its text as entries. Pure.
//! - `index`: in which order and how indexes are built.
//! - `apply`: creating them on the target.
//! - `given`: what others made there.
//! - `owed`: foreign keys and unique indexes that wait for the stream.
//! - `add`: tables that came into being during the run, all of them or none.
//! - `align`: tables that are copied again and have changed since they were made.
//! - `after`: materialized views and statistics.

mod add;
mod after;
mod align;
mod apply;
mod given;
mod index;
mod owed;
mod program;
mod script;

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use cutover_core::{
    model::{
        schema::{Table, TableName},
        selection::Selection,
    },
    port::{Result, error::PortError, schema::SchemaCopy},
};

use self::{
    apply::Breaks,
    program::PgDump,
    script::{Entry, Section},
};
pub(crate) use self::{apply::marks, owed::awaited};
use crate::{
    catalog,
    connect::{Session, port_error},
    database::Database,
    sql,
};

/// A foreign key leads out of the selection.
const LEADS_OUT: &str = "CUT0306";

/// Copies definitions from blue to green.
pub struct PgSchemaCopy {
    blue: Database,
    green: Database,
    programs: Option<PathBuf>,
}

impl PgSchemaCopy {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(blue: Database, green: Database) -> Self {
        Self { blue, green, programs: None }
    }

    /// Takes `pg_dump` from this folder instead of looking for it.
    #[must_use]
    pub fn with_programs(mut self, folder: &Path) -> Self {
        self.programs = Some(folder.to_owned());
        self
    }

    /// The `pg_dump` that would be taken: path and version.
    ///
    /// # Errors
    ///
    /// `CUT0303` when none fits both servers.
    pub async fn program(&self) -> Result<(PathBuf, String)> {
        let blue = self.blue.session("schema").await?;
        let green = self.green.session("schema").await?;
        let found = self.pg_dump(&blue, &green).await?;
        Ok((found.path, found.version))
    }

    async fn pg_dump(&self, blue: &Session, green: &Session) -> Result<PgDump> {
        let major = |session: &Session| session.version() / 10_000;
        program::find(self.programs.as_deref(), major(blue), major(green)).await
    }

    /// What `pg_dump` says of one half.
    async fn dump(
        &self,
        blue: &Session,
        green: &Session,
        selection: &Selection,
        section: Section,
    ) -> Result<Vec<Entry>> {
        let program = self.pg_dump(blue, green).await?;
        let mut scope = scope(blue, selection).await?;
        match section {
            Section::PreData => self.refuse_ways_out(blue, &scope.selected).await?,
            // What came since comes later, with all that belongs to it.
            Section::PostData => {
                let parents = named(blue, "c.relkind = 'p'").await?;
                let tables = scope.selected.iter();
                let mut all: Vec<TableName> =
                    tables.flat_map(|t| std::iter::once(&t.name).chain(&t.root)).cloned().collect();
                all.extend(parents.into_iter().filter(|parent| selection.selects(parent)));
                scope.leave_out(add::missing(green, &all).await?);
            }
        }
        let text = program.dump(&self.blue, blue, &[section], &scope.arguments).await?;
        let entries = entries_for(green, &text).await?;
        if section == Section::PreData {
            return Ok(entries);
        }
        let late = after::came_since(blue, green, selection, &entries).await?;
        if late.is_empty() {
            return Ok(entries);
        }
        scope.leave_out(late);
        let text = program.dump(&self.blue, blue, &[section], &scope.arguments).await?;
        entries_for(green, &text).await
    }

    /// Foreign keys to tables that are not moved would fail hours later, after the rows.
    async fn refuse_ways_out(&self, blue: &Session, selected: &[Table]) -> Result<()> {
        let doing = "reading the foreign keys of blue";
        let (schemas, names): (Vec<&str>, Vec<&str>) = selected
            .iter()
            .flat_map(|t| std::iter::once(&t.name).chain(t.root.as_ref()))
            .map(|n| (n.schema.as_str(), n.name.as_str()))
            .unzip();
        let rows = blue
            .query(
                "WITH RECURSIVE base(oid) AS ( \
                   SELECT c.oid FROM unnest($1::text[], $2::text[]) w(s, t) \
                   JOIN pg_namespace n ON n.nspname = w.s \
                   JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.t), \
                 moved(oid) AS ( \
                   SELECT oid FROM base \
                   UNION SELECT i.inhparent FROM moved JOIN pg_inherits i ON i.inhrelid = moved.oid) \
                 SELECT DISTINCT k.conname::text, k.conrelid::regclass::text, \
                        k.confrelid::regclass::text \
                 FROM pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0 \
                   AND k.conrelid IN (SELECT oid FROM moved) \
                   AND k.confrelid NOT IN (SELECT oid FROM moved) ORDER BY 1, 2",
                &[&schemas, &names],
            )
            .await
            .map_err(|e| port_error(doing, e))?;
        if rows.is_empty() {
            return Ok(());
        }
        let some: Vec<String> = rows
            .iter()
            .take(5)
            .map(|row| {
                let (key, from, to): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
                format!("{key} from {from} to {to}")
            })
            .collect();
        let more =
            if rows.len() > 5 { format!(" and {} more", rows.len() - 5) } else { String::new() };
        Err(PortError::definite(
            LEADS_OUT,
            "copying definitions",
            format!("foreign keys lead to tables that are not moved: {}{more}", some.join(", ")),
            "add those tables to tables.include, or leave out the tables that refer to them",
        ))
    }
}

#[async_trait]
impl SchemaCopy for PgSchemaCopy {
    async fn before_rows(&self, selection: &Selection) -> Result<()> {
        let blue = self.blue.session("schema").await?;
        let green = self.green.session("schema").await?;
        let entries = self.dump(&blue, &green, selection, Section::PreData).await?;
        let schemas = owned_schemas(&blue, &entries).await?;
        drop(blue);
        apply::schemas(&self.green, &green, &schemas).await?;
        apply::in_order(&self.green, &green, Section::PreData, &entries).await
    }

    async fn after_rows(
        &self,
        selection: &Selection,
        workers: usize,
        torn: Option<&BTreeMap<TableName, String>>,
        told: bool,
    ) -> Result<()> {
        let breaks = if torn.is_none() { Breaks::Never } else { Breaks::ForNow };
        let workers = workers.max(1);
        let blue = self.blue.session("schema").await?;
        let green = self.green.session("schema").await?;
        let entries = self.dump(&blue, &green, selection, Section::PostData).await?;
        let (indexes, section) = (index::read(&blue).await?, Section::PostData);
        let none = BTreeMap::new();
        let Some((wait, entries)) = index::waiting(entries, &indexes, torn.unwrap_or(&none)) else {
            let what = "indexes of blue came or went while they were read";
            return Err(PortError::transient("reading what to create on green", what));
        };
        apply::leave(&self.green, &green, section, &wait).await?;
        let entries = index::arrange(entries, &indexes);
        let ahead = apply::Ahead { breaks, told, waited_for: !wait.is_empty() };
        apply::in_parallel(&self.green, &green, section, &entries, workers, ahead).await?;
        after::refresh(&blue, &green, &self.green).await?;
        drop((blue, green));
        self.analyze(workers).await
    }

    async fn complete(&self) -> Result<()> {
        owed::create(&self.blue, &self.green).await
    }

    async fn add(&self, selection: &Selection, tables: &[TableName], attach: bool) -> Result<()> {
        self.add_some(selection, tables, attach).await
    }

    async fn discard(&self, tables: &[TableName]) -> Result<()> {
        self.drop_made(tables).await
    }

    async fn align(&self, tables: &[TableName], make: bool) -> Result<Vec<TableName>> {
        self.align_columns(tables, make).await
    }

    async fn add_values(&self, tables: &[TableName]) -> Result<()> {
        self.add_types(tables).await
    }

    async fn inherit_keys(&self, tables: &[TableName]) -> Result<()> {
        self.keys(tables).await
    }

    async fn analyze(&self, workers: usize) -> Result<()> {
        after::analyze(&self.green, workers.max(1)).await
    }
}

/// The entries of a script as our role may make them: only a superuser may act as another who gave a
/// right.
async fn entries_for(green: &Session, script: &str) -> Result<Vec<Entry>> {
    let failed = |e| port_error("reading what our role may do on green", e);
    let superuser = given::is_superuser(green).await.map_err(failed)?;
    let entries = script::entries(script).into_iter().filter(Entry::travels);
    Ok(entries.map(|e| if superuser { e } else { e.given_by_owner() }).collect())
}

/// What `pg_dump` is told to leave out.
struct Scope {
    arguments: Vec<String>,
    selected: Vec<Table>,
}

impl Scope {
    fn leave_out(&mut self, tables: impl IntoIterator<Item = TableName>) {
        let leave = |t: TableName| format!("--exclude-table={}", sql::table(&t));
        self.arguments.extend(tables.into_iter().map(leave));
    }
}

async fn scope(blue: &Session, selection: &Selection) -> Result<Scope> {
    let doing = "reading what to copy from blue";
    let schemas = catalog::schemas(blue).await.map_err(|e| port_error(doing, e))?;
    let all = catalog::definitions(blue, &Selection::default()).await?;
    let selected: Vec<Table> =
        all.iter().filter(|t| selection.selects_any(&t.name, t.root.as_ref())).cloned().collect();
    let parents = parents(blue).await?;
    let others = named(blue, "c.relkind IN ('f', 'm', 'v')").await?;
    let arguments = arguments(selection, &schemas, &selected, &all, &parents, &others);
    Ok(Scope { arguments, selected })
}

/// A partitioned table.
struct Parent {
    name: TableName,
    /// Where its tree begins; often itself.
    root: TableName,
    /// What has rows below it.
    leaves: Vec<TableName>,
}

async fn parents(blue: &Session) -> Result<Vec<Parent>> {
    let name = |alias: &str| format!("n{alias}.nspname::text, c{alias}.relname::text");
    let class = |alias: &str, oid: &str| {
        format!(
            "JOIN pg_class c{alias} ON c{alias}.oid = {oid} \
             JOIN pg_namespace n{alias} ON n{alias}.oid = c{alias}.relnamespace"
        )
    };
    let statement = format!(
        "SELECT {}, {}, l.schemas, l.names FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace {} CROSS JOIN LATERAL \
         (SELECT array_agg(nl.nspname::text) AS schemas, array_agg(cl.relname::text) AS names \
          FROM pg_partition_tree(c.oid) t {} WHERE t.isleaf AND cl.relkind <> 'p') l \
         WHERE c.relkind = 'p' AND {}",
        name(""),
        name("r"),
        class("r", "pg_partition_root(c.oid)"),
        class("l", "t.relid"),
        catalog::USER_SCHEMA
    );
    let rows = blue
        .query(&statement, &[])
        .await
        .map_err(|e| port_error("reading the partitioned tables of blue", e))?;
    let table = |row: &tokio_postgres::Row, at: usize| {
        TableName::new(row.get::<_, &str>(at), row.get::<_, &str>(at + 1))
    };
    Ok(rows
        .iter()
        .map(|row| {
            let schemas: Option<Vec<&str>> = row.get(4);
            let names: Option<Vec<&str>> = row.get(5);
            let leaves = schemas.unwrap_or_default().into_iter().zip(names.unwrap_or_default());
            Parent {
                name: table(row, 0),
                root: table(row, 2),
                leaves: leaves.map(|(schema, name)| TableName::new(schema, name)).collect(),
            }
        })
        .collect())
}

/// Relations of users for which `condition` is true.
async fn named(blue: &Session, condition: &str) -> Result<Vec<TableName>> {
    let statement = format!(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE {condition} AND {}",
        catalog::USER_SCHEMA
    );
    let rows = blue
        .query(&statement, &[])
        .await
        .map_err(|e| port_error("reading the names of blue's relations", e))?;
    Ok(rows
        .iter()
        .map(|row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)))
        .collect())
}

/// Pure: selection → arguments of `pg_dump`. `named` are views and
/// foreign tables, which stay behind only when a pattern to exclude names them.
fn arguments(
    selection: &Selection,
    schemas: &[String],
    selected: &[Table],
    all: &[Table],
    parents: &[Parent],
    named: &[TableName],
) -> Vec<String> {
    let mut arguments = vec!["--exclude-schema=cutover_*".to_owned()];
    let wanted: Vec<&String> =
        schemas.iter().filter(|s| catalog::selects_schema(selection, selected, s)).collect();
    if wanted.len() < schemas.len() || wanted.is_empty() {
        // With schemas named, extensions must be as well.
        arguments.push("--extension=*".to_owned());
        arguments.extend(wanted.iter().map(|s| format!("--schema={}", sql::ident(s))));
    }
    let moved: HashSet<&TableName> = selected.iter().map(|t| &t.name).collect();
    let mut excluded: Vec<&TableName> =
        all.iter().map(|t| &t.name).filter(|name| !moved.contains(name)).collect();
    // A parent goes when nothing below it is moved and it is not selected itself, at each level: one
    // that stays would be attached to one that is gone.
    let goes = |parent: &&Parent| {
        !selection.selects_any(&parent.name, Some(&parent.root))
            && !parent.leaves.iter().any(|leaf| moved.contains(leaf))
    };
    excluded.extend(parents.iter().filter(goes).map(|parent| &parent.name));
    excluded.extend(named.iter().filter(|other| selection.excludes(other)));
    let inside = |name: &&TableName| wanted.contains(&&name.schema);
    arguments.extend(
        excluded.into_iter().filter(inside).map(|t| format!("--exclude-table={}", sql::table(t))),
    );
    arguments
}

/// Schemas of the entries with their owners on blue.
async fn owned_schemas(blue: &Session, entries: &[Entry]) -> Result<Vec<(String, String)>> {
    let mut names: Vec<&str> = entries.iter().filter_map(Entry::in_schema).collect();
    names.sort_unstable();
    names.dedup();
    let extensions = "SELECT n.nspname::text FROM pg_extension e \
                      JOIN pg_namespace n ON n.oid = e.extnamespace WHERE n.nspname !~ '^pg_'";
    let statement = format!(
        "SELECT n.nspname::text, pg_get_userbyid(n.nspowner)::text FROM pg_namespace n \
         WHERE n.nspname = ANY ($1::text[]) OR n.nspname IN ({extensions}) ORDER BY 1"
    );
    let rows = blue
        .query(&statement, &[&names])
        .await
        .map_err(|e| port_error("reading the schemas of blue", e))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[cfg(test)]
mod tests {
    use cutover_core::model::schema::RowIdentity;

    use super::*;

    fn table(schema: &str, name: &str, root: Option<&str>) -> Table {
        Table {
            name: TableName::new(schema, name),
            columns: Default::default(),
            identity: RowIdentity::Nothing,
            primary_key: Vec::new(),
            root: root.map(|r| TableName::new(schema, r)),
            estimated_rows: None,
            bytes: 0,
        }
    }

    fn said(include: &str, exclude: &[&str]) -> Vec<String> {
        let selection = Selection {
            include: vec![include.into()],
            exclude: exclude.iter().map(ToString::to_string).collect(),
        };
        let all = [
            table("a", "t", None),
            table("a", "T 2", None),
            table("a", "p_1", Some("p")),
            table("b", "x", None),
        ];
        let selected: Vec<Table> = all
            .iter()
            .filter(|t| selection.selects_any(&t.name, t.root.as_ref()))
            .cloned()
            .collect();
        let schemas = ["a".to_owned(), "b".to_owned()];
        let view = TableName::new("a", "Told");
        let leaves = vec![TableName::new("a", "p_1")];
        let name = |name| TableName::new("a", name);
        let parents = ["p", "p_"].map(|parent| Parent {
            name: name(parent),
            root: name("p"),
            leaves: leaves.clone(),
        });
        let mut said = arguments(&selection, &schemas, &selected, &all, &parents, &[view]);
        assert_eq!(said.remove(0), "--exclude-schema=cutover_*");
        said
    }

    #[test]
    fn what_is_left_out() {
        assert_eq!(said("*.*", &[]), [""; 0]);
        assert_eq!(
            said("*.*", &["a.T*"]),
            ["--exclude-table=\"a\".\"T 2\"", "--exclude-table=\"a\".\"Told\""]
        );
        assert_eq!(
            said("a.*", &["a.p"]),
            [
                "--extension=*",
                "--schema=\"a\"",
                "--exclude-table=\"a\".\"p_1\"",
                "--exclude-table=\"a\".\"p\"",
                "--exclude-table=\"a\".\"p_\""
            ]
        );
        assert_eq!(
            said("a.p_1", &[]),
            [
                "--extension=*",
                "--schema=\"a\"",
                "--exclude-table=\"a\".\"t\"",
                "--exclude-table=\"a\".\"T 2\""
            ]
        );
    }
}

//! Making on this side what was made on the other, inside of the sink's transaction.

use std::collections::BTreeSet;

use cutover_core::{
    model::{schema::TableName, selection::Selection},
    port::{
        PortError, Result,
        sink::{Born, Redefined, Route},
    },
};
use serde::de::DeserializeOwned;

use super::{
    change::{self, Context, Step},
    message::{Definition, Item, Message, Partition, UserType},
    spelled, text, types,
};
use crate::{
    connect::{Session, port_error},
    sql,
};

/// A change of definitions cannot be made on this side.
const NOT_MADE: &str = "CUT0412";

/// Bit of a rewrite's reason: a default had to be computed.
const FOR_A_DEFAULT: i32 = 2;

/// Which tables are followed, and where their rows go.
#[derive(Clone, Copy)]
pub(crate) struct Followed<'a> {
    /// What the run moves.
    pub(crate) selection: &'a Selection,
    /// Where the rows of each table go.
    pub(crate) routes: &'a [Route],
}

impl Followed<'_> {
    fn carries(&self, source: &TableName) -> bool {
        self.routes.iter().any(|r| &r.source == source)
    }

    /// Whether tables that are followed, or will be, may come to have this type.
    fn may_use(&self, name: &TableName) -> bool {
        self.selection.selects(name)
            || self.routes.iter().any(|route| route.source.schema == name.schema)
    }

    /// Whether the rows of partitions of `root` go to a table of its name, because it is
    /// partitioned in another way here, or not at all.
    fn takes_whole(&self, root: &TableName) -> bool {
        self.routes.iter().any(|r| &r.target.name == root && &r.source != root)
    }
}

/// Where the rows of tables go that a change is about.
pub(crate) type Places = Vec<(TableName, TableName)>;

/// What a transaction did so far, from one message of it to the next.
#[derive(Debug, Default)]
pub(crate) struct Course {
    /// Rows were computed anew.
    filled: bool,
    /// The same before the message that was looked at last.
    had: bool,
    /// Columns that were added here, with the topmost table.
    columns: BTreeSet<(TableName, String)>,
    /// Partitions that were created here.
    tables: BTreeSet<TableName>,
    /// Those of them that have gone again.
    pub(crate) gone: BTreeSet<TableName>,
}

/// Looks at what a message says, and makes it here if asked to and if it is safe. `now` says what
/// the source's tables are like by now: where a difference is none any more, this side is ahead of
/// the stream.
pub(crate) async fn make(
    session: &Session,
    at: &str,
    (content, now): (&[u8], Option<&[u8]>),
    followed: Followed<'_>,
    make: bool,
    course: &mut Course,
) -> Result<(Redefined, Places)> {
    let here = Here { session, at };
    let message = here.parse(content)?;
    if let Some(state) = &message.untold {
        let why = format!("the source could not tell what it changed (SQLSTATE {state})");
        let what = message.tag.clone();
        return Ok((Redefined::Differs { what, why, tables: Vec::new() }, Vec::new()));
    }
    let mut found = match now {
        None => {
            course.had = course.filled;
            here.look_at(&message, (followed, make), course).await?
        }
        Some(now) => {
            let mut later = message.clone();
            later.overtake(here.parse(now)?);
            course.filled = course.had;
            let later = here.look_at(&later, (followed, make), course).await?;
            if later.differs() {
                course.filled = course.had;
                let found = here.look_at(&message, (followed, make), course).await?;
                found.still_told_of(&later)
            } else {
                later
            }
        }
    };
    if found.concerned.is_empty() && found.unused.is_empty() {
        return Ok((Redefined::Unconcerned, Vec::new()));
    }
    let found_places = std::mem::take(&mut found.places);
    let leaves = found.copied_first();
    let names: Vec<String> =
        found.concerned.iter().chain(&found.unused).map(ToString::to_string).collect();
    let what = format!("{} of {}", message.tag, names.join(", "));
    let tables: Vec<TableName> = found.concerned.into_iter().collect();
    let words: Vec<&str> = found.steps.iter().map(|s| s.what.as_str()).collect();
    let safe = found.steps.iter().all(|s| s.statement.is_some());
    let why = words.join("; ");
    if !leaves.is_empty() {
        return Ok((Redefined::Unfollowed { what, why, tables, leaves }, Vec::new()));
    }
    if found.steps.is_empty() {
        let born = found.born_whole;
        let found = match found.new {
            true => Redefined::New { what },
            false => Redefined::Alike { what, tables, born },
        };
        return Ok((found, found_places));
    }
    if !make || !safe || found.new {
        return Ok((Redefined::Differs { what, why, tables }, Vec::new()));
    }
    for step in &found.steps {
        let Some(statement) = &step.statement else { continue };
        session.batch_execute(statement).await.map_err(|e| here.refused(&step.what, e))?;
    }
    course.columns.extend(found.columns);
    course.gone.retain(|table| !found.created.contains(table));
    course.gone.extend(found.gone);
    course.tables.extend(found.created);
    let born = found.born_whole.into_iter().chain(found.born_here).collect();
    Ok((Redefined::Made { what: format!("{what}: {why}"), tables, born }, found_places))
}

/// A type that tables rest on.
pub(crate) struct NewType {
    pub(crate) name: TableName,
    /// What makes it; `None` where functions belong to it.
    pub(crate) statement: Option<String>,
}

/// Types of users that these tables rest on, what those rest on first.
pub(crate) async fn types_below(
    session: &Session,
    tables: &[&TableName],
    doing: &str,
) -> Result<Vec<NewType>> {
    let of = |there: &UserType| {
        let statement = types::create(there).and_then(|step| step.statement);
        NewType { name: TableName::new(&there.schema, &there.name), statement }
    };
    Ok(read_types(session, tables, doing).await?.iter().map(of).collect())
}

/// The same as the catalog has them.
pub(super) async fn read_types(
    session: &Session,
    tables: &[&TableName],
    doing: &str,
) -> Result<Vec<UserType>> {
    let names: Vec<String> = tables.iter().map(|table| sql::table(table)).collect();
    let rows = session.query(&text::types_below(), &[&names]).await;
    let of = |row: &tokio_postgres::Row| {
        serde_json::from_str(row.get(2)).map_err(|e| PortError::transient(doing, e))
    };
    rows.map_err(|e| port_error(doing, e))?.iter().map(of).collect()
}

#[derive(Default)]
struct Found {
    steps: Vec<Step>,
    concerned: BTreeSet<TableName>,
    /// Types that no followed table has.
    unused: BTreeSet<TableName>,
    /// A table that this side does not have.
    new: bool,
    /// Tables with rows became partitions that were not followed before.
    unfollowed: Vec<TableName>,
    /// Partitions that were created and whose rows go to a table that is here.
    born_whole: Vec<Born>,
    /// Partitions that are created here as well.
    born_here: Vec<Born>,
    /// What becomes part of the [`Course`] when it is made.
    columns: Vec<(TableName, String)>,
    created: Vec<TableName>,
    gone: Vec<TableName>,
    places: Places,
}

impl Found {
    /// Tables whose rows are to be copied before this can be made; none when that is not enough.
    fn copied_first(&self) -> Vec<TableName> {
        let enough = |step: &Step| step.statement.is_some() || step.absent.is_some();
        if self.new || !self.steps.iter().all(enough) {
            return Vec::new();
        }
        let absent = self.steps.iter().filter_map(|step| step.absent.clone());
        self.unfollowed.iter().cloned().chain(absent).collect()
    }

    /// Something is different, and copying rows does not make it alike.
    fn differs(&self) -> bool {
        !self.steps.is_empty() && self.copied_first().is_empty()
    }

    /// Without what is not different any more, on a later look: what is different then and not now
    /// is still to be told of.
    fn still_told_of(mut self, later: &Self) -> Self {
        let about: BTreeSet<&String> = later.steps.iter().map(|step| &step.about).collect();
        self.steps.retain(|step| about.contains(&step.about));
        self
    }
}

fn born(source: TableName, target: TableName, since: &Option<String>) -> Option<Born> {
    Some(Born { source, target, since: since.clone()? })
}

struct Here<'a> {
    session: &'a Session,
    at: &'a str,
}

impl Here<'_> {
    fn parse(&self, content: &[u8]) -> Result<Message> {
        serde_json::from_slice(content).map_err(|e| {
            PortError::definite(
                NOT_MADE,
                self.doing(),
                "what the source said about it is not understood",
                "was the source's event trigger made by another version of cutover? See \
                 docs/errors/CUT0412.md",
            )
            .caused_by(e)
        })
    }

    async fn look_at(
        &self,
        message: &Message,
        how: (Followed<'_>, bool),
        course: &mut Course,
    ) -> Result<Found> {
        let mut found = Found::default();
        for item in &message.items {
            self.look(item, message, how, course, &mut found).await?;
        }
        Ok(found)
    }

    async fn look(
        &self,
        item: &Item,
        message: &Message,
        (followed, makes): (Followed<'_>, bool),
        course: &mut Course,
        found: &mut Found,
    ) -> Result<()> {
        match item {
            Item::Rewrite { reason, .. } => course.filled |= reason & FOR_A_DEFAULT != 0,
            Item::Table { created, since, table: there } => {
                let selection = followed.selection;
                let name = there.table();
                if !selection.selects_any(&name, there.root.as_ref()) {
                    return Ok(());
                }
                found.concerned.insert(name.clone());
                found.steps.extend(change::unlogged(there));
                let root = there.whole();
                // Rows of the partition go to a table that is partitioned in another way here.
                let whole = followed.takes_whole(&root);
                if there.kind == "r" {
                    let target = if whole { root.clone() } else { name.clone() };
                    found.places.push((name.clone(), target));
                }
                let is_ours = |t: &TableName| !whole && !selection.excludes(t);
                let unfollowed =
                    |leaf: &&TableName| !selection.excludes(leaf) && !followed.carries(leaf);
                found.unfollowed.extend(there.leaves.iter().filter(unfollowed).cloned());
                let context =
                    Context { plain: message.plain, filled: std::mem::take(&mut course.filled) };
                match self.table(&name).await? {
                    Some(mut here) => {
                        if *created {
                            // Made ahead of the stream, which will tell of those.
                            let told = |p: &Partition| {
                                there.partitions.iter().any(|t| t.table() == p.table())
                            };
                            here.partitions.retain(told);
                        }
                        let mut tables = BTreeSet::new();
                        for part in &there.partitions {
                            let part = part.table();
                            if self.table(&part).await?.is_some_and(|t| t.bound.is_none()) {
                                tables.insert(part);
                            }
                        }
                        let added = there.columns.iter().filter(|c| here.column(&c.name).is_none());
                        found.columns.extend(added.map(|c| (root.clone(), c.name.clone())));
                        let is_table = |t: &TableName| tables.contains(t);
                        found.steps.extend(change::steps(there, &here, context, is_table, is_ours));
                        let others = spelled::other_expressions(self.session, there, &here).await;
                        found.steps.extend(others.map_err(|e| port_error(self.doing(), e))?);
                        // Made ahead of the stream, for its rows to be copied.
                        if let (Some(bound), Some(parent)) = (&there.bound, there.parents.first())
                            && here.bound.is_none()
                            && self.table(parent).await?.is_some_and(|t| t.kind == "p")
                        {
                            found.steps.push(change::attach(parent, &name, bound));
                        }
                    }
                    None if whole && there.bound.is_some() => {
                        if *created && there.kind == "r" {
                            found.born_whole.extend(born(name, root, since));
                        }
                    }
                    // Nobody has followed it so far.
                    None if !created && since.is_none() => found.new = true,
                    None if !created => found.steps.push(Step::unsafe_(format!(
                        "there is no {name} here: it was renamed, or moved"
                    ))),
                    None => self.created(there, since, found).await?,
                }
            }
            Item::Type { definition: there, tables } => {
                let mine: Vec<&TableName> =
                    tables.iter().filter(|t| followed.selection.selects(t)).collect();
                let name = TableName::new(&there.schema, &there.name);
                let here = self.user_type(&name).await?;
                if mine.is_empty() {
                    // Nobody uses it yet. Who comes to do so would miss it.
                    let steps = match here {
                        Some(here) if self.is_free(&name).await? => types::replace(there, &here),
                        Some(here) => types::type_steps(there, &here),
                        None if self.has_schema(&there.schema).await? => {
                            types::create(there).into_iter().collect()
                        }
                        None => Vec::new(),
                    };
                    let safe = steps.iter().all(|step| step.statement.is_some());
                    if makes && safe && !steps.is_empty() && followed.may_use(&name) {
                        found.unused.insert(name);
                        found.steps.extend(steps);
                    }
                    return Ok(());
                }
                found.concerned.extend(mine.into_iter().cloned());
                match here {
                    Some(here) => found.steps.extend(types::type_steps(there, &here)),
                    None => {
                        found.steps.push(Step::unsafe_(format!("there is no type {name} here")))
                    }
                }
            }
            Item::Dropped { kind, schema, name, part } => {
                let name = TableName::new(schema, name);
                if kind == "type" {
                    if makes && followed.may_use(&name) && self.is_free(&name).await? {
                        let drop = format!("DROP TYPE {}", sql::table(&name));
                        found.steps.push(Step::safe(format!("there is no type {name}"), drop));
                        found.unused.insert(name);
                    }
                    return Ok(());
                }
                self.dropped(kind, &name, part.as_deref(), followed, course, found).await?;
            }
        }
        Ok(())
    }

    /// A table that was created there and is not here.
    async fn created(
        &self,
        there: &Definition,
        since: &Option<String>,
        found: &mut Found,
    ) -> Result<()> {
        let (Some(bound), Some(parent)) = (&there.bound, there.parents.first()) else {
            found.new = true;
            return Ok(());
        };
        match self.table(parent).await? {
            // Rows of the partition go to a table that is not partitioned here.
            Some(here) if here.kind != "p" => {}
            Some(_) => {
                found.steps.push(change::new_partition(there, parent, bound));
                found.created.push(there.table());
                if there.kind == "r" {
                    found.born_here.extend(born(there.table(), there.table(), since));
                }
            }
            // As new as its partition.
            None => found.new = true,
        }
        Ok(())
    }

    async fn dropped(
        &self,
        kind: &str,
        name: &TableName,
        part: Option<&str>,
        followed: Followed<'_>,
        course: &Course,
        found: &mut Found,
    ) -> Result<()> {
        let selection = followed.selection;
        if kind == "index" {
            let Some(table) = self.index(name).await? else { return Ok(()) };
            if selection.selects_any(&table.0, table.1.as_ref()) {
                found.concerned.insert(table.0);
                // It may have gone with its table.
                let drop = format!("DROP INDEX IF EXISTS {}", sql::table(name));
                found.steps.push(Step::safe(format!("there is no index {name}"), drop));
            }
            return Ok(());
        }
        let Some(here) = self.table(name).await? else {
            // Its rows are in a table that takes those of others as well.
            if kind == "table" && followed.carries(name) {
                found.concerned.insert(name.clone());
            }
            return Ok(());
        };
        if !selection.selects_any(name, here.root.as_ref()) {
            return Ok(());
        }
        found.concerned.insert(name.clone());
        let part = part.unwrap_or_default();
        match kind {
            "table column" if here.column(part).is_none() => {}
            "table constraint" if !here.constraints.contains_key(part) => {}
            // It goes from the partitions together with it.
            "table column" if course.columns.contains(&(here.whole(), part.to_owned())) => {
                if here.bound.is_none() {
                    let drop = format!("DROP COLUMN IF EXISTS {}", sql::ident(part));
                    let drop = format!("ALTER TABLE {} {drop}", sql::table(name));
                    found.steps.push(Step::safe(format!("{name} has no column {part}"), drop));
                }
            }
            "table" if course.tables.contains(name) => {
                let drop = format!("DROP TABLE IF EXISTS {}", sql::table(name));
                found.steps.push(Step::safe(format!("there is no table {name}"), drop));
                found.gone.push(name.clone());
            }
            "table" => found.steps.push(Step::unsafe_(format!("table {name} was dropped"))),
            _ => {
                let kind = kind.trim_start_matches("table ");
                found.steps.push(Step::unsafe_(format!("{kind} {part} of {name} was dropped")));
            }
        }
        Ok(())
    }

    async fn table(&self, name: &TableName) -> Result<Option<Definition>> {
        self.read(&text::table("to_regclass($1)"), name).await
    }

    async fn user_type(&self, name: &TableName) -> Result<Option<UserType>> {
        self.read(&text::user_type("to_regtype($1)"), name).await
    }

    /// Whether a type of users is here on which nothing rests.
    async fn is_free(&self, name: &TableName) -> Result<bool> {
        let row = self.session.query_one(text::FREE_TYPE, &[&sql::table(name)]).await;
        Ok(row.map_err(|e| port_error(self.doing(), e))?.get(0))
    }

    async fn has_schema(&self, schema: &str) -> Result<bool> {
        let query = "SELECT to_regnamespace($1) IS NOT NULL";
        let row = self.session.query_one(query, &[&sql::ident(schema)]).await;
        Ok(row.map_err(|e| port_error(self.doing(), e))?.get(0))
    }

    async fn read<T: DeserializeOwned>(&self, query: &str, name: &TableName) -> Result<Option<T>> {
        let query = format!("SELECT {query}::text");
        let row = self
            .session
            .query_one(&query, &[&sql::table(name)])
            .await
            .map_err(|e| port_error(self.doing(), e))?;
        match row.get::<_, Option<String>>(0) {
            None => Ok(None),
            Some(text) => serde_json::from_str(&text)
                .map(Some)
                .map_err(|e| PortError::transient(self.doing(), e)),
        }
    }

    /// The table of an index that belongs to no constraint and to no other index, with its root.
    async fn index(&self, name: &TableName) -> Result<Option<(TableName, Option<TableName>)>> {
        let query = "SELECT n.nspname::text, c.relname::text, m.nspname::text, r.relname::text \
             FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             LEFT JOIN pg_class r ON c.relispartition AND r.oid = pg_partition_root(c.oid) \
             LEFT JOIN pg_namespace m ON m.oid = r.relnamespace \
             WHERE i.indexrelid = to_regclass($1) \
               AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid) \
               AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid \
                                  AND k.contype IN ('p', 'u', 'x'))";
        let row = self
            .session
            .query_opt(query, &[&sql::table(name)])
            .await
            .map_err(|e| port_error(self.doing(), e))?;
        Ok(row.map(|row| {
            let root = row
                .get::<_, Option<&str>>(2)
                .zip(row.get::<_, Option<&str>>(3))
                .map(|(schema, name)| TableName::new(schema, name));
            (TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)), root)
        }))
    }

    fn refused(&self, what: &str, e: tokio_postgres::Error) -> PortError {
        match e.as_db_error() {
            Some(said) if !said.code().code().starts_with("57") => PortError::definite(
                NOT_MADE,
                self.doing(),
                format!("{what}, and it cannot be made so here (SQLSTATE {})", said.code().code()),
                format!(
                    "make it by hand on {}, then stop and start `cutover run`; nothing of its \
                     transaction was applied",
                    self.at
                ),
            )
            .caused_by(e),
            _ => port_error(self.doing(), e),
        }
    }

    fn doing(&self) -> String {
        format!("changing definitions on {}", self.at)
    }
}

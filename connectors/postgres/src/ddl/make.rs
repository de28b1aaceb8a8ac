//! Making on this side what was made on the other, inside of the sink's transaction.

use std::collections::{BTreeMap, BTreeSet};

use cutover_core::{
    model::{schema::TableName, selection::Selection},
    port::{
        PortError, Result,
        sink::{Born, Redefined, Route},
    },
};
use serde::de::DeserializeOwned;

use super::{
    change::{self, Alone, Context, Step},
    found::Found,
    message::{Definition, Item, Message, Partition, UserType},
    own, spelled, text, types,
};
use crate::{
    connect::{NO_PRIVILEGE, REFUSED, Session, port_error},
    schema,
    sql::{self, Names},
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
    /// What the run calls its own.
    pub(crate) names: &'a Names,
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

    /// Whether a table is published for its own sake, as those are that the run selected.
    fn knew(&self, there: &Definition, since: Option<&str>) -> bool {
        let entry = since.and_then(|since| since.split(':').next());
        entry.is_some_and(|entry| entry != "0")
            && there.root.is_none()
            && !there.leaves.iter().any(|leaf| self.selection.selects(leaf))
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
    /// Why rows were written anew, as the event trigger is told: one bit for each reason.
    rewritten: i32,
    /// The same before the message that was looked at last.
    had: i32,
    /// Columns that were added here, with the topmost table.
    columns: BTreeSet<(TableName, String)>,
    /// Constraints of domains that were dropped there.
    checks: BTreeSet<(TableName, String)>,
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
    let now = now.map(|now| here.parse(now)).transpose()?;
    let how = How { followed, makes: make, now: now.as_ref() };
    let mut found = match &now {
        None => {
            course.had = course.rewritten;
            here.look_at(&message, how, course).await?
        }
        Some(now) => {
            course.rewritten = course.had;
            let told = here.look_at(&message, how, course).await?;
            let mut later = message.clone();
            later.overtake(now);
            course.rewritten = course.had;
            let later = here.look_at(&later, how, course).await?;
            if make && told.is_safe() {
                told
            } else if later.concerned.is_empty() && later.unused.is_empty() {
                here.back(&message, now, told).await?
            } else if later.steps.is_empty() {
                later
            } else {
                told.still_told_of(&later)
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
    // Rows come under the names of those below.
    let told = || tables.iter().chain(&found.leaves).cloned().collect();
    if found.steps.is_empty() {
        let tables = told();
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
    let tables = told();
    course.columns.extend(found.columns);
    course.gone.retain(|table| !found.created.contains(table));
    course.gone.extend(found.gone);
    course.tables.extend(found.created);
    let born = found.born_whole.into_iter().chain(found.born_here).collect();
    Ok((Redefined::Made { what: format!("{what}: {why}"), tables, born }, found_places))
}

fn born(source: TableName, target: TableName, since: &Option<String>) -> Option<Born> {
    Some(Born { source, target, since: since.clone()? })
}

/// How a message is looked at.
#[derive(Clone, Copy)]
struct How<'a> {
    followed: Followed<'a>,
    /// What is safe will be made.
    makes: bool,
    /// What the source said later of the tables that an earlier look was concerned with.
    now: Option<&'a Message>,
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

    /// What was dropped is there again on the source, made anew in the same transaction say. Equal on
    /// both sides, it is no difference any more; by its text, which no later message compares.
    async fn back(&self, message: &Message, now: &Message, mut told: Found) -> Result<Found> {
        for item in &message.items {
            let Some(there) = now.items.iter().find_map(|later| item.back_in(later)) else {
                continue;
            };
            let here = self.table(&there.table()).await?;
            if !here.is_some_and(|here| item.is_alike(there, &here)) {
                return Ok(told);
            }
        }
        told.steps.clear();
        Ok(told)
    }

    async fn look_at(&self, message: &Message, how: How<'_>, course: &mut Course) -> Result<Found> {
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
        how: How<'_>,
        course: &mut Course,
        found: &mut Found,
    ) -> Result<()> {
        let How { followed, makes, now } = how;
        match item {
            Item::Rewrite { reason, .. } => course.rewritten |= reason,
            Item::Table { created, since, table: there } => {
                let selection = followed.selection;
                let name = there.table();
                if !selection.selects_any(&name, there.root.as_ref()) {
                    let is_there = now.is_none_or(|now| now.table(&name).is_some());
                    if !created && is_there && followed.knew(there, since.as_deref()) {
                        found.steps.push(Step::unsafe_(format!(
                            "{name} was followed under another name, and `tables` leaves this one \
                             out"
                        )));
                        found.concerned.insert(name);
                    }
                    return Ok(());
                }
                found.concerned.insert(name.clone());
                found.leaves.extend(there.leaves.iter().cloned());
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
                let why = std::mem::take(&mut course.rewritten);
                let (filled, rewritten) = (why & FOR_A_DEFAULT != 0, why != 0);
                let context = Context { plain: message.plain, filled, rewritten };
                match self.table(&name).await? {
                    Some(mut here) => {
                        for name in self.awaited(&name, followed).await? {
                            here.indexes.insert(name.clone(), String::new());
                            here.constraints.insert(name, String::new());
                        }
                        if *created {
                            // Made ahead of the stream, which will tell of those.
                            let told = |p: &Partition| {
                                there.partitions.iter().any(|t| t.table() == p.table())
                            };
                            here.partitions.retain(told);
                        }
                        let alone = Alone { tables: self.alone(there).await?, now };
                        let added = there.columns.iter().filter(|c| here.column(&c.name).is_none());
                        found.columns.extend(added.map(|c| (root.clone(), c.name.clone())));
                        found.steps.extend(change::steps(there, &here, context, &alone, is_ours));
                        let others = spelled::other_expressions(self.session, there, &here).await;
                        found.steps.extend(others.map_err(|e| port_error(self.doing(), e))?);
                        if !whole {
                            let below =
                                spelled::defaults_below(self.session, there, &here, &found.steps);
                            let below = below.await.map_err(|e| port_error(self.doing(), e))?;
                            found.steps.extend(below);
                        }
                        // Made ahead of the stream, for its rows to be copied.
                        if let (Some(bound), Some(parent)) = (&there.bound, there.parents.first())
                            && here.bound.is_none()
                            && let Some(like) = self.table(parent).await?
                            && like.kind == "p"
                        {
                            let attach = change::attach((parent, &like), &here, bound, &alone);
                            found.steps.extend(attach);
                        }
                        // Asked again, the source says what they are like by now.
                        found.concerned.extend(alone.tables.into_keys().filter(is_ours));
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
                    Some(here) => {
                        found.steps.extend(types::type_steps(there, &here));
                        let is_dropped =
                            |check: &str| course.checks.contains(&(name.clone(), check.to_owned()));
                        found.steps.extend(types::domain_steps(there, &here, is_dropped));
                        let default = spelled::other_default(self.session, there, &here).await;
                        found.steps.extend(default.map_err(|e| port_error(self.doing(), e))?);
                    }
                    None => {
                        found.steps.push(Step::unsafe_(format!("there is no type {name} here")))
                    }
                }
            }
            Item::Dropped { kind, schema, name, part } => {
                let name = TableName::new(schema, name);
                if kind == "domain constraint" {
                    // What the domain is like without it comes right behind.
                    course.checks.extend(part.clone().map(|check| (name, check)));
                    return Ok(());
                }
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
            Some(here) => {
                found.steps.push(change::new_partition(there, parent, bound));
                found.steps.extend(own::of_its_own(there, &here));
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

    /// Tables here that are partitions of this one there, and of nothing here.
    async fn alone(&self, there: &Definition) -> Result<BTreeMap<TableName, Definition>> {
        let mut alone = BTreeMap::new();
        let names: Vec<TableName> = there.partitions.iter().map(Partition::table).collect();
        let texts: Vec<String> = names.iter().map(sql::table).collect();
        let query = "SELECT w.n FROM unnest($1::text[]) WITH ORDINALITY AS w(name, n) \
                     JOIN pg_class c ON c.oid = to_regclass(w.name) WHERE NOT c.relispartition";
        let rows = self.session.query(query, &[&texts]).await;
        for row in rows.map_err(|e| port_error(self.doing(), e))? {
            let name = &names[row.get::<_, i64>(0) as usize - 1];
            alone.extend(self.table(name).await?.map(|table| (name.clone(), table)));
        }
        Ok(alone)
    }

    async fn table(&self, name: &TableName) -> Result<Option<Definition>> {
        self.read(&text::table("to_regclass($1)"), name).await
    }

    /// What is made when the stream has joined all rows, and counts as being here.
    async fn awaited(&self, name: &TableName, of: Followed<'_>) -> Result<Vec<String>> {
        let awaited = schema::awaited(self.session, of.names, name).await;
        awaited.map_err(|e| port_error(self.doing(), e))
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
        let state = e.code().map(|state| state.code().to_owned());
        match (port_error(self.doing(), e), state) {
            (PortError::Definite { code: NO_PRIVILEGE | REFUSED, what: said, .. }, Some(state)) => {
                let what = format!("{what}, and it cannot be made so here (SQLSTATE {state})");
                let remedy = format!(
                    "make it by hand on {}, then stop and start `cutover run`; nothing of its \
                     transaction was applied",
                    self.at
                );
                PortError::definite(NOT_MADE, self.doing(), what, remedy).caused_by(said)
            }
            // It may pass, or has a remedy of its own.
            (own, _) => own,
        }
    }

    fn doing(&self) -> String {
        format!("changing definitions on {}", self.at)
    }
}

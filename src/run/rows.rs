//! The rows of a run: copied once, and again where the stream has not carried all of them.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use cutover_core::{
    model::{
        position::Position,
        schema::{Table, TableName},
        side::Side,
    },
    port::{PortError, copy::Snapshot, sink::Route, source::Since},
};

use super::{
    book::Book,
    error::RunError,
    fact::{Carried, Fact, Views},
    given::given,
    owed::{Copies, Held, number, owed},
    prepare::Preparation,
    standing::Standing,
};
use crate::{
    copy::{self, InRanges, Job, Limiter, PutOff},
    error::Failure,
    observe::progress::Progress,
    stream::{
        Policy,
        handover::{Copied, Handover, Parts, Visibility},
    },
    transform::Mapping,
};

/// How long transactions may stay open that may have written to a new table unseen.
const BEGUN_WITHIN: Duration = Duration::from_secs(30);

/// The tables of both sides, and where their rows go.
pub(super) struct Sides<'a> {
    pub(super) blue: &'a [Table],
    pub(super) green: &'a [Table],
    pub(super) mapping: &'a Mapping,
    /// Whether the stream from blue, and the one from green, stops before a table becomes a
    /// partition until it is one on the other side.
    pub(super) stops: [bool; 2],
}

impl Sides<'_> {
    fn tables(&self, side: Side) -> &[Table] {
        match side {
            Side::Blue => self.blue,
            Side::Green => self.green,
        }
    }

    fn routes(&self, from: Side) -> &[Route] {
        match from {
            Side::Blue => &self.mapping.forward,
            Side::Green => &self.mapping.back,
        }
    }

    /// Sources of the owner of the writes whose rows have no place on the other side.
    pub(super) fn strays(&self, from: Side, standing: &Standing) -> HashSet<TableName> {
        let copies = standing.copies(from);
        let begun = copies.ended.is_some() || (from == Side::Green && !copies.targets.is_empty());
        if standing.owner != from || !begun {
            return HashSet::new();
        }
        let (routes, tables) = (self.routes(from), self.tables(from));
        let mut strays = copies.strays(routes, tables, self.tables(from.other()));
        if self.stops[from.index()] {
            // With rows that are ahead of the stream nobody could make it a partition there.
            strays.extend(copies.waiting(routes, tables));
        }
        strays
    }

    fn jobs(&self, from: Side, standing: &Standing) -> Vec<Job> {
        let strays = self.strays(from, standing);
        let routes: Vec<Route> = self
            .routes(from)
            .iter()
            .filter(|route| !strays.contains(&route.source))
            .cloned()
            .collect();
        copy::jobs(&routes, self.tables(from))
    }
}

impl Preparation {
    /// Copies what the other side does not hold of the rows of `from`.
    pub(super) async fn rows(
        &self,
        from: Side,
        sides: &Sides<'_>,
        since: &Since,
        first: Option<Box<dyn Snapshot>>,
    ) -> Result<(), RunError> {
        let standing = self.book.standing();
        self.are_gone(from, sides.strays(from, &standing))?;
        let copies = standing.copies(from);
        let all = sides.jobs(from, &standing);
        let todo = owed(all.clone(), copies, since);
        let late = copies.ended.is_some() || from == Side::Green;
        if !self.may_copy(from, &standing) || (late && todo.is_empty() && !copies.unsettled) {
            return Ok(());
        }
        // Nothing is kept of that side, and its stream will say so; or an earlier version brought it
        // this far, and remembered nothing.
        if late && (since.is_empty() || copies.targets.is_empty()) {
            return Ok(());
        }
        self.are_as_made(from, &all, &todo).await?;
        self.are_wide_enough(from, &all, &todo).await?;
        let (here, there) = (self.ports.side(from), self.ports.side(from.other()));
        // Whoever wrote to a table before it became a partition has ended when it did. Where
        // something was published meanwhile, there may be writers that nobody asked to end.
        let published =
            |table: &Table| since.get(&table.name).is_some_and(|since| !copies.knows_entry(since));
        if late
            && todo.iter().flat_map(|job| &job.sources).any(published)
            && !here.source.begun_have_ended(BEGUN_WITHIN).await?
        {
            return Err(PortError::transient(
                "copying a new table",
                format!("a transaction stays open on {from} that may have written to it"),
            )
            .into());
        }
        // What was copied before a failover stays, where the server that took over has all that the
        // snapshot contained.
        let parts_stay = self.parts_may_stay(from, copies).await?;
        self.progress.say("copying rows");
        let owing: HashSet<&TableName> = todo.iter().map(|job| &job.target.name).collect();
        for job in &all {
            let rows = job.sources.iter().filter_map(|s| s.estimated_rows).sum();
            let bytes = job.sources.iter().map(|s| s.bytes).sum();
            self.progress.expect(&job.target.name, rows, bytes);
            if !owing.contains(&job.target.name) {
                self.progress.done(&job.target.name);
            }
        }
        let first = first.filter(|_| !standing.copy_began);
        let again = first.is_none();
        let snapshot: Arc<dyn Snapshot> = match first {
            Some(snapshot) => Arc::from(snapshot),
            None => Arc::from(here.source.snapshot().await?),
        };
        self.as_read(from, &todo).await?;
        if again && self.follows(from) {
            // Values of enums that the snapshot may contain, and of which the stream tells later.
            self.ports.schema.add_values(&tops(&todo)).await?;
        }
        // Before anybody looks at what is there: as long as it lives nothing of that is forgotten.
        let load = there.sink.load(&self.run).await?;
        let mut in_ranges = match parts_stay {
            true => self.go_on(from, &todo, since, &*snapshot).await?,
            false => HashMap::new(),
        };
        let fresh: Vec<&Job> =
            todo.iter().filter(|job| !in_ranges.contains_key(&job.target.name)).collect();
        self.outdate(from, &fresh, &standing)?;
        if standing.copy_began {
            // Before the copy is begun: parts of an earlier one are not taken for its own.
            for job in &fresh {
                there.sink.clear(&self.run, &job.target).await?;
            }
        }
        // Whatever a snapshot contains was in the log before others could see it.
        let until = here.source.head().await?;
        self.book.note(Fact::CopyBegan { from, until: Some(until.clone()) })?;
        if late && from == Side::Blue {
            // After the snapshot: no row in it is newer than a key that is not seen.
            let held = all.iter().filter(|job| !owing.contains(&job.target.name)).map(top);
            let held: BTreeSet<TableName> = held.collect();
            let empty: Vec<TableName> =
                tops(fresh.iter().copied()).into_iter().filter(|t| !held.contains(t)).collect();
            self.ports.schema.inherit_keys(&empty).await?;
        }
        in_ranges.extend(self.cut(from, &fresh, since, &*snapshot).await?);
        let noter = Arc::new(Noter {
            book: Arc::clone(&self.book),
            progress: Arc::clone(&self.progress),
            from,
            snapshot: snapshot.visible().to_owned(),
            sources: todo.iter().map(|j| (j.target.name.clone(), carried(j, since))).collect(),
            in_ranges: in_ranges.clone(),
        });
        let options = copy::Options {
            workers: self.workers,
            chunk: self.chunk,
            limiter: Arc::new(Limiter::new(self.rate)),
            restless: self.emptied().clone(),
        };
        let sink = Arc::clone(&there.sink);
        let put_off = copy::copy(load, todo, &in_ranges, snapshot, sink, options, noter).await?;
        self.put_off(put_off)?;
        // Whoever follows that side shall not take the copy for rows of its clients.
        let written = match standing.way_back {
            true => Some(there.source.head().await?),
            false => None,
        };
        self.book.note(Fact::CopyEnded { until, from, there: written })?;
        Ok(())
    }

    /// What the snapshot did not suffice for is owed still, and nothing else is.
    fn put_off(&self, put_off: Vec<PutOff>) -> Result<(), RunError> {
        for PutOff { target, why, emptied } in &put_off {
            if *emptied {
                self.emptied().insert(target.clone());
            }
            tracing::info!(table = %target, "it is copied under a later snapshot: {why}");
        }
        match put_off.into_iter().next() {
            None => Ok(()),
            Some(first) => Err(first.why.into()),
        }
    }

    fn emptied(&self) -> MutexGuard<'_, HashSet<TableName>> {
        self.emptied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tables that were made here during the run, and changed there before anything was copied, are
    /// made once more. The stream tells of those changes as well, and finds them made.
    async fn are_as_made(&self, from: Side, all: &[Job], todo: &[Job]) -> Result<(), RunError> {
        let makes = self.follows(from) && self.makes_definitions();
        let standing = self.book.standing();
        if !makes || !standing.after_rows {
            return Ok(());
        }
        let tables = outgrown(all, todo, standing.copies(from));
        if tables.is_empty() {
            return Ok(());
        }
        tracing::info!(?tables, "changed on blue since they were made on green: made once more");
        self.ports.schema.discard(&tables).await?;
        Err(PortError::transient(
            "copying new tables",
            "their definitions have changed since they were made on green",
        )
        .into())
    }

    /// Whether what is defined on this side is made on the other one, also ahead of the stream.
    fn follows(&self, from: Side) -> bool {
        self.policy == Policy::Apply && from == Side::Blue
    }

    /// Tables that changed there since they were made here get what they lack before they are
    /// filled. What belongs together is altered together, and so all of it is copied again.
    async fn are_wide_enough(&self, from: Side, all: &[Job], todo: &[Job]) -> Result<(), RunError> {
        let narrow: Vec<Job> = todo.iter().filter(|job| is_narrow(job)).cloned().collect();
        if !self.follows(from) || narrow.is_empty() {
            return Ok(());
        }
        let tables = self.ports.schema.align(&tops(&narrow), false).await?;
        if tables.is_empty() {
            return Ok(());
        }
        let standing = self.book.standing();
        let whole: Vec<Job> =
            all.iter().filter(|job| tables.contains(&top(job))).cloned().collect();
        self.outdate(from, &whole.iter().collect::<Vec<_>>(), &standing)?;
        for job in whole.iter().filter(|_| standing.copy_began) {
            self.ports.side(from.other()).sink.clear(&self.run, &job.target).await?;
        }
        self.ports.schema.align(&tables, true).await?;
        Err(PortError::transient(
            "copying tables",
            "their definitions have changed since they were made on green",
        )
        .into())
    }

    /// Whether the tables of a copy are as they were read, after its snapshot was opened: what the
    /// snapshot contains of a column that nobody had seen comes neither with the copy nor in the
    /// stream.
    async fn as_read(&self, from: Side, todo: &[Job]) -> Result<(), RunError> {
        let now = self.ports.side(from).source.definitions(&self.selection).await?;
        let now: HashMap<&TableName, &Table> = now.iter().map(|t| (&t.name, t)).collect();
        let same = |t: &Table| now.get(&t.name).is_some_and(|now| now.columns == t.columns);
        match todo.iter().flat_map(|job| &job.sources).find(|table| !same(table)) {
            None => Ok(()),
            Some(table) => Err(PortError::transient(
                format!("copying {} from {from}", table.name),
                "its definition has changed since it was read",
            )
            .into()),
        }
    }

    /// Says that targets will be emptied, before they are. What holds them all is not theirs any
    /// more.
    fn outdate(&self, from: Side, todo: &[&Job], standing: &Standing) -> Result<(), RunError> {
        let held = &standing.copies(from).targets;
        let mut tables: Vec<TableName> = todo
            .iter()
            .flat_map(|job| std::iter::once(&job.target.name).chain(&job.target.root))
            .filter(|table| held.contains_key(table))
            .cloned()
            .collect();
        tables.sort_unstable();
        tables.dedup();
        if !tables.is_empty() {
            tracing::info!(%from, ?tables, "copied again: they may not hold what the stream builds on");
            self.book.note(Fact::Outdated { from, tables })?;
        }
        Ok(())
    }

    /// Tables that the other side does not have, whatever was copied there: they were dropped, and
    /// will be empty when they are made again.
    pub(super) fn are_gone(
        &self,
        from: Side,
        tables: impl IntoIterator<Item = TableName>,
    ) -> Result<(), RunError> {
        let standing = self.book.standing();
        let held = |table: &TableName| standing.copies(from).has(table, table);
        let mut tables: Vec<TableName> = tables.into_iter().filter(held).collect();
        tables.sort_unstable();
        if !tables.is_empty() {
            self.book.note(Fact::Outdated { from, tables })?;
        }
        Ok(())
    }

    /// Remembers what is followed on the side that does not own the writes: what it holds came from
    /// the owner, and whatever its clients write later is in its stream.
    pub(super) fn follow(
        &self,
        sides: &Sides<'_>,
        blue: &Since,
        green: &Since,
    ) -> Result<(), RunError> {
        let standing = self.book.standing();
        let from = standing.owner.other();
        let since = if from == Side::Blue { blue } else { green };
        if since.is_empty() || standing.open_move.is_some() {
            return Ok(());
        }
        let known = &standing.copies(from).targets;
        let mut facts = Vec::new();
        let mut gone: HashSet<&TableName> = known.keys().collect();
        for job in sides.jobs(from, &standing) {
            gone.remove(&job.target.name);
            let sources = carried(&job, since);
            let now = sources.iter().map(|s| (s.table.clone(), s.since.clone())).collect();
            let same = |held: &Held| held.sources.as_ref() == Some(&now);
            if !known.get(&job.target.name).is_some_and(same) {
                facts.push(Fact::Followed { from, table: job.target.name, sources });
            }
        }
        if !gone.is_empty() {
            let mut tables: Vec<TableName> = gone.into_iter().cloned().collect();
            tables.sort_unstable();
            facts.push(Fact::Outdated { from, tables });
        }
        if !facts.is_empty() {
            self.book.note_all(&facts)?;
        }
        Ok(())
    }

    /// What each stream leaves out, blue's first.
    pub(super) fn handovers(
        &self,
        sides: &Sides<'_>,
        blue: &Since,
        green: &Since,
    ) -> Result<[Handover; 2], RunError> {
        Ok([self.handover(Side::Blue, sides, blue)?, self.handover(Side::Green, sides, green)?])
    }

    /// What the stream from `from` leaves out: what was copied from there, and what a copy from the
    /// other side wrote there.
    fn handover(&self, from: Side, sides: &Sides<'_>, since: &Since) -> Result<Handover, RunError> {
        let standing = self.book.standing();
        let copies = standing.copies(from);
        let (mut tables, mut numbers) = (HashMap::new(), HashMap::new());
        for route in sides.routes(from) {
            let target = &route.target.name;
            if let Some(held) = copies.targets.get(target)
                && let Some(copied) = contents(target, held)?
            {
                let number = since.get(&route.source).and_then(|since| number(since));
                numbers.extend(number.map(|number| (number, copied.clone())));
                tables.insert(route.source.clone(), copied);
            }
        }
        let handover = Handover::new(tables, numbers, copies.ended.clone());
        let copies = standing.copies(from.other());
        let Some(written) = &copies.written else { return Ok(handover) };
        let late = |name: &TableName| copies.targets.get(name).is_some_and(|held| held.late);
        let below = sides.tables(from).iter().filter(|t| t.root.as_ref().is_some_and(late));
        // Also those that are gone since.
        let itself = copies.targets.keys().filter(|name| late(name));
        let ours = below.map(|t| &t.name).chain(itself).cloned();
        Ok(handover.without(ours, written.clone()))
    }
}

/// Which transactions the copy of a target contains; `None` without a copy.
fn contents(target: &TableName, held: &Held) -> Result<Option<Copied>, RunError> {
    let damaged = |what: String| Failure::new(what).code("CUT0505");
    let parse = |text: &String| Visibility::parse(text).map_err(|e| damaged(e.to_string()));
    if let Some(Views { ranges, snapshots }) = &held.views {
        let seen = snapshots.iter().map(parse).collect::<Result<_, _>>()?;
        let parts = Parts::new(target.clone(), ranges.clone(), seen)
            .ok_or_else(|| damaged(format!("ranges and snapshots of {target} do not match")))?;
        return Ok(Some(Copied::InParts(parts)));
    }
    Ok(held.snapshot.as_ref().map(parse).transpose()?.map(Copied::AsOne))
}

/// What is above the rows of a job on the receiving side, or its table.
fn top(job: &Job) -> TableName {
    job.target.root.clone().unwrap_or_else(|| job.target.name.clone())
}

/// New tables with all that is below them, when one has other columns than its source has by now;
/// also those that have not, which may refer to it. What held something once is not new.
fn outgrown(all: &[Job], todo: &[Job], copies: &Copies) -> Vec<TableName> {
    let held = |job: &&Job| copies.targets.contains_key(&job.target.name);
    let old: HashSet<TableName> = all.iter().filter(held).map(top).collect();
    let new: Vec<&Job> = todo.iter().filter(|job| !old.contains(&top(job))).collect();
    let columns = |table: &Table| -> BTreeSet<(String, String)> {
        table.columns.iter().map(|c| (c.name.clone(), c.declared_type.clone())).collect()
    };
    let other = |job: &&Job| job.sources.iter().any(|s| columns(s) != columns(&job.target));
    if !new.iter().any(other) {
        return Vec::new();
    }
    tops(new)
}

/// What is above the rows of some jobs, each once.
fn tops<'a>(jobs: impl IntoIterator<Item = &'a Job>) -> Vec<TableName> {
    let tops: BTreeSet<TableName> = jobs.into_iter().map(top).collect();
    tops.into_iter().collect()
}

/// Whether a source has a column that its target has not, or has with another type.
fn is_narrow(job: &Job) -> bool {
    let fits = |source: &Table| {
        source
            .carried()
            .all(|c| job.target.column(&c.name).is_some_and(|t| t.declared_type == c.declared_type))
    };
    !job.sources.iter().all(fits)
}

/// The sources of a job that are followed.
fn carried(job: &Job, since: &Since) -> Vec<Carried> {
    let of = |table: &Table| {
        let since = since.get(&table.name)?.clone();
        Some(Carried { table: table.name.clone(), since })
    };
    job.sources.iter().filter_map(of).collect()
}

struct Noter {
    book: Arc<Book>,
    progress: Arc<Progress>,
    from: Side,
    snapshot: String,
    /// By target.
    sources: HashMap<TableName, Vec<Carried>>,
    in_ranges: HashMap<TableName, InRanges>,
}

impl Noter {
    /// What ranges of a finished target contain, where they differ.
    fn views(&self, table: &TableName) -> Option<Views> {
        let (ranges, snapshots) = self.in_ranges.get(table)?.contents(&self.snapshot);
        (snapshots.iter().any(|s| *s != self.snapshot)).then_some(Views { ranges, snapshots })
    }
}

#[async_trait]
impl copy::Watch for Noter {
    fn bytes(&self, table: &TableName, bytes: u64) {
        self.progress.bytes(table, bytes);
    }

    fn rows(&self, table: &TableName, rows: u64) {
        self.progress.rows(table, rows);
    }

    async fn done(&self, tables: &[&TableName], there: Option<Position>) -> Result<(), PortError> {
        let copied = |table: &&TableName| Fact::Copied {
            table: (*table).clone(),
            snapshot: self.snapshot.clone(),
            from: self.from,
            sources: self.sources.get(*table).cloned(),
            views: self.views(table),
        };
        let there = given(self.from.other(), there);
        let facts: Vec<Fact> = tables.iter().map(copied).chain(there).collect();
        self.book.note_all(&facts).map_err(|e| {
            PortError::definite(
                "CUT0514",
                format!("noting that {} table(s) are copied", tables.len()),
                e.to_string(),
                "check space and health of the disk under state_dir, then run again",
            )
        })?;
        tables.iter().for_each(|table| self.progress.done(table));
        Ok(())
    }
}

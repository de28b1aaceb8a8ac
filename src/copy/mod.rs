//! The initial rows: ranges of tables through a few workers, under one snapshot.
//!
//! A target table is the unit of resuming: it is reported as done once all its rows are durable,
//! together with the others that were finished at about the same time: neither a commit nor a
//! journal line of a small table waits for a disk of its own. A range is one transaction on the
//! target and is never tried twice, since a lost answer to its commit would leave its rows there
//! twice; what was not finished is emptied and copied again as a whole, under a later snapshot
//! (`stream::handover` joins the two). So is a table that became another one between the snapshot and
//! its turn: it holds up nobody else, and is told about at the end.
//!
//! Of a large table ranges of its key are copied where it has such ([`InRanges`]), and the target
//! knows which are there, exactly: those stay, and only the others are copied again.

mod rate;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cutover_core::{
    model::{
        position::Position,
        ranges::KeyRanges,
        schema::{Table, TableName},
    },
    port::{
        PortError, Result,
        copy::{CopyChunk, CopyFormat, CopyStream, Opened, Range, Snapshot},
        sink::{Load, Part, Route, Sink},
    },
};
use tokio::task::JoinSet;

pub use rate::Limiter;

/// Tables whose sizes are asked for at once.
const MEASURED: usize = 1000;

/// How often finished tables are made durable and reported.
const SETTLE_EVERY: Duration = Duration::from_millis(100);

/// One target table and everything that is copied into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Where the rows go.
    pub target: Table,
    /// Where they come from: one table, or all leaves of a root.
    pub sources: Vec<Table>,
}

/// Groups routes by target.
#[must_use]
pub fn jobs(routes: &[Route], sources: &[Table]) -> Vec<Job> {
    let by_name: HashMap<&TableName, &Table> = sources.iter().map(|t| (&t.name, t)).collect();
    let mut places: HashMap<&TableName, usize> = HashMap::new();
    let mut jobs: Vec<Job> = Vec::new();
    for route in routes {
        let Some(source) = by_name.get(&route.source) else { continue };
        let place = *places.entry(&route.target.name).or_insert_with(|| {
            jobs.push(Job { target: route.target.clone(), sources: Vec::new() });
            jobs.len() - 1
        });
        jobs[place].sources.push((*source).clone());
    }
    jobs
}

/// A job whose only source is cut into ranges of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InRanges {
    /// The ranges.
    pub ranges: KeyRanges,
    /// Those that are there, and what each of them contains.
    pub kept: BTreeMap<usize, String>,
}

impl InRanges {
    /// What each range contains once all the others are copied under this snapshot; those beside
    /// each other that contain the same are one.
    #[must_use]
    pub fn contents(&self, snapshot: &str) -> (KeyRanges, Vec<String>) {
        let of = |number| self.kept.get(&number).map_or(snapshot, String::as_str);
        let (mut bounds, mut contents) = (Vec::new(), vec![of(0).to_owned()]);
        for (number, bound) in (1..).zip(&self.ranges.bounds) {
            if contents.last().is_none_or(|last| last != of(number)) {
                bounds.push(*bound);
                contents.push(of(number).to_owned());
            }
        }
        (KeyRanges { column: self.ranges.column.clone(), bounds }, contents)
    }
}

/// How to copy.
#[derive(Clone)]
pub struct Options {
    /// Ranges copied at the same time.
    pub workers: usize,
    /// Bytes of one range on disk.
    pub chunk: u64,
    /// Bytes per second over all workers.
    pub limiter: Arc<Limiter>,
    /// Targets that come first, and whose sources are read as they are: they are emptied so often
    /// that no snapshot may know what is there.
    pub restless: HashSet<TableName>,
}

/// A target that is copied under a later snapshot.
#[derive(Debug)]
pub struct PutOff {
    /// The target.
    pub target: TableName,
    /// What became of one of its sources.
    pub why: PortError,
    /// It was emptied.
    pub emptied: bool,
}

/// Is told what happens. Called from several tasks.
#[async_trait]
pub trait Watch: Send + Sync {
    /// Bytes of `table` (a target) were read.
    fn bytes(&self, table: &TableName, bytes: u64);

    /// Rows of `table` were committed.
    fn rows(&self, table: &TableName, rows: u64);

    /// All rows of these tables are durable, before this place in the target's own log: the place
    /// for a journal line.
    ///
    /// # Errors
    ///
    /// The journal could not be written; the copy stops.
    async fn done(&self, tables: &[&TableName], there: Option<Position>) -> Result<()>;
}

/// Types whose binary form is missing, holds numbers that differ from server to server, or (an
/// empty vector or query) is not read back by the server that wrote it. Beginnings of names.
const TEXT_ONLY: &[&str] = &["reg", "aclitem", "int2vector", "oidvector", "tsquery"];

/// Which form the rows of `source` travel in. Binary is piped through without decoding where both
/// sides have the same built-in types: the binary form of user-defined types and of arrays of them
/// holds numbers that differ from server to server.
#[must_use]
pub fn format(source: &Table, target: &Table, accepted: &[CopyFormat]) -> CopyFormat {
    let portable = |c: &cutover_core::model::schema::Column| {
        target.column(&c.name).is_some_and(|t| t.declared_type == c.declared_type)
            && !c.base_type.contains('.')
            && !TEXT_ONLY.iter().any(|name| c.base_type.starts_with(name))
    };
    if accepted.contains(&CopyFormat::PostgresBinary) && source.carried().all(portable) {
        return CopyFormat::PostgresBinary;
    }
    accepted.iter().copied().find(|f| *f != CopyFormat::PostgresBinary).unwrap_or(CopyFormat::Rows)
}

struct Piece {
    job: usize,
    source: usize,
    range: Range,
    /// Which range of its key it is.
    part: Option<usize>,
}

struct Shared {
    jobs: Vec<Job>,
    left: Vec<AtomicU64>,
    queue: Mutex<VecDeque<Piece>>,
    /// Jobs whose rows are committed and not yet known to be durable.
    committed: Mutex<Vec<usize>>,
    /// Jobs that need a later snapshot.
    put_off: Mutex<BTreeMap<usize, PutOff>>,
    snapshot: Arc<dyn Snapshot>,
    sink: Arc<dyn Sink>,
    load: Box<dyn Load>,
    options: Options,
    watch: Arc<dyn Watch>,
}

/// Copies every job; those `in_ranges`, by their targets, as they say. The targets must be empty, but
/// for what is kept. `load` was opened before anybody looked at what is there. Returns the targets
/// that this snapshot does not suffice for; they may hold some rows already.
///
/// # Errors
///
/// The first failure; what was reported as done stays done.
pub async fn copy(
    load: Box<dyn Load>,
    jobs: Vec<Job>,
    in_ranges: &HashMap<TableName, InRanges>,
    snapshot: Arc<dyn Snapshot>,
    sink: Arc<dyn Sink>,
    options: Options,
    watch: Arc<dyn Watch>,
) -> Result<Vec<PutOff>> {
    let cut = |job: &Job| in_ranges.get(&job.target.name);
    let sources: Vec<(usize, usize, &Table)> = jobs
        .iter()
        .enumerate()
        .filter(|(_, job)| cut(job).is_none())
        .flat_map(|(j, job)| job.sources.iter().enumerate().map(move |(s, t)| (j, s, t)))
        .collect();
    let mut pieces = Vec::new();
    let mut parts = vec![0; jobs.len()];
    for (job, InRanges { ranges, kept }) in
        jobs.iter().enumerate().filter_map(|(j, job)| Some((j, cut(job)?)))
    {
        for number in (0..ranges.count()).filter(|number| !kept.contains_key(number)) {
            let Some(range) = snapshot.key_range(ranges, number) else {
                return Err(no_such_range(&jobs[job].target.name));
            };
            parts[job] += 1;
            pieces.push(Piece { job, source: 0, range, part: Some(number) });
        }
    }
    for some in sources.chunks(MEASURED) {
        let tables: Vec<&Table> = some.iter().map(|(_, _, table)| *table).collect();
        let ranges = snapshot.split_all(&tables, options.chunk).await?;
        for (&(job, source, _), ranges) in some.iter().zip(ranges) {
            parts[job] += ranges.len() as u64;
            pieces.extend(ranges.into_iter().map(|range| Piece { job, source, range, part: None }));
        }
    }
    let sizes: Vec<u64> =
        jobs.iter().map(|j| j.sources.iter().map(|s| s.bytes).sum::<u64>()).collect();
    // Large tables first: one that starts last would leave all workers but one idle.
    let rests = |job: usize| !options.restless.contains(&jobs[job].target.name);
    pieces.sort_by_key(|p| (rests(p.job), Reverse(sizes[p.job]), p.job));
    // Without rows nothing has to be done.
    let committed = (0..jobs.len()).filter(|j| parts[*j] == 0).collect();
    let workers = options.workers.clamp(1, pieces.len().max(1));
    let shared = Arc::new(Shared {
        jobs,
        left: parts.into_iter().map(AtomicU64::new).collect(),
        queue: Mutex::new(pieces.into()),
        committed: Mutex::new(committed),
        put_off: Mutex::default(),
        snapshot,
        sink,
        load,
        options,
        watch,
    });
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..workers {
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            while let Some(piece) = shared.take() {
                shared.copy_piece(piece).await?;
            }
            Ok(())
        });
    }
    let mut timer = tokio::time::interval(SETTLE_EVERY);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                // The others are cancelled when `tasks` is dropped: their transactions roll back.
                Some(result) => {
                    result.map_err(|e| PortError::transient("copying rows", e))??;
                }
                None => break,
            },
            _ = timer.tick() => shared.settle().await?,
        }
    }
    shared.settle().await?;
    Ok(std::mem::take(&mut *lock(&shared.put_off)).into_values().collect())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Shared {
    fn take(&self) -> Option<Piece> {
        let (mut queue, put_off) = (lock(&self.queue), lock(&self.put_off));
        while let Some(piece) = queue.pop_front() {
            if !put_off.contains_key(&piece.job) {
                return Some(piece);
            }
        }
        None
    }

    /// The rows of a piece, unless a later snapshot is needed for them.
    async fn open(&self, piece: &Piece, format: CopyFormat) -> Result<Option<Box<dyn CopyStream>>> {
        let job = &self.jobs[piece.job];
        let (source, target) = (&job.sources[piece.source], &job.target.name);
        let (why, emptied) = match self.snapshot.read(source, &piece.range, format).await? {
            Opened::Rows(rows) => return Ok(Some(rows)),
            Opened::Emptied(rows) if self.options.restless.contains(target) => {
                return Ok(Some(rows));
            }
            // What came to its rows before that is in the stream, and finds no row.
            Opened::Emptied(_) => {
                let doing = format!("copying rows of {}", source.name);
                (PortError::transient(doing, "it was emptied since the snapshot"), true)
            }
            Opened::Later(why) => (why, false),
        };
        let put_off = PutOff { target: target.clone(), why, emptied };
        lock(&self.put_off).entry(piece.job).or_insert(put_off);
        Ok(None)
    }

    /// Reports the jobs that are committed, once that is durable.
    async fn settle(&self) -> Result<()> {
        let done = std::mem::take(&mut *lock(&self.committed));
        if done.is_empty() {
            return Ok(());
        }
        let there = self.load.flush().await?;
        let tables: Vec<&TableName> = done.iter().map(|j| &self.jobs[*j].target.name).collect();
        self.watch.done(&tables, there).await
    }

    async fn copy_piece(&self, piece: Piece) -> Result<()> {
        let job = &self.jobs[piece.job];
        let source = &job.sources[piece.source];
        has_room(source, &job.target)?;
        let format = format(source, &job.target, self.sink.copy_formats());
        let Some(inner) = self.open(&piece, format).await? else { return Ok(()) };
        let rows = Box::new(Metered {
            inner,
            table: job.target.name.clone(),
            limiter: Arc::clone(&self.options.limiter),
            watch: Arc::clone(&self.watch),
        });
        // The source's order of columns is what travels.
        let target = in_order_of(source, &job.target);
        let part = match piece.part {
            None => None,
            Some(number) => Some(Part {
                number: u32::try_from(number).map_err(|_| no_such_range(&job.target.name))?,
                snapshot: self.snapshot.visible().to_owned(),
            }),
        };
        let rows = self.load.copy(&target, format, rows, part.as_ref()).await?;
        self.watch.rows(&job.target.name, rows);
        if self.left[piece.job].fetch_sub(1, Ordering::AcqRel) == 1 {
            lock(&self.committed).push(piece.job);
        }
        Ok(())
    }
}

fn no_such_range(table: &TableName) -> PortError {
    PortError::definite(
        "CUT0308",
        format!("copying ranges of {table}"),
        "a range of its key that was agreed on does not exist",
        "report this with the kinds and versions of both databases",
    )
}

/// Whether the target has all columns that travel.
fn has_room(source: &Table, target: &Table) -> Result<()> {
    let Some(column) = source.carried().find(|c| target.column(&c.name).is_none()) else {
        return Ok(());
    };
    Err(PortError::definite(
        "CUT0407",
        format!("copying rows into table {}", target.name),
        format!("it has no column {}, which {} has by now", column.name, source.name),
        "make the definitions of the table equal on both sides, then start the run again",
    ))
}

/// The target with exactly the columns that the source carries, in its order.
#[must_use]
pub fn in_order_of(source: &Table, target: &Table) -> Table {
    let columns = source.carried().filter_map(|c| target.column(&c.name)).cloned().collect();
    Table { columns, ..target.clone() }
}

struct Metered {
    inner: Box<dyn CopyStream>,
    table: TableName,
    limiter: Arc<Limiter>,
    watch: Arc<dyn Watch>,
}

#[async_trait]
impl CopyStream for Metered {
    async fn next(&mut self) -> Result<Option<CopyChunk>> {
        let chunk = self.inner.next().await?;
        if let Some(chunk) = &chunk {
            let bytes = match chunk {
                CopyChunk::Raw(raw) => raw.len(),
                CopyChunk::Rows(rows) => {
                    rows.iter().map(cutover_core::model::value::Tuple::bytes).sum()
                }
            } as u64;
            self.watch.bytes(&self.table, bytes);
            self.limiter.pass(bytes).await;
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use cutover_core::model::schema::{Column, Generated, Identity, RowIdentity};

    use super::*;

    fn table(name: &str, types: &[&str]) -> Table {
        let column = |(i, t): (usize, &&str)| Column {
            name: format!("c{i}"),
            base_type: (*t).into(),
            declared_type: (*t).into(),
            nullable: true,
            generated: Generated::No,
            identity: Identity::No,
            collation: None,
        };
        Table {
            name: TableName::new("public", name),
            columns: types.iter().enumerate().map(column).collect(),
            identity: RowIdentity::Nothing,
            primary_key: Vec::new(),
            root: None,
            estimated_rows: None,
            bytes: 0,
        }
    }

    #[test]
    fn binary_only_where_numbers_inside_mean_the_same_on_both_sides() {
        let both = [CopyFormat::PostgresBinary, CopyFormat::PostgresText];
        for (types, want) in [
            (&["integer", "jsonb", "numeric"][..], CopyFormat::PostgresBinary),
            (&["integer", "public.mood"], CopyFormat::PostgresText),
            (&["public.mood[]"], CopyFormat::PostgresText),
            (&["regclass"], CopyFormat::PostgresText),
            (&["aclitem[]"], CopyFormat::PostgresText),
            (&["oidvector"], CopyFormat::PostgresText),
            (&["tsquery[]"], CopyFormat::PostgresText),
        ] {
            assert_eq!(format(&table("t", types), &table("t", types), &both), want, "{types:?}");
        }
        let (a, b) = (table("t", &["integer"]), table("t", &["bigint"]));
        assert_eq!(format(&a, &b, &both), CopyFormat::PostgresText);
        assert_eq!(format(&a, &a, &[CopyFormat::Rows]), CopyFormat::Rows);
    }

    #[test]
    fn ranges_that_contain_the_same_are_one() {
        let ranges = KeyRanges { column: "id".into(), bounds: vec![10, 20, 30, 40] };
        let contents = |kept: &[(usize, &str)]| {
            let kept = kept.iter().map(|(n, s)| (*n, (*s).to_owned())).collect();
            let (ranges, contents) = InRanges { ranges: ranges.clone(), kept }.contents("new");
            (ranges.bounds, contents.join(" "))
        };
        assert_eq!(contents(&[]), (vec![], "new".into()));
        assert_eq!(
            contents(&[(0, "a"), (1, "a"), (3, "a")]),
            (vec![20, 30, 40], "a new a new".into())
        );
        assert_eq!(contents(&[(1, "a"), (2, "b")]), (vec![10, 20, 30], "new a b new".into()));
        let all: Vec<_> = (0..5).map(|n| (n, "a")).collect();
        assert_eq!(contents(&all), (vec![], "a".into()));
    }

    #[test]
    fn no_row_is_copied_without_a_column() {
        let (narrow, wide) = (table("t", &["integer"]), table("t", &["integer", "text"]));
        assert!(has_room(&narrow, &wide).is_ok());
        assert_eq!(has_room(&wide, &narrow).unwrap_err().code(), Some("CUT0407"));
    }

    #[test]
    fn leaves_of_one_target_are_one_job() {
        let (a, b, c) = (table("a", &[]), table("b", &[]), table("c", &[]));
        let route = |s: &Table, t: &Table| Route { source: s.name.clone(), target: t.clone() };
        let jobs = jobs(&[route(&a, &c), route(&b, &c)], &[a.clone(), b.clone()]);
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0].sources, [a, b]);
    }
}

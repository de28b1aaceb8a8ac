//! The proof of a run: full passes, changed rows, known differences, repair, certificate.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use cutover_core::{
    model::{
        digest::RowKey,
        event::{Change, Relation, TransactionId},
        position::Position,
        schema::{Table, TableName},
        side::Side,
    },
    port::{PortError, Result, copy::Snapshot},
};

use super::{
    kept::Kept,
    known::Known,
    late::Late,
    pairs::{WHOLE_BEHIND_FENCE, sizes, sums, whole_within},
    pipes::Pipes,
    ports::Ports,
};
use crate::{
    stream::Witness,
    transform::{Mapping, Pair},
    verify::{
        Certificate, How, PassReport, TableReport, Verdict,
        full::{self, Aligned},
        ledger::Ledger,
        reading::{ReadingView, Readings},
        recent::{Recent, Settle, Step, unseen_yet},
        tail::{self, Mark},
    },
};

/// How long settling may take before the comparison is tried another time.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);
/// How long a committed transaction may take to become visible before the comparison is put off.
const VISIBLE_WITHIN: Duration = Duration::from_secs(2);
/// How long rows that somebody wrote where nobody may can take to be seen before all rows are
/// compared another time.
const UNSEEN_WITHIN: Duration = Duration::from_secs(2);
/// How long changed rows are compared before a pause.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(1);

/// From so many rows on a comparison says how fast rows are compared.
const MEASURED_FROM: u64 = 100;

/// Everything that is known about equality.
pub struct Proof {
    pub(super) ports: Ports,
    pub(super) mapping: Arc<Mapping>,
    pub(super) pairs: Arc<Vec<Pair>>,
    pub(super) ledger: Arc<Ledger>,
    recent: Recent,
    /// Up to which size a pair is read whole behind the fence of a switch, in bytes.
    whole: u64,
    readings: Readings,
    compared: AtomicU64,
    pub(super) kept: Kept,
    pub(super) late: Late,
    inner: Mutex<Known>,
}

/// A look at the proof.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ProofView {
    /// Position of the last full pass over everything.
    pub full_pass: Option<Position>,
    /// Rows it compared.
    pub rows: u64,
    /// Changed rows that wait for a comparison.
    pub pending: u64,
    /// Changed rows that were compared since this process started.
    pub compared: u64,
    /// Rows known to differ.
    pub different: u64,
    /// Tables with such rows.
    pub different_tables: Vec<String>,
    /// Tables that need another full comparison.
    pub whole: u64,
    /// The full comparison that is under way.
    pub reading: Option<ReadingView>,
}

impl Witness for Proof {
    fn begins(
        &self,
        from: Side,
        held: Option<&Position>,
        named: Option<&Position>,
    ) -> Option<Position> {
        // A stream from green notices first that another server took over there, when nothing goes to it.
        if from == Side::Blue || held != named {
            self.late.begins();
        }
        self.stream_begins(from, held, named)
    }

    fn passed(&self, from: Side, until: &Position) {
        self.ledger.passed(from, until);
    }

    fn applied(&self) {
        self.ledger.applied();
    }

    fn row(&self, from: Side, relation: &Relation, change: &Change, foreign: bool) {
        self.ledger.row(from, relation, change, foreign);
    }

    fn foreign(&self, from: Side, transaction: TransactionId, relation: &Relation) {
        self.ledger.foreign(from, transaction, relation);
    }

    fn early(&self, from: Side, transaction: TransactionId, relation: &Relation, change: &Change) {
        self.ledger.early(from, transaction, relation, change);
    }

    fn ended(&self, from: Side, transaction: TransactionId, committed: bool) {
        self.ledger.ended(from, transaction, committed);
    }

    fn truncated(&self, from: Side, relation: &Relation, _foreign: bool) {
        self.ledger.truncated(from, relation);
    }
}

impl Proof {
    /// Nothing is proven but what is `kept`. `budget`: bytes of changed keys to remember; `pause`: how
    /// long clients may wait for a switch.
    #[must_use]
    pub fn new(
        ports: Ports,
        mapping: Arc<Mapping>,
        budget: usize,
        pause: Duration,
        kept: Kept,
    ) -> Self {
        let pairs = Arc::clone(&mapping.pairs);
        let ledger = Arc::new(Ledger::new(&pairs, budget));
        let recent = Recent {
            pairs: Arc::clone(&pairs),
            ledger: Arc::clone(&ledger),
            blue: Arc::clone(&ports.blue.reader),
            green: Arc::clone(&ports.green.reader),
        };
        let known = Known {
            rows: vec![0; pairs.len()],
            owed: (0..pairs.len()).collect(),
            ..Known::default()
        };
        let proof = Self {
            ports,
            mapping,
            pairs,
            ledger,
            recent,
            whole: whole_within(pause),
            readings: Readings::default(),
            compared: AtomicU64::new(0),
            kept,
            late: Late::default(),
            inner: Mutex::new(known),
        };
        proof.go_on();
        proof
    }

    pub(super) fn compared(&self) -> u64 {
        self.compared.load(Ordering::Relaxed)
    }

    pub(super) fn add_compared(&self, rows: u64) {
        self.compared.fetch_add(rows, Ordering::Relaxed);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Known> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A look at it.
    #[must_use]
    pub fn view(&self) -> ProofView {
        let inner = self.lock();
        let tables = inner.pairs().into_iter().map(|i| self.pairs[i].name.to_string()).collect();
        ProofView {
            full_pass: inner.full().cloned(),
            rows: inner.rows(),
            pending: self.ledger.pending() as u64,
            compared: self.compared(),
            different: inner.count(),
            different_tables: tables,
            whole: self.ledger.whole().len() as u64,
            reading: self.readings.view(),
        }
    }

    /// Numbers of the pairs that hold one of `tables` (`schema.name`); all for none. The unknown
    /// names come back as an error.
    ///
    /// # Errors
    ///
    /// The names that no pair has.
    pub fn select(&self, tables: &[String]) -> std::result::Result<Vec<usize>, Vec<String>> {
        if tables.is_empty() {
            return Ok((0..self.pairs.len()).collect());
        }
        let (found, unknown): (Vec<_>, Vec<_>) =
            tables.iter().partition(|name| self.pairs.iter().any(|pair| pair.has(name)));
        if !unknown.is_empty() {
            return Err(unknown.into_iter().cloned().collect());
        }
        Ok(self.holding(&found))
    }

    /// The pairs that these tables are part of; a table that is gone is passed over.
    pub(super) fn pairs_of(&self, tables: &[TableName]) -> Vec<usize> {
        let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
        self.holding(&names.iter().collect::<Vec<_>>())
    }

    fn holding(&self, names: &[&String]) -> Vec<usize> {
        let chosen = |pair: &Pair| names.iter().any(|name| pair.has(name));
        (0..self.pairs.len()).filter(|&i| chosen(&self.pairs[i])).collect()
    }

    /// Compares every row of the chosen pairs at one position, until `given_up`.
    ///
    /// # Errors
    ///
    /// A read failed, or it was given up: nothing new is proven.
    pub async fn full(
        &self,
        pipes: &Pipes,
        owner: Side,
        chosen: &[usize],
        workers: usize,
        given_up: impl Future<Output = ()>,
    ) -> Result<PassReport> {
        let reading = self.readings.begin();
        let begun = self.late.begun();
        // Before any row is read: what is written anew from here on is seen later.
        self.look_for_rewrites().await?;
        let (pass, since, aligned) = pipes
            .aligned(owner, |position, mine| async move {
                // What is recorded so far is part of what is about to be read.
                let pass = self.ledger.restart(chosen);
                let since = self.lock().now();
                // Else it would not be in the snapshot either.
                let unseen = self.recent.unseen(UNSEEN_WITHIN).await?;
                if chosen.iter().any(|i| unseen.contains(i)) {
                    return Err(unseen_yet());
                }
                let other: Arc<dyn Snapshot> =
                    Arc::from(self.ports.side(owner.other()).source.snapshot().await?);
                Ok((pass, since, Aligned::of(owner, position, mine, other)))
            })
            .await?;
        let pairs: Vec<Pair> = chosen.iter().map(|&i| self.pairs[i].clone()).collect();
        // At once: tables grow.
        let scattered: Vec<bool> = chosen.iter().map(|i| self.ledger.scattered(*i)).collect();
        let marks = tail::marks(&aligned, &pairs, &scattered).await?;
        // Whatever the rows of a copy lacked, the stream has brought by now.
        self.build_late_if_rows_let(begun).await?;
        let marks: Vec<Option<Arc<Mark>>> =
            marks.into_iter().map(|mark| mark.map(Arc::new)).collect();
        let all = chosen.len() == self.pairs.len();
        // At once: what is known of a pair outlives the rest of the pass.
        let done = |n: usize, table: &TableReport| {
            // It waits on, as what a pass does not come to.
            if table.verdict == Verdict::Inconclusive {
                return;
            }
            let i = chosen[n];
            let unnamed = table.different > table.differences.len() as u64;
            let doubtful = self.lock().learn(i, table, &aligned.position, (since, all));
            self.ledger.put_back(i, doubtful);
            // Behind it: a file that is begun anew in between has both.
            let found = table.differences.iter().map(|d| Some(&d.key));
            found.chain(unnamed.then_some(None)).for_each(|key| self.ledger.found(i, key));
            let equal = table.verdict == Verdict::Equal;
            pass.finish(n, marks[n].clone().filter(|_| equal));
        };
        let report = tokio::select! {
            report = full::pass(&aligned, &pairs, workers, &reading, &done) => report?,
            () = given_up => {
                let nobody = "whoever asked for it has left";
                return Err(PortError::transient("comparing every row", nobody));
            }
        };
        self.save();
        Ok(report)
    }

    /// Compares some changed rows; `false` when none waits.
    ///
    /// # Errors
    ///
    /// A read failed; the rows wait again.
    pub async fn step(&self, settle: &dyn Settle) -> Result<bool> {
        let _until_noted = self.ledger.comparing();
        let Some(step) = self.recent.step(settle).await? else { return Ok(false) };
        // A few rows say more about round trips than about rows.
        if step.count() >= MEASURED_FROM {
            let now = step.count() as f64 / step.read_in.as_secs_f64().max(1e-6);
            // One slow read on a busy machine is not the speed of the next.
            let mut inner = self.lock();
            inner.rate = Some(inner.rate.map_or(now, |before| now.max(before * 0.7)));
        }
        self.note(step);
        Ok(true)
    }

    /// Compares some changed rows in one look, without waiting for the streams.
    ///
    /// # Errors
    ///
    /// A read failed; the rows wait again.
    pub async fn glance(&self) -> Result<()> {
        let _until_noted = self.ledger.comparing();
        let step = self.recent.glance().await?;
        self.note(step);
        Ok(())
    }

    /// What a step found is known from here on.
    fn note(&self, step: Step) {
        self.add_compared(step.count());
        let mut found: BTreeMap<usize, u64> = BTreeMap::new();
        step.different.iter().for_each(|(pair, _)| *found.entry(*pair).or_default() += 1);
        for (pair, rows) in found {
            let name = &self.pairs[pair].name;
            let differ = match rows {
                1 => format!("a row of {name} differs"),
                _ => format!("{rows} rows of {name} differ"),
            };
            tracing::error!(table = %name, "CUT0601: {differ} between blue and green");
        }
        self.lock().note(step);
    }

    /// Compares what waits now, for a second at most, and makes the readers ready for
    /// [`Proof::behind_fence`].
    ///
    /// # Errors
    ///
    /// A read failed; the rows wait again.
    pub async fn catch_up(&self, settle: &dyn Settle) -> Result<()> {
        // Tables that changed lately are the ones that change now.
        let latest = self.ledger.latest();
        let known: HashSet<usize> = latest.iter().copied().collect();
        let others = (0..self.pairs.len()).filter(|i| !known.contains(i));
        let order: Vec<usize> = latest.iter().copied().chain(others).collect();
        let of = |side: fn(&Pair) -> &Vec<Table>| -> Vec<&Table> {
            order.iter().flat_map(|i| side(&self.pairs[*i])).collect()
        };
        let (blue, green) = (of(|p| &p.blue), of(|p| &p.green));
        tokio::try_join!(
            self.ports.blue.reader.get_ready(&blue),
            self.ports.green.reader.get_ready(&green)
        )?;
        let until = Instant::now() + CATCH_UP_WITHIN;
        let (mut done, waiting) = (0, self.ledger.pending() as u64);
        while done < waiting && Instant::now() < until {
            let before = self.compared();
            if !self.step(settle).await? {
                break;
            }
            done += self.compared() - before;
        }
        Ok(())
    }

    /// How full the ledger of changed rows is, from 0 to 1.
    #[must_use]
    pub fn filled(&self) -> f64 {
        self.ledger.filled()
    }

    /// Changed rows compared per second, as last measured.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        self.lock().rate
    }

    /// Number of pairs.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.pairs.len()
    }

    /// Pairs that need another full comparison.
    #[must_use]
    pub fn whole(&self) -> Vec<usize> {
        self.ledger.whole()
    }

    /// Those of them that nobody reads at this moment, once every pair was compared; before, those of
    /// all pairs that were not.
    pub(super) fn due(&self) -> Vec<usize> {
        match self.passed() {
            true => self.ledger.unread(),
            false => {
                let read = self.ledger.read();
                self.unpassed().into_iter().filter(|i| !read.contains(i)).collect()
            }
        }
    }

    /// Whether every pair was compared as a whole, by this process or by one before it.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.lock().full().is_some() && self.ledger.has_begun()
    }

    /// The pairs that were not.
    #[must_use]
    pub fn unpassed(&self) -> Vec<usize> {
        self.lock().owed.iter().copied().collect()
    }

    /// Which of these pairs were too large, when they were looked at, to be read whole behind the
    /// fence of `owner`. Who goes back is not refused for want of a comparison, and waits for little.
    pub(super) fn large_of(&self, owner: Side, chosen: &[usize]) -> Vec<usize> {
        let most = if owner == Side::Blue { self.whole } else { WHOLE_BEHIND_FENCE };
        let sizes = &self.lock().sizes;
        let large = |i: &usize| sizes.get(i).is_some_and(|bytes| *bytes > most);
        chosen.iter().copied().filter(large).collect()
    }

    /// Bytes that are read behind the fence of tables that no key proves, as they are known now.
    #[must_use]
    pub fn read_behind_fence(&self, owner: Side) -> u64 {
        let whole = self.ledger.whole();
        let large = self.large_of(owner, &whole);
        let bytes = |i: usize| match self.short_end(i) {
            Some(end) => end.growth.bytes,
            // It refuses the move.
            None if large.contains(&i) => 0,
            None => self.lock().sizes.get(&i).copied().unwrap_or(0),
        };
        whole.into_iter().map(bytes).sum()
    }

    /// Compares what is left behind the fence of `owner` and says what is proven. Both sides stand
    /// still, and were looked at since.
    ///
    /// # Errors
    ///
    /// A read failed.
    pub async fn behind_fence(&self, owner: Side) -> Result<Certificate> {
        let _until_noted = self.ledger.comparing();
        let before = self.compared();
        let whole = self.ledger.whole();
        let new = |i: &usize| !self.lock().sizes.contains_key(i);
        let new: Vec<usize> = whole.iter().copied().filter(new).collect();
        if !new.is_empty() {
            let sizes = sizes(&self.ports, &self.pairs, &new).await?;
            self.lock().sizes.extend(sizes);
        }
        let large = self.large_of(owner, &whole);
        let small = whole.iter().copied().filter(|i| !large.contains(i));
        let (growing, small): (Vec<_>, Vec<_>) = small.partition(|i| self.short_end(*i).is_some());
        // All at once: inside the pause round trips count.
        let recent = async {
            let step = self.recent.behind_fence().await?;
            let count = step.count();
            // At once: whatever fails or is given up beside it, this is known.
            self.note(step);
            Ok::<u64, PortError>(count)
        };
        let (behind_fence, ends, unequal) = tokio::join!(
            recent,
            self.ends(large.iter().copied().chain(growing).collect()),
            self.unequal(&small),
        );
        let (behind_fence, ends, mut unequal) = (behind_fence?, ends?, unequal?);
        unequal.extend(ends.different);
        // Where the ends say nothing, small tables are read after all.
        let (unproven, short): (Vec<_>, Vec<_>) =
            ends.unproven.into_iter().partition(|i| large.contains(i));
        unequal.extend(self.unequal(&short).await?);
        let names = |chosen: &[usize]| chosen.iter().map(|i| self.pairs[*i].name.clone()).collect();
        let unproven: Vec<TableName> = names(&unproven);
        let mut different: BTreeSet<TableName> = names(&unequal).into_iter().collect();
        let inner = self.lock();
        // What was read just now is known better than from the last pass.
        let read = |i: &usize| (small.contains(i) || short.contains(i)) && !unequal.contains(i);
        let known = inner.pairs().into_iter().filter(|i| inner.is_named(*i) || !read(i));
        different.extend(names(&known.collect::<Vec<_>>()));
        let verdict = if !different.is_empty() {
            Verdict::Different
        } else if inner.full().is_none() || !unproven.is_empty() {
            Verdict::Inconclusive
        } else {
            Verdict::Equal
        };
        Ok(Certificate {
            full_pass: inner.full().cloned(),
            rows: inner.rows(),
            tables: inner.full().map_or(0, |_| self.pairs.len() as u64),
            changed_rows: before + behind_fence,
            behind_fence,
            unproven,
            different: different.into_iter().collect(),
            verdict,
        })
    }

    /// Which of these pairs do not hold the same rows. Both sides stand still.
    async fn unequal(&self, chosen: &[usize]) -> Result<Vec<usize>> {
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        let pairs: Vec<&Pair> = chosen.iter().map(|i| &self.pairs[*i]).collect();
        let (blue, green) = tokio::try_join!(
            sums(&self.ports.blue.reader, &pairs, |p| &p.blue),
            sums(&self.ports.green.reader, &pairs, |p| &p.green)
        )?;
        let unequal = chosen.iter().zip(blue.iter().zip(&green)).filter(|(_, (b, g))| b != g);
        Ok(unequal.map(|(i, _)| *i).collect())
    }

    /// What is known to differ, with keys, for whoever asked for them.
    #[must_use]
    pub fn differences(&self) -> Vec<(TableName, RowKey, How)> {
        let inner = self.lock();
        let all = inner.different.iter().flat_map(|(i, keys)| keys.iter().map(move |k| (i, k)));
        all.map(|(i, (key, (how, _)))| (self.pairs[*i].name.clone(), key.clone(), *how)).collect()
    }
}

/// Settles both directions by a marker in each log.
pub struct BothLogs<'a>(pub &'a Pipes);

#[async_trait]
impl Settle for BothLogs<'_> {
    async fn visible(&self) -> Result<bool> {
        self.0.visible(VISIBLE_WITHIN).await
    }

    async fn settle(&self) -> Result<()> {
        tokio::try_join!(
            self.0.marker(Side::Blue, SETTLE_WITHIN),
            self.0.marker(Side::Green, SETTLE_WITHIN)
        )?;
        Ok(())
    }
}

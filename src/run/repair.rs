//! Repair: rows that are known to differ are copied again; and where a stream has stopped at a row,
//! its whole table, so that the stream can leave out what the copy contains.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cutover_core::{
    model::{
        digest::RowKey,
        finding::Severity,
        schema::{Counterparts, Table, TableName},
        side::Side,
    },
    port::{
        PortError, Result,
        copy::{CopyChunk, CopyFormat, CopyStream, Opened, Range, Snapshot},
        sink::Route,
    },
};

use super::{fact::Fact, live::Live, perform::Asked, pipes::Pipes, proof::Proof};
use crate::{
    copy::in_order_of,
    error::{Exit, Failure},
    preflight,
    stream::{Health, Policy},
    transform::Pair,
};

/// How often a stream that goes on behind a copy is looked at.
const FOLLOWED_EVERY: Duration = Duration::from_millis(100);
/// How long the owner of the writes may take to hold a position behind a repair, and how often the log
/// moves on meanwhile.
const HELD_WITHIN: Duration = Duration::from_secs(60);
const HELD_EVERY: Duration = Duration::from_millis(500);

impl Live {
    /// The table at one of whose rows the stream from `owner` has stopped, if a copy helps.
    pub(super) fn spoiled(&self, owner: Side) -> Option<TableName> {
        match self.pipes.from(owner).view().health {
            Health::Stopped { spoiled, .. } => spoiled,
            _ => None,
        }
    }

    /// Has this table and those of `chosen` pairs emptied and copied again, after which the stream
    /// goes on. `asked` is to be told what came of it when that is done.
    ///
    /// # Errors
    ///
    /// The table was copied again for it already; the other side is not defined so that it could
    /// take the rows; the journal cannot be written.
    pub(super) async fn copy_again(
        &self,
        owner: Side,
        spoiled: TableName,
        chosen: &[usize],
        asked: &mut Asked,
    ) -> std::result::Result<(), Failure> {
        let other = owner.other();
        if asked.copied.contains(&spoiled) {
            return Err(Failure::new(format!(
                "the stream from {owner} has stopped at {spoiled} again, which was copied a moment \
                 ago"
            ))
            .code("CUT0603")
            .remedy(format!(
                "find out who writes to {other} (CUT0405: who empties the table in parts), then \
                 `cutover verify --repair` again"
            )));
        }
        let mut tables = vec![spoiled];
        for pair in chosen.iter().map(|i| &self.proof.pairs[*i]) {
            let receiving = if owner == Side::Blue { &pair.green } else { &pair.blue };
            tables.extend(receiving.iter().map(|t| t.name.clone()));
        }
        tables.sort_unstable();
        tables.dedup();
        tables.retain(|table| !asked.copied.contains(table));
        self.may_be_copied(owner, &tables).await?;
        self.book.note(Fact::Outdated { from: owner, tables: tables.clone() })?;
        self.pipes.from(owner).look_anew();
        let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
        let text = format!(
            "the stream from {owner} has stopped: {} is emptied on {other} and copied again, with or \
             without this command",
            names.join(", ")
        );
        tracing::warn!("{text}");
        asked.responder.progress(text);
        asked.copied.extend(tables);
        Ok(())
    }

    /// Whether preparing the streams again would come as far as to the copy of `tables`, and they
    /// can take it. What is refused here leaves everything as it is; there it would end the process.
    async fn may_be_copied(
        &self,
        owner: Side,
        tables: &[TableName],
    ) -> std::result::Result<(), Failure> {
        let (here, there) = (self.ports.side(owner), self.ports.side(owner.other()));
        let from = here.source.definitions(&self.selection).await?;
        let to = there.source.definitions(&self.selection).await?;
        let now = here.primary.fingerprint(&self.selection).await?;
        let blue = owner == Side::Blue;
        // Where no stream tells of them, all changes of blue have to be on green.
        let all = blue && !self.told[0] && now != **self.book.standing().definitions(owner);
        let makes = blue && self.policy == Policy::Apply;
        let targets = Counterparts::new(&to);
        let looked: Vec<Table> = from
            .into_iter()
            .filter(|table| match targets.of(table) {
                Some(target) => all || (!makes && tables.contains(&target.name)),
                None => blue && self.policy == Policy::Stop,
            })
            .collect();
        let mut findings = preflight::compare_tables(&looked, &to, owner.other(), false);
        findings
            .retain(|f| f.severity == Severity::Error && (all || f.code != preflight::OTHER_KEY));
        if findings.is_empty() {
            return Ok(());
        }
        let (what, remedies): (Vec<_>, Vec<_>) =
            findings.into_iter().map(|f| (f.what, f.remedy)).unzip();
        let other = owner.other();
        Err(Failure::new(format!(
            "nothing is copied again while {other} is not defined as {owner} is: {}",
            what.join("; ")
        ))
        .code("CUT0605")
        .remedy(format!(
            "make the change on {other}, then `cutover verify --repair` again: {}",
            remedies.join(" ")
        ))
        .exit(Exit::No))
    }

    /// Waits until the stream from `owner` has caught up behind a copy, or has stopped at another
    /// row. `false` when it has to be prepared anew.
    ///
    /// # Errors
    ///
    /// The stream has stopped for another reason; whoever asked has left, so that nobody waits.
    pub(super) async fn followed_again(
        &self,
        owner: Side,
        asked: &Asked,
    ) -> std::result::Result<bool, Failure> {
        asked.responder.progress(format!("copied; following what {owner} did meanwhile"));
        loop {
            if self.redefined() {
                return Ok(false);
            }
            match self.pipes.from(owner).view().health {
                Health::Stopped { spoiled: Some(_), .. } => return Ok(true),
                Health::Stopped { code, what, remedy, .. } => {
                    return Err(Failure::new(what).code(&code).remedy(remedy));
                }
                _ if self.caught_up() => return Ok(true),
                _ if asked.responder.is_closed() => {
                    return Err(Failure::new("whoever asked for the repair has left"));
                }
                _ => tokio::time::sleep(FOLLOWED_EVERY).await,
            }
        }
    }

    /// Waits until `owner` holds a position of the other side's log behind a repair. A server that takes
    /// over there and lacks the repaired rows is not followed then; before, nobody would notice.
    pub(super) async fn repair_is_held(&self, owner: Side) -> std::result::Result<(), Failure> {
        let other = owner.other();
        let pipe = self.pipes.from(other);
        let wait = async {
            let there = self.pipes.heartbeat(other).await?;
            loop {
                let view = pipe.view();
                let held = view.stored.is_some_and(|stored| stored.covers(&there) == Ok(true));
                // One that has stopped is told, and refuses every move by itself.
                if held || matches!(view.health, Health::Stopped { .. }) {
                    return Ok(());
                }
                tokio::time::sleep(HELD_EVERY).await;
                // Something behind it has to arrive.
                self.pipes.heartbeat(other).await?;
            }
        };
        let held = tokio::time::timeout(HELD_WITHIN, wait).await.unwrap_or_else(|_| {
            Err(PortError::transient(
                format!("noting on {owner} that rows were repaired on {other}"),
                format!("the stream from {other} does not come there; compare again"),
            ))
        });
        held.map_err(Failure::from)
    }
}

impl Proof {
    /// Copies the rows that are known to differ again, from the owner to the other side, while
    /// the stream stands still; the whole table where they have no names, or not all of them.
    /// Returns rows written. What was repaired is to be verified again.
    ///
    /// # Errors
    ///
    /// A read or a write failed, or it was given up; what was repaired before stays repaired.
    pub async fn repair(
        &self,
        pipes: &Pipes,
        owner: Side,
        chosen: &[usize],
        given_up: impl Future<Output = ()>,
    ) -> Result<u64> {
        let work = self.lock().keys_in(chosen);
        if work.is_empty() {
            return Ok(0);
        }
        let left = Arc::new(AtomicBool::new(false));
        let repair = pipes.aligned(owner, |_, snapshot| {
            let left = &left;
            async move {
                let mut written = 0;
                for (i, keys) in &work {
                    let keys = keys.as_deref().filter(|_| self.pairs[*i].keyed);
                    written += self.repair_pair(pipes, owner, (&snapshot, left), *i, keys).await?;
                }
                Ok(written)
            }
        });
        tokio::pin!(repair);
        tokio::select! {
            done = &mut repair => return done,
            () = given_up => left.store(true, Ordering::Relaxed),
        }
        // It ends at the next row: the stream must not be let go in the middle of it.
        repair.await
    }

    async fn repair_pair(
        &self,
        pipes: &Pipes,
        owner: Side,
        (snapshot, left): (&Arc<dyn Snapshot>, &Arc<AtomicBool>),
        i: usize,
        keys: Option<&[RowKey]>,
    ) -> Result<u64> {
        let pair = &self.pairs[i];
        let routes = match owner {
            Side::Blue => &self.mapping.forward,
            Side::Green => &self.mapping.back,
        };
        let mut written = 0;
        for (target, sources) in targets(pair, owner, routes) {
            let rows = Box::new(Chain {
                snapshot: Arc::clone(snapshot),
                left: Arc::clone(left),
                keys: keys.map(<[RowKey]>::to_vec),
                sources: sources.into_iter().cloned().collect(),
                open: None,
            });
            written +=
                pipes.from(owner).replace(&target, keys, CopyFormat::PostgresText, rows).await?;
        }
        Ok(written)
    }
}

/// Which tables of the other side have rows removed, and which tables of `owner` they get rows from
/// instead. What is removed from one is no row that another one has just got.
fn targets<'a>(pair: &'a Pair, owner: Side, routes: &[Route]) -> Vec<(Table, Vec<&'a Table>)> {
    let mut targets: BTreeMap<TableName, (Table, Vec<&Table>)> = BTreeMap::new();
    for source in pair.side(owner) {
        if let Some(route) = routes.iter().find(|r| r.source == source.name) {
            let target = Table {
                identity: source.identity.clone(),
                primary_key: source.primary_key.clone(),
                ..in_order_of(source, &route.target)
            };
            let (_, sources) =
                targets.entry(target.name.clone()).or_insert_with(|| (target, Vec::new()));
            sources.push(source);
        }
    }
    if let Some((root, _)) = targets.remove(&pair.name) {
        // It takes the rows of all of its leaves, and loses those of all of them.
        let sources = pair.side(owner).iter();
        return vec![(
            root,
            sources.filter(|s| routes.iter().any(|r| r.source == s.name)).collect(),
        )];
    }
    // Leaves that only the other side has.
    for table in pair.side(owner.other()) {
        targets.entry(table.name.clone()).or_insert_with(|| (table.clone(), Vec::new()));
    }
    targets.into_values().collect()
}

/// Several reads as one, one after the other: each takes a session. Only for text, which has no
/// header.
struct Chain {
    snapshot: Arc<dyn Snapshot>,
    /// Nobody waits for the rows any more.
    left: Arc<AtomicBool>,
    /// Rows with these keys; `None`: all of them.
    keys: Option<Vec<RowKey>>,
    sources: Vec<Table>,
    open: Option<Box<dyn CopyStream>>,
}

impl Chain {
    async fn read(&mut self, source: &Table) -> Result<Box<dyn CopyStream>> {
        let range = match &self.keys {
            Some(keys) => self.snapshot.keys_range(source, keys).await?,
            None => Range { condition: String::new(), bytes: source.bytes },
        };
        let opened = self.snapshot.read(source, &range, CopyFormat::PostgresText).await?;
        if matches!(opened, Opened::Emptied(_)) {
            // What came to its rows before that is in the stream, and would find no row.
            let doing = format!("copying rows of {} again", source.name);
            return Err(PortError::transient(doing, "it was emptied since; compare again"));
        }
        opened.rows()
    }
}

#[async_trait]
impl CopyStream for Chain {
    async fn next(&mut self) -> Result<Option<CopyChunk>> {
        loop {
            if self.left.load(Ordering::Relaxed) {
                let why = "whoever asked for it has left";
                return Err(PortError::transient("repairing rows", why));
            }
            if let Some(stream) = &mut self.open {
                if let Some(chunk) = stream.next().await? {
                    return Ok(Some(chunk));
                }
                self.open = None;
            }
            let Some(source) = self.sources.pop() else { return Ok(None) };
            self.open = Some(self.read(&source).await?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{transform::map, verify::ledger::tests::pair};

    /// Leaves of `t` with these names.
    fn leaves(names: &[&str]) -> Vec<Table> {
        let root = Some(TableName::new("s", "t"));
        let leaf = |name: &&str| Table {
            root: root.clone(),
            ..pair(TableName::new("s", *name)).blue.remove(0)
        };
        names.iter().map(leaf).collect()
    }

    /// Targets and where their rows come from.
    fn told(blue: &[&str], green: &[&str]) -> Vec<String> {
        let mapping = map(&leaves(blue), &leaves(green)).unwrap();
        let pairs = mapping.pairs.iter();
        let all = pairs.flat_map(|pair| targets(pair, Side::Blue, &mapping.forward));
        all.map(|(target, sources)| {
            let sources: Vec<&str> = sources.iter().map(|s| &*s.name.name).collect();
            format!("{} < {}", target.name.name, sources.join(" "))
        })
        .collect()
    }

    #[test]
    fn what_is_copied_again_is_not_removed_again_whatever_the_leaves() {
        assert_eq!(told(&["a", "b"], &["a", "b"]), ["a < a", "b < b"]);
        // A row of `b` comes to a leaf of green that has another name.
        assert_eq!(told(&["a", "b"], &["a", "c"]), ["t < a b"]);
        assert_eq!(told(&["a", "b"], &["c", "d"]), ["t < a b"]);
        // Rows may be where blue has no leaf.
        assert_eq!(told(&["a", "b"], &["a", "b", "c"]), ["a < a", "b < b", "c < "]);
    }
}

//! Large tables are copied in ranges of their key, so that a copy that was cut off goes on where it
//! was: what is there stays, and only the other ranges are copied, under a later snapshot.

use std::collections::{BTreeMap, HashMap};

use cutover_core::{
    model::{
        schema::{Table, TableName},
        side::Side,
    },
    port::{
        copy::{Keyed, Snapshot},
        source::Since,
    },
};
use futures_util::future::try_join_all;

use super::{
    error::RunError,
    fact::{Carried, Fact},
    owed::{Copies, Cut},
    prepare::{Definitions, Preparation},
};
use crate::copy::{InRanges, Job};

/// Smaller tables are copied again as a whole within a minute or so, and blue works a quarter more
/// for rows that it finds by an index: so many ranges at least,
const RANGES: u64 = 64;
/// or so many bytes in ranges that were asked to be large, of which there are some.
const LARGE: u64 = 4 << 30;
const LARGE_RANGES: u64 = 4;

/// Bytes from which on a table is worth to be copied in ranges of `chunk` bytes.
fn worth(chunk: u64) -> u64 {
    RANGES.saturating_mul(chunk).min(LARGE_RANGES.saturating_mul(chunk).max(LARGE))
}

impl Preparation {
    /// Whether what was copied in part before a failover can stay: the server that took over has all
    /// that the last snapshot contained.
    ///
    /// # Errors
    ///
    /// It cannot be asked now; or finished tables cannot stay either, and the run has to end.
    pub(super) async fn parts_may_stay(
        &self,
        from: Side,
        copies: &Copies,
    ) -> Result<bool, RunError> {
        let Some(until) = copies.began.as_ref() else { return Ok(!copies.cut.is_empty()) };
        if !copies.unsettled && copies.cut.is_empty() {
            return Ok(false);
        }
        match self.ports.side(from).source.rebase(until).await {
            Ok(_) => Ok(true),
            Err(e) if copies.unsettled || e.is_transient() => Err(e.into()),
            Err(e) => {
                tracing::info!(%from, "tables that were copied in part are copied again: {e}");
                Ok(false)
            }
        }
    }

    /// The jobs whose copies go on, by their targets, with the ranges that are there.
    pub(super) async fn go_on(
        &self,
        from: Side,
        todo: &[Job],
        since: &Since,
        snapshot: &dyn Snapshot,
    ) -> Result<HashMap<TableName, InRanges>, RunError> {
        let sink = &self.ports.side(from.other()).sink;
        let standing = self.book.standing();
        let copies = standing.copies(from);
        let begun = todo.iter().filter(|job| copies.cut.contains_key(&job.target.name)).collect();
        let mut all = HashMap::new();
        for (job, keyed) in keyed(snapshot, begun).await? {
            let target = &job.target.name;
            if !self.can_be_joined(from, job, &keyed) {
                continue;
            }
            let Some(Cut { ranges, .. }) = copies.goes_on(job, &keyed, since) else { continue };
            if !sink.takes_parts(&job.target, &keyed.column).await? {
                continue;
            }
            let there = sink.parts(&self.run, &job.target).await?;
            let rows = there.iter().map(|part| part.rows).sum();
            let kept: BTreeMap<usize, String> = there
                .into_iter()
                .filter_map(|there| Some((usize::try_from(there.part.number).ok()?, there.part)))
                .map(|(number, part)| (number, part.snapshot))
                .collect();
            if kept.is_empty() || kept.keys().any(|number| *number >= ranges.count()) {
                continue;
            }
            tracing::info!(
                table = %target, kept = kept.len(), of = ranges.count(),
                "ranges of it are there already: its copy goes on"
            );
            self.progress.kept(target, kept.len() as u64, ranges.count() as u64, rows);
            all.insert(target.clone(), InRanges { ranges: ranges.clone(), kept });
        }
        Ok(all)
    }

    /// Whether nothing on the other side is in the way of ranges of several snapshots before the
    /// stream has joined them. Who makes green's indexes ourselves lets those wait for it; of
    /// partitions they are made with what they are part of.
    fn can_be_joined(&self, from: Side, job: &Job, keyed: &Keyed) -> bool {
        let source = &job.sources[0];
        let waits = from == Side::Blue
            && !self.book.standing().after_rows
            && matches!(self.definitions, Definitions::Copy { .. })
            && source.root.is_none();
        source.root == job.target.root && (keyed.alone || waits)
    }

    /// Cuts those jobs that can be copied in ranges, and are worth it.
    pub(super) async fn cut(
        &self,
        from: Side,
        todo: &[&Job],
        since: &Since,
        snapshot: &dyn Snapshot,
    ) -> Result<HashMap<TableName, InRanges>, RunError> {
        let sink = &self.ports.side(from.other()).sink;
        let large = |job: &&&Job| {
            matches!(&job.sources[..], [source] if source.bytes >= worth(self.chunk)
                && since.contains_key(&source.name))
        };
        let ranges =
            async |job: &Job, column: &str| match sink.takes_parts(&job.target, column).await? {
                true => snapshot.by_key(&job.sources[0], column, self.chunk).await,
                false => Ok(None),
            };
        let (mut all, mut facts) = (HashMap::new(), Vec::new());
        let mut keyed = keyed(snapshot, todo.iter().filter(large).copied().collect()).await?;
        keyed.retain(|(job, keyed)| self.can_be_joined(from, job, keyed));
        for some in keyed.chunks(self.workers.max(1)) {
            let found = some.iter().map(|(job, keyed)| ranges(job, &keyed.column));
            for ((job, keyed), ranges) in some.iter().zip(try_join_all(found).await?) {
                let Some(ranges) = ranges else { continue };
                let (source, table) = (job.sources[0].name.clone(), job.target.name.clone());
                let since = since.get(&source).cloned().unwrap_or_default();
                facts.push(Fact::Cut {
                    table: table.clone(),
                    from,
                    source: Carried { table: source, since },
                    ranges: ranges.clone(),
                    definition: keyed.definition.clone(),
                });
                all.insert(table, InRanges { ranges, kept: BTreeMap::new() });
            }
        }
        if !facts.is_empty() {
            self.book.note_all(&facts)?;
        }
        Ok(all)
    }
}

/// The jobs that ranges of a key can be read for, with what makes it possible.
async fn keyed<'a>(
    snapshot: &dyn Snapshot,
    jobs: Vec<&'a Job>,
) -> Result<Vec<(&'a Job, Keyed)>, RunError> {
    let jobs: Vec<&Job> = jobs.into_iter().filter(|job| job.sources.len() == 1).collect();
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let tables: Vec<&Table> = jobs.iter().map(|job| &job.sources[0]).collect();
    let keyed = snapshot.keyed(&tables).await?;
    Ok(jobs.into_iter().zip(keyed).filter_map(|(job, keyed)| Some((job, keyed?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_again_soon_is_not_cut() {
        const MIB: u64 = 1 << 20;
        for (chunk, from) in [
            (MIB, 64 * MIB),
            (64 * MIB, 4 << 30),
            (256 * MIB, 4 << 30),
            (1 << 30, 4 << 30),
            (16 << 30, 64 << 30),
            (u64::MAX, u64::MAX),
        ] {
            assert_eq!(worth(chunk), from, "{chunk}");
        }
    }
}

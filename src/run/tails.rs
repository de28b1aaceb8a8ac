//! Tables without a key that only grow: proven by what is at their ends.

use std::sync::Arc;

use cutover_core::{
    model::side::Side,
    port::{Result, copy::Snapshot},
};

use super::{live::Live, pairs::WHOLE_BEHIND_FENCE, pipes::Pipes, proof::Proof};
use crate::{
    transform::Pair,
    verify::{
        Verdict,
        full::Aligned,
        recent::Settle,
        tail::{self, Grown, Place},
    },
};

/// Ends that grew longer than this in the stream, in bytes, are compared before a move: a
/// millisecond or two of a pause.
const SHORT: u64 = 512 << 10;

/// What the ends of tables say behind the fence.
#[derive(Default)]
pub(super) struct Said {
    /// Pairs of which nothing is proven.
    pub(super) unproven: Vec<usize>,
    /// Pairs with rows that differ.
    pub(super) different: Vec<usize>,
}

impl Proof {
    /// Tables that can be proven by a full comparison only, and are too large for one behind the
    /// fence of `owner`.
    #[must_use]
    pub fn unread(&self, owner: Side) -> Vec<String> {
        self.large_of(owner, &self.ledger.whole())
            .into_iter()
            .filter(|i| self.short_end(*i).is_none())
            .map(|i| self.pairs[i].name.to_string())
            .collect()
    }

    /// A pair that has only grown since its mark, and by so little that it is read in a pause.
    pub(super) fn short_end(&self, pair: usize) -> Option<Grown> {
        let short = |grown: &Grown| grown.growth.bytes <= WHOLE_BEHIND_FENCE && !grown.elsewhere;
        self.ledger.grown(pair).filter(short)
    }

    fn named<'a>(&'a self, grown: &'a [(usize, Grown)]) -> Vec<(&'a Pair, &'a Grown)> {
        grown.iter().map(|(i, grown)| (&self.pairs[*i], grown)).collect()
    }

    fn missed(&self, pair: usize) {
        tracing::info!(table = %self.pairs[pair].name, "rows came elsewhere than at its end");
        self.ledger.missed(pair);
    }

    /// What the ends of these pairs prove behind the fence. Both sides stand still.
    ///
    /// # Errors
    ///
    /// A read failed.
    pub(super) async fn ends(&self, chosen: Vec<usize>) -> Result<Said> {
        let mut said = Said::default();
        let mut grown = Vec::new();
        for i in chosen {
            match self.short_end(i) {
                Some(end) => grown.push((i, end)),
                None => said.unproven.push(i),
            }
        }
        let (blue, green) = (&self.ports.blue.reader, &self.ports.green.reader);
        let gains = tail::gains(&**blue, &**green, Place::End, &self.named(&grown)).await?;
        for ((i, grown), gains) in grown.into_iter().zip(gains) {
            match tail::verdict(gains, grown.growth) {
                Verdict::Equal => {}
                Verdict::Different => said.different.push(i),
                Verdict::Inconclusive => {
                    self.missed(i);
                    said.unproven.push(i);
                }
            }
        }
        Ok(said)
    }

    /// Looks whether the rows that came are at the ends of their tables, before anybody waits for
    /// the answer. Where they are not, large ones need another comparison, and others are read
    /// whole.
    ///
    /// # Errors
    ///
    /// A read failed, or the streams do not catch up.
    pub async fn look_at_ends(&self, settle: &dyn Settle) -> Result<()> {
        let whole = self.ledger.whole();
        let grown: Vec<(usize, Grown)> =
            whole.into_iter().filter_map(|i| Some((i, self.short_end(i)?))).collect();
        if grown.is_empty() {
            return Ok(());
        }
        // What was counted is there then, and may be more by now.
        settle.settle().await?;
        if !settle.visible().await? {
            return Ok(());
        }
        let (blue, green) = (&self.ports.blue.reader, &self.ports.green.reader);
        let gains = tail::gains(&**blue, &**green, Place::End, &self.named(&grown)).await?;
        for ((i, grown), gains) in grown.into_iter().zip(gains) {
            if gains.iter().flatten().any(|gain| !gain.reaches(grown.growth.rows)) {
                self.missed(i);
            }
        }
        Ok(())
    }

    /// Compares what pairs of `chosen` have gained that are large or grew by much, at one position,
    /// and remembers their ends there. Returns those that have to be compared as a whole.
    ///
    /// # Errors
    ///
    /// A read failed: nothing new is proven.
    pub async fn follow_ends(
        &self,
        pipes: &Pipes,
        owner: Side,
        mut chosen: Vec<usize>,
    ) -> Result<Vec<usize>> {
        let growing = || -> Vec<usize> {
            let large = self.large_of(owner, &chosen);
            let worth = |i: &usize, end: Grown| large.contains(i) || end.growth.bytes > SHORT;
            let ends = |i: &usize| self.ledger.grown(*i).is_some_and(|end| worth(i, end));
            chosen.iter().copied().filter(ends).collect()
        };
        if growing().is_empty() {
            return Ok(chosen);
        }
        // Before any row is read: what is written anew from here on is seen later.
        self.look_for_rewrites().await?;
        let growing = growing();
        if growing.is_empty() {
            return Ok(chosen);
        }
        let (passes, grown, aligned) = pipes
            .aligned(owner, |position, mine| {
                let growing = &growing;
                async move {
                    // What came up to the position, and from there on.
                    let passes: Vec<_> =
                        growing.iter().map(|i| self.ledger.restart(&[*i])).collect();
                    let grown: Vec<Option<Grown>> =
                        growing.iter().map(|i| self.ledger.grown(*i)).collect();
                    let other: Arc<dyn Snapshot> =
                        Arc::from(self.ports.side(owner.other()).source.snapshot().await?);
                    Ok((passes, grown, Aligned::of(owner, position, mine, other)))
                }
            })
            .await?;
        let pairs: Vec<Pair> = growing.iter().map(|i| self.pairs[*i].clone()).collect();
        let scattered: Vec<bool> = growing.iter().map(|i| self.ledger.scattered(*i)).collect();
        let marks = tail::marks(&aligned, &pairs, &scattered).await?;
        for ((i, pass), (grown, mark)) in
            growing.into_iter().zip(passes).zip(grown.into_iter().zip(marks))
        {
            // Something else came in between.
            let (Some(grown), Some(mark)) = (grown, mark) else { continue };
            if self.has_gained_the_same(&aligned, i, &grown).await? {
                pass.finished_with(&[Some(Arc::new(mark))]);
                chosen.retain(|other| *other != i);
            }
        }
        Ok(chosen)
    }

    /// Whether a pair gained on both sides what the stream brought, at its end or anywhere.
    async fn has_gained_the_same(
        &self,
        aligned: &Aligned,
        pair: usize,
        grown: &Grown,
    ) -> Result<bool> {
        let named = [(&self.pairs[pair], grown)];
        for place in [Place::End, Place::Anywhere] {
            let gains = tail::gains(&*aligned.blue, &*aligned.green, place, &named).await?;
            match tail::verdict(gains[0], grown.growth) {
                Verdict::Equal => return Ok(true),
                // A comparison says which rows.
                Verdict::Different => return Ok(false),
                Verdict::Inconclusive if place == Place::End => self.missed(pair),
                Verdict::Inconclusive => {}
            }
        }
        Ok(false)
    }
}

impl Live {
    /// Compares these pairs as a whole; `again`: what they gained, where that is enough.
    pub(super) async fn compare_whole(
        &self,
        owner: Side,
        mut chosen: Vec<usize>,
        again: bool,
    ) -> Result<()> {
        // The first time somebody waits for it; later the clients' work comes first.
        let mut workers = self.wishes.workers;
        if again {
            chosen = self.proof.follow_ends(&self.pipes, owner, chosen).await?;
            workers = 1;
        }
        if chosen.is_empty() {
            return Ok(());
        }
        self.progress.say("comparing every row");
        let never = std::future::pending();
        let report = self.proof.full(&self.pipes, owner, &chosen, workers, never).await?;
        self.progress.say("following changes");
        tracing::info!(
            rows = report.rows(), tables = report.tables.len(), took_ms = report.took_ms,
            verdict = ?report.verdict, "full comparison at {}", report.position
        );
        Ok(())
    }

    /// What large tables have gained is compared before a move, so that little of it is left for the
    /// pause. Whatever fails here is compared there.
    pub(super) async fn follow_ends_before(&self, owner: Side) {
        // Who goes back is in a hurry, and is not refused for want of a comparison.
        if owner == Side::Green {
            return;
        }
        let grown = self.proof.whole();
        if let Err(error) = self.proof.follow_ends(&self.pipes, owner, grown).await {
            tracing::debug!(%error, "what large tables have gained is left for the fence");
        }
    }
}

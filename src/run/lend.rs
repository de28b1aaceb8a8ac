//! What a run lends to a move: its pipes, its proof, its measurements.

use std::{
    sync::{MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use cutover_core::{
    model::{
        finding::{Finding, Scope, Severity},
        position::Position,
        schema::TableName,
        side::Side,
    },
    port::{PortError, Result, sink::Born},
};

use super::{
    fact::{Carried, Fact},
    live::Live,
    prepare,
    proof::BothLogs,
};
use crate::{
    cutover::ground::work::{self, Awaited, Drained, Readiness},
    journal::JournalError,
    lag::Converge,
    preflight::{self, drift},
    stream::Health,
    verify::Certificate,
};

/// Changed rows that may be left for the comparison behind the fence.
const LEFT_FOR_THE_FENCE: u64 = 20_000;

/// How long changed rows are compared before a move begins.
pub(super) const COMPARE_BEFORE: Duration = Duration::from_secs(2);
/// How long a move waits for a look at tables before it begins. One at their ends needs both streams
/// to catch up.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// So few changed rows take no time in the pause.
const FEW: u64 = 50;

/// Why nothing is proven for a moment.
pub(super) const REDEFINED: &str = "definitions changed: tables are looked at anew, then compared";

#[async_trait]
impl work::Pipes for Live {
    async fn arm_reverse(&self, from: Side) -> Result<Position> {
        // Armed since the rows were copied. Making it again now would pass by what was written
        // there since.
        let to = self.ports.side(from.other());
        let tables = to.source.definitions(&self.selection).await?;
        let kept = to.source.resume(&self.run, &tables).await?;
        let kept = kept.ok_or_else(|| prepare::nothing_kept(from.other()))?;
        self.pipes.from(from.other()).get_ready().await?;
        Ok(kept.start)
    }

    async fn disarm_reverse(&self, from: Side) -> Result<()> {
        // The capture belongs to the run and stays; only the streams go on as before.
        self.pipes.owned_by(from).await
    }

    fn await_marker(&self, from: Side) -> Awaited {
        self.pipes.await_marker(from)
    }

    async fn hold_reverse(&self, from: Side, within: Duration) -> Result<()> {
        self.pipes.hold_behind_marker(from.other(), within).await.map(drop)
    }

    async fn drain(
        &self,
        from: Side,
        written: Option<(Awaited, Position)>,
        within: Duration,
    ) -> Result<Drained> {
        let began = Instant::now();
        if let Some((marker, position)) = written
            && self.pipes.passes(from, marker, &position, within).await?
        {
            return Ok(Drained { position, took: began.elapsed() });
        }
        let within = within.saturating_sub(began.elapsed());
        let (position, took) = self.pipes.marker(from, within).await?;
        Ok(Drained { position, took })
    }

    async fn reverse(&self, owner: Side) -> Result<()> {
        self.pipes.owned_by(owner).await
    }
}

#[async_trait]
impl work::Proof for Live {
    async fn catch_up(&self) -> Result<()> {
        self.proof.catch_up(&BothLogs(&self.pipes)).await
    }

    async fn nearly_ready(&self) -> Result<Option<String>> {
        if self.redefined() {
            return Ok(Some(REDEFINED.into()));
        }
        self.proof.look_for_rewrites().await?;
        let view = self.proof.view();
        if view.different > 0 {
            return Ok(Some(format!(
                "{} row(s) differ in {}",
                view.different,
                view.different_tables.join(", ")
            )));
        }
        match tokio::time::timeout(LOOK_WITHIN, self.proof.look_for_growth()).await {
            Ok(looked) => looked?,
            Err(_) => tracing::debug!("tables could not be measured in time"),
        }
        if self.owner() == Side::Blue {
            // Where it cannot be made, the fence tells; why it cannot, others say better.
            let logs = BothLogs(&self.pipes);
            let look = self.proof.look_at_ends(&logs);
            match tokio::time::timeout(LOOK_WITHIN, look).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "the ends of tables were not looked at"),
                Err(_) => tracing::debug!("the ends of tables could not be looked at in time"),
            }
            if self.proof.passed() {
                match tokio::time::timeout(LOOK_WITHIN, self.build_late()).await {
                    Ok(built) => built?,
                    Err(_) => tracing::debug!("what waits on green could not be built in time"),
                }
            }
        }
        Ok(self.uncompared())
    }

    async fn glance(&self) -> Result<()> {
        self.proof.glance().await
    }

    async fn look(&self) -> Result<()> {
        tokio::try_join!(
            self.proof.look_for_rewrites(),
            self.proof.look_for_growth(),
            self.look_for_definitions()
        )
        .map(drop)
    }

    async fn behind_fence(&self, within: Duration) -> Result<Certificate> {
        let doing = "comparing what is left behind the fence";
        let certificate = tokio::time::timeout(within, self.proof.behind_fence(self.owner()))
            .await
            .map_err(|e| PortError::transient(doing, e))?;
        // What was drained may have brought it.
        if self.redefined() {
            return Err(PortError::transient(doing, REDEFINED));
        }
        // Or green is another server since the move began.
        if self.owner() == Side::Blue
            && let Some(why) = self.proof.late.missing()
        {
            return Err(PortError::transient(doing, why));
        }
        certificate
    }
}

#[async_trait]
impl work::Ready for Live {
    async fn ready(&self, from: Side) -> Result<Readiness> {
        // What changes from here on is looked for behind the fence.
        let mark = self.ports.side(from).primary.definitions_mark(None).await;
        *self.mark() = mark.ok().flatten();
        let mut inputs = prepare::inputs(
            &self.run,
            &self.selection,
            &self.ports,
            &self.book.standing(),
            true,
            self.wishes.copies_schema,
            self.wishes.workers,
        );
        inputs.owner = from;
        let preflight = preflight::examine(&inputs, Scope::Move).await;
        let stopped = self.stopped();
        if !stopped.is_empty() {
            // No marker would arrive, so there is nothing to measure.
            let why = "a stream has stopped".to_owned();
            let findings = preflight.findings.into_iter().chain(stopped).collect();
            return Ok(Readiness {
                preflight: preflight::Report::new(Scope::Move, findings),
                lag: self.latest(),
                converge: Converge::Never { why },
                estimate: self.estimate(),
            });
        }
        if preflight.blocks() {
            // It is refused, and what refuses it may be what a marker would wait for.
            return Ok(Readiness {
                preflight,
                lag: self.latest(),
                converge: self.converge(),
                estimate: self.estimate(),
            });
        }
        // What is compared now needs no time in the pause.
        let until = Instant::now() + COMPARE_BEFORE;
        while Instant::now() < until
            && self.proof.view().pending > FEW
            && self.proof.step(&BothLogs(&self.pipes)).await?
        {}
        // The marker is behind the first sample: once it has arrived, the second one knows the lag,
        // also right after a move and under any load.
        self.sample().await?;
        self.measure().await?;
        self.sample().await?;
        let counters = self.ports.side(from).primary.counters(&self.selection).await?;
        let ahead = self.ports.side(from.other()).primary.get_ready_to_advance(&counters).await?;
        let ahead = preflight::stay_ahead(from.other(), &ahead);
        let findings = preflight.findings.into_iter().chain(ahead).collect();
        Ok(Readiness {
            preflight: preflight::Report::new(Scope::Move, findings),
            lag: self.latest(),
            converge: self.converge(),
            estimate: self.estimate(),
        })
    }
}

impl Live {
    /// What a move would be refused for as long as it is not compared. The way back never is, only
    /// for a difference.
    pub(super) fn uncompared(&self) -> Option<String> {
        if self.owner() == Side::Green {
            return None;
        }
        let failed = || match &self.state().uncompared_for {
            Some(why) => format!("; the last one failed, and it is tried again: {why}"),
            None => String::new(),
        };
        if !self.proof.passed() {
            return Some(self.proof.unpassed_so_far() + &failed());
        }
        if let Some(table) = self.proof.unread(self.owner()).first() {
            let why = "waits for a full comparison, and is too large for one within half of \
                       `move.pause_budget`";
            return Some(format!("{table} {why}{}", failed()));
        }
        if let Some(why) = self.proof.late.missing() {
            return Some(why);
        }
        let pending = self.proof.view().pending;
        (pending > LEFT_FOR_THE_FENCE)
            .then(|| format!("{pending} changed rows wait for a comparison"))
    }

    /// A transaction that was under way at the last look may have defined something since, and no
    /// row tells of it.
    async fn look_for_definitions(&self) -> Result<()> {
        let from = self.owner();
        if self.told[from.index()] {
            return Ok(());
        }
        let primary = &self.ports.side(from).primary;
        let before = self.mark().clone();
        if before.is_some() && primary.definitions_mark(before.as_deref()).await? == before {
            return Ok(());
        }
        let now = primary.fingerprint(&self.selection).await?;
        match drift::compare(from, self.book.standing().definitions(from), &now).pop() {
            Some(found) => Err(PortError::definite(
                drift::DRIFTED,
                "looking at definitions behind the fence",
                found.what,
                found.remedy,
            )),
            None => Ok(()),
        }
    }

    fn mark(&self) -> MutexGuard<'_, Option<String>> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether definitions changed in the stream since it was connected: what is compared, fenced
    /// and followed rests on those of before.
    pub(super) fn redefined(&self) -> bool {
        [Side::Blue, Side::Green].iter().any(|side| self.pipes.from(*side).view().redefined > 0)
    }

    /// Keeps what is proven, for the next process or the next look at all tables.
    pub(super) fn keep(&self) {
        self.proof.keep();
    }

    /// Remembers what came into being in a stream, which needs no copy, and what does need one.
    pub(super) fn note_found(&self) -> std::result::Result<(), JournalError> {
        let standing = self.book.standing();
        let mut facts = Vec::new();
        for from in [Side::Blue, Side::Green] {
            for Born { source, target, since } in self.pipes.from(from).view().born {
                // What was copied since knows better.
                if !standing.copies(from).has(&target, &source) {
                    let source = Carried { table: source, since };
                    facts.push(Fact::Born { from, table: target, source });
                }
            }
            let tables = self.pipes.from(from).view().doubted;
            if !tables.is_empty() {
                facts.push(Fact::Outdated { from, tables });
            }
        }
        if facts.is_empty() { Ok(()) } else { self.book.note_all(&facts) }
    }

    /// Tables whose rows a stream waits for.
    pub(super) fn unfollowed(&self) -> Vec<TableName> {
        [Side::Blue, Side::Green]
            .into_iter()
            .flat_map(|side| self.pipes.from(side).view().unfollowed)
            .collect()
    }

    /// Streams that go on only after somebody has done something, as reasons against a move.
    fn stopped(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        for side in [Side::Blue, Side::Green] {
            if let Health::Stopped { code, what, remedy, .. } = self.pipes.from(side).view().health
            {
                let place = side.as_str().to_owned();
                found.push(Finding { code, severity: Severity::Error, place, what, remedy });
            }
        }
        found
    }
}

//! A large transaction at its end: committed, if it was applied early; else read from what the
//! stream keeps of it, and applied in pieces.

use cutover_core::{
    model::event::{Event, TransactionId},
    port::{PortError, Result, source},
};
use tokio::sync::mpsc;

use super::{
    HoldPoint,
    batch::{Batcher, Cut, Large},
    open::Open,
    pipe::Worker,
};

/// Portions that are read ahead.
const AHEAD: usize = 2;

impl Worker {
    pub(super) async fn large(&mut self, open: &mut Open, large: Large) -> Result<()> {
        if self.finish_early(open, &large).await? {
            return Ok(());
        }
        let Large { transaction, committed_at, end, handover } = large;
        self.config.witness.ended(self.config.from, transaction, false);
        let doing = || format!("reading transaction {transaction} of {}", self.config.from);
        let Some(changes) = open.large(transaction) else {
            return Err(PortError::transient(doing(), "nothing of it was kept"));
        };
        let mut batcher = Batcher::new(handover, self.config.selection.clone());
        let (portions, mut inbox) = mpsc::channel(AHEAD);
        let reader = tokio::spawn(read(changes, portions));
        batcher.push([Event::Begin { transaction, committed_at }]);
        while let Some(portion) = inbox.recv().await {
            batcher.push(portion.into_iter().map(|(_, event)| event));
            self.is_sure(&batcher)?;
            self.cut_large(open, &mut batcher).await?;
        }
        // Only a whole transaction has an end.
        reader.await.map_err(|e| PortError::transient("reading a large transaction", e))??;
        batcher.push([Event::Commit { position: end }]);
        self.cut_large(open, &mut batcher).await
    }

    async fn cut_large(&mut self, open: &mut Open, batcher: &mut Batcher) -> Result<()> {
        loop {
            match batcher.cut(self.config.batch_bytes, None) {
                Cut::Batch(batch) => self.perform(open, batch).await?,
                Cut::Definition(content) => self.define(open, &content).await?,
                Cut::Large(_) | Cut::Hold | Cut::Wait => return Ok(()),
            }
            self.listen(open).await?;
            if self.holds(&HoldPoint::Now) {
                self.reached();
            }
            while self.is_held() {
                let control = self.next_control().await?;
                self.obey(control, Some(open)).await?;
            }
        }
    }
}

type Portion = Vec<(TransactionId, Event)>;

async fn read(mut changes: Box<dyn source::Large>, portions: mpsc::Sender<Portion>) -> Result<()> {
    loop {
        let mut portion = Vec::new();
        if !changes.next(u64::MAX, &mut portion).await? {
            return Ok(());
        }
        if portions.send(portion).await.is_err() {
            return Err(PortError::transient("reading a large transaction", "nobody wants it"));
        }
    }
}

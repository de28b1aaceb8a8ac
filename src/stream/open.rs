//! What one connection of a pipe consists of, and how it is opened where the sink stands.

use std::{sync::Arc, time::Duration};

use cutover_core::{
    model::{event::TransactionId, position::Position},
    port::{
        Result,
        sink::SinkWriter,
        source::{ChangeStream, Large},
    },
};
use tokio::time::Instant;

use super::{
    Mode,
    batch::{Batch, Batcher},
    pipe::Worker,
};

/// How long what is applied may wait for the disk when nothing comes after it.
const FLUSH_WITHIN: Duration = Duration::from_millis(100);

/// Sessions of one connection attempt.
pub(super) struct Open {
    pub(super) stream: Box<dyn ChangeStream>,
    /// The stream is a watcher's.
    pub(super) watches: bool,
    pub(super) writer: Box<dyn SinkWriter>,
    pub(super) batcher: Batcher,
    /// Everything up to here needs nothing more from us, but may not be stored on the sink yet.
    pub(super) seen: Option<Position>,
    pub(super) durable: Option<Position>,
    /// When the sink has to make durable what it has applied, if there is any such.
    pub(super) flush_at: Option<Instant>,
    /// The writer holds the transaction of an unfinished larger one open.
    pub(super) in_pieces: bool,
}

impl Open {
    /// Nothing of what comes was copied already.
    pub(super) fn handed_over(&self) -> bool {
        self.batcher.handed_over()
    }

    /// The changes of a large transaction.
    pub(super) fn large(&mut self, transaction: TransactionId) -> Option<Box<dyn Large>> {
        self.stream.large(transaction)
    }

    /// Whether something was passed that would come again.
    pub(super) fn owes(&self) -> bool {
        self.seen != self.durable
    }

    /// The sink has stored this position.
    pub(super) fn stored(&mut self, position: &Position) {
        self.stream.confirm(position);
        self.seen = Some(position.clone());
        self.durable = Some(position.clone());
        self.flush_at = None;
    }

    /// Applies a batch, which need not be durable at once when `soon` does; confirms what is.
    pub(super) async fn apply(&mut self, batch: &Batch, soon: bool) -> Result<()> {
        let durable = if soon {
            self.writer.apply_soon(&batch.events).await?
        } else {
            self.writer.apply(&batch.events).await?
        };
        if soon && durable != batch.end {
            self.flush_at.get_or_insert_with(|| Instant::now() + FLUSH_WITHIN);
        } else {
            self.flush_at = None;
        }
        self.confirm(durable);
        Ok(())
    }

    /// Makes durable what is applied, and confirms it.
    pub(super) async fn flush(&mut self) -> Result<()> {
        // Its end makes durable what is before it.
        if self.in_pieces {
            return Ok(());
        }
        if self.flush_at.take().is_some() {
            let durable = self.writer.flush().await?;
            self.confirm(durable);
        }
        Ok(())
    }

    /// The sink answers. With nothing to write, nobody notices that another server took over from it.
    pub(super) async fn is_there(&mut self) -> Result<()> {
        self.writer.progress().await.map(drop)
    }

    fn confirm(&mut self, durable: Option<Position>) {
        if let Some(durable) = durable {
            self.stream.confirm(&durable);
            self.durable = Some(durable);
        }
    }
}

impl Worker {
    pub(super) async fn open(&mut self) -> Result<Open> {
        let mut writer = self.config.sink.writer(&self.config.run, &self.config.routes).await?;
        let (held, durable) = self.rebase(&mut *writer).await?;
        let witness = &self.config.witness;
        self.told = witness.begins(self.config.from, held.as_ref(), durable.as_ref());
        self.state.settled(false);
        self.read(writer, durable).await
    }

    async fn read(
        &mut self,
        writer: Box<dyn SinkWriter>,
        durable: Option<Position>,
    ) -> Result<Open> {
        let (source, run) = (&self.config.source, &self.config.run);
        let watches = self.watches();
        let stream = if watches {
            source.watch(run, durable.as_ref()).await?
        } else {
            source.stream(run, durable.as_ref()).await?
        };
        if let Some(durable) = &durable {
            self.config.handover.pass(durable);
        }
        self.state.applied(durable.clone(), None);
        self.state.stored(durable.clone());
        let mut batcher = Batcher::new(self.config.handover.clone(), self.config.selection.clone());
        batcher.singly(self.singly_until.is_some());
        let seen = durable.clone();
        let (flush_at, in_pieces) = (None, false);
        Ok(Open { stream, watches, writer, batcher, seen, durable, flush_at, in_pieces })
    }

    /// Whether a watcher's stream is enough.
    fn watches(&self) -> bool {
        self.state.mode() == Mode::Watch && !self.ready
    }

    /// The mode, or what the pipe gets ready for, asks for another stream, and it can be had now.
    pub(super) fn wants_another(&self, open: &Open) -> bool {
        open.watches != self.watches() && !self.held && !open.in_pieces
    }

    /// Goes on at the same place with the stream that the mode asks for.
    pub(super) async fn reopen(&mut self, mut open: Open) -> Result<Open> {
        self.settle(&mut open).await?;
        let Open { stream, writer, durable, .. } = open;
        // The server lets one reader at a time have the slot.
        drop(stream);
        self.read(writer, durable).await
    }

    /// What the sink holds, and how the source names it now: after a failover the same places have
    /// other names, if the server that took over has them at all.
    async fn rebase(
        &mut self,
        writer: &mut dyn SinkWriter,
    ) -> Result<(Option<Position>, Option<Position>)> {
        let source = Arc::clone(&self.config.source);
        // Copied rows count as well: they may be ahead of what was streamed.
        for until in self.config.handover.untils() {
            *until = source.rebase(until).await?;
        }
        let Some(durable) = writer.progress().await? else {
            // A source that has forgotten anything since then was told that the sink holds it.
            return match &self.config.start {
                Some(start) => Ok((Some(start.clone()), Some(source.rebase(start).await?))),
                None => Ok((None, None)),
            };
        };
        let now = source.rebase(&durable).await?;
        if now != durable {
            tracing::warn!(from = %self.config.from, position = %now,
                "another server took over and holds all that was followed: going on there");
            writer.rebase(&now).await?;
        }
        Ok((Some(durable), Some(now)))
    }

    /// Stores and confirms a stretch of log that had no row for us.
    pub(super) async fn settle(&mut self, open: &mut Open) -> Result<()> {
        let Some(seen) = &open.seen else { return Ok(()) };
        if self.held || open.in_pieces || open.durable.as_ref() == Some(seen) {
            return Ok(());
        }
        // Also when watching: the source must never be ahead of what the sink holds, or whoever
        // applies from here after a move and a crash would find a gap.
        open.stream.vouch().await?;
        self.config.witness.passed(self.config.from, seen);
        open.writer.store(seen).await?;
        open.stream.confirm(seen);
        open.durable = Some(seen.clone());
        open.flush_at = None;
        self.state.stored(open.durable.clone());
        Ok(())
    }
}

//! What one connection of a pipe consists of, and how it is opened where the sink stands.

use std::sync::Arc;

use cutover_core::{
    model::{event::TransactionId, position::Position},
    port::{
        Result,
        sink::SinkWriter,
        source::{ChangeStream, Large},
    },
};

use super::{Mode, batch::Batcher, pipe::Worker};

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

    /// The sink has stored this position.
    pub(super) fn stored(&mut self, position: &Position) {
        self.stream.confirm(position);
        self.seen = Some(position.clone());
        self.durable = Some(position.clone());
    }
}

impl Worker {
    pub(super) async fn open(&mut self) -> Result<Open> {
        let mut writer = self.config.sink.writer(&self.config.run, &self.config.routes).await?;
        let durable = self.rebase(&mut *writer).await?;
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
        let batcher = Batcher::new(self.config.handover.clone(), self.config.selection.clone());
        let seen = durable.clone();
        Ok(Open { stream, watches, writer, batcher, seen, durable, in_pieces: false })
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

    /// What the sink holds, named as the source names it now: after a failover the same places
    /// have other names, if the server that took over has them at all.
    async fn rebase(&mut self, writer: &mut dyn SinkWriter) -> Result<Option<Position>> {
        let source = Arc::clone(&self.config.source);
        // Copied rows count as well: they may be ahead of what was streamed.
        for until in self.config.handover.untils() {
            *until = source.rebase(until).await?;
        }
        let Some(durable) = writer.progress().await? else {
            // A source that has forgotten anything since then was told that the sink holds it.
            return match &self.config.start {
                Some(start) => source.rebase(start).await.map(Some),
                None => Ok(None),
            };
        };
        let now = source.rebase(&durable).await?;
        if now != durable {
            tracing::warn!(from = %self.config.from, position = %now,
                "another server took over and holds all that was followed: going on there");
            writer.rebase(&now).await?;
        }
        Ok(Some(now))
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
        open.writer.store(seen).await?;
        open.stream.confirm(seen);
        open.durable = Some(seen.clone());
        Ok(())
    }
}

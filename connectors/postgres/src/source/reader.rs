//! The task that reads the stream: frames in, events into the queue, status out.
//!
//! Never waits for the consumer without keeping the server content, and never confirms more than
//! it was told to.

use std::{sync::Arc, time::Duration};

use bytes::{Buf, Bytes};
use cutover_core::{
    model::{event::Event, run::RunId},
    port::{PortError, Result},
};
use tokio::time::{Instant, sleep_until};

use super::{
    assemble::{Assembler, EPOCH, Trouble},
    left::Leaves,
    pace::{Load, Pace, age},
    position::lsn_text,
    queue::Shared,
    stops,
};
use crate::{
    connect::{CopyBoth, Frame, ServerError, WireError},
    database::Database,
};

/// Events are handed over in pieces of about this size.
const PIECE: usize = 1 << 20;

/// Confirmations closer together than this travel together.
const CONFIRM_GAP: Duration = Duration::from_millis(10);

/// After this long without a byte the server is asked whether it lives,
const ASK_AFTER: Duration = Duration::from_secs(10);

/// and after this long it is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// What 17 and later say which standbys a stream waits for, in every language.
const AWAITED: &str = "synchronized_standby_slots";

pub(super) struct Reader {
    pub(super) connection: CopyBoth,
    /// Dropped behind it.
    pub(super) _leaves: Leaves,
    pub(super) assembler: Assembler,
    pub(super) shared: Arc<Shared>,
    /// Time between two status messages.
    pub(super) interval: Duration,
    /// What is being done, for errors.
    pub(super) doing: String,
    /// Publication and slot.
    pub(super) name: String,
    /// Up to where the log was seen.
    pub(super) received: u64,
    /// Whose publication it is, and where to ask for it.
    pub(super) db: Database,
    pub(super) run: RunId,
    /// It was said that the server waits for a standby, and nothing came since.
    pub(super) waits: bool,
}

/// Where the status clock stands.
struct Clock {
    next: Instant,
    last: Instant,
    heard: Instant,
    asked: bool,
}

impl Reader {
    /// Reads until something ends it, and says why.
    pub(super) async fn run(mut self) {
        let why = match self.read().await {
            Ok(never) => match never {},
            Err(why) => why,
        };
        tracing::debug!(error = %why, "the change stream ended");
        self.shared.end(why);
    }

    async fn read(&mut self) -> Result<std::convert::Infallible> {
        let now = Instant::now();
        let mut clock = Clock { next: now + self.interval, last: now, heard: now, asked: false };
        let mut pace = Pace::new(std::time::Instant::now());
        let mut frames = Vec::new();
        let mut events = Vec::new();
        loop {
            let n = tokio::select! {
                n = self.connection.fill() => n.map_err(|e| self.failed(e))?,
                () = self.shared.confirm.notified() => {
                    clock.next = clock.next.min(clock.last + CONFIRM_GAP);
                    continue;
                }
                () = sleep_until(clock.next) => {
                    self.tick(&mut clock).await?;
                    continue;
                }
            };
            clock.heard = Instant::now();
            clock.asked = false;
            self.connection.frames(&mut frames).map_err(|e| self.failed(e))?;
            let count = frames.len();
            let mut idle = None;
            let mut bytes = 0;
            for frame in frames.drain(..) {
                match frame {
                    Frame::Data(data) => {
                        if let Some(age) = age(&data) {
                            pace.begins(age);
                        }
                        let from = events.len();
                        self.data(data, &mut events, &mut clock, &mut idle).await?;
                        bytes += events[from..].iter().map(Event::bytes).sum::<usize>();
                        if bytes >= PIECE {
                            self.deliver(&mut events, std::mem::take(&mut bytes), &mut clock)
                                .await?;
                        }
                        let large = matches!(events[..], [.., Event::Large { .. }, _]);
                        if large && self.assembler.in_flight.is_full() {
                            self.deliver(&mut events, std::mem::take(&mut bytes), &mut clock)
                                .await?;
                            self.make_room(&mut clock).await?;
                        }
                    }
                    Frame::Notice(said) => self.notice(&said).await?,
                    Frame::Done => {
                        return Err(PortError::transient(
                            self.doing.clone(),
                            "the server ended the stream",
                        ));
                    }
                }
            }
            if let Some(lsn) = idle.filter(|l| *l > self.assembler.reached) {
                self.assembler.reached = lsn;
                events.push(Event::Idle { position: self.assembler.position(lsn) });
                bytes += size_of::<Event>();
            }
            self.deliver(&mut events, bytes, &mut clock).await?;
            self.assembler.in_flight.shrink().await?;
            let rest = pace.after(n, count, std::time::Instant::now());
            self.shared.gather(pace.load() == Load::Backlog);
            if let Some(rest) = rest {
                self.connection.rest(rest).await.map_err(|e| self.failed(e))?;
            }
        }
    }

    /// One `CopyData`: a message of the plugin, or a keepalive.
    async fn data(
        &mut self,
        mut data: Bytes,
        events: &mut Vec<Event>,
        clock: &mut Clock,
        idle: &mut Option<u64>,
    ) -> Result<()> {
        match data.first() {
            Some(b'w') if data.len() > 25 => {
                let start = (&data[1..9]).get_u64();
                self.received = self.received.max(start);
                self.waits = false;
                data.advance(25);
                // Whatever comes now lies behind the keepalive before it.
                *idle = None;
                self.assembler.accept(&data, events).map_err(|t| self.trouble(start, t))
            }
            Some(b'k') if data.len() == 18 => {
                let end = (&data[1..9]).get_u64();
                self.received = self.received.max(end);
                if !self.assembler.busy() {
                    *idle = Some(end);
                }
                if data[17] == 1 {
                    self.status(clock, false).await?;
                }
                Ok(())
            }
            _ => Err(stops::not_understood(self.doing.clone(), "an unknown kind of frame")),
        }
    }

    /// What the server warns of: changes that it leaves out, or nothing that ends a stream.
    async fn notice(&mut self, said: &ServerError) -> Result<()> {
        if said.text.contains(AWAITED) {
            // It is said again with each of our status messages.
            if !std::mem::replace(&mut self.waits, true) {
                tracing::warn!(message = %said, "the change stream waits for a standby");
            }
        } else {
            tracing::info!(message = %said, "the server says about the change stream");
        }
        if said.sqlstate != stops::NOT_IN_STATE {
            return Ok(());
        }
        self.db.check_publication(&*self.db.control().await?, &self.run).await?;
        // It may be there again: what came meanwhile is left out all the same.
        if said.text.contains(&self.name) && !said.text.contains(AWAITED) {
            return Err(stops::no_publication(self.doing.clone(), &self.name));
        }
        Ok(())
    }

    /// Hands events over; while the consumer is behind, the server still hears from us.
    async fn deliver(
        &mut self,
        events: &mut Vec<Event>,
        bytes: usize,
        clock: &mut Clock,
    ) -> Result<()> {
        // With much to read the timer may not get its turn for long.
        if clock.next <= Instant::now() {
            self.status(clock, false).await?;
        }
        while !self.shared.push(events, bytes) {
            tokio::select! {
                () = self.shared.drained.notified() => {}
                () = sleep_until(clock.next) => self.status(clock, false).await?,
            }
            // The silence is ours.
            clock.heard = Instant::now();
        }
        Ok(())
    }

    /// Waits until some of the large transactions that have committed are confirmed. Never in the
    /// middle of a transaction: the consumer may need its end to confirm what is before it.
    async fn make_room(&mut self, clock: &mut Clock) -> Result<()> {
        while self.assembler.in_flight.is_full() {
            tokio::select! {
                () = self.shared.confirm.notified() => {
                    clock.next = clock.next.min(clock.last + CONFIRM_GAP);
                }
                () = sleep_until(clock.next) => self.status(clock, false).await?,
            }
            clock.heard = Instant::now();
        }
        Ok(())
    }

    /// The status timer fired.
    async fn tick(&mut self, clock: &mut Clock) -> Result<()> {
        let silent = clock.heard.elapsed();
        if silent >= GIVE_UP_AFTER {
            return Err(PortError::transient(
                self.doing.clone(),
                format!("the server was silent for {} s", silent.as_secs()),
            ));
        }
        let ask = silent >= ASK_AFTER && !clock.asked;
        clock.asked |= ask;
        self.status(clock, ask).await
    }

    /// Tells the server what was seen and what is durable.
    async fn status(&mut self, clock: &mut Clock, ask: bool) -> Result<()> {
        let confirmed = self.shared.confirmed();
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX));
        let mut message = [0; 34];
        message[0] = b'r';
        message[1..9].copy_from_slice(&self.received.max(confirmed).to_be_bytes());
        message[9..17].copy_from_slice(&confirmed.to_be_bytes());
        message[17..25].copy_from_slice(&confirmed.to_be_bytes());
        message[25..33].copy_from_slice(&(now - EPOCH).to_be_bytes());
        message[33] = u8::from(ask);
        let sent = tokio::time::timeout(GIVE_UP_AFTER, self.connection.send(&message)).await;
        match sent {
            Ok(sent) => sent.map_err(|e| self.failed(e))?,
            Err(_) => {
                return Err(PortError::transient(
                    self.doing.clone(),
                    "the server takes no status message",
                ));
            }
        }
        clock.last = Instant::now();
        clock.next = clock.last + self.interval;
        Ok(())
    }

    fn failed(&self, e: WireError) -> PortError {
        stops::in_stream(self.doing.clone(), &self.name, e)
    }

    fn trouble(&self, lsn: u64, trouble: Trouble) -> PortError {
        let doing = format!("{} at {}", self.doing, lsn_text(lsn));
        match trouble {
            Trouble::Prepared(tag) => stops::prepared(doing, tag),
            other => stops::not_understood(doing, other),
        }
    }
}

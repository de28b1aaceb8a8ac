//! Decoded events on their way from the reader to the consumer, bounded by bytes.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cutover_core::{
    model::event::Event,
    port::{PortError, Result},
};
use tokio::{sync::Notify, time::timeout_at};

/// Bytes that may wait for the consumer.
const CAPACITY: usize = 24 << 20;

/// Bytes that the consumer gets at once.
const PORTION: usize = 4 << 20;

/// In a backlog the consumer waits for so many bytes, at most for so long: each of its calls costs
/// round trips and a commit, and many changes of one row become one.
const GATHER: (usize, Duration) = (1 << 20, Duration::from_millis(20));

/// What reader, watcher and consumer share.
#[derive(Default)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    filled: Notify,
    pub(super) drained: Notify,
    confirmed: AtomicU64,
    pub(super) confirm: Notify,
}

#[derive(Default)]
struct Queue {
    batches: VecDeque<(Vec<Event>, usize)>,
    bytes: usize,
    /// There is a backlog: more comes at once.
    gather: bool,
    /// Since when something waits.
    since: Option<Instant>,
    /// Comes after what is queued.
    end: Option<PortError>,
    /// Comes before what is queued: what follows in the queue may be incomplete.
    stop: Option<PortError>,
    over: bool,
}

impl Queue {
    /// Whether more is waited for before the consumer gets anything.
    fn gathers(&self) -> bool {
        self.gather && self.bytes < GATHER.0 && self.end.is_none()
    }
}

/// What the consumer finds.
enum Taken {
    Done(Result<()>),
    Nothing,
    Gathering(Instant),
}

impl Shared {
    pub(super) fn new(confirmed: u64) -> Self {
        Self { confirmed: AtomicU64::new(confirmed), ..Self::default() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it holds the lock; the state is whole in any case.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `events` when there is room, else leaves them. An empty queue has room for anything.
    pub(super) fn push(&self, events: &mut Vec<Event>, bytes: usize) -> bool {
        if events.is_empty() {
            return true;
        }
        let mut queue = self.queue();
        if queue.bytes > 0 && queue.bytes + bytes > CAPACITY {
            return false;
        }
        queue.bytes += bytes;
        queue.batches.push_back((std::mem::take(events), bytes));
        let first = queue.since.is_none();
        queue.since.get_or_insert_with(Instant::now);
        // The first one starts the consumer's clock.
        let wake = first || !queue.gathers();
        drop(queue);
        if wake {
            self.filled.notify_one();
        }
        true
    }

    /// Whether there is a backlog, so that the consumer shall get more at once.
    pub(super) fn gather(&self, gather: bool) {
        let mut queue = self.queue();
        if std::mem::replace(&mut queue.gather, gather) && !gather {
            drop(queue);
            self.filled.notify_one();
        }
    }

    /// The stream is over; what is queued is delivered first.
    pub(super) fn end(&self, why: PortError) {
        self.queue().end.get_or_insert(why);
        self.filled.notify_one();
    }

    /// The stream must not be trusted any more; what is queued is not delivered.
    pub(super) fn stop(&self, why: PortError) {
        self.queue().stop.get_or_insert(why);
        self.filled.notify_one();
    }

    /// Waits for events and appends them. Cancel-safe: nothing is taken before the last await.
    pub(super) async fn next(&self, out: &mut Vec<Event>) -> Result<()> {
        loop {
            let until = match self.take(out) {
                Taken::Done(done) => {
                    self.drained.notify_one();
                    return done;
                }
                Taken::Nothing => None,
                Taken::Gathering(until) => Some(until),
            };
            match until {
                None => self.filled.notified().await,
                // A timeout is as good as a word: then it is time.
                Some(until) => {
                    timeout_at(until.into(), self.filled.notified()).await.unwrap_or_default();
                }
            }
        }
    }

    fn take(&self, out: &mut Vec<Event>) -> Taken {
        let mut queue = self.queue();
        if let Some(why) = queue.stop.take() {
            queue.over = true;
            return Taken::Done(Err(why));
        }
        if queue.over {
            let ended = PortError::transient("reading the change stream", "it has ended");
            return Taken::Done(Err(ended));
        }
        if let Some(since) = queue.since
            && queue.gathers()
            && since.elapsed() < GATHER.1
        {
            return Taken::Gathering(since + GATHER.1);
        }
        let mut taken = 0;
        while taken < PORTION {
            let Some((mut events, bytes)) = queue.batches.pop_front() else { break };
            queue.bytes -= bytes;
            taken += bytes;
            if out.is_empty() {
                *out = events;
            } else {
                out.append(&mut events);
            }
        }
        if taken > 0 {
            queue.since = (!queue.batches.is_empty()).then(Instant::now);
            return Taken::Done(Ok(()));
        }
        let Some(why) = queue.end.take() else { return Taken::Nothing };
        queue.over = true;
        Taken::Done(Err(why))
    }

    pub(super) fn confirm(&self, lsn: u64) {
        if self.confirmed.fetch_max(lsn, Ordering::AcqRel) < lsn {
            self.confirm.notify_one();
        }
    }

    pub(super) fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(n: usize) -> Event {
        Event::Message { prefix: n.to_string(), content: Bytes::new() }
    }

    #[tokio::test]
    async fn bounded_by_bytes_and_in_order() {
        let shared = Shared::new(0);
        let pieces = 2 * CAPACITY / PORTION;
        for i in 0..pieces {
            assert!(shared.push(&mut vec![message(i)], PORTION / 2));
        }
        let mut more = vec![message(pieces)];
        assert!(!shared.push(&mut more, 1));
        assert_eq!(more.len(), 1);
        let mut out = Vec::new();
        shared.next(&mut out).await.unwrap();
        assert_eq!(out.len(), 2, "a portion, not everything");
        assert!(shared.push(&mut more, 1));
        while out.len() <= pieces {
            shared.next(&mut out).await.unwrap();
        }
        let order: Vec<_> = out
            .iter()
            .map(|e| match e {
                Event::Message { prefix, .. } => prefix.parse::<usize>().unwrap(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(order, (0..=pieces).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn an_end_waits_for_the_queue_and_a_stop_does_not() {
        let shared = Shared::new(0);
        assert!(shared.push(&mut vec![message(0)], 1));
        shared.end(PortError::transient("x", "ended"));
        let mut out = Vec::new();
        shared.next(&mut out).await.unwrap();
        assert!(shared.next(&mut out).await.unwrap_err().is_transient());
        assert!(shared.next(&mut out).await.is_err());

        let shared = Shared::new(0);
        assert!(shared.push(&mut vec![message(0)], 1));
        shared.stop(PortError::definite("CUT0204", "x", "y", "z"));
        out.clear();
        assert_eq!(shared.next(&mut out).await.unwrap_err().code(), Some("CUT0204"));
        assert!(out.is_empty());
        assert!(shared.next(&mut out).await.is_err());
    }
}

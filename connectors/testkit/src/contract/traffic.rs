//! What clients experience: they write in a loop and note which side got each write.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cutover_core::model::side::Side;
use tokio::task::JoinHandle;

use super::switch::{PATIENCE, SwitchHarness};
use crate::{faults::lock, wait_until, within};

/// One write as its client saw it.
#[derive(Debug, Clone)]
pub(super) struct Write {
    pub(super) client: usize,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) side: Result<Side, String>,
}

/// Clients at work.
pub(super) struct Traffic {
    log: Arc<Mutex<Vec<Write>>>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Starts clients and waits until each has written.
    pub(super) async fn start(harness: &dyn SwitchHarness, count: usize) -> Self {
        let mut traffic = Self { log: Arc::default(), stop: Arc::default(), clients: Vec::new() };
        let begun = Instant::now();
        for number in 0..count {
            let mut client = harness.client().await;
            let (log, stop) = (Arc::clone(&traffic.log), Arc::clone(&traffic.stop));
            traffic.clients.push(tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    let side = client.write().await;
                    let failed = side.is_err();
                    lock(&log).push(Write { client: number, began, ended: Instant::now(), side });
                    if failed {
                        return;
                    }
                }
            }));
        }
        traffic.flows(begun).await;
        traffic
    }

    /// Waits until every client has begun and finished a write after `since`, without a failure.
    pub(super) async fn flows(&self, since: Instant) {
        wait_until("every client writes", PATIENCE, async || {
            let log = lock(&self.log);
            if let Some(write) = log.iter().find(|write| write.side.is_err()) {
                panic!("a client's write failed: {:?}", write.side);
            }
            (0..self.clients.len()).all(|client| {
                log.iter().any(|write| write.client == client && write.began >= since)
            })
        })
        .await;
    }

    /// Writes that were finished between two moments.
    pub(super) fn finished(&self, from: Instant, to: Instant) -> Vec<Write> {
        let log = lock(&self.log);
        log.iter().filter(|write| write.ended > from && write.ended <= to).cloned().collect()
    }

    /// Finished writes that began after a moment.
    pub(super) fn began_after(&self, since: Instant) -> Vec<Write> {
        lock(&self.log).iter().filter(|write| write.began > since).cloned().collect()
    }

    /// Lets every client finish, and returns all writes. None may have failed.
    pub(super) async fn stop(self) -> Vec<Write> {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            let ended = within("a client ends", PATIENCE, client).await;
            assert!(ended.is_ok(), "a client panicked");
        }
        let log = lock(&self.log).clone();
        for write in &log {
            assert!(write.side.is_ok(), "a client's write failed: {:?}", write.side);
        }
        log
    }
}

/// Every write that was finished in between went to `side`.
pub(super) fn went_to(writes: &[Write], side: Side, when: &str) {
    for write in writes {
        assert_eq!(write.side, Ok(side), "{when}: a write went to the wrong side");
    }
}

/// The longest time that one write took.
pub(super) fn longest(writes: &[Write]) -> Duration {
    writes.iter().map(|write| write.ended - write.began).max().unwrap_or_default()
}

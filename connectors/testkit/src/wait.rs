//! Waiting for a condition with a deadline, and never for longer than a deadline.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Asks until `condition` says yes.
///
/// # Panics
///
/// Naming `what`, when `limit` has passed.
#[track_caller]
pub fn wait_until<'a>(
    what: &'a str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> bool + 'a,
) -> impl Future<Output = ()> + 'a {
    let place = std::panic::Location::caller();
    async move {
        let end = Instant::now() + limit;
        while !within(what, limit, condition()).await {
            assert!(Instant::now() < end, "{place}: {what}: not within {limit:?}");
            sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Waits for a future that must not hang.
///
/// # Panics
///
/// Naming `what`, when it is not ready after `limit`.
#[track_caller]
pub fn within<'a, T>(
    what: &'a str,
    limit: Duration,
    future: impl Future<Output = T> + 'a,
) -> impl Future<Output = T> + 'a {
    let place = std::panic::Location::caller();
    async move {
        match timeout(limit, future).await {
            Ok(value) => value,
            Err(_) => panic!("{place}: {what}: no end within {limit:?}"),
        }
    }
}

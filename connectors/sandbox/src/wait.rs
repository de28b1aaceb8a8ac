//! Waiting for a condition with a deadline, in place of sleeping and hoping.

use std::time::{Duration, Instant};

use crate::SandboxError;

/// Asks until `condition` says yes, a few milliseconds apart, growing to 50 ms.
///
/// # Errors
///
/// [`SandboxError::Timeout`] naming `what` when `limit` has passed. A condition that never
/// returns is cut off as well.
pub async fn wait_until(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) -> Result<(), SandboxError> {
    wait_for(what, limit, async || condition().await.then_some(())).await
}

/// Like [`wait_until`], and hands back what was found.
///
/// # Errors
///
/// [`SandboxError::Timeout`] naming `what` when `limit` has passed.
pub async fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> Result<T, SandboxError> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    let late = || SandboxError::Timeout { what: what.to_owned(), limit };
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, condition()).await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(_) => return Err(late()),
        }
        if Instant::now() >= end {
            return Err(late());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

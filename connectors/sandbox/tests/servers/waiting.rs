//! The deadline helper.

use std::time::{Duration, Instant};

use cutover_sandbox::{SandboxError, wait_for, wait_until};

const SHORT: Duration = Duration::from_millis(60);

#[tokio::test]
async fn a_condition_that_comes_true_ends_the_wait() {
    let mut asked = 0;
    let found = wait_for("the third question", Duration::from_secs(30), async || {
        asked += 1;
        (asked == 3).then_some(asked)
    });
    assert_eq!(found.await.unwrap(), 3);
}

#[tokio::test]
async fn a_condition_that_stays_false_is_a_timeout_that_names_it() {
    let start = Instant::now();
    let error = wait_until("the moon", SHORT, async || false).await.unwrap_err();
    assert!(start.elapsed() >= SHORT);
    assert!(matches!(error, SandboxError::Timeout { limit, .. } if limit == SHORT));
    assert!(error.to_string().starts_with("the moon: not within"), "{error}");
}

#[tokio::test]
async fn a_condition_that_hangs_is_cut_off() {
    let hangs = wait_until("an answer", SHORT, async || std::future::pending().await);
    let result = tokio::time::timeout(Duration::from_secs(30), hangs).await;
    assert!(matches!(result, Ok(Err(SandboxError::Timeout { .. }))));
}

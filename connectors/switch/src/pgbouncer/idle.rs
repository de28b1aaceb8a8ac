//! Closes idle server connections ahead of a pause.
//!
//! A PAUSE closes every idle server connection at once. Each is a process of the server that ends,
//! and frees its memory: a millisecond of a processor and more, the more of the shared buffers it
//! has seen. The transactions that the pause waits for, and whatever comes after it, wait for these
//! processors. Most of a pool is idle most of the time, since it was grown by those who waited for
//! the last pause. So what was not used lately is closed before, while nobody waits; what is in use
//! stays.

use std::time::{Duration, Instant};

use super::{
    console::{OrderError, Session},
    quiet::{Usual, sum},
};

/// What was not used for so long is not needed just now, in seconds: connections are handed out
/// last in, first out.
const UNUSED_FOR: &str = "0.05";

/// PgBouncer looks for idle connections three times a second (`full_maint_period` in its
/// `janitor.c`).
const ONE_LOOK: Duration = Duration::from_millis(350);

/// How often we look whether they are gone.
const AGAIN: Duration = Duration::from_millis(10);

/// Closes the idle server connections of every pool, ours among them: the setting is PgBouncer's.
/// Then the setting is as it was. Returns soon after they were closed, because the pool grows again
/// when clients need more.
pub(super) async fn close(
    control: &Session,
    usual: &Usual,
    names: &[String],
    answer: Duration,
) -> Result<(), OrderError> {
    let set = |value: &str| format!("SET server_idle_timeout = '{value}'");
    control.order(&set(UNUSED_FOR), answer).await?;
    let looked = one_look(control, names, answer).await;
    control.order(&set(&usual.server_idle_timeout), answer).await?;
    looked
}

/// Waits until PgBouncer has looked: then there are fewer connections, or it found none to close.
async fn one_look(control: &Session, names: &[String], answer: Duration) -> Result<(), OrderError> {
    let count = async || {
        let pools = control.order("SHOW POOLS", answer).await?;
        let of = |column| sum(&pools, names, column);
        let unused = of("sv_idle") + of("sv_used");
        Ok::<_, OrderError>((unused, unused + of("sv_active") + of("sv_tested")))
    };
    let begun = Instant::now();
    let (mut unused, mut all) = count().await?;
    let mut most = all;
    while unused > 0 && all >= most && begun.elapsed() < ONE_LOOK {
        most = most.max(all);
        tokio::time::sleep(AGAIN).await;
        (unused, all) = count().await?;
    }
    Ok(())
}

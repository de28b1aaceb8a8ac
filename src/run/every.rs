//! What goes on while nobody asks for anything: the same work again and again.

use std::time::Duration;

use cutover_core::port::Result;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::error::Failure;

/// Calls `work` again and again, `period` after it began the last time or when somebody says so; a
/// failure is logged once until it succeeds again.
pub(super) async fn every<F>(anew: &Notify, period: impl Fn() -> Duration, work: impl Fn() -> F)
where
    F: Future<Output = Result<()>>,
{
    let mut failing = false;
    loop {
        let began = Instant::now();
        match work().await {
            Ok(()) => failing = false,
            Err(e) => {
                if !std::mem::replace(&mut failing, true) {
                    let failure = Failure::from(e);
                    tracing::warn!("{failure}; it is tried again");
                }
            }
        }
        tokio::select! {
            () = sleep_until(began + period()) => {}
            () = anew.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn soon_while_nothing_is_known_and_at_once_when_told() {
        let (began, anew, at) = (Instant::now(), Notify::new(), RefCell::new(Vec::new()));
        let ms = Duration::from_millis;
        let period = || ms(if at.borrow().len() < 3 { 50 } else { 500 });
        let work = async || {
            at.borrow_mut().push(began.elapsed().as_millis());
            Ok(())
        };
        tokio::select! {
            () = every(&anew, period, work) => {}
            () = async {
                sleep(ms(700)).await;
                anew.notify_one();
                sleep(ms(300)).await;
            } => {}
        }
        assert_eq!(at.into_inner(), [0, 50, 100, 600, 700]);
    }
}

//! Several requests in one round trip.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

/// A request and its answer, once it is there.
type Running<F> = (Pin<Box<F>>, Option<<F as Future>::Output>);

/// Sends all requests in order, then waits for all answers. The driver sends a request when its
/// future is polled for the first time, and answers arrive in the same order.
pub(super) async fn pipeline<F: Future>(requests: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<Running<F>> = requests.map(|f| (Box::pin(f), None)).collect();
    poll_fn(|context| {
        for (request, answer) in &mut running {
            if let Poll::Ready(value) = request.as_mut().poll(context) {
                *answer = Some(value);
            }
        }
        Poll::Ready(())
    })
    .await;
    let mut answers = Vec::with_capacity(running.len());
    for (request, answer) in running {
        answers.push(match answer {
            Some(answer) => answer,
            None => request.await,
        });
    }
    answers
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn all_begin_in_order_before_the_first_ends() {
        let begun = Mutex::new(Vec::new());
        let answers = pipeline((0..100).map(|i| {
            let begun = &begun;
            async move {
                begun.lock().unwrap().push(i);
                tokio::task::yield_now().await;
                (i, begun.lock().unwrap().len())
            }
        }))
        .await;
        assert_eq!(begun.into_inner().unwrap(), (0..100).collect::<Vec<_>>());
        assert!(answers.iter().enumerate().all(|(at, (i, len))| at == *i && *len == 100));
    }
}

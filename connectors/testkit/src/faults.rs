//! Failures that a test orders ahead, one per call.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

/// What shall go wrong with one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A clear no; nothing happens.
    Refuse(String),
    /// No answer. Whether it `happens` all the same is for the caller to find out.
    Ambiguous {
        /// Whether the call has its effect.
        happens: bool,
    },
    /// The call works, later.
    Delay(Duration),
    /// The call never returns.
    Hang {
        /// Whether the call has its effect.
        happens: bool,
    },
}

/// A queue of faults per kind of call, shared by all objects of one fake.
#[derive(Debug)]
pub struct Faults<C> {
    queue: Mutex<VecDeque<(C, Fault)>>,
    calls: Mutex<Vec<C>>,
}

impl<C> Default for Faults<C> {
    fn default() -> Self {
        Self { queue: Mutex::default(), calls: Mutex::default() }
    }
}

impl<C: Clone + PartialEq> Faults<C> {
    /// Spoils the next call of this kind that no earlier fault spoils.
    pub fn push(&self, call: C, fault: Fault) {
        lock(&self.queue).push_back((call, fault));
    }

    /// Faults that no call has met yet.
    #[must_use]
    pub fn left(&self) -> usize {
        lock(&self.queue).len()
    }

    /// Calls so far, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<C> {
        lock(&self.calls).clone()
    }

    /// Records a call and takes its fault. For fakes.
    pub fn take(&self, call: &C) -> Option<Fault> {
        lock(&self.calls).push(call.clone());
        let mut queue = lock(&self.queue);
        let at = queue.iter().position(|(kind, _)| kind == call)?;
        queue.remove(at).map(|(_, fault)| fault)
    }
}

/// A test that failed elsewhere must not fail here as well.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_meets_one_call_of_its_kind() {
        let faults = Faults::default();
        faults.push("b", Fault::Refuse("no".into()));
        faults.push("a", Fault::Hang { happens: false });
        faults.push("a", Fault::Delay(Duration::ZERO));
        assert_eq!(faults.take(&"a"), Some(Fault::Hang { happens: false }));
        assert_eq!(faults.take(&"a"), Some(Fault::Delay(Duration::ZERO)));
        assert_eq!(faults.take(&"a"), None);
        assert_eq!(faults.left(), 1);
        assert_eq!(faults.calls(), ["a", "a", "a"]);
    }
}

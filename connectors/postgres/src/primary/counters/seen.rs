//! What sequences held when they were last read or moved. One that still holds that was used by
//! nobody since, and may follow the other side's backwards.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use cutover_core::model::{counter::Counter, schema::TableName};

use super::told::State;

/// By name; only what this process saw.
#[derive(Default)]
pub(in crate::primary) struct Seen(Mutex<HashMap<TableName, State>>);

impl Seen {
    /// They hold this now.
    pub(super) fn note(&self, counters: &[Counter]) {
        let states = counters.iter().map(|c| {
            let Counter { last_value, is_called, .. } = *c;
            (c.name.clone(), State { last_value, is_called })
        });
        self.lock().extend(states);
    }

    /// Nobody knows what they hold.
    pub(super) fn forget(&self, counters: &[Counter]) {
        let mut seen = self.lock();
        for counter in counters {
            seen.remove(&counter.name);
        }
    }

    /// What each of them held, in their order.
    pub(super) fn of(&self, counters: &[Counter]) -> Vec<Option<State>> {
        let seen = self.lock();
        counters.iter().map(|c| seen.get(&c.name).copied()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TableName, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

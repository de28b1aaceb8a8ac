//! A journal that forgets with the process: for tests and for demonstrations.

use super::{Journal, JournalError};

/// Facts in memory.
#[derive(Debug, Clone)]
pub struct MemoryJournal<Fact> {
    facts: Vec<Fact>,
}

impl<Fact> Default for MemoryJournal<Fact> {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl<Fact> MemoryJournal<Fact> {
    /// A journal that holds `facts` already.
    #[must_use]
    pub fn new(facts: Vec<Fact>) -> Self {
        Self { facts }
    }
}

impl<Fact: Clone + Send + Sync> Journal<Fact> for MemoryJournal<Fact> {
    fn append_all(&mut self, facts: &[Fact]) -> Result<(), JournalError> {
        self.facts.extend_from_slice(facts);
        Ok(())
    }

    fn replay(&self) -> Result<Vec<Fact>, JournalError> {
        Ok(self.facts.clone())
    }

    fn reserve(&mut self, _bytes: u64) -> Result<(), JournalError> {
        Ok(())
    }

    fn reserve_ahead(&mut self, _bytes: u64) {}
}

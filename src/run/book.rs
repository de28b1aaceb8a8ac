//! The run's journal together with what follows from it, shared by the tasks of the run.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use super::{fact::Fact, standing::Standing};
use crate::journal::{FileJournal, Journal, JournalError, Kind};

/// What the header of a run's journal says.
pub const KIND: Kind = Kind("run/1");
/// Its name in the state folder.
pub const FILE: &str = "run.journal";

/// The journal of a run and its fold.
pub struct Book {
    inner: Mutex<Inner>,
}

struct Inner {
    journal: FileJournal<Fact>,
    /// Shared with whoever looks: of ten thousand tables a copy is large.
    standing: Arc<Standing>,
    appends: Appends,
}

/// How long the newest appends of a short line took, the oldest of them first.
#[derive(Default)]
struct Appends(VecDeque<Duration>);

impl Appends {
    /// So many are remembered.
    const KEPT: usize = 5;
    /// Longer lines than those of a move's steps, in bytes: definitions of all tables, say. They take
    /// longer, and none is written in a pause.
    const LONG: u64 = 4096;

    fn add(&mut self, bytes: u64, took: Duration) {
        // Where nothing else is known, a long one is on the careful side.
        if bytes == 0 || (bytes > Self::LONG && !self.0.is_empty()) {
            return;
        }
        if self.0.len() == Self::KEPT {
            self.0.pop_front();
        }
        self.0.push_back(took);
    }

    /// The median: a disk that was busy once, and perhaps long ago, says nothing about the next.
    fn usual(&self) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len().saturating_sub(1) / 2).copied()
    }
}

impl Book {
    /// Opens the journal in `state_dir` for writing.
    ///
    /// # Errors
    ///
    /// As [`FileJournal::open`].
    pub fn open(state_dir: &Path) -> Result<Self, JournalError> {
        let (journal, facts) = FileJournal::open(&state_dir.join(FILE), KIND)?;
        let inner = Inner {
            journal,
            standing: Arc::new(Standing::of(&facts)),
            appends: Appends::default(),
        };
        Ok(Self { inner: Mutex::new(inner) })
    }

    /// What the journal in `state_dir` says, without opening it for writing; `None` without one.
    ///
    /// # Errors
    ///
    /// As [`FileJournal::read_only`].
    pub fn peek(state_dir: &Path) -> Result<Option<Standing>, JournalError> {
        Ok(FileJournal::<Fact>::read_only(&state_dir.join(FILE), KIND)?
            .map(|facts| Standing::of(&facts)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Writes a fact; returns once it would survive a power cut.
    ///
    /// # Errors
    ///
    /// It is not written, and what follows from it must not happen.
    pub fn note(&self, fact: Fact) -> Result<(), JournalError> {
        self.note_all(&[fact])
    }

    /// The same for several that happened together: all of them are written, or none.
    ///
    /// # Errors
    ///
    /// As [`Book::note`].
    pub fn note_all(&self, facts: &[Fact]) -> Result<(), JournalError> {
        let mut inner = self.lock();
        let (before, began) = (inner.journal.end(), Instant::now());
        inner.journal.append_all(facts)?;
        let bytes = inner.journal.end() - before;
        inner.appends.add(bytes, began.elapsed());
        let standing = Arc::make_mut(&mut inner.standing);
        facts.iter().for_each(|fact| standing.add(fact));
        Ok(())
    }

    /// How long an append of a short line takes, the sync included: the median of the last five;
    /// `None` before there was one.
    #[must_use]
    pub fn append_time(&self) -> Option<Duration> {
        self.lock().appends.usual()
    }

    /// The state folder.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.lock().journal.path().parent().map(Path::to_owned).unwrap_or_default()
    }

    /// Where the run stands.
    #[must_use]
    pub fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.lock().standing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_append_is_not_what_the_next_one_takes() {
        let mut appends = Appends::default();
        assert_eq!(appends.usual(), None);
        let ms = Duration::from_millis;
        for (took, usual) in [(300, 300), (2, 2), (1, 2), (250, 2), (2, 2), (240, 2), (230, 230)] {
            appends.add(200, ms(took));
            assert_eq!(appends.usual(), Some(ms(usual)), "{took}");
        }
    }

    #[test]
    fn the_definitions_of_all_tables_are_no_line_of_a_move() {
        let mut appends = Appends::default();
        let ms = Duration::from_millis;
        appends.add(0, ms(0));
        assert_eq!(appends.usual(), None, "nothing was written");
        appends.add(8 << 20, ms(100));
        assert_eq!(appends.usual(), Some(ms(100)), "nothing better is known");
        for _ in 0..3 {
            appends.add(200, ms(2));
            appends.add(8 << 20, ms(100));
        }
        assert_eq!(appends.usual(), Some(ms(2)));
    }
}

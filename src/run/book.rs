//! The run's journal together with what follows from it, shared by the tasks of the run.

use std::{
    path::Path,
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
    append: Option<Duration>,
}

impl Book {
    /// Opens the journal in `state_dir` for writing.
    ///
    /// # Errors
    ///
    /// As [`FileJournal::open`].
    pub fn open(state_dir: &Path) -> Result<Self, JournalError> {
        let (journal, facts) = FileJournal::open(&state_dir.join(FILE), KIND)?;
        let inner = Inner { journal, standing: Arc::new(Standing::of(&facts)), append: None };
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
        let began = Instant::now();
        inner.journal.append_all(facts)?;
        inner.append = Some(began.elapsed());
        let standing = Arc::make_mut(&mut inner.standing);
        facts.iter().for_each(|fact| standing.add(fact));
        Ok(())
    }

    /// How long the last append took, the sync included; `None` before there was one.
    #[must_use]
    pub fn append_time(&self) -> Option<Duration> {
        self.lock().append
    }

    /// Where the run stands.
    #[must_use]
    pub fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.lock().standing)
    }
}

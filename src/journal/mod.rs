//! What has happened, on stable storage.
//!
//! An append-only log of facts with exactly one writer. Generic in its facts: they belong to the
//! room that writes them. A fact that was appended survives a power cut; a fact that was being
//! written when the power went is forgotten, and nothing it announces was started.
//!
//! It does not interpret facts and never edits or drops one.

mod error;
mod file;
mod format;
mod memory;

pub use error::JournalError;
pub use file::{FileJournal, Kind};
pub use memory::MemoryJournal;

/// Brings written facts onto stable storage; blocks.
pub type Unsynced = Box<dyn FnOnce() -> Result<(), JournalError> + Send>;

/// An append-only log of facts with exactly one writer.
///
/// Synchronous on purpose: an append is one write and one `fdatasync`, below a millisecond on
/// an SSD, and nothing may happen meanwhile anyway.
pub trait Journal<Fact>: Send + Sync {
    /// Appends facts, all of them or none, and returns once they would survive a power cut. One
    /// write and one sync, however many they are.
    ///
    /// # Errors
    ///
    /// The caller must stop: what was not journaled did not happen, and what follows from it must
    /// not happen either. The journal refuses everything after an error; open it again.
    fn append_all(&mut self, facts: &[Fact]) -> Result<(), JournalError>;

    /// Like [`Journal::append_all`], but only writes: every reader sees the facts, and they survive
    /// the death of the process. The returned [`Unsynced`] makes them survive a power cut; it can
    /// be run beside something that needs no more than that, and must have succeeded before the
    /// next append. `None`: nothing is left to do.
    ///
    /// # Errors
    ///
    /// As [`Journal::append_all`].
    fn write_all(&mut self, facts: &[Fact]) -> Result<Option<Unsynced>, JournalError> {
        self.append_all(facts).map(|()| None)
    }

    /// Accepts nothing more and gives the lock back: an [`Unsynced`] failed.
    fn give_up(&mut self) {}

    /// Appends one fact; see [`Journal::append_all`].
    ///
    /// # Errors
    ///
    /// As [`Journal::append_all`].
    fn append(&mut self, fact: &Fact) -> Result<(), JournalError>
    where
        Fact: Clone,
    {
        self.append_all(std::slice::from_ref(fact))
    }

    /// Everything appended so far, oldest first.
    ///
    /// # Errors
    ///
    /// The journal cannot be read, or is damaged.
    fn replay(&self) -> Result<Vec<Fact>, JournalError>;

    /// Makes room for about `bytes` more, so that the appends of the next moments only
    /// overwrite: called where time does not matter, before it does.
    ///
    /// # Errors
    ///
    /// The disk is full or failing; nothing was lost.
    fn reserve(&mut self, bytes: u64) -> Result<(), JournalError>;

    /// The same where there is room; where there is none, what was reserved before may be enough.
    fn reserve_ahead(&mut self, bytes: u64);
}

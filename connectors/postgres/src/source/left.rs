//! The server process of the last stream that this process has dropped: the server may not know
//! yet that nobody reads any more, and keeps the slot for it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::primary::Kept;

/// Of one server; one stream at a time reads the slot.
#[derive(Default)]
pub(crate) struct Left(Mutex<Option<i32>>);

impl Left {
    /// Whether it is that one.
    pub(super) fn is(&self, pid: i32) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) == Some(pid)
    }
}

/// Goes with the connection.
pub(super) struct Leaves {
    pub(super) kept: Arc<Kept>,
    pub(super) pid: i32,
}

impl Drop for Leaves {
    fn drop(&mut self) {
        *self.kept.left.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.pid);
    }
}

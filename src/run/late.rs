//! What waits on green for the stream is built, on the server that answers there now.
//!
//! Foreign keys and unique indexes that had to wait are built ahead of a comparison of all rows, and
//! nothing in the journal says so. A server that takes over from green may lack that moment: it knows
//! of what is owed, and owes it still. So whenever the stream to green has begun, or the one from it
//! behind another server, it is asked again, and no move is made before it has answered.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cutover_core::{
    model::side::Side,
    port::{PortError, Result},
};

use super::{
    given::{LOST, is_kept},
    live::Live,
    proof::Proof,
};
use crate::error::Explain as _;

/// How long the stream may take to pass the rows of the copy.
const PASSED_WITHIN: Duration = Duration::from_secs(30);

/// Whether green has all that waited for the stream.
#[derive(Debug, Default)]
pub(super) struct Late {
    inner: Mutex<Asked>,
    /// Two at once would be in each other's way.
    building: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Asked {
    /// How often green may have become another server, and had when it was last found to have all.
    begun: u64,
    found: Option<u64>,
    /// Why it could not be built.
    failed: Option<String>,
}

impl Late {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream begins to green, or from another green: a server may have taken over.
    pub(super) fn begins(&self) {
        self.asked().begun += 1;
    }

    /// To be told to [`Late::has_all`] by whoever asks green from here on.
    pub(super) fn begun(&self) -> u64 {
        self.asked().begun
    }

    /// Green had all when the stream had begun `begun` times.
    pub(super) fn has_all(&self, begun: u64) {
        let mut asked = self.asked();
        asked.found = asked.found.max(Some(begun));
        asked.failed = None;
    }

    /// Green may lack something, and does where it is one that cannot be built.
    fn fails(&self, why: &PortError) {
        let mut asked = self.asked();
        asked.found = asked.found.filter(|_| why.is_transient());
        asked.failed = Some(why.headline());
    }

    /// Why nobody knows whether green has all; `None` when it does.
    pub(super) fn missing(&self) -> Option<String> {
        let asked = self.asked();
        let failed = asked.failed.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        (asked.found != Some(asked.begun)).then(|| {
            format!(
                "green is asked for indexes and foreign keys that waited for the stream, and gets \
                 those that it lacks{failed}"
            )
        })
    }
}

impl Proof {
    /// Builds what waits on green. The stream has passed the rows of the copy since it had begun
    /// `begun` times.
    pub(super) async fn build_late(&self, begun: u64) -> Result<()> {
        let _alone = self.late.building.lock().await;
        match self.ports.schema.complete().await {
            Ok(()) => self.late.has_all(begun),
            Err(e) => {
                self.late.fails(&e);
                return Err(e);
            }
        }
        Ok(())
    }

    /// The same ahead of a comparison. Rows of green may break what waits: only a comparison finds
    /// them, and a repair mends them. Until then no move is made.
    pub(super) async fn build_late_if_rows_let(&self, begun: u64) -> Result<()> {
        match self.build_late(begun).await {
            Err(e @ PortError::Definite { .. }) => {
                tracing::warn!("{e}; rows are compared all the same");
                Ok(())
            }
            other => other,
        }
    }
}

impl Live {
    /// Builds what waits on green, where nobody knows that nothing does. Not before a comparison of
    /// all rows has done so, and not in a move.
    pub(super) async fn watch_late(&self) -> Result<()> {
        let free = self.pipes.try_still().is_some();
        if free && self.proof.passed() && self.caught_up() {
            self.build_late().await
        } else {
            Ok(())
        }
    }

    /// The same at once.
    pub(super) async fn build_late(&self) -> Result<()> {
        if self.owner() == Side::Green || self.proof.late.missing().is_none() {
            return Ok(());
        }
        let begun = self.proof.late.begun();
        let built = async {
            is_kept(&self.ports, &self.book.standing()).await?;
            self.pipes.marker(Side::Blue, PASSED_WITHIN).await?;
            self.proof.build_late(begun).await
        };
        let built = built.await;
        let lost = built.as_ref().err().filter(|e| e.code() == Some(LOST));
        let told = lost.map(|e| (e.headline(), e.remedy().unwrap_or_default().to_owned()));
        self.alarm(LOST, told);
        if let Err(e) = &built {
            self.proof.late.asked().failed = Some(e.headline());
        }
        built
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_green_has_is_known_until_its_stream_begins_again() {
        let late = Late::default();
        assert!(late.missing().is_some(), "nobody has asked");
        late.begins();
        let before = late.begun();
        late.begins();
        late.has_all(before);
        assert!(late.missing().is_some(), "another server may have taken over");
        late.asked().failed = Some("a lock".into());
        assert!(late.missing().is_some_and(|why| why.ends_with(": a lock")));
        late.has_all(late.begun());
        assert_eq!(late.missing(), None);
        late.has_all(before);
        assert_eq!(late.missing(), None, "an answer that comes late says nothing new");
        late.begins();
        assert!(late.missing().is_some_and(|why| why.ends_with("lacks")));
        late.has_all(late.begun());
        late.fails(&PortError::transient("building", "nobody answers"));
        assert_eq!(late.missing(), None);
        late.fails(&PortError::definite("CUT0305", "building", "a row breaks it", "mend it"));
        assert!(late.missing().is_some_and(|why| why.ends_with(": building: a row breaks it")));
        late.has_all(late.begun());
        assert_eq!(late.missing(), None, "the row was mended");
    }
}

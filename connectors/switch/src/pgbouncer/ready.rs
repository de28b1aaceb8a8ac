//! What is done ahead of a move: connections, new files beside the old one, and the proof that this
//! is the file that PgBouncer reads.

use std::time::Instant;

use cutover_core::{model::side::Side, port::switch::SwitchError};

use super::{
    drive::{ANSWER, Inner, SHOW, TAKEN, Warm},
    file::{self, Draft},
    ini,
    quiet::Usual,
    state::by,
};
use crate::failure::{Cause, refused, refused_by};

impl Inner {
    /// RELOAD, unless file and process differ: then it would move traffic.
    pub(super) async fn reload_if_same(&self, warm: &mut Warm) -> Result<(), Cause> {
        let current = self.read()?;
        let control = self.control(warm).await?;
        let state = self.ask(control).await?;
        if !ini::databases(&current).is_ok_and(|written| state.is_as(&written)) {
            return Ok(());
        }
        control.order("RELOAD", ANSWER).await?;
        // What the file says, and not what a crash of ours may have left.
        warm.usual = Usual::read(&control.order("SHOW CONFIG", ANSWER).await?);
        warm.narrow = None;
        warm.eager = false;
        Ok(())
    }

    pub(super) async fn warm_up(&self) -> Result<(), SwitchError> {
        let mut warm = self.warm.lock().await;
        self.connect(&mut warm).await?;
        let failed = |what: &str, cause: Cause| refused_by(&self.name, what, cause);
        if let Err(error) = file::remove_leftovers(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "old drafts stay");
        }
        let current = self.read().map_err(|error| failed("reading its file", error.into()))?;
        // As it will be in the move.
        let current = ini::without_probe(&current);
        let mut drafts = Vec::new();
        // From either side to the other and back, which need not give the same bytes.
        for first in [Side::Blue, Side::Green] {
            let there = self.contents(&current, first)?;
            let back = self.contents(&there, first.other())?;
            for contents in [there, back] {
                let known = |draft: &Draft| draft.contents() == contents;
                if !drafts.iter().any(known) {
                    drafts.push(
                        self.draft(contents)
                            .await
                            .map_err(|cause| failed("writing beside its file", cause))?,
                    );
                }
            }
        }
        warm.drafts = drafts;
        // What else has changed in the file takes effect now and not inside the pause.
        self.reload_if_same(&mut warm).await.map_err(|cause| failed("RELOAD", cause))
    }

    /// Puts an entry that nobody uses into the file and takes it out again, and sees both in the
    /// running process. Once per file: what was put in its place by others is another one.
    pub(super) async fn prove(&self) -> Result<(), SwitchError> {
        let mut warm = self.warm.lock().await;
        let failed = |cause: Cause| refused_by(&self.name, "proving that it reads its file", cause);
        let here = file::identity(&self.path).map_err(|error| failed(error.into()))?;
        if warm.read == Some(here) {
            return Ok(());
        }
        let Some(taken) = self.take_entry(&mut warm).await.map_err(failed)? else {
            // A RELOAD would move traffic, and the checks say so.
            return Ok(());
        };
        if !taken {
            let path = self.path.display();
            return Err(refused(
                &self.name,
                format!(
                    "it does not read {path}: an entry there did not show after a RELOAD. Set \
                     `config` to the file that it reads (`SHOW CONFIG` has it in `conffile`); into a \
                     container mount the folder, for a file that is mounted by itself stays the old \
                     one when it is replaced (CUT0724)"
                ),
            ));
        }
        warm.read = file::identity(&self.path).ok();
        Ok(())
    }

    /// Whether an entry that is put into the file shows; afterwards it is in neither. `None` where that
    /// cannot be tried: file and process differ.
    async fn take_entry(&self, warm: &mut Warm) -> Result<Option<bool>, Cause> {
        let current = self.read()?;
        let without = ini::without_probe(&current);
        let state = self.ask(self.control(warm).await?).await?;
        if !ini::databases(&without).is_ok_and(|written| state.is_as(&written)) {
            return Ok(None);
        }
        let with = ini::with_probe(&without, &self.databases[0])?;
        // Both are on the disk before the first is put in place. One may be there from a process
        // that was killed here.
        let clean = self.draft(without.clone()).await?;
        let last = self.draft(without).await?;
        let probe = self.draft(with).await?;
        if clean.contents() != current {
            clean.put()?;
            self.shows(warm, false).await?;
        } else {
            drop(clean);
        }
        probe.put()?;
        let shown = self.shows(warm, true).await;
        if let Err(error) = last.put() {
            // Whoever comes next takes it out.
            tracing::warn!(%error, path = %self.path.display(), "an entry {} stays", ini::PROBE);
            return Err(error.into());
        }
        let gone = self.shows(warm, false).await;
        self.reload_if_same(warm).await?;
        Ok(Some(shown? && gone?))
    }

    /// Gives RELOAD and waits until the entry is there, or is not; whether it came to that.
    async fn shows(&self, warm: &mut Warm, wanted: bool) -> Result<bool, Cause> {
        let control = self.control(warm).await?;
        control.order("RELOAD", ANSWER).await?;
        let asked = Instant::now();
        loop {
            let rows = control.order(SHOW, ANSWER).await?;
            let there = rows.iter().any(|row| by(row)("name").is_some_and(|n| n == ini::PROBE));
            if there == wanted || asked.elapsed() > TAKEN {
                return Ok(there == wanted);
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}

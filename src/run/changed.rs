//! Definitions are compared with those that both sides agree on, on both sides.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use cutover_core::{model::side::Side, port::Result};

use super::live::{Live, SELDOM};
use crate::{cutover::ground::live::unfollowed, preflight::drift};

/// Definitions that were compared: reading those of ten thousand tables takes seconds, and room.
#[derive(Clone)]
pub(super) struct Compared {
    /// What the side said of all of them before.
    mark: Option<String>,
    /// With which.
    known: Arc<BTreeMap<String, String>>,
    /// Who owned the writes.
    owner: Side,
}

impl Live {
    pub(super) async fn watch_definitions(&self) -> Result<()> {
        let began = Instant::now();
        if self.state().definitions_due.is_some_and(|due| began < due) {
            return Ok(());
        }
        let owner = self.owner();
        self.compare_definitions(owner).await?;
        self.proof.look_for_rewrites().await?;
        self.proof.look_for_growth().await?;
        let count = self.ports.side(owner).primary.unfollowed().await?;
        let alarm = unfollowed(count, owner).map(|f| (f.why, f.remedy.unwrap_or_default()));
        self.alarm("CUT0130", alarm);
        // Last: the owner is watched also while nobody can ask the other side.
        self.compare_of_blue_behind(owner).await?;
        self.state().definitions_due = Some(began + began.elapsed() * SELDOM);
        Ok(())
    }

    /// Compares definitions of the owner with those that both sides had.
    async fn compare_definitions(&self, owner: Side) -> Result<()> {
        let Some((now, compared)) = self.defined(owner, owner).await? else { return Ok(()) };
        let known = &compared.known;
        let changed: Vec<&String> = known
            .keys()
            .filter(|t| now.get(*t) != known.get(*t))
            .chain(now.keys().filter(|t| !known.contains_key(*t)))
            .collect();
        let alarm = (!changed.is_empty()).then(|| {
            let names: Vec<&str> = changed.iter().map(|s| s.as_str()).collect();
            (
                format!(
                    "the definition of {} changed on {owner} since the run began",
                    names.join(", ")
                ),
                format!(
                    "make the same change on {}, then stop and start `cutover run`; see \
                     docs/errors/CUT0509.md for new tables and changes that are taken back",
                    owner.other()
                ),
            )
        });
        self.alarm("CUT0509", alarm);
        self.state().definitions_seen[owner.index()] = Some(compared);
        Ok(())
    }

    /// The same of blue once clients write to green: a table that somebody attaches there would be
    /// back with its rows after a rollback. Green may be anything as long as they write to blue.
    async fn compare_of_blue_behind(&self, owner: Side) -> Result<()> {
        if owner == Side::Blue {
            self.alarm(drift::DRIFTED, None);
            return Ok(());
        }
        let Some((now, compared)) = self.defined(Side::Blue, owner).await? else { return Ok(()) };
        let found = drift::compare(Side::Blue, &compared.known, &now).pop();
        let alarm = found.map(|f| {
            let back = "or take it back where nobody wanted it: then this ends by itself";
            (
                format!("blue, which does not own the writes: {}", f.what),
                format!("{}; {back}", f.remedy),
            )
        });
        self.alarm(drift::DRIFTED, alarm);
        self.state().definitions_seen[Side::Blue.index()] = Some(compared);
        Ok(())
    }

    /// What is defined on a side, and what is to be remembered when it has been compared; `None`
    /// where everything is as it was the last time.
    async fn defined(
        &self,
        side: Side,
        owner: Side,
    ) -> Result<Option<(BTreeMap<String, String>, Compared)>> {
        let primary = &self.ports.side(side).primary;
        let known = Arc::clone(self.book.standing().definitions(side));
        let seen = self.state().definitions_seen[side.index()].clone();
        let seen = seen.filter(|seen| Arc::ptr_eq(&seen.known, &known) && seen.owner == owner);
        let seen = seen.and_then(|seen| seen.mark);
        // Ahead of what it is about.
        let mark = primary.definitions_mark(seen.as_deref()).await?;
        if mark.is_some() && mark == seen {
            return Ok(None);
        }
        let now = primary.fingerprint(&self.selection).await?;
        Ok(Some((now, Compared { mark, known, owner })))
    }
}

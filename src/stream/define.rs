//! A pipe meets a change of definitions.

use std::{sync::Arc, time::Duration};

use cutover_core::{
    model::{event::Relation, side::Side},
    port::{PortError, Result, sink::Redefined},
};

use super::{
    Mode, Policy,
    batch::Batcher,
    open::Open,
    pipe::{Pipe, Worker},
};

/// How long what a transaction committed may take to be visible to others.
const VISIBLE_WITHIN: Duration = Duration::from_secs(10);

impl Pipe {
    /// Says that tables have to be looked at anew, whatever the stream says.
    pub fn look_anew(&self) {
        self.state.outdated();
    }
}

impl Worker {
    /// Nothing in hand is of a table that has to be copied as a whole first.
    pub(super) fn is_sure(&self, batcher: &Batcher) -> Result<()> {
        // What only watches writes nothing that could be wrong.
        let Some(unsure) = batcher.unsure().filter(|_| self.state.mode() == Mode::Apply) else {
            return Ok(());
        };
        let from = self.config.from;
        tracing::info!(%from, "{unsure}: it is copied as a whole");
        self.state.doubt(unsure.0.clone());
        Err(PortError::transient(format!("following changes on {from}"), unsure.clone()))
    }

    /// Definitions changed at this place. What is before it in its transaction is written and not
    /// committed: a stop takes it back.
    pub(super) async fn define(&mut self, open: &mut Open, content: &[u8]) -> Result<()> {
        if self.state.mode() == Mode::Watch {
            // Made by an operator, as a remedy says; the owner's definitions are what counts.
            return Ok(());
        }
        self.stop_early("definitions change").await;
        let (selection, policy) = (&self.config.selection, self.config.policy);
        let make = policy == Policy::Apply;
        let mut found = open.writer.redefine(content, None, selection, make).await?;
        let doubted = match &found {
            Redefined::Differs { tables, .. } if policy != Policy::Ignore => Some(tables),
            Redefined::Unfollowed { tables, .. } => Some(tables),
            _ => None,
        };
        if let Some(tables) = doubted
            // What is committed is in the log before others can see it.
            && self.config.source.begun_have_ended(VISIBLE_WITHIN).await?
        {
            // Both sides may be ahead of the stream already, and equal.
            let now = self.config.source.describe(tables).await?;
            match open.writer.redefine(content, Some(&now), selection, make).await? {
                again @ (Redefined::Alike { .. } | Redefined::Made { .. }) => found = again,
                again @ Redefined::Differs { .. } if matches!(found, Redefined::Differs { .. }) => {
                    found = again;
                }
                // Some of them may be gone by now.
                Redefined::Unfollowed { what, why, tables, leaves }
                    if why.is_empty() || matches!(found, Redefined::Unfollowed { .. }) =>
                {
                    found = Redefined::Unfollowed { what, why, tables, leaves };
                }
                _ => {}
            }
        }
        let from = self.config.from;
        match found {
            Redefined::Unconcerned => {}
            Redefined::Alike { what, tables, born } | Redefined::Made { what, tables, born } => {
                tracing::info!(%from, "definitions changed on both sides: {what}");
                tables.iter().for_each(|table| {
                    self.shapes.remove(table);
                });
                // A type alone concerns no table yet.
                self.state.defined(what, !tables.is_empty(), born);
            }
            // Also where nothing has to be made: their rows are not on the other side.
            Redefined::Unfollowed { what, why, leaves, .. }
                if (why.is_empty() || (make && from == Side::Blue))
                    && !leaves.iter().any(|leaf| self.config.given_up.contains(leaf)) =>
            {
                tracing::info!(%from, "tables become partitions and will be copied: {what}");
                self.state.look_anew(what, leaves);
                return Err(PortError::transient(
                    format!("following changes on {from}"),
                    "tables with rows become partitions: they are copied first",
                ));
            }
            Redefined::Unfollowed { what, why, leaves, .. } => {
                let names: Vec<String> = leaves.iter().map(ToString::to_string).collect();
                let rows = format!("the rows of {} were not followed", names.join(", "));
                let why = if why.is_empty() { rows } else { format!("{why}; {rows}") };
                self.differs(what, why)?;
            }
            Redefined::New { what } if make && from == Side::Blue => {
                tracing::info!(%from, "a table is new and will be copied: {what}");
                self.state.defined(what, true, Vec::new());
            }
            Redefined::New { what } => self.differs(what, "it is not on the other side".into())?,
            Redefined::Differs { what, why, .. } => self.differs(what, why)?,
        }
        Ok(())
    }

    /// A table that is announced with another shape than before may have been altered.
    pub(super) async fn check_shapes(
        &mut self,
        relations: impl Iterator<Item = &Arc<Relation>>,
    ) -> Result<()> {
        let mut last: Option<&Arc<Relation>> = None;
        for relation in relations {
            if last.is_some_and(|l| Arc::ptr_eq(l, relation)) {
                continue;
            }
            last = Some(relation);
            match self.shapes.get(&relation.name) {
                Some(known) if Arc::ptr_eq(known, relation) => continue,
                // Another number is another table that has come to its name.
                Some(known) if (known.id, &known.columns) != (relation.id, &relation.columns) => {
                    self.config.definitions.unchanged(self.config.from, &relation.name).await?;
                }
                _ => {}
            }
            self.shapes.insert(relation.name.clone(), Arc::clone(relation));
        }
        Ok(())
    }

    /// The other side is not as it should be.
    fn differs(&self, what: String, why: String) -> Result<()> {
        let from = self.config.from;
        if self.config.policy == Policy::Ignore {
            tracing::warn!(%from, "definitions changed, and that is ignored: {what}: {why}");
            self.state.defined(what, false, Vec::new());
            return Ok(());
        }
        let at = self.state.view().applied.map_or_else(String::new, |p| format!(" behind {p}"));
        Err(PortError::definite(
            "CUT0515",
            format!("following changes on {from}{at}"),
            format!(
                "{what}, and {} is not like that: {why}; nothing of that transaction was applied",
                from.other()
            ),
            format!(
                "make exactly this change on {} (a table that is to become a partition may be \
                 empty there: its rows are copied), then stop and start `cutover run`; see \
                 docs/errors/CUT0515.md",
                from.other()
            ),
        ))
    }
}

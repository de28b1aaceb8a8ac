//! What a look at a message found: what is different here, and what that concerns.

use std::collections::BTreeSet;

use cutover_core::{model::schema::TableName, port::sink::Born};

use super::{change::Step, make::Places};

#[derive(Default)]
pub(super) struct Found {
    pub(super) steps: Vec<Step>,
    pub(super) concerned: BTreeSet<TableName>,
    /// What is below them and holds rows.
    pub(super) leaves: Vec<TableName>,
    /// Types that no followed table has.
    pub(super) unused: BTreeSet<TableName>,
    /// A table that this side does not have.
    pub(super) new: bool,
    /// Tables with rows became partitions that were not followed before.
    pub(super) unfollowed: Vec<TableName>,
    /// Partitions that were created and whose rows go to a table that is here.
    pub(super) born_whole: Vec<Born>,
    /// Partitions that are created here as well.
    pub(super) born_here: Vec<Born>,
    /// What becomes part of the [`Course`] when it is made.
    pub(super) columns: Vec<(TableName, String)>,
    pub(super) created: Vec<TableName>,
    pub(super) gone: Vec<TableName>,
    pub(super) places: Places,
}

impl Found {
    /// Tables whose rows are to be copied before this can be made; none when that is not enough.
    pub(super) fn copied_first(&self) -> Vec<TableName> {
        let enough = |step: &Step| step.statement.is_some() || step.absent.is_some();
        if self.new || !self.steps.iter().all(enough) {
            return Vec::new();
        }
        let absent = self.steps.iter().filter_map(|step| step.absent.clone());
        self.unfollowed.iter().cloned().chain(absent).collect()
    }

    /// Everything that is different can be made now.
    pub(super) fn is_safe(&self) -> bool {
        let safe = self.steps.iter().all(|step| step.statement.is_some());
        safe && !self.steps.is_empty() && !self.new && self.unfollowed.is_empty()
    }

    /// Without what is not different any more, on a later look: what is different then and not now
    /// is still to be told of.
    pub(super) fn still_told_of(mut self, later: &Self) -> Self {
        let about: BTreeSet<&String> = later.steps.iter().map(|step| &step.about).collect();
        self.steps.retain(|step| about.contains(&step.about));
        self.unfollowed.retain(|leaf| later.unfollowed.contains(leaf));
        self
    }
}

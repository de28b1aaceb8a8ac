//! Where a run stands: a pure fold of its facts. Never stored, so it cannot disagree with them.

use std::collections::{BTreeMap, HashMap};

use cutover_core::model::{position::Position, schema::TableName, side::Side};
use serde::{Deserialize, Serialize};

use super::fact::Fact;

/// Phases of a run in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing has happened.
    New,
    /// Definitions are being copied.
    Definitions,
    /// Rows are being copied.
    Copying,
    /// Indexes and constraints are being built.
    Indexing,
    /// Changes are followed.
    Streaming,
    /// Green owns the writes; the way back is open.
    Switched,
    /// What the run created is being removed.
    Removing,
    /// It is over.
    Ended,
}

impl Phase {
    /// For people and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Definitions => "definitions",
            Self::Copying => "copying",
            Self::Indexing => "indexing",
            Self::Streaming => "streaming",
            Self::Switched => "switched",
            Self::Removing => "removing",
            Self::Ended => "ended",
        }
    }
}

/// What the facts say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Blue's and green's address when it began.
    pub addresses: Option<(String, String)>,
    /// Where the stream starts.
    pub start: Option<Position>,
    /// Definitions when capture began.
    pub definitions: BTreeMap<String, String>,
    /// Definitions are on green.
    pub before_rows: bool,
    /// How many of the user's commands have run.
    pub user_commands: usize,
    /// Rows may be on green.
    pub copy_began: bool,
    /// Finished targets and their snapshots.
    pub copied: HashMap<TableName, String>,
    /// Position after the last snapshot.
    pub copy_ended: Option<Position>,
    /// Indexes and constraints are on green.
    pub after_rows: bool,
    /// The way back has been armed once.
    pub way_back: bool,
    /// Owner of the writes after the last finished move.
    pub owner: Side,
    /// A move that has no end yet: number, from, rehearsal.
    pub open_move: Option<(u32, Side, bool)>,
    /// Number of the last move.
    pub moves: u32,
    /// Whether what the run created is being removed, and by `finish`.
    pub removing: Option<bool>,
    /// Nothing is left.
    pub removed: bool,
}

impl Standing {
    /// Folds facts, oldest first.
    #[must_use]
    pub fn of(facts: &[Fact]) -> Self {
        let mut s = Self {
            addresses: None,
            start: None,
            definitions: BTreeMap::new(),
            before_rows: false,
            user_commands: 0,
            copy_began: false,
            copied: HashMap::new(),
            copy_ended: None,
            after_rows: false,
            way_back: false,
            owner: Side::Blue,
            open_move: None,
            moves: 0,
            removing: None,
            removed: false,
        };
        facts.iter().for_each(|f| s.add(f));
        s
    }

    /// Adds one fact.
    pub fn add(&mut self, fact: &Fact) {
        match fact {
            Fact::Began { blue, green, .. } => {
                self.addresses = Some((blue.clone(), green.clone()));
            }
            Fact::Resumed { .. } => {}
            Fact::Captured { start, definitions, .. } => {
                self.start = Some(start.clone());
                self.definitions.clone_from(definitions);
            }
            Fact::Redefined { definitions } => self.definitions.clone_from(definitions),
            Fact::DefinitionsBeforeRows => self.before_rows = true,
            Fact::UserCommand => self.user_commands += 1,
            Fact::CopyBegan => self.copy_began = true,
            Fact::Copied { table, snapshot } => {
                self.copied.insert(table.clone(), snapshot.clone());
            }
            Fact::CopyEnded { until } => self.copy_ended = Some(until.clone()),
            Fact::DefinitionsAfterRows => self.after_rows = true,
            Fact::WayBackArmed => self.way_back = true,
            Fact::MoveBegan { id, from, rehearsal, .. } => {
                self.open_move = Some((*id, *from, *rehearsal));
                self.moves = *id;
            }
            Fact::MoveEnded { owner, .. } => {
                self.open_move = None;
                self.owner = *owner;
            }
            Fact::Removing { finish } => self.removing = Some(*finish),
            Fact::Removed => self.removed = true,
        }
    }

    /// The phase that follows from the facts.
    #[must_use]
    pub fn phase(&self) -> Phase {
        if self.removed {
            Phase::Ended
        } else if self.removing.is_some() {
            Phase::Removing
        } else if self.owner == Side::Green {
            Phase::Switched
        } else if self.after_rows {
            Phase::Streaming
        } else if self.copy_ended.is_some() {
            Phase::Indexing
        } else if self.copy_began {
            Phase::Copying
        } else if self.addresses.is_some() {
            Phase::Definitions
        } else {
            Phase::New
        }
    }
}

#[cfg(test)]
mod tests {
    use cutover_core::model::{run::RunId, selection::Selection};

    use super::*;

    fn began() -> Fact {
        Fact::Began {
            run: RunId::new("shop").unwrap(),
            blue: "b".into(),
            green: "g".into(),
            selection: Selection::default(),
            version: "0".into(),
            at_ms: 0,
        }
    }

    fn at(lsn: u64) -> Position {
        Position::Postgres { timeline: 1, lsn }
    }

    #[test]
    fn phases_follow_from_facts() {
        let mut facts = Vec::new();
        let mut seen = vec![Standing::of(&facts).phase()];
        for fact in [
            began(),
            Fact::DefinitionsBeforeRows,
            Fact::CopyBegan,
            Fact::CopyEnded { until: at(9) },
            Fact::DefinitionsAfterRows,
            Fact::MoveBegan { id: 1, from: Side::Blue, rehearsal: false, at_ms: 0 },
            Fact::MoveEnded { id: 1, owner: Side::Green, at_ms: 0 },
            Fact::MoveBegan { id: 2, from: Side::Green, rehearsal: false, at_ms: 0 },
            Fact::MoveEnded { id: 2, owner: Side::Blue, at_ms: 0 },
            Fact::Removing { finish: false },
            Fact::Removed,
        ] {
            facts.push(fact);
            seen.push(Standing::of(&facts).phase());
        }
        use Phase::{Copying, Definitions, Ended, Indexing, New, Removing, Streaming, Switched};
        assert_eq!(
            seen,
            [
                New,
                Definitions,
                Definitions,
                Copying,
                Indexing,
                Streaming,
                Streaming,
                Switched,
                Switched,
                Streaming,
                Removing,
                Ended
            ]
        );
    }

    #[test]
    fn an_open_move_is_remembered() {
        let facts =
            [began(), Fact::MoveBegan { id: 3, from: Side::Blue, rehearsal: true, at_ms: 1 }];
        let s = Standing::of(&facts);
        assert_eq!((s.open_move, s.moves), (Some((3, Side::Blue, true)), 3));
    }

    #[test]
    fn facts_survive_the_journal() {
        let fact = Fact::Copied { table: TableName::new("public", "t"), snapshot: "1:2:".into() };
        let text = serde_json::to_string(&fact).unwrap();
        assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), fact);
    }
}

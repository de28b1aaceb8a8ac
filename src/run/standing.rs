//! Where a run stands: a pure fold of its facts. Never stored, so it cannot disagree with them.

use std::{collections::BTreeMap, sync::Arc};

use cutover_core::model::{position::Position, run::RunId, side::Side};
use serde::{Deserialize, Serialize};

use super::{
    fact::{Carried, Fact},
    owed::{Copies, Cut, Held, Sources},
};
use crate::preflight::beside::Objects;

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
    /// Whose journal it is.
    pub run: Option<RunId>,
    /// Blue's and green's address when it began.
    pub addresses: Option<(String, String)>,
    /// Where the stream starts.
    pub start: Option<Position>,
    /// Definitions of blue and of green that both sides agree on: blue's when capture began, green's
    /// when clients were last sent there.
    definitions: [Arc<BTreeMap<String, String>>; 2],
    /// What blue and green had beside tables when both were last alike; `None` in journals of
    /// earlier versions.
    pub beside: [Option<Objects>; 2],
    /// Definitions are on green.
    pub before_rows: bool,
    /// How many of the user's commands have run.
    pub user_commands: usize,
    /// Rows may be on green.
    pub copy_began: bool,
    /// A place in the log of blue, and in that of green, behind all that the side was given.
    pub given: [Option<Position>; 2],
    /// What green holds of blue's rows.
    pub from_blue: Copies,
    /// What blue holds of green's rows.
    pub from_green: Copies,
    /// Indexes and constraints are on green.
    pub after_rows: bool,
    /// The way back has been armed once.
    pub way_back: bool,
    /// Where its stream starts.
    pub back_start: Option<Position>,
    /// Owner of the writes after the last finished move.
    pub owner: Side,
    /// A move that has no end yet: number, from, rehearsal.
    pub open_move: Option<(u32, Side, bool)>,
    /// Number of the last move.
    pub moves: u32,
    /// The last change of the owner was a way back.
    pub brought_back: bool,
    /// When green became the owner that it is, in milliseconds since 1970-01-01 UTC.
    pub switched_at: Option<i64>,
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
            run: None,
            addresses: None,
            start: None,
            definitions: Default::default(),
            beside: [None, None],
            before_rows: false,
            user_commands: 0,
            copy_began: false,
            given: [None, None],
            from_blue: Copies::default(),
            from_green: Copies::default(),
            after_rows: false,
            way_back: false,
            back_start: None,
            owner: Side::Blue,
            open_move: None,
            moves: 0,
            brought_back: false,
            switched_at: None,
            removing: None,
            removed: false,
        };
        facts.iter().for_each(|f| s.add(f));
        s
    }

    /// Adds one fact.
    pub fn add(&mut self, fact: &Fact) {
        match fact {
            Fact::Began { run, blue, green, .. } => {
                self.run = Some(run.clone());
                self.addresses = Some((blue.clone(), green.clone()));
            }
            Fact::Resumed { .. } => {}
            Fact::Captured { start, definitions, .. } => {
                self.start = Some(start.clone());
                self.definitions[0] = Arc::new(definitions.clone());
            }
            Fact::Redefined { of, definitions } => {
                self.definitions[of.index()] = Arc::new(definitions.clone());
            }
            Fact::Beside { of, objects } => {
                self.beside[of.index()] = Some(Arc::new(objects.clone()));
            }
            Fact::DefinitionsBeforeRows => self.before_rows = true,
            Fact::UserCommand => self.user_commands += 1,
            Fact::CopyBegan { from, until } => {
                self.copy_began = true;
                self.copies_mut(*from).began.clone_from(until);
            }
            Fact::Given { side, there } => {
                self.given[side.index()] = Some(there.clone());
            }
            Fact::Cut { table, from, source, ranges, definition } => {
                let cut = Cut {
                    source: source.clone(),
                    ranges: ranges.clone(),
                    definition: definition.clone(),
                };
                self.copies_mut(*from).cut.insert(table.clone(), cut);
            }
            Fact::Copied { table, snapshot, from, sources, views } => {
                let held = Held {
                    snapshot: Some(snapshot.clone()),
                    views: views.clone(),
                    sources: sources.as_deref().map(carried),
                    // The other side is followed since then.
                    late: self.way_back,
                };
                let copies = self.copies_mut(*from);
                copies.cut.remove(table);
                copies.targets.insert(table.clone(), held);
                *copies.copied.entry(table.clone()).or_default() += 1;
                copies.unsettled = true;
            }
            Fact::CopyEnded { until, from, there } => {
                let copies = self.copies_mut(*from);
                copies.ended = Some(until.clone());
                copies.written.clone_from(there);
                copies.unsettled = false;
            }
            Fact::Outdated { from, tables } => {
                let late = self.way_back;
                let copies = self.copies_mut(*from);
                // It stays known where rows go, also when nobody comes to copy them.
                tables.iter().for_each(|table| {
                    copies.cut.remove(table);
                    copies.targets.insert(table.clone(), Held { late, ..Held::outdated() });
                });
            }
            Fact::Followed { from, table, sources } => {
                let held = Held { sources: Some(carried(sources)), ..Held::default() };
                let copies = self.copies_mut(*from);
                copies.cut.remove(table);
                copies.targets.insert(table.clone(), held);
            }
            Fact::Born { from, table, source } => {
                let held = self.copies_mut(*from).targets.entry(table.clone()).or_default();
                held.sources
                    .get_or_insert_default()
                    .insert(source.table.clone(), source.since.clone());
            }
            Fact::DefinitionsAfterRows => self.after_rows = true,
            Fact::WayBackArmed { start } => {
                self.way_back = true;
                self.back_start.clone_from(start);
            }
            Fact::MoveBegan { id, from, rehearsal, .. } => {
                self.open_move = Some((*id, *from, *rehearsal));
                self.moves = *id;
            }
            Fact::MoveEnded { owner, at_ms, .. } => {
                self.open_move = None;
                if *owner != self.owner {
                    self.brought_back = *owner == Side::Blue;
                    self.switched_at = (*owner == Side::Green).then_some(*at_ms);
                }
                self.owner = *owner;
            }
            Fact::Removing { finish } => self.removing = Some(*finish),
            Fact::Removed => self.removed = true,
        }
    }

    /// What the other side holds of the rows of this one.
    #[must_use]
    pub fn copies(&self, from: Side) -> &Copies {
        match from {
            Side::Blue => &self.from_blue,
            Side::Green => &self.from_green,
        }
    }

    /// Whether green's tables are there, and what is defined behind their rows is not.
    #[must_use]
    pub fn keys_come(&self) -> bool {
        self.before_rows && !self.after_rows
    }

    /// Definitions of this side that the other agrees with.
    #[must_use]
    pub fn definitions(&self, of: Side) -> &Arc<BTreeMap<String, String>> {
        &self.definitions[of.index()]
    }

    /// These definitions; shared where they are those.
    #[must_use]
    pub fn shared(&self, of: Side, now: BTreeMap<String, String>) -> Arc<BTreeMap<String, String>> {
        let known = self.definitions(of);
        if now == **known { Arc::clone(known) } else { Arc::new(now) }
    }

    /// A place in this side's own log behind all definitions and rows that it was given.
    #[must_use]
    pub fn given(&self, side: Side) -> Option<&Position> {
        self.given[side.index()].as_ref()
    }

    fn copies_mut(&mut self, from: Side) -> &mut Copies {
        match from {
            Side::Blue => &mut self.from_blue,
            Side::Green => &mut self.from_green,
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
        } else if self.from_blue.ended.is_some() {
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

fn carried(sources: &[Carried]) -> Sources {
    sources.iter().map(|s| (s.table.clone(), s.since.clone())).collect()
}

#[cfg(test)]
mod tests {
    use cutover_core::model::{ranges::KeyRanges, schema::TableName, selection::Selection};

    use super::*;
    use crate::run::fact::Views;

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
            Fact::CopyBegan { from: Side::Blue, until: Some(at(8)) },
            Fact::CopyEnded { until: at(9), from: Side::Blue, there: None },
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
    fn what_is_beside_tables_is_known_where_it_was_noted() {
        let objects = BTreeMap::from([("view s.v".to_owned(), "1@18".to_owned())]);
        let fact = Fact::Beside { of: Side::Green, objects: objects.clone() };
        let text = serde_json::to_string(&fact).unwrap();
        assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), fact);
        assert_eq!(Standing::of(&[began()]).beside, [None, None]);
        assert_eq!(Standing::of(&[began(), fact]).beside, [None, Some(Arc::new(objects))]);
    }

    #[test]
    fn what_is_cut_is_so_until_it_is_copied_or_given_up() {
        let (table, ranges) =
            (TableName::new("s", "t"), KeyRanges { column: "id".into(), bounds: vec![-3, 9] });
        let source = Carried { table: table.clone(), since: "1:2".into() };
        let cut = Fact::Cut {
            table: table.clone(),
            from: Side::Blue,
            source: source.clone(),
            ranges: ranges.clone(),
            definition: "p 2 1:700".into(),
        };
        let views = Views { ranges, snapshots: vec!["1:1:".into(), "2:2:".into(), "1:1:".into()] };
        let copied = Fact::Copied {
            table: table.clone(),
            snapshot: "2:2:".into(),
            from: Side::Blue,
            sources: Some(vec![source]),
            views: Some(views.clone()),
        };
        for fact in [&cut, &copied] {
            let text = serde_json::to_string(fact).unwrap();
            assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), *fact, "{text}");
        }
        let standing = Standing::of(std::slice::from_ref(&cut));
        assert!(standing.from_blue.cut.contains_key(&table) && standing.from_green.cut.is_empty());
        let standing = Standing::of(&[cut.clone(), copied]);
        assert_eq!(standing.from_blue.targets[&table].views, Some(views));
        assert!(standing.from_blue.cut.is_empty() && standing.from_blue.torn().is_some());
        let outdated = Fact::Outdated { from: Side::Blue, tables: vec![table] };
        assert!(Standing::of(&[cut, outdated]).from_blue.cut.is_empty());
    }

    #[test]
    fn facts_survive_the_journal() {
        let fact = Fact::Copied {
            table: TableName::new("public", "t"),
            snapshot: "1:2:".into(),
            from: Side::Blue,
            sources: None,
            views: None,
        };
        let text = serde_json::to_string(&fact).unwrap();
        assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), fact);
        // As earlier versions wrote it.
        let old = r#"{"fact":"copied","table":{"schema":"public","name":"t"},"snapshot":"1:2:"}"#;
        assert_eq!(serde_json::from_str::<Fact>(old).unwrap(), fact);
        for (old, new) in [
            ("copy_began", Fact::CopyBegan { from: Side::Blue, until: None }),
            ("way_back_armed", Fact::WayBackArmed { start: None }),
        ] {
            let old = format!(r#"{{"fact":"{old}"}}"#);
            assert_eq!(serde_json::from_str::<Fact>(&old).unwrap(), new);
        }
    }
}

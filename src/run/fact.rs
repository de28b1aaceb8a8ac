//! What a run writes into its journal. A move has a journal of its own (`cutover::fact`).

use std::collections::BTreeMap;

use cutover_core::model::{
    position::Position, ranges::KeyRanges, run::RunId, schema::TableName, selection::Selection,
    side::Side,
};
use serde::{Deserialize, Serialize};

/// A source of rows, and since when its changes are followed without a break.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The source.
    pub table: TableName,
    /// See [`cutover_core::port::source::Since`].
    pub since: String,
}

/// Ranges of a key that were copied under several snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Views {
    /// The ranges.
    #[serde(flatten)]
    pub ranges: KeyRanges,
    /// Which transactions each of them contains.
    pub snapshots: Vec<String>,
}

/// Journals of earlier versions know one direction only.
fn blue() -> Side {
    Side::Blue
}

/// One fact about a run. Facts are never edited, only added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// The run exists; from here on anything with its name may exist on both servers.
    Began {
        /// Its name.
        run: RunId,
        /// Blue's address without credentials.
        blue: String,
        /// Green's address without credentials.
        green: String,
        /// What is moved.
        selection: Selection,
        /// Version of this program.
        version: String,
        /// Milliseconds since 1970.
        at_ms: i64,
    },
    /// A process took the run up again.
    Resumed {
        /// Milliseconds since 1970.
        at_ms: i64,
    },
    /// Blue keeps its log for us from here on.
    Captured {
        /// Where the stream starts.
        start: Position,
        /// What is followed.
        tables: Vec<TableName>,
        /// Definitions of the tables at that time.
        definitions: BTreeMap<String, String>,
    },
    /// Definitions were changed on both sides alike while no process worked on the run, or green has
    /// them so while clients write to blue.
    Redefined {
        /// Whose.
        #[serde(default = "blue")]
        of: Side,
        /// Definitions of its tables since.
        definitions: BTreeMap<String, String>,
    },
    /// What a side had beside its tables when it was like the other.
    Beside {
        /// Which.
        of: Side,
        /// See [`cutover_core::port::primary::Primary::beside`].
        objects: BTreeMap<String, String>,
    },
    /// Green has the definitions that must exist before rows.
    DefinitionsBeforeRows,
    /// The next one of the user's own schema commands has run.
    UserCommand,
    /// Rows may be written from here on.
    CopyBegan {
        /// Where they come from.
        #[serde(default = "blue")]
        from: Side,
        /// A position of that side behind all that their snapshot contains; `None` in journals of
        /// earlier versions.
        #[serde(default)]
        until: Option<Position>,
    },
    /// A target table is copied in ranges of its source's key from here on. Each is there from its own
    /// commit on, which the receiving side knows.
    Cut {
        /// The target.
        table: TableName,
        /// Where the rows come from.
        from: Side,
        /// The source.
        source: Carried,
        /// The ranges.
        #[serde(flatten)]
        ranges: KeyRanges,
        /// How the source was defined: [`cutover_core::port::copy::Keyed::definition`].
        definition: String,
    },
    /// All rows of a target table are committed on green.
    Copied {
        /// The target.
        table: TableName,
        /// Which transactions the copy contains.
        snapshot: String,
        /// Where the rows came from.
        #[serde(default = "blue")]
        from: Side,
        /// All tables whose rows are in it; `None` in journals of earlier versions.
        #[serde(default)]
        sources: Option<Vec<Carried>>,
        /// What ranges of it contain; `None` where all of it contains the same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        views: Option<Views>,
    },
    /// A side has all that was noted of it so far, on its disk, before a position of its own log.
    Given {
        /// The side.
        side: Side,
        /// The position.
        there: Position,
    },
    /// Every table is copied; every snapshot was taken before this position of the side that the
    /// rows came from.
    CopyEnded {
        /// The position.
        until: Position,
        /// Where the rows came from.
        #[serde(default = "blue")]
        from: Side,
        /// A position of the other side behind everything that the copy wrote there; `None` when
        /// nobody followed that side yet.
        #[serde(default)]
        there: Option<Position>,
    },
    /// These targets do not hold the rows of their sources any more: they will be emptied and copied
    /// again.
    Outdated {
        /// Where the rows come from.
        from: Side,
        /// The targets.
        tables: Vec<TableName>,
    },
    /// A target holds the rows of exactly these sources without a copy: the other side owns the
    /// writes and is where they come from.
    Followed {
        /// The side of the sources.
        from: Side,
        /// The target.
        table: TableName,
        /// Its sources.
        sources: Vec<Carried>,
    },
    /// A source came into being empty in the stream that goes to this target.
    Born {
        /// The side of the source.
        from: Side,
        /// The target.
        table: TableName,
        /// The source.
        source: Carried,
    },
    /// Green has indexes, constraints and statistics.
    DefinitionsAfterRows,
    /// Green keeps its log for the way back.
    WayBackArmed {
        /// Where its stream starts; `None` in journals of earlier versions.
        #[serde(default)]
        start: Option<Position>,
    },
    /// A move begins; it has a journal of its own under this number.
    MoveBegan {
        /// Number, from 1.
        id: u32,
        /// Owner of the writes before.
        from: Side,
        /// A rehearsal never changes the owner.
        rehearsal: bool,
        /// Milliseconds since 1970.
        at_ms: i64,
    },
    /// A move has ended.
    MoveEnded {
        /// Its number.
        id: u32,
        /// Owner of the writes since.
        owner: Side,
        /// Milliseconds since 1970.
        at_ms: i64,
    },
    /// What the run created is being removed; there is no way back to running.
    Removing {
        /// `true`: finished after a switch. `false`: aborted before it.
        finish: bool,
    },
    /// Nothing of the run is left on the servers.
    Removed,
}

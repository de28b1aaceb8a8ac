//! What a pipe is made of.

use std::sync::Arc;

use cutover_core::{
    model::{position::Position, run::RunId, schema::TableName, selection::Selection, side::Side},
    port::{
        sink::{Route, Sink},
        source::Source,
    },
};

use super::{Definitions, Policy, Witness, handover::Handover};

/// What a pipe connects.
pub struct PipeConfig {
    /// The run.
    pub run: RunId,
    /// The side that is read.
    pub from: Side,
    /// Reads.
    pub source: Arc<dyn Source>,
    /// Writes, on the other side.
    pub sink: Arc<dyn Sink>,
    /// Where the rows of each table go.
    pub routes: Arc<Vec<Route>>,
    /// What is moved; excluded leaves are passed over.
    pub selection: Selection,
    /// Where the stream starts as long as the sink holds nothing of it; `None`: wherever the source
    /// keeps its log from.
    pub start: Option<Position>,
    /// From copied rows to the stream; empty on the way back.
    pub handover: Handover,
    /// Bytes of one batch, and the size from which on a transaction is applied in pieces.
    pub batch_bytes: usize,
    /// Who remembers the keys of changed rows.
    pub witness: Arc<dyn Witness>,
    /// Who knows whether definitions have changed.
    pub definitions: Arc<dyn Definitions>,
    /// What to do when they do.
    pub policy: Policy,
    /// Tables that could not be taken along when they became partitions.
    pub given_up: Vec<TableName>,
}

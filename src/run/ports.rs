//! The machinery of one run, as the wiring hands it over: ports, no connector.

use std::sync::Arc;

use cutover_core::{
    model::side::Side,
    port::{
        examine::Examine, primary::Primary, reader::RowReader, schema::SchemaCopy, sink::Sink,
        source::Source, switch::TrafficSwitch,
    },
};

/// Everything one database can do for a run.
#[derive(Clone)]
pub struct Database {
    /// Its address for messages, without credentials: [`primary_of`] it, and where else it is read.
    pub address: String,
    /// Capture.
    pub source: Arc<dyn Source>,
    /// Copy and apply.
    pub sink: Arc<dyn Sink>,
    /// Fence and counters.
    pub primary: Arc<dyn Primary>,
    /// Digests of the newest committed rows.
    pub reader: Arc<dyn RowReader>,
    /// Preflight.
    pub examine: Arc<dyn Examine>,
}

/// The part of an address that is before ` (read from OTHER ADDRESS)`.
#[must_use]
pub fn primary_of(address: &str) -> &str {
    address.split_once(" (read from ").map_or(address, |(primary, _)| primary)
}

/// Both databases and what stands in front of them.
#[derive(Clone)]
pub struct Ports {
    /// The database in use.
    pub blue: Database,
    /// Its successor.
    pub green: Database,
    /// Copies definitions from blue to green.
    pub schema: Arc<dyn SchemaCopy>,
    /// What decides where clients' writes go.
    pub switches: Vec<Arc<dyn TrafficSwitch>>,
}

impl Ports {
    /// One of the two databases.
    #[must_use]
    pub fn side(&self, side: Side) -> &Database {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }
}

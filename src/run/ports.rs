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
    address.split_once(READ_FROM).map_or(address, |(primary, _)| primary)
}

/// Which databases an address leads to, and not as whom or how: host, port and name.
#[must_use]
pub fn places_of(address: &str) -> String {
    let place = |address: &str| {
        let address = address.strip_suffix(')').unwrap_or(address);
        let (at, query) = address.split_once('?').unwrap_or((address, ""));
        let at = at.rsplit_once('@').map_or(at, |(_, at)| at);
        let socket = query.split('&').find(|pair| pair.starts_with("host="));
        format!("{at}{}", socket.unwrap_or_default())
    };
    address.split(READ_FROM).map(place).collect::<Vec<_>>().join(READ_FROM)
}

const READ_FROM: &str = " (read from ";

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_not_who_comes_there_or_how() {
        let standby =
            "postgres://a@h:1/d?sslmode=disable (read from postgres://b@s:2/d?sslmode=prefer)";
        let same =
            "postgres://c@h:1/d?sslmode=verify-ca (read from postgres://c@s:2/d?sslmode=require)";
        assert_eq!(places_of(standby), places_of(same));
        assert_eq!(places_of(primary_of(standby)), places_of("postgres://x@h:1/d?sslmode=require"));
        let socket = |folder| format!("postgres://a@:1/d?sslmode=disable&host={folder}");
        assert_ne!(places_of(&socket("/a")), places_of(&socket("/b")));
        assert_ne!(places_of("postgres://a@h:1/d"), places_of("postgres://a@h:1/e"));
    }
}

//! Capture against real servers of every version on this machine.

#[path = "capture/changes.rs"]
mod changes;
#[path = "capture/connections.rs"]
mod connections;
#[path = "capture/failover.rs"]
mod failover;
#[path = "capture/network.rs"]
mod network;
#[path = "capture/origins.rs"]
mod origins;
#[path = "capture/positions.rs"]
mod positions;
#[path = "capture/prepared.rs"]
mod prepared;
#[path = "capture/publication.rs"]
mod publication;
#[path = "capture/rate.rs"]
mod rate;
#[path = "capture/snapshots.rs"]
mod snapshots;
#[path = "capture/standby.rs"]
mod standby;
#[path = "capture/stops.rs"]
mod stops;
#[path = "capture/streamed.rs"]
mod streamed;
#[path = "capture/world.rs"]
mod world;

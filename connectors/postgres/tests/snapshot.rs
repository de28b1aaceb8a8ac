//! Rows and digests under a snapshot and as they are now, on real servers.

#[path = "snapshot/digests.rs"]
mod digests;
mod home;
#[path = "snapshot/keyed.rs"]
mod keyed;
#[path = "snapshot/rows.rs"]
mod rows;
#[path = "snapshot/taken.rs"]
mod taken;

//! The sink against real servers, with the database as the oracle: what triggers saw on the
//! tables of schema `src` is applied to those of schema `dst`, and both must hold the same rows.

#[path = "apply/bulk.rs"]
mod bulk;
#[path = "apply/busy.rs"]
mod busy;
#[path = "apply/changes.rs"]
mod changes;
#[path = "apply/crash.rs"]
mod crash;
#[path = "apply/early.rs"]
mod early;
#[path = "apply/parts.rs"]
mod parts;
#[path = "apply/refusals.rs"]
mod refusals;
#[path = "apply/types.rs"]
mod types;
#[path = "apply/world.rs"]
mod world;

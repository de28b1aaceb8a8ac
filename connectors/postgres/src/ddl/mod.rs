//! Changes of definitions: seen where clients make them, and made again on the other side.
//!
//! - `text`: the event triggers and what they say, as SQL.
//! - `arm`: installing and removing them.
//! - `message`: what they said.
//! - `change`: from what a table is like here and there to statements. Pure.
//! - `own`: what a partition has unlike the table above it. Pure.
//! - `spelled`: whether an expression is another one, or written by another version.
//! - `types`: the same for types of users. Pure.
//! - `below`: which types tables rest on.
//! - `make`: the same, inside of the sink's transaction.
//! - `lack`: what tables lack that are about to be filled, ahead of the stream.
//!
//! # How
//!
//! Where we may create event triggers, each statement of a client that defines something puts a
//! transactional logical message into the log: it arrives at exactly its place between the rows,
//! and not at all when its transaction rolls back. It holds no statement, but what the objects
//! look like afterwards. The other side compares that with what it has itself: nothing is made
//! twice, and only what the difference names is made at all.
//!
//! The triggers never make a client's statement fail, keep quiet in sessions of ours (which set
//! `cutover.run`, and write in replica role), and say nothing about temporary objects, about
//! extensions and about our own schema.

mod arm;
mod below;
mod change;
mod found;
mod lack;
mod make;
mod message;
mod own;
mod spelled;
mod text;
mod types;

pub(crate) use arm::{arm, armed, describe, disarm};
pub(crate) use below::{NewType, types_below};
pub(crate) use lack::{Lack, lacking_columns, lacking_types};
pub(crate) use make::{Course, Followed, Places, make};

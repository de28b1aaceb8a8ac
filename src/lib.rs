//! The engine: moves a live database from blue to green and keeps the way back open.
//!
//! # Layout
//!
//! The rooms in reading order; each may use only the ones above it (`tests/tidy.rs` checks).
//!
//! - [`error`]: codes, hints, the printer of error chains.
//! - [`observe`]: logs, metrics, progress.
//! - [`journal`]: what has happened, on stable storage.
//! - [`config`]: what the user wants.
//! - [`preflight`]: reasons not to start.
//! - [`transform`]: where the rows of a source table go.
//! - [`copy`]: the initial rows.
//! - [`lag`]: how far behind, honestly.
//! - [`stream`]: one direction of replication.
//! - [`verify`]: are the two sides equal.
//! - [`cutover`]: moving ownership, both ways.
//! - [`run`]: one migration from start to finish.
//! - [`web`]: status and metrics over HTTP.

pub mod config;
pub mod copy;
pub mod cutover;
pub mod error;
pub mod journal;
pub mod lag;
pub mod observe;
pub mod preflight;
pub mod run;
pub mod stream;
pub mod transform;
pub mod verify;
pub mod web;

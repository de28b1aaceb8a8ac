//! Moving ownership, both ways.
//!
//! A move is a list of steps ([`plan`]); what happened is a list of facts ([`fact`]); what comes
//! next follows from the facts alone ([`machine`]). Who performs it ([`driver`]) decides nothing,
//! and does it through a [`ground`]. A [`guard`] in a process of its own goes on with the same
//! machine when we die. Rollback is the same move with the sides exchanged.

pub mod driver;
pub mod evidence;
pub mod fact;
pub mod ground;
pub mod guard;
pub mod machine;
pub mod plan;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod table;
#[cfg(test)]
mod trial;

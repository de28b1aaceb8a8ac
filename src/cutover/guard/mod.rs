//! A second process that frees the traffic if the first one dies or hangs while clients wait.
//!
//! It is started before the pause with a pipe on its standard input, opens its own connections,
//! and waits. If the pipe ends without `released`, or the pause lasts longer than its budget and a
//! grace, it takes the journal's lock (killing the first process if that still holds it), and
//! goes on with the same machine and driver until the traffic is free on exactly one side. What
//! is left after that is for the next `cutover run`.
//!
//! [`watch`] decides when to act and is pure; [`summon`] is the first process's end of the pipe,
//! [`serve`] the guard itself.

mod parent;
mod serve;
mod summon;
#[cfg(test)]
mod tests;
mod watch;

pub use parent::{Parent, stand_fast};
pub use serve::{GuardEnd, GuardError, serve};
pub use summon::{Handle, Summons};

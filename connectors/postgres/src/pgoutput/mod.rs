//! Message bytes of the `pgoutput` plugin → messages, nothing else.
//!
//! Pure: no I/O, no state but the bytes given. Knows protocol versions 1 to 4. Lengths are
//! checked before anything is read, so no input panics; whatever is not known is an error with
//! its place and never skipped. Does not know which transactions commit (`source` does).

mod decode;
mod message;
#[cfg(test)]
mod tests;

pub(crate) use decode::decode;
pub(crate) use message::{DecodeError, Message};

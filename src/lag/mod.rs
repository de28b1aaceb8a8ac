//! How far behind, honestly, and how long a pause would be.
//!
//! Lag is three numbers: bytes of log, seconds by commit time, transactions in hand. A number that
//! is not known is not zero. Everything here is pure; who measures is the stream and the run.

mod converge;
mod estimate;
mod sample;
mod speed;

pub use converge::{Converge, Thresholds, converge};
pub use estimate::{Estimate, Measured, Part, USUAL_BACKLOG, compared_within, estimate};
pub use sample::{Sample, Samples};
pub use speed::Speed;

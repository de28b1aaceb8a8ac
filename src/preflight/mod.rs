//! Reasons not to start a run, or not to begin a move: all of them at once.
//!
//! Asks both databases and every switch through the port `Examine`, and adds what only the engine
//! can see, because it takes both sides to see it. Never stops at the first finding; a question
//! without an answer is a finding too. Changes nothing, and knows no database by name.

mod around;
pub mod beside;
mod collect;
mod counters;
pub mod drift;
mod extensions;
mod fit;
mod inventory;
mod report;
mod switches;
mod types;
mod way_back;
mod words;

pub use collect::{Inputs, Place, examine};
pub use counters::stay_ahead;
pub use report::{Counts, Report};
pub use types::{OTHER_KEY, compare as compare_tables, is_of_key};

use cutover_core::model::{
    finding::{Finding, Severity},
    side::Side,
};

/// A finding about one side.
fn found(
    code: &str,
    severity: Severity,
    side: Side,
    what: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    Finding {
        code: code.into(),
        severity,
        place: side.as_str().into(),
        what: what.into(),
        remedy: remedy.into(),
    }
}

//! Short ways to say what is known about traffic after a failure.

use std::error::Error;

use cutover_core::port::switch::SwitchError;

pub(crate) type Cause = Box<dyn Error + Send + Sync>;

pub(crate) fn refused(switch: &str, what: impl Into<String>) -> SwitchError {
    SwitchError::Refused { switch: switch.to_owned(), what: what.into(), source: None }
}

pub(crate) fn refused_by(
    switch: &str,
    what: impl Into<String>,
    cause: impl Into<Cause>,
) -> SwitchError {
    SwitchError::Refused {
        switch: switch.to_owned(),
        what: what.into(),
        source: Some(cause.into()),
    }
}

pub(crate) fn ambiguous(
    switch: &str,
    what: impl Into<String>,
    cause: impl Into<Cause>,
) -> SwitchError {
    SwitchError::Ambiguous {
        switch: switch.to_owned(),
        what: what.into(),
        source: Some(cause.into()),
    }
}

/// An error with its causes in one line, for findings.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

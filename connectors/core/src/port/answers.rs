//! One answer for every question. Answers are told apart by their order alone, and a missing one
//! must not pass for a table without rows.

use super::{PortError, Result};
use crate::model::schema::TableName;

/// Whether there are as many answers as questions; `first` is the table of the first one.
///
/// # Errors
///
/// `CUT0308`.
pub(super) fn even(
    doing: &str,
    first: Option<&TableName>,
    questions: usize,
    answers: usize,
) -> Result<()> {
    if questions == answers { Ok(()) } else { Err(uneven(doing, first, questions, answers)) }
}

fn uneven(doing: &str, first: Option<&TableName>, questions: usize, answers: usize) -> PortError {
    let of = first.map(|table| format!(" of {table}")).unwrap_or_default();
    PortError::definite(
        "CUT0308",
        format!("{doing}{of}"),
        format!("{questions} answers were expected and {answers} came"),
        "report this with the kinds and versions of both databases",
    )
}

/// The answer to the only question.
///
/// # Errors
///
/// `CUT0308`.
pub(super) fn only<T>(doing: &str, table: &TableName, answers: Vec<T>) -> Result<T> {
    match <[T; 1]>::try_from(answers) {
        Ok([answer]) => Ok(answer),
        Err(answers) => Err(uneven(doing, Some(table), 1, answers.len())),
    }
}

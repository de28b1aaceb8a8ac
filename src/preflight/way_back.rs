//! Green can be a source and blue a target: the same comparison with the sides exchanged. Pure.
//!
//! A row that cannot go back does not stop the move to green, so these are warnings.

use cutover_core::model::{
    finding::{Finding, Severity},
    schema::{Counterparts, Table},
    side::Side,
};

use super::{found, types};

/// What would stop the stream from green to blue, for tables that both sides have.
pub(super) fn compare(blue: &[Table], green: &[Table]) -> Vec<Finding> {
    let known = Counterparts::new(blue);
    let both: Vec<Table> = green.iter().filter(|t| known.of(t).is_some()).cloned().collect();
    types::compare(&both, blue, Side::Blue, true)
        .into_iter()
        .filter(|f| f.severity == Severity::Error && !symmetric(&f.code))
        .map(|f| {
            let what = format!("the way back may stop: {}", f.what);
            found("CUT0171", Severity::Warning, Side::Blue, what, f.remedy)
        })
        .collect()
}

/// Findings that the comparison of the way there has made already: primary keys, columns that
/// only one side has, columns that only one side computes.
fn symmetric(code: &str) -> bool {
    matches!(code, "CUT0152" | "CUT0156" | "CUT0160")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::{fit::tests::column, types::tests::table};

    #[test]
    fn only_what_is_new_on_the_way_back() {
        let mut strict = column("c", "text");
        strict.nullable = false;
        for (blue, green, want) in [
            (column("c", "text"), column("c", "text"), 0),
            (strict.clone(), column("c", "text"), 1),
            (column("c", "integer"), column("c", "bigint"), 1),
            (column("c", "text"), strict.clone(), 0),
        ] {
            let got = compare(&[table(vec![blue.clone()])], &[table(vec![green.clone()])]);
            assert_eq!(got.len(), want, "{blue:?} {green:?}");
            assert!(got.iter().all(|f| f.code == "CUT0171" && f.place == "blue"));
        }
        assert!(compare(&[table(vec![])], &[table(vec![column("new", "text")])]).is_empty());
    }
}

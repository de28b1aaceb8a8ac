//! What was defined differently when the run began. Pure.

use std::collections::BTreeMap;

use cutover_core::model::{
    finding::{Finding, Severity},
    side::Side,
};

use super::{
    found,
    words::{list, number},
};

/// The code of what [`compare`] finds.
pub const DRIFTED: &str = "CUT0176";

/// Compares definitions of one side with those the run began with; both map tables to texts that
/// change with the definition. One finding at most.
#[must_use]
pub fn compare(
    side: Side,
    began: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
) -> Vec<Finding> {
    let mut changed: Vec<String> = Vec::new();
    for (table, text) in began {
        match now.get(table) {
            Some(same) if same == text => {}
            Some(_) => changed.push(format!("{table} (altered)")),
            None => changed.push(format!("{table} (gone)")),
        }
    }
    changed.extend(now.keys().filter(|t| !began.contains_key(*t)).map(|t| format!("{t} (new)")));
    if changed.is_empty() {
        return Vec::new();
    }
    vec![found(
        DRIFTED,
        Severity::Error,
        side,
        format!(
            "definitions of {} changed since the run began: {}",
            number(changed.len(), "table"),
            list(&changed)
        ),
        "make the same change on the other side, then stop and start `cutover run`, which compares \
         both and goes on; a table that is new can be left out with `tables: exclude`",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn altered_gone_and_new() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let began = map(&[("a.same", "1"), ("a.altered", "1"), ("a.gone", "1")]);
        assert!(compare(Side::Blue, &began, &began).is_empty());
        let now = map(&[("a.same", "1"), ("a.altered", "2"), ("a.new", "1")]);
        let [finding] = &compare(Side::Blue, &began, &now)[..] else { panic!() };
        assert_eq!(
            finding.what,
            "definitions of 3 tables changed since the run began: \
             a.altered (altered), a.gone (gone), a.new (new)"
        );
    }
}

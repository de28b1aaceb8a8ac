//! What changed beside tables, does not travel, and is not on the other side either. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cutover_core::model::{
    finding::{Finding, Severity},
    side::Side,
};

use super::{
    found,
    words::{list, number},
};

/// Objects of one side: kind and name, and a text that changes with the definition.
pub type Objects = Arc<BTreeMap<String, String>>;

const CODE: &str = "CUT0184";

/// One side then and now.
#[derive(Debug)]
pub struct Look {
    /// When both sides were last alike.
    pub began: Objects,
    /// Now.
    pub now: BTreeMap<String, String>,
}

impl Look {
    /// Whether the object is not as it was.
    fn changed(&self, object: &str) -> bool {
        self.began.get(object) != self.now.get(object)
    }
}

/// What changed on the owner of the writes and not on the other side.
#[must_use]
pub fn compare(owner: Side, blue: &Look, green: &Look) -> Option<Finding> {
    let (here, there) = match owner {
        Side::Blue => (blue, green),
        Side::Green => (green, blue),
    };
    let names: BTreeSet<&String> = here.began.keys().chain(here.now.keys()).collect();
    let changed: Vec<(&str, &str)> = names
        .into_iter()
        .filter(|name| here.changed(name) && !is_alike(here, there, name))
        .map(|name| match (here.began.get(name), here.now.get(name)) {
            (_, None) => (name.as_str(), "gone"),
            (None, _) => (name.as_str(), "new"),
            _ => (name.as_str(), "altered"),
        })
        .collect();
    let comes_or_goes: BTreeSet<&str> =
        changed.iter().filter(|(_, how)| *how != "altered").map(|(name, _)| *name).collect();
    // Grants on an object come and go with it.
    let comes_along =
        |name: &str| name.split_once(" on ").is_some_and(|(_, of)| comes_or_goes.contains(of));
    let told: Vec<String> = changed
        .iter()
        .filter(|(name, _)| !comes_along(name))
        .map(|(name, how)| format!("{name} ({how})"))
        .collect();
    (!told.is_empty()).then(|| {
        warning(
            owner,
            format!(
                "{} beside tables changed on {owner} and not on {}, and do not travel: {}",
                number(told.len(), "definition"),
                owner.other(),
                list(&told)
            ),
        )
    })
}

/// Nobody knows what changed.
#[must_use]
pub fn unknown(owner: Side, cause: &str) -> Finding {
    warning(owner, format!("what is defined beside tables could not be compared: {cause}"))
}

fn warning(owner: Side, what: String) -> Finding {
    let other = owner.other();
    let remedy = format!("make the same change on {other} where the application needs it");
    found(CODE, Severity::Warning, owner, what, remedy)
}

/// Whether the other side has the object as it is here. Where their texts cannot be compared, it is
/// enough that it changed there, too.
fn is_alike(here: &Look, there: &Look, object: &str) -> bool {
    let rendered = |text: &str| text.split_once('@').map(|(_, by)| by.to_owned());
    match (here.now.get(object), there.now.get(object)) {
        (None, None) => true,
        (Some(a), Some(b)) => a == b || rendered(a) != rendered(b) && there.changed(object),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn look(began: Pairs<'_>, now: Pairs<'_>) -> Look {
        let map = |pairs: Pairs<'_>| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        Look { began: Arc::new(map(began)), now: map(now) }
    }

    /// What is told of an object that was `began` and is `now`, on the owner and on the other side.
    fn told(here: [Option<&str>; 2], there: [Option<&str>; 2]) -> Option<String> {
        let one = |[began, now]: [Option<&str>; 2]| {
            let pairs = |text: Option<&str>| {
                text.map(|text| ("function s.f()".to_owned(), text.to_owned()))
            };
            Look {
                began: Arc::new(pairs(began).into_iter().collect()),
                now: pairs(now).into_iter().collect(),
            }
        };
        let (here, there) = (one(here), one(there));
        let finding = compare(Side::Green, &there, &here)?;
        Some(finding.what.rsplit_once('(')?.1.trim_end_matches(')').to_owned())
    }

    #[test]
    fn what_is_told_and_what_is_not() {
        let (a, b, c) = (Some("1"), Some("2"), Some("3"));
        let (old, new) = (Some("1@14"), Some("2@14"));
        for (here, there, want) in [
            ([a, a], [a, a], None),
            // Differences of the beginning are nobody's concern.
            ([a, a], [b, b], None),
            ([a, a], [None, None], None),
            ([a, a], [a, b], None),
            ([a, b], [a, a], Some("altered")),
            ([a, b], [a, b], None),
            ([a, b], [a, c], Some("altered")),
            ([None, a], [None, None], Some("new")),
            ([None, a], [None, a], None),
            ([None, a], [None, b], Some("new")),
            ([a, None], [a, a], Some("gone")),
            ([a, None], [a, None], None),
            // Of two versions: both changed.
            ([old, new], [Some("9@18"), Some("9@18")], Some("altered")),
            ([old, new], [Some("9@18"), Some("8@18")], None),
            ([None, new], [None, Some("8@18")], None),
            ([old, new], [Some("9@14"), Some("8@14")], Some("altered")),
        ] {
            assert_eq!(told(here, there).as_deref(), want, "{here:?} {there:?}");
        }
    }

    #[test]
    fn grants_come_and_go_with_their_object() {
        let began =
            [("grants on view s.gone", "1"), ("grants on view s.v", "1"), ("view s.gone", "1")];
        let now = [
            ("grants on table s.t", "1"),
            ("grants on view s.new", "1"),
            ("grants on view s.v", "2"),
            ("view s.new", "1"),
        ];
        let (blue, green) = (look(&began, &now), look(&began, &began));
        let finding = compare(Side::Blue, &blue, &green).unwrap();
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(
            finding.what,
            "4 definitions beside tables changed on blue and not on green, and do not travel: \
             grants on table s.t (new), grants on view s.v (altered), view s.gone (gone), \
             view s.new (new)"
        );
        assert_eq!(finding.remedy, "make the same change on green where the application needs it");
    }
}

//! Sequences must exist on the side that takes over, or they cannot be set during the move, and may
//! be further there than the owner's. Pure.

use cutover_core::model::{
    finding::{Finding, Severity},
    inventory::Inventory,
    schema::TableName,
    side::Side,
};

use super::{
    found,
    words::{list, number, table},
};

/// Sequences of blue that green lacks. With `creates` the schema copy makes them.
pub(super) fn compare(blue: &Inventory, green: &Inventory, creates: bool) -> Vec<Finding> {
    let missing: Vec<_> =
        blue.sequences.iter().filter(|name| !green.sequences.contains(name)).collect();
    if creates || missing.is_empty() {
        return Vec::new();
    }
    let create: Vec<String> =
        missing.iter().map(|name| format!("CREATE SEQUENCE {};", table(name))).collect();
    vec![found(
        "CUT0170",
        Severity::Error,
        Side::Green,
        format!("green lacks {} of blue: {}", number(missing.len(), "sequence"), list(&missing)),
        create.join("\n"),
    )]
}

/// Sequences that would go on further on `to` than their counterparts on the owner of the writes.
#[must_use]
pub fn stay_ahead(to: Side, names: &[TableName]) -> Option<Finding> {
    let owner = to.other();
    (!names.is_empty()).then(|| {
        found(
            "CUT0186",
            Severity::Warning,
            to,
            format!(
                "{} further than on {owner}, and a move sets none back that others may have used: \
                 {}",
                number(names.len(), "sequence"),
                list(names)
            ),
            format!(
                "where nobody used the values in between: SELECT setval(...) on {to} to what {owner} \
                 has; else {to} leaves them out"
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_sequence_counts_only_when_nobody_makes_it() {
        let blue = Inventory {
            sequences: vec![TableName::new("app", "a"), TableName::new("app", "b")],
            ..Inventory::default()
        };
        let green =
            Inventory { sequences: vec![TableName::new("app", "b")], ..Inventory::default() };
        assert!(compare(&blue, &green, true).is_empty());
        assert!(compare(&green, &blue, false).is_empty());
        let [finding] = &compare(&blue, &green, false)[..] else { panic!() };
        assert_eq!(finding.what, "green lacks 1 sequence of blue: app.a");
        assert_eq!(finding.remedy, "CREATE SEQUENCE \"app\".\"a\";");
    }

    #[test]
    fn what_stays_ahead_is_named() {
        assert_eq!(stay_ahead(Side::Green, &[]), None);
        let names = [TableName::new("app", "a"), TableName::new("app", "b")];
        let finding = stay_ahead(Side::Green, &names).unwrap();
        assert_eq!((finding.severity, finding.place.as_str()), (Severity::Warning, "green"));
        assert_eq!(
            finding.what,
            "2 sequences further than on blue, and a move sets none back that others may have used: \
             app.a, app.b"
        );
    }
}

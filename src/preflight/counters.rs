//! Sequences must exist on the side that takes over, or they cannot be set during the move. Pure.

use cutover_core::model::{
    finding::{Finding, Severity},
    inventory::Inventory,
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

#[cfg(test)]
mod tests {
    use cutover_core::model::schema::TableName;

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
}

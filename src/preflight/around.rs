//! What belongs to a database and to the roles that use it, and is in no copy of definitions. Pure.

use std::collections::BTreeSet;

use cutover_core::model::{
    finding::{Finding, Severity},
    inventory::Inventory,
    side::Side,
};

use super::{
    found,
    words::{ident, list, number},
};

/// `pg_dump` of one database leaves out what ALTER DATABASE and ALTER ROLE set. Roles that green
/// lacks are another finding.
pub(super) fn settings(blue: &Inventory, green: &Inventory) -> Option<Finding> {
    let mut names: Vec<String> = blue
        .settings
        .iter()
        .filter(|(name, digest)| green.settings.get(*name) != Some(digest))
        .map(|(name, _)| name.clone())
        .collect();
    for (role, settings) in blue.role_settings.iter().filter(|(role, _)| green.roles.contains(role))
    {
        let there = green.role_settings.get(role);
        let differs = |(name, digest): &(&String, &String)| {
            there.and_then(|there| there.get(*name)) != Some(*digest)
        };
        let differing = settings.iter().filter(differs);
        names.extend(differing.map(|(name, _)| format!("role {role} everywhere: {name}")));
    }
    (!names.is_empty()).then(|| {
        found(
            "CUT0191",
            Severity::Warning,
            Side::Green,
            format!(
                "{} of blue's database and roles missing or different on green: {}",
                number(names.len(), "setting"),
                list(&names)
            ),
            format!(
                "see them on blue with \\drds, and set them on green: ALTER DATABASE {0} SET NAME = \
                 VALUE; ALTER ROLE ROLE IN DATABASE {0} SET NAME = VALUE; ALTER ROLE ROLE SET NAME = \
                 VALUE;",
                ident(&green.database)
            ),
        )
    })
}

/// What clients may do with the database itself.
pub(super) fn rights(blue: &Inventory, green: &Inventory) -> Option<Finding> {
    let none = Vec::new();
    let missing: Vec<(&String, &String)> = blue
        .database_rights
        .iter()
        .filter(|(role, _)| green.roles.contains(role))
        .flat_map(|(role, rights)| {
            let there = green.database_rights.get(role).unwrap_or(&none);
            rights.iter().filter(|right| !there.contains(right)).map(move |right| (role, right))
        })
        .collect();
    let roles: BTreeSet<&String> = missing.iter().map(|(role, _)| *role).collect();
    let what: Vec<String> =
        missing.iter().map(|(role, right)| format!("{right} of {role}")).collect();
    let grants: Vec<String> = missing
        .iter()
        .map(|(role, right)| {
            format!("GRANT {right} ON DATABASE {} TO {};", ident(&green.database), ident(role))
        })
        .collect();
    (!missing.is_empty()).then(|| {
        found(
            "CUT0188",
            Severity::Warning,
            Side::Green,
            format!(
                "{} may do with blue's database what green's refuses: {}",
                number(roles.len(), "role"),
                list(&what)
            ),
            grants.join("\n"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(settings: &[(&str, &str, &str)], rights: &[(&str, &[&str])]) -> Inventory {
        let text = |t: &str| t.to_owned();
        let mut inventory = Inventory {
            database: "db".into(),
            roles: vec!["app".into(), "batch".into()],
            ..Inventory::default()
        };
        for (role, name, digest) in settings {
            let of = inventory.role_settings.entry(text(role)).or_default();
            of.insert(text(name), text(digest));
        }
        for (role, rights) in rights {
            let rights = rights.iter().map(|right| text(right)).collect();
            inventory.database_rights.insert(text(role), rights);
        }
        inventory
    }

    #[test]
    fn settings_of_roles_that_are_on_both_sides() {
        let path = ("app", "search_path", "1");
        let blue = inventory(&[path, ("app", "work_mem", "1"), ("gone", "work_mem", "1")], &[]);
        assert_eq!(settings(&blue, &blue), None);
        let found = settings(&blue, &inventory(&[path, ("app", "work_mem", "2")], &[])).unwrap();
        assert!(found.what.ends_with(": role app everywhere: work_mem"), "{}", found.what);
        assert!(found.what.starts_with("1 setting of"), "{}", found.what);
    }

    #[test]
    fn who_may_not_even_connect() {
        let blue = inventory(&[], &[("app", &["CONNECT", "TEMPORARY"]), ("gone", &["CONNECT"])]);
        assert_eq!(rights(&blue, &blue), None);
        let found = rights(&blue, &inventory(&[], &[("app", &["TEMPORARY"])])).unwrap();
        assert_eq!(
            found.what,
            "1 role may do with blue's database what green's refuses: CONNECT of app"
        );
        assert_eq!(found.remedy, "GRANT CONNECT ON DATABASE \"db\" TO \"app\";");
    }
}

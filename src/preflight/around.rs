//! What belongs to a database and to the roles that use it, and is in no copy of definitions. Pure.

use std::collections::BTreeSet;

use cutover_core::model::{
    finding::{Finding, Severity},
    inventory::{BuiltinGrant, Inventory},
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
        .filter(|(role, _)| blue.database_users.contains(role) && green.roles.contains(role))
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
    not_granted(
        format!(
            "{} may do with blue's database what green's refuses: {}",
            number(roles.len(), "role"),
            list(&what)
        ),
        &grants,
    )
}

/// What a grant to all roles names.
const EVERYBODY: &str = "PUBLIC";

fn not_granted(what: String, grants: &[String]) -> Option<Finding> {
    let found = || found("CUT0188", Severity::Warning, Side::Green, what, grants.join("\n"));
    (!grants.is_empty()).then(found)
}

fn grantee(role: &str) -> String {
    if role == EVERYBODY { role.to_owned() } else { ident(role) }
}

/// Grants on schemas that our role does not own on green are not copied: nobody else can make them.
pub(super) fn schema_grants(blue: &Inventory, green: &Inventory) -> Option<Finding> {
    let there = |schema: &str, role: &str, right: &str| {
        green.schema_grants.iter().any(|(s, r, p)| s == schema && r == role && p == right)
    };
    let missing: Vec<&(String, String, String)> = blue
        .schema_grants
        .iter()
        .filter(|(schema, role, right)| {
            blue.schema_owners.contains_key(schema)
                && green.schemas_of_others.contains(schema)
                && (role == EVERYBODY || green.roles.contains(role))
                && !there(schema, role, right)
                && !there(schema, EVERYBODY, right)
        })
        .collect();
    let what: Vec<String> = missing
        .iter()
        .map(|(schema, role, right)| format!("{right} of {role} on {schema}"))
        .collect();
    let grants: Vec<String> = missing
        .iter()
        .map(|(schema, role, right)| {
            format!("GRANT {right} ON SCHEMA {} TO {};", ident(schema), grantee(role))
        })
        .collect();
    not_granted(
        format!(
            "grants on schemas of others are not copied, and green lacks {}: {}",
            number(what.len(), "grant"),
            list(&what)
        ),
        &grants,
    )
}

/// Grants on what comes with the server or with an extension stay on green as they are there, unless
/// our role may make them.
pub(super) fn builtin_grants(blue: &Inventory, green: &Inventory) -> Option<Finding> {
    let lacks = |grant: &&BuiltinGrant| {
        let there = |role: &str| {
            let same = |g: &BuiltinGrant| g.object == grant.object && g.right == grant.right;
            green.builtin_grants.iter().any(|g| same(g) && g.role == role)
        };
        !grant.initial
            && (grant.role == EVERYBODY || green.roles.contains(&grant.role))
            && !there(&grant.role)
            && !there(EVERYBODY)
    };
    if green.superuser {
        return None;
    }
    let missing: Vec<&BuiltinGrant> = blue.builtin_grants.iter().filter(lacks).collect();
    let what: Vec<String> =
        missing.iter().map(|g| format!("{} of {} on {}", g.right, g.role, g.object)).collect();
    let grants: Vec<String> = missing
        .iter()
        .map(|g| format!("GRANT {} ON {} TO {};", g.right, g.object, grantee(&g.role)))
        .collect();
    not_granted(
        format!(
            "grants on what comes with the server or an extension are not copied, and green \
                 lacks {}: {}",
            number(what.len(), "grant"),
            list(&what)
        ),
        &grants,
    )
}

/// What `pg_dump` does not say, and what it leaves out where whole schemas are left out.
pub(super) fn left_behind(blue: &Inventory, green: &Inventory) -> Option<Finding> {
    let left: Vec<&String> =
        blue.left_behind.iter().filter(|what| !green.left_behind.contains(what)).collect();
    (!left.is_empty()).then(|| {
        found(
            "CUT0185",
            Severity::Warning,
            Side::Green,
            format!("the copy of definitions leaves behind: {}", list(&left)),
            "-- make on green what is needed there (docs/errors/CUT0185.md has the commands); under \
             `tables`, include: [\"*.*\"] leaves out neither a schema nor what is in none",
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
            inventory.database_users.push(text(role));
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
    fn grants_on_schemas_that_others_made() {
        let with = |grants: &[(&str, &str, &str)], of_others: &[&str]| Inventory {
            schema_grants: grants
                .iter()
                .map(|(s, r, p)| (s.to_string(), r.to_string(), p.to_string()))
                .collect(),
            schemas_of_others: of_others.iter().map(ToString::to_string).collect(),
            ..inventory(&[], &[])
        };
        let blue = with(
            &[
                ("Ext", "PUBLIC", "USAGE"),
                ("Ext", "app", "CREATE"),
                ("Ext", "gone", "CREATE"),
                ("ours", "PUBLIC", "USAGE"),
                ("public", "PUBLIC", "USAGE"),
            ],
            &[],
        );
        // Nothing of `public` is moved.
        let schema_owners = ["Ext", "ours"].map(|s| (s.to_owned(), "root".to_owned())).into();
        let blue = Inventory { schema_owners, ..blue };
        let found = schema_grants(&blue, &with(&[], &["Ext", "public"])).unwrap();
        assert_eq!(
            found.remedy,
            "GRANT USAGE ON SCHEMA \"Ext\" TO PUBLIC;\nGRANT CREATE ON SCHEMA \"Ext\" TO \"app\";"
        );
        let given = with(&[("Ext", "PUBLIC", "USAGE"), ("Ext", "PUBLIC", "CREATE")], &["Ext"]);
        assert_eq!(schema_grants(&blue, &given), None);
    }

    #[test]
    fn grants_on_what_comes_with_the_server() {
        let grant = |object: &str, role: &str, initial: bool| BuiltinGrant {
            object: object.into(),
            role: role.into(),
            right: "EXECUTE".into(),
            initial,
        };
        let with = |builtin_grants| Inventory { builtin_grants, ..inventory(&[], &[]) };
        let blue = with(vec![
            grant("FUNCTION a()", "app", false),
            grant("FUNCTION a()", "gone", false),
            grant("FUNCTION b()", "batch", true),
            grant("FUNCTION c()", "PUBLIC", false),
        ]);
        let found = builtin_grants(&blue, &with(Vec::new())).unwrap();
        assert_eq!(
            found.remedy,
            "GRANT EXECUTE ON FUNCTION a() TO \"app\";\nGRANT EXECUTE ON FUNCTION c() TO PUBLIC;"
        );
        let given = ["a", "c"].map(|f| grant(&format!("FUNCTION {f}()"), "PUBLIC", false));
        assert_eq!(builtin_grants(&blue, &with(given.to_vec())), None);
        let all_may = Inventory { superuser: true, ..with(Vec::new()) };
        assert_eq!(builtin_grants(&blue, &all_may), None);
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
        let by_nobody = Inventory { database_users: Vec::new(), ..blue };
        assert_eq!(rights(&by_nobody, &inventory(&[], &[])), None);
    }
}

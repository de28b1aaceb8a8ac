//! Extensions of both sides. Pure.

use cutover_core::model::{
    finding::{Finding, Severity},
    inventory::Inventory,
    side::Side,
};

use super::{
    found,
    inventory::minus,
    words::{ident, list, number},
};

/// Values of an extension's types, and its functions, may differ between its versions.
pub(super) fn versions(blue: &Inventory, green: &Inventory) -> Option<Finding> {
    let numbers = |v: &str| -> Vec<u64> {
        v.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
    };
    let different: Vec<(String, bool)> = blue
        .extension_versions
        .iter()
        .filter_map(|(name, b)| Some((name, b, green.extension_versions.get(name)?)))
        .filter(|(_, b, g)| b != g)
        .map(|(name, b, g)| {
            (format!("{name} ({b} on blue, {g} on green)"), numbers(g) < numbers(b))
        })
        .collect();
    let older = different.iter().any(|(_, older)| *older);
    let names: Vec<&String> = different.iter().map(|(name, _)| name).collect();
    (!names.is_empty()).then(|| {
        found(
            "CUT0192",
            if older { Severity::Warning } else { Severity::Info },
            Side::Green,
            format!("extensions of two versions: {}", list(&names)),
            "read their release notes; a newer one on green is usual, an older one may lack what \
             is used: ALTER EXTENSION NAME UPDATE;",
        )
    })
}

pub(super) fn missing(blue: &Inventory, green: &Inventory) -> Vec<Finding> {
    let missing = minus(&blue.extensions, &green.extensions);
    let (ready, absent): (Vec<&String>, Vec<&String>) =
        missing.into_iter().partition(|e| green.available_extensions.contains(e));
    let mut findings = Vec::new();
    if !absent.is_empty() {
        findings.push(found(
            "CUT0165",
            Severity::Error,
            Side::Green,
            format!(
                "blue uses {} that green's server does not have: {}",
                number(absent.len(), "extension"),
                list(&absent)
            ),
            "install the packages of these extensions on green's server, or drop the extensions \
             on blue if nothing uses them",
        ));
    }
    if !ready.is_empty() {
        let make: Vec<String> = ready.iter().map(|e| create(blue, e)).collect();
        findings.push(found(
            "CUT0166",
            Severity::Warning,
            Side::Green,
            format!(
                "blue uses {} not created on green yet: {}; our role may not be allowed to do it",
                number(ready.len(), "extension"),
                list(&ready)
            ),
            make.join("\n"),
        ));
    }
    findings
}

/// In blue's schema, which definitions name.
fn create(blue: &Inventory, extension: &str) -> String {
    let create = format!("CREATE EXTENSION IF NOT EXISTS {}", ident(extension));
    match blue.extension_schemas.get(extension).map(String::as_str) {
        None | Some("pg_catalog") => format!("{create};"),
        Some("public") => format!("{create} SCHEMA public;"),
        Some(schema) => {
            let of = blue.schema_owners.get(schema);
            let of = of.map(|owner| format!(" AUTHORIZATION {}", ident(owner))).unwrap_or_default();
            let schema = ident(schema);
            format!("CREATE SCHEMA IF NOT EXISTS {schema}{of};\n{create} SCHEMA {schema};")
        }
    }
}

/// What belongs to it has another name there.
pub(super) fn schemas(blue: &Inventory, green: &Inventory) -> Option<Finding> {
    let elsewhere: Vec<(&String, &String, &String)> = blue
        .extension_schemas
        .iter()
        .filter_map(|(name, b)| Some((name, b, green.extension_schemas.get(name)?)))
        .filter(|(_, b, g)| b != g)
        .collect();
    let names: Vec<String> = elsewhere
        .iter()
        .map(|(name, b, g)| format!("{name} ({b} on blue, {g} on green)"))
        .collect();
    let moves: Vec<String> = elsewhere
        .iter()
        .map(|(name, b, _)| format!("ALTER EXTENSION {} SET SCHEMA {};", ident(name), ident(b)))
        .collect();
    (!names.is_empty()).then(|| {
        found(
            "CUT0192",
            Severity::Warning,
            Side::Green,
            format!(
                "extensions in another schema than on blue, where definitions do not find them: {}",
                list(&names)
            ),
            moves.join("\n"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::inventory::{
            compare,
            tests::{check, one as alike},
        },
        *,
    };

    #[test]
    fn extensions_are_absent_or_only_not_installed() {
        let got = check(
            |b| b.extensions = vec!["plpgsql".into(), "postgis".into(), "hstore".into()],
            |g| {
                g.extensions = vec!["plpgsql".into()];
                g.available_extensions = vec!["plpgsql".into(), "hstore".into()];
            },
            true,
        );
        assert_eq!(
            got,
            [("CUT0165".into(), Severity::Error), ("CUT0166".into(), Severity::Warning)]
        );
    }

    #[test]
    fn extensions_are_made_where_they_are_on_blue() {
        let mut blue = alike();
        let text = str::to_owned;
        blue.extensions = ["cube", "dict_xsyn", "hstore", "plv8"].map(text).into();
        blue.extension_schemas = [("cube", "Ext 1"), ("hstore", "public"), ("plv8", "pg_catalog")]
            .map(|(e, s)| (text(e), text(s)))
            .into();
        blue.schema_owners = [(text("Ext 1"), text("dba"))].into();
        let green = Inventory {
            server: "2".into(),
            available_extensions: blue.extensions.clone(),
            ..alike()
        };
        let [found] = &compare(&blue, &green, &[], true)[..] else { panic!() };
        assert_eq!(
            found.remedy,
            "CREATE SCHEMA IF NOT EXISTS \"Ext 1\" AUTHORIZATION \"dba\";\n\
             CREATE EXTENSION IF NOT EXISTS \"cube\" SCHEMA \"Ext 1\";\n\
             CREATE EXTENSION IF NOT EXISTS \"dict_xsyn\";\n\
             CREATE EXTENSION IF NOT EXISTS \"hstore\" SCHEMA public;\n\
             CREATE EXTENSION IF NOT EXISTS \"plv8\";"
        );
    }

    #[test]
    fn versions_and_schemas_are_compared() {
        let one = |code: &str, severity| [(code.to_owned(), severity)];
        let map = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        let extension = |b: &str, g: &str| {
            check(
                |i| i.extension_versions = map("hstore", b),
                |i| i.extension_versions = map("hstore", g),
                true,
            )
        };
        let schema = |g: &str| {
            check(
                |i| i.extension_schemas = map("hstore", "ext"),
                |i| i.extension_schemas = map("hstore", g),
                true,
            )
        };
        assert_eq!(schema("ext"), []);
        assert_eq!(schema("public"), one("CUT0192", Severity::Warning));
        assert_eq!(extension("1.9", "1.9"), []);
        assert_eq!(extension("1.9", "1.10"), one("CUT0192", Severity::Info));
        assert_eq!(extension("1.10", "1.9"), one("CUT0192", Severity::Warning));
    }
}

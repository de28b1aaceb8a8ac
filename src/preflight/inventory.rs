//! What green must share with blue beside tables. Pure: two inventories in, findings out.

use std::collections::BTreeSet;

use cutover_core::model::{
    finding::{Finding, Severity},
    inventory::Inventory,
    schema::Table,
    side::Side,
};

use super::{
    around, extensions, found,
    words::{ident, list, number},
};

/// The encoding that says nothing.
const UNDECLARED: &str = "SQL_ASCII";

/// Compares both databases. `tables` are those of blue that are moved; with `creates`, types are
/// made on green by the schema copy.
pub(super) fn compare(
    blue: &Inventory,
    green: &Inventory,
    tables: &[Table],
    creates: bool,
) -> Vec<Finding> {
    if let Some(finding) = engine(blue, green) {
        // Nothing below means the same thing on two engines.
        return vec![finding];
    }
    let mut findings: Vec<Finding> =
        [server(blue, green), version(blue, green), encoding(blue, green)]
            .into_iter()
            .flatten()
            .collect();
    findings.extend(by_bytes(blue, green, tables));
    findings.extend(read_otherwise(blue, green, tables));
    findings.extend(locale(blue, green));
    findings.extend(around::settings(blue, green));
    findings.extend(around::rights(blue, green));
    findings.extend(around::schema_grants(blue, green).filter(|_| creates));
    findings.extend(around::builtin_grants(blue, green).filter(|_| creates));
    findings.extend(extensions::missing(blue, green));
    findings.extend(extensions::versions(blue, green));
    findings.extend(extensions::schemas(blue, green));
    findings.extend(around::left_behind(blue, green).filter(|_| creates));
    findings.extend(roles(blue, green, creates));
    findings.extend(types(blue, green, creates));
    findings.extend(collations(blue, green, tables, creates));
    findings
}

fn engine(blue: &Inventory, green: &Inventory) -> Option<Finding> {
    (blue.engine != green.engine).then(|| {
        found(
            "CUT0161",
            Severity::Error,
            Side::Green,
            format!("green is {} and blue is {}", green.engine, blue.engine),
            "point `green` at a database of the same kind",
        )
    })
}

fn server(blue: &Inventory, green: &Inventory) -> Option<Finding> {
    if blue.server.is_empty() || blue.server != green.server {
        return None;
    }
    let what = if blue.database == green.database {
        format!("blue and green are the same database, {}", ident(&blue.database))
    } else {
        format!(
            "blue and green are two databases of one server, {} and {}: slots and origins are \
             shared by all databases of a server, and their names would collide",
            ident(&blue.database),
            ident(&green.database)
        )
    };
    Some(Finding {
        place: "config".into(),
        ..found(
            "CUT0162",
            Severity::Error,
            Side::Green,
            what,
            "point `green` at a database on another server",
        )
    })
}

fn version(blue: &Inventory, green: &Inventory) -> Option<Finding> {
    (green.version / 10_000 < blue.version / 10_000).then(|| {
        found(
            "CUT0163",
            Severity::Warning,
            Side::Green,
            format!(
                "green is older ({}) than blue ({}): definitions may use what it lacks",
                green.version_text, blue.version_text
            ),
            "take a green of the same or a newer version, or make sure that the application and \
             the schema work on the older one",
        )
    })
}

fn encoding(blue: &Inventory, green: &Inventory) -> Option<Finding> {
    let what = format!("green is encoded in {} and blue in {}", green.encoding, blue.encoding);
    // Its bytes are taken as what they are meant to be on green.
    if blue.encoding == UNDECLARED && matches!(green.encoding.as_str(), "UTF8" | UNDECLARED) {
        return Some(found(
            "CUT0164",
            Severity::Warning,
            Side::Green,
            format!(
                "{what}: nobody checked blue's texts; they are taken as UTF-8, and one that is not \
                 valid stops the run"
            ),
            "write texts that are not UTF-8 anew before the run: docs/errors/CUT0023.md has \
             statements that find them",
        ));
    }
    if blue.encoding == green.encoding {
        return None;
    }
    let remedy = format!(
        "recreate the database on green: CREATE DATABASE {} ENCODING '{}' TEMPLATE template0;",
        ident(&green.database),
        blue.encoding
    );
    // Everything can be written in Unicode.
    Some(if green.encoding == "UTF8" {
        found(
            "CUT0164",
            Severity::Warning,
            Side::Green,
            format!(
                "{what}; every character fits, but one that {} lacks cannot go back",
                blue.encoding
            ),
            remedy,
        )
    } else {
        found("CUT0164", Severity::Error, Side::Green, what, remedy)
    })
}

/// PostgreSQL sorts what is inside of these types by bytes, or cuts them at a number of bytes. Where
/// the bytes stay, what is filled up to a number of characters is filled up to more bytes.
fn by_bytes(blue: &Inventory, green: &Inventory, tables: &[Table]) -> Option<Finding> {
    if blue.encoding == green.encoding {
        return None;
    }
    let sorted = |of: &str| {
        let of = of.trim_end_matches("[]");
        match blue.encoding.as_str() {
            UNDECLARED => ["character", "bpchar"].contains(&of),
            _ => ["jsonb", "tsvector", "name"].contains(&of) || of.ends_with(".hstore"),
        }
    };
    let columns: Vec<String> = tables
        .iter()
        .flat_map(|t| t.columns.iter().map(move |c| (t, c)))
        .filter(|(_, c)| sorted(&c.base_type))
        .map(|(t, c)| format!("{}.{} ({})", t.name, ident(&c.name), c.base_type))
        .collect();
    (!columns.is_empty()).then(|| {
        found(
            "CUT0194",
            Severity::Warning,
            Side::Green,
            format!(
                "{} whose form depends on the encoding: {}",
                number(columns.len(), "column"),
                list(&columns)
            ),
            "nothing to do where these columns hold no characters outside of ASCII; else recreate \
             the database on green with blue's encoding, or exclude the tables",
        )
    })
}

/// Types whose stored bytes are the same on both sides and may mean something else there.
fn read_otherwise(blue: &Inventory, green: &Inventory, tables: &[Table]) -> Option<Finding> {
    // Above 127 it is printed in another way from 16 on.
    let char = (blue.version < 160_000) != (green.version < 160_000);
    let columns: Vec<String> = tables
        .iter()
        .flat_map(|t| t.columns.iter().map(move |c| (t, c)))
        .filter(|(_, c)| match c.base_type.trim_end_matches("[]") {
            "money" => true,
            "\"char\"" => char,
            _ => false,
        })
        .map(|(t, c)| format!("{}.{} ({})", t.name, ident(&c.name), c.base_type))
        .collect();
    (!columns.is_empty()).then(|| {
        found(
            "CUT0195",
            Severity::Warning,
            Side::Green,
            format!(
                "{} whose values the other server may read otherwise: {}",
                number(columns.len(), "column"),
                list(&columns)
            ),
            "for money: give green's server the lc_monetary of blue's (SHOW lc_monetary); for \
             \"char\": look for values above 127, which do not travel",
        )
    })
}

/// Rows are the same under any order, and every comparison of ours is by bytes or inside of one
/// server; what an application sees is not.
fn locale(blue: &Inventory, green: &Inventory) -> Option<Finding> {
    // `en_US.UTF-8` and `en_US.utf8` are two spellings of one locale.
    let plain = |locale: &str| locale.to_lowercase().replace(['-', '_'], "");
    if plain(&blue.locale) != plain(&green.locale) {
        return Some(found(
            "CUT0190",
            Severity::Warning,
            Side::Green,
            format!(
                "text is sorted by {} on green and by {} on blue: ORDER BY, comparisons and upper \
                 and lower case may give other results after the move",
                green.locale, blue.locale
            ),
            format!(
                "recreate the database on green with the locale of blue (CREATE DATABASE {} ... \
                 TEMPLATE template0), or make sure that the application does not depend on it",
                ident(&green.database)
            ),
        ));
    }
    let (b, g) = (blue.locale_version.as_ref()?, green.locale_version.as_ref()?);
    (b != g).then(|| {
        found(
            "CUT0190",
            Severity::Info,
            Side::Green,
            format!("the rules by which text is sorted have version {g} on green and {b} on blue"),
            "indexes are built anew on green and need nothing; ranges of partitions and CHECK \
             constraints over text may mean something else",
        )
    })
}

fn roles(blue: &Inventory, green: &Inventory, creates: bool) -> Vec<Finding> {
    let missing = minus(&blue.needed_roles, &green.roles);
    // Roles with this prefix belong to the server and come with its version.
    let missing: Vec<_> = missing.into_iter().filter(|r| !r.starts_with("pg_")).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let create: Vec<String> = missing
        .iter()
        .map(|r| {
            format!("CREATE ROLE {} LOGIN; -- its password: pg_dumpall --roles-only", ident(r))
        })
        .collect();
    vec![found(
        "CUT0167",
        if creates { Severity::Error } else { Severity::Warning },
        Side::Green,
        format!(
            "what is moved belongs to, or may be used by, {} that green lacks: {}",
            number(missing.len(), "role"),
            list(&missing)
        ),
        create.join("\n"),
    )]
}

fn types(blue: &Inventory, green: &Inventory, creates: bool) -> Vec<Finding> {
    let missing = minus(&blue.types, &green.types);
    if missing.is_empty() || creates {
        return Vec::new();
    }
    vec![found(
        "CUT0168",
        Severity::Error,
        Side::Green,
        format!("green lacks {} of blue: {}", number(missing.len(), "type"), list(&missing)),
        "create them with your own migrations, or use `schema: copy`",
    )]
}

fn collations(
    blue: &Inventory,
    green: &Inventory,
    tables: &[Table],
    creates: bool,
) -> Vec<Finding> {
    let used: BTreeSet<&String> =
        tables.iter().flat_map(|t| &t.columns).filter_map(|c| c.collation.as_ref()).collect();
    let (system, own): (Vec<&String>, Vec<&String>) = used
        .into_iter()
        .filter(|c| !green.collations.contains(c))
        .partition(|c| c.starts_with("pg_catalog."));
    // The schema copy brings collations that users made; those of the system it cannot.
    let missing: Vec<&String> =
        system.into_iter().chain(own.into_iter().filter(|_| !creates)).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    vec![found(
        "CUT0169",
        Severity::Error,
        Side::Green,
        format!(
            "columns use {} that green lacks: {} (blue has {})",
            number(missing.len(), "collation"),
            list(&missing),
            number(blue.collations.len(), "collation")
        ),
        "install the locale on green's server and run SELECT \
         pg_import_system_collations('pg_catalog'); or create the collation with your migrations",
    )]
}

/// What `all` has and `known` lacks, in the order of `all`.
pub(super) fn minus<'a>(all: &'a [String], known: &[String]) -> Vec<&'a String> {
    let known: BTreeSet<&String> = known.iter().collect();
    all.iter().filter(|name| !known.contains(name)).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::preflight::{fit::tests::column, types::tests::table};

    pub(in super::super) fn one() -> Inventory {
        Inventory {
            engine: "postgresql".into(),
            version: 150_004,
            version_text: "15.4".into(),
            server: "1".into(),
            database: "shop".into(),
            encoding: "UTF8".into(),
            ..Inventory::default()
        }
    }

    pub(in super::super) fn check(
        blue: impl FnOnce(&mut Inventory),
        green: impl FnOnce(&mut Inventory),
        creates: bool,
    ) -> Vec<(String, Severity)> {
        let (mut b, mut g) = (one(), Inventory { server: "2".into(), ..one() });
        blue(&mut b);
        green(&mut g);
        compare(&b, &g, &[], creates).into_iter().map(|f| (f.code, f.severity)).collect()
    }

    #[test]
    fn two_equal_servers_have_no_finding() {
        assert_eq!(check(|_| {}, |_| {}, true), []);
        assert_eq!(check(|_| {}, |g| g.version = 180_001, false), []);
    }

    #[test]
    fn another_engine_is_the_only_finding() {
        let got = check(|b| b.roles = vec!["a".into()], |g| g.engine = "mysql".into(), true);
        assert_eq!(got, [("CUT0161".into(), Severity::Error)]);
    }

    #[test]
    fn one_server_is_refused_whichever_database() {
        for database in ["shop", "other"] {
            let got = check(
                |_| {},
                |g| {
                    g.server = "1".into();
                    g.database = database.into();
                },
                true,
            );
            assert_eq!(got, [("CUT0162".into(), Severity::Error)]);
        }
    }

    #[test]
    fn versions_and_encodings() {
        let warning = |code: &str| vec![(code.to_owned(), Severity::Warning)];
        assert_eq!(check(|_| {}, |g| g.version = 140_000, true), warning("CUT0163"));
        assert_eq!(check(|_| {}, |g| g.version = 150_001, true), []);
        for (blue, green, want) in [
            ("LATIN1", "UTF8", Severity::Warning),
            ("SQL_ASCII", "UTF8", Severity::Warning),
            ("SQL_ASCII", "SQL_ASCII", Severity::Warning),
            ("SQL_ASCII", "LATIN1", Severity::Error),
            ("UTF8", "SQL_ASCII", Severity::Error),
            ("UTF8", "LATIN1", Severity::Error),
        ] {
            let got = check(|b| b.encoding = blue.into(), |g| g.encoding = green.into(), true);
            assert_eq!(got, [("CUT0164".into(), want)], "{blue} {green}");
        }
        assert_eq!(check(|b| b.encoding = "X".into(), |g| g.encoding = "X".into(), true), []);
    }

    #[test]
    fn types_whose_form_depends_on_the_encoding() {
        let tables = [table(vec![column("j", "jsonb"), column("c", "character(3)")])];
        let codes = |blue: &str| {
            let (mut b, mut g) = (one(), one());
            g.server = "2".into();
            (b.encoding, g.encoding) = (blue.into(), "UTF8".into());
            let found = compare(&b, &g, &tables, true);
            found.into_iter().find(|f| f.code == "CUT0194").map(|f| f.what)
        };
        assert_eq!(codes("UTF8"), None);
        assert!(codes("EUC_JP").unwrap().ends_with(": app.t.\"j\" (jsonb)"));
        assert!(codes("SQL_ASCII").unwrap().ends_with(": app.t.\"c\" (character)"));
    }

    #[test]
    fn types_that_are_read_otherwise() {
        let tables = [table(vec![column("m", "money[]"), column("c", "\"char\"")])];
        let told = |blue: u32, green: u32| {
            let (mut b, mut g) = (one(), one());
            g.server = "2".into();
            (b.version, g.version) = (blue, green);
            let found = compare(&b, &g, &tables, true);
            found.into_iter().find(|f| f.code == "CUT0195").map(|f| f.what).unwrap()
        };
        assert!(told(150_001, 160_001).starts_with("2 columns"));
        assert!(told(160_001, 170_001).ends_with(": app.t.\"m\" (money[])"));
    }

    #[test]
    fn sorting_settings_and_versions_of_extensions() {
        let one = |code: &str, severity| vec![(code.to_owned(), severity)];
        let locale =
            |b: &str, g: &str| check(|i| i.locale = b.into(), |i| i.locale = g.into(), true);
        assert_eq!(locale("libc en_US.UTF-8", "libc en_US.utf8"), []);
        assert_eq!(locale("libc C", "icu en"), one("CUT0190", Severity::Warning));
        let version = |b: Option<&str>, g: Option<&str>| {
            let (b, g) = (b.map(str::to_owned), g.map(str::to_owned));
            check(|i| i.locale_version = b, |i| i.locale_version = g, true)
        };
        assert_eq!(version(Some("2.36"), Some("2.41")), one("CUT0190", Severity::Info));
        assert_eq!(version(None, Some("2.41")), []);
        let map = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        let setting = |b: &str, g: &str| {
            check(|i| i.settings = map("work_mem", b), |i| i.settings = map("work_mem", g), true)
        };
        assert_eq!(setting("1", "1"), []);
        assert_eq!(setting("1", "2"), one("CUT0191", Severity::Warning));
    }

    #[test]
    fn what_no_copy_brings_is_told_where_there_is_one() {
        let left =
            |i: &mut Inventory| i.left_behind = vec!["cast (a AS b)".into(), "tablespace t".into()];
        assert_eq!(check(left, |_| {}, true), [("CUT0185".into(), Severity::Warning)]);
        assert_eq!(check(left, left, true), []);
        assert_eq!(check(left, |_| {}, false), []);
    }

    #[test]
    fn roles_and_types_depend_on_who_makes_the_schema() {
        let blue = |b: &mut Inventory| {
            b.needed_roles = vec!["app".into(), "pg_monitor".into()];
            b.types = vec!["public.mood".into()];
        };
        assert_eq!(check(blue, |_| {}, true), [("CUT0167".into(), Severity::Error)]);
        assert_eq!(
            check(blue, |_| {}, false),
            [("CUT0167".into(), Severity::Warning), ("CUT0168".into(), Severity::Error)]
        );
    }

    #[test]
    fn collations_of_columns_must_be_there() {
        let mut c = column("c", "text");
        for (collation, creates, want) in
            [("pg_catalog.de_DE", true, 1), ("public.de", true, 0), ("public.de", false, 1)]
        {
            c.collation = Some(collation.into());
            let green = Inventory { server: "2".into(), ..one() };
            let got = compare(&one(), &green, &[table(vec![c.clone()])], creates);
            assert_eq!(got.len(), want, "{collation} {creates}");
            assert!(got.iter().all(|f| f.code == "CUT0169"));
        }
    }
}

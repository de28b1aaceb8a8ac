//! Types of users: what it takes to have them here as they are there. Pure.

use cutover_core::model::schema::TableName;

use super::{change::Step, message::UserType};
use crate::sql;

/// What it takes to make a type `here` like the one `there`.
pub(super) fn type_steps(there: &UserType, here: &UserType) -> Vec<Step> {
    let name = TableName::new(&there.schema, &there.name);
    let same = |t: &UserType| (t.kind.clone(), t.base.clone());
    let sorted = there.definition.as_ref().is_some_and(|text| text.contains(" COLLATE "));
    let more = there.attributes.strip_prefix(here.attributes.as_slice());
    let more = match more {
        Some(more) if same(there) == same(here) && (more.is_empty() || !sorted) => more,
        _ => return vec![Step::unsafe_(format!("type {name} was altered"))],
    };
    if !more.is_empty() {
        // Older values have none, on both sides.
        let add = |attribute| {
            let what = format!("type {name} has an attribute {attribute}");
            let text = format!("ALTER TYPE {} ADD ATTRIBUTE {attribute}", sql::table(&name));
            Step::safe(what, text)
        };
        return more.iter().map(add).collect();
    }
    // This side may be ahead of the stream.
    let mut labels = here.labels.iter();
    if there.labels.iter().all(|label| labels.any(|l| l == label)) {
        return Vec::new();
    }
    // Labels that are here must be there, in the same order.
    let mut known = here.labels.iter().peekable();
    let mut steps = Vec::new();
    for label in &there.labels {
        if known.peek() == Some(&label) {
            known.next();
            continue;
        }
        let place = match known.peek() {
            Some(next) => format!(" BEFORE {}", sql::literal(next)),
            None => String::new(),
        };
        steps.push(Step::safe(
            format!("type {name} has another value"),
            format!("ALTER TYPE {} ADD VALUE {}{place}", sql::table(&name), sql::literal(label)),
        ));
    }
    if known.next().is_some() {
        return vec![Step::unsafe_(format!("type {name} has a value of another name"))];
    }
    steps
}

/// The same for what a domain asks of its values and gives to those that are left out.
/// `is_dropped` says whether a constraint was there and is no more.
///
/// What asks less is made. What asks more is left to an operator: this side would read every table
/// that has the domain before the stream goes on, by functions that may be other ones here.
pub(super) fn domain_steps(
    there: &UserType,
    here: &UserType,
    is_dropped: impl Fn(&str) -> bool,
) -> Vec<Step> {
    let name = TableName::new(&there.schema, &there.name);
    let alter = |what: String, action: String| {
        Step::safe(what, format!("ALTER DOMAIN {} {action}", sql::table(&name)))
    };
    let mut steps = Vec::new();
    for (check, text) in &there.checks {
        if !here.checks.contains_key(check) && !here.checks.values().any(|t| t == text) {
            steps.push(Step::unsafe_(format!("domain {name} has a constraint {check}: {text}")));
        }
    }
    for check in here.checks.keys() {
        if !there.checks.contains_key(check) && is_dropped(check) {
            let drop = format!("DROP CONSTRAINT {}", sql::ident(check));
            steps.push(alter(format!("domain {name} has no constraint {check}"), drop));
        }
    }
    match (there.not_null, here.not_null) {
        (true, false) => steps.push(Step::unsafe_(format!("domain {name} is NOT NULL"))),
        (false, true) => {
            steps.push(alter(format!("domain {name} may be null"), "DROP NOT NULL".into()));
        }
        _ => {}
    }
    match (&there.default, &here.default) {
        (Some(default), None) => steps.push(domain_default(there, default)),
        (None, Some(_)) => {
            steps.push(alter(format!("domain {name} has no default"), "DROP DEFAULT".into()));
        }
        // Versions may write the same expression in two ways: see `spelled`.
        _ => {}
    }
    steps
}

/// A domain has another default.
pub(super) fn domain_default(there: &UserType, default: &str) -> Step {
    let name = TableName::new(&there.schema, &there.name);
    Step::safe(
        format!("domain {name} has another default"),
        format!("ALTER DOMAIN {} SET DEFAULT {default}", sql::table(&name)),
    )
}

/// What it takes to make a type that is not here; `None` where functions belong to it.
pub(super) fn create(there: &UserType) -> Option<Step> {
    let name = TableName::new(&there.schema, &there.name);
    let text = sql::table(&name);
    let (kind, body) = match there.kind.as_str() {
        "e" => {
            let labels: Vec<String> = there.labels.iter().map(|l| sql::literal(l)).collect();
            ("TYPE", format!("AS ENUM ({})", labels.join(", ")))
        }
        "c" => ("TYPE", format!("AS ({})", there.definition.as_ref()?)),
        "r" => ("TYPE", format!("AS RANGE ({})", there.definition.as_ref()?)),
        "d" => ("DOMAIN", format!("AS {}", there.definition.as_ref()?)),
        _ => return None,
    };
    let owner = sql::ident(there.owner.as_ref()?);
    Some(Step::safe(
        format!("there is a type {name}"),
        format!("CREATE {kind} {text} {body}; ALTER {kind} {text} OWNER TO {owner}"),
    ))
}

/// What it takes where nothing here rests on the type of that name: it may be made anew.
pub(super) fn replace(there: &UserType, here: &UserType) -> Vec<Step> {
    let steps = type_steps(there, here);
    // All of a domain stands in its definition.
    let defined = (&there.definition, &there.base) == (&here.definition, &here.base);
    let alike = !steps.is_empty() || defined || there.kind == "e";
    if alike && steps.iter().all(|step| step.statement.is_some()) {
        return steps;
    }
    let name = TableName::new(&there.schema, &there.name);
    let again = create(there).and_then(|step| step.statement);
    let drop = format!("DROP TYPE {}", sql::table(&name));
    let anew =
        |create| Step::safe(format!("type {name} is another one"), format!("{drop}; {create}"));
    again.map(anew).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: &str, more: serde_json::Value) -> UserType {
        let mut all = serde_json::json!({
            "schema": "s", "name": "mood", "kind": kind, "labels": [], "attributes": [],
            "base": null, "checks": {}, "not_null": false, "owner": "app"
        });
        if let (Some(all), Some(more)) = (all.as_object_mut(), more.as_object()) {
            all.extend(more.clone());
        }
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn what_needs_a_function_is_not_made() {
        let made = |kind, more| create(&told(kind, more)).and_then(|step| step.statement);
        let labels = serde_json::json!({ "labels": ["a", "it's"] });
        assert_eq!(
            made("e", labels).as_deref(),
            Some(
                "CREATE TYPE \"s\".\"mood\" AS ENUM ('a', 'it''s'); \
                 ALTER TYPE \"s\".\"mood\" OWNER TO \"app\""
            )
        );
        let domain = made("d", serde_json::json!({ "definition": "integer NOT NULL" }));
        assert!(domain.unwrap().starts_with("CREATE DOMAIN \"s\".\"mood\" AS integer NOT NULL; "));
        assert_eq!(made("b", serde_json::json!({ "definition": "x" })), None);
        assert_eq!(made("r", serde_json::json!({ "definition": null })), None);
        // Told by an earlier version.
        let unknown = serde_json::json!({ "owner": null, "definition": "a integer" });
        assert_eq!(made("c", unknown), None);
    }

    #[test]
    fn attributes_of_a_composite_type() {
        let named = |attributes: &[&str], definition: &str| {
            told("c", serde_json::json!({ "attributes": attributes, "definition": definition }))
        };
        let found = |there: &[&str], here: &[&str], definition| -> Vec<Option<String>> {
            let steps = type_steps(&named(there, definition), &named(here, ""));
            steps.into_iter().map(|s| s.statement).collect()
        };
        assert_eq!(
            found(&["a text", "\"B\" integer"], &["a text"], ""),
            [Some("ALTER TYPE \"s\".\"mood\" ADD ATTRIBUTE \"B\" integer".to_owned())]
        );
        assert_eq!(found(&["a text", "b text"], &["a text"], "b text COLLATE x"), [None]);
        assert_eq!(found(&["a text"], &["a text", "b text"], ""), [None], "dropped");
        assert_eq!(found(&["b text"], &["a text"], ""), [None], "renamed");
        assert!(found(&["a text"], &["a text"], " COLLATE ").is_empty());
    }

    #[test]
    fn a_domain_may_ask_less() {
        let domain = |checks: &[(&str, &str)], not_null: bool, default: Option<&str>| {
            let checks: std::collections::BTreeMap<_, _> = checks.iter().copied().collect();
            let more =
                serde_json::json!({ "checks": checks, "not_null": not_null, "default": default });
            told("d", more)
        };
        let found = |there: &UserType, here: &UserType, dropped: &str| -> Vec<Option<String>> {
            let steps = domain_steps(there, here, |check| check == dropped);
            steps.into_iter().map(|s| s.statement).collect()
        };
        let plain = domain(&[], false, None);
        let strict = domain(&[("a b", "CHECK (VALUE > 0)")], true, Some("1"));
        let alter = |action: &str| Some(format!("ALTER DOMAIN \"s\".\"mood\" {action}"));
        assert_eq!(
            found(&plain, &strict, "a b"),
            [alter("DROP CONSTRAINT \"a b\""), alter("DROP NOT NULL"), alter("DROP DEFAULT")]
        );
        assert_eq!(
            found(&domain(&[], true, Some("1")), &strict, "b"),
            [],
            "what only this side has may be there on purpose"
        );
        assert_eq!(found(&strict, &plain, ""), [None, None, alter("SET DEFAULT 1")]);
        let renamed = domain(&[("c", "CHECK (VALUE > 0)")], true, Some("1"));
        assert_eq!(found(&renamed, &strict, ""), []);
    }

    #[test]
    fn labels_of_an_enum() {
        let named = |labels: &[&str]| {
            let labels: Vec<String> = labels.iter().map(ToString::to_string).collect();
            told("e", serde_json::json!({ "labels": labels }))
        };
        let found = |there: &[&str], here: &[&str]| -> Vec<Option<String>> {
            type_steps(&named(there), &named(here)).into_iter().map(|s| s.statement).collect()
        };
        assert!(found(&["a", "b"], &["a", "b"]).is_empty());
        assert_eq!(
            found(&["a", "x", "b", "y"], &["a", "b"]),
            [
                Some("ALTER TYPE \"s\".\"mood\" ADD VALUE 'x' BEFORE 'b'".to_owned()),
                Some("ALTER TYPE \"s\".\"mood\" ADD VALUE 'y'".to_owned())
            ]
        );
        assert_eq!(found(&["a", "z"], &["a", "b"]), [None], "renamed");
        assert!(found(&["a"], &["a", "b"]).is_empty(), "ahead of the stream");
    }
}

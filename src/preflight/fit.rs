//! Whether every value of one column fits into another, and comes back unchanged. Pure.
//!
//! Types are compared by the words of the catalog. Unknown pairs do not fit: a wrong "no" is a
//! finding, a wrong "yes" is a lost value.

use cutover_core::model::schema::Column;

/// The answer for one pair of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// The same type with the same modifier.
    Same,
    /// Every value fits and reads the same, but the target holds more than the source.
    Wider,
    /// Some values would be refused, cut or changed.
    No,
}

/// Types whose every value fits into the types right of them, rendered alike.
const WIDENS: &[(&str, &[&str])] = &[
    ("smallint", &["integer", "bigint", "numeric"]),
    ("integer", &["bigint", "numeric"]),
    ("bigint", &["numeric"]),
    ("character varying", &["text"]),
    ("text", &["character varying"]),
];

/// Whether values of `from` can be written into `to` and read back as they were.
pub(super) fn fit(from: &Column, to: &Column) -> Fit {
    if from.base_type == to.base_type {
        return if from.declared_type == to.declared_type {
            Fit::Same
        } else {
            fit_modifier(from, to)
        };
    }
    let wider = WIDENS
        .iter()
        .any(|(narrow, wide)| from.base_type == *narrow && wide.contains(&to.base_type.as_str()));
    if wider && modifiers(&to.declared_type).is_none() { Fit::Wider } else { Fit::No }
}

/// The same type with different modifiers.
fn fit_modifier(from: &Column, to: &Column) -> Fit {
    let (a, b) = (modifiers(&from.declared_type), modifiers(&to.declared_type));
    let fits = match (from.base_type.as_str(), a.as_deref(), b.as_deref()) {
        ("character varying" | "bit varying", _, None) => true,
        ("character varying" | "bit varying", Some([n]), Some([m])) => n <= m,
        // The scale is part of the text of a value, so it must stay; the precision may grow.
        ("numeric", Some(_), None) => true,
        ("numeric", Some([p, s @ ..]), Some([q, t @ ..])) => {
            p <= q && s.first().unwrap_or(&0) == t.first().unwrap_or(&0)
        }
        // Trailing zeros of fractions are not rendered.
        (
            "timestamp without time zone"
            | "timestamp with time zone"
            | "time without time zone"
            | "time with time zone",
            a,
            b,
        ) => precision(a) <= precision(b),
        _ => false,
    };
    if fits { Fit::Wider } else { Fit::No }
}

/// Digits of a second that a date type keeps; 6 when it does not say.
fn precision(modifier: Option<&[i64]>) -> i64 {
    modifier.and_then(|m| m.first().copied()).unwrap_or(6)
}

/// The numbers in parentheses: `numeric(10,2)` -> 10 and 2, `timestamp(3) with time zone` -> 3.
fn modifiers(declared: &str) -> Option<Vec<i64>> {
    let (_, rest) = declared.split_once('(')?;
    let (inside, _) = rest.split_once(')')?;
    inside.split(',').map(|n| n.trim().parse().ok()).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use cutover_core::model::schema::{Generated, Identity};

    use super::*;

    /// A nullable column; the declared type gives the base type.
    pub(crate) fn column(name: &str, declared: &str) -> Column {
        let base_type = match (declared.find('('), declared.find(')')) {
            (Some(open), Some(close)) => {
                format!("{}{}", &declared[..open], &declared[close + 1..])
            }
            _ => declared.to_owned(),
        };
        Column {
            name: name.into(),
            base_type,
            declared_type: declared.into(),
            nullable: true,
            generated: Generated::No,
            identity: Identity::No,
            collation: None,
        }
    }

    #[test]
    fn pairs_of_types() {
        for (from, to, want) in [
            ("integer", "integer", Fit::Same),
            ("integer", "bigint", Fit::Wider),
            ("bigint", "integer", Fit::No),
            ("integer", "numeric", Fit::Wider),
            ("integer", "numeric(5,0)", Fit::No),
            ("character varying(20)", "character varying(20)", Fit::Same),
            ("character varying(20)", "character varying(40)", Fit::Wider),
            ("character varying(40)", "character varying(20)", Fit::No),
            ("character varying(40)", "character varying", Fit::Wider),
            ("character varying", "character varying(40)", Fit::No),
            ("character varying(40)", "text", Fit::Wider),
            ("text", "character varying(40)", Fit::No),
            ("text", "character varying", Fit::Wider),
            ("character(3)", "character(4)", Fit::No),
            ("character(3)", "text", Fit::No),
            ("numeric(10,2)", "numeric(12,2)", Fit::Wider),
            ("numeric(10,2)", "numeric(12,3)", Fit::No),
            ("numeric(10,2)", "numeric", Fit::Wider),
            ("numeric", "numeric(10,2)", Fit::No),
            ("numeric(10)", "numeric(10,0)", Fit::Wider),
            ("numeric(12,2)", "numeric(10,2)", Fit::No),
            ("timestamp(3) with time zone", "timestamp with time zone", Fit::Wider),
            ("timestamp with time zone", "timestamp(3) with time zone", Fit::No),
            ("timestamp without time zone", "timestamp with time zone", Fit::No),
            ("json", "jsonb", Fit::No),
            ("real", "double precision", Fit::No),
            ("shop.mood", "public.mood", Fit::No),
            ("integer[]", "bigint[]", Fit::No),
        ] {
            assert_eq!(fit(&column("c", from), &column("c", to)), want, "{from} -> {to}");
        }
    }
}

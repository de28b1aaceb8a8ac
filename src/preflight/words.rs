//! Remedies as SQL that can be pasted, and lists that stay short.

use cutover_core::model::schema::TableName;

/// How many names a message spells out.
const SHOWN: usize = 10;

/// An identifier, always quoted.
pub(super) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table as `"schema"."name"`.
pub(super) fn table(name: &TableName) -> String {
    format!("{}.{}", ident(&name.schema), ident(&name.name))
}

/// `a, b, c`, or the first ten `and 3 more`.
pub(super) fn list<T: ToString>(names: &[T]) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN).map(ToString::to_string).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `1 table`, `2 tables`.
pub(super) fn number(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(list(&["a", "b"]), "a, b");
        let many: Vec<u32> = (1..=12).collect();
        assert_eq!(list(&many), "1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more");
        assert_eq!(number(1, "table"), "1 table");
        assert_eq!(number(2, "table"), "2 tables");
        assert_eq!(table(&TableName::new("a", "b\"c")), "\"a\".\"b\"\"c\"");
    }
}

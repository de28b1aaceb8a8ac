//! Every row of every table of a side, by a hash of its texts: a comparison of our own, which knows
//! nothing of the program's.

use std::{collections::BTreeMap, fmt::Write as _};

use tokio_postgres::Client;

/// Hashes of the rows of each table, sorted.
pub(crate) type Rows = BTreeMap<String, Vec<String>>;

/// Tables, and what is hashed of a row `t`: the texts of its columns, and the hash of one that may
/// be long, since that is dear as part of the text of a row.
const TABLES: &str = "
    SELECT c.oid::regclass::text, (
        SELECT string_agg(format(CASE WHEN attlen < 0 AND atttypid <> 'numeric'::regtype
            THEN 'md5(t.%I::text)' ELSE 't.%I' END, attname), ', ' ORDER BY attnum)
        FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND n.nspname !~ '^(pg_|cutover_|information_schema)'";

pub(crate) async fn of(client: &Client) -> Rows {
    let mut rows = Rows::new();
    for table in client.query(TABLES, &[]).await.expect("tables") {
        let (table, columns): (String, String) = (table.get(0), table.get(1));
        let sql = format!("SELECT md5(ROW({columns})::text) FROM {table} t ORDER BY 1");
        let hashes = client.query(&sql, &[]).await.expect("rows");
        rows.insert(table, hashes.iter().map(|row| row.get(0)).collect());
    }
    rows
}

/// What differs, in words; nothing when nothing does.
pub(crate) fn differences(blue: &Rows, green: &Rows) -> String {
    let mut text = String::new();
    for table in blue.keys().chain(green.keys().filter(|table| !blue.contains_key(*table))) {
        let none = Vec::new();
        let (b, g) = (blue.get(table).unwrap_or(&none), green.get(table).unwrap_or(&none));
        if b == g && blue.contains_key(table) == green.contains_key(table) {
            continue;
        }
        let (only_blue, only_green) = (beside(b, g), beside(g, b));
        // Writing to a String does not fail.
        writeln!(
            text,
            "{table}: {} row(s) on blue, {} on green; {only_blue} only on blue, {only_green} only \
             on green",
            b.len(),
            g.len()
        )
        .ok();
    }
    text
}

/// How many of `these` have no counterpart in `those`; both are sorted.
fn beside(these: &[String], those: &[String]) -> usize {
    let mut those = those.iter().peekable();
    let mut alone = 0;
    for hash in these {
        while those.next_if(|other| *other < hash).is_some() {}
        alone += usize::from(those.next_if(|other| *other == hash).is_none());
    }
    alone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_difference_is_seen() {
        let rows = |list: &[&str]| {
            Rows::from([("t".to_owned(), list.iter().map(|s| (*s).to_owned()).collect())])
        };
        assert_eq!(differences(&rows(&["a", "b"]), &rows(&["a", "b"])), "");
        for (blue, green, want) in [
            (rows(&["a", "b"]), rows(&["a"]), "2 row(s) on blue, 1 on green; 1 only on blue, 0"),
            (rows(&["a"]), rows(&["a", "a"]), "0 only on blue, 1 only on green"),
            (rows(&["a", "c"]), rows(&["a", "b"]), "1 only on blue, 1 only on green"),
            (rows(&[]), Rows::new(), "0 row(s) on blue, 0 on green"),
        ] {
            let said = differences(&blue, &green);
            assert!(said.contains(want), "{said}");
        }
    }
}

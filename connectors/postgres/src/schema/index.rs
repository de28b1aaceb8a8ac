//! In which order and how indexes are built.
//!
//! The largest comes first: one that starts last would leave all workers but one idle. `ALTER TABLE
//! … ADD PRIMARY KEY` keeps everybody else from the table while it builds its index, `CREATE UNIQUE
//! INDEX` does not: a large index of a constraint is built by itself, beside the others of its
//! table, and the constraint takes it over (`ADD CONSTRAINT … USING INDEX`).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use cutover_core::{model::schema::TableName, port::Result};
use tokio_postgres::Row;

use super::{owed::Awaited, script::Entry};
use crate::{
    catalog::USER_SCHEMA,
    connect::{Session, port_error},
    sql,
};

/// Smaller indexes of constraints are not worth a transaction more.
const LARGE: u64 = 8 << 20;

/// An index of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    /// Bytes on the source's disk; none where it is only the parent of others.
    bytes: u64,
    /// How to build it by itself, when a constraint can take it over then.
    apart: Option<Apart>,
    /// What it is called, where it forbids rows beside a primary key,
    forbids: Option<Awaited>,
    /// and columns of which rows with different values never mind each other.
    apart_by: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Apart {
    /// `CREATE UNIQUE INDEX`.
    definition: String,
    table: String,
    /// Of the index and of the constraint.
    name: String,
    /// `PRIMARY KEY` or `UNIQUE`.
    word: &'static str,
}

/// Indexes by the schema and the name of their entries.
pub(super) type Indexes = HashMap<(String, String), Index>;

/// The indexes of users. A constraint of a partitioned table cannot take one over, and one that may
/// be deferred stays as it is.
pub(super) async fn read(blue: &Session) -> Result<Indexes> {
    let rows = blue
        .query(
            &format!(
                "SELECT n.nspname::text, i.relname::text, t.relname::text, \
                        pg_relation_size(i.oid), k.contype::text, \
                        CASE WHEN k.contype IN ('p', 'u') AND NOT k.condeferrable \
                               AND t.relkind = 'r' AND a.amname = 'btree' \
                          THEN pg_get_indexdef(i.oid) END, \
                        i.oid, NOT x.indisprimary AND (x.indisunique OR x.indisexclusion), \
                        coalesce(pg_get_constraintdef(k.oid), pg_get_indexdef(i.oid)), \
                        ARRAY(SELECT c.attname::text \
                                FROM unnest(x.indkey::int2[], x.indclass::oid[]) AS y(att, class) \
                                JOIN pg_opclass p ON p.oid = y.class AND p.opcdefault \
                                JOIN pg_attribute c ON c.attrelid = t.oid AND c.attnum = y.att \
                               WHERE NOT x.indisexclusion) \
                 FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid \
                 JOIN pg_class t ON t.oid = x.indrelid JOIN pg_am a ON a.oid = i.relam \
                 JOIN pg_namespace n ON n.oid = i.relnamespace \
                 LEFT JOIN pg_constraint k ON k.conindid = i.oid AND k.conrelid = t.oid \
                   AND k.contype IN ('p', 'u', 'x') \
                 WHERE {USER_SCHEMA}"
            ),
            &[],
        )
        .await
        .map_err(|e| port_error("reading the sizes of blue's indexes", e))?;
    let index = |row: &Row| {
        let (schema, name, table): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let bytes = row.get::<_, Option<i64>>(3).map_or(0, i64::unsigned_abs);
        let kind: Option<&str> = row.get(4);
        let word = if kind == Some("p") { "PRIMARY KEY" } else { "UNIQUE" };
        let entry = if kind.is_some() { format!("{table} {name}") } else { name.clone() };
        let apart = row.get::<_, Option<String>>(5);
        let apart = apart.map(|definition| Apart { definition, table, name, word });
        let awaited = || Awaited {
            number: row.get(6),
            schema: schema.clone(),
            table: row.get(2),
            name: row.get(1),
            definition: row.get(8),
        };
        let forbids = row.get::<_, bool>(7).then(awaited);
        ((schema, entry), Index { bytes, apart, forbids, apart_by: row.get(9) })
    };
    Ok(rows.iter().map(index).collect())
}

/// Those entries that forbid rows of two ranges of `torn` tables to be there together, as they are
/// left for later, and the others. `None` where one is not among the indexes: it has just come, or gone.
pub(super) fn waiting(
    entries: Vec<Entry>,
    indexes: &Indexes,
    torn: &BTreeMap<TableName, String>,
) -> Option<(Vec<Entry>, Vec<Entry>)> {
    let (mut wait, mut others) = (Vec::new(), Vec::new());
    for entry in entries {
        let index = indexes.get(&(entry.schema.clone(), entry.name.clone()));
        let index = index.filter(|_| entry.is_heavy());
        if index.is_none() && !torn.is_empty() && entry.may_forbid() {
            return None;
        }
        let forbids = |index: &'_ Index| {
            let awaited = index.forbids.clone()?;
            let column = torn.get(&TableName::new(&awaited.schema, &awaited.table))?;
            (!index.apart_by.contains(column)).then_some(awaited)
        };
        match index.and_then(forbids) {
            Some(awaited) => wait.push(Entry { text: awaited.before(&entry.text), ..entry }),
            None => others.push(entry),
        }
    }
    Some((wait, others))
}

/// The entries with the largest index first, where an index is built at all; what is large and of a
/// constraint as two entries.
pub(super) fn arrange(entries: Vec<Entry>, indexes: &Indexes) -> Vec<Entry> {
    let (mut built, mut others) = (Vec::new(), Vec::new());
    for entry in entries {
        let index = indexes.get(&(entry.schema.clone(), entry.name.clone()));
        let Some(index) = index.filter(|_| entry.is_heavy()) else {
            others.push(entry);
            continue;
        };
        match in_two(&entry, index) {
            Some([first, second]) => {
                built.push((index.bytes, first));
                others.push(second);
            }
            None => built.push((index.bytes, entry)),
        }
    }
    built.sort_by_key(|(bytes, _)| Reverse(*bytes));
    built.into_iter().map(|(_, entry)| entry).chain(others).collect()
}

/// The index, and the constraint that takes it over.
fn in_two(entry: &Entry, index: &Index) -> Option<[Entry; 2]> {
    let Apart { definition, table, name, word } = index.apart.as_ref()?;
    // One that brings statements of its own, or an order that is not the usual one, stays whole.
    let simple = entry.kind == "CONSTRAINT"
        && entry.text.matches(';').count() == 1
        && !definition.contains(" COLLATE ");
    if !simple || index.bytes < LARGE {
        return None;
    }
    let table = sql::table(&TableName::new(&entry.schema, table));
    let constraint = sql::ident(name);
    Some([
        Entry {
            kind: "INDEX".into(),
            name: name.clone(),
            schema: entry.schema.clone(),
            owner: entry.owner.clone(),
            text: format!("{definition};\n"),
        },
        Entry {
            kind: Entry::BY_INDEX.into(),
            text: format!(
                "ALTER TABLE ONLY {table} ADD CONSTRAINT {constraint} {word} \
                 USING INDEX {constraint};\n"
            ),
            ..entry.clone()
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &str, name: &str, text: &str) -> Entry {
        let text = format!("{text}\n");
        Entry {
            kind: kind.into(),
            name: name.into(),
            schema: "s".into(),
            owner: String::new(),
            text,
        }
    }

    #[test]
    fn the_largest_first_and_a_large_constraint_by_its_index() {
        let of = |name: &str, bytes: u64, apart: Option<&str>| {
            let apart = apart.map(|definition| Apart {
                definition: definition.into(),
                table: "a b".into(),
                name: name.into(),
                word: "UNIQUE",
            });
            let entry = if apart.is_some() { format!("a b {name}") } else { name.to_owned() };
            (("s".into(), entry), Index { bytes, apart, forbids: None, apart_by: Vec::new() })
        };
        let definition = "CREATE UNIQUE INDEX \"K x\" ON s.\"a b\" USING btree (c)";
        let indexes: Indexes = [
            of("small", 8192, Some("CREATE UNIQUE INDEX small ON s.\"a b\" USING btree (d)")),
            of("K x", LARGE, Some(definition)),
            of("largest", 10 * LARGE, None),
            of("clustered", LARGE + 1, Some("CREATE UNIQUE INDEX clustered …")),
        ]
        .into();
        let key = |name: &str| {
            let name = sql::ident(name);
            format!("ALTER TABLE ONLY s.\"a b\"\n    ADD CONSTRAINT {name} UNIQUE (c);")
        };
        let entries = vec![
            entry("STATISTICS", "both", "CREATE STATISTICS …;"),
            entry("CONSTRAINT", "a b small", &key("small")),
            entry("CONSTRAINT", "a b K x", &key("K x")),
            entry(
                "CONSTRAINT",
                "a b clustered",
                &(key("clustered") + "\n\nALTER TABLE s.\"a b\" CLUSTER ON clustered;"),
            ),
            entry("INDEX", "largest", "CREATE INDEX largest ON s.t USING btree (d);"),
        ];
        let arranged = arrange(entries.clone(), &indexes);
        let labels: Vec<String> = arranged.iter().map(Entry::label).collect();
        assert_eq!(
            labels,
            [
                "index s.largest",
                "constraint s.a b clustered",
                "index s.K x",
                "constraint s.a b small",
                "statistics s.both",
                "constraint by index s.a b K x",
            ]
        );
        assert_eq!(arranged[2].text, format!("{definition};\n"));
        assert_eq!(
            arranged[5].text,
            "ALTER TABLE ONLY \"s\".\"a b\" ADD CONSTRAINT \"K x\" UNIQUE USING INDEX \"K x\";\n"
        );
        assert_eq!((&arranged[1], &arranged[3]), (&entries[3], &entries[1]));
    }

    #[test]
    fn what_forbids_rows_of_torn_tables_waits() {
        let awaited = |table: &str, name: &str| Awaited {
            number: 7,
            schema: "s".into(),
            table: table.into(),
            name: name.into(),
            definition: "UNIQUE (c)".into(),
        };
        let index = |forbids| Index { bytes: 1, apart: None, forbids, apart_by: vec!["c".into()] };
        let known = |name: &str, forbids| (("s".to_owned(), name.to_owned()), index(forbids));
        let indexes: Indexes = [
            known("t t_pkey", None),
            known("t t_c_key", Some(awaited("t", "t_c_key"))),
            known("u u_c_key", Some(awaited("u", "u_c_key"))),
            known("plain", None),
        ]
        .into();
        let entries = || {
            let key = "ALTER TABLE ONLY s.x\n    ADD CONSTRAINT x UNIQUE (c);";
            vec![
                entry("CONSTRAINT", "t t_pkey", "ALTER TABLE ONLY s.t ADD PRIMARY KEY (id);"),
                entry("CONSTRAINT", "t t_c_key", key),
                entry("CONSTRAINT", "u u_c_key", key),
                entry("INDEX", "plain", "CREATE INDEX plain ON s.t USING btree (c);"),
                entry("CONSTRAINT", "t not_null", "ALTER TABLE s.t ADD CONSTRAINT n NOT NULL c;"),
            ]
        };
        let names =
            |entries: &[Entry]| -> Vec<String> { entries.iter().map(|e| e.name.clone()).collect() };
        let torn = |column: &str| BTreeMap::from([(TableName::new("s", "t"), column.to_owned())]);
        let (wait, others) = waiting(entries(), &indexes, &torn("id")).unwrap();
        assert_eq!(names(&wait), ["t t_c_key"]);
        assert_eq!(names(&others), ["t t_pkey", "u u_c_key", "plain", "t not_null"]);
        assert_eq!(Awaited::of(&wait[0].text), Some(awaited("t", "t_c_key")));
        assert_eq!(Awaited::of(&others[1].text), None);
        for torn in [BTreeMap::new(), torn("c")] {
            assert!(waiting(entries(), &indexes, &torn).unwrap().0.is_empty());
        }
        for unknown in ["CREATE UNIQUE INDEX new ON s.t USING btree (c);", "ADD EXCLUDE (c)"] {
            let new = || vec![entry("INDEX", "new", unknown)];
            assert!(waiting(new(), &indexes, &torn("id")).is_none(), "{unknown}");
            assert!(waiting(new(), &indexes, &BTreeMap::new()).is_some());
        }
    }
}

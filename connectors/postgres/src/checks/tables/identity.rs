//! Updates and deletes of a table can be followed only if the log says which row they touch.

use std::collections::{HashMap, HashSet};

use super::super::{
    Answer,
    facts::{Context, Kind, Relation},
    found::*,
};
use crate::sql;

/// What could identify a row of one table.
#[derive(Debug, Clone, Default)]
struct Facts {
    /// Quoted.
    table: String,
    /// A leaf of a table that is moved otherwise is published, and not moved itself.
    moved: bool,
    /// Holds no rows: its primary key is that of the leaves to come.
    partitioned: bool,
    /// `d`, `n`, `f` or `i`.
    setting: char,
    /// Name of the primary key, and whether it is checked at once.
    primary: Option<(String, bool)>,
    /// Whether a valid index is chosen by `REPLICA IDENTITY USING INDEX`.
    chosen: bool,
    /// A unique index that could be chosen: quoted.
    candidate: Option<String>,
}

enum Verdict {
    Fine,
    Full,
    /// The primary key is deferrable.
    Deferrable,
    Missing,
    /// Leaves to come have none of their own.
    Bare,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    // A leaf is published by its topmost parent, and with it whatever else is below that.
    let roots: HashSet<_> = context.moved().filter_map(|r| r.root.as_ref()).collect();
    let of = |kind| context.relations.iter().filter(move |r| r.kind == kind);
    let leaf = |r: &&Relation| r.moved || r.root.as_ref().is_some_and(|root| roots.contains(root));
    let published: Vec<&Relation> = of(Kind::Table)
        .filter(leaf)
        .chain(of(Kind::Partitioned).filter(|r| roots.contains(&r.name)))
        .collect();
    let mut facts: HashMap<u32, Facts> = published
        .iter()
        .map(|r| {
            let facts = Facts {
                table: sql::table(&r.name),
                moved: r.moved,
                partitioned: r.kind == Kind::Partitioned,
                setting: r.replica_identity,
                ..Facts::default()
            };
            (r.oid, facts)
        })
        .collect();
    let oids: Vec<u32> = published.iter().map(|r| r.oid).collect();
    let rows = context
        .session
        .query(
            "SELECT i.indrelid, c.relname::text, i.indisprimary, i.indimmediate, i.indisreplident, \
                    i.indpred IS NULL AND i.indexprs IS NULL AND i.indimmediate AND NOT EXISTS ( \
                        SELECT FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) k(number) \
                        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number \
                        WHERE NOT a.attnotnull) \
             FROM unnest($1::oid[]) w(oid) JOIN pg_index i ON i.indrelid = w.oid \
             JOIN pg_class c ON c.oid = i.indexrelid \
             WHERE i.indisunique AND (i.indisvalid OR i.indisprimary AND c.relkind = 'I') \
             ORDER BY i.indrelid, i.indnkeyatts, c.relname",
            &[&oids],
        )
        .await?;
    for row in &rows {
        let Some(facts) = facts.get_mut(&row.get(0)) else { continue };
        let name: String = row.get(1);
        if row.get(2) {
            facts.primary = Some((name.clone(), row.get(3)));
        }
        facts.chosen |= row.get::<_, bool>(4);
        if row.get(5) && facts.candidate.is_none() {
            facts.candidate = Some(sql::ident(&name));
        }
    }
    let facts: Vec<Facts> = published.iter().filter_map(|r| facts.remove(&r.oid)).collect();
    Ok(judge(&facts))
}

fn verdict(facts: &Facts) -> Verdict {
    match (facts.setting, &facts.primary) {
        // A partition takes over the key, and nothing else that identifies a row.
        (_, primary) if facts.partitioned => match primary {
            Some((_, true)) => Verdict::Fine,
            _ => Verdict::Bare,
        },
        ('f', _) => Verdict::Full,
        ('i', _) if facts.chosen => Verdict::Fine,
        ('d', Some((_, true))) => Verdict::Fine,
        ('d', Some((_, false))) => Verdict::Deferrable,
        _ => Verdict::Missing,
    }
}

/// The best statement that gives a table an identity.
fn remedy(facts: &Facts) -> String {
    let table = &facts.table;
    if let Some((_, true)) = facts.primary {
        return format!("ALTER TABLE {table} REPLICA IDENTITY DEFAULT;");
    }
    if let Some(index) = &facts.candidate {
        return format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {index};");
    }
    format!(
        "ALTER TABLE {table} REPLICA IDENTITY FULL; -- better: ALTER TABLE {table} ADD PRIMARY KEY \
         (columns that are unique)"
    )
}

fn judge(all: &[Facts]) -> Vec<Found> {
    let (mut missing, mut deferrable) = (Vec::new(), Vec::new());
    let (mut full, mut bare) = (Vec::new(), Vec::new());
    for facts in all {
        match verdict(facts) {
            Verdict::Fine => {}
            Verdict::Full if facts.moved => full.push(facts),
            Verdict::Full => {}
            Verdict::Bare => bare.push(facts),
            Verdict::Deferrable => deferrable.push(facts),
            Verdict::Missing => missing.push(facts),
        }
    }
    let names = |tables: &[&Facts]| {
        format!("{}: {}", number(tables.len(), "table"), list(tables.iter().map(|f| &f.table)))
    };
    let remedies = |tables: &[&Facts]| lines(tables.iter().map(|f| remedy(f)));
    let mut found = Vec::new();
    if !missing.is_empty() {
        found.push(error(
            "CUT0125",
            format!("no usable replica identity on {}", names(&missing)),
            remedies(&missing),
        ));
    }
    if !deferrable.is_empty() {
        found.push(error(
            "CUT0126",
            format!(
                "the primary key is deferrable, so the server does not log it, on {}",
                names(&deferrable)
            ),
            remedies(&deferrable),
        ));
    }
    if !full.is_empty() {
        let add = |facts: &&Facts| match (&facts.primary, &facts.candidate) {
            (Some((_, true)), _) | (_, Some(_)) => remedy(facts),
            _ => format!(
                "-- ALTER TABLE {0} ADD PRIMARY KEY (columns that are unique);\n\
                 -- ALTER TABLE {0} REPLICA IDENTITY DEFAULT;",
                facts.table
            ),
        };
        found.push(warning(
            "CUT0127",
            format!(
                "REPLICA IDENTITY FULL: every update and delete logs the whole old row, and finds \
                 its row on the other side by all columns, on {}",
                names(&full)
            ),
            lines(full.iter().map(add)),
        ));
    }
    if !bare.is_empty() {
        let key = |facts: &&Facts| {
            format!("-- ALTER TABLE {} ADD PRIMARY KEY (columns that are unique);", facts.table)
        };
        found.push(warning(
            "CUT0196",
            format!(
                "a partition that is made later has no replica identity of its own, and clients \
                 cannot update or delete its rows: there is no immediate primary key on {}",
                names(&bare)
            ),
            format!(
                "{}\n-- or in each transaction that makes or attaches a partition:\n\
                 -- ALTER TABLE (the partition) REPLICA IDENTITY FULL;",
                lines(bare.iter().map(key))
            ),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(setting: char) -> Facts {
        Facts { table: "\"a\".\"t\"".into(), moved: true, setting, ..Facts::default() }
    }

    #[test]
    fn one_table_one_verdict() {
        let primary = |immediate| Some(("t_pkey".to_owned(), immediate));
        let with_index = || Facts { candidate: Some("\"u\"".into()), ..table('d') };
        for (facts, code, remedy) in [
            (Facts { primary: primary(true), ..table('d') }, None, ""),
            (Facts { chosen: true, ..table('i') }, None, ""),
            (table('d'), Some("CUT0125"), "FULL"),
            (with_index(), Some("CUT0125"), "USING INDEX \"u\";"),
            (Facts { primary: primary(false), ..table('d') }, Some("CUT0126"), "FULL"),
            (
                Facts { primary: primary(false), ..with_index() },
                Some("CUT0126"),
                "USING INDEX \"u\";",
            ),
            (Facts { primary: primary(true), ..table('n') }, Some("CUT0125"), "DEFAULT;"),
            // The chosen index was dropped.
            (Facts { primary: primary(true), ..table('i') }, Some("CUT0125"), "DEFAULT;"),
            (table('i'), Some("CUT0125"), "FULL"),
            (table('f'), Some("CUT0127"), "ADD PRIMARY KEY"),
            (Facts { primary: primary(true), ..table('f') }, Some("CUT0127"), "DEFAULT;"),
            (Facts { moved: false, ..table('d') }, Some("CUT0125"), "FULL"),
            (Facts { moved: false, ..table('f') }, None, ""),
            (Facts { partitioned: true, ..table('f') }, Some("CUT0196"), "ADD PRIMARY KEY"),
            (Facts { partitioned: true, primary: primary(true), ..table('d') }, None, ""),
            (
                Facts { partitioned: true, primary: primary(false), ..table('d') },
                Some("CUT0196"),
                "REPLICA IDENTITY FULL",
            ),
        ] {
            let found = judge(std::slice::from_ref(&facts));
            assert_eq!(found.first().map(|f| f.code), code, "{facts:?}");
            assert!(found.first().is_none_or(|f| f.remedy.contains(remedy)), "{found:?}");
        }
    }
}

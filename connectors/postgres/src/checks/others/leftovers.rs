//! What an earlier run of the same name left behind, and what other runs have here.

use std::collections::BTreeSet;

use super::super::{Answer, facts::Context, found::*, tables::reserved::NOT_OURS};
use crate::sql::{self, Names};

/// Something with a name of ours.
#[derive(Debug, Clone)]
struct Thing {
    /// `slot`, `publication`, `schema` or `origin`.
    kind: String,
    name: String,
    /// For a slot: its database, when it is another one.
    elsewhere: Option<String>,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    if context.question.resuming {
        return Ok(Vec::new());
    }
    // A schema with anything else in it is nobody's to drop.
    let query = format!(
        "SELECT 'slot', slot_name::text, nullif(database, current_database())::text \
               FROM pg_replication_slots WHERE slot_name ~ '^cutover_' AND NOT temporary \
             UNION ALL SELECT 'publication', pubname::text, NULL FROM pg_publication \
               WHERE pubname ~ '^cutover_' \
             UNION ALL SELECT 'schema', nspname::text, NULL FROM pg_namespace n \
               WHERE nspname ~ '^cutover_' AND NOT EXISTS (SELECT FROM pg_class c \
                   WHERE c.relnamespace = n.oid AND {NOT_OURS}) \
             UNION ALL SELECT 'origin', roname, NULL FROM pg_replication_origin \
               WHERE roname ~ '^cutover_' \
             ORDER BY 2, 1"
    );
    let rows = context.session.query(&query, &[]).await?;
    let things: Vec<Thing> = rows
        .iter()
        .map(|row| Thing { kind: row.get(0), name: row.get(1), elsewhere: row.get(2) })
        // Anything else is a copy of what its primary has.
        .filter(|thing| thing.kind == "slot" || !context.database.is_standby)
        .collect();
    Ok(judge(&things, &Names::of(context.run())))
}

fn judge(things: &[Thing], names: &Names) -> Vec<Found> {
    let mine = [names.base.clone(), names.early_origin()];
    let (ours, others): (Vec<&Thing>, Vec<&Thing>) =
        things.iter().partition(|thing| mine.contains(&thing.name));
    let mut found = Vec::new();
    if !ours.is_empty() {
        found.push(error(
            "CUT0141",
            format!(
                "an earlier run of the same name left its {}",
                list(ours.iter().map(|t| &t.kind).collect::<BTreeSet<_>>())
            ),
            format!(
                "-- run `cutover abort` with the state folder of that run, or give this run \
                 another name, or remove them:\n{}",
                lines(ours.iter().map(|thing| removal(thing)))
            ),
        ));
    }
    if !others.is_empty() {
        found.push(info(
            "CUT0142",
            format!(
                "other runs have things here: {}",
                list(others.iter().map(|t| format!("{} {}", t.kind, t.name)))
            ),
            "nothing if those runs are alive; else `cutover abort` with their configuration",
        ));
    }
    found
}

fn removal(thing: &Thing) -> String {
    let name = sql::ident(&thing.name);
    let text = sql::literal(&thing.name);
    match (thing.kind.as_str(), &thing.elsewhere) {
        ("slot", None) => format!("SELECT pg_drop_replication_slot({text});"),
        ("slot", Some(database)) => {
            format!("SELECT pg_drop_replication_slot({text}); -- in database {database}")
        }
        ("publication", _) => format!("DROP PUBLICATION {name};"),
        // Triggers on users' tables go with the function in it.
        ("schema", _) => format!("DROP SCHEMA {name} CASCADE;"),
        _ => format!("SELECT pg_replication_origin_drop({text});"),
    }
}

#[cfg(test)]
mod tests {
    use cutover_core::model::run::RunId;

    use super::*;

    #[test]
    fn ours_are_an_error_and_others_a_note() {
        let thing = |kind: &str, name: &str| Thing {
            kind: kind.into(),
            name: name.into(),
            elsewhere: None,
        };
        let names = Names::of(&RunId::new("shop").unwrap());
        assert!(judge(&[], &names).is_empty());
        let found = judge(
            &[
                thing("origin", "cutover_shop"),
                thing("origin", "cutover_shop/early"),
                thing("publication", "cutover_shop"),
                thing("schema", "cutover_shop"),
                Thing { elsewhere: Some("b".into()), ..thing("slot", "cutover_shop") },
                thing("slot", "cutover_shop2"),
            ],
            &names,
        );
        assert_eq!(found.iter().map(|f| f.code).collect::<Vec<_>>(), ["CUT0141", "CUT0142"]);
        let left = "an earlier run of the same name left its origin, publication, schema, slot";
        assert_eq!(found[0].what, left);
        assert_eq!(
            found[0].remedy.lines().skip(1).collect::<Vec<_>>(),
            [
                "SELECT pg_replication_origin_drop('cutover_shop');",
                "SELECT pg_replication_origin_drop('cutover_shop/early');",
                "DROP PUBLICATION \"cutover_shop\";",
                "DROP SCHEMA \"cutover_shop\" CASCADE;",
                "SELECT pg_drop_replication_slot('cutover_shop'); -- in database b",
            ]
        );
        assert_eq!(found[1].what, "other runs have things here: slot cutover_shop2");
    }
}

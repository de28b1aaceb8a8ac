//! Prepared transactions keep their locks and outlive everybody who could end them.

use cutover_core::{model::finding::Scope, port::primary::FORGOTTEN_SECONDS};

use super::super::{Answer, facts::Context, found::*};
use crate::sql;

#[derive(Debug, Clone)]
struct Prepared {
    gid: String,
    owner: String,
    database: String,
    age: f64,
    here: bool,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let rows = context
        .session
        .query(
            "SELECT gid, owner::text, database::text, \
                    extract(epoch FROM clock_timestamp() - prepared)::float8, \
                    database = current_database() FROM pg_prepared_xacts ORDER BY prepared",
            &[],
        )
        .await?;
    let all: Vec<Prepared> = rows
        .iter()
        .map(|row| Prepared {
            gid: row.get(0),
            owner: row.get(1),
            database: row.get(2),
            age: row.get(3),
            here: row.get(4),
        })
        .collect();
    Ok(judge(&all, context.question.scope))
}

fn judge(all: &[Prepared], scope: Scope) -> Vec<Found> {
    // A new slot waits for all of them, the fence for those of its own database; one that was
    // prepared just now is in the hands of its transaction manager and will be gone by then.
    let stops = |p: &&Prepared| scope == Scope::Start || (p.here && p.age >= FORGOTTEN_SECONDS);
    let all: Vec<&Prepared> = all.iter().filter(stops).collect();
    if all.is_empty() {
        return Vec::new();
    }
    let name = |p: &&Prepared| {
        format!("{:?} of {} in {} since {:.0} s", p.gid, p.owner, p.database, p.age)
    };
    vec![error(
        "CUT0140",
        format!(
            "{}: {}; {} for their end, however long that takes",
            number(all.len(), "prepared transaction"),
            list(all.iter().map(name)),
            match scope {
                Scope::Start => "a new replication slot waits",
                Scope::Move => "the fence may wait",
            }
        ),
        lines(all.iter().map(|p| {
            format!(
                "COMMIT PREPARED {}; -- or ROLLBACK PREPARED, in database {}; ask its transaction \
                 manager which",
                sql::literal(&p.gid),
                p.database
            )
        })),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_other_databases_matter_to_a_new_slot_only() {
        let aged = |here, age| Prepared {
            gid: "it's".into(),
            owner: "app".into(),
            database: "shop".into(),
            age,
            here,
        };
        let one = |here| aged(here, 3.0);
        assert!(judge(&[], Scope::Start).is_empty());
        assert!(judge(&[one(false)], Scope::Move).is_empty());
        assert_eq!(judge(&[one(true)], Scope::Move).len(), 1);
        assert!(judge(&[aged(true, 0.2)], Scope::Move).is_empty());
        assert_eq!(judge(&[aged(true, 0.2)], Scope::Start).len(), 1);
        let found = judge(&[one(false)], Scope::Start);
        assert!(found[0].remedy.starts_with("COMMIT PREPARED 'it''s';"), "{}", found[0].remedy);
    }
}

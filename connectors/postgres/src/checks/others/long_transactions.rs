//! Transactions that stay open: a new slot waits for their end, and so does the fence.

use cutover_core::{model::finding::Scope, port::primary::OpenTransaction};

use super::super::{Answer, facts::Context, found::*};

/// Older than this, a transaction will probably still be there when a slot is made.
const OLD_SECONDS: f64 = 30.0;

/// An open transaction of somebody else.
#[derive(Debug, Clone)]
struct Open {
    transaction: OpenTransaction,
    user: String,
    /// It has written, somewhere on this server: a new slot waits for it.
    writes: bool,
    /// It is in this database.
    here: bool,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let ours = format!("{} %", context.database.application("").trim_end());
    let rows = context
        .session
        .query(
            "SELECT a.pid::text, coalesce(a.usename::text, ''), coalesce(a.application_name, ''), \
                    extract(epoch FROM clock_timestamp() - a.xact_start)::float8, \
                    a.backend_xid IS NOT NULL, \
                    EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.granted \
                            AND l.locktype = 'relation' AND l.relation = ANY ($1) \
                            AND l.database = (SELECT oid FROM pg_database \
                                              WHERE datname = current_database()) \
                            AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')), \
                    a.datname = current_database() \
             FROM pg_stat_activity a \
             WHERE a.xact_start IS NOT NULL AND a.pid <> pg_backend_pid() \
               AND a.datname IS NOT NULL AND a.backend_type = 'client backend' \
               AND a.application_name NOT LIKE $2 \
             ORDER BY a.xact_start",
            &[
                &context
                    .relations
                    .iter()
                    .filter(|r| r.touched)
                    .map(|r| r.oid)
                    .collect::<Vec<u32>>(),
                &ours,
            ],
        )
        .await?;
    let all: Vec<Open> = rows
        .iter()
        .map(|row| Open {
            transaction: OpenTransaction {
                who: row.get(0),
                application: row.get(2),
                age_seconds: row.get(3),
                blocks_fence: row.get(5),
                prepared: false,
            },
            user: row.get(1),
            writes: row.get(4),
            here: row.get(6),
        })
        .collect();
    Ok(judge(&all, context.question.scope, context.question.owns_writes))
}

fn judge(all: &[Open], scope: Scope, owns_writes: bool) -> Vec<Found> {
    let mut found = Vec::new();
    let stops = |o: &&Open| scope == Scope::Move && owns_writes && o.transaction.stops_moves();
    let old = |o: &&Open| o.transaction.age_seconds >= OLD_SECONDS;
    let delays = |o: &&Open| !stops(o) && old(o) && (o.writes || o.here);
    let stopping: Vec<&Open> = all.iter().filter(stops).collect();
    let delaying: Vec<&Open> = all.iter().filter(delays).collect();
    if !stopping.is_empty() {
        found.push(error(
            "CUT0139",
            format!(
                "{} tables of the run and would hold up the fence: {}",
                open(stopping.len(), "has locked", "have locked"),
                list(stopping.iter().map(|o| name(o)))
            ),
            end(&stopping),
        ));
    }
    if !delaying.is_empty() {
        let why = match scope {
            Scope::Start => "a new replication slot waits for those that write",
            Scope::Move => "a pooler that pauses waits for those that came through it",
        };
        found.push(warning(
            "CUT0139",
            format!(
                "{} open for long: {}; {why}",
                open(delaying.len(), "is", "are"),
                list(delaying.iter().map(|o| name(o)))
            ),
            end(&delaying),
        ));
    }
    found
}

fn open(count: usize, one: &str, many: &str) -> String {
    format!("{} {}", number(count, "transaction"), if count == 1 { one } else { many })
}

fn name(o: &Open) -> String {
    let OpenTransaction { who, application, age_seconds, .. } = &o.transaction;
    let application =
        if application.is_empty() { String::new() } else { format!(", {application}") };
    format!("process {who} ({}{application}) since {age_seconds:.0} s", o.user)
}

fn end(all: &[&Open]) -> String {
    format!(
        "-- let them end, or end them:\n{}",
        lines(all.iter().map(|o| format!("SELECT pg_terminate_backend({});", o.transaction.who)))
    )
}

#[cfg(test)]
mod tests {
    use cutover_core::model::finding::Severity;

    use super::*;

    #[test]
    fn what_counts_depends_on_when() {
        let open = |age, writes, blocks_fence, here| Open {
            transaction: OpenTransaction {
                who: "7".into(),
                application: "web".into(),
                age_seconds: age,
                blocks_fence,
                prepared: false,
            },
            user: "app".into(),
            writes,
            here,
        };
        let error = Some(Severity::Error);
        let warning = Some(Severity::Warning);
        for (o, scope, owns, want) in [
            (open(5.0, true, true, true), Scope::Start, true, None),
            (open(60.0, true, true, true), Scope::Start, true, warning),
            (open(60.0, true, false, false), Scope::Start, true, warning),
            (open(60.0, false, false, false), Scope::Start, true, None),
            (open(60.0, false, false, true), Scope::Start, true, warning),
            (open(5.0, true, true, true), Scope::Move, true, error),
            (open(1.0, true, true, true), Scope::Move, true, None),
            (open(60.0, true, true, true), Scope::Move, false, warning),
            (open(60.0, false, false, true), Scope::Move, true, warning),
        ] {
            let found = judge(std::slice::from_ref(&o), scope, owns);
            assert_eq!(found.first().map(|f| f.severity), want, "{o:?} {scope:?} {owns}");
            assert!(found.len() <= 1);
        }
        let found = judge(&[open(61.2, true, true, true)], Scope::Move, true);
        assert_eq!(
            found[0].what,
            "1 transaction has locked tables of the run and would hold up the fence: \
             process 7 (app, web) since 61 s"
        );
    }
}

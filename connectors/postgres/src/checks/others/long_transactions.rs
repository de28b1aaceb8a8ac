//! Transactions that stay open: a new slot waits for their end, and so does the fence.

use cutover_core::{model::finding::Scope, port::primary::OpenTransaction};

use super::super::{Answer, facts::Context, found::*};
use crate::{
    primary::{Open, is_fenced, open, open_statement},
    sql::Names,
};

/// Older than this, a transaction will probably still be there when a slot is made.
const OLD_SECONDS: f64 = 30.0;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let (session, run) = (context.session, &context.database.run);
    let names = Names::of(run);
    let fenced: bool = session.query_one(&is_fenced(&names), &[]).await?.get(0);
    let rows = session.query(&open_statement(run, &names, fenced), &[]).await?;
    let all: Vec<Open> = rows.iter().map(open).filter(|o| !o.transaction.prepared).collect();
    Ok(judge(&all, context.question.scope, context.question.owns_writes))
}

fn judge(all: &[Open], scope: Scope, owns_writes: bool) -> Vec<Found> {
    let mut found = Vec::new();
    let moves = scope == Scope::Move && owns_writes;
    let stops = |o: &&Open| moves && o.here && o.transaction.stops_moves();
    let old = |o: &&Open| o.transaction.age_seconds >= OLD_SECONDS;
    let delays = |o: &&Open| !stops(o) && o.foreign && old(o) && (o.writes || o.here);
    let stopping: Vec<&Open> = all.iter().filter(stops).collect();
    let delaying: Vec<&Open> = all.iter().filter(delays).collect();
    if !stopping.is_empty() {
        found.push(error(
            "CUT0139",
            format!(
                "{} tables of the run and would hold up the fence: {}",
                count(stopping.len(), "has locked", "have locked"),
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
                count(delaying.len(), "is", "are"),
                list(delaying.iter().map(|o| name(o)))
            ),
            end(&delaying),
        ));
    }
    found
}

fn count(count: usize, one: &str, many: &str) -> String {
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
                blocks_waking: false,
                prepared: false,
            },
            user: "app".into(),
            writes,
            here,
            foreign: true,
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
        let mut vacuum = open(60.0, false, false, true);
        vacuum.foreign = false;
        assert!(judge(&[vacuum.clone()], Scope::Start, true).is_empty(), "the server's own");
        vacuum.transaction.blocks_waking = true;
        assert_eq!(judge(&[vacuum.clone()], Scope::Move, true)[0].severity, Severity::Error);
        vacuum.here = false;
        assert!(judge(&[vacuum], Scope::Move, true).is_empty(), "another database");
        let found = judge(&[open(61.2, true, true, true)], Scope::Move, true);
        assert_eq!(
            found[0].what,
            "1 transaction has locked tables of the run and would hold up the fence: \
             process 7 (app, web) since 61 s"
        );
    }
}

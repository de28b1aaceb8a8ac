//! Sequences: read and moved in one round trip each, however many there are.
//!
//! Which belong to a selection is found out ahead; a mark of the catalog that travels with the
//! values says whether it still holds.
//!
//! - `seen`: what they held when they were last read or moved.
//! - `told`: statements about many sequences at once.

mod seen;
mod told;

use std::sync::PoisonError;

use cutover_core::{
    model::{counter::Counter, schema::TableName, selection::Selection},
    port::{Result, error::PortError},
};
use tokio_postgres::{Error, error::SqlState};

pub(super) use seen::Seen;
pub(super) use told::Counting;
use told::State;

use crate::{
    catalog::{self, Sequence},
    connect::port_error,
    database::Database,
    shelf::Warm,
    sql,
};

/// A sequence that has no counterpart here.
pub(super) const MISSING: &str = "CUT0714";
/// A sequence that would hand out other values here.
pub(super) const UNLIKE: &str = "CUT0715";

/// Which sequences belong to a selection, as of a state of the catalog.
pub(super) struct Plan {
    selection: Selection,
    /// What the catalog's mark was before they were read.
    mark: String,
    /// Every sequence there was.
    all: Vec<Sequence>,
    /// Those of the selection.
    wanted: Vec<Sequence>,
}

/// State of every sequence of the selection, sorted by name.
pub(super) async fn read(db: &Database, selection: &Selection) -> Result<Vec<Counter>> {
    let doing = format!("reading the sequences of {}", db.side);
    let mut kept = db.kept.counting.lock().await;
    let mut counting = session(db, &mut kept).await?;
    loop {
        let known = take_plan(db, selection);
        let mut plan = match known {
            Some(plan) => plan,
            None => make_plan(&counting.warm, selection, &doing).await?,
        };
        let read = read_planned(&mut counting, &mut plan).await;
        match read {
            Ok(Some(states)) => {
                let mut counters: Vec<Counter> =
                    plan.wanted.iter().zip(states).map(counter).collect();
                counters.sort_by(|a, b| a.name.cmp(&b.name));
                db.kept.seen.note(&counters);
                put_plan(db, plan);
                *kept = Some(counting);
                return Ok(counters);
            }
            // The catalog changed since the plan was made.
            Ok(None) => {}
            Err(e) if e.code() == Some(&SqlState::UNDEFINED_TABLE) => {}
            Err(e) => return Err(port_error(doing, e)),
        }
    }
}

/// The states of the sequences of a plan; `None` when it does not hold any more.
async fn read_planned(
    counting: &mut Counting,
    plan: &mut Plan,
) -> std::result::Result<Option<Vec<State>>, Error> {
    let names: Vec<&TableName> = plan.wanted.iter().map(|s| &s.name).collect();
    let (states, now) = counting.read(&names, &catalog::sequences_mark(), &[&plan.mark]).await?;
    let now: Option<String> = now.first().map(|row| row.get(0));
    if now.as_ref() == Some(&plan.mark) {
        return Ok(Some(states));
    }
    // Something changed, and perhaps nothing that matters here.
    let all = catalog::all_sequences(&counting.warm.session).await?;
    if all != plan.all {
        return Ok(None);
    }
    plan.mark = now.unwrap_or_default();
    Ok(Some(states))
}

/// The session that reads and moves sequences; the caller keeps it again. There is one, and who
/// comes second waits: another one would have nothing prepared.
async fn session(db: &Database, kept: &mut Option<Counting>) -> Result<Counting> {
    if let Some(counting) = kept.take().filter(|kept| !kept.warm.session.is_closed()) {
        return Ok(counting);
    }
    let session = db.session("counters").await?;
    // Planned once and not with every use.
    session.batch_execute("SET plan_cache_mode = force_generic_plan").await.map_err(|e| {
        port_error(format!("opening a session for the sequences of {}", db.side), e)
    })?;
    Ok(Counting::new(Warm::new(session)))
}

/// Prepares [`read`] for the selection it was last used with.
pub(super) async fn warm_up(db: &Database) -> Result<()> {
    let selection = lock(db).as_ref().map(|plan| plan.selection.clone());
    match selection {
        Some(selection) => read(db, &selection).await.map(drop),
        None => Ok(()),
    }
}

fn lock(db: &Database) -> std::sync::MutexGuard<'_, Option<Plan>> {
    db.kept.counters.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_plan(db: &Database, selection: &Selection) -> Option<Plan> {
    lock(db).take_if(|plan| plan.selection == *selection)
}

fn put_plan(db: &Database, plan: Plan) {
    *lock(db) = Some(plan);
}

async fn make_plan(warm: &Warm, selection: &Selection, doing: &str) -> Result<Plan> {
    let failed = |e| port_error(doing, e);
    let nothing: Option<&str> = None;
    let mark = warm.session.query_one(&catalog::sequences_mark(), &[&nothing]).await;
    let mark = mark.map_err(failed)?.get(0);
    let all = catalog::all_sequences(&warm.session).await.map_err(failed)?;
    let wanted = catalog::sequences(&warm.session, selection).await?;
    Ok(Plan { selection: selection.clone(), mark, all, wanted })
}

fn counter((sequence, state): (&Sequence, State)) -> Counter {
    Counter {
        name: sequence.name.clone(),
        last_value: state.last_value,
        is_called: state.is_called,
        increment: sequence.increment,
        cycle: sequence.cycle,
    }
}

/// Moves every sequence to the given state; one that others may have used since only forwards.
pub(super) async fn advance(db: &Database, counters: &[Counter]) -> Result<()> {
    let seen = db.kept.seen.of(counters);
    // What an unanswered statement leaves is not known.
    db.kept.seen.forget(counters);
    set(db, counters, &seen, Some).await?;
    db.kept.seen.note(counters);
    Ok(())
}

/// Prepares and plans [`advance`] for these sequences; moves none. Those that would stay ahead.
pub(super) async fn get_ready(db: &Database, counters: &[Counter]) -> Result<Vec<TableName>> {
    let seen = db.kept.seen.of(counters);
    // Nothing is before or behind an unknown value, and what would be set to it stays.
    set(db, counters, &seen, |_| None).await?;
    let doing = format!("looking at the sequences of {}", db.side);
    let mut kept = db.kept.counting.lock().await;
    let mut counting = session(db, &mut kept).await?;
    let names: Vec<&TableName> = counters.iter().map(|c| &c.name).collect();
    let (states, here) = counting
        .read(&names, &catalog::all_statement(), &[])
        .await
        .map_err(|e| port_error(doing.as_str(), e))?;
    *kept = Some(counting);
    let here = catalog::sorted(&here);
    let unlike: Vec<String> = counters
        .iter()
        .filter_map(|c| {
            let at = here.binary_search_by(|s| s.name.cmp(&c.name)).ok()?;
            unlike(c, &here[at]).map(|why| format!("{} {why}", c.name))
        })
        .collect();
    if !unlike.is_empty() {
        return Err(PortError::definite(
            UNLIKE,
            doing,
            unlike.join("; "),
            "give the sequence the definition that it has on the other side (`\\d name` shows it): \
             ALTER SEQUENCE ... AS ... INCREMENT BY ... MINVALUE ... MAXVALUE ...",
        ));
    }
    let stays = |((counter, state), seen): ((&Counter, State), Option<State>)| {
        (seen != Some(state) && is_ahead(state, counter)).then(|| counter.name.clone())
    };
    Ok(counters.iter().zip(states).zip(seen).filter_map(stays).collect())
}

/// Whether a sequence that holds `state` here would hand out a value that is further than the other
/// side's next one.
fn is_ahead(state: State, there: &Counter) -> bool {
    let State { last_value, is_called } = state;
    let here = Counter { last_value, is_called, ..there.clone() };
    !there.cycle && here.covers(there) && here.next() != there.next()
}

/// Why a sequence of the other side cannot go on as this one.
fn unlike(counter: &Counter, here: &Sequence) -> Option<String> {
    let (least, greatest) = here.bounds;
    if !(least..=greatest).contains(&counter.last_value) {
        return Some(format!("is past its bounds here ({least} to {greatest})"));
    }
    if counter.increment != here.increment {
        let there = counter.increment;
        return Some(format!("goes by {} here and by {there} there", here.increment));
    }
    None
}

async fn set(
    db: &Database,
    counters: &[Counter],
    seen: &[Option<State>],
    value: fn(i64) -> Option<i64>,
) -> Result<()> {
    let doing = format!("moving the sequences of {}", db.side);
    let mut kept = db.kept.counting.lock().await;
    let mut counting = session(db, &mut kept).await?;
    if let Err(e) = counting.advance(counters, seen, value).await {
        return Err(not_moved(&counting.warm, counters, &doing, e).await?);
    }
    *kept = Some(counting);
    Ok(())
}

/// Says which sequences are missing, when that is why.
async fn not_moved(warm: &Warm, counters: &[Counter], doing: &str, e: Error) -> Result<PortError> {
    if !matches!(e.code(), Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME)) {
        return Ok(port_error(doing, e));
    }
    let names: Vec<String> = counters.iter().map(|c| sql::table(&c.name)).collect();
    let rows = warm
        .session
        .query(
            "SELECT name FROM unnest($1::text[]) w(name) WHERE to_regclass(name) IS NULL \
             ORDER BY 1 LIMIT 10",
            &[&names],
        )
        .await
        .map_err(|e| port_error(doing, e))?;
    let missing: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(PortError::definite(
        MISSING,
        doing,
        format!("there is no sequence {}", missing.join(", ")),
        "create it with the definition it has on the other side, or exclude it from the run",
    )
    .caused_by(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ahead() {
        let there = |last_value, is_called, increment, cycle| Counter {
            name: TableName::new("s", "q"),
            last_value,
            is_called,
            increment,
            cycle,
        };
        let here = |last_value, is_called| State { last_value, is_called };
        for (here, there, want) in [
            (here(5, true), there(5, true, 1, false), false),
            (here(5, true), there(6, false, 1, false), false),
            (here(5, true), there(5, false, 1, false), true),
            (here(6, true), there(5, true, 1, false), true),
            (here(6, true), there(5, true, 1, true), false),
            (here(6, true), there(5, true, -1, false), false),
            (here(4, false), there(5, true, -1, false), false),
            (here(3, false), there(5, true, -1, false), true),
        ] {
            assert_eq!(is_ahead(here, &there), want, "{here:?} {there:?}");
        }
    }
}

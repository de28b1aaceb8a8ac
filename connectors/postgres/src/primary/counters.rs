//! Sequences: read and moved in one round trip each, however many there are.
//!
//! The value of a sequence lives in a relation of its own, so one statement reads all of them by
//! name. It is made once and prepared; a question about the catalog that travels with it says
//! whether it still fits.

use std::sync::PoisonError;

use cutover_core::{
    model::{counter::Counter, selection::Selection},
    port::{Result, error::PortError},
};
use futures_util::future::{join, join_all};
use tokio_postgres::{Error, error::SqlState};

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

/// Sequences per statement: planning grows faster than their number.
const PER_STATEMENT: usize = 250;

/// Which sequences belong to a selection, as of a state of the catalog.
pub(super) struct Plan {
    selection: Selection,
    /// Every sequence there was.
    all: Vec<Sequence>,
    /// Those of the selection.
    wanted: Vec<Sequence>,
}

/// State of every sequence of the selection, sorted by name.
pub(super) async fn read(db: &Database, selection: &Selection) -> Result<Vec<Counter>> {
    let doing = format!("reading the sequences of {}", db.side);
    let mut kept = db.kept.counting.lock().await;
    let mut warm = session(db, &mut kept).await?;
    loop {
        let known = take_plan(db, selection);
        let plan = match known {
            Some(plan) => plan,
            None => make_plan(&warm, selection, &doing).await?,
        };
        let read = values(&mut warm, &plan).await;
        match read {
            Ok((counters, all)) if all == plan.all => {
                put_plan(db, plan);
                *kept = Some(warm);
                return Ok(counters);
            }
            // The catalog changed since the plan was made.
            Ok(_) => {}
            Err(e) if e.code() == Some(&SqlState::UNDEFINED_TABLE) => {}
            Err(e) => return Err(port_error(doing, e)),
        }
    }
}

/// The session that reads and moves sequences; the caller keeps it again. There is one, and who
/// comes second waits: another one would have nothing prepared.
async fn session(db: &Database, kept: &mut Option<Warm>) -> Result<Warm> {
    if let Some(warm) = kept.take().filter(|warm| !warm.session.is_closed()) {
        return Ok(warm);
    }
    let session = db.session("counters").await?;
    // Planned once and not with every use.
    session
        .batch_execute("SET plan_cache_mode = force_generic_plan; SET jit = off")
        .await
        .map_err(|e| {
            port_error(format!("opening a session for the sequences of {}", db.side), e)
        })?;
    Ok(Warm::new(session))
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
    let all = catalog::all_sequences(&warm.session).await.map_err(|e| port_error(doing, e))?;
    let wanted = catalog::sequences(&warm.session, selection).await?;
    Ok(Plan { selection: selection.clone(), all, wanted })
}

/// The values of the plan, and the sequences there are now.
async fn values(
    warm: &mut Warm,
    plan: &Plan,
) -> std::result::Result<(Vec<Counter>, Vec<Sequence>), Error> {
    let chunks: Vec<&[Sequence]> = plan.wanted.chunks(PER_STATEMENT).collect();
    let texts: Vec<String> = chunks.iter().map(|chunk| read_statement(chunk)).collect();
    let statements = warm.prepared_all(&texts).await?;
    let all = warm.prepared(&catalog::all_statement()).await?;
    let answers = join_all(statements.iter().map(|s| warm.session.query(s, &[])));
    // In one stream: what the catalog says is at least as new as the values.
    let (answers, all) = join(answers, warm.session.query(&all, &[])).await;
    let mut counters = Vec::with_capacity(plan.wanted.len());
    for (chunk, rows) in chunks.iter().zip(answers) {
        for row in rows? {
            let at: i32 = row.get(0);
            let Some(sequence) = usize::try_from(at).ok().and_then(|at| chunk.get(at)) else {
                continue;
            };
            counters.push(Counter {
                name: sequence.name.clone(),
                last_value: row.get(1),
                is_called: row.get(2),
                increment: sequence.increment,
                cycle: sequence.cycle,
            });
        }
    }
    counters.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((counters, catalog::sorted(&all?)))
}

fn read_statement(sequences: &[Sequence]) -> String {
    let parts: Vec<String> = sequences
        .iter()
        .enumerate()
        .map(|(i, s)| {
            format!("SELECT {i}::int4, last_value, is_called FROM {}", sql::table(&s.name))
        })
        .collect();
    parts.join(" UNION ALL ")
}

/// Moves every sequence to at least the given state.
pub(super) async fn advance(db: &Database, counters: &[Counter]) -> Result<()> {
    set(db, counters, Some).await
}

/// Prepares and plans [`advance`] for these sequences; moves none.
pub(super) async fn get_ready(db: &Database, counters: &[Counter]) -> Result<()> {
    // Nothing is before or behind an unknown value, and what would be set to it stays.
    set(db, counters, |_| None).await?;
    let doing = format!("looking at the sequences of {}", db.side);
    let mut kept = db.kept.counting.lock().await;
    let warm = session(db, &mut kept).await?;
    let here =
        catalog::all_sequences(&warm.session).await.map_err(|e| port_error(doing.as_str(), e))?;
    *kept = Some(warm);
    let unlike: Vec<String> = counters
        .iter()
        .filter_map(|c| {
            let at = here.binary_search_by(|s| s.name.cmp(&c.name)).ok()?;
            unlike(c, &here[at]).map(|why| format!("{} {why}", c.name))
        })
        .collect();
    if unlike.is_empty() {
        return Ok(());
    }
    Err(PortError::definite(
        UNLIKE,
        doing,
        unlike.join("; "),
        "give the sequence the definition that it has on the other side (`\\d name` shows it): \
         ALTER SEQUENCE ... AS ... INCREMENT BY ... MINVALUE ... MAXVALUE ...",
    ))
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

async fn set(db: &Database, counters: &[Counter], value: fn(i64) -> Option<i64>) -> Result<()> {
    let doing = format!("moving the sequences of {}", db.side);
    let mut kept = db.kept.counting.lock().await;
    let mut warm = session(db, &mut kept).await?;
    let chunks = || counters.chunks(PER_STATEMENT);
    let texts: Vec<String> = chunks().map(advance_statement).collect();
    let statements = match warm.prepared_all(&texts).await {
        Ok(statements) => statements,
        Err(e) => return Err(not_moved(&warm, counters, &doing, e).await?),
    };
    let moves = statements.iter().zip(chunks()).map(async |(statement, chunk)| {
        let values: Vec<Option<i64>> = chunk.iter().map(|c| value(c.last_value)).collect();
        let called: Vec<bool> = chunk.iter().map(|c| c.is_called).collect();
        warm.session.query(statement, &[&values, &called]).await
    });
    for moved in join_all(moves).await {
        if let Err(e) = moved {
            return Err(not_moved(&warm, counters, &doing, e).await?);
        }
    }
    *kept = Some(warm);
    Ok(())
}

/// A sequence that cycles has no order: it is set as it is. Others only ever move in their own
/// direction.
fn advance_statement(counters: &[Counter]) -> String {
    let parts: Vec<String> = counters
        .iter()
        .enumerate()
        .map(|(i, c)| {
            let name = sql::table(&c.name);
            let (value, called) = (format!("$1[{}]", i + 1), format!("$2[{}]", i + 1));
            let behind = if c.cycle {
                format!("(last_value, is_called) IS DISTINCT FROM ({value}, {called})")
            } else {
                let operator = if c.increment < 0 { '>' } else { '<' };
                format!(
                    "last_value {operator} {value} \
                     OR (last_value = {value} AND {called} AND NOT is_called)"
                )
            };
            format!(
                "SELECT setval({}::regclass, {value}, {called}) FROM {name} WHERE {behind}",
                sql::literal(&name)
            )
        })
        .collect();
    // The types of the parameters, said once where nothing is ever read.
    format!("SELECT ($1::int8[])[0] WHERE ($2::bool[])[0] UNION ALL {}", parts.join(" UNION ALL "))
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
    use cutover_core::model::schema::TableName;

    use super::*;

    #[test]
    fn direction_and_cycle() {
        let counter = |increment, cycle| Counter {
            name: TableName::new("s", "q"),
            last_value: 1,
            is_called: true,
            increment,
            cycle,
        };
        let text = |c: Counter| advance_statement(&[c]);
        assert!(text(counter(1, false)).contains("WHERE last_value < $1[1]"));
        assert!(text(counter(-1, false)).contains("WHERE last_value > $1[1]"));
        assert!(text(counter(1, true)).contains("IS DISTINCT FROM ($1[1], $2[1])"));
    }
}

//! `cutover status`: phase, owner, lag, rates, what is proven, tables, moves.

use std::time::{Duration, Instant};

use cutover::{
    config::units::{human_duration, human_size},
    error::{Exit, Failure},
    observe::progress::{CopyProgress, CopySum, Kept, TableProgress, TableState},
    run::{
        book::Book,
        command::Request,
        status::{Readiness, Status, far},
    },
    verify::reading::ReadingView,
};
use serde_json::Value;

use super::{
    args::Args,
    ask,
    output::{Align, Printer, Tone, columns, thousands},
};

/// How long the running process may be silent.
const WITHIN: Duration = Duration::from_secs(10);
/// How often a watched status is asked for.
const EVERY: Duration = Duration::from_secs(1);
/// Tables that are listed when nothing is known about the height of the screen.
const TABLES: usize = 30;

/// The status, once or again and again.
pub(super) async fn status(args: &Args, watch: bool, printer: Printer) -> Result<Exit, Failure> {
    let home = super::home(args)?;
    let mut before: Option<(Instant, Status)> = None;
    loop {
        let asked = ask::answer(&home, &Request::Status, Some(WITHIN), printer).await;
        let answer = asked.inspect_err(|_| last_known(&home.state_dir, printer))?;
        let now = Instant::now();
        // Another version's status is shown as it comes.
        let status = serde_json::from_value::<Status>(answer.value.clone()).ok();
        let text = status.as_ref().map_or_else(
            || answer.text.clone(),
            |status| {
                let past = before.as_ref().map(|(at, s)| (now.duration_since(*at), s));
                text(status, past, printer)
            },
        );
        if !watch {
            printer.answer(&answer.value, &text);
            return Ok(Exit::from(answer.exit));
        }
        if printer.is_answer_seen() {
            printer.redraw(&text);
        } else if printer.is_json() {
            printer.record(&answer.value, "");
        } else {
            printer.data(&format!("{text}\n"));
        }
        before = status.map(|status| (now, status));
        tokio::time::sleep(EVERY).await;
    }
}

/// What the journal says when no process does: better than nothing on a bad night.
fn last_known(state_dir: &std::path::Path, printer: Printer) {
    // A journal that cannot be read is part of the failure.
    let Ok(Some(standing)) = Book::peek(state_dir) else { return };
    let mut text = format!(
        "by its journal the run is in phase {}, and {} owned the writes after the last finished \
         move",
        standing.phase().as_str(),
        standing.owner
    );
    if let Some((id, from, rehearsal)) = standing.open_move {
        let what = if rehearsal { "rehearsal" } else { "move" };
        text.push_str(&format!("; {what} {id} from {from} has not ended"));
    }
    printer.note(&text);
}

/// The status for a person. `past`: an earlier one and how long ago it was, for rates.
pub(super) fn text(status: &Status, past: Option<(Duration, &Status)>, p: Printer) -> String {
    let mut lines = vec![
        field(p, "run", &status.run),
        field(p, "phase", &format!("{} ({})", status.phase.as_str(), status.doing)),
        field(p, "owner", &format!("{} owns the writes", status.owner)),
    ];
    if let Some(busy) = &status.busy {
        lines.push(field(p, "busy", busy));
    }
    if status.streams.is_some() {
        lines.push(field(p, "lag", &lag(status)));
        lines.extend(streams(status, past, p));
    }
    lines.push(field(p, "ready", &ready(&status.ready, p)));
    if let Some(pause) = status.pause_estimate.as_ref().and_then(pause) {
        lines.push(field(p, "pause", &pause));
    }
    lines.extend(status.proof.as_ref().map(|proof| field(p, "proven", &proven(proof, p))));
    let reading = status.proof.as_ref().map(|proof| proof["reading"].clone());
    let reading = reading.and_then(|r| serde_json::from_value::<ReadingView>(r).ok());
    lines.extend(
        reading.map(|reading| field(p, "compares", &format!("every row: {}", far(&reading)))),
    );
    for alarm in &status.alarms {
        let alarm = format!("{} {}\n         hint: {}", alarm.code, alarm.what, alarm.remedy);
        lines.push(format!("{:<8} {alarm}", p.tone(Tone::Bad, "ALARM   ")));
    }
    lines.extend(copy(&status.copy, p));
    if !status.moves.is_empty() {
        lines.push(p.tone(Tone::Head, "moves"));
        let rows: Vec<Vec<String>> = status
            .moves
            .iter()
            .map(|m| {
                vec![
                    format!("  {}", m.id),
                    m.kind.clone(),
                    m.ending.clone(),
                    format!("owner {}", m.owner),
                    m.pause_ms.map_or_else(String::new, |ms| format!("pause {ms:.1} ms")),
                    m.evidence.clone().unwrap_or_default(),
                ]
            })
            .collect();
        use Align::{Left, Right};
        lines.extend(columns(&[Left, Left, Left, Left, Right, Left], &rows));
    }
    lines.join("\n")
}

fn field(p: Printer, name: &str, value: &str) -> String {
    format!("{} {value}", p.tone(Tone::Quiet, &format!("{name:<8}")))
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn lag(status: &Status) -> String {
    let lag = &status.lag;
    let kept = status.retained_bytes.map(|b| format!("; {} of log kept for us", human_size(b)));
    let bytes = lag.bytes.map_or_else(|| "unknown bytes".to_owned(), human_size);
    let seconds = lag.seconds.map_or_else(|| "unknown time".to_owned(), |s| format!("{s:.1} s"));
    format!(
        "{bytes} of log, {seconds}, {} transactions in hand{}",
        lag.transactions.map_or_else(unknown, thousands),
        kept.unwrap_or_default()
    )
}

fn streams(status: &Status, past: Option<(Duration, &Status)>, p: Printer) -> Vec<String> {
    let Some(streams) = &status.streams else { return vec![] };
    ["forward", "back"]
        .into_iter()
        .map(|name| {
            let view = &streams[name];
            let count = |key: &str| view[key].as_u64().unwrap_or(0);
            let health = match &view["health"] {
                Value::String(word) => word.clone(),
                Value::Object(map) => map.keys().next().cloned().unwrap_or_default(),
                _ => unknown(),
            };
            let mode = match view["mode"].as_str() {
                Some("apply") => "applies",
                Some("watch") => "watches",
                _ => "mode unknown",
            };
            let mut text = format!(
                "{health}, {mode}; {} transactions, {} rows",
                thousands(count("transactions")),
                thousands(count("rows"))
            );
            if let Some((ago, earlier)) = past {
                let earlier = earlier
                    .streams
                    .as_ref()
                    .map_or(0, |s| s[name]["transactions"].as_u64().unwrap_or(0));
                let rate = count("transactions").saturating_sub(earlier) as f64
                    / ago.as_secs_f64().max(0.001);
                text.push_str(&format!(", {rate:.0} tx/s"));
            }
            if count("reconnects") > 0 {
                text.push_str(&format!(", {} reconnects", count("reconnects")));
            }
            field(p, name, &text)
        })
        .collect()
}

fn ready(ready: &Readiness, p: Printer) -> String {
    match ready {
        Readiness::Ready => p.tone(Tone::Good, "yes"),
        Readiness::NotYet { why, eta_seconds: Some(eta) } => {
            format!("not yet, about {}: {why}", human_duration(Duration::from_secs(*eta)))
        }
        Readiness::NotYet { why, eta_seconds: None } => format!("not yet: {why}"),
        Readiness::Never { why } => format!("{}: {why}", p.tone(Tone::Warn, "no")),
    }
}

/// The estimate and its largest parts.
fn pause(estimate: &Value) -> Option<String> {
    let ms = estimate["ms"].as_f64()?;
    let list = |key: &str| estimate[key].as_array().cloned().unwrap_or_default();
    let mut parts: Vec<(String, f64)> = list("parts")
        .iter()
        .filter_map(|p| Some((p["name"].as_str()?.to_owned(), p["ms"].as_f64()?)))
        .filter(|(_, ms)| *ms >= 0.5)
        .collect();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let shown: Vec<String> = parts.iter().take(4).map(|(n, ms)| format!("{n} {ms:.0}")).collect();
    let mut text = format!("about {ms:.0} ms expected");
    if !shown.is_empty() {
        text.push_str(&format!(" ({})", shown.join(", ")));
    }
    let missing: Vec<String> =
        list("unknown").iter().filter_map(|u| u.as_str().map(str::to_owned)).collect();
    if !missing.is_empty() {
        text.push_str(&format!(", and unknown: {}", missing.join(", ")));
    }
    Some(text)
}

fn proven(proof: &Value, p: Printer) -> String {
    let count = |key: &str| proof[key].as_u64().unwrap_or(0);
    let full = if proof["full_pass"].is_null() {
        "no full comparison has finished yet".to_owned()
    } else {
        format!("{} rows compared at one position", thousands(count("rows")))
    };
    let different = match count("different") {
        0 => "0 differ".to_owned(),
        n => p.tone(Tone::Bad, &format!("{} DIFFER", thousands(n))),
    };
    format!(
        "{full}; {} changed rows compared since, {} wait; {different}",
        thousands(count("compared")),
        thousands(count("pending"))
    )
}

/// The tables of a copy that has not ended; one line when it has.
fn copy(copy: &CopyProgress, p: Printer) -> Vec<String> {
    let CopySum { tables: all, done, rows, bytes } = copy.all;
    if all == 0 {
        return vec![];
    }
    let sum = format!("{} rows, {}", thousands(rows), human_size(bytes));
    if done == all {
        return vec![field(p, "copied", &format!("{all} tables by this process: {sum}"))];
    }
    let eta = copy.eta_seconds.map_or_else(unknown, seconds);
    let rate = human_size(copy.bytes_per_second as u64);
    let mut lines =
        vec![field(p, "copy", &format!("{done} of {all} tables, {sum}, {rate}/s, to go: {eta}"))];
    let mut tables: Vec<&TableProgress> = copy.tables.iter().collect();
    tables.sort_by_key(|t| match t.state {
        TableState::Copying => 0,
        TableState::Waiting => 1,
        TableState::Done => 2,
    });
    let rows: Vec<Vec<String>> = tables
        .iter()
        .take(TABLES)
        .map(|t| {
            let state = match t.state {
                TableState::Copying => "copying",
                TableState::Waiting => "waiting",
                TableState::Done => "done",
            };
            let kept = |k: Kept| format!("{state}, {} of {} ranges kept", k.ranges, k.of);
            vec![
                format!("  {}", t.table),
                t.kept.map_or_else(|| state.to_owned(), kept),
                thousands(t.rows),
                format!("of about {}", thousands(t.estimated_rows.max(t.rows))),
                human_size(t.bytes),
            ]
        })
        .collect();
    use Align::{Left, Right};
    lines.extend(columns(&[Left, Left, Right, Left, Right], &rows));
    let more = all.saturating_sub(TABLES as u64);
    if more > 0 {
        lines.push(format!("  and {} more", thousands(more)));
    }
    lines
}

/// Seconds for a person; a number that is none is unknown.
pub(super) fn seconds(seconds: f64) -> String {
    Duration::try_from_secs_f64(seconds).map_or_else(|_| unknown(), human_duration)
}

#[cfg(test)]
mod tests {
    use cutover::run::status::{Alarm, LagView, MoveView};
    use cutover_core::model::side::Side;
    use serde_json::json;

    use super::{super::args::Color, *};

    fn status() -> Status {
        Status {
            run: "shop-pg17".into(),
            phase: cutover::run::standing::Phase::Streaming,
            owner: Side::Blue,
            doing: "following changes".into(),
            busy: None,
            ready: Readiness::NotYet { why: "12.0 s behind".into(), eta_seconds: Some(90) },
            lag: LagView { bytes: Some(3 << 20), seconds: None, transactions: Some(1_200) },
            retained_bytes: Some(64 << 20),
            pause_estimate: Some(json!({
                "ms": 24.4,
                "parts": [{"name": "drain", "ms": 8.0}, {"name": "pause", "ms": 12.0},
                          {"name": "unfence", "ms": 0.1}],
                "unknown": ["drain rate"],
            })),
            copy: CopyProgress {
                doing: "following changes".into(),
                all: CopySum::default(),
                tables: vec![],
                bytes_per_second: 0.0,
                rows_per_second: 0.0,
                eta_seconds: None,
            },
            streams: Some(json!({
                "forward": {"mode": "apply", "health": "flowing", "transactions": 5_000,
                            "rows": 12_000, "reconnects": 1},
                "back": {"mode": "watch", "health": {"reconnecting": {"why": "x"}},
                         "transactions": 0, "rows": 0, "reconnects": 0},
            })),
            proof: Some(json!({
                "full_pass": {"postgres": {"timeline": 1, "lsn": 7}}, "rows": 1_000_000,
                "pending": 12, "compared": 345, "different": 2,
                "reading": {"bytes": 3_000_000_000_u64, "of": 12_000_000_000_u64, "eta_seconds": 90},
            })),
            alarms: vec![Alarm {
                code: "CUT0601".into(),
                what: "2 row(s) differ in public.users".into(),
                remedy: "cutover verify --repair".into(),
            }],
            moves: vec![MoveView {
                id: "1".into(),
                kind: "rehearsal".into(),
                ending: "rehearsed".into(),
                owner: Side::Blue,
                pause_ms: Some(21.34),
                evidence: Some("moves/0001.md".into()),
            }],
        }
    }

    #[test]
    fn the_whole_status() {
        let mut earlier = status();
        earlier.streams = Some(json!({"forward": {"transactions": 4_400}}));
        let past = Some((Duration::from_secs(2), &earlier));
        insta::assert_snapshot!(text(&status(), past, Printer::new(false, Color::Never)), @r"
        run      shop-pg17
        phase    streaming (following changes)
        owner    blue owns the writes
        lag      3.00 MiB of log, unknown time, 1,200 transactions in hand; 64.0 MiB of log kept for us
        forward  flowing, applies; 5,000 transactions, 12,000 rows, 300 tx/s, 1 reconnects
        back     reconnecting, watches; 0 transactions, 0 rows, 0 tx/s
        ready    not yet, about 1 min 30 s: 12.0 s behind
        pause    about 24 ms expected (pause 12, drain 8), and unknown: drain rate
        proven   1,000,000 rows compared at one position; 345 changed rows compared since, 12 wait; 2 DIFFER
        compares every row: 25 % of 11.2 GiB read, to go: 1 min 30 s
        ALARM    CUT0601 2 row(s) differ in public.users
                 hint: cutover verify --repair
        moves
          1  rehearsal  rehearsed  owner blue  pause 21.3 ms  moves/0001.md
        ");
    }

    #[test]
    fn tables_of_a_copy() {
        let table = |name: &str, state, rows| TableProgress {
            table: name.into(),
            state,
            rows,
            estimated_rows: 2_000_000,
            bytes: rows * 100,
            size: 1 << 30,
            kept: (rows == 500_000).then_some(Kept { ranges: 3, of: 64, rows: 90_000 }),
        };
        let mut status = status();
        status.copy = CopyProgress {
            doing: "copying rows".into(),
            all: CopySum { tables: 3, done: 1, rows: 2_500_001, bytes: 250_000_100 },
            tables: vec![
                table("public.done", TableState::Done, 2_000_001),
                table("public.under_way", TableState::Copying, 500_000),
                table("public.later", TableState::Waiting, 0),
            ],
            bytes_per_second: 52e6,
            rows_per_second: 5e5,
            eta_seconds: Some(7.0),
        };
        let p = Printer::new(false, Color::Never);
        insta::assert_snapshot!(copy(&status.copy, p).join("\n"), @r"
        copy     1 of 3 tables, 2,500,001 rows, 238 MiB, 49.6 MiB/s, to go: 7.0 s
          public.under_way  copying, 3 of 64 ranges kept    500,000  of about 2,000,000  47.7 MiB
          public.later      waiting                               0  of about 2,000,000       0 B
          public.done       done                          2,000,001  of about 2,000,001   191 MiB
        ");
        assert_eq!(seconds(f64::INFINITY), "unknown");
    }
}

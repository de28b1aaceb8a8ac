//! What `cutover run` shows on the way: a bar per table on a terminal, plain lines without one.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use cutover::{
    config::units::human_size,
    observe::progress::{CopyProgress, TableProgress, TableState},
    run::status::{Board, Readiness, Status},
};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use super::{
    output::{Printer, thousands},
    status::seconds,
};

/// How often bars move.
const TICK: Duration = Duration::from_millis(250);
/// How often a plain line is written while something moves.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Tables shown at the same time.
const BARS: usize = 12;
/// Steps of a bar; rows may be more than a bar can count.
const STEPS: u64 = 1000;
/// How much a new measurement counts in a rate.
const FRESH: f64 = 0.2;

/// Shows until it is dropped.
pub(super) struct Shown {
    task: JoinHandle<()>,
    printer: Printer,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.task.abort();
        // What is printed next must not stand behind a bar. Without bars nothing is there to clear.
        self.printer.bars().clear().ok();
    }
}

pub(super) fn show(printer: Printer, board: Arc<Board>) -> Shown {
    let task = tokio::spawn(async move {
        if printer.is_terminal() {
            bars(printer, board).await;
        } else {
            lines(printer, board).await;
        }
    });
    Shown { task, printer }
}

async fn lines(printer: Printer, board: Arc<Board>) {
    let mut last = String::new();
    loop {
        tokio::time::sleep(LINE_EVERY).await;
        let status = board.status();
        // A line per change of what matters; the lag alone would fill a log.
        let text = if is_copying(&status.copy) { sum(&status.copy) } else { standing(&status) };
        if text != last {
            printer.note(&text);
            last = text;
        }
    }
}

fn is_copying(copy: &CopyProgress) -> bool {
    copy.all.done < copy.all.tables
}

/// One line about a copy under way.
fn sum(copy: &CopyProgress) -> String {
    let all = &copy.all;
    format!(
        "{}: {} of {} tables, {} rows, {}, {}/s, to go: {}",
        copy.doing,
        all.done,
        all.tables,
        thousands(all.rows),
        human_size(all.bytes),
        human_size(copy.bytes_per_second as u64),
        copy.eta_seconds.map_or_else(|| "unknown".to_owned(), seconds)
    )
}

/// One line about anything else, without what changes all the time.
fn standing(status: &Status) -> String {
    let mut text = match status.doing.as_str() {
        "" => "starting".to_owned(),
        doing => format!("{}: {doing}", status.phase.as_str()),
    };
    if let Some(busy) = &status.busy {
        text.push_str(&format!("; {busy}"));
    }
    if status.streams.is_some() && matches!(status.ready, Readiness::Ready) {
        text.push_str("; ready for a move");
    }
    text
}

/// The same with the lag, for a line that is redrawn.
fn moving(status: &Status) -> String {
    let mut text = standing(status);
    if status.streams.is_some() {
        let lag = status.lag.seconds.map_or_else(|| "unknown".into(), |s| format!("{s:.1} s"));
        text.push_str(&format!("; lag {lag}"));
    }
    text
}

/// Bytes per second of one table, smoothed.
struct Rate {
    at: Instant,
    bytes: u64,
    per_second: f64,
}

impl Rate {
    fn observe(&mut self, now: Instant, bytes: u64) -> f64 {
        let gone = now.duration_since(self.at).as_secs_f64();
        if gone > 0.0 {
            let fresh = bytes.saturating_sub(self.bytes) as f64 / gone;
            self.per_second = if self.bytes == 0 {
                fresh
            } else {
                FRESH * fresh + (1.0 - FRESH) * self.per_second
            };
        }
        (self.at, self.bytes) = (now, bytes);
        self.per_second
    }
}

/// Part of a table that is done, in `STEPS`: by rows where their number is known, else by size.
fn steps(t: &TableProgress) -> u64 {
    let rows = t.rows + t.kept.map_or(0, |kept| kept.rows);
    let (done, all) =
        if t.estimated_rows > 0 && rows > 0 { (rows, t.estimated_rows) } else { (t.bytes, t.size) };
    // An estimate can be too small; a bar that is full before its end says nothing.
    (done.saturating_mul(STEPS) / all.max(1)).min(STEPS - 1)
}

/// What stands behind a table's bar.
fn details(t: &TableProgress, per_second: f64) -> String {
    let done = steps(t) as f64 / STEPS as f64;
    let left = if per_second > 0.0 && done > 0.0 {
        seconds(t.bytes as f64 * (1.0 - done) / done / per_second)
    } else {
        "unknown".to_owned()
    };
    format!(
        "{} of about {} rows, {}, {}/s, to go: {left}",
        thousands(t.rows),
        thousands(t.estimated_rows.max(t.rows)),
        human_size(t.bytes),
        human_size(per_second as u64)
    )
}

async fn bars(printer: Printer, board: Arc<Board>) {
    let all = printer.bars();
    let head = all.add(ProgressBar::new_spinner());
    let mut shown: HashMap<String, (ProgressBar, Rate)> = HashMap::new();
    let style = ProgressStyle::with_template("  {prefix:<32!} {bar:20} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    loop {
        let status = board.status();
        let copy = &status.copy;
        head.set_message(if is_copying(copy) { sum(copy) } else { moving(&status) });
        head.tick();
        let under_way: Vec<&TableProgress> =
            copy.tables.iter().filter(|t| t.state == TableState::Copying).collect();
        shown.retain(|table, (bar, _)| {
            let goes_on = under_way.iter().any(|t| t.table == *table);
            if !goes_on {
                bar.finish_and_clear();
                all.remove(bar);
            }
            goes_on
        });
        for t in under_way {
            if shown.len() < BARS || shown.contains_key(&t.table) {
                let now = Instant::now();
                let (bar, rate) = shown.entry(t.table.clone()).or_insert_with(|| {
                    let bar = all.add(ProgressBar::new(STEPS).with_style(style.clone()));
                    bar.set_prefix(t.table.clone());
                    (bar, Rate { at: now, bytes: t.bytes, per_second: 0.0 })
                });
                // From bytes to rows, when the first rows are committed, is no step back.
                bar.set_position(steps(t).max(bar.position()));
                bar.set_message(details(t, rate.observe(now, t.bytes)));
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: u64, estimated_rows: u64, bytes: u64, size: u64) -> TableProgress {
        TableProgress {
            table: "public.t".into(),
            state: TableState::Copying,
            rows,
            estimated_rows,
            bytes,
            size,
            kept: None,
        }
    }

    #[test]
    fn a_bar_is_never_full_before_its_end() {
        for (t, want) in [
            (table(0, 0, 0, 0), 0),
            (table(50, 100, 1, 1_000), 500),
            (table(0, 100, 250, 1_000), 250),
            (table(500, 100, 1, 1), STEPS - 1),
            (table(u64::MAX, 1, u64::MAX, 1), STEPS - 1),
        ] {
            assert_eq!(steps(&t), want, "{t:?}");
        }
    }

    #[test]
    fn details_of_a_table() {
        assert_eq!(
            details(&table(50_000, 100_000, 10 << 20, 1), (1 << 20) as f64),
            "50,000 of about 100,000 rows, 10.0 MiB, 1.00 MiB/s, to go: 10.0 s"
        );
        assert!(details(&table(0, 0, 0, 0), 0.0).ends_with("to go: unknown"));
    }

    #[test]
    fn rates_are_smoothed() {
        let start = Instant::now();
        let mut rate = Rate { at: start, bytes: 0, per_second: 0.0 };
        let second = Duration::from_secs(1);
        assert!((rate.observe(start + second, 100) - 100.0).abs() < 1e-6);
        assert!(
            (rate.observe(start + 2 * second, 100) - 80.0).abs() < 1e-6,
            "a stall shows slowly"
        );
    }
}

//! What `cutover run` shows while rows are copied: bars on a terminal, plain lines without one.

use std::{collections::HashMap, sync::Arc, time::Duration};

use cutover::{
    observe::progress::{CopyProgress, TableState},
    run::status::Board,
};
use indicatif::{HumanBytes, HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use super::output::Printer;

/// How often bars move.
const TICK: Duration = Duration::from_millis(250);
/// How often a plain line is written.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Tables shown at the same time.
const BARS: usize = 12;

/// Shows until it is dropped.
pub(super) struct Shown(JoinHandle<()>);

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) fn show(printer: Printer, board: Arc<Board>) -> Shown {
    Shown(tokio::spawn(async move {
        if printer.is_terminal() {
            bars(board).await;
        } else {
            lines(printer, board).await;
        }
    }))
}

async fn lines(printer: Printer, board: Arc<Board>) {
    let mut last = String::new();
    loop {
        tokio::time::sleep(LINE_EVERY).await;
        let text = line(&board.status().copy);
        if text != last {
            printer.note(&text);
            last = text;
        }
    }
}

/// One line about the copy.
fn line(copy: &CopyProgress) -> String {
    let done = copy.tables.iter().filter(|t| t.state == TableState::Done).count();
    if copy.tables.is_empty() || done == copy.tables.len() {
        return copy.doing.clone();
    }
    let rows: u64 = copy.tables.iter().map(|t| t.rows).sum();
    let eta = copy.eta_seconds.map_or_else(
        || "unknown".into(),
        |s| HumanDuration(Duration::from_secs_f64(s)).to_string(),
    );
    format!(
        "{}: {done} of {} tables, {rows} rows, {}/s, to go: {eta}",
        copy.doing,
        copy.tables.len(),
        HumanBytes(copy.bytes_per_second as u64)
    )
}

async fn bars(board: Arc<Board>) {
    let all = MultiProgress::new();
    let head = all.add(ProgressBar::new_spinner());
    let mut shown: HashMap<String, ProgressBar> = HashMap::new();
    let style = ProgressStyle::with_template("{msg:<36} {bar:20} {pos:>10}/{len} rows {eta:>4}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    loop {
        let copy = board.status().copy;
        head.set_message(line(&copy));
        head.tick();
        for t in &copy.tables {
            match t.state {
                TableState::Copying if shown.len() < BARS || shown.contains_key(&t.table) => {
                    let bar = shown.entry(t.table.clone()).or_insert_with(|| {
                        let bar = all.add(ProgressBar::new(t.estimated_rows.max(1)));
                        bar.set_style(style.clone());
                        bar.set_message(t.table.clone());
                        bar
                    });
                    bar.set_length(t.estimated_rows.max(t.rows).max(1));
                    bar.set_position(t.rows);
                }
                TableState::Done => {
                    if let Some(bar) = shown.remove(&t.table) {
                        bar.finish_and_clear();
                    }
                }
                _ => {}
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

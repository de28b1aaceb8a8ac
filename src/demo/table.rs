//! The table at the end. Pure.

use std::time::Duration;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row([String; 4]);

impl Row {
    pub(super) fn moved(name: &str, pause: Option<f64>, longest: Duration, owner: &str) -> Self {
        Self([
            name.into(),
            pause.map_or_else(|| "?".into(), |ms| format!("{ms:.1} ms")),
            format!("{:.1} ms", longest.as_secs_f64() * 1000.0),
            format!("{owner} owns the writes"),
        ])
    }

    pub(super) fn total(done: u64, failed: u64) -> Self {
        Self([
            "clients".into(),
            String::new(),
            String::new(),
            format!("{done} done, {failed} failed"),
        ])
    }
}

/// Aligned lines with a head.
pub(super) fn lines(rows: &[Row]) -> Vec<String> {
    let head = Row(["move", "pause", "longest client wait", "result"].map(str::to_owned));
    let all: Vec<&Row> = std::iter::once(&head).chain(rows).collect();
    let width = |i: usize| all.iter().map(|r| r.0[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..4).map(width).collect();
    all.iter()
        .map(|r| {
            let [a, b, c, d] = &r.0;
            format!(
                "{a:<w0$}  {b:>w1$}  {c:>w2$}  {d}",
                w0 = widths[0],
                w1 = widths[1],
                w2 = widths[2]
            )
            .trim_end()
            .to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [
            Row::moved("switch", Some(21.04), Duration::from_millis(48), "green"),
            Row::total(900, 0),
        ];
        assert_eq!(
            lines(&rows),
            [
                "move       pause  longest client wait  result",
                "switch   21.0 ms              48.0 ms  green owns the writes",
                "clients                                900 done, 0 failed",
            ]
        );
    }
}

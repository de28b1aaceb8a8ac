//! The only place that prints: data on standard output, everything else on standard error.
//!
//! Understandable without colour and without a terminal. While bars are shown, whatever else goes
//! to standard error goes above them.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the printer")]

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::LazyLock,
};

use cutover::{
    error::{Exit, Failure},
    observe::logs,
};
use indicatif::MultiProgress;
use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

use super::args::Color;

/// The bars of this process. Without one it changes nothing.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Prints for one command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Printer {
    json: bool,
    /// Colour on standard output.
    out: bool,
    /// Colour on standard error.
    err: bool,
}

/// What a piece of text means; shown as colour where there is colour, and never only as that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Something is wrong.
    Bad,
    /// Something wants attention.
    Warn,
    /// All is well.
    Good,
    /// Less important than the rest.
    Quiet,
    /// A heading.
    Head,
}

impl Printer {
    pub(super) fn new(json: bool, color: Color) -> Self {
        let choose = |terminal: bool| match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
                terminal && !set("NO_COLOR") && std::env::var("TERM").as_deref() != Ok("dumb")
            }
        };
        Self {
            json,
            out: choose(io::stdout().is_terminal()),
            err: choose(io::stderr().is_terminal()),
        }
    }

    /// Whether a person looks at standard error.
    pub(super) fn is_terminal(self) -> bool {
        io::stderr().is_terminal()
    }

    /// Whether a person looks at standard output.
    pub(super) fn is_answer_seen(self) -> bool {
        io::stdout().is_terminal() && !self.json
    }

    /// Whether data is wanted as JSON.
    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// The bars, for the one who moves them.
    pub(super) fn bars(self) -> &'static MultiProgress {
        &BARS
    }

    /// Starts logging to standard error.
    pub(super) fn start_logs(self, filter: &str, json: bool) {
        let form = if json { logs::Form::Json } else { logs::Form::Text { color: self.err } };
        logs::start(filter, form, Errors);
    }

    /// The answer of a command: as data with `--json`, as text without.
    pub(super) fn answer(self, value: &Value, text: &str) {
        if self.json { self.data(&format!("{value:#}")) } else { self.data(text) }
    }

    /// One answer of many, on one line when it is JSON.
    pub(super) fn record(self, value: &Value, text: &str) {
        if self.json { self.data(&value.to_string()) } else { self.data(text) }
    }

    /// Text on standard output, whatever was asked for.
    pub(super) fn data(self, text: &str) {
        let mut out = io::stdout().lock();
        // A reader that has gone away, such as `head`, wants nothing more.
        writeln!(out, "{text}").and_then(|()| out.flush()).ok();
    }

    /// Text in place of what was shown before, on a terminal.
    pub(super) fn redraw(self, text: &str) {
        // Home, the text with every line cleared behind it, and everything below cleared.
        self.data(&format!("\x1b[H{}\x1b[K\x1b[J", text.replace('\n', "\x1b[K\n")));
    }

    /// Something on the way.
    pub(super) fn note(self, text: &str) {
        // Where nobody can read it, on a full disk say, the work goes on all the same.
        BARS.suspend(|| writeln!(io::stderr(), "{text}")).ok();
    }

    /// A failure: message, causes, hint, page.
    pub(super) fn failure(self, failure: &Failure) {
        self.failure_data(failure);
        self.note(&self.failure_text(failure));
    }

    /// A failure for programs, where data is wanted as JSON.
    pub(super) fn failure_data(self, failure: &Failure) {
        if self.json {
            self.answer(&serde_json::json!({ "error": failure }), "");
        }
    }

    fn failure_text(self, failure: &Failure) -> String {
        let error = paint(self.err, Tone::Bad, "error:");
        let mut text = match &failure.place {
            Some(place) => format!("{error} {place}: {}", failure.what),
            None => format!("{error} {}", failure.what),
        };
        if let Some(excerpt) = &failure.excerpt {
            text.push_str(&format!("\n{excerpt}"));
        }
        for cause in &failure.causes {
            text.push_str(&format!("\n  because: {cause}"));
        }
        if let Some(remedy) = &failure.remedy {
            let hint = paint(self.err, Tone::Head, "hint:");
            text.push_str(&format!("\n{hint} {}", remedy.replace('\n', "\n      ")));
        }
        if let (Some(code), Some(page)) = (&failure.code, failure.page()) {
            text.push_str(&format!("\n{code}, see {page}"));
        }
        for other in &failure.also {
            text.push_str(&format!("\n{}", self.failure_text(other)));
        }
        text
    }

    /// A piece of an answer in its tone.
    pub(super) fn tone(self, tone: Tone, text: &str) -> String {
        paint(self.out && !self.json, tone, text)
    }

    /// Asks a person. What comes through a pipe was written before anybody read the question.
    ///
    /// # Errors
    ///
    /// The answer is no, or there is nobody to ask.
    pub(super) fn confirm(self, question: &str) -> Result<(), Failure> {
        let refused = |why: &str, remedy: &str| {
            let what = format!("{why}; nothing was done");
            Err(Failure::new(what).remedy(remedy).exit(Exit::No))
        };
        if !io::stdin().is_terminal() {
            return refused(
                "not confirmed: standard input is no terminal, and an answer from a pipe does not \
                 count",
                "say --yes, or answer y in a terminal",
            );
        }
        let asked = write!(io::stderr(), "{question} [y/N] ").and_then(|()| io::stderr().flush());
        let mut line = String::new();
        let answered = asked.and_then(|()| io::stdin().read_line(&mut line));
        match line.trim() {
            "y" | "Y" | "yes" if answered.is_ok() => Ok(()),
            _ => refused("not confirmed", "answer y, or say --yes"),
        }
    }
}

fn paint(color: bool, tone: Tone, text: &str) -> String {
    let style = match tone {
        Tone::Bad => "1;31",
        Tone::Warn => "33",
        Tone::Good => "32",
        Tone::Quiet => "2",
        Tone::Head => "1;36",
    };
    if color { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Standard error for logs, above the bars.
#[derive(Debug, Clone, Copy)]
struct Errors;

impl MakeWriter<'_> for Errors {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl io::Write for Errors {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Where the text of a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows in columns, two spaces apart, without space at the end of a line.
pub(super) fn columns(align: &[Align], rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| {
        rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..align.len()).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(align).zip(&widths).map(|((cell, align), width)| {
                let width = *width;
                match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

/// Text in lines of at most `width` characters; the first one begins with `first`, the others are
/// indented as far.
pub(super) fn wrap(first: &str, text: &str, width: usize) -> Vec<String> {
    let indent = " ".repeat(first.chars().count());
    let mut lines = Vec::new();
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, indent.clone()));
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    lines.push(line.trim_end().to_owned());
    lines
}

/// A number with its thousands apart.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [["a", "1"], ["long", "200"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(columns(&[Align::Left, Align::Right], &rows), ["a       1", "long  200"]);
        assert_eq!(columns(&[Align::Left, Align::Left], &rows), ["a     1", "long  200"]);
    }

    #[test]
    fn long_text_is_indented_below_its_beginning() {
        assert_eq!(wrap("1. ", "one two three", 10), ["1. one two", "   three"]);
        assert_eq!(wrap("1. ", "unbreakable words", 5), ["1. unbreakable", "   words"]);
        assert_eq!(wrap("- ", "", 10), ["-"]);
    }

    #[test]
    fn thousands_are_apart() {
        for (n, want) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(thousands(n), want);
        }
    }

    #[test]
    fn a_failure_says_everything_once() {
        let failure = Failure::new("no answer")
            .code("CUT0020")
            .caused_by(&io::Error::other("broken pipe"))
            .remedy("ask again\nor do not");
        let text = Printer { json: false, out: false, err: false }.failure_text(&failure);
        assert_eq!(
            text,
            "error: no answer\n  because: broken pipe\nhint: ask again\n      or do not\nCUT0020, \
             see docs/errors/CUT0020.md"
        );
    }
}

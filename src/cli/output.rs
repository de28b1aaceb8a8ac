//! The only place that prints: data on standard output, everything else on standard error.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the printer")]

use std::io::{IsTerminal as _, Write as _};

use cutover::error::{Exit, Failure};
use serde_json::Value;

use super::args::Color;

/// Prints for one command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Printer {
    json: bool,
    color: bool,
    terminal: bool,
}

impl Printer {
    pub(super) fn new(json: bool, color: Color) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none(),
        };
        Self { json, color, terminal }
    }

    /// Whether a person looks on.
    pub(super) fn is_terminal(self) -> bool {
        self.terminal
    }

    /// The answer of a command: as data with `--json`, as text without.
    pub(super) fn answer(self, value: &Value, text: &str) {
        let text = if self.json { format!("{value:#}") } else { text.to_owned() };
        let mut out = std::io::stdout().lock();
        // A reader that has gone away, such as `head`, wants nothing more.
        writeln!(out, "{text}").ok();
    }

    /// Something on the way.
    pub(super) fn note(self, text: &str) {
        eprintln!("{text}");
    }

    /// A failure: message, causes, hint, page.
    pub(super) fn failure(self, failure: &Failure) {
        if self.json && failure.exit != Exit::Usage {
            self.answer(&serde_json::json!({ "error": failure }), "");
        }
        let red = |text: &str| self.paint("1;31", text);
        let mut text = match &failure.place {
            Some(place) => format!("{} {place}: {}", red("error:"), failure.what),
            None => format!("{} {}", red("error:"), failure.what),
        };
        if let Some(excerpt) = &failure.excerpt {
            text.push_str(&format!("\n{excerpt}"));
        }
        for cause in &failure.causes {
            text.push_str(&format!("\n  because: {cause}"));
        }
        if let Some(remedy) = &failure.remedy {
            text.push_str(&format!("\n{} {remedy}", self.paint("1;36", "hint:")));
        }
        if let (Some(code), Some(page)) = (&failure.code, failure.page()) {
            text.push_str(&format!("\n{code}, see {page}"));
        }
        eprintln!("{text}");
    }

    fn paint(self, style: &str, text: &str) -> String {
        if self.color { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Asks a person; without a terminal the answer is no.
    pub(super) fn confirm(self, question: &str) -> bool {
        if !std::io::stdin().is_terminal() {
            return false;
        }
        eprint!("{question} [y/N] ");
        std::io::stderr().flush().ok();
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).is_ok() && matches!(line.trim(), "y" | "Y" | "yes")
    }
}

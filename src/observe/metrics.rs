//! Names, labels and meanings of every metric. Who serves them takes the values from the status.
//!
//! Labels have few values by nature (a phase, a side, a direction); table names are no labels.

/// Prefix of every name.
pub const PREFIX: &str = "cutover";

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Name without [`PREFIX`]; a histogram adds its own endings.
    pub name: &'static str,
    /// Its label and the values it takes.
    pub label: Option<Label>,
    /// What it says, and in what unit.
    pub help: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
}

/// A label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its values, for people.
    pub values: &'static str,
}

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A state; left out while it is unknown.
    Now,
    /// Only grows, from 0 when the process starts.
    Count,
    /// A histogram.
    Histogram,
}

macro_rules! metrics {
    ($($id:ident = $name:literal, $kind:ident $([$label:literal of $values:literal])?, $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $id: Metric = Metric {
                name: $name,
                label: metrics!(@label $($label of $values)?),
                help: $help,
                kind: Kind::$kind,
            };
        )+

        /// Every metric, in the order of the reference page.
        pub const ALL: &[Metric] = &[$($id),+];
    };
    (@label $name:literal of $values:literal) => {
        Some(Label { name: $name, values: $values })
    };
    (@label) => { None };
}

metrics! {
    PHASE = "phase", Now ["name" of "the phases of `cutover status`"], "1 for the phase of the run";
    OWNER = "owner", Now ["name" of "`blue`, `green`"], "1 for the side that owns the writes";
    READY = "ready", Now, "1 when a move would be accepted by all that is sampled, else 0; its own checks may refuse it";
    ALARMS = "alarms", Now, "Alarms that are raised";
    SPLIT_BRAIN = "split_brain", Now, "1 when somebody wrote where nobody may, else 0";
    LAG_BYTES = "lag_bytes", Now, "Bytes of log that are not applied yet";
    LAG_SECONDS = "lag_seconds", Now, "Seconds behind the owner of the writes, by commit time";
    LAG_TRANSACTIONS = "lag_transactions", Now, "Complete transactions in hand, not applied yet";
    RETAINED_BYTES = "retained_bytes", Now, "Bytes of log that the owner's server keeps for the run";
    PAUSE_ESTIMATE = "pause_estimate_seconds", Now, "Expected pause of a move now, in seconds";
    PAUSE_LAST = "pause_last_seconds", Now, "Pause of the last move or rehearsal, in seconds";
    PAUSE = "pause_seconds", Histogram ["kind" of "`switch`, `rollback`, `rehearsal`"], "Pauses of the moves and rehearsals of this run, in seconds";
    MOVES = "moves", Count, "Moves and rehearsals that ended";
    COPY_ROWS = "copy_rows", Count, "Rows copied by this process";
    COPY_BYTES = "copy_bytes", Count, "Bytes copied by this process, in the form they travel in";
    COPY_TABLES = "copy_tables", Now, "Tables to copy";
    COPY_TABLES_DONE = "copy_tables_done", Now, "Tables whose rows are all copied";
    APPLIED_TRANSACTIONS = "applied_transactions", Count ["name" of "`forward`, `back`"], "Transactions applied by this process, per stream";
    APPLIED_ROWS = "applied_rows", Count ["name" of "`forward`, `back`"], "Row changes applied by this process, per stream";
    APPLIED_BATCHES = "applied_batches", Count ["name" of "`forward`, `back`"], "Batches applied by this process, per stream";
    EARLY = "early_transactions", Count ["name" of "`forward`, `back`"], "Transactions whose application by this process began while they still ran, per stream";
    EARLY_GIVEN_UP = "early_given_up", Count ["name" of "`forward`, `back`"], "Those of them that were given up, and applied at their end if they committed, per stream";
    RECONNECTS = "reconnects", Count ["name" of "`forward`, `back`"], "Connections lost by this process, per stream";
    FOREIGN_ROWS = "foreign_rows", Count ["name" of "`forward`, `back`"], "Row changes by somebody else on the side that does not own the writes";
    VERIFY_ROWS = "verify_rows", Now, "Rows compared by the last full comparison at one position";
    VERIFY_READ_RATIO = "verify_read_ratio", Now, "Part of all bytes that the full comparison under way has read, from 0 to 1; not there without one";
    VERIFY_PENDING = "verify_pending", Now, "Changed rows that wait for a comparison";
    VERIFY_COMPARED = "verify_compared", Count, "Changed rows compared by this process";
    VERIFY_DIFFERENT = "verify_different", Now, "Rows known to differ";
    VERIFY_VERDICT = "verify_verdict", Now ["name" of "`equal`, `different`, `inconclusive`"], "1 for what is known about equality: `inconclusive` until a full comparison has finished, and while a table waits to be compared as a whole";
}

/// The text of `docs/METRICS.md`.
#[must_use]
pub fn page() -> String {
    let mut out = String::from(
        "<!-- Written by the program from its own definitions; `UPDATE_DOCS=1 cargo test --test \
         tidy` writes it again. -->\n\n# Metrics\n\n`GET /metrics` on `http.listen`, in the \
         OpenMetrics text format. There is no authentication. A number that is not known is left \
         out: unknown is not zero. Table names, keys and values are never labels.\n\n| metric | \
         label | kind | meaning |\n| --- | --- | --- | --- |\n",
    );
    for metric in ALL {
        let label =
            metric.label.map_or_else(String::new, |l| format!("`{}`: {}", l.name, l.values));
        let kind = match metric.kind {
            Kind::Now => "state",
            Kind::Count => "count since the start of the process",
            Kind::Histogram => "histogram",
        };
        out.push_str(&format!(
            "| `{PREFIX}_{}` | {label} | {kind} | {} |\n",
            metric.name, metric.help
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_well_formed_and_unique() {
        let mut names: Vec<&str> = ALL.iter().map(|m| m.name).collect();
        for name in &names {
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn no_label_is_as_long_as_a_list_of_tables() {
        for metric in ALL {
            let label = metric.label.map(|l| l.name);
            assert!(matches!(label, None | Some("name" | "kind")), "{}", metric.name);
        }
    }
}

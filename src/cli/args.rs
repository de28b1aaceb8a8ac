//! What was typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use cutover_core::model::side::Side;

const GLOBAL: &str = "Options of every command";

/// Moves a live database: copy, follow, prove, switch in milliseconds, and keep the way back open.
#[derive(Debug, Parser)]
#[command(
    name = "cutover",
    version,
    max_term_width = 100,
    after_help = "Exit status: 0 done; 1 the answer is no; 2 wrong usage or configuration; 3 failed; 4 an operator
must decide (`cutover resolve`). Data goes to standard output, everything else to standard error."
)]
pub(super) struct Args {
    /// Configuration file.
    #[arg(
        short,
        long,
        global = true,
        default_value = "./cutover.yaml",
        value_name = "FILE",
        help_heading = GLOBAL
    )]
    pub(super) config: PathBuf,
    /// Print data as JSON on standard output.
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(super) json: bool,
    /// What is logged to standard error, for example `info,cutover::copy=debug`.
    #[arg(long, global = true, env = "CUTOVER_LOG", value_name = "FILTER", help_heading = GLOBAL)]
    #[arg(hide_env_values = true)]
    pub(super) log: Option<String>,
    /// When to use colour; `auto`: on a terminal, unless NO_COLOR is set.
    #[arg(long, global = true, default_value = "auto", value_name = "WHEN", help_heading = GLOBAL)]
    pub(super) color: Color,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write a commented cutover.yaml from what is there.
    ///
    /// Connects to both servers and reads their catalogs. A password may be in the address or in
    /// the variables BLUE_PASSWORD and GREEN_PASSWORD; it is never written into the file. An
    /// existing file is never overwritten.
    Init {
        /// Address of the database in use: postgres://user@host:port/dbname.
        #[arg(long, value_name = "DSN")]
        blue: String,
        /// Address of its successor.
        #[arg(long, value_name = "DSN")]
        green: String,
        /// Name of the run; by default made of the database and green's version.
        #[arg(long, value_name = "NAME")]
        run: Option<String>,
    },
    /// Preflight: everything that would stop us, each with its remedy.
    ///
    /// Changes nothing. Exit status 1 when there are errors; warnings do not stop a run.
    Check,
    /// Every step of the run and of the move in words; changes nothing.
    Plan,
    /// Copy, stream, verify, and wait for commands; resumes after a crash.
    ///
    /// The process that does the work. The other commands talk to it over a socket in `state_dir`.
    /// Ctrl-C or SIGTERM end it; started again it goes on where it stopped, and finishes or takes
    /// back a move that was under way.
    Run {
        /// End when this is reached instead of waiting for commands.
        #[arg(long, value_name = "GOAL")]
        until: Option<Goal>,
        /// Do not ask before a switch that was not asked for by hand.
        #[arg(long)]
        yes: bool,
    },
    /// Phase, owner of the writes, lag, rates, ETA, tables, pause estimate.
    Status {
        /// Again every second until interrupted.
        #[arg(long)]
        watch: bool,
    },
    /// Compare now.
    ///
    /// Every row of both sides at one position. Exit status 1 when rows differ; their keys are in
    /// the answer with --json, their values nowhere. Ctrl-C gives it up, and what was proven before
    /// stays proven.
    Verify {
        /// Only this table (schema.name); may be repeated.
        #[arg(long = "table", value_name = "T")]
        tables: Vec<String>,
        /// Copy differing rows again, from the side that owns the writes, and compare once more; where
        /// the stream has stopped at a row, copy its whole table again.
        #[arg(long)]
        repair: bool,
    },
    /// The whole move but the switch, measured and taken back.
    ///
    /// Clients wait for as long as they would in a real move; afterwards everything is as before.
    Rehearse,
    /// The move to green.
    ///
    /// Refused before any client waits, or taken back within the pause budget, with exit status 1.
    /// An interrupted command does not interrupt the move: `cutover status` says how it ended.
    Switch,
    /// The move back to blue.
    ///
    /// The same move with the sides exchanged.
    Rollback,
    /// Tell the journal what software may not guess.
    ///
    /// Asked for when a switch gave no answer and cannot be asked where it points.
    Resolve {
        /// The side that owns the writes: blue or green.
        #[arg(long, value_parser = side, value_name = "SIDE")]
        owner: Side,
    },
    /// Give up the way back and remove what the run created on both servers.
    Finish {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Give up the migration before the switch and remove what the run created.
    Abort {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Throwaway servers, real load, a whole migration with switch and rollback.
    Demo {
        /// Which story.
        #[arg(long, default_value = "upgrade", value_name = "NAME")]
        scenario: String,
    },
    /// Completions for a shell, on standard output.
    ///
    /// For example: cutover completions bash > /etc/bash_completion.d/cutover
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Stands by while a move is made; started by `run`.
    #[command(hide = true)]
    Guard {
        /// What the move of the process that starts it depends on.
        #[arg(long)]
        of: Option<String>,
    },
}

/// What `run` is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Goal {
    /// Ready for a switch.
    Converged,
    /// Green owns the writes.
    Switched,
    /// The way back is given up after `rollback.window`.
    Finished,
}

fn side(text: &str) -> Result<Side, String> {
    match text {
        "blue" => Ok(Side::Blue),
        "green" => Ok(Side::Green),
        _ => Err("blue or green".into()),
    }
}

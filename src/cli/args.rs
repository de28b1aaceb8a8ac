//! What was typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use cutover_core::model::side::Side;

/// Moves a live database: copy, follow, prove, switch in milliseconds, and keep the way back open.
#[derive(Debug, Parser)]
#[command(name = "cutover", version, propagate_version = true, max_term_width = 100)]
pub(super) struct Args {
    /// Configuration file.
    #[arg(short, long, global = true, default_value = "./cutover.yaml", value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Print data as JSON on standard output.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// What is logged to standard error, for example `info,cutover::copy=debug`.
    #[arg(long, global = true, env = "CUTOVER_LOG", value_name = "FILTER")]
    pub(super) log: Option<String>,
    /// When to use colour.
    #[arg(long, global = true, default_value = "auto", value_name = "WHEN")]
    pub(super) color: Color,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write a commented cutover.yaml from what is there.
    Init {
        /// Address of the database in use: postgres://user@host:port/dbname.
        #[arg(long, value_name = "DSN")]
        blue: String,
        /// Address of its successor.
        #[arg(long, value_name = "DSN")]
        green: String,
        /// Name of the run.
        #[arg(long, value_name = "NAME")]
        run: Option<String>,
    },
    /// Preflight: everything that would stop us, each with its remedy.
    Check,
    /// Every step of the run and of the move in words; changes nothing.
    Plan,
    /// Copy, stream, verify, and wait for commands; resumes after a crash.
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
    Verify {
        /// Only this table (schema.name); may be repeated.
        #[arg(long = "table", value_name = "T")]
        tables: Vec<String>,
        /// Copy differing rows again and compare once more.
        #[arg(long)]
        repair: bool,
    },
    /// The whole move but the switch, measured and taken back.
    Rehearse,
    /// The move to green.
    Switch,
    /// The move back to blue.
    Rollback,
    /// Tell the journal what software may not guess.
    Resolve {
        /// The side that owns the writes.
        #[arg(long, value_parser = side)]
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
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Stands by while a move is made; started by `run`.
    #[command(hide = true)]
    Guard,
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

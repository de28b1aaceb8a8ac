//! Measures the program against its peers on throwaway servers; `scripts/bench/*` start it.
//!
//! `cargo run --release --example bench -- moves|copy|drain|large|steady|verify [ARGUMENTS]`
//!
//! Uses the program beside it (`target/release/cutover`, or `$CUTOVER`) through its own commands,
//! as a user would. Not part of the product, and no test: it fails only when rows differ, a
//! client's transaction failed, or something does not work at all.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod copy;
mod cpu;
mod drain;
mod figures;
mod large;
mod moves;
mod plot;
mod program;
mod servers;
mod steady;
mod verify;

use std::{env, error::Error, process::ExitCode};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
bench moves  [MOVES EACH WAY] [TX/S] [CLIENTS] [MORE TABLES] [MORE SEQUENCES]
                                                 pause of moves under load
bench copy   [SCALE] [WORKERS] [ROUNDS] [several|one]
                                                 first copy, beside pgcopydb clone, raw COPY,
                                                 pg_dump and pg_restore
bench drain  [TRANSACTIONS] [tpcb|mixed|both]    backlog, beside CREATE SUBSCRIPTION
bench large  [ROWS]                              one large transaction, beside the same
bench steady [TX/S] [SECONDS] [followed|compared|subscription]
                                                 lag, cost on blue and memory under load
bench verify [SCALE] [WORKERS]                   full comparison
With $BENCH_PLOTS, a folder, moves and steady draw their times there. Servers: the oldest and the newest complete PostgreSQL here, or $BENCH_BLUE and $BENCH_GREEN \
(major versions).";

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let done = async {
        match what.as_str() {
            "moves" => moves::run(&rest).await,
            "copy" => copy::run(&rest).await,
            "drain" => drain::run(&rest).await,
            "large" => large::run(&rest).await,
            "steady" => steady::run(&rest).await,
            "verify" => verify::run(&rest).await,
            _ => Err(USAGE.into()),
        }
    };
    tokio::select! {
        result = done => match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("{e}");
                ExitCode::FAILURE
            }
        },
        // Everything that was started ends with this process.
        _ = tokio::signal::ctrl_c() => ExitCode::FAILURE,
    }
}

/// The `i`th argument, or what is usual.
fn argument<T: std::str::FromStr>(arguments: &[String], i: usize, usual: T) -> Result<T> {
    match arguments.get(i) {
        None => Ok(usual),
        Some(text) => {
            text.parse().map_err(|_| format!("{text:?} is not right here\n{USAGE}").into())
        }
    }
}

//! The program: parse, wire, run, exit status.

mod cli;
mod demo;
mod wiring;

fn main() -> std::process::ExitCode {
    cli::main()
}

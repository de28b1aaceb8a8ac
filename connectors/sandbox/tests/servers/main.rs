//! Every promise of a throwaway server, against the real programs of this machine.

mod lifetime;
mod machine;
mod pooler;
mod server;
mod tls;
mod waiting;

use std::time::Duration;

use cutover_sandbox::{PgInstall, PgOptions, Postgres, find_postgres};

/// Long enough for a loaded machine; nothing here waits that long when it works.
const LIMIT: Duration = Duration::from_secs(180);

/// The oldest PostgreSQL of this machine.
fn install() -> PgInstall {
    find_postgres().into_iter().next().expect("PostgreSQL is missing: run scripts/setup test")
}

async fn server() -> Postgres {
    Postgres::start(&install(), PgOptions::new()).await.unwrap()
}

/// A program in a system folder or on the path, run to its end.
async fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Whether a process exists and is not a zombie.
fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat[stat.rfind(')').unwrap()..].starts_with(") Z"))
}

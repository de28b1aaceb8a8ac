//! What the measurements share: processor time, and pgbench.
#![allow(dead_code, reason = "each measurement uses a part of it")]

use std::{error::Error, process::Command};

use cutover_sandbox::{Postgres, find_program};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Seconds of processor time used so far: what others do on the machine does not count.
pub(crate) struct Cpu {
    pub source: f64,
    pub target: f64,
    pub own: f64,
}

impl Cpu {
    pub(crate) fn now(source: &Postgres, target: &Postgres) -> Self {
        let server = |pid: Option<u32>| -> f64 {
            let Some(pid) = pid else { return 0.0 };
            let below = stats().into_iter().filter(|s| s.parent == pid).map(|s| s.ticks);
            let own = stats().into_iter().filter(|s| s.pid == pid).map(|s| s.ticks + s.children);
            below.chain(own).sum::<u64>() as f64 / 100.0
        };
        let own = stats().into_iter().filter(|s| s.pid == std::process::id()).map(|s| s.ticks);
        let own = own.sum::<u64>() as f64 / 100.0;
        Self { source: server(source.pid()), target: server(target.pid()), own }
    }
}

struct Stat {
    pid: u32,
    parent: u32,
    /// Hundredths of a second.
    ticks: u64,
    /// The same of children that ended.
    children: u64,
}

fn stats() -> Vec<Stat> {
    let Ok(folder) = std::fs::read_dir("/proc") else { return Vec::new() };
    folder
        .filter_map(|entry| {
            let text = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
            let pid = text.split(' ').next()?.parse().ok()?;
            let rest: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
            let at = |i: usize| rest.get(i)?.parse::<u64>().ok();
            Some(Stat {
                pid,
                parent: rest.get(1)?.parse().ok()?,
                ticks: at(11)? + at(12)?,
                children: at(13)? + at(14)?,
            })
        })
        .collect()
}

pub(crate) fn pgbench(server: &Postgres, database: &str, arguments: &[&str]) -> Result<()> {
    let program = find_program("pgbench", None).ok_or("pgbench is missing")?;
    let done = Command::new(program.path)
        .args(arguments)
        .args([
            "-h",
            server.host(),
            "-p",
            &server.port().to_string(),
            "-U",
            server.user(),
            database,
        ])
        .env("PGPASSWORD", server.password())
        .output()?;
    if done.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&done.stderr).into_owned().into())
    }
}

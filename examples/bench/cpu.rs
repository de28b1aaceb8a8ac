//! Processor time, so that what others do on the machine can be told apart; and memory.

use cutover_sandbox::Postgres;

/// Seconds of processor time used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    pub(crate) blue: f64,
    pub(crate) green: f64,
    pub(crate) program: f64,
}

impl Cpu {
    /// `program`: a process that moves rows, with its children.
    pub(crate) fn now(blue: &Postgres, green: &Postgres, program: Option<u32>) -> Self {
        let stats = stats();
        Self {
            blue: blue.pid().map_or(0.0, |p| tree(&stats, p)),
            green: green.pid().map_or(0.0, |p| tree(&stats, p)),
            program: program.map_or(0.0, |p| tree(&stats, p)),
        }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            blue: self.blue - before.blue,
            green: self.green - before.green,
            program: self.program - before.program,
        }
    }

    pub(crate) fn sum(self) -> f64 {
        self.blue + self.green + self.program
    }
}

struct Stat {
    pid: u32,
    parent: u32,
    /// Hundredths of a second, those of children that ended included.
    ticks: u64,
}

fn tree(stats: &[Stat], pid: u32) -> f64 {
    let own: u64 = stats.iter().filter(|s| s.pid == pid).map(|s| s.ticks).sum();
    let below: f64 = stats.iter().filter(|s| s.parent == pid).map(|s| tree(stats, s.pid)).sum();
    own as f64 / 100.0 + below
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
                ticks: at(11)? + at(12)? + at(13)? + at(14)?,
            })
        })
        .collect()
}

/// The most memory that a process had at once, in MiB.
pub(crate) fn peak_mib(pid: Option<u32>) -> crate::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.ok_or("no process")?))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    let kib: f64 = line.split_whitespace().next().unwrap_or_default().parse()?;
    Ok(kib / 1024.0)
}

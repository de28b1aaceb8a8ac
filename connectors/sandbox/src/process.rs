//! Looking at processes through `/proc`, and running helper programs.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{SandboxError, error::tail, wait_until};

/// Whether a process exists and has not ended (a zombie has).
pub(crate) fn is_alive(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// All processes below `pid`, nearest first.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut links = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some((_, parent)) = state_and_parent(child) {
            links.push((parent, child));
        }
    }
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(links.iter().filter(|link| link.0 == parent).map(|link| link.1));
        at += 1;
    }
    found.remove(0);
    found
}

/// State letter and parent from `/proc/PID/stat`; the name in between may contain anything.
fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut rest = text[text.rfind(')')? + 1..].split_whitespace();
    Some((rest.next()?.chars().next()?, rest.next()?.parse().ok()?))
}

/// Waits until every process of `pids` has ended.
pub(crate) async fn wait_gone(
    what: &str,
    pids: &[u32],
    limit: Duration,
) -> Result<(), SandboxError> {
    wait_until(what, limit, async || !pids.iter().any(|pid| is_alive(*pid))).await
}

/// Runs a helper program to its end; what it prints becomes part of the error.
pub(crate) async fn run(mut command: Command) -> Result<String, SandboxError> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null());
    let output = tokio::process::Command::from(command)
        .output()
        .await
        .map_err(SandboxError::io(format!("run {program}")))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let text = format!("{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    Err(SandboxError::Failed { program, status: output.status.to_string(), output: tail(&text) })
}

//! Runs a program in a process group of its own, with limits on time and output.

use std::{env, io, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

/// No honest answer is longer.
const STDOUT_LIMIT: usize = 64 * 1024;

/// The end of the error output that goes into messages.
const STDERR_TAIL: usize = 1024;

/// How long to wait for output that a process left behind may still hold open.
const DRAIN: Duration = Duration::from_millis(200);

/// Variables of ours that it inherits.
const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];

/// How a program ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// `None`: by a signal.
    pub(super) status: Option<i32>,
    pub(super) stdout: Vec<u8>,
    /// Its tail.
    pub(super) stderr: String,
}

/// Why there is no end to report.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    /// It never ran.
    #[error("{program} cannot be started")]
    NotStarted {
        program: String,
        #[source]
        cause: io::Error,
    },
    /// It took too long and was killed, with everything it had started in its group.
    #[error("no end within {limit:?}; killed; its error output so far: {stderr}")]
    Late { limit: Duration, stderr: String },
    /// The system failed us while it ran.
    #[error("it cannot be waited for")]
    Lost(#[from] io::Error),
}

/// Runs `argv` with `input` as its whole standard input.
pub(super) async fn run(
    argv: &[String],
    inherited: &[String],
    variables: &[(&str, &str)],
    input: &str,
    limit: Duration,
) -> Result<Ended, RunError> {
    let (program, arguments) = argv.split_first().ok_or_else(|| RunError::NotStarted {
        program: "nothing".to_owned(),
        cause: io::ErrorKind::InvalidInput.into(),
    })?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(variables.iter().copied());
    for name in INHERITED.into_iter().chain(inherited.iter().map(String::as_str)) {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child = command
        .spawn()
        .map_err(|cause| RunError::NotStarted { program: program.clone(), cause })?;
    watch(child, input, limit).await
}

async fn watch(mut child: Child, input: &str, limit: Duration) -> Result<Ended, RunError> {
    let mut stdin = child.stdin.take().ok_or_else(|| io::Error::other("no input"))?;
    let mut out = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
    let mut err = child.stderr.take().ok_or_else(|| io::Error::other("no error output"))?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let ended = {
        let work = async {
            let write = async {
                // A program that does not read its input may still do its work.
                if let Err(error) = stdin.write_all(format!("{input}\n").as_bytes()).await {
                    tracing::debug!(%error, "a switch command did not read its input");
                }
                drop(stdin);
            };
            let read = async {
                tokio::join!(
                    gather(&mut out, &mut stdout, STDOUT_LIMIT, false),
                    gather(&mut err, &mut stderr, STDERR_TAIL, true)
                );
            };
            tokio::pin!(read);
            let wait = async { tokio::join!(write, child.wait()).1 };
            tokio::pin!(wait);
            let mut read_all = false;
            let status = loop {
                tokio::select! {
                    status = &mut wait => break status,
                    () = &mut read, if !read_all => read_all = true,
                }
            };
            if !read_all && tokio::time::timeout(DRAIN, &mut read).await.is_err() {
                tracing::debug!("a switch command left a process behind that holds its output");
            }
            status
        };
        tokio::time::timeout(limit, work).await
    };
    let tail = String::from_utf8_lossy(&stderr).trim().to_owned();
    match ended {
        Ok(status) => Ok(Ended { status: status?.code(), stdout, stderr: tail }),
        Err(_) => {
            kill(&mut child).await?;
            Err(RunError::Late { limit, stderr: tail })
        }
    }
}

/// Reads to the end; keeps the first or the last `limit` bytes.
async fn gather(from: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>, limit: usize, tail: bool) {
    let mut chunk = [0; 4096];
    loop {
        match from.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                into.extend_from_slice(&chunk[..read]);
                if into.len() > limit {
                    if tail {
                        into.drain(..into.len() - limit);
                    } else {
                        into.truncate(limit);
                    }
                }
            }
        }
    }
}

/// Ends the whole group and takes the leader's status, so that nothing of it runs on.
async fn kill(child: &mut Child) -> io::Result<()> {
    let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(leader) = leader {
        match kill_process_group(leader, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    child.wait().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str, limit: Duration) -> Result<Ended, RunError> {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned);
        run(&argv, &[], &[("CUTOVER_ACTION", "observe")], "{\"a\":1}", limit).await
    }

    const ENOUGH: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn input_environment_output_and_status() {
        let ended = sh("cat; env | cut -d= -f1 | sort >&2; exit 3", ENOUGH).await.unwrap();
        assert_eq!(ended.status, Some(3));
        assert_eq!(ended.stdout, b"{\"a\":1}\n");
        let ours = ["CUTOVER_ACTION", "HOME", "LANG", "PATH", "PWD", "OLDPWD", "SHLVL", "_"];
        assert!(ended.stderr.lines().all(|name| ours.contains(&name)), "{}", ended.stderr);
        assert!(ended.stderr.contains("CUTOVER_ACTION"));
    }

    #[tokio::test]
    async fn input_that_nobody_reads_and_long_output_do_no_harm() {
        let ended =
            sh("exec <&-; yes | head -c 200000; yes no | head -c 9000 >&2; echo end >&2", ENOUGH)
                .await
                .unwrap();
        assert_eq!(ended.status, Some(0));
        assert_eq!(ended.stdout.len(), STDOUT_LIMIT);
        assert!(ended.stderr.ends_with("end") && ended.stderr.len() <= STDERR_TAIL);
    }

    #[tokio::test]
    async fn what_takes_too_long_is_killed_with_all_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!(
            "sleep 300 & echo $! > {0}.new; mv {0}.new {0}; echo half >&2; wait",
            pid.display()
        );
        // Long enough to get that far on a busy machine.
        let error = sh(&script, Duration::from_secs(2)).await.unwrap_err();
        assert!(matches!(&error, RunError::Late { stderr, .. } if stderr == "half"), "{error}");
        let child = std::fs::read_to_string(&pid).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        let gone = || std::fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z "));
        let deadline = tokio::time::Instant::now() + ENOUGH;
        while !gone() {
            assert!(tokio::time::Instant::now() < deadline, "the grandchild lives on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_process_left_behind_does_not_hold_the_answer() {
        let begun = std::time::Instant::now();
        let ended = sh("sleep 30 & echo done", ENOUGH).await.unwrap();
        assert_eq!((ended.status, &*ended.stdout), (Some(0), &b"done\n"[..]));
        assert!(begun.elapsed() < Duration::from_secs(15));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_was_never_started() {
        let argv = ["/no/such/program".to_owned()];
        let error = run(&argv, &[], &[], "", ENOUGH).await.unwrap_err();
        assert!(matches!(error, RunError::NotStarted { .. }));
    }
}

//! The first process's end of the pipe.

use std::{path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    time::timeout,
};

use super::{serve::READY, watch::Line};
use crate::cutover::ground::Failure;

/// How to start a guard.
#[derive(Clone)]
pub struct Summons {
    /// Makes the command: this program with its hidden `guard` command and the configuration.
    /// Its standard input and output are taken for the pipe; its standard error is left alone.
    pub command: Arc<dyn Fn() -> Command + Send + Sync>,
    /// Journal of moves.
    pub journal: PathBuf,
    /// How long after the pause budget it acts while we are alive.
    pub grace: Duration,
}

/// A guard that stands by. Dropping it is what a crash does: the guard takes over.
#[derive(Debug)]
pub struct Handle {
    child: Child,
    stdin: ChildStdin,
}

impl Handle {
    /// Starts a guard and waits until it is ready, at most `within`.
    ///
    /// # Errors
    ///
    /// It could not be started, or did not become ready; then it is ended.
    pub async fn start(summons: &Summons, within: Duration) -> Result<Self, Failure> {
        let mut command = (summons.command)();
        // A group of its own: Ctrl-C in the terminal is for the first process.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).kill_on_drop(false);
        let mut child = command.spawn().map_err(|e| failure(format!("cannot start: {e}")))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failure("it has no pipe".into()));
        };
        let mut handle = Self { child, stdin };
        let line = Line::Armed { journal: summons.journal.clone(), grace: summons.grace };
        let mut answers = BufReader::new(stdout).lines();
        let ready = async {
            handle.say(&line).await?;
            match answers.next_line().await {
                Ok(Some(text)) if text == READY => Ok(()),
                Ok(Some(text)) => Err(failure(text)),
                Ok(None) => Err(failure("it ended before it was ready; see its log".into())),
                Err(e) => Err(failure(format!("cannot hear it: {e}"))),
            }
        };
        let ready = timeout(within, ready)
            .await
            .unwrap_or_else(|_| Err(failure(format!("not ready within {} s", within.as_secs()))));
        match ready {
            Ok(()) => Ok(handle),
            Err(failure) => {
                handle.released(Duration::from_millis(500)).await;
                Err(failure)
            }
        }
    }

    /// Number of the process.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Tells it that clients are held from now on.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub async fn pausing(&mut self, budget: Duration) -> Result<(), Failure> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(failure(format!("it ended ({status}); see its log")));
        }
        self.say(&Line::Pausing { budget }).await
    }

    /// Tells it that freeing the traffic is under way; it acts when it hears nothing for longer
    /// than `within` and its grace.
    pub async fn alive(&mut self, within: Duration) {
        if let Err(failure) = self.say(&Line::Alive { within }).await {
            tracing::debug!(why = failure.why, "telling the guard that we are at work");
        }
    }

    /// Tells it that it is not needed, and waits for its end, at most `within`.
    pub async fn released(mut self, within: Duration) {
        if let Err(failure) = self.say(&Line::Released).await {
            tracing::debug!(why = failure.why, "releasing the guard");
        }
        drop(self.stdin);
        if timeout(within, self.child.wait()).await.is_err() {
            tracing::warn!("the guard was released and has not ended yet");
        }
    }

    async fn say(&mut self, line: &Line) -> Result<(), Failure> {
        let text = format!("{line}\n");
        let write = async {
            self.stdin.write_all(text.as_bytes()).await?;
            self.stdin.flush().await
        };
        write.await.map_err(|e| failure(format!("cannot reach it: {e}")))
    }
}

fn failure(why: String) -> Failure {
    Failure::definite(
        "CUT0737",
        format!("the guard: {why}"),
        "see the log of the guard; `cutover guard` needs the same configuration, environment and \
         rights as `cutover run`",
    )
}

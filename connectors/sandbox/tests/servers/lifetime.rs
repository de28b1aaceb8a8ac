//! What we started ends with us, however we end.
//!
//! Each test runs itself in a second process, which starts servers and is then ended.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use cutover_sandbox::{PgBouncer, PgBouncerOptions, wait_for, wait_until};

use crate::{LIMIT, is_alive, run, server};

/// Set in the second process: the file in which it says what it started.
const NOTE: &str = "CUTOVER_SANDBOX_NOTE";

/// The second process: starts everything, says so, and waits for its end.
async fn hold(note: &Path, paused: bool) {
    let mut server = server().await;
    let options = PgBouncerOptions::new().database("x", server.host(), server.port(), "postgres");
    let pooler = PgBouncer::start(options).await.unwrap();
    let folders = [server.data_dir(), pooler.config_path()];
    let folders = folders.map(|path| path.parent().unwrap().display().to_string());
    let pids = [server.pid().unwrap().to_string(), pooler.pid().unwrap().to_string()];
    if paused {
        server.pause().unwrap();
    }
    let draft = note.with_extension("draft");
    fs::write(&draft, format!("{}\n{}", pids.join("\n"), folders.join("\n"))).unwrap();
    fs::rename(draft, note).unwrap();
    std::future::pending::<()>().await;
}

/// The second process; it does not outlive a test that failed.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Ends a process that holds servers and expects that nothing is left of them.
async fn ends_with(test: &str, signal: &str, paused: bool) {
    if let Some(note) = env::var_os(NOTE) {
        return hold(Path::new(&note), paused).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("note");
    let holder = Command::new(env::current_exe().unwrap())
        .args(["--exact", test])
        .env(NOTE, &note)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A group of its own, as a shell gives to what it starts in a terminal.
        .process_group(0)
        .spawn()
        .unwrap();
    let mut holder = Holder(holder);
    let text =
        wait_for("servers of another process", LIMIT, async || fs::read_to_string(&note).ok())
            .await
            .unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let pids: Vec<u32> = lines[..2].iter().map(|line| line.parse().unwrap()).collect();
    let folders: Vec<PathBuf> = lines[2..].iter().map(PathBuf::from).collect();
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    assert!(folders.iter().all(|folder| folder.is_dir()));

    // To the whole group, as Ctrl-C does.
    let (sent, words) = run("sh", &["-c", &format!("kill -{signal} -{}", holder.0.id())]).await;
    assert!(sent, "{words}");
    assert!(!holder.0.wait().unwrap().success());
    wait_until("its servers to be gone", LIMIT, async || {
        !pids.iter().any(|pid| is_alive(*pid)) && !folders.iter().any(|folder| folder.exists())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn killed() {
    ends_with("lifetime::killed", "KILL", false).await;
}

#[tokio::test]
async fn interrupted() {
    ends_with("lifetime::interrupted", "INT", false).await;
}

#[tokio::test]
async fn killed_while_the_server_is_paused() {
    ends_with("lifetime::killed_while_the_server_is_paused", "KILL", true).await;
}

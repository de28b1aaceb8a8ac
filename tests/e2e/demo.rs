//! The demo takes everything away, whoever ends it.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio, time::Duration};

use cutover_sandbox::wait_until;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::program::{COMMAND_WITHIN, PROGRAM, processes_of, send};

/// How long servers and files may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_that_is_killed_leaves_no_process_and_no_file() {
    tokio::join!(ended_by("TERM"), ended_by("HUP"));
}

async fn ended_by(signal: &str) {
    // Servers run as another user when we are root, and must get there.
    let folder = tempfile::Builder::new().prefix("cutover-e2e-demo-").tempdir_in("/tmp").unwrap();
    let folder = folder.path();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    let mut demo = Command::new(PROGRAM)
        .arg("demo")
        .env("TMPDIR", folder)
        .env_remove("CUTOVER_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines();
    let began = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line == "$ cutover run" {
                return;
            }
        }
        panic!("the demo ended before its run began");
    };
    tokio::time::timeout(COMMAND_WITHIN, began).await.expect("the run begins");
    // Both servers, the pooler, and the run.
    for started in ["postgres\0", "pgbouncer\0", "\0run\0"] {
        wait_until(started, COMMAND_WITHIN, async || names(folder, started)).await.unwrap();
    }

    send(signal, demo.id().expect("it runs").into());
    let ended = tokio::time::timeout(GONE_WITHIN, demo.wait()).await.expect("it obeys").unwrap();
    assert_eq!(ended.code(), Some(3), "{signal}");
    wait_until("all of it to be gone", GONE_WITHIN, async || {
        processes_of(folder).is_empty() && fs::read_dir(folder).unwrap().next().is_none()
    })
    .await
    .unwrap_or_else(|e| {
        let files: Vec<_> = fs::read_dir(folder).unwrap().flatten().map(|f| f.path()).collect();
        panic!("{e} after SIG{signal}: {:?}, {files:?}", processes_of(folder))
    });
}

/// Whether a process of the folder has this in its command line.
fn names(folder: &Path, what: &str) -> bool {
    processes_of(folder).iter().any(|(_, line)| line.contains(what))
}

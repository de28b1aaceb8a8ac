//! Commands that ask the running process; the test plays the process.

use cutover::{
    error::{Exit, Failure},
    run::{
        book::Book,
        command::{Answer, Request},
        fact::Fact,
        socket::{Incoming, Server},
    },
};
use cutover_core::model::{run::RunId, selection::Selection, side::Side};
use serde_json::{Value, json};

use crate::desk::{CONFIG, Desk, assert_said};

/// Answers every request until it is dropped.
struct Process {
    _runtime: tokio::runtime::Runtime,
}

impl Process {
    fn start(
        desk: &Desk,
        mut answer: impl FnMut(&Request) -> Option<(Vec<&'static str>, Answer)> + Send + 'static,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let server = runtime.block_on(async { Server::bind(&desk.state_dir()).unwrap() });
        runtime.spawn(async move {
            let (tx, mut rx) = tokio::sync::mpsc::channel(4);
            let answers = async {
                while let Some(Incoming { request, responder }) = rx.recv().await {
                    let Some((progress, answer)) = answer(&request) else { continue };
                    progress.into_iter().for_each(|text| responder.progress(text));
                    responder.done(answer);
                }
            };
            tokio::join!(server.serve(tx), answers);
        });
        Self { _runtime: runtime }
    }
}

#[test]
fn without_a_running_process() {
    let desk = Desk::with(CONFIG);
    assert_said!(desk, "nobody_status", ["status"]);
    assert_said!(desk, "nobody_switch", ["switch"]);
    let exit = |args: &[&str]| desk.run(args).status.code();
    for args in [
        &["verify"][..],
        &["rehearse"],
        &["rollback"],
        &["resolve", "--owner", "blue"],
        &["finish", "--yes"],
        &["abort", "--yes"],
    ] {
        assert_eq!(exit(args), Some(3), "{args:?}");
    }
    // Failures are data for programs, too.
    let output = desk.run(&["status", "--json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["error"]["code"], "CUT0007");
}

#[test]
fn nobody_confirms_without_a_terminal() {
    let switch = "switch: [{ command: { argv: [\"/usr/local/bin/move\"] } }]\n";
    let desk = Desk::with(&format!("{CONFIG}{switch}"));
    let _process = Process::start(&desk, |request| panic!("{request:?} was not confirmed"));
    assert_said!(desk, "not_confirmed", ["finish"]);
    // Nor does a pipe.
    for args in [&["abort"][..], &["run", "--until", "switched"]] {
        let output = desk.with_passwords(args).write_stdin("y\n").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("an answer from a pipe does not count"), "{said}");
        assert!(said.contains("say --yes"), "{said}");
    }
}

#[test]
fn progress_goes_to_standard_error_and_the_answer_to_standard_output() {
    let desk = Desk::with(CONFIG);
    let _process = Process::start(&desk, |request| {
        assert_eq!(*request, Request::Switch);
        let answer = Answer::new(Exit::Done, json!({"owner": "green"}), "green owns the writes");
        Some((vec!["clients are held", "decided"], answer))
    });
    assert_said!(desk, "answer_text", ["switch"]);
    assert_said!(desk, "answer_json", ["switch", "--json"]);
}

#[test]
fn the_answer_decides_the_exit_status() {
    let desk = Desk::with(CONFIG);
    let exits = [Exit::Done, Exit::No, Exit::Failed, Exit::Undecided];
    let mut next = exits.into_iter();
    let _process = Process::start(&desk, move |_| {
        Some((vec![], Answer::new(next.next().unwrap(), json!({}), "so")))
    });
    for exit in exits {
        let ended = desk.run(&["rehearse"]);
        assert_eq!(ended.status.code(), Some(i32::from(u8::from(exit))));
    }
}

#[test]
fn a_refusal_is_told_with_its_remedy() {
    let desk = Desk::with(CONFIG);
    let _process = Process::start(&desk, |request| {
        assert_eq!(*request, Request::Verify { tables: vec!["a.b".into()], repair: true });
        let failure = Failure::new("no table of the run is called a.b")
            .code("CUT0602")
            .remedy("`cutover status` lists the tables")
            .exit(Exit::Usage);
        Some((vec!["looking"], Answer::failed(failure)))
    });
    assert_said!(desk, "refused", ["verify", "--table", "a.b", "--repair"]);
}

#[test]
fn no_answer_is_neither_yes_nor_no() {
    let desk = Desk::with(CONFIG);
    let _process = Process::start(&desk, |_| None);
    assert_said!(desk, "no_answer", ["switch"]);
}

#[test]
fn status_of_another_version_is_shown_as_it_comes() {
    let desk = Desk::with(CONFIG);
    let _process = Process::start(&desk, |_| {
        Some((vec![], Answer::new(Exit::Done, json!({"new": "form"}), "phase    dancing")))
    });
    assert_said!(desk, "status_other_version", ["status"]);
}

/// A desk with the journal of a run that no process works on.
fn left_behind(facts: impl IntoIterator<Item = Fact>) -> Desk {
    let desk = Desk::with(CONFIG);
    std::fs::create_dir(desk.state_dir()).unwrap();
    let book = Book::open(&desk.state_dir()).unwrap();
    book.note(Fact::Began {
        run: RunId::new("shop").unwrap(),
        blue: "b".into(),
        green: "g".into(),
        selection: Selection::default(),
        version: "0".into(),
        at_ms: 0,
    })
    .unwrap();
    facts.into_iter().for_each(|fact| book.note(fact).unwrap());
    desk
}

#[test]
fn without_a_process_the_journal_still_says_something() {
    let began = Fact::MoveBegan { id: 7, from: Side::Blue, rehearsal: false, at_ms: 1 };
    assert_said!(left_behind([began]), "nobody_but_a_journal", ["status"]);
}

/// Another process would not help, so nobody is told to start one.
#[test]
fn a_run_that_is_over_says_so() {
    let desk = left_behind([Fact::Removed]);
    assert_said!(desk, "over_status", ["status"]);
    for args in [
        &["status"][..],
        &["verify"],
        &["rehearse"],
        &["switch"],
        &["rollback"],
        &["finish", "--yes"],
        &["abort", "--yes"],
    ] {
        let output = desk.run(&[args, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(value["error"]["code"], "CUT0506", "{args:?}");
    }
}

#[test]
fn a_journal_that_cannot_be_read_is_part_of_the_failure() {
    let desk = left_behind([]);
    std::fs::write(desk.state_dir().join("run.journal"), "no journal\n").unwrap();
    let output = desk.run(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let value: Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!(value["error"]["code"], "CUT0007");
    assert!(value["error"]["also"][0]["code"].is_string(), "{value}");
}

#[test]
fn a_run_that_cannot_reach_green_says_so_and_obeys() {
    use std::{
        process::Stdio,
        time::{Duration, Instant},
    };

    let desk = Desk::with(&format!("{CONFIG}http: {{ listen: \"127.0.0.1:0\" }}\n"));
    let log = std::fs::File::create(desk.path().join("log")).unwrap();
    let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_cutover"))
        .arg("run")
        .current_dir(desk.path())
        .envs([("BLUE_PASSWORD", "hunter2"), ("GREEN_PASSWORD", "hunter2")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let read = || std::fs::read_to_string(desk.path().join("log")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !read().contains("connecting to green") {
        assert!(Instant::now() < deadline && run.try_wait().unwrap().is_none(), "{}", read());
        std::thread::park_timeout(Duration::from_millis(20));
    }
    // It answers, commands come too early, and nobody else may start.
    let status: Value = serde_json::from_slice(&desk.run(&["status", "--json"]).stdout).unwrap();
    assert_eq!((&status["run"], &status["phase"]), (&json!("shop"), &json!("new")));
    assert_eq!(desk.run(&["switch"]).status.code(), Some(1));
    assert_said!(desk, "second_run", ["run"]);
    // And it ends when it is told to.
    let pid = run.id().to_string();
    assert!(std::process::Command::new("kill").arg(&pid).status().unwrap().success());
    let deadline = Instant::now() + Duration::from_secs(120);
    let ended = loop {
        if let Some(ended) = run.try_wait().unwrap() {
            break ended;
        }
        assert!(Instant::now() < deadline, "it does not obey SIGTERM: {}", read());
        std::thread::park_timeout(Duration::from_millis(20));
    };
    assert_eq!(ended.code(), Some(0), "{}", read());
    assert!(!read().contains("hunter2"));
    assert!(!desk.state_dir().join("control.sock").exists());
}

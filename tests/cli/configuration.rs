//! Wrong configurations, and commands that need nothing but a right one.

use serde_json::Value;

use crate::desk::{CONFIG, Desk, assert_said};

#[test]
fn without_a_file() {
    assert_said!(Desk::empty(), "config_missing", ["check"]);
    assert_said!(Desk::empty(), "config_missing_named", ["-c", "other.yaml", "status"]);
    // Programs are told as of any other failure.
    for command in ["check", "plan", "run", "status", "switch"] {
        let output = Desk::empty().run(&[command, "--json"]);
        assert_eq!(output.status.code(), Some(2), "{command}");
        let value: Value = serde_json::from_slice(&output.stdout).expect(command);
        assert_eq!(value["error"]["code"], "CUT0001", "{command}");
    }
}

#[test]
fn an_unknown_key() {
    let desk = Desk::with(&format!("{CONFIG}move:\n  pause_bugdet: 1s\n"));
    assert_said!(desk, "config_unknown_key", ["check"]);
    // Commands that only ask the running process refuse the same file.
    assert_said!(desk, "config_unknown_key_switch", ["switch"]);
}

#[test]
fn no_yaml() {
    assert_said!(Desk::with("run: shop\nblue: { url: \"x\"\n"), "config_no_yaml", ["check"]);
    assert_said!(Desk::with("run: shop\nrun: shop\n"), "config_twice", ["check"]);
}

#[test]
fn several_mistakes_at_once() {
    let text = "\
run: Shop
blue: { url: \"mysql://cutover:hunter2@blue/shop\" }
green: { url: \"postgres://cutover@green/shop\", password: 0123 }
";
    // A value of the wrong kind stops the reading ...
    assert_said!(Desk::with(text), "config_wrong_kind", ["check"]);
    // ... everything else is told at once.
    let text = text.replace("0123", "\"0123\"") + "copy: { workers: 100, chunk: 16MB }\n";
    let desk = Desk::with(&text);
    assert_said!(desk, "config_several_mistakes", ["plan"]);
    // One object for programs, with all of them.
    let output = desk.run(&["plan", "--json"]);
    let value: Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!(value["error"]["place"], "./cutover.yaml:1:6");
    let also = value["error"]["also"].as_array().expect("the others");
    assert_eq!(also.iter().filter(|e| e["code"] == "CUT0004").count(), 3, "{value}");
}

#[test]
fn a_variable_that_is_not_set() {
    let desk = Desk::with(CONFIG);
    let output = desk.command(&["check"]).env("BLUE_PASSWORD", "hunter2").output().unwrap();
    insta::assert_snapshot!("config_unset", desk.told(&output));
}

#[test]
fn init_never_overwrites() {
    let desk = Desk::with(CONFIG);
    let init = ["init", "--blue", "postgres://u@127.0.0.1:1/d", "--green", "postgres://u@h/d"];
    assert_said!(desk, "init_exists", init);
    assert_eq!(std::fs::read_to_string(desk.path().join("cutover.yaml")).unwrap(), CONFIG);
}

#[test]
fn init_without_a_server_writes_nothing() {
    let desk = Desk::empty();
    let blue = "postgres://u:hunter2@127.0.0.1:1/d?sslmode=disable";
    let output = desk.run(&["init", "--blue", blue, "--green", blue]);
    assert_eq!(output.status.code(), Some(3), "{}", desk.told(&output));
    assert_eq!(std::fs::read_dir(desk.path()).unwrap().count(), 0);
    let output = desk.run(&["init", "--blue", "blue", "--green", blue]);
    assert_eq!(output.status.code(), Some(2), "{}", desk.told(&output));
}

const SWITCHES: &str = "\
switch:
  - pgbouncer: { admin: \"postgres://a:hunter2@127.0.0.1:6432/pgbouncer\", database: shop, config: /etc/pgbouncer.ini }
  - command: { argv: [\"/usr/local/bin/move\", \"lb1\"] }
";

#[test]
fn plan_needs_no_server_and_changes_nothing() {
    let desk = Desk::with(&format!("{CONFIG}{SWITCHES}"));
    assert_said!(desk, "plan", ["plan"]);
    let output = desk.run(&["plan", "--json"]);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["switch"].as_array().unwrap().len(), 12);
    assert_eq!(
        plan["switch"].as_array().unwrap().len(),
        plan["rollback"].as_array().unwrap().len()
    );
    assert!(!desk.state_dir().exists(), "plan changes nothing");
}

#[test]
fn check_finds_that_nobody_answers() {
    let desk = Desk::with(CONFIG);
    let output = desk.run(&["check", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", desk.told(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["counts"]["errors"].as_u64().unwrap() > 0);
    for finding in report["findings"].as_array().unwrap() {
        let code = finding["code"].as_str().unwrap();
        let page = format!("{}/docs/errors/{code}.md", env!("CARGO_MANIFEST_DIR"));
        assert!(std::path::Path::new(&page).exists(), "{code} has no page");
    }
    assert!(desk.told(&output).contains("CUT0100"));
    assert!(!desk.state_dir().exists(), "check changes nothing");
}

#[test]
fn an_http_address_in_use_ends_the_run_before_it_begins() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let desk = Desk::with(&format!("{CONFIG}http: {{ listen: \"{address}\" }}\n"));
    let said = desk.said(&["run"]).replace(&address, "[ADDRESS]");
    insta::assert_snapshot!("run_http_in_use", said);
}

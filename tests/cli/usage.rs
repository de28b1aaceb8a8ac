//! Help, wrong usage, completions.

use std::process::Stdio;

use crate::desk::{CONFIG, Desk, assert_said};

const COMMANDS: [&str; 15] = [
    "init",
    "check",
    "plan",
    "run",
    "status",
    "verify",
    "rehearse",
    "switch",
    "rollback",
    "resolve",
    "finish",
    "abort",
    "demo",
    "completions",
    "",
];

#[test]
fn help_of_every_command() {
    let desk = Desk::empty();
    for command in COMMANDS {
        let name = if command.is_empty() { "help".to_owned() } else { format!("help_{command}") };
        let args: Vec<&str> = [command, "--help"].into_iter().filter(|a| !a.is_empty()).collect();
        insta::assert_snapshot!(name, desk.said(&args));
    }
}

#[test]
fn every_command_is_in_the_help_and_the_guard_is_not() {
    let desk = Desk::empty();
    let help = desk.said(&["--help"]);
    for command in COMMANDS.iter().filter(|c| !c.is_empty()) {
        assert!(help.contains(&format!("\n  {command} ")), "{command}");
    }
    assert!(!help.contains("guard"), "the guard is started by `run` only");
}

#[test]
fn wrong_usage_ends_with_2() {
    let desk = Desk::with(CONFIG);
    assert_said!(desk, "usage_nothing", []);
    assert_said!(desk, "usage_unknown_command", ["swich"]);
    assert_said!(desk, "usage_unknown_option", ["check", "--yes"]);
    assert_said!(desk, "usage_unknown_goal", ["run", "--until", "tomorrow"]);
    assert_said!(desk, "usage_unknown_side", ["resolve", "--owner", "red"]);
    assert_said!(desk, "usage_unknown_scenario", ["demo", "--scenario", "fairy-tale"]);
    assert_said!(desk, "usage_json", ["--json", "swich"]);
}

#[test]
fn version() {
    assert_said!(Desk::empty(), "version", ["--version"]);
}

#[test]
fn completions_are_programs_of_their_shells() {
    let desk = Desk::empty();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = desk.run(&["completions", shell]);
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}");
        let text = String::from_utf8(output.stdout).unwrap();
        for word in ["rehearse", "rollback", "--config"] {
            assert!(text.contains(word.trim_start_matches('-')), "{shell}: {word}");
        }
        if shell == "bash" {
            let mut bash = std::process::Command::new("bash");
            let mut child = bash.arg("-n").stdin(Stdio::piped()).spawn().unwrap();
            std::io::Write::write_all(child.stdin.as_mut().unwrap(), text.as_bytes()).unwrap();
            assert!(child.wait().unwrap().success(), "bash does not read its completions");
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let desk = Desk::empty();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_cutover"))
        .args(["completions", "bash"])
        .current_dir(desk.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn colour_only_where_it_was_asked_for() {
    let desk = Desk::with(CONFIG);
    let escapes = |args: &[&str]| desk.run(args).stderr.contains(&0x1b);
    assert!(!escapes(&["status"]), "no terminal, no colour");
    assert!(escapes(&["status", "--color", "always"]));
    assert!(!escapes(&["status", "--color", "never"]));
}

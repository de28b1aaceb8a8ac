//! What is wrong from the beginning: each is refused with its status, its code and its remedy, and
//! nothing is lost.

use std::fs;

use cutover_core::model::side::Side;
use cutover_sandbox::shop::CUTOVER_PASSWORD;

use crate::{
    program::{COMMAND_WITHIN, Ended},
    world::{SERVED_WITHIN, World},
};

/// An error of `check` with this code, at this place, with a remedy.
#[track_caller]
fn finds(check: &Ended, code: &str, place: &str) {
    let findings = check.value["findings"].as_array().cloned().unwrap_or_default();
    assert!(
        findings.iter().any(|f| {
            f["code"] == code
                && f["severity"] == "error"
                && f["place"].as_str().is_some_and(|p| p.starts_with(place))
                && f["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty())
        }),
        "{code} at {place} is not in: {}",
        check.said
    );
}

/// A failure with this code and a remedy, in words and as data.
#[track_caller]
fn fails(ended: &Ended, exit: i32, code: &str) {
    ended.exits(exit).says(code).says("hint: ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_cannot_work_is_refused_before_anything_is_done() {
    let world = World::new().await;
    let yaml = fs::read_to_string(world.desk.folder().join("cutover.yaml")).expect("the file");
    let (blue, green) = (world.shop.blue.port(), world.shop.green.port());
    let pooler = world.shop.pooler.port();
    let of_blue = format!("127.0.0.1:{blue}/");

    world.desk.configure(&yaml.replace("copy: { workers", "copy: { wokers"));
    let unknown = world.desk.ask(&["check"]).await;
    fails(&unknown, 2, "CUT0003");
    unknown.says("workers");

    world.desk.configure(&yaml.replace("move:", "mvoe:"));
    fails(&world.desk.ask(&["run"]).await, 2, "CUT0003");

    // A port that nobody listens on, until somebody else takes it; 1 is nobody's.
    world.desk.configure(&yaml.replace(&of_blue, "127.0.0.1:1/"));
    world.desk.ask(&["check"]).await.exits(1).says("127.0.0.1:1");

    world
        .desk
        .configure(&yaml.replace("postgres://cutover@127.0.0.1", "postgres://nobody@127.0.0.1"));
    let refused = world.desk.ask(&["check"]).await;
    refused.exits(1).says("CUT0011");

    // The pooler's address instead of the server's.
    world.desk.configure(&yaml.replace(&of_blue, &format!("127.0.0.1:{pooler}/")));
    let wrong = world.desk.ask(&["check"]).await;
    wrong.exits(1);
    assert!(wrong.said.contains("CUT0011") || wrong.said.contains("CUT0014"), "{}", wrong.said);

    // One server twice.
    world.desk.configure(&yaml.replace(&format!("127.0.0.1:{green}/"), &of_blue));
    fails(&world.desk.ask(&["check"]).await, 2, "CUT0004");
    // The same under another name.
    let also = of_blue.replace("127.0.0.1", "localhost");
    world.desk.configure(&yaml.replace(&format!("127.0.0.1:{green}/"), &also));
    finds(world.desk.ask(&["check"]).await.exits(1), "CUT0162", "");

    // TLS that the server does not speak.
    world.desk.configure(&yaml.replace("/shop\", password", "/shop?sslmode=require\", password"));
    world.desk.ask(&["check"]).await.exits(1).says("CUT0013");

    // None of that reached the servers.
    world.desk.configure(&yaml);
    world.nothing_is_left().await;
    world.desk.ask(&["status"]).await.exits(3).says("CUT0007").says("cutover run");
    world.desk.ask(&["check"]).await.exits(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_green_that_is_not_empty_is_refused_and_kept() {
    let world = World::new().await;
    let green = world.direct(Side::Green).await;
    let own = "CREATE TABLE accounts (id integer PRIMARY KEY, email text, balance numeric);
               INSERT INTO accounts VALUES (1, 'keep', 5)";
    green.batch_execute(own).await.expect("a table of somebody else");
    let check = world.desk.ask(&["check"]).await;
    finds(check.exits(1), "CUT0133", "green");
    let mut run = world.desk.run();
    let ended = run.ended(COMMAND_WITHIN).await;
    assert_eq!(ended.code(), Some(1), "{ended}");
    assert!(world.desk.log().contains("CUT0503"));
    world.nothing_is_left().await;
    let kept = green.query_one("SELECT email FROM accounts", &[]).await.expect("the row");
    assert_eq!(kept.get::<_, String>(0), "keep");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_run_is_refused_and_the_first_goes_on() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    // In the same folder.
    fails(&world.desk.ask(&["run"]).await, 3, "CUT0008");
    // From another folder, as another machine would.
    let yaml = fs::read_to_string(world.desk.folder().join("cutover.yaml")).expect("the file");
    world.desk.configure(&yaml.replace("state_dir: ./state", "state_dir: ./elsewhere"));
    let second = world.desk.ask(&["run"]).await;
    second.says("CUT0501").says("hint: ");
    assert!(matches!(second.exit, 1 | 3), "{}", second.said);
    world.desk.configure(&yaml);
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.sides_are_equal().await;
}

/// Changes one byte of a line in the middle.
fn damage(path: &std::path::Path) {
    let mut bytes = fs::read(path).expect("a journal");
    let lines: Vec<usize> =
        bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at).collect();
    let at = lines[lines.len() / 2] - 3;
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("a damaged journal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_journal_is_refused_and_says_what_is_known() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    assert!(run.terminate().await.success());
    for journal in ["moves.journal", "run.journal"] {
        let path = world.desk.state(journal);
        let whole = fs::read(&path).expect("a journal");
        damage(&path);
        let refused = world.desk.ask(&["run"]).await;
        fails(&refused, 4, "CUT0511");
        refused.says(journal).says("line");
        let damaged = fs::read(&path).expect("a journal");
        assert_eq!(damaged.len(), whole.len(), "nothing was changed in the file");
        world.only_takes_writes(Side::Green).await;
        fs::write(&path, whole).expect("a backup");
    }
    // What is torn at the end was never begun, and is no damage.
    let path = world.desk.state("run.journal");
    let mut torn = fs::read(&path).expect("a journal");
    let end = torn.iter().rposition(|b| *b == b'\n').expect("lines") + 1;
    torn.truncate(end);
    torn.extend_from_slice(b"0123abcd [{\"fact\":\"remo");
    fs::write(&path, torn).expect("a torn journal");
    let mut run = world.desk.run();
    run.ready().await;
    world.traffic_flows(&load, SERVED_WITHIN).await;
    world.close_the_books(load, Side::Green).await;
    world.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

/// The journal of moves is moved away in the middle of a move, as its page says: an operator has
/// the word, and the databases follow it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_journal_of_moves_an_operator_names_the_owner() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    let asked = world.desk.begin(&["switch"]);
    let begun = |facts: &[serde_json::Value]| facts.iter().any(|f| f["step"] == "guard");
    run.kill_when("moves.journal", "the guard", begun).await;
    asked.await.expect("the command ends").exits(3);
    world.traffic_flows(&load, SERVED_WITHIN).await;
    let journal = world.desk.state("moves.journal");
    fs::rename(&journal, world.desk.state("moves.journal.damaged")).expect("it is there");

    let mut run = world.desk.run();
    cutover_sandbox::wait_until("an operator to be asked for", COMMAND_WITHIN, async || {
        world.desk.ask(&["switch"]).await.said.contains("CUT0718")
    })
    .await
    .expect("it is asked for");
    world.desk.ask(&["resolve", "--owner", "blue"]).await.exits(0);
    run.ready().await;
    world.only_takes_writes(Side::Blue).await;
    world.desk.moves("switch").await.exits(0);

    // Lost between moves, the run's own journal knows the owner.
    assert!(run.terminate().await.success());
    fs::remove_file(&journal).expect("it is there");
    let mut run = world.desk.run();
    assert_eq!(run.ready().await["owner"], "green");
    // Or what begins it anew ended too early: it was read as blue's.
    assert!(run.terminate().await.success());
    fs::write(&journal, b"").expect("an empty file");
    let mut run = world.desk.run();
    assert_eq!(run.ready().await["owner"], "green");
    // Taken away under a process that lives.
    fs::remove_file(&journal).expect("it is there");
    world.desk.ask(&["rollback"]).await.exits(3).says("is gone");
    assert!(!journal.exists(), "a new one would say that blue owns the writes");
    assert!(run.terminate().await.success());
    let mut run = world.desk.run();
    assert_eq!(run.ready().await["owner"], "green");
    world.desk.moves("rollback").await.exits(0);
    world.close_the_books(load, Side::Blue).await;
}

/// A wrong password is told as such, and neither it nor the right one is ever shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_and_not_shown() {
    let world = World::new().await;
    let yaml = fs::read_to_string(world.desk.folder().join("cutover.yaml")).expect("the file");
    let wrong = "not-the-password-at-all";
    let secret = world.desk.folder().join("secret");
    fs::write(&secret, wrong).expect("a file");
    let from_file = format!("{{file: \"{}\"}}", secret.display());
    world.desk.configure(&yaml.replacen("{env: CUTOVER_E2E}", &from_file, 1));
    for command in [&["check"][..], &["plan"], &["run"]] {
        let ended = world.desk.ask(command).await;
        if command != ["plan"] {
            ended.says("CUT0011");
            assert!(matches!(ended.exit, 1 | 3), "{}", ended.said);
        }
        assert!(!ended.said.contains(wrong), "{}", ended.said);
        assert!(!ended.said.contains(CUTOVER_PASSWORD), "{}", ended.said);
    }
    fs::remove_file(secret).expect("it is there");
    world.desk.ask(&["check"]).await.exits(2).says("CUT0006");
}

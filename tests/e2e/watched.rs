//! What a run shows: status, health and metrics, and the alarm when both sides are written.

use cutover_core::model::side::Side;
use cutover_sandbox::{shop::ShopSize, wait_until};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    program::{COMMAND_WITHIN, Desk, READY_WITHIN},
    world::{Options, PASS, World},
};

/// Status line and body of a page of the run's HTTP address, which it has logged.
async fn get(desk: &Desk, path: &str) -> (String, String) {
    let log = desk.log();
    let at = log.rfind("status and metrics on http://").expect("the address is logged");
    let address = log[at..].split("http://").nth(1).and_then(|rest| rest.split('/').next());
    let mut stream =
        tokio::net::TcpStream::connect(address.expect("an address")).await.expect("it");
    let request = format!("GET {path} HTTP/1.1\r\nHost: cutover\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer with a head");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("{name} is not in: {text}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_can_be_watched_and_writes_on_both_sides_are_an_alarm() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    let status = run.ready().await;
    assert_eq!(status["run"], "e2e");
    assert_eq!(status["phase"], "streaming");
    assert_eq!(status["owner"], "blue");
    assert_eq!(status["alarms"], serde_json::json!([]));
    assert!(status["lag"]["bytes"].is_u64() && status["lag"]["seconds"].is_f64(), "{status}");
    assert!(status["pause_estimate"]["ms"].as_f64().is_some_and(|ms| ms > 0.0), "{status}");
    assert_eq!(status["copy"]["tables"].as_array().map(Vec::len), Some(12), "{status}");
    // A log without a key is compared in the pause, and counts.
    run.status("the log in the estimate", COMMAND_WITHIN, |s| {
        let parts = s["pause_estimate"]["parts"].as_array();
        let of_log =
            |part: &Value| part["why"].as_str().is_some_and(|w| w.contains("without a key"));
        parts.is_some_and(|parts| parts.iter().any(of_log))
    })
    .await;

    let (answer, body) = get(&world.desk, "/healthz").await;
    assert!(answer.contains(" 200 ") && body.contains("ok"), "{answer}: {body}");
    // Whatever the machine does beside it, it is ready now and then.
    wait_until("the metric to say that it is ready", COMMAND_WITHIN, async || {
        (metric(&get(&world.desk, "/metrics").await.1, "cutover_ready") - 1.0).abs() < 1e-9
    })
    .await
    .expect("as the status does");
    let (answer, body) = get(&world.desk, "/metrics").await;
    assert!(answer.contains(" 200 "), "{answer}");
    assert!(metric(&body, "cutover_split_brain").abs() < 1e-9);
    assert!(metric(&body, "cutover_copy_rows") > 10_000.0);
    assert!(body.trim_end().ends_with("# EOF"), "{body}");
    let (answer, body) = get(&world.desk, "/status").await;
    assert!(answer.contains(" 200 ") && body.contains("\"owner\":\"blue\""), "{body}");
    let (answer, body) = get(&world.desk, "/").await;
    assert!(answer.contains(" 200 ") && body.contains("<html"), "{answer}");

    world.desk.moves("switch").await.exits(0);
    run.status("the move in the status", COMMAND_WITHIN, |s| {
        s["phase"] == "switched" && s["moves"].as_array().is_some_and(|moves| !moves.is_empty())
    })
    .await;
    // A superuser goes past the fence on purpose: not stopped, but noticed.
    let blue = world.superuser(Side::Blue).await;
    let write = format!("{PASS}; UPDATE documents SET thumbnail = NULL");
    blue.batch_execute(&write).await.expect("a write past the fence");
    run.status("the alarm", COMMAND_WITHIN, |s| {
        s["alarms"].as_array().is_some_and(|all| all.iter().any(|a| a["code"] == "CUT0701"))
    })
    .await;
    let (answer, body) = get(&world.desk, "/healthz").await;
    assert!(answer.contains(" 503 ") && body.contains("CUT0701"), "{answer}: {body}");
    let (_, body) = get(&world.desk, "/metrics").await;
    assert!((metric(&body, "cutover_split_brain") - 1.0).abs() < 1e-9, "{body}");
    // The way back would lose the difference, so it is refused until it is repaired: green owns
    // the writes, so green's rows win.
    world.desk.refuses("rollback", "documents").await;
    world.only_takes_writes(Side::Green).await;
    let repair = world.desk.ask(&["verify", "--repair"]).await;
    repair.exits(0);
    assert!(repair.value["repaired"].as_u64().is_some_and(|rows| rows > 0), "{}", repair.said);
    run.ready().await;
    world.desk.moves("rollback").await.exits(0);

    // Somebody who replicates is noticed as well, though the server leaves out what was replicated
    // while nobody but the run does that.
    let green = world.superuser(Side::Green).await;
    let elsewhere = "SELECT pg_replication_origin_create('elsewhere')";
    green.batch_execute(elsewhere).await.expect("an origin");
    let setup = "SELECT pg_replication_origin_session_setup('elsewhere')";
    green.batch_execute(&format!("{setup}; {write}")).await.expect("a write past the fence");
    run.status("another alarm", COMMAND_WITHIN, |s| {
        s["alarms"].as_array().is_some_and(|all| all.iter().any(|a| a["code"] == "CUT0701"))
    })
    .await;
    world.desk.ask(&["verify", "--repair"]).await.exits(0);
    run.ready().await;
    // What it writes where the clients are travels like theirs.
    world.desk.moves("switch").await.exits(0);
    let write = "RESET cutover.run; INSERT INTO receipts VALUES (990, 1)";
    green.batch_execute(write).await.expect("a write");
    run.ready().await;
    world.desk.moves("rollback").await.exits(0);
    let found = "SELECT count(*) FROM receipts WHERE client = 990";
    let found = blue.query_one(found, &[]).await.expect("a count");
    assert_eq!(found.get::<_, i64>(0), 1);
    world.close_the_books(load, Side::Blue).await;
    let (answer, _) = get(&world.desk, "/healthz").await;
    assert!(answer.contains(" 200 "), "{answer}");
}

/// Takes its time to say where writes go.
const SLOW_SWITCH: &str = r#"sleep 0.1
case $CUTOVER_ACTION in
observe) echo '{"side": "blue", "paused": false}' ;;
examine) echo '{"findings": []}' ;;
esac
"#;

/// A move that would be refused is not called possible, and the reason is the move's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_would_be_too_long_is_not_called_ready() {
    let device = "  - command: { argv: [/bin/sh, FOLDER/slow.sh], timeout: 5s }\n";
    let world = World::with(Options { more_switches: device.into(), ..Options::default() }).await;
    let desk = &world.desk;
    std::fs::write(desk.folder().join("slow.sh"), SLOW_SWITCH).expect("a file");
    let ready = async || metric(&get(desk, "/metrics").await.1, "cutover_ready");
    let says = |reason: &'static str| {
        move |s: &Value| s["ready"]["why"].as_str().is_some_and(|why| why.contains(reason))
    };
    let budget = |from: &str, to: &str| {
        let line = |budget: &str| format!("pause_budget: {budget}");
        desk.reconfigure(|yaml| yaml.replace(&line(from), &line(to)));
    };

    budget("3s", "100ms");
    let mut run = desk.run();
    let estimated = "CUT0734: the pause is estimated at";
    run.status("the estimate to be too long", READY_WITHIN, says(estimated)).await;
    assert!(ready().await < 0.5);
    desk.ask(&["switch"]).await.exits(1).says("the pause is estimated at");
    assert!(run.terminate().await.success());

    budget("100ms", "20s");
    let mut run = desk.run();
    run.ready().await;
    let mut writer = world.direct(Side::Blue).await;
    let open = writer.transaction().await.expect("a transaction");
    open.batch_execute("UPDATE accounts SET balance = balance WHERE id = 1")
        .await
        .expect("a write");
    run.status("the writer to be met", COMMAND_WITHIN, says("CUT0139: process")).await;
    assert!(ready().await < 0.5);
    desk.ask(&["switch"]).await.exits(1).says("CUT0139");
    open.rollback().await.expect("its end");
    run.ready().await;
    wait_until("the metric to say so", COMMAND_WITHIN, async || ready().await > 0.5)
        .await
        .expect("as the status does");

    // Who tends a table is in the way of a fence that sleeps, and of no other.
    let tends = "BEGIN; CREATE INDEX ON accounts (balance); ANALYZE products";
    writer.batch_execute(tends).await.expect("an index");
    run.status("the index to be met", COMMAND_WITHIN, says("CUT0139: process")).await;
    desk.ask(&["switch"]).await.exits(1).says("CUT0139");
    writer.batch_execute("ROLLBACK").await.expect("its end");
    run.ready().await;
    desk.moves("rehearse").await.exits(0);
    run.ready().await;
    writer.batch_execute("BEGIN; ANALYZE products").await.expect("statistics");
    // Old enough to be named, if it were in the way; the run looks once a second.
    let old = "SELECT clock_timestamp() - now() > '4 s'";
    let is_old = async || writer.query_one(old, &[]).await.expect("its age").get(0);
    wait_until("the transaction to be old", COMMAND_WITHIN, is_old).await.expect("it ages");
    run.ready().await;
    desk.moves("rehearse").await.exits(0);
    writer.batch_execute("ROLLBACK").await.expect("its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_that_came_to_no_end_takes_nothing_away_of_what_was_proven() {
    // Too large to be read in a pause.
    let size = ShopSize { documents: 200, ..ShopSize::small() };
    let world = World::with(Options { size, ..Options::default() }).await;
    let mut run = world.desk.run();
    run.ready().await;
    let (lock, admin) = (world.superuser(Side::Green).await, world.superuser(Side::Green).await);
    lock.batch_execute("BEGIN; LOCK documents").await.expect("a lock");
    let verify = world.desk.begin(&["verify"]);
    wait_until("the comparison to be given up", COMMAND_WITHIN, async || {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE application_name LIKE 'cutover e2e%' AND wait_event_type = 'Lock'";
        admin.query(end, &[]).await.expect("the superuser's word");
        verify.is_finished()
    })
    .await
    .expect("it ends");
    verify.await.expect("it ends").exits(3);
    // Still locked: nothing is compared again.
    run.ready().await;
    lock.batch_execute("ROLLBACK").await.expect("no lock");
    world.desk.moves("switch").await.exits(0);
    world.desk.ask(&["finish", "--yes"]).await.exits(0);
    world.nothing_is_left().await;
}

/// A comparison may take hours: nobody has to wait for one that nobody wants any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_ends_with_whoever_asked_for_it_and_with_the_process() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    let mut holder = world.superuser(Side::Green).await;
    let held = holder.transaction().await.expect("a transaction");
    held.batch_execute("LOCK products IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    let asked = world.desk.begin(&["verify"]);
    run.status("a comparison that waits", COMMAND_WITHIN, |s| !s["busy"].is_null()).await;
    asked.abort();
    run.status("nothing under way", COMMAND_WITHIN, |s| s["busy"].is_null()).await;
    world.desk.ask(&["verify", "--table", "public.accounts"]).await.exits(0);
    assert!(!world.desk.log().contains("no lock within"), "it ended by itself");

    let asked = world.desk.begin(&["verify"]);
    run.status("another that waits", COMMAND_WITHIN, |s| !s["busy"].is_null()).await;
    assert!(run.terminate().await.success());
    asked.await.expect("no panic").exits(3);
    held.rollback().await.expect("the lock is released");
    let mut run = world.desk.run();
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.sides_are_equal().await;
}

//! `cutover demo`: throwaway servers, real load, a whole migration with its way back.
//!
//! Everything it does to the databases it does through this program's own commands, as a user
//! would. Servers and files are gone when it ends, also after Ctrl-C or `kill`.

mod stage;
mod table;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use cutover::error::{Exit, Failure};
use cutover_sandbox::shop::{self, Load, ShopSize};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use stage::Stage;
use table::Row;

/// Clients and transactions per second of the load.
const CLIENTS: usize = 32;
const RATE: f64 = 300.0;
/// How long the copy and the first comparison may take.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Says a line to the person who watches.
pub(crate) type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Stories the demo can tell.
pub(crate) const SCENARIOS: [&str; 1] = ["upgrade"];

/// Runs a scenario. `program` is this executable.
///
/// # Errors
///
/// What is missing on this machine, or the first thing that went wrong.
pub(crate) async fn run(scenario: &str, program: PathBuf, say: Say<'_>) -> Result<Exit, Failure> {
    if !SCENARIOS.contains(&scenario) {
        return Err(Failure::new(format!("there is no scenario {scenario:?}"))
            .remedy(format!("one of: {}", SCENARIOS.join(", ")))
            .exit(Exit::Usage));
    }
    tokio::select! {
        result = upgrade(program, say) => result,
        // Dropping the stage stops and removes everything it started.
        _ = asked_to_end() => {
            say("interrupted; everything that was started is being removed");
            Err(Failure::new("interrupted"))
        }
    }
}

/// Returns when somebody wants it to end: Ctrl-C, `kill`, or a terminal that was closed.
async fn asked_to_end() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        asked = tokio::signal::ctrl_c() => asked,
        _ = terminate.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    }
}

async fn upgrade(program: PathBuf, say: Say<'_>) -> Result<Exit, Failure> {
    let began = Instant::now();
    let size = ShopSize::demo();
    say("starting two PostgreSQL servers and PgBouncer, filling a shop");
    let stage = Stage::set(program, size).await?;
    say(&format!(
        "blue is PostgreSQL {}, green is PostgreSQL {}; {CLIENTS} clients write {RATE} tx/s \
         through PgBouncer",
        stage.shop.blue.install().version,
        stage.shop.green.install().version
    ));
    let load = stage.shop.load(CLIENTS, RATE);
    let result = story(&stage, &load, say).await;
    let view = load.stop(Duration::from_secs(10)).await;
    let (mut rows, compared) = match result {
        Ok(done) => done,
        Err(failure) => {
            say(&stage.last_words());
            return Err(failure);
        }
    };
    let books = stage.check(&view).await?;
    let good = books.are_right() && view.failed == 0;
    rows.push(Row::total(view.done, view.failed));
    for line in table::lines(&rows) {
        say(&line);
    }
    if let Some(error) = &view.first_error {
        say(&format!("first error a client saw: {error}"));
    }
    say(&format!(
        "{} transactions done, {} failed, {} lost; {compared} rows compared; {} s; verdict: {}",
        view.done,
        view.failed,
        books.lost,
        began.elapsed().as_secs(),
        if good { "nothing lost, nothing failed" } else { "NOT GOOD" }
    ));
    Ok(if good { Exit::Done } else { Exit::Failed })
}

async fn story(stage: &Stage, load: &Load, say: Say<'_>) -> Result<(Vec<Row>, u64), Failure> {
    say("$ cutover check");
    let check = stage.command(&["check", "--json"]).await?;
    let count = |key: &str| check.value["counts"][key].as_u64().unwrap_or_default();
    say(&format!(
        "  {} errors, {} warnings, {} notes",
        count("errors"),
        count("warnings"),
        count("infos")
    ));
    for finding in check.value["findings"].as_array().into_iter().flatten() {
        if finding["severity"] == "error" {
            say(&format!("  {}: {}", text(finding, "code"), text(finding, "what")));
        }
    }
    check.expect_done("check")?;
    say("$ cutover run");
    let _run = stage.start_run()?;
    let waited = Instant::now();
    let mut last = String::new();
    loop {
        if waited.elapsed() > READY_WITHIN {
            return Err(Failure::new(format!(
                "not ready for a switch after {READY_WITHIN:?}: {last}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
        let Ok(status) = stage.command(&["status", "--json"]).await else { continue };
        if status.exit != 0 {
            continue;
        }
        let doing = format!(
            "  {}: {}",
            status.value["phase"].as_str().unwrap_or_default(),
            status.value["doing"].as_str().unwrap_or_default()
        );
        if doing != last {
            say(&doing);
            last = doing;
        }
        if status.value["ready"]["state"] == "ready" {
            break;
        }
    }
    say(&format!("  copied, caught up and compared in {:.1} s", waited.elapsed().as_secs_f64()));
    say("$ cutover verify");
    let verify = stage.command(&["verify", "--json"]).await?;
    verify.expect_done("verify")?;
    let compared = verify.value["rows"].as_u64().unwrap_or_default();
    say(&format!("  {compared} rows equal at {}", text(&verify.value, "position")));
    let mut rows = Vec::new();
    for (command, name) in [
        ("rehearse", "rehearsal"),
        ("switch", "switch to green"),
        ("rollback", "rollback to blue"),
        ("switch", "switch to green"),
    ] {
        say(&format!("$ cutover {command}"));
        load.reset_longest();
        let moved = stage.command(&[command, "--json"]).await?;
        moved.expect_done(command)?;
        // Clients that waited have had their turn by then.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let longest = load.reset_longest();
        let pause_ms = moved.value["pause_ms"].as_f64();
        let owner = text(&moved.value, "owner");
        say(&format!(
            "  clients waited {}; {owner} owns the writes",
            pause_ms.map_or_else(|| "an unknown time".into(), |ms| format!("{ms:.1} ms"))
        ));
        rows.push(Row::moved(name, pause_ms, longest, &owner));
    }
    say("$ cutover finish");
    let finish = stage.command(&["finish", "--yes", "--json"]).await?;
    finish.expect_done("finish")?;
    say("  nothing of the run is left on the servers");
    Ok((rows, compared))
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or("?").to_owned()
}

/// Whether the books of the shop are right on the owner at the end.
async fn books(
    client: &cutover_sandbox::Postgres,
    view: &shop::LoadView,
) -> Result<shop::Books, Failure> {
    let failure = |e: cutover_sandbox::SandboxError| {
        Failure::new("checking the shop at the end failed").caused_by(&e)
    };
    let session = client.connect("shop").await.map_err(failure)?;
    shop::check(&session, &view.acknowledged, &view.unknown).await.map_err(failure)
}

//! What is proven outlives the process: another one compares what has changed since, and nothing is
//! passed by.

use cutover_core::model::side::Side;
use serde_json::Value;

use crate::{
    program::{COMMAND_WITHIN, Desk, READY_WITHIN, Run},
    world::{Options, PASS, World},
};

const FILE: &str = "proof";

/// Where every row was compared, once that is kept.
async fn kept(desk: &Desk, run: &mut Run) -> Value {
    let at = proven(&run.ready().await);
    let told = format!("\"lsn\":{}}}", at["postgres"]["lsn"]).into_bytes();
    cutover_sandbox::wait_until("what is proven to be kept", COMMAND_WITHIN, async || {
        let file = std::fs::read(desk.state(FILE)).unwrap_or_default();
        file.windows(told.len()).any(|bytes| bytes == told)
    })
    .await
    .unwrap_or_else(|e| panic!("{e}: {at}\n{}", desk.log()));
    at
}

/// Where every row was compared.
fn proven(status: &Value) -> Value {
    let at = status["proof"]["full_pass"].clone();
    assert!(!at.is_null(), "every row was compared");
    at
}

async fn differs(desk: &Desk, table: &str) {
    cutover_sandbox::wait_until("the difference to be noticed", COMMAND_WITHIN, async || {
        let alarms = desk.ask(&["status"]).await.value["alarms"].clone();
        let says = |alarm: &Value| {
            alarm["code"] == "CUT0601" && alarm["what"].as_str().is_some_and(|w| w.contains(table))
        };
        alarms.as_array().is_some_and(|alarms| alarms.iter().any(says))
    })
    .await
    .unwrap_or_else(|e| panic!("{e}\n{}", desk.log()));
}

/// How often every row was compared, and how often that was not needed.
fn told(desk: &Desk) -> (usize, usize) {
    let log = desk.log();
    let count = |what| log.matches(what).count();
    (count("what was proven before still is"), count("changes were passed that nobody compared"))
}

async fn ends(run: &mut Run, killed: bool) {
    if killed {
        run.kill9();
    } else {
        assert!(run.terminate().await.success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_compares_what_has_changed_and_misses_nothing() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    let mut at = kept(&world.desk, &mut run).await;
    for owner in [Side::Blue, Side::Green] {
        let other = world.superuser(owner.other()).await;
        for (killed, statement, table) in [
            (true, "UPDATE transfers SET amount = amount + 1 WHERE id = 17", "public.transfers"),
            (
                false,
                "DELETE FROM order_items WHERE order_id = 5 AND line = 1",
                "public.order_items",
            ),
        ] {
            // Behind our back, and at once nobody is there any more; or nobody was there.
            let tamper = format!("{PASS}; {statement}");
            if killed {
                other.batch_execute(&tamper).await.expect("tampering");
            }
            ends(&mut run, killed).await;
            if !killed {
                other.batch_execute(&tamper).await.expect("tampering");
            }
            run = world.desk.run();
            assert_eq!(proven(&run.streams().await), at, "{}", world.desk.log());
            differs(&world.desk, table).await;
            // A difference that is known is not forgotten either.
            ends(&mut run, killed).await;
            run = world.desk.run();
            run.streams().await;
            differs(&world.desk, table).await;
            let repaired = world.desk.ask(&["verify", "--repair"]).await;
            assert_eq!(repaired.exits(0).value["repaired"], 1, "{}", repaired.said);
            at = kept(&world.desk, &mut run).await;
        }
        // Rows that are written anew are in no log.
        ends(&mut run, true).await;
        other.batch_execute("VACUUM FULL products").await.expect("a vacuum");
        run = world.desk.run();
        assert_eq!(proven(&run.ready().await), at, "{}", world.desk.log());
        assert!(world.desk.log().contains("rows were written anew"), "{}", world.desk.log());
        if owner == Side::Blue {
            world.desk.moves("switch").await.exits(0);
        }
    }
    assert_eq!(told(&world.desk), (10, 0), "{}", world.desk.log());
    world.desk.moves("rollback").await.exits(0);
    world.close_the_books(load, Side::Blue).await;
    assert!(world.desk.state(FILE).exists());
    world.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    assert!(!world.desk.state(FILE).exists(), "keys are not left behind");
    world.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_lacks_its_end_proves_nothing() {
    let world = World::new().await;
    let mut run = world.desk.run();
    let mut at = kept(&world.desk, &mut run).await;
    let blue = world.direct(Side::Blue).await;
    for lost in [1, 400] {
        // The other side holds what is lost.
        blue.batch_execute("UPDATE products SET stock = stock + 1").await.expect("a change");
        world.sides_are_equal().await;
        run.kill9();
        let file = std::fs::OpenOptions::new().write(true).open(world.desk.state(FILE)).unwrap();
        let bytes = file.metadata().unwrap().len();
        file.set_len(bytes - lost).unwrap();
        run = world.desk.run();
        let now = kept(&world.desk, &mut run).await;
        assert_ne!(now, at, "{}", world.desk.log());
        at = now;
    }
    world.desk.moves("switch").await.exits(0);
    world.sides_are_equal().await;
}

/// A change of definitions in the stream makes all tables looked at anew, and one compared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_altered_is_compared_and_no_other() {
    let world = World::with(Options { more: "ddl: apply\n".into(), ..Options::default() }).await;
    for side in [Side::Blue, Side::Green] {
        let root = world.superuser(side).await;
        root.batch_execute("ALTER ROLE cutover SUPERUSER").await.expect("a superuser may");
    }
    let load = world.load();
    let mut run = world.desk.run();
    let at = kept(&world.desk, &mut run).await;
    let owner = world.direct(Side::Blue).await;
    let add = "ALTER TABLE products ADD COLUMN rating integer NOT NULL DEFAULT 3";
    owner.batch_execute(add).await.expect("a column");
    cutover_sandbox::wait_until("the table to be looked at anew", READY_WITHIN, async || {
        told(&world.desk).0 == 1
    })
    .await
    .unwrap_or_else(|e| panic!("{e}\n{}", world.desk.log()));
    // Proven where that table was compared.
    assert_ne!(proven(&run.ready().await), at);
    let log = world.desk.log();
    let line = log.lines().find(|l| l.contains("what was proven before still is")).unwrap();
    assert!(line.contains("new=1 "), "{line}");
    let passes = log.lines().filter(|l| l.contains("full comparison at"));
    let whole = passes.filter(|l| l.contains("tables=12 ")).count();
    assert_eq!(whole, 1, "{log}");
    // It is a pair like any other: what somebody does to it is noticed.
    let green = world.superuser(Side::Green).await;
    let tamper = "UPDATE products SET rating = 4 WHERE id = 3";
    green.batch_execute(&format!("{PASS}; {tamper}")).await.expect("tampering");
    differs(&world.desk, "public.products").await;
    world.desk.ask(&["verify", "--repair"]).await.exits(0);
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.close_the_books(load, Side::Green).await;
}

/// A comparison that fails again and again says so where somebody looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_nothing_is_proven_is_in_the_status() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    run.kill9();
    std::fs::remove_file(world.desk.state(FILE)).expect("the file");
    let green = world.superuser(Side::Green).await;
    let forced = "ALTER TABLE products ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY";
    green.batch_execute(forced).await.expect("row-level security");
    let mut run = world.desk.run();
    run.status("the reason", COMMAND_WITHIN, |status| {
        let why = status["ready"]["why"].as_str().unwrap_or_default();
        why.contains("no full comparison has finished yet; the last one failed")
            && why.contains("products")
    })
    .await;
    world.desk.ask(&["switch"]).await.exits(1).says("the last one failed");
    let free = "ALTER TABLE products DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY";
    green.batch_execute(free).await.expect("none");
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.sides_are_equal().await;
}

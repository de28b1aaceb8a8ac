//! Rows that somebody changes on green behind our back: found before a switch, counted by
//! `verify`, made equal by `verify --repair`.

use cutover_core::model::side::Side;
use serde_json::Value;

use crate::{
    program::{COMMAND_WITHIN, Desk},
    world::{PASS, World},
};

/// Waits until the comparison knows that rows differ.
async fn is_noticed(desk: &Desk) {
    cutover_sandbox::wait_until("the difference to be noticed", COMMAND_WITHIN, async || {
        let status = desk.ask(&["status"]).await.value;
        status["alarms"]
            .as_array()
            .is_some_and(|alarms| alarms.iter().any(|alarm| alarm["code"] == "CUT0601"))
    })
    .await
    .expect("it is noticed");
}

fn differing(verify: &Value) -> Vec<(String, u64)> {
    let tables = verify["tables"].as_array().expect("tables");
    tables
        .iter()
        .filter_map(|t| {
            let different = t["different"].as_u64().filter(|n| *n > 0)?;
            let name = format!("{}.{}", t["table"]["schema"], t["table"]["name"]);
            Some((name.replace('"', ""), different))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_changed_on_green_is_found_before_the_switch_and_repaired() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    // One changed, one too many, one missing; in tables that the load only inserts into.
    for (statement, table) in [
        ("UPDATE transfers SET amount = amount + 1 WHERE id = 17", "public.transfers"),
        (
            "INSERT INTO transfers (id, sender, receiver, amount) OVERRIDING SYSTEM VALUE \
             VALUES (99999999, 1, 2, 3)",
            "public.transfers",
        ),
        ("DELETE FROM order_items WHERE order_id = 5 AND line = 1", "public.order_items"),
    ] {
        let green = world.superuser(Side::Green).await;
        let refused = green.batch_execute(statement).await;
        assert!(refused.is_err(), "even a superuser has to go past the fence on purpose");
        green.batch_execute(&format!("{PASS}; {statement}")).await.expect("tampering");

        // At once: the move itself has to find it. Then again, when it is known.
        world.desk.refuses("switch", "differ").await.says(table);
        world.only_takes_writes(Side::Blue).await;
        is_noticed(&world.desk).await;
        world.desk.ask(&["switch"]).await.exits(1).says(table);

        let verify = world.desk.ask(&["verify"]).await;
        verify.exits(1);
        assert_eq!(verify.value["verdict"], "different");
        assert_eq!(verify.value["different"], 1, "{}", verify.said);
        assert_eq!(differing(&verify.value), [(table.to_owned(), 1)], "{}", verify.said);

        let repair = world.desk.ask(&["verify", "--repair"]).await;
        repair.exits(0);
        assert_eq!(repair.value["repaired"], 1, "{}", repair.said);
        world.desk.ask(&["verify"]).await.exits(0);
        run.ready().await;
    }
    world.desk.moves("switch").await.exits(0);
    world.close_the_books(load, Side::Green).await;
    world.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

/// A table without a key has no rows that could be named, and a table can be emptied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_without_a_key_and_emptied_tables_are_found_and_repaired() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    for (statement, table) in [
        ("INSERT INTO audit_log SELECT * FROM audit_log LIMIT 1", "public.audit_log"),
        ("TRUNCATE products CASCADE", "public.products"),
    ] {
        let green = world.superuser(Side::Green).await;
        green.batch_execute(&format!("{PASS}; {statement}")).await.expect("tampering");
        world.desk.refuses("switch", table).await;
        world.only_takes_writes(Side::Blue).await;
        let verify = world.desk.ask(&["verify"]).await;
        verify.exits(1);
        let tables: Vec<String> = differing(&verify.value).into_iter().map(|(t, _)| t).collect();
        assert!(tables.iter().any(|t| t == table), "{}", verify.said);
        world.desk.ask(&["verify", "--repair"]).await.exits(0);
        world.sides_are_equal().await;
        run.ready().await;
    }
    world.desk.moves("switch").await.exits(0);
    world.sides_are_equal().await;
}

/// What was changed while nobody watched is found by the next process, before any switch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_changed_while_no_run_was_there_is_found() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    assert!(run.terminate().await.success());
    let green = world.superuser(Side::Green).await;
    let tamper = "UPDATE accounts SET email = 'x' WHERE id = 3";
    green.batch_execute(&format!("{PASS}; {tamper}")).await.expect("tampering");
    let mut run = world.desk.run();
    run.streams().await;
    is_noticed(&world.desk).await;
    world.desk.ask(&["switch"]).await.exits(1).says("public.accounts");
    world.desk.ask(&["verify", "--repair"]).await.exits(0);
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.sides_are_equal().await;
}

/// What was written behind our back and is equal all the same is forgotten table by table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_ends_once_all_tables_concerned_were_compared() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    let green = world.superuser(Side::Green).await;
    for table in ["accounts", "events"] {
        let same = format!("{PASS}; UPDATE {table} SET id = id WHERE id < 3");
        green.batch_execute(&same).await.expect("tampering");
    }
    let alarm = |status: &Value| -> String {
        let alarms = status["alarms"].as_array().into_iter().flatten();
        let mut ours = alarms.filter(|alarm| alarm["code"] == "CUT0701");
        ours.next().and_then(|alarm| alarm["what"].as_str()).unwrap_or_default().to_owned()
    };
    let both =
        |s: &Value| ["public.accounts", "public.events"].iter().all(|t| alarm(s).contains(t));
    run.status("the alarm", COMMAND_WITHIN, both).await;
    let asked = async |tables: &[&str]| {
        let tables = tables.iter().flat_map(|table| ["--table", table]);
        let arguments: Vec<&str> = std::iter::once("verify").chain(tables).collect();
        world.desk.ask(&arguments).await.exits(0);
        alarm(&world.desk.ask(&["status"]).await.value)
    };
    assert!(asked(&["public.products"]).await.contains("public.accounts"));
    let left = asked(&["public.accounts"]).await;
    assert!(left.contains("public.events") && !left.contains("public.accounts"), "{left}");
    assert_eq!(asked(&["public.events"]).await, "");
    run.ready().await;
    // What comes later is another matter, also where it differs from nothing.
    let one = format!("{PASS}; UPDATE accounts SET id = id WHERE id = 3");
    green.batch_execute(&one).await.expect("tampering");
    run.status("the alarm", COMMAND_WITHIN, |s| alarm(s).starts_with("1 row")).await;
    assert_eq!(asked(&["public.accounts", "public.products"]).await, "");
    // And where it does.
    let other = format!("{PASS}; UPDATE accounts SET email = 'x' WHERE id = 3");
    green.batch_execute(&other).await.expect("tampering");
    run.status("the alarm", COMMAND_WITHIN, |s| alarm(s).starts_with("1 row")).await;
    world.desk.ask(&["verify", "--table", "public.accounts"]).await.exits(1);
    assert!(!alarm(&world.desk.ask(&["status"]).await.value).is_empty());
    world.desk.ask(&["verify", "--table", "public.accounts", "--repair"]).await.exits(0);
    run.ready().await;
}

/// Its commit waits for a standby: it is in the log, and nobody sees the row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_be_seen_yet_is_not_taken_for_equal() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    let standby = async |word: &str| world.alter_system(Side::Green, word).await;
    let compared = world.desk.ask(&["status"]).await.value["proof"]["compared"].clone();
    standby("SET synchronous_standby_names = 'nobody'").await;
    // Until all of the server has heard of it, commits end.
    let probe = world.superuser(Side::Green).await;
    let probing = tokio::spawn(async move {
        let write = "SELECT pg_logical_emit_message(true, 'probe', '')";
        while probe.batch_execute(write).await.is_ok() {}
    });
    let looks = world.superuser(Side::Green).await;
    cutover_sandbox::wait_until("a commit to hang", COMMAND_WITHIN, async || {
        let hangs = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query ~ 'probe'";
        !looks.query(hangs, &[]).await.expect("activity").is_empty()
    })
    .await
    .expect("it does");
    probing.abort();
    let writer = world.superuser(Side::Green).await;
    let tamper = format!("{PASS}; UPDATE accounts SET email = 'x' WHERE id = 3");
    let hangs = tokio::spawn(async move { writer.batch_execute(&tamper).await });
    let has = |code: &'static str| {
        move |s: &Value| {
            s["alarms"].as_array().is_some_and(|all| all.iter().any(|a| a["code"] == code))
        }
    };
    run.status("the alarm", COMMAND_WITHIN, has("CUT0701")).await;
    // Time for several comparisons of changed rows.
    let soon = std::time::Duration::from_secs(3);
    let ended = cutover_sandbox::wait_until("a comparison to end", soon, async || {
        world.desk.ask(&["status"]).await.value["proof"]["compared"] != compared
    });
    assert!(ended.await.is_err(), "nobody can have compared it");
    assert!(!hangs.is_finished(), "it hung all the time");

    standby("RESET synchronous_standby_names").await;
    hangs.await.expect("no panic").expect("it was committed");
    run.status("the difference", COMMAND_WITHIN, has("CUT0601")).await;
    world.desk.ask(&["switch"]).await.exits(1).says("public.accounts");
    world.desk.ask(&["verify", "--repair"]).await.exits(0);
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.sides_are_equal().await;
}

/// The server checks nothing that is deferrable for rows that replication writes: two rows may have
/// what only one could have, and the comparison names the one too many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_double_that_no_deferrable_constraint_refuses_is_named() {
    let world = World::new().await;
    let tables = "CREATE TABLE ranks (id int PRIMARY KEY, place int UNIQUE DEFERRABLE); \
        CREATE TABLE late (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text); \
        ALTER TABLE late REPLICA IDENTITY FULL; \
        CREATE TABLE booked (id int PRIMARY KEY, during int4range, \
                             EXCLUDE USING gist (during WITH &&) DEFERRABLE); \
        INSERT INTO ranks SELECT i, i FROM generate_series(1, 20) i; \
        INSERT INTO late SELECT i, 'v' FROM generate_series(1, 20) i; \
        INSERT INTO booked SELECT i, int4range(i * 10, i * 10 + 5) FROM generate_series(1, 20) i";
    world.direct(Side::Blue).await.batch_execute(tables).await.expect("tables");
    let mut run = world.desk.run();
    run.ready().await;
    for owner in [Side::Blue, Side::Green] {
        let from = if owner == Side::Blue { 30 } else { 40 };
        for (table, behind, write, key) in [
            ("ranks", format!("(99, {from})"), format!("({from}, {from})"), "99".to_owned()),
            ("late", format!("({from}, 'x')"), format!("({from}, 'y')"), from.to_string()),
            (
                "booked",
                format!("(99, '[{from}00,{from}09]'::int4range)"),
                format!("({from}, '[{from}05,{from}15]'::int4range)"),
                "99".to_owned(),
            ),
        ] {
            let insert = |row: &str| format!("INSERT INTO {table} VALUES {row}");
            let other = world.superuser(owner.other()).await;
            other.batch_execute(&format!("{PASS}; {}", insert(&behind))).await.expect("tampering");
            world.direct(owner).await.batch_execute(&insert(&write)).await.expect("a row");
            let name = format!("public.{table}");
            let verify = world.desk.ask(&["verify", "--table", &name]).await;
            verify.exits(1);
            assert_eq!(verify.value["different"], 1, "{}", verify.said);
            let named = verify.value["tables"][0]["differences"].to_string();
            assert!(named.contains(&format!("\"{key}\"")), "{table}: {named}");
            world.desk.ask(&["verify", "--repair"]).await.exits(0);
            run.ready().await;
        }
        world.desk.moves(if owner == Side::Blue { "switch" } else { "rollback" }).await.exits(0);
    }
    world.sides_are_equal().await;
}

/// A server that takes over on green and lacks what was repaired is missed only for a place behind it,
/// which blue holds: until then nothing is said to be equal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_has_ended_once_the_owner_holds_a_place_behind_it() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    let green = world.superuser(Side::Green).await;
    let tamper = "UPDATE accounts SET email = 'x' WHERE id = 3";
    green.batch_execute(&format!("{PASS}; {tamper}")).await.expect("tampering");
    let blue = world.superuser(Side::Blue).await;
    let lock = "BEGIN; LOCK TABLE cutover_e2e.progress IN EXCLUSIVE MODE";
    blue.batch_execute(lock).await.expect("a lock");
    let repair = world.desk.begin(&["verify", "--repair"]);
    let look = "SELECT pg_current_wal_insert_lsn()::text, email <> 'x' FROM accounts WHERE id = 3";
    let mut before = String::new();
    cutover_sandbox::wait_until("the repair", COMMAND_WITHIN, async || {
        let row = green.query_one(look, &[]).await.expect("the row");
        let mended: bool = row.get(1);
        if !mended {
            before = row.get(0);
        }
        mended
    })
    .await
    .expect("the row is mended");
    blue.batch_execute("ROLLBACK").await.expect("the lock is released");
    repair.await.expect("no panic").exits(0);
    let held = format!(
        "SELECT (position::json #>> '{{postgres,lsn}}')::numeric > '{before}'::pg_lsn - '0/0'::pg_lsn \
         FROM cutover_e2e.progress"
    );
    let held = blue.query_one(&held, &[]).await.expect("a position");
    assert!(held.get::<_, bool>(0), "nobody would miss it");
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.sides_are_equal().await;
}

//! Tables without a key that clients append to: proven in a pause by what came at their ends.

use cutover_core::model::side::Side;

use crate::{
    program::{COMMAND_WITHIN, Run},
    world::{Options, PASS, SERVED_WITHIN, World},
};

/// What clients append to, larger than what is read in a pause of a second.
const LOG: &str =
    "INSERT INTO audit_log (what) SELECT to_char(i, 'FM0000000') FROM generate_series(1, 850000) i";

/// Two more such tables of so many rows; one of them has room in its first pages.
fn tables(rows: u32) -> String {
    format!(
        "CREATE TABLE notes (n integer, what text); CREATE TABLE gaps (n integer, what text);
         ALTER TABLE notes OWNER TO shop; ALTER TABLE notes REPLICA IDENTITY FULL;
         ALTER TABLE gaps OWNER TO shop; ALTER TABLE gaps REPLICA IDENTITY FULL;
         INSERT INTO notes SELECT i, repeat('x', 200) FROM generate_series(1, {rows}) i;
         INSERT INTO gaps TABLE notes; DELETE FROM gaps WHERE n <= 500"
    )
}

/// A world with these tables, compared once, and no more by itself.
async fn world(budget: &str, statements: &[&str]) -> (World, Run) {
    let more = "verify: { continuous: false }\n".to_owned();
    let world = World::with(Options { more, ..Options::default() }).await;
    let pause = format!("pause_budget: {budget}");
    world.desk.reconfigure(|yaml| yaml.replace("pause_budget: 3s", &pause));
    let blue = world.superuser(Side::Blue).await;
    for statement in statements {
        blue.batch_execute(statement).await.expect("large tables");
    }
    let mut run = world.desk.run();
    run.streams().await;
    world.desk.ask(&["verify"]).await.exits(0);
    run.ready().await;
    (world, run)
}

/// Waits until so many tables are known to have changed.
async fn changed(run: &mut Run, tables: u64) {
    run.status("the stream to meet the change", COMMAND_WITHIN, |status| {
        status["proof"]["whole"].as_u64().is_some_and(|n| n >= tables)
    })
    .await;
}

/// A switch is refused for this table before anybody waits; a comparison helps.
async fn is_refused(world: &World, run: &mut Run, table: &str) {
    let refused = world.desk.ask(&["switch"]).await;
    refused.exits(1).says(&format!("{table} waits for a full comparison"));
    assert!(refused.value["pause_ms"].is_null(), "clients waited: {}", refused.said);
    world.only_takes_writes(Side::Blue).await;
    world.desk.ask(&["verify"]).await.exits(0);
    run.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_table_without_a_key_that_clients_append_to_is_proven_in_every_move() {
    let (world, mut run) = world("1s", &[LOG]).await;
    let load = world.load();
    changed(&mut run, 1).await;
    for (command, owner) in
        [("switch", Side::Green), ("rollback", Side::Blue), ("switch", Side::Green)]
    {
        // Another process goes on with what this one knows of its end.
        run.kill9();
        run = world.desk.run();
        run.ready().await;
        world.desk.moves(command).await.exits(0);
        world.only_takes_writes(owner).await;
        world.traffic_flows(&load, SERVED_WITHIN).await;
    }
    let facts = world.desk.facts("moves.journal");
    let certificates: Vec<_> =
        facts.iter().map(ToString::to_string).filter(|f| f.contains("\"certificate\"")).collect();
    assert_eq!(certificates.len(), 3);
    for certificate in certificates {
        assert!(certificate.contains("\"unproven\":[]"), "{certificate}");
        assert!(certificate.contains("\"verdict\":\"equal\""), "{certificate}");
    }
    world.close_the_books(load, Side::Green).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_table_that_did_more_than_grow_refuses_the_switch_until_it_is_compared() {
    let (world, mut run) = world("1s", &[&tables(150_000), "VACUUM gaps"]).await;
    let blue = world.superuser(Side::Blue).await;
    let on_blue = async |statement: &str| blue.batch_execute(statement).await.expect(statement);
    // A row that is changed.
    on_blue("INSERT INTO notes VALUES (1, repeat('y', 200))").await;
    on_blue("UPDATE notes SET what = 'x' WHERE n = 150000").await;
    changed(&mut run, 1).await;
    is_refused(&world, &mut run, "public.notes").await;

    // One that finds free space, on blue only; from then on such rows are looked for before a move.
    let first = "SELECT min((ctid::text::point)[0]) FROM gaps WHERE n <= 500";
    for n in [1, 2] {
        on_blue(&format!("INSERT INTO gaps VALUES ({n}, repeat('x', 200))")).await;
        let page: f64 = blue.query_one(first, &[]).await.expect("its page").get(0);
        assert!(page < 100.0, "the row is on page {page}");
        changed(&mut run, 1).await;
        if n == 1 {
            is_refused(&world, &mut run, "public.gaps").await;
        }
    }
    {
        // Whoever has a table for himself on the side that nobody moves from is not waited for.
        let green = world.superuser(Side::Green).await;
        green.batch_execute("BEGIN; LOCK TABLE notes").await.expect("a lock");
        let rehearsed = tokio::time::timeout(SERVED_WITHIN, world.desk.moves("rehearse"));
        rehearsed.await.expect("it waits for the lock").exits(0);
    }

    // A row at the end that goes from green behind our back.
    on_blue("INSERT INTO notes VALUES (150001, 'z'), (150002, 'z')").await;
    world.sides_are_equal().await;
    let green = world.superuser(Side::Green).await;
    let tamper = format!("{PASS}; DELETE FROM notes WHERE n = 150001");
    green.batch_execute(&tamper).await.expect("tampering");
    world.desk.ask(&["switch"]).await.exits(1);
    world.only_takes_writes(Side::Blue).await;
    let verify = world.desk.ask(&["verify"]).await;
    verify.exits(1);
    assert_eq!(verify.value["verdict"], "different", "{}", verify.said);
    world.desk.ask(&["switch"]).await.exits(1).says("public.notes");
    world.desk.ask(&["verify", "--repair"]).await.exits(0);
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.sides_are_equal().await;
    // Nor on the way back.
    blue.batch_execute("BEGIN; LOCK TABLE notes").await.expect("a lock");
    let back = tokio::time::timeout(SERVED_WITHIN, world.desk.moves("rollback"));
    back.await.expect("it waits for the lock").exits(0);
}

/// Whoever may wait for longer has larger tables read in the pause: whatever their rows do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_larger_budget_is_for_larger_tables() {
    let (world, mut run) = world("20s", &[&tables(150_000)]).await;
    let blue = world.superuser(Side::Blue).await;
    let green = world.superuser(Side::Green).await;
    let change =
        "UPDATE notes SET what = what || 'x' WHERE n % 100 = 7; DELETE FROM notes WHERE n = 8";
    blue.batch_execute(change).await.expect("changes");
    changed(&mut run, 1).await;
    let switched = world.desk.moves("switch").await;
    switched.exits(0);
    let proven = |facts: &[serde_json::Value], what: &str| {
        let mut all = facts.iter().map(ToString::to_string);
        let last = all.rfind(|f| f.contains("\"certificate\"")).expect("a certificate");
        assert!(last.contains(what), "{last}");
    };
    proven(&world.desk.facts("moves.journal"), "\"unproven\":[]");
    // Who goes back does not wait for it.
    green.batch_execute(change).await.expect("changes");
    world.desk.moves("rollback").await.exits(0);
    proven(&world.desk.facts("moves.journal"), "\"unproven\":[{\"name\":\"notes\"");
    world.sides_are_equal().await;

    run.ready().await;
    let tamper = format!("{PASS}; DELETE FROM notes WHERE n = 9");
    green.batch_execute(&tamper).await.expect("tampering");
    blue.batch_execute(change).await.expect("changes");
    world.desk.ask(&["switch"]).await.exits(1);
    world.only_takes_writes(Side::Blue).await;
    world.desk.ask(&["verify", "--repair"]).await.exits(0);
    world.sides_are_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_table_is_proven_by_its_end_or_read_whole() {
    let (world, mut run) = world("4s", &[&tables(2_000), "VACUUM gaps"]).await;
    let blue = world.superuser(Side::Blue).await;
    let green = world.superuser(Side::Green).await;
    // Some at the end, some in free space, some that are changed: nothing is asked of anybody.
    blue.batch_execute("INSERT INTO notes VALUES (2001, 'y')").await.expect("a row");
    blue.batch_execute("INSERT INTO gaps VALUES (1, repeat('x', 200))").await.expect("a row");
    changed(&mut run, 2).await;
    world.desk.moves("switch").await.exits(0);
    green.batch_execute("UPDATE gaps SET what = 'z' WHERE n = 501").await.expect("a change");
    green.batch_execute("INSERT INTO notes VALUES (2002, 'y')").await.expect("a row");
    world.desk.moves("rollback").await.exits(0);
    // More than is left for a pause.
    let many = "INSERT INTO notes SELECT i, repeat('x', 200) FROM generate_series(3001, 9000) i";
    blue.batch_execute(many).await.expect("many rows");
    world.desk.moves("switch").await.exits(0);
    world.desk.moves("rollback").await.exits(0);
    world.sides_are_equal().await;

    // A row further up that goes from green behind our back, and one at the end that comes.
    let tamper = format!("{PASS}; DELETE FROM notes WHERE n = 7");
    green.batch_execute(&tamper).await.expect("tampering");
    blue.batch_execute("INSERT INTO notes VALUES (9001, 'y')").await.expect("a row");
    world.desk.ask(&["switch"]).await.exits(1);
    world.only_takes_writes(Side::Blue).await;
    world.desk.ask(&["verify", "--repair"]).await.exits(0);
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.sides_are_equal().await;
}

//! Partitions that differ from side to side.

use cutover_core::model::side::Side;
use serde_json::json;

use crate::{
    program::COMMAND_WITHIN,
    world::{PASS, World},
};

/// By month on blue, and in pieces of another cut on green; a table in one piece on one side only.
const BLUE: &str = "
    CREATE SCHEMA parts; SET search_path = parts;
    CREATE TABLE log (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
    CREATE TABLE log_2 PARTITION OF log FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
    CREATE TABLE joined (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
    CREATE TABLE joined_0 PARTITION OF joined FOR VALUES IN (0);
    CREATE TABLE joined_1 PARTITION OF joined FOR VALUES IN (1);
    CREATE TABLE divided (id int PRIMARY KEY, v text);";
const GREEN: &str = "
    CREATE SCHEMA parts; SET search_path = parts;
    CREATE TABLE log (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY HASH (id);
    CREATE TABLE log_even PARTITION OF log FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE log_odd PARTITION OF log FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE joined (id int, k int, v text, PRIMARY KEY (id, k));
    CREATE TABLE divided (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE divided_low PARTITION OF divided FOR VALUES FROM (MINVALUE) TO (50);
    CREATE TABLE divided_high PARTITION OF divided FOR VALUES FROM (50) TO (MAXVALUE);";
const ROWS: &str = "
    INSERT INTO log SELECT i, '2026-01-01'::date + i % 50, 'v' FROM generate_series(1, 200) i;
    INSERT INTO joined SELECT i, i % 2, 'v' FROM generate_series(1, 200) i;
    INSERT INTO divided SELECT i, 'v' FROM generate_series(1, 99) i;";
/// `{n}` is the round.
const CHANGES: &[&str] = &[
    "INSERT INTO log SELECT 1000 * {n} + i, '2026-01-20'::date + i, 'new' FROM generate_series(1, 30) i",
    "UPDATE log SET day = '2026-02-20' WHERE id = {n}",
    "UPDATE log SET id = id + 5000 WHERE id = 10 + {n}",
    "DELETE FROM log WHERE id BETWEEN 20 * {n} AND 20 * {n} + 4",
    "UPDATE joined SET k = 1 - k WHERE id BETWEEN {n} AND {n} + 10",
    "DELETE FROM joined WHERE id = 50 + {n}",
    "UPDATE divided SET id = 1000 + {n} WHERE id = {n}",
    "UPDATE divided SET v = 'changed' WHERE id = 60 + {n}",
    "TRUNCATE joined",
    "INSERT INTO joined SELECT i, i % 2, 'again' FROM generate_series(1, 80) i",
    "BEGIN; TRUNCATE divided; INSERT INTO divided SELECT i, 'again {n}' FROM generate_series(1, 99) i; COMMIT",
];
/// Rows and a sum per table, by whatever name.
const SUMS: &str = "
    SELECT string_agg(x, ' ' ORDER BY x) FROM (
        SELECT 'log ' || count(*) || ':' || sum(hashtext(t::text)) FROM parts.log t
        UNION ALL SELECT 'joined ' || count(*) || ':' || sum(hashtext(t::text)) FROM parts.joined t
        UNION ALL SELECT 'divided ' || count(*) || ':' || sum(hashtext(t::text)) FROM parts.divided t
    ) a(x)";

async fn sums(world: &World, side: Side) -> String {
    let row = world.direct(side).await.query_one(SUMS, &[]).await.expect("sums");
    row.get(0)
}

async fn round(world: &World, owner: Side, n: u32) {
    let client = world.direct(owner).await;
    client.batch_execute("SET search_path = parts").await.expect("a search path");
    for text in CHANGES {
        let text = text.replace("{n}", &n.to_string());
        client.batch_execute(&text).await.unwrap_or_else(|e| panic!("{owner}: {e:?}: {text}"));
    }
    let wanted = sums(world, owner).await;
    cutover_sandbox::wait_until("both sides to agree", COMMAND_WITHIN, async || {
        sums(world, owner.other()).await == wanted
    })
    .await
    .expect("the changes arrive");
    world.desk.ask(&["verify"]).await.exits(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn green_may_be_partitioned_in_another_way() {
    let world = World::new().await;
    let yaml = std::fs::read_to_string(world.desk.folder().join("cutover.yaml")).expect("it");
    let provided = "schema: provided\ntables: { include: [\"parts.*\"] }\n";
    world.desk.configure(&format!("{yaml}{provided}"));
    world.direct(Side::Blue).await.batch_execute(&format!("{BLUE}{ROWS}")).await.expect("blue");
    let green = world.direct(Side::Green).await;
    green.batch_execute(&format!("{GREEN}{ROWS}")).await.expect("green");
    // Rows below a root of another cut are rows of somebody else as well.
    world.desk.ask(&["check"]).await.exits(1).says("CUT0133").says("parts.log_even");
    green.batch_execute("TRUNCATE log, joined, divided").await.expect("it is emptied");
    world.desk.ask(&["check"]).await.exits(0);

    let mut run = world.desk.run();
    run.ready().await;
    round(&world, Side::Blue, 1).await;
    world.desk.moves("switch").await.exits(0);
    round(&world, Side::Green, 2).await;
    world.desk.moves("rollback").await.exits(0);
    round(&world, Side::Blue, 3).await;
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
}

/// Some leaves have the same names on both sides, and hold others' rows on green.
const SOME_BLUE: &str = "
    CREATE SCHEMA parts; SET search_path = parts;
    CREATE TABLE mixed (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE mixed_a PARTITION OF mixed FOR VALUES FROM (0) TO (100);
    CREATE TABLE mixed_b PARTITION OF mixed FOR VALUES FROM (100) TO (200);
    CREATE TABLE more (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE more_a PARTITION OF more FOR VALUES FROM (0) TO (100);
    INSERT INTO mixed SELECT i, 'v' FROM generate_series(0, 199) i;
    INSERT INTO more SELECT i, 'v' FROM generate_series(0, 99) i";
const SOME_GREEN: &str = "
    CREATE SCHEMA parts; SET search_path = parts;
    CREATE TABLE mixed (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE mixed_a PARTITION OF mixed FOR VALUES FROM (0) TO (150);
    CREATE TABLE mixed_c PARTITION OF mixed FOR VALUES FROM (150) TO (200);
    CREATE TABLE more (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE more_a PARTITION OF more FOR VALUES FROM (0) TO (100);
    CREATE TABLE more_x PARTITION OF more FOR VALUES FROM (100) TO (200)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_below_leaves_of_another_cut_are_repaired() {
    let world = World::new().await;
    let yaml = std::fs::read_to_string(world.desk.folder().join("cutover.yaml")).expect("it");
    let provided = "schema: provided\ntables: { include: [\"parts.*\"] }\n";
    world.desk.configure(&format!("{yaml}{provided}"));
    world.direct(Side::Blue).await.batch_execute(SOME_BLUE).await.expect("blue");
    world.direct(Side::Green).await.batch_execute(SOME_GREEN).await.expect("green");
    let mut run = world.desk.run();
    run.ready().await;
    let green = world.superuser(Side::Green).await;
    let tamper = "UPDATE parts.mixed SET v = 'x' WHERE id IN (20, 120, 170); \
                  UPDATE parts.more SET v = 'x' WHERE id = 3; \
                  INSERT INTO parts.more VALUES (150, 'x')";
    green.batch_execute(&format!("{PASS}; {tamper}")).await.expect("tampering");
    let verify = world.desk.ask(&["verify"]).await;
    verify.exits(1);
    assert_eq!(verify.value["different"], 5, "{}", verify.said);
    let repair = world.desk.ask(&["verify", "--repair"]).await;
    repair.exits(0);
    assert_eq!(repair.value["repaired"], 5, "{}", repair.said);
    // Which of green's rows it empties nobody can say there; a copy contains it.
    let blue = world.direct(Side::Blue).await;
    let emptied = "TRUNCATE parts.mixed_a; INSERT INTO parts.mixed VALUES (50, 'new')";
    blue.batch_execute(emptied).await.expect("one is emptied");
    run.status("CUT0405", COMMAND_WITHIN, |s| {
        s["alarms"].as_array().is_some_and(|all| all.iter().any(|a| a["code"] == "CUT0405"))
    })
    .await;
    blue.batch_execute("UPDATE parts.mixed SET v = 'later' WHERE id > 90").await.expect("a change");
    let repair = world.desk.ask(&["verify", "--repair"]).await;
    repair.exits(0);
    assert_eq!(repair.value["verdict"], "equal", "{}", repair.said);
    assert_eq!(repair.value["copied_again"], json!(["parts.mixed"]), "{}", repair.said);
    let rows = green.query_one("SELECT count(*) FROM parts.mixed", &[]).await.expect("rows");
    assert_eq!(rows.get::<_, i64>(0), 101);
    blue.batch_execute("TRUNCATE parts.mixed, parts.more_a").await.expect("all are emptied");
    blue.batch_execute("INSERT INTO parts.mixed VALUES (120, 'new')").await.expect("a row");
    world.desk.ask(&["verify"]).await.exits(0);
    let rows = green.query_one("SELECT count(*) FROM parts.mixed", &[]).await.expect("rows");
    assert_eq!(rows.get::<_, i64>(0), 1);
    run.ready().await;
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
}

//! Rows, and another name of their table or of a column behind them in the same transaction. The
//! other side is changed by hand, and then rows come that it does not know: those of before.

use std::time::Instant;

use cutover_core::model::side::Side;
use serde_json::Value;

use crate::{
    ddl_partitions::{looks, verify},
    ddl_partitions_told::{ends, servers},
    pair::Pair,
    program::{COMMAND_WITHIN, Run},
};

const BEFORE: &str = "
    CREATE SCHEMA a; CREATE SCHEMA c;
    CREATE TABLE t1 (id int PRIMARY KEY, v text);
    CREATE TABLE t2 (id int PRIMARY KEY, v text);
    CREATE TABLE t3 (id int PRIMARY KEY, v text, w text);
    CREATE TABLE t5 (id int PRIMARY KEY, v text);
    CREATE TABLE t6 (id int PRIMARY KEY, v text);
    CREATE TABLE t7 (id int PRIMARY KEY, v text);
    CREATE TABLE a.t4 (id int PRIMARY KEY, v text);
    INSERT INTO t1 SELECT i, 'old' FROM generate_series(1, 20) i;
    INSERT INTO t2 TABLE t1; INSERT INTO t3 SELECT *, 'x' FROM t1; INSERT INTO a.t4 TABLE t1;
    INSERT INTO t5 TABLE t1; INSERT INTO t6 TABLE t1; INSERT INTO t7 TABLE t1";

struct Story {
    name: &'static str,
    /// What is done in one transaction before the change of definitions, and behind it.
    before: &'static str,
    define: &'static str,
    behind: &'static str,
    /// The stop behind that for the change itself.
    stops: &'static str,
}

const STORIES: &[Story] = &[
    Story {
        name: "a table",
        before: "UPDATE t1 SET v = 'before' WHERE id < 5; INSERT INTO t1 VALUES (100, 'b')",
        define: "ALTER TABLE t1 RENAME TO u1",
        behind: "UPDATE u1 SET v = 'behind' WHERE id < 3",
        stops: "",
    },
    Story {
        name: "a schema",
        before: "UPDATE a.t4 SET v = 'before' WHERE id < 5",
        define: "ALTER SCHEMA a RENAME TO b",
        behind: "UPDATE b.t4 SET v = 'behind' WHERE id < 3",
        stops: "",
    },
    Story {
        name: "another schema",
        before: "DELETE FROM t5 WHERE id < 5",
        define: "ALTER TABLE t5 SET SCHEMA c",
        behind: "INSERT INTO c.t5 VALUES (1, 'behind')",
        stops: "",
    },
    Story {
        name: "a column",
        before: "UPDATE t2 SET v = 'before' WHERE id < 5; INSERT INTO t2 VALUES (100, 'b')",
        define: "ALTER TABLE t2 RENAME v TO w",
        behind: "UPDATE t2 SET w = 'behind' WHERE id < 3",
        stops: "CUT0403",
    },
    Story {
        name: "a column that is dropped",
        before: "UPDATE t3 SET w = 'before' WHERE id < 5",
        define: "ALTER TABLE t3 DROP COLUMN w",
        behind: "UPDATE t3 SET v = 'behind' WHERE id < 3",
        stops: "CUT0403",
    },
    Story {
        name: "another type",
        before: "UPDATE t6 SET v = 'before' WHERE id < 5",
        define: "ALTER TABLE t6 ALTER v TYPE int USING length(v)",
        behind: "UPDATE t6 SET v = 0 WHERE id < 3",
        stops: "CUT0407",
    },
];

fn stopped(status: &Value, owner: Side) -> &Value {
    let stream = if owner == Side::Blue { "forward" } else { "back" };
    &status["streams"][stream]["health"]["stopped"]
}

async fn again(pair: &Pair, run: &mut Run) {
    assert!(run.terminate().await.success());
    *run = pair.desk.run();
}

/// What an operator does who believes every remedy; returns the codes of all stops.
async fn play(pair: &Pair, run: &mut Run, owner: Side, story: &Story) -> Vec<String> {
    let Story { name, before, define, behind, .. } = story;
    pair.does(owner, &format!("BEGIN; {before}; {define}; {behind}; COMMIT")).await;
    let (mut since, mut stops) = (Instant::now(), Vec::new());
    loop {
        assert!(since.elapsed() < COMMAND_WITHIN, "{name}: {stops:?} {}", pair.desk.log());
        let status = run.streams().await;
        if let Some(code) = stopped(&status, owner)["code"].as_str() {
            stops.push(code.to_owned());
            match stopped(&status, owner)["remedy"].as_str() {
                Some(remedy) if remedy.contains("make exactly this change") && stops.len() == 1 => {
                    pair.does(owner.other(), define).await;
                    again(pair, run).await;
                }
                Some(remedy) if remedy.contains("verify --repair") && stops.len() == 2 => {
                    pair.desk.ask(&["verify", "--repair"]).await.exits(0);
                }
                _ => panic!("{name}: {status}"),
            }
            since = Instant::now();
        } else if status["ready"]["state"] == "ready"
            && looks(pair, Side::Blue).await == looks(pair, Side::Green).await
        {
            assert_eq!(verify(pair, &["verify"]).await, 0, "{name}");
            return stops;
        }
    }
}

async fn stories(policy: &str) {
    let (blue, green) = servers().await;
    let more = format!("ddl: {policy}\ntables: {{ include: [public.*, a.*, b.*, c.*] }}\n");
    let pair = Pair::open(&format!("renamed-{policy}"), &blue, &green, &more).await;
    pair.does(Side::Blue, BEFORE).await;
    let mut run = pair.desk.run();
    run.ready().await;
    for story in STORIES {
        let stops = play(&pair, &mut run, Side::Blue, story).await;
        let wanted: Vec<&str> =
            ["CUT0515", story.stops].into_iter().filter(|code| !code.is_empty()).collect();
        assert_eq!(stops, wanted, "{}", story.name);
    }
    // A table that is gone has no rows to bring.
    let dropped = "BEGIN; INSERT INTO t7 VALUES (100, 'b'); DROP TABLE t7; COMMIT";
    pair.does(Side::Blue, dropped).await;
    let stops = async |run: &mut Run, wanted: &str| {
        let has = |s: &Value| stopped(s, Side::Blue)["code"] == wanted;
        let status = run.status(wanted, COMMAND_WITHIN, has).await;
        stopped(&status, Side::Blue)["remedy"].as_str().unwrap_or_default().to_owned()
    };
    stops(&mut run, "CUT0515").await;
    pair.does(Side::Green, "DROP TABLE t7").await;
    again(&pair, &mut run).await;
    assert!(stops(&mut run, "CUT0404").await.contains("exclude` (public.t7)"));
    let yaml = std::fs::read_to_string(pair.desk.folder().join("cutover.yaml")).expect("it");
    pair.desk.configure(&yaml.replace("c.*] }", "c.*], exclude: [public.t7] }"));
    again(&pair, &mut run).await;
    run.ready().await;

    pair.desk.moves("switch").await.exits(0);
    let back = Story {
        name: "on green",
        before: "UPDATE u1 SET v = 'green' WHERE id < 9",
        define: "ALTER TABLE u1 RENAME TO t1",
        behind: "INSERT INTO t1 VALUES (101, 'green')",
        stops: "",
    };
    assert_eq!(play(&pair, &mut run, Side::Green, &back).await, ["CUT0515"]);
    pair.desk.moves("rollback").await.exits(0);
    pair.sides_are_equal().await;
    ends(&pair, &mut run).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_before_another_name_in_one_transaction_arrive() {
    stories("apply").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_before_another_name_in_one_transaction_arrive_where_each_change_stops() {
    stories("stop").await;
}

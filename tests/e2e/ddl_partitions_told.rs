//! Partitions that come and go where the run watches statements: it stops at their place until the
//! other side is alike, or makes them there, and copies rows that nobody followed.

use std::time::Instant;

use cutover_core::model::side::Side;
use cutover_sandbox::{Postgres, wait_until};
use serde_json::Value;
use tokio_postgres::error::SqlState;

use crate::{
    ddl_partitions::{looks, verify},
    pair::{Pair, oldest_and_newest},
    program::{COMMAND_WITHIN, Run},
};

pub(crate) const BEFORE: &str = "
    CREATE TABLE refs (id int PRIMARY KEY);
    INSERT INTO refs SELECT generate_series(1, 200);
    CREATE TABLE parts (id int, k int, ref int REFERENCES refs, v text, PRIMARY KEY (id, k))
        PARTITION BY LIST (k);
    CREATE INDEX ON parts (v);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
    CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
    CREATE TABLE parts_3 PARTITION OF parts FOR VALUES IN (3);
    CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
    INSERT INTO parts SELECT i, 1 + i % 3, i, 'old' FROM generate_series(1, 30) i;
    INSERT INTO parts SELECT i, 8 + i % 2, i, 'rest' FROM generate_series(1, 20) i;
    CREATE TABLE months (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
    CREATE TABLE months_1 PARTITION OF months FOR VALUES IN (1);
    CREATE TABLE months_2 PARTITION OF months FOR VALUES IN (2);
    INSERT INTO months SELECT i, 1 + i % 2, 'old' FROM generate_series(1, 20) i";

/// What clients do, each statement by itself; `define` is what an operator repeats.
pub(crate) struct Does {
    pub(crate) sql: &'static str,
    pub(crate) define: Option<&'static str>,
}

pub(crate) const fn ddl(sql: &'static str) -> Does {
    Does { sql, define: Some(sql) }
}

pub(crate) const fn rows(sql: &'static str) -> Does {
    Does { sql, define: None }
}

/// Both in one transaction.
pub(crate) const fn both(sql: &'static str, define: &'static str) -> Does {
    Does { sql, define: Some(define) }
}

const FILLED: &[Does] = &[
    ddl("CREATE TABLE parts_7 (LIKE parts INCLUDING ALL)"),
    rows("INSERT INTO parts_7 SELECT i, 7, i, 'filled' FROM generate_series(1, 50) i"),
    both(
        "BEGIN; ALTER TABLE parts ATTACH PARTITION parts_7 FOR VALUES IN (7); \
         UPDATE parts SET v = 'at once' WHERE id = 3 AND k = 7; COMMIT",
        "ALTER TABLE parts ATTACH PARTITION parts_7 FOR VALUES IN (7)",
    ),
    rows("UPDATE parts SET v = 'later' WHERE id = 4 AND k = 7"),
    rows("DELETE FROM parts WHERE id = 5 AND k = 7"),
    // Ahead of the place where it becomes a partition.
    rows("INSERT INTO refs VALUES (1001); INSERT INTO parts VALUES (51, 7, 1001, 'ahead')"),
];

const STORIES: &[(&str, &[Does])] = &[
    (
        "created",
        &[
            ddl("CREATE TABLE parts_5 PARTITION OF parts FOR VALUES IN (5)"),
            rows(
                "INSERT INTO parts VALUES (1, 5, 1, 'x'); INSERT INTO parts_5 VALUES (2, 5, 2, 'y')",
            ),
            both(
                "BEGIN; CREATE TABLE parts_6 PARTITION OF parts FOR VALUES IN (6); \
                 INSERT INTO parts SELECT i, 6, i, 'with it' FROM generate_series(1, 9) i; COMMIT",
                "CREATE TABLE parts_6 PARTITION OF parts FOR VALUES IN (6)",
            ),
        ],
    ),
    (
        "attached empty",
        &[
            ddl("CREATE TABLE parts_10 (LIKE parts INCLUDING ALL)"),
            ddl("ALTER TABLE parts ATTACH PARTITION parts_10 FOR VALUES IN (10)"),
            rows("INSERT INTO parts SELECT i, 10, i, 'x' FROM generate_series(1, 9) i"),
        ],
    ),
    ("attached with rows", FILLED),
    (
        "all get a column between two rows of one",
        &[
            rows("UPDATE parts SET v = 'seen' WHERE k = 1"),
            both(
                "BEGIN; UPDATE parts SET v = 'before' WHERE k = 1; ALTER TABLE parts ADD more int \
                 DEFAULT 3; UPDATE parts SET more = 4 WHERE k = 1 AND id < 9; COMMIT",
                "ALTER TABLE parts ADD more int DEFAULT 3",
            ),
        ],
    ),
    (
        "a default partition gives rows away",
        &[
            ddl("ALTER TABLE parts DETACH PARTITION parts_rest"),
            ddl("CREATE TABLE parts_8 PARTITION OF parts FOR VALUES IN (8)"),
            rows(
                "WITH moved AS (DELETE FROM parts_rest WHERE k = 8 RETURNING *) \
                 INSERT INTO parts SELECT * FROM moved",
            ),
            ddl("ALTER TABLE parts ATTACH PARTITION parts_rest DEFAULT"),
            rows("INSERT INTO parts VALUES (900, 8, 1, 'x'), (900, 99, 1, 'y')"),
            rows("UPDATE parts SET v = 'z' WHERE k IN (8, 9)"),
        ],
    ),
    (
        "detached, and back after a while",
        &[
            ddl("ALTER TABLE parts DETACH PARTITION parts_1"),
            rows("INSERT INTO parts_1 VALUES (900, 1, 1, 'alone')"),
            ddl("ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES IN (1)"),
            rows("UPDATE parts SET v = 'back' WHERE id = 900"),
        ],
    ),
    (
        "one takes the place of another",
        &[
            ddl("CREATE TABLE parts_3b (LIKE parts INCLUDING ALL)"),
            rows("INSERT INTO parts_3b SELECT i, 3, i, 'new' FROM generate_series(1, 9) i"),
            both(
                "BEGIN; ALTER TABLE parts DETACH PARTITION parts_3; \
                 ALTER TABLE parts ATTACH PARTITION parts_3b FOR VALUES IN (3); \
                 UPDATE parts SET v = 'swapped' WHERE id = 1 AND k = 3; COMMIT",
                "BEGIN; ALTER TABLE parts DETACH PARTITION parts_3; \
                 ALTER TABLE parts ATTACH PARTITION parts_3b FOR VALUES IN (3); COMMIT",
            ),
            rows(
                "INSERT INTO parts VALUES (910, 3, 1, 'x'); INSERT INTO parts_3 VALUES (911, 3, 1, 'y')",
            ),
        ],
    ),
    (
        "dropped, and made again",
        &[
            ddl("DROP TABLE parts_3"),
            ddl("DROP TABLE parts_2"),
            ddl("CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2)"),
            rows("INSERT INTO parts VALUES (1, 2, 1, 'x')"),
        ],
    ),
    (
        "detached without a lock",
        &[
            ddl("ALTER TABLE months DETACH PARTITION months_1 CONCURRENTLY"),
            rows(
                "INSERT INTO months_1 VALUES (900, 1, 'alone'); DELETE FROM months_1 WHERE id = 2",
            ),
            rows("INSERT INTO months VALUES (901, 2, 'x')"),
        ],
    ),
];

/// The same on green, once it owns the writes.
const ON_GREEN: &[(&str, &[Does])] = &[
    (
        "created on green",
        &[
            ddl("CREATE TABLE parts_40 PARTITION OF parts FOR VALUES IN (40)"),
            rows("INSERT INTO parts VALUES (1, 40, 1, 'x')"),
        ],
    ),
    (
        "attached with rows on green",
        &[
            ddl("CREATE TABLE parts_41 (LIKE parts INCLUDING ALL)"),
            rows("INSERT INTO parts_41 SELECT i, 41, i, 'filled' FROM generate_series(1, 50) i"),
            ddl("ALTER TABLE parts ATTACH PARTITION parts_41 FOR VALUES IN (41)"),
            rows("UPDATE parts SET v = 'later' WHERE id = 4 AND k = 41"),
            rows(
                "INSERT INTO refs VALUES (1002); INSERT INTO parts VALUES (51, 41, 1002, 'ahead')",
            ),
        ],
    ),
    (
        "away and back on green",
        &[
            ddl("ALTER TABLE parts DETACH PARTITION parts_1"),
            rows("INSERT INTO parts_1 VALUES (950, 1, 1, 'alone')"),
            ddl("ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES IN (1)"),
            rows("UPDATE parts SET v = 'back' WHERE id IN (900, 950)"),
        ],
    ),
];

/// What an operator gets who makes what is there already.
const MADE: &[SqlState] = &[
    SqlState::DUPLICATE_TABLE,
    SqlState::DUPLICATE_SCHEMA,
    SqlState::WRONG_OBJECT_TYPE,
    SqlState::UNDEFINED_TABLE,
    SqlState::INVALID_OBJECT_DEFINITION,
];

/// An operator in front of the run, and which of the story's definitions come next.
struct Operator<'a> {
    pair: &'a Pair,
    owner: Side,
    todo: std::collections::VecDeque<&'static str>,
}

impl Operator<'_> {
    /// Follows the remedy: makes the next change that is not there yet.
    async fn obeys(&mut self, status: &Value) {
        let client = self.pair.direct(self.owner.other()).await;
        while let Some(statement) = self.todo.pop_front() {
            match client.batch_execute(statement).await {
                Ok(()) => return,
                Err(e) if e.code().is_some_and(|code| MADE.contains(code)) => {}
                // The run was about to copy the default partition again, and has to begin once more.
                Err(e) if e.code() == Some(&SqlState::CHECK_VIOLATION) => {
                    return self.todo.push_front(statement);
                }
                Err(e) => panic!("{statement}: {e:?}\n{status}"),
            }
        }
        panic!("nothing is left to make: {status}\n{}", self.pair.desk.log());
    }
}

/// Plays a story; returns how often the run had to be helped.
pub(crate) async fn play(
    pair: &Pair,
    run: &mut Run,
    owner: Side,
    (name, story): (&str, &[Does]),
) -> u32 {
    for does in story {
        pair.does(owner, does.sql).await;
    }
    let todo = story.iter().filter_map(|does| does.define).collect();
    let mut operator = Operator { pair, owner, todo };
    let stream = if owner == Side::Blue { "forward" } else { "back" };
    // Each stop is a step of its own, and brings the story on.
    let (mut since, mut stops) = (Instant::now(), 0);
    loop {
        assert!(since.elapsed() < COMMAND_WITHIN, "{name}: {}", pair.desk.log());
        if let Some(ended) = run.ended_or_streams().await {
            // More is missing there than at this place.
            assert!(ended.code() == Some(3) && pair.desk.log().contains("CUT0301"), "{name}");
            stops += 1;
            operator.obeys(&Value::Null).await;
            *run = pair.desk.run();
            since = Instant::now();
            continue;
        }
        let status = run.streams().await;
        let stopped = &status["streams"][stream]["health"]["stopped"];
        if let Some(code) = stopped["code"].as_str() {
            // Where blue has gone on before it was looked at, what is met first is that green's
            // default partition still holds the rows.
            let gives_away = name == "a default partition gives rows away";
            let named = code == "CUT0515" || (code == "CUT0412" && gives_away);
            assert!(named, "{name}: {status}\n{}", pair.desk.log());
            stops += 1;
            assert!(run.terminate().await.success());
            operator.obeys(&status).await;
            *run = pair.desk.run();
            since = Instant::now();
        } else if status["ready"]["state"] == "ready"
            && looks(pair, Side::Blue).await == looks(pair, Side::Green).await
        {
            break;
        }
    }
    assert_eq!(looks(pair, Side::Blue).await, looks(pair, Side::Green).await, "{name}");
    assert_eq!(verify(pair, &["verify"]).await, 0, "{name}");
    stops
}

/// Two servers whose runs may watch statements.
pub(crate) async fn servers() -> (Postgres, Postgres) {
    let (blue, green) = oldest_and_newest().await;
    for server in [&blue, &green] {
        let root = server.connect("postgres").await.expect("a superuser");
        root.batch_execute("ALTER ROLE cutover SUPERUSER").await.expect("a superuser may");
    }
    (blue, green)
}

pub(crate) async fn ends(pair: &Pair, run: &mut Run) {
    pair.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    pair.nothing_is_left().await;
}

async fn come_and_go(policy: &str) {
    let (blue, green) = servers().await;
    let pair =
        Pair::open(&format!("parts-{policy}"), &blue, &green, &format!("ddl: {policy}\n")).await;
    pair.does(Side::Blue, BEFORE).await;
    let mut run = pair.desk.run();
    run.ready().await;
    for (name, story) in STORIES {
        let stops = play(&pair, &mut run, Side::Blue, (name, story)).await;
        let alone = !story.iter().any(|d| d.sql.contains("DETACH") || d.sql.contains("DROP"));
        if policy == "apply" && alone {
            assert_eq!(stops, 0, "{name} needs nobody");
        }
        pair.desk.moves("rehearse").await.exits(0);
    }
    pair.desk.moves("switch").await.exits(0);
    for (name, story) in ON_GREEN {
        play(&pair, &mut run, Side::Green, (name, story)).await;
    }
    pair.desk.moves("rollback").await.exits(0);
    pair.does(Side::Blue, "UPDATE parts SET v = 'blue' WHERE id < 9").await;
    pair.sides_are_equal().await;
    ends(&pair, &mut run).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_come_and_go_by_themselves() {
    come_and_go("apply").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_come_and_go_with_an_operator() {
    come_and_go("stop").await;
}

/// Killed at each fact of a copy that is made again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_away_while_nobody_looked_is_copied_again_through_kills() {
    let (blue, green) = servers().await;
    let pair = Pair::open("parts-away", &blue, &green, "ddl: stop\n").await;
    pair.does(Side::Blue, BEFORE).await;
    let mut run = pair.desk.run();
    run.ready().await;
    for (round, moment) in ["outdated", "copied", "copy_ended", ""].into_iter().enumerate() {
        assert!(run.terminate().await.success());
        pair.does(Side::Blue, "UPDATE parts SET v = 'before' WHERE k = 2").await;
        pair.does(Side::Blue, "ALTER TABLE parts DETACH PARTITION parts_2").await;
        let alone = "INSERT INTO parts_2 VALUES ({n}, 2, 1, 'alone'); UPDATE parts_2 SET v = '{n}'";
        pair.does(Side::Blue, &alone.replace("{n}", &format!("{}", 900 + round))).await;
        pair.does(Side::Blue, "ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES IN (2)").await;
        pair.does(Side::Blue, "UPDATE parts SET v = 'later' WHERE id >= 900").await;
        run = pair.desk.run();
        if !moment.is_empty() {
            let seen = move |facts: &[Value]| facts.iter().any(|f| f["fact"] == moment);
            run.kill_when("run.journal", moment, seen).await;
            run = pair.desk.run();
        }
        run.ready().await;
        assert_eq!(looks(&pair, Side::Blue).await, looks(&pair, Side::Green).await, "{moment}");
        assert_eq!(verify(&pair, &["verify"]).await, 0, "{moment}");
    }
    // What we copied there ourselves alarms nobody, and a move finds nothing in its way.
    pair.desk.moves("switch").await.exits(0);
    pair.does(Side::Green, "UPDATE parts SET v = 'green' WHERE id >= 900").await;
    pair.desk.moves("rollback").await.exits(0);
    pair.sides_are_equal().await;
    ends(&pair, &mut run).await;
}

/// Lists on blue; on green one is cut in another way, and one not at all.
const LISTS: &str = "
    CREATE SCHEMA cut;
    CREATE TABLE cut.log (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
    CREATE TABLE cut.log_1 PARTITION OF cut.log FOR VALUES IN (1);
    CREATE TABLE cut.log_2 PARTITION OF cut.log FOR VALUES IN (2);
    CREATE TABLE cut.flat (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
    CREATE TABLE cut.flat_1 PARTITION OF cut.flat FOR VALUES IN (1);
    CREATE TABLE cut.flat_2 PARTITION OF cut.flat FOR VALUES IN (2);
    INSERT INTO cut.log SELECT i, 1 + i % 2, 'old' FROM generate_series(1, 100) i;
    INSERT INTO cut.flat SELECT i, 1 + i % 2, 'old' FROM generate_series(1, 100) i";
const OTHERWISE: &str = "
    CREATE SCHEMA cut;
    CREATE TABLE cut.log (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY HASH (id);
    CREATE TABLE cut.log_even PARTITION OF cut.log FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE cut.log_odd PARTITION OF cut.log FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE cut.flat (id int, k int, v text, PRIMARY KEY (id, k))";
/// `{t}` is either table; whether all of it has to be copied again, where nothing but that can be.
const CUTS: &[(&str, &[&str], Option<bool>)] = &[
    (
        "created",
        &[
            "BEGIN; CREATE TABLE {t}_5 PARTITION OF {t} FOR VALUES IN (5); \
             INSERT INTO {t} SELECT i, 5, 'with it' FROM generate_series(1, 9) i; COMMIT",
            "INSERT INTO {t} VALUES (10, 5, 'x')",
        ],
        Some(false),
    ),
    (
        "attached with rows",
        &[
            "CREATE TABLE {t}_7 (LIKE {t} INCLUDING ALL); \
             INSERT INTO {t}_7 SELECT i, 7, 'filled' FROM generate_series(1, 50) i",
            "BEGIN; ALTER TABLE {t} ATTACH PARTITION {t}_7 FOR VALUES IN (7); \
             UPDATE {t} SET v = 'at once' WHERE id = 3 AND k = 7; COMMIT",
            "UPDATE {t} SET v = 'later' WHERE id = 4 AND k = 7",
        ],
        Some(true),
    ),
    (
        "detached",
        &["ALTER TABLE {t} DETACH PARTITION {t}_2", "INSERT INTO {t} VALUES (60, 7, 'x')"],
        Some(true),
    ),
    ("dropped", &["DROP TABLE {t}_1", "INSERT INTO {t} VALUES (61, 7, 'x')"], Some(true)),
    (
        "a branch",
        &[
            "CREATE TABLE {t}_b PARTITION OF {t} FOR VALUES IN (20) PARTITION BY RANGE (id)",
            "CREATE TABLE {t}_b1 PARTITION OF {t}_b FOR VALUES FROM (0) TO (100)",
            "INSERT INTO {t} VALUES (1, 20, 'b')",
        ],
        None,
    ),
];

async fn sums(pair: &Pair, side: Side) -> String {
    let sql = "SELECT string_agg(x, ' ') FROM ( \
               SELECT count(*) || ':' || sum(hashtext(t::text)) FROM cut.log t UNION ALL \
               SELECT count(*) || ':' || sum(hashtext(t::text)) FROM cut.flat t) a(x)";
    pair.superuser(side).await.query_one(sql, &[]).await.expect("sums").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn green_may_be_partitioned_in_another_way_while_partitions_come_and_go() {
    let (blue, green) = servers().await;
    let more = "ddl: stop\nschema: provided\ntables: { include: [cut.log, cut.flat] }\n";
    let pair = Pair::open("parts-cut", &blue, &green, more).await;
    pair.does(Side::Blue, LISTS).await;
    pair.does(Side::Green, OTHERWISE).await;
    let mut run = pair.desk.run();
    run.ready().await;
    let equal = async || sums(&pair, Side::Blue).await == sums(&pair, Side::Green).await;
    for (name, story, again) in CUTS {
        for table in ["cut.log", "cut.flat"] {
            let before = pair.desk.length("run.journal");
            for statement in *story {
                pair.does(Side::Blue, &statement.replace("{t}", table)).await;
            }
            wait_until(&format!("the rows to be equal: {name}"), COMMAND_WITHIN, equal)
                .await
                .unwrap_or_else(|e| panic!("{e}\n{}", pair.desk.log()));
            run.ready().await;
            assert_eq!(verify(&pair, &["verify"]).await, 0, "{name}");
            let facts = pair.desk.facts_since("run.journal", before);
            let copied = facts.iter().any(|f| f["fact"] == "outdated" && f["from"] == "blue");
            assert!(again.is_none_or(|again| again == copied), "{name} of {table}: {facts:?}");
        }
        pair.desk.moves("rehearse").await.exits(0);
    }
    // A change of the whole table is repeated on green, whose partitions are none of its business.
    let column =
        "ALTER TABLE cut.log ADD COLUMN more text; ALTER TABLE cut.flat ADD COLUMN more text";
    pair.does(Side::Blue, column).await;
    run.status("the stream to stop", COMMAND_WITHIN, |s| {
        s["streams"]["forward"]["health"]["stopped"]["code"] == "CUT0515"
    })
    .await;
    assert!(run.terminate().await.success());
    pair.does(Side::Green, column).await;
    run = pair.desk.run();
    run.ready().await;
    pair.does(Side::Blue, "UPDATE cut.log SET more = 'm'").await;
    pair.desk.moves("switch").await.exits(0);
    pair.does(Side::Green, "UPDATE cut.flat SET more = 'g'").await;
    pair.desk.moves("rollback").await.exits(0);
    wait_until("the rows to be equal", COMMAND_WITHIN, equal).await.expect("they are");
    ends(&pair, &mut run).await;
}

//! A stream stops at a row, since somebody changed the other side: `verify --repair` copies the
//! table again, and the stream goes on where it was.

use cutover_core::model::side::Side;
use cutover_sandbox::wait_until;
use serde_json::{Value, json};
use tokio_postgres::error::SqlState;

use crate::{
    pair::{Pair, oldest_and_newest},
    program::{COMMAND_WITHIN, Run},
    ranges::{Ledger, SLOWLY},
    world::{PASS, World},
};

struct Case {
    code: &'static str,
    table: &'static str,
    /// Behind our back, where nobody may write.
    behind: &'static str,
    /// What a client does to the same row then.
    change: &'static str,
}

const CASES: [Case; 4] = [
    Case {
        code: "CUT0401",
        table: "products",
        behind: "SET session_replication_role = replica; DELETE FROM products WHERE id = 3",
        change: "UPDATE products SET price = price + 1 WHERE id = 3",
    },
    Case {
        code: "CUT0401",
        table: "events_2026_01",
        behind: "DELETE FROM events WHERE id = (SELECT min(id) FROM events_2026_01)",
        change: "UPDATE events SET kind = 'x' WHERE id = (SELECT min(id) FROM events_2026_01)",
    },
    Case {
        code: "CUT0401",
        table: "audit_log",
        behind: "DELETE FROM audit_log WHERE at = (SELECT min(at) FROM audit_log)",
        change: "DELETE FROM audit_log WHERE at = (SELECT min(at) FROM audit_log)",
    },
    Case {
        code: "CUT0402",
        table: "receipts",
        behind: "INSERT INTO receipts SELECT 990, count(*) FROM receipts WHERE client = 990",
        change: "INSERT INTO receipts SELECT 990, count(*) FROM receipts WHERE client = 990",
    },
];

impl Case {
    fn name(&self) -> String {
        format!("public.{}", self.table)
    }

    async fn changes(&self, world: &World, owner: Side) {
        let other = world.superuser(owner.other()).await;
        other.batch_execute(&format!("{PASS}; {}", self.behind)).await.expect("tampering");
        world.direct(owner).await.batch_execute(self.change).await.expect("a change");
    }

    /// Until the stream has stopped at the row.
    async fn happens(&self, world: &World, run: &mut Run, owner: Side) {
        self.changes(world, owner).await;
        run.status(self.code, COMMAND_WITHIN, |s| {
            s["alarms"].as_array().is_some_and(|all| all.iter().any(|a| a["code"] == self.code))
        })
        .await;
    }
}

/// Waits for the copy and everything behind it, so that nothing else has to be asked.
async fn repaired(world: &World, tables: &[String]) {
    let repair = world.desk.ask(&["verify", "--repair"]).await;
    repair.exits(0);
    assert_eq!(repair.value["verdict"], "equal", "{}", repair.said);
    assert_eq!(repair.value["copied_again"], json!(tables), "{}", repair.said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_stopped_at_a_row_goes_on_after_a_repair() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    for owner in [Side::Blue, Side::Green] {
        for (n, case) in CASES.iter().enumerate() {
            case.happens(&world, &mut run, owner).await;
            world.desk.ask(&["verify"]).await.exits(3).says("verify --repair");
            if n % 2 == 0 {
                repaired(&world, &[case.name()]).await;
            } else {
                // What is written down holds, whatever happens to the process and to who asked.
                let noted = |facts: &[Value]| facts.iter().any(|f| f["fact"] == "outdated");
                let asked = world.desk.begin(&["verify", "--repair"]);
                run.kill_when("run.journal", "outdated", noted).await;
                asked.await.expect("no panic").exits(3);
                run = world.desk.run();
            }
            run.ready().await;
        }
        world.desk.ask(&["verify"]).await.exits(0);
        world.desk.moves(if owner == Side::Blue { "switch" } else { "rollback" }).await.exits(0);
    }
    world.close_the_books(load, Side::Blue).await;
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

/// Behind the first row wait others: one command is enough for all of their tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_tables_are_repaired_by_one_command() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    let [products, _, _, receipts] = &CASES;
    products.happens(&world, &mut run, Side::Blue).await;
    receipts.changes(&world, Side::Blue).await;
    repaired(&world, &[products.name(), receipts.name()]).await;
    run.ready().await;
    world.desk.moves("switch").await.exits(0);
    world.sides_are_equal().await;
}

/// A run that is given up while a table is copied again says so to whoever waits for the copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_ends_with_the_run() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    let case = &CASES[0];
    case.happens(&world, &mut run, Side::Blue).await;
    let mut reader = world.superuser(Side::Green).await;
    let reading = reader.transaction().await.expect("a transaction");
    reading.batch_execute("LOCK products IN ACCESS SHARE MODE").await.expect("a lock");
    let asked = world.desk.begin(&["verify", "--repair"]);
    // The table cannot be emptied, so that the streams do not come back.
    run.status("no streams", COMMAND_WITHIN, |s| s["streams"].is_null()).await;
    let abort = world.desk.begin(&["abort", "--yes"]);
    let repair = asked.await.expect("no panic");
    repair.exits(1);
    assert_eq!(repair.value["verdict"], "inconclusive", "{}", repair.said);
    assert_eq!(repair.value["copied_again"], json!([case.name()]), "{}", repair.said);
    reading.rollback().await.expect("the lock is released");
    abort.await.expect("no panic").exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

/// Nothing can be copied while the sides are defined otherwise: the command is answered, and the run
/// goes on as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_waits_for_definitions_that_no_stream_tells_of() {
    let world = World::new().await;
    waits_for_definitions(&world, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_waits_for_definitions_that_come_behind_the_row() {
    let world = World::new().await;
    for side in [Side::Blue, Side::Green] {
        let root = world.superuser(side).await;
        root.batch_execute("ALTER ROLE cutover SUPERUSER").await.expect("a superuser may");
    }
    waits_for_definitions(&world, 1).await;
}

/// The first `count` alterations wait for the other side.
async fn waits_for_definitions(world: &World, count: usize) {
    let mut run = world.desk.run();
    run.ready().await;
    let alter = "ALTER TABLE products ADD COLUMN rating integer NOT NULL DEFAULT 3";
    let elsewhere = "ALTER TABLE receipts ADD COLUMN late integer NOT NULL DEFAULT 7";
    for (owner, alters) in [(Side::Blue, [alter, elsewhere]), (Side::Green, [alter, elsewhere])] {
        let alters = alters.map(|text| match owner {
            Side::Blue => text.to_owned(),
            Side::Green => text.replace("COLUMN ", "COLUMN also_"),
        });
        let case = &CASES[0];
        case.happens(world, &mut run, owner).await;
        for alter in &alters[..count] {
            world.direct(owner).await.batch_execute(alter).await.expect("it is altered");
        }
        let other = world.superuser(owner.other()).await;
        for (n, alter) in alters[..count].iter().enumerate() {
            // A table that is not copied is in the way only where all are looked at.
            if n == 0 || owner == Side::Blue {
                let repair = world.desk.ask(&["verify", "--repair"]).await;
                repair.exits(1).says("CUT0605").says("has no column");
                let status = run.streams().await;
                let stream = if owner == Side::Blue { "forward" } else { "back" };
                let stopped = &status["streams"][stream]["health"]["stopped"];
                assert_eq!(stopped["code"], case.code, "{status}");
            }
            other.batch_execute(&format!("{PASS}; {alter}")).await.expect("the same");
        }
        repaired(world, &[case.name()]).await;
        run.ready().await;
        world.desk.moves(if owner == Side::Blue { "switch" } else { "rollback" }).await.exits(0);
    }
    world.sides_are_equal().await;
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

/// Rows that break a constraint which is not valid are on both sides, and are copied again as others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_break_a_constraint_that_is_not_valid_are_copied_again() {
    let world = World::new().await;
    let old = "CREATE TABLE old (id int PRIMARY KEY, v int, note text); \
               INSERT INTO old SELECT i, i FROM generate_series(1, 10) i; \
               ALTER TABLE old ADD CONSTRAINT more CHECK (v > 5) NOT VALID; \
               CREATE DOMAIN amount AS int; \
               CREATE TABLE typed (id int PRIMARY KEY, v amount, note text); \
               INSERT INTO typed SELECT i, i FROM generate_series(1, 10) i; \
               ALTER DOMAIN amount ADD CONSTRAINT more CHECK (VALUE > 5) NOT VALID; \
               CREATE TABLE parts (id int PRIMARY KEY, v int, note text) PARTITION BY RANGE (id); \
               CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (20); \
               INSERT INTO parts SELECT i, i FROM generate_series(1, 10) i; \
               ALTER TABLE parts ADD CONSTRAINT more CHECK (v > 5) NOT VALID; \
               CREATE TABLE newer PARTITION OF parts FOR VALUES FROM (20) TO (40); \
               INSERT INTO parts SELECT i, i FROM generate_series(20, 30) i";
    world.direct(Side::Blue).await.batch_execute(old).await.expect("tables");
    let mut run = world.desk.run();
    run.ready().await;
    for owner in [Side::Blue, Side::Green] {
        let other = world.superuser(owner.other()).await;
        let cases = [
            Case {
                code: "CUT0401",
                table: "old",
                behind: "DELETE FROM old WHERE id IN (3, 9)",
                change: "UPDATE old SET note = 'x' WHERE id = 9",
            },
            Case {
                code: "CUT0401",
                table: "typed",
                behind: "DELETE FROM typed WHERE id IN (3, 9)",
                change: "UPDATE typed SET note = 'x' WHERE id = 9",
            },
            Case {
                code: "CUT0401",
                table: "part",
                behind: "DELETE FROM part WHERE id IN (3, 9)",
                change: "UPDATE parts SET note = 'x' WHERE id = 9",
            },
        ];
        for stops in &cases {
            let behind = format!("{PASS}; DELETE FROM {} WHERE id < 4", stops.table);
            other.batch_execute(&behind).await.expect("tampering");
            world.desk.ask(&["verify", "--repair"]).await.exits(0);
            world.sides_are_equal().await;
            stops.happens(&world, &mut run, owner).await;
            repaired(&world, &[stops.name()]).await;
            run.ready().await;
        }
        world.desk.moves(if owner == Side::Blue { "switch" } else { "rollback" }).await.exits(0);
    }
    world.sides_are_equal().await;
    for side in [Side::Blue, Side::Green] {
        let root = world.superuser(side).await;
        for table in ["old", "typed", "part"] {
            let broken = format!("{PASS}; UPDATE {table} SET v = v - 1 WHERE id = 3");
            let error = root.batch_execute(&broken).await.expect_err("it is checked");
            assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION), "{table}");
        }
        let valid = "SELECT string_agg(conrelid::regclass::text, ', ' ORDER BY 1) \
                       FROM pg_constraint WHERE conname = 'more' AND convalidated";
        let valid: String = root.query_one(valid, &[]).await.expect("constraints").get(0);
        assert_eq!(valid, "newer", "{side}");
    }
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

/// Without the unique index behind the replica identity a key may name several rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_named_several_rows_names_one_after_a_repair() {
    let world = World::new().await;
    let mut run = world.desk.run();
    run.ready().await;
    let doubled = Case {
        code: "CUT0408",
        table: "products",
        behind: "ALTER TABLE order_items DROP CONSTRAINT order_items_product_fkey; \
                 ALTER TABLE products DROP CONSTRAINT products_pkey, REPLICA IDENTITY FULL; \
                 INSERT INTO products SELECT * FROM products WHERE id = 3",
        change: "UPDATE products SET price = price + 1 WHERE id = 3",
    };
    doubled.happens(&world, &mut run, Side::Blue).await;
    repaired(&world, &["public.products".into()]).await;
    let key = "ALTER TABLE products ADD PRIMARY KEY (id), REPLICA IDENTITY DEFAULT; \
               ALTER TABLE order_items ADD FOREIGN KEY (product) REFERENCES products";
    let green = world.superuser(Side::Green).await;
    green.batch_execute(&format!("{PASS}; {key}")).await.expect("the key");
    world.desk.ask(&["verify"]).await.exits(0);
    world.desk.moves("switch").await.exits(0);
    world.sides_are_equal().await;
}

/// A definition that changes while a table is copied again waits for the other side, and ends nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alteration_in_the_middle_of_a_repair_waits_for_the_other_side() {
    altered_meanwhile(&World::new().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alteration_in_the_middle_of_a_repair_is_told_and_waits_for_the_other_side() {
    let world = World::new().await;
    for side in [Side::Blue, Side::Green] {
        let root = world.superuser(side).await;
        root.batch_execute("ALTER ROLE cutover SUPERUSER").await.expect("a superuser may");
    }
    altered_meanwhile(&world).await;
}

async fn altered_meanwhile(world: &World) {
    let mut run = world.desk.run();
    run.ready().await;
    // The table is written anew, so that its copy needs a later snapshot.
    let alter = "ALTER TABLE products ADD COLUMN rating integer NOT NULL \
                 DEFAULT (random() * 10)::integer";
    for owner in [Side::Blue, Side::Green] {
        let alter = match owner {
            Side::Blue => alter.to_owned(),
            Side::Green => alter.replace("COLUMN ", "COLUMN also_"),
        };
        let case = &CASES[0];
        case.happens(world, &mut run, owner).await;
        let mut reader = world.superuser(owner.other()).await;
        let reading = reader.transaction().await.expect("a transaction");
        reading.batch_execute("LOCK products IN ACCESS SHARE MODE").await.expect("a lock");
        let asked = world.desk.begin(&["verify", "--repair"]);
        // The table was looked at, and cannot be emptied yet.
        let root = world.superuser(owner.other()).await;
        let waits = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted \
                      AND relation = 'products'::regclass";
        wait_until("the copy to wait", COMMAND_WITHIN, async || {
            root.query_one(waits, &[]).await.is_ok_and(|row| row.get(0))
        })
        .await
        .expect("it waits");
        world.direct(owner).await.batch_execute(&alter).await.expect("it is altered");
        reading.rollback().await.expect("the lock is released");
        let tells = || world.desk.log().matches("has no column").count();
        let before = tells();
        wait_until("the column to be missed", COMMAND_WITHIN, async || tells() > before)
            .await
            .unwrap_or_else(|e| panic!("{e}: {}", world.desk.log()));
        assert!(run.exit().is_none(), "{}", world.desk.log());
        let other = world.superuser(owner.other()).await;
        other.batch_execute(&format!("{PASS}; {alter}")).await.expect("the same");
        asked.await.expect("no panic").exits(0);
        run.ready().await;
        world.desk.moves(if owner == Side::Blue { "switch" } else { "rollback" }).await.exits(0);
    }
    world.sides_are_equal().await;
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

/// What waits for the stream is built once a repair has mended the rows of green that break it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_break_what_waits_on_green_are_repaired() {
    const BECOMES: &str = "
        INSERT INTO ledger (id, v) VALUES (-500001, 'nor to this one');
        ALTER TABLE ledger ADD code bigint;
        UPDATE ledger SET code = id;
        ALTER TABLE ledger ADD UNIQUE (code)";
    const IS_THERE: &str =
        "SELECT count(*) = 2 FROM pg_index WHERE indrelid = 'ledger'::regclass AND indisunique";
    let (blue, green) = oldest_and_newest().await;
    let pair = Pair::open("late", &blue, &green, SLOWLY).await;
    let mut ledger = Ledger::of_shape(pair, BECOMES).await;
    let open = ledger.copied_again().await;
    let doubles = "SET cutover.run = 'cutover_late'; \
                   UPDATE ledger SET code = -500001 WHERE id = -500000";
    let root = ledger.pair.superuser(Side::Green).await;
    let there = root.query_one(IS_THERE, &[]).await.expect("indexes");
    assert!(!there.get::<_, bool>(0), "nothing waits");
    root.batch_execute(doubles).await.expect("tampering");
    drop(open);
    let desk = &ledger.pair.desk;
    let verify = desk.ask(&["verify"]).await;
    verify.exits(1);
    assert_eq!(verify.value["different"], 1, "{}", verify.said);
    desk.ask(&["verify", "--repair"]).await.exits(0);
    ledger.pair.holds(Side::Green, IS_THERE).await;
    ledger.run.ready().await;
    desk.moves("switch").await.exits(0);
    ledger.pair.sides_are_equal().await;
}

//! Hundreds of tables and sequences: nothing costs a journal line, a wait for a disk, or in the
//! pause a statement, for each of them.

use cutover_core::model::side::Side;
use tokio_postgres::Client;

use crate::{
    program::COMMAND_WITHIN,
    world::{PASS, World},
};

/// Tables beside the shop's. Every second one has a sequence, every fortieth no key.
const TABLES: usize = 400;
/// Messages that the pause may cost on both servers together; each statement is up to three, and
/// background work and writers that are waited for add some.
const MESSAGES: usize = 200;
/// Journal lines that a copy may take: one for every tenth of a second.
const LINES: usize = TABLES / 2;

/// Makes and fills the tables.
const MAKE: &str = "
DO $$ BEGIN
  FOR i IN 1..400 LOOP
    EXECUTE format('CREATE TABLE many.t%s (id %s, note text %s)', i,
      CASE i % 2 WHEN 0 THEN 'bigserial' ELSE 'bigint' END,
      CASE i % 40 WHEN 0 THEN '' ELSE ', PRIMARY KEY (id)' END);
    IF i % 40 = 0 THEN EXECUTE format('ALTER TABLE many.t%s REPLICA IDENTITY FULL', i); END IF;
    IF i % 3 > 0 THEN
      EXECUTE format('INSERT INTO many.t%s SELECT n, ''note'' FROM generate_series(1, 10) n', i);
    END IF;
  END LOOP;
END $$";

/// Changes every table in one transaction, and draws from every sequence.
async fn change_all(client: &Client, note: &str) {
    let change = format!(
        "DO $$ BEGIN
           FOR i IN 1..400 LOOP
             EXECUTE format('UPDATE many.t%s SET note = %L WHERE id = 3', i, '{note}');
             IF i % 2 = 0 THEN
               PERFORM nextval(format('many.t%s_id_seq', i));
             END IF;
           END LOOP;
         END $$"
    );
    client.batch_execute(&change).await.expect("every table is written");
}

/// State of every sequence.
async fn sequences(world: &World, side: Side) -> Vec<(String, i64)> {
    let rows = world
        .superuser(side)
        .await
        .query(
            "SELECT sequencename::text, coalesce(last_value, 0) FROM pg_sequences \
             WHERE schemaname = 'many' ORDER BY 1",
            &[],
        )
        .await
        .expect("sequences");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// What our sessions sent, by the log of a server: when it was done, and the text.
fn sent(world: &World, side: Side) -> Vec<(String, String)> {
    let log = world.server(side).log();
    let ours = log.lines().filter(|l| l.contains(" cutover@shop ") && l.contains("duration:"));
    ours.filter_map(|l| Some((l.get(..23)?.to_owned(), l.to_owned()))).collect()
}

/// Messages from the closing of the origin's fence to the opening of the target's, the last time.
fn in_the_pause(world: &World, from: Side) -> usize {
    let (origin, target) = (sent(world, from), sent(world, from.other()));
    let moved = |l: &str| l.contains("CREATE OR REPLACE FUNCTION") && l.contains("_fence");
    let closes = |l: &str| moved(l) && l.contains("RAISE EXCEPTION USING ERRCODE = '25006'");
    let opens = |l: &str| moved(l) && !closes(l);
    let began = origin.iter().rfind(|(_, l)| closes(l)).expect("the fence was closed").0.clone();
    let ended = target.iter().rfind(|(_, l)| opens(l)).expect("the fence was opened").0.clone();
    assert!(began <= ended, "{began} {ended}");
    let inside = |(at, _): &&(String, String)| *at >= began && *at <= ended;
    origin.iter().filter(inside).count() + target.iter().filter(inside).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_tables_move_with_few_statements() {
    let world = World::new().await;
    let client = world.direct(Side::Blue).await;
    client.batch_execute("CREATE SCHEMA many").await.expect("a schema");
    client.batch_execute(MAKE).await.expect("tables");
    let mut run = world.desk.run();
    run.ready().await;
    let journal = std::fs::read_to_string(world.desk.state("run.journal")).expect("a journal");
    let lines = journal.lines().filter(|line| line.contains("\"fact\":\"copied\"")).count();
    assert!((1..LINES).contains(&lines), "{lines} lines");

    let load = world.load();
    change_all(&client, "changed on blue").await;
    for side in [Side::Blue, Side::Green] {
        let superuser = world.superuser(side).await;
        superuser
            .batch_execute("ALTER SYSTEM SET log_min_duration_statement = 0")
            .await
            .expect("a setting");
        superuser.batch_execute("SELECT pg_reload_conf()").await.expect("a reload");
    }
    world.desk.moves("switch").await.exits(0);
    let messages = in_the_pause(&world, Side::Blue);
    assert!((1..=MESSAGES).contains(&messages), "{messages} messages");
    world.only_takes_writes(Side::Green).await;
    let (blue, green) = (sequences(&world, Side::Blue).await, sequences(&world, Side::Green).await);
    assert_eq!(blue.len(), TABLES / 2);
    assert_eq!(blue, green);

    change_all(&world.direct(Side::Green).await, "changed on green").await;
    world.desk.moves("rollback").await.exits(0);
    let messages = in_the_pause(&world, Side::Green);
    assert!((1..=MESSAGES).contains(&messages), "{messages} messages");
    assert_eq!(sequences(&world, Side::Blue).await, sequences(&world, Side::Green).await);
    world.close_the_books(load, Side::Blue).await;
    world.desk.ask(&["verify"]).await.exits(0);

    // One row of one table of many is found.
    let green = world.superuser(Side::Green).await;
    let spoil = format!("{PASS}; UPDATE many.t7 SET note = 'spoiled' WHERE id = 1");
    green.batch_execute(&spoil).await.expect("a row is spoiled");
    let verify = world.desk.ask(&["verify"]).await;
    verify.exits(1);
    assert_eq!(verify.value["different"], 1, "{}", verify.said);
    world.desk.ask(&["verify", "--repair"]).await.exits(0);
    world.sides_are_equal().await;
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

//! Several tables are emptied by one statement, and the stream is to empty some of them only.

use cutover_core::model::side::Side;

use crate::pair::{Pair, oldest_and_newest};

const TABLES: &str = "CREATE TABLE owners (id integer PRIMARY KEY); \
    CREATE TABLE items (id integer PRIMARY KEY, owner integer REFERENCES owners); \
    INSERT INTO owners SELECT generate_series(1, 9); INSERT INTO items SELECT i, i FROM generate_series(1, 9) i";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_copied_since_is_not_emptied_with_others() {
    let (blue, green) = oldest_and_newest().await;
    let pair = Pair::open("emptied", &blue, &green, "").await;
    pair.does(Side::Blue, TABLES).await;
    let mut run = pair.desk.run();
    run.ready().await;
    for (table, n) in [("owners", 10), ("items", 11)] {
        assert!(run.terminate().await.success());
        // It is copied again, behind what the stream tells of both.
        let again = format!(
            "ALTER PUBLICATION cutover_emptied DROP TABLE {table}; \
             ALTER PUBLICATION cutover_emptied ADD TABLE {table}"
        );
        pair.superuser(Side::Blue).await.batch_execute(&again).await.expect("it comes back");
        let emptied = format!(
            "TRUNCATE owners, items; INSERT INTO owners VALUES ({n}); \
             INSERT INTO items VALUES ({n}, {n})"
        );
        pair.does(Side::Blue, &emptied).await;
        run = pair.desk.run();
        run.ready().await;
        for table in ["owners", "items"] {
            let one = format!("SELECT count(*) = 1 AND min(id) = {n} FROM {table}");
            pair.holds(Side::Green, &one).await;
        }
    }
    pair.completes(run).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_left_out_may_be_emptied_with_others() {
    let (blue, green) = oldest_and_newest().await;
    let exclude = "tables: { include: [\"public.*\"], exclude: [\"public.events_2026_01\"] }\n";
    let pair = Pair::open("excluded", &blue, &green, exclude).await;
    let mut run = pair.desk.run();
    run.ready().await;
    pair.does(Side::Blue, "TRUNCATE events").await;
    pair.holds(Side::Green, "SELECT count(*) = 0 FROM events").await;
    run.ready().await;
    pair.desk.moves("switch").await.exits(0);
}

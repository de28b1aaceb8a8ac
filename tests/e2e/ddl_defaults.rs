//! What partitions have unlike the table above them: defaults of their own, and what stands behind
//! `PARTITION OF`.

use cutover_core::model::side::Side;
use cutover_sandbox::wait_until;

use crate::{
    ddl_partitions::verify,
    ddl_partitions_told::{ends, servers},
    pair::Pair,
    program::{COMMAND_WITHIN, Run},
};

const BEFORE: &str = "
    CREATE TABLE parts (id int, k int, v text DEFAULT 'first', w int, PRIMARY KEY (id, k))
        PARTITION BY LIST (k);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
    CREATE TABLE parts_2 PARTITION OF parts (v DEFAULT 'two') FOR VALUES IN (2);
    INSERT INTO parts SELECT i, 1 + i % 2, 'old' FROM generate_series(1, 20) i";

/// Each statement by itself, or those of one transaction.
const STATEMENTS: &[&str] = &[
    "CREATE TABLE parts_5 PARTITION OF parts (v DEFAULT 'five' NOT NULL, w UNIQUE, CHECK (w > 0)) \
     FOR VALUES IN (5)",
    "INSERT INTO parts VALUES (1, 5, 'x', 1); INSERT INTO parts_5 (id, k) VALUES (2, 5)",
    "CREATE TABLE parts_6 PARTITION OF parts (v DEFAULT NULL, w DEFAULT 6) FOR VALUES IN (6)",
    "ALTER TABLE parts_1 ALTER v SET DEFAULT 'one'",
    // The table above alone; green's statement would go down.
    "ALTER TABLE ONLY parts ALTER v SET DEFAULT 'above'",
    "ALTER TABLE ONLY parts ALTER w SET DEFAULT 7",
    "ALTER TABLE ONLY parts ALTER w DROP DEFAULT",
    "ALTER TABLE parts_2 ALTER v DROP DEFAULT",
    "CREATE TABLE parts_7 PARTITION OF parts FOR VALUES IN (7) PARTITION BY RANGE (id)",
    "CREATE TABLE parts_7a PARTITION OF parts_7 (v DEFAULT '7a') DEFAULT",
    "BEGIN; ALTER TABLE ONLY parts ALTER v DROP DEFAULT; INSERT INTO parts VALUES (1, 7, 'x'); COMMIT",
    "ALTER TABLE parts ADD COLUMN more int DEFAULT 3; ALTER TABLE parts_1 ALTER more DROP DEFAULT",
    "ALTER TABLE ONLY parts ALTER more SET DEFAULT 4",
    "CREATE TABLE parts_8 (LIKE parts INCLUDING ALL); ALTER TABLE parts_8 ALTER v SET DEFAULT '8'; \
     INSERT INTO parts_8 SELECT i, 8 FROM generate_series(1, 9) i; \
     ALTER TABLE parts ATTACH PARTITION parts_8 FOR VALUES IN (8)",
    "ALTER TABLE parts ALTER v SET DEFAULT 'last'",
];

async fn become_alike(pair: &Pair, run: &mut Run, what: &str) {
    wait_until(&format!("definitions to be equal: {what}"), COMMAND_WITHIN, async || {
        pair.defined(Side::Blue).await == pair.defined(Side::Green).await
    })
    .await
    .unwrap_or_else(|e| panic!("{e}\n{}", pair.desk.log()));
    run.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_keep_what_they_have_of_their_own() {
    let (blue, green) = servers().await;
    let pair = Pair::open("defaults", &blue, &green, "ddl: apply\n").await;
    pair.does(Side::Blue, BEFORE).await;
    let mut run = pair.desk.run();
    run.ready().await;
    for (n, statement) in STATEMENTS.iter().enumerate() {
        pair.does(Side::Blue, statement).await;
        // Some come while the one before is still followed.
        if n % 3 != 1 {
            become_alike(&pair, &mut run, statement).await;
        }
    }
    become_alike(&pair, &mut run, "the end").await;
    assert_eq!(verify(&pair, &["verify"]).await, 0);
    pair.desk.moves("switch").await.exits(0);
    pair.sides_are_equal().await;
    pair.desk.moves("rollback").await.exits(0);
    ends(&pair, &mut run).await;
}

//! A stream stops at a row, since somebody changed the other side: `verify --repair` copies the
//! table again, and the stream goes on where it was.

use cutover_core::model::side::Side;
use serde_json::json;

use crate::{
    program::{COMMAND_WITHIN, Run},
    world::{PASS, World},
};

async fn has_stopped(run: &mut Run, code: &str) {
    run.status(code, COMMAND_WITHIN, |s| {
        s["alarms"].as_array().is_some_and(|all| all.iter().any(|alarm| alarm["code"] == code))
    })
    .await;
}

/// What is done behind our back where nobody may write, what a client does to the same row then,
/// and at what the stream stops.
const CASES: [(&str, &str, &str); 3] = [
    (
        "SET session_replication_role = replica; DELETE FROM products WHERE id = 3",
        "UPDATE products SET price = price + 1 WHERE id = 3",
        "CUT0401",
    ),
    ("INSERT INTO receipts VALUES (990, 1)", "INSERT INTO receipts VALUES (990, 1)", "CUT0402"),
    (
        "ALTER TABLE receipts DROP CONSTRAINT receipts_pkey, REPLICA IDENTITY FULL; \
         INSERT INTO receipts SELECT * FROM receipts WHERE client = 990",
        "DELETE FROM receipts WHERE client = 990",
        "CUT0408",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_stopped_at_a_row_goes_on_after_a_repair() {
    let world = World::new().await;
    let load = world.load();
    let mut run = world.desk.run();
    run.ready().await;
    for owner in [Side::Blue, Side::Green] {
        // Where clients write, a key that is gone is mended before the run goes on.
        let cases = if owner == Side::Blue { &CASES[..] } else { &CASES[..2] };
        for (behind, change, code) in cases.iter().copied() {
            let other = world.superuser(owner.other()).await;
            other.batch_execute(&format!("{PASS}; {behind}")).await.expect("tampering");
            world.direct(owner).await.batch_execute(change).await.expect("a change");
            has_stopped(&mut run, code).await;
            world.desk.ask(&["verify"]).await.exits(3).says("verify --repair");
            let repair = world.desk.ask(&["verify", "--repair"]).await;
            repair.exits(1);
            let table = if code == "CUT0401" { "public.products" } else { "public.receipts" };
            assert_eq!(repair.value["copied_again"], json!([table]), "{}", repair.said);
            run.ready().await;
            if code == "CUT0408" {
                let key =
                    "ALTER TABLE receipts ADD PRIMARY KEY (client, n), REPLICA IDENTITY DEFAULT";
                other.batch_execute(&format!("{PASS}; {key}")).await.expect("the key");
            }
            world.desk.ask(&["verify"]).await.exits(0);
        }
        world.desk.moves(if owner == Side::Blue { "switch" } else { "rollback" }).await.exits(0);
    }
    world.close_the_books(load, Side::Blue).await;
    world.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    world.nothing_is_left().await;
}

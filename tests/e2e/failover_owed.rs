//! A standby takes over from green and lacks the moment in which indexes and foreign keys were built
//! that had waited for the stream: they are built again before a switch.

use cutover_core::model::side::Side;
use cutover_sandbox::{PgOptions, Postgres, find_postgres, shop, wait_until};

use crate::{
    failover::Guarded,
    pair::Pair,
    program::{COMMAND_WITHIN, READY_WITHIN},
    ranges::{Ledger, SLOWLY},
};

/// Whoever builds the first index on green waits at a gate.
const BECOMES: &str = "
    CREATE FUNCTION at_the_gate(bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$
    BEGIN
        WHILE EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND objid = 77)
        LOOP PERFORM pg_catalog.pg_sleep(0.01); END LOOP;
        RETURN $1;
    END $$;
    CREATE UNIQUE INDEX ledger_gate ON ledger (at_the_gate(id)) WHERE id = -500000;
    ALTER TABLE ledger ADD code bigint;
    UPDATE ledger SET code = id;
    ALTER TABLE ledger ADD UNIQUE (code);
    CREATE TABLE tags (id int PRIMARY KEY, code bigint REFERENCES ledger (code));
    INSERT INTO tags VALUES (1, -500000)";
const ARE_THERE: &str = "
    SELECT count(*) = 3 AND (SELECT count(*) = 1 FROM pg_constraint
                              WHERE contype = 'f' AND conrelid = 'tags'::regclass)
      FROM pg_index WHERE indrelid = 'ledger'::regclass";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_green_forgets_of_what_had_waited_is_built_again() {
    let all = find_postgres();
    let (old, new) = (all.first().expect("PostgreSQL"), all.last().expect("PostgreSQL"));
    assert!(new.major >= 17, "no server takes slots along: run scripts/setup test");
    let (blue, mut green) =
        tokio::join!(Postgres::start(old, PgOptions::new()), Guarded::start(new, &[]));
    let blue = blue.expect("a server");
    shop::roles(&[&blue, &green.primary]).await.expect("roles");
    let pair = Pair::open("owed", &blue, &green.primary, SLOWLY).await;
    let gate = pair.superuser(Side::Green).await;
    gate.batch_execute("SELECT pg_advisory_lock(77)").await.expect("a gate");
    let mut ledger = Ledger::of_shape(pair, BECOMES).await;
    // No slot is taken along while an index is built.
    let open = ledger.copied_again().await;
    let pair = &ledger.pair;
    green.has_the_slot(pair).await;
    drop(open);
    let at_the_gate = "SELECT count(*) > 0 FROM pg_stat_activity
        WHERE usename = 'cutover' AND state = 'active' AND query ~ 'ledger_gate'";
    wait_until("an index to be built", READY_WITHIN, async || {
        let client = pair.superuser(Side::Green).await;
        client.query_one(at_the_gate, &[]).await.is_ok_and(|row| row.get(0))
    })
    .await
    .expect("it is");

    // From here on neither side notes how far it is: whatever green loses, nobody is ahead of it.
    let mut held = Vec::new();
    for side in [Side::Green, Side::Blue] {
        let client = pair.superuser(side).await;
        let lock = "BEGIN; LOCK TABLE cutover_owed.progress IN EXCLUSIVE MODE";
        client.batch_execute(lock).await.expect("a lock");
        held.push(client);
    }
    green.standby.catch_up(&green.primary).await.expect("the standby follows");
    green.falls_behind().await;
    drop(gate);
    pair.holds(Side::Green, ARE_THERE).await;
    ledger
        .run
        .status("every row to be compared", COMMAND_WITHIN, |s| !s["proof"]["full_pass"].is_null())
        .await;
    green.fails_over().await;
    drop(held);
    let pair = &ledger.pair;
    wait_until("the run to go on", COMMAND_WITHIN, async || {
        pair.desk.log().contains("another server took over")
    })
    .await
    .expect("it follows the new server");
    ledger.run.ready().await;
    ledger.pair.desk.moves("switch").await.exits(0);
    ledger.pair.holds(Side::Green, ARE_THERE).await;
    ledger.pair.sides_are_equal().await;
    ledger.pair.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(ledger.run.ended(COMMAND_WITHIN).await.success());
    ledger.pair.nothing_is_left().await;
}

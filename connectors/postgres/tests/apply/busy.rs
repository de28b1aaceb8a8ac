//! Somebody reads a table that is to be repaired, and does not end.

use std::time::Duration;

use cutover_core::port::copy::CopyFormat;
use cutover_sandbox::wait_until;
use tokio::time::timeout;

use crate::{bulk::copy_out, world::World};

/// How long whoever reads beside us may wait for us.
const SOON: Duration = Duration::from_secs(5);
/// The thirty seconds of a repair, on a busy machine.
const GIVEN_UP: Duration = Duration::from_secs(60);

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

#[tokio::test]
async fn a_repair_says_whom_it_waited_for_and_lets_readers_pass() {
    let world = World::with(&crate::world::servers().await[0], T).await;
    world.define("src", "INSERT INTO t SELECT i, 'v' FROM generate_series(1, 100) i").await;
    let table = world.table("dst", "t").await;
    let mut writer = world.writer().await;
    let all = async || copy_out(&world, &table, false, "true").await;
    let holder = world.server.connect(&world.name).await.unwrap();
    let reader = world.server.connect(&world.name).await.unwrap();
    let hold = "SET application_name = 'a report'; BEGIN; LOCK dst.t IN ACCESS SHARE MODE";
    holder.batch_execute(hold).await.unwrap();
    let rows = all().await;
    let repair = writer.replace(&table, None, CopyFormat::PostgresText, rows);
    let reads = async {
        loop {
            let read = reader.query("SELECT FROM dst.t", &[]);
            timeout(SOON, read).await.expect("it waits behind us").unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let given_up = async {
        tokio::select! { done = timeout(GIVEN_UP, repair) => done, () = reads => unreachable!() }
    };
    let error = given_up.await.expect("it waits").unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let text = format!("{error}: {:?}", std::error::Error::source(&error));
    let says = ["repairing table dst.t", "no lock within 30 s", "(a report)"];
    assert!(says.iter().all(|word| text.contains(word)), "{text}");
    holder.batch_execute("COMMIT").await.unwrap();
    // One that ends in time is waited for.
    drop(writer);
    let mut writer = world.writer().await;
    holder.batch_execute("BEGIN; SELECT FROM dst.t").await.unwrap();
    let rows = all().await;
    let repair = writer.replace(&table, None, CopyFormat::PostgresText, rows);
    let ends = async {
        let waits =
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'dst.t'::regclass";
        wait_until("the repair to wait", GIVEN_UP, async || {
            world.client.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await
        .unwrap();
        holder.batch_execute("COMMIT").await.unwrap();
    };
    let (written, ()) = tokio::join!(timeout(GIVEN_UP, repair), ends);
    assert_eq!(written.unwrap().unwrap(), 100);
    world.assert_equal().await;
}

//! Pairs of versions: every upgrade to the next one, from the oldest to the newest, and new machines
//! of the same version, each with its way back, as the role with the least rights and under load.

use cutover_core::model::side::Side;
use cutover_sandbox::{PgInstall, PgOptions, Postgres, find_postgres, shop};
use futures_util::{StreamExt as _, stream};

use crate::{pair::Pair, program::COMMAND_WITHIN};

/// Two at the same time: a machine with two cores has enough to do.
const AT_A_TIME: usize = 2;

/// What the load leaves out, on whoever owns the writes; `{n}` is the round.
const ROUND: &str = "
    BEGIN; UPDATE audit_log SET what = 'changed {n}' WHERE ctid = (SELECT min(ctid) FROM audit_log); \
    DELETE FROM audit_log WHERE ctid = (SELECT max(ctid) FROM audit_log); COMMIT; \
    UPDATE events SET month = '2026-02-10' WHERE id = {n}; \
    DELETE FROM events WHERE id = 10 + {n}; \
    UPDATE order_items SET quantity = quantity + 1 WHERE order_id = {n}; \
    INSERT INTO orders (account, note) VALUES ({n}, 'round {n}'); \
    UPDATE documents SET thumbnail = decode('0{n}', 'hex'); \
    UPDATE documents SET body = body || 'round {n}' WHERE id = md5('d1')::uuid; \
    UPDATE accounts SET tier = 'gold' WHERE id = {n}; \
    INSERT INTO products SELECT 10000 + {n}, 'new', attributes, tags, price, 1 FROM products WHERE id = {n}; \
    UPDATE products SET id = id + 500, name = 'moved' WHERE id = 10000 + {n}";

async fn there_and_back(pair: &Pair) {
    let load = pair.load();
    pair.desk.ask(&["check"]).await.exits(0);
    let mut run = pair.desk.run();
    run.ready().await;
    let round = async |owner: Side, n: u32| {
        pair.does(owner, &ROUND.replace("{n}", &n.to_string())).await;
    };
    round(Side::Blue, 1).await;
    pair.desk.ask(&["verify"]).await.exits(0);
    pair.desk.moves("switch").await.exits(0);
    round(Side::Green, 2).await;
    pair.desk.moves("rollback").await.exits(0);
    round(Side::Blue, 3).await;
    pair.desk.moves("switch").await.exits(0);
    round(Side::Green, 4).await;
    let view = pair.close_the_books(load, Side::Green).await;
    assert_eq!(view.failed, 0, "{view:?}");
    pair.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    pair.nothing_is_left().await;
}

async fn started(installs: &[PgInstall]) -> Vec<Postgres> {
    let start = |install: &PgInstall| {
        let install = install.clone();
        async move { Postgres::start(&install, PgOptions::new()).await.expect("a server") }
    };
    stream::iter(installs).map(start).buffered(AT_A_TIME).collect().await
}

/// One server per version, and a second one of those that are their own successors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_to_the_next_to_the_newest_and_to_itself() {
    let all = find_postgres();
    let again: Vec<PgInstall> =
        all.iter().filter(|i| matches!(i.major, 16 | 18)).cloned().collect();
    let servers = started(&all).await;
    let twins = started(&again).await;
    let everybody: Vec<&Postgres> = servers.iter().chain(&twins).collect();
    shop::roles(&everybody).await.expect("roles");
    let mut pairs: Vec<(&Postgres, &Postgres)> =
        servers.iter().zip(servers.iter().skip(1)).collect();
    pairs.push((servers.first().expect("PostgreSQL"), servers.last().expect("PostgreSQL")));
    for twin in &twins {
        pairs.extend(servers.iter().filter(|s| s.major() == twin.major()).map(|s| (s, twin)));
    }
    stream::iter(pairs)
        .for_each_concurrent(AT_A_TIME, async |(blue, green)| {
            let name = format!("from-{}-to-{}", blue.major(), green.major());
            there_and_back(&Pair::open(&name, blue, green, "").await).await;
        })
        .await;
}

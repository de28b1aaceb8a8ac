//! Settings of databases and roles that would change, slow or end what our sessions do.

use cutover_core::port::{copy::CopyFormat, sink::Sink, source::Source};

use crate::{
    random::{Random, seed},
    world::{Pair, pairs},
};

/// Far too short for what a run does in one statement, one wait or one transaction.
const HURRY: &[(&str, u32)] = &[
    ("statement_timeout", 14),
    ("idle_in_transaction_session_timeout", 14),
    ("idle_session_timeout", 14),
    ("transaction_timeout", 17),
];

/// The snapshot outlives every limit, also for sessions that join it late, and so does a
/// transaction that takes long to decode.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_limit_in_time_ends_our_sessions() {
    for (blue, green) in pairs(&[(14, 18), (17, 17), (18, 14)]).await {
        let pair = Pair::with((blue, ""), (green, "")).await;
        pair.both(
            "CREATE TABLE app.a (id int PRIMARY KEY, v text);
             CREATE TABLE app.b (id int PRIMARY KEY, v text)",
        )
        .await;
        pair.blue.sql("INSERT INTO app.a VALUES (1, 'a'); INSERT INTO app.b VALUES (1, 'b')").await;
        for half in [&pair.blue, &pair.green] {
            for (name, _) in HURRY.iter().filter(|(_, since)| half.server.major() >= *since) {
                half.sql(&format!("ALTER DATABASE {} SET {name} = '100ms'", half.name)).await;
            }
        }
        let (snapshot, mut pump) = pair.follow().await;
        let tables = pair.blue.tables().await;
        let whole = cutover_core::port::copy::Range { condition: String::new(), bytes: 0 };
        // Open while the limits pass; the next one needs a session of its own.
        let first = snapshot
            .read(&tables[0], &whole, CopyFormat::PostgresText)
            .await
            .unwrap()
            .rows()
            .unwrap();
        let mut writer = pair.writer().await;
        pair.blue.sql("SELECT pg_sleep(0.3)").await;
        pair.copy(&*snapshot, &tables[1], CopyFormat::PostgresText).await.unwrap();
        pair.green.db.copy(&pair.run, &tables[0], CopyFormat::PostgresText, first).await.unwrap();
        drop(snapshot);
        // Longer than the limits, in one transaction.
        pair.blue
            .sql("INSERT INTO app.a SELECT g, repeat(g::text, 9) FROM generate_series(2, 40000) g")
            .await;
        let events = pair.changes(&mut pump).await;
        writer.apply(&events).await.unwrap();
        for table in &tables {
            pair.assert_equal(table, "in a hurry").await;
        }
        drop(writer);
        Source::release(&pair.blue.db, &pair.run).await.unwrap();
    }
}

/// Our questions about locks look dear to the planner, and are asked every half second: compiled,
/// each took 90 ms of the server's processor instead of 0.4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_of_ours_is_compiled() {
    for (blue, green) in pairs(&[(14, 18)]).await {
        let pair = Pair::with((blue, ""), (green, "")).await;
        for half in [&pair.blue, &pair.green] {
            half.sql(&format!("ALTER DATABASE {} SET jit = on", half.name)).await;
            let session = half.db.session("test").await.unwrap();
            let jit: String = session.query_one("SHOW jit", &[]).await.unwrap().get(0);
            assert_eq!(jit, "off", "{}", half.server.major());
        }
    }
}

/// Computed when read: nothing of it is stored, sent or copied, and both sides print it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_are_computed_when_read() {
    let mut r = Random::new(seed());
    for (blue, green) in pairs(&[(18, 18)]).await {
        let pair = Pair::with((blue, ""), (green, "")).await;
        let ddl = "CREATE TABLE app.v (id int PRIMARY KEY, a int, d int GENERATED ALWAYS AS (a * 2) VIRTUAL,
                        s int GENERATED ALWAYS AS (a * 3) STORED, x text, u text GENERATED ALWAYS AS (upper(x)));
                   CREATE TABLE app.w (a int, d int GENERATED ALWAYS AS (a * 2) VIRTUAL,
                        k int NOT NULL UNIQUE, x text);
                   ALTER TABLE app.w REPLICA IDENTITY USING INDEX w_k_key";
        pair.both(ddl).await;
        pair.blue
            .sql(
                "INSERT INTO app.v (id, a, x) SELECT i, i, 'é' || i FROM generate_series(1, 50) i;
                 INSERT INTO app.w (a, k, x) SELECT i / 2, i, 't' FROM generate_series(1, 50) i",
            )
            .await;
        let (snapshot, mut pump) = pair.follow().await;
        let tables = pair.blue.tables().await;
        for table in &tables {
            pair.copy(&*snapshot, table, CopyFormat::PostgresBinary).await.unwrap();
            pair.assert_equal(table, "copied").await;
        }
        drop(snapshot);
        let mut writer = pair.writer().await;
        for change in [
            "INSERT INTO app.v (id, a, x) SELECT i, i, 't' FROM generate_series(100, 200) i",
            "UPDATE app.v SET a = a + 1 WHERE id % 3 = 0; UPDATE app.v SET x = NULL WHERE id % 5 = 0",
            "UPDATE app.v SET id = id + 1000 WHERE d > 180; DELETE FROM app.v WHERE u = 'É7'",
            "UPDATE app.w SET a = -a, k = -k WHERE d % 4 = 0; DELETE FROM app.w WHERE d > 40",
            "INSERT INTO app.w (a, k) VALUES (1, 1001), (NULL, 1002); UPDATE app.w SET x = d",
        ] {
            pair.blue.sql(change).await;
            let events = pair.changes(&mut pump).await;
            crate::journey::apply(&mut *writer, &events, &mut r, change).await;
            for table in &tables {
                pair.assert_equal(table, change).await;
            }
        }
        let snapshot = pair.blue.db.snapshot().await.unwrap();
        for table in &tables {
            crate::journey::repair(&pair, &*snapshot, table, &mut *writer).await;
        }
        drop(writer);
        Source::release(&pair.blue.db, &pair.run).await.unwrap();
    }
}

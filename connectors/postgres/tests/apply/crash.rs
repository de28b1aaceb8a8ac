//! Lost sessions: what was stored is known, and nothing is applied twice or not at all.

use std::time::{Duration, Instant};

use cutover_core::{
    model::event::Event,
    port::sink::{Sink, SinkWriter},
};

use crate::{on_each_server, world::World};

/// Applies everything, cutting the writer's session again and again; continues each time at what
/// the new writer says.
async fn apply_through_cuts(world: &World, events: &[Event], part: usize) -> u32 {
    let killer = world.server.connect(&world.name).await.unwrap();
    let cutting = tokio::spawn(async move {
        loop {
            killer
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                      WHERE datname = current_database() AND application_name LIKE '% apply'
                        AND backend_start < clock_timestamp() - interval '20 ms'
                        AND random() < 0.3",
                    &[],
                )
                .await
                .unwrap();
        }
    });
    let mut cuts = 0;
    let deadline = Instant::now() + Duration::from_secs(120);
    'open: loop {
        assert!(Instant::now() < deadline, "no progress through {cuts} cuts");
        let Ok(mut writer) = world.green.writer(&world.run, &world.routes().await).await else {
            continue;
        };
        let Ok(stored) = writer.progress().await else { continue };
        let from = events
            .iter()
            .position(
                |e| matches!(e, Event::Commit { position } if Some(position) == stored.as_ref()),
            )
            .map_or(0, |at| at + 1);
        for events in events[from..].chunks(part) {
            if let Err(error) = writer.apply(events).await {
                assert!(error.is_transient(), "{error}");
                cuts += 1;
                continue 'open;
            }
        }
        break;
    }
    cutting.abort();
    cuts
}

on_each_server! {
    async fn a_session_that_is_cut_at_any_moment(server) {
        let mut world = World::with(server,
            "CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE log (n int);
             CREATE TABLE u (id int PRIMARY KEY, u int UNIQUE)").await;
        let mut events = world.changes(&["INSERT INTO t SELECT i, 0 FROM generate_series(1, 50) i",
            "INSERT INTO u VALUES (1, 1), (2, 2)"]).await;
        for i in 0..400 {
            events.extend(world.changes(&[
                &format!("BEGIN; UPDATE t SET n = n + {i} WHERE id = {}; INSERT INTO log VALUES ({i}); COMMIT",
                    i % 50 + 1),
                "BEGIN; UPDATE u SET u = -1 WHERE id = 1; UPDATE u SET u = 3 - u WHERE id = 2;
                 UPDATE u SET u = 3 - (SELECT u FROM u WHERE id = 2) WHERE id = 1; COMMIT",
            ]).await);
        }
        // Calls end inside of transactions, too.
        let cuts = apply_through_cuts(&world, &events, 13).await;
        assert!(cuts > 0);
        world.assert_equal().await;
    }

    async fn a_session_that_is_cut_inside_of_a_large_transaction(server) {
        let mut world = World::with(server, "CREATE TABLE t (id int PRIMARY KEY)").await;
        let mut writer: Box<dyn SinkWriter> = world.writer().await;
        let small = world.changes(&["INSERT INTO t VALUES (0)"]).await;
        let stored = writer.apply(&small).await.unwrap();
        let large = world.changes(&["INSERT INTO t SELECT generate_series(1, 1000)"]).await;
        assert_eq!(writer.apply(&large[..600]).await.unwrap(), None);
        let pid = world.backends("apply").await[0];
        world.client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
        let error = writer.apply(&large[600..]).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        drop(writer);
        let mut writer = world.writer().await;
        assert_eq!(writer.progress().await.unwrap(), stored);
        writer.apply(&large[..600]).await.unwrap();
        writer.apply(&large[600..]).await.unwrap();
        world.assert_equal().await;
    }

    async fn a_call_that_is_given_up_half_way(server) {
        let mut world = World::with(server, "CREATE TABLE t (id int PRIMARY KEY)").await;
        let mut writer = world.writer().await;
        let events = world.changes(&["INSERT INTO t SELECT generate_series(1, 1000)"]).await;
        let given_up = tokio::time::timeout(Duration::ZERO, writer.apply(&events)).await;
        assert!(given_up.is_err());
        let error = writer.apply(&events).await.unwrap_err();
        assert_eq!(error.code(), Some("CUT0411"), "{error}");
        drop(writer);
        let mut writer = world.writer().await;
        writer.apply(&events).await.unwrap();
        world.assert_equal().await;
    }
}

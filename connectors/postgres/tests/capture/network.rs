//! A network that cuts connections anywhere and delivers in crumbs.

use cutover_core::{
    model::{
        event::{Change, Event},
        position::Position,
        value::Value,
    },
    port::source::Source,
};
use cutover_testkit::{Direction, FaultProxy, wait_until};

use crate::world::{PATIENCE, Tap, World, show};

/// A generator that is the same every time (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

/// The same database through a proxy.
async fn behind(w: &World, test: &str) -> (FaultProxy, World) {
    let proxy = FaultProxy::start(([127, 0, 0, 1], w.server.port()).into()).await.unwrap();
    let url =
        w.server.url(&w.name).replace(&w.server.port().to_string(), &proxy.port().to_string());
    let far = World::existing(w.server, test, &url);
    (proxy, far)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_anywhere_every_transaction_arrives_once_and_whole() {
    for w in World::everywhere("cuts").await {
        w.sql("alter database cuts set logical_decoding_work_mem = '64kB'").await;
        w.sql("create table t (id int primary key, v text)").await;
        let start = w.capture().await.start;
        let client = w.client().await;
        let mut want: Vec<Vec<i32>> = Vec::new();
        for i in 0..300 {
            // Some arrive in pieces.
            let rows = if i % 50 == 25 { 1_500 } else { i % 5 + 1 };
            let from = i * 10_000;
            client
                .batch_execute(&format!(
                    "insert into t select i, repeat('v', 100) \
                     from generate_series({from}, {}) i",
                    from + rows - 1
                ))
                .await
                .unwrap();
            want.push((from..from + rows).collect());
        }
        w.db.emit("test", "the end").await.unwrap();

        let (proxy, far) = behind(&w, "cuts").await;
        let mut dice = Dice(7);
        let (mut got, mut last): (Vec<Vec<i32>>, Position) = (Vec::new(), start);
        let (mut attempts, mut cuts, mut done) = (0, 0, false);
        while !done {
            attempts += 1;
            assert!(attempts < 400, "it does not get through");
            // Wider and wider, so that it gets through in the end.
            let limit = dice.roll(20_000 + 10_000 * attempts);
            let slice = [None, Some(1_000), Some(37)][dice.roll(3) as usize];
            proxy.set(Direction::Down, |link| {
                link.cut_after = Some(limit);
                link.slice = slice;
            });
            let stream = match far.db.stream(&w.run, Some(&last)).await {
                Ok(stream) => stream,
                Err(e) => {
                    assert!(e.is_transient(), "{e}: {:?}", std::error::Error::source(&e));
                    continue;
                }
            };
            let mut tap = Tap { stream };
            let mut open = Vec::new();
            'reading: loop {
                let events = match tap.next().await {
                    Ok(events) => events,
                    Err(e) => {
                        assert!(e.is_transient(), "{e}");
                        cuts += 1;
                        break 'reading;
                    }
                };
                for event in events {
                    match event {
                        Event::Begin { .. } => open.clear(),
                        Event::Row { change: Change::Insert { new }, .. } => {
                            let Value::Text(id) = new.get(0) else { panic!("no text") };
                            open.push(std::str::from_utf8(id).unwrap().parse().unwrap());
                        }
                        Event::Message { content, .. } => done |= content == "the end",
                        Event::Commit { position } => {
                            if !open.is_empty() {
                                got.push(std::mem::take(&mut open));
                            }
                            last = position;
                            if done {
                                break 'reading;
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
        assert!(cuts > 5, "only {cuts} cuts");
        assert!(got == want, "PostgreSQL {}: {} transactions", w.server.major(), got.len());
        proxy.heal();
        w.release().await;
    }
}

/// The server keeps the slot for a connection of which it has not noticed that nobody has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_stream_of_ours_is_no_stop() {
    for w in World::everywhere("left-behind").await {
        w.sql("alter database left_behind set wal_sender_timeout = '5min'").await;
        w.sql("create table t (id int primary key)").await;
        let start = w.capture().await.start;
        let (proxy, far) = behind(&w, "left-behind").await;
        let mut tap = far.tap_from(Some(&start)).await;
        w.sql("insert into t values (1)").await;
        w.drain(&mut tap).await;
        proxy.abandon();
        assert!(tap.error().await.is_transient());
        drop(tap);
        // Its own, at once.
        let mut tap = far.tap_from(Some(&start)).await;
        let rows = show(&w.drain(&mut tap).await);
        assert!(rows.contains(&"+ public.t 1".to_owned()), "{rows:?}");
        // That of another process, which cannot know: once the server has noticed.
        proxy.abandon();
        let e = w.db.stream(&w.run, Some(&start)).await.map(drop).unwrap_err();
        assert_eq!(e.code(), None, "PostgreSQL {}: {e}", w.server.major());
        proxy.cut();
        wait_until("the slot to be free", PATIENCE, async || {
            w.db.stream(&w.run, Some(&start)).await.is_ok()
        })
        .await;
        w.release().await;
    }
}

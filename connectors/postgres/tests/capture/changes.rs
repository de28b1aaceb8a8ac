//! What arrives for each kind of change.

use std::sync::Arc;

use cutover_core::model::{
    event::{Event, Relation},
    position::Position,
};

use crate::world::{World, show};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_change() {
    for w in World::everywhere("kinds").await {
        w.sql(
            "create table t (id int primary key, v text, big text); \
             alter table t alter big set storage external; \
             create table \"Odd Name\" (\"Id\" uuid primary key, \"a\"\"b\" numeric); \
             create table whole (a int, b text); alter table whole replica identity full; \
             create table calc (id int primary key, twice int generated always as (id * 2) stored)",
        )
        .await;
        let mut tap = w.tap().await;
        let client = w.client().await;
        client
            .batch_execute(
                "insert into t values (1, 'a', repeat('x', 10000)), (2, null, ''); \
                 update t set v = 'b' where id = 1; \
                 update t set id = 3 where id = 1; \
                 delete from t where id = 3; \
                 insert into \"Odd Name\" values ('00000000-0000-0000-0000-000000000001', 1.50); \
                 insert into whole values (1, 'x'), (1, 'x'); \
                 update whole set b = 'y' where ctid = '(0,1)'; \
                 delete from whole where b = 'y'; \
                 insert into calc values (4); \
                 truncate t, whole restart identity cascade",
            )
            .await
            .unwrap();
        let events = w.drain(&mut tap).await;
        assert_eq!(
            show(&events),
            [
                "begin",
                "+ public.t 1,a,10000 bytes",
                "+ public.t 2,NULL,",
                "~ public.t 1,b,=",
                "~ public.t 1,NULL,NULL -> 3,b,=",
                "- public.t 3,NULL,NULL",
                "+ public.Odd Name 00000000-0000-0000-0000-000000000001,1.50",
                "+ public.whole 1,x",
                "+ public.whole 1,x",
                "~ public.whole 1,x -> 1,y",
                "- public.whole 1,y",
                "+ public.calc 4",
                "truncate public.t,public.whole cascade restart",
                "commit",
            ],
            "PostgreSQL {}",
            w.server.major()
        );
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_carry_number_time_and_growing_positions() {
    for w in World::everywhere("numbers").await {
        w.sql("create table t (id int primary key)").await;
        let mut tap = w.tap().await;
        let client = w.client().await;
        let mut numbers = Vec::new();
        for i in 0..20 {
            let row = client
                .query_one(
                    "with i as (insert into t select $1 returning 1) \
                     select (pg_current_xact_id()::text::numeric % 4294967296)::text, \
                            (extract(epoch from now()) * 1000000)::int8 from i",
                    &[&i],
                )
                .await
                .unwrap();
            numbers.push((row.get::<_, String>(0).parse::<u32>().unwrap(), row.get::<_, i64>(1)));
        }
        let now = "select (extract(epoch from clock_timestamp()) * 1000000)::int8::text";
        let later: i64 = w.text(now).await.parse().unwrap();
        let events = w.drain(&mut tap).await;
        let mut seen = Vec::new();
        let mut positions: Vec<Position> = Vec::new();
        for event in &events {
            match event {
                Event::Begin { transaction, committed_at } => {
                    seen.push((*transaction, *committed_at));
                }
                Event::Commit { position } => positions.push(position.clone()),
                _ => {}
            }
        }
        assert_eq!(seen.len(), 20);
        for ((xid, began), (got, committed)) in numbers.iter().zip(&seen) {
            assert_eq!(xid, got);
            assert!((*began..=later).contains(committed), "{began} {committed} {later}");
        }
        for pair in positions.windows(2) {
            assert_eq!(pair[0].covers(&pair[1]), Ok(false));
            assert_eq!(pair[1].covers(&pair[0]), Ok(true));
        }
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_arrive_under_their_own_names_and_new_ones_too() {
    for w in World::everywhere("parts").await {
        w.sql(
            "create table m (id int, at date, primary key (id, at)) partition by range (at); \
             create table m_1 partition of m for values from ('2024-01-01') to ('2024-02-01'); \
             create table m_2 partition of m for values from ('2024-02-01') to ('2024-03-01'); \
             create table parent (id int primary key); \
             create table child (primary key (id)) inherits (parent)",
        )
        .await;
        let mut tap = w.tap().await;
        w.sql("insert into m values (1, '2024-01-05')").await;
        w.sql("create table m_3 partition of m for values from ('2024-03-01') to ('2024-04-01')")
            .await;
        w.sql("insert into m values (2, '2024-03-05')").await;
        w.sql("update m set at = '2024-02-05' where id = 1").await;
        w.sql("truncate m_2").await;
        w.sql("truncate m").await;
        w.sql("insert into parent values (1)").await;
        w.sql("insert into child values (2)").await;
        let rows: Vec<String> = show(&w.drain(&mut tap).await)
            .into_iter()
            .filter(|l| l != "begin" && l != "commit")
            .collect();
        assert_eq!(
            rows,
            [
                "+ public.m_1 1,2024-01-05",
                "+ public.m_3 2,2024-03-05",
                "- public.m_1 1,2024-01-05",
                "+ public.m_2 1,2024-02-05",
                "truncate public.m_2",
                "truncate public.m_1,public.m_2,public.m_3",
                "+ public.parent 1",
                "+ public.child 2",
            ],
            "PostgreSQL {}",
            w.server.major()
        );
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shape_is_shared_until_it_changes() {
    for w in World::everywhere("shapes").await {
        w.sql("create table t (id int primary key)").await;
        let mut tap = w.tap().await;
        w.sql("insert into t values (1)").await;
        w.sql("insert into t values (2)").await;
        // Invalidates the description without changing it.
        w.sql("create index on t (id)").await;
        w.sql("insert into t values (3)").await;
        w.sql("alter table t add v varchar(9) default 'd'").await;
        w.sql("insert into t values (4)").await;
        let shapes: Vec<Arc<Relation>> = w
            .drain(&mut tap)
            .await
            .iter()
            .filter_map(|e| match e {
                Event::Row { relation, .. } => Some(Arc::clone(relation)),
                _ => None,
            })
            .collect();
        assert_eq!(shapes.len(), 4);
        assert!(Arc::ptr_eq(&shapes[0], &shapes[1]) && Arc::ptr_eq(&shapes[1], &shapes[2]));
        assert!(!Arc::ptr_eq(&shapes[2], &shapes[3]));
        let new = &shapes[3].columns;
        assert_eq!((new.len(), new[1].name.as_str(), new[1].key), (2, "v", false));
        assert_eq!((new[1].type_id, new[1].type_modifier), (1043, 13));
        assert!(new[0].key);
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_inside_and_outside_of_transactions() {
    for w in World::everywhere("messages").await {
        w.sql("create table t (id int primary key)").await;
        let mut tap = w.tap().await;
        w.sql(
            "begin; insert into t values (1); select pg_logical_emit_message(true, 'p', 'in'); \
             commit",
        )
        .await;
        w.sql("select pg_logical_emit_message(false, 'p', 'alone')").await;
        w.sql("begin; select pg_logical_emit_message(true, 'p', 'undone'); rollback").await;
        assert_eq!(
            show(&w.drain(&mut tap).await),
            ["begin", "+ public.t 1", "message p: in", "commit", "message p: alone"],
            "PostgreSQL {}",
            w.server.major()
        );
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_rendered_under_the_pinned_settings() {
    for w in World::everywhere("pinned").await {
        w.sql(
            "create table t (id int primary key, at timestamptz, f float8, b bytea, i interval, \
             m money, d date); \
             alter database pinned set datestyle = 'German'; \
             alter database pinned set timezone = 'Asia/Tokyo'; \
             alter database pinned set extra_float_digits = -3; \
             alter database pinned set bytea_output = 'escape'; \
             alter database pinned set intervalstyle = 'sql_standard'",
        )
        .await;
        let mut tap = w.tap().await;
        w.sql(
            "insert into t values (1, '2024-02-29 12:00:00+00', 0.1::float8 + 0.2::float8, \
             '\\x00ff', '1 year 2 days', 12.34, '2024-02-29')",
        )
        .await;
        assert_eq!(
            show(&w.drain(&mut tap).await)[1],
            "+ public.t 1,2024-02-29 12:00:00+00,0.30000000000000004,\\x00ff,1 year 2 days,\
             $12.34,2024-02-29",
            "PostgreSQL {}",
            w.server.major()
        );
        w.release().await;
    }
}

/// Why the stream carries text: bytes mean something only together with the type that sent them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_would_be_another_value_where_types_differ() {
    let w = World::newest("meaning").await;
    w.sql("create table sent (id int primary key); create table taken (id float4 primary key)")
        .await;
    let mut tap = w.tap().await;
    w.sql("insert into sent values (7)").await;
    assert_eq!(show(&w.drain(&mut tap).await), ["begin", "+ public.sent 7", "commit"]);
    let file = w.server.data_dir().join("values");
    for (format, want) in [("text", "t"), ("binary", "f")] {
        let file = file.display();
        w.sql(&format!("copy sent to '{file}' (format {format})")).await;
        w.sql(&format!("truncate taken; copy taken from '{file}' (format {format})")).await;
        assert_eq!(w.text("select id = 7 from taken").await, want, "{format}");
    }
    w.release().await;
}

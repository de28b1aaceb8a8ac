//! What cannot be healed by trying again has a name.

use std::time::Instant;

use cutover_core::{
    model::{
        finding::Scope, position::Position, schema::TableName, selection::Selection, side::Side,
    },
    port::{
        PortError,
        examine::{Examine, Question},
        source::Source,
    },
};
use cutover_sandbox::{PgOptions, Postgres, wait_until};

use crate::world::{PATIENCE, Tap, World, servers};

fn code(result: Result<impl Sized, PortError>) -> String {
    match result {
        Ok(_) => panic!("it worked"),
        Err(e) => {
            assert!(e.remedy().is_some_and(|r| !r.is_empty()), "no remedy: {e}");
            e.code().unwrap().to_owned()
        }
    }
}

/// On a busy machine a connection may take longer than it may: that is tried again.
async fn open(w: &World, from: Option<&Position>) -> Result<(), PortError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match w.db.stream(&w.run, from).await {
            Err(e) if e.is_transient() && Instant::now() < deadline => {}
            other => return other.map(drop),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_lost_its_log() {
    for shared in servers().await {
        let options = PgOptions::new()
            .set("max_slot_wal_keep_size", "1MB")
            .set("min_wal_size", "32MB")
            .set("max_wal_size", "32MB");
        let server = Postgres::start(shared.install(), options).await.unwrap();
        let server: &'static Postgres = Box::leak(Box::new(server));
        let w = World::on(server, "lost").await;
        w.sql("create table t (id int, v text); alter table t replica identity full").await;
        let start = w.capture().await.start;
        let status = "select wal_status from pg_replication_slots";
        wait_until("the slot to be lost", PATIENCE, async || {
            w.sql("insert into t select i, repeat('v', 500) from generate_series(1, 40000) i")
                .await;
            w.sql("select pg_switch_wal()").await;
            w.sql("checkpoint").await;
            w.text(status).await == "lost"
        })
        .await
        .unwrap();
        assert_eq!(code(open(&w, Some(&start)).await), "CUT0201", "{}", server.major());
        assert_eq!(code(w.db.capture(&w.run, &[], true).await), "CUT0201");
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_gone_or_not_ours() {
    for w in World::everywhere("gone").await {
        w.sql("create table t (id int primary key)").await;
        let start = w.capture().await.start;
        w.sql("select pg_drop_replication_slot('cutover_gone')").await;
        assert_eq!(code(open(&w, Some(&start)).await), "CUT0201");
        w.sql("select pg_create_logical_replication_slot('cutover_gone', 'test_decoding')").await;
        assert_eq!(code(open(&w, Some(&start)).await), "CUT0203");
        assert_eq!(code(w.db.capture(&w.run, &[], true).await), "CUT0203");
        w.sql("select pg_drop_replication_slot('cutover_gone')").await;
        w.sql("select pg_create_logical_replication_slot('cutover_gone', 'pgoutput', false, true)")
            .await;
        let two_phase = code(w.db.capture(&w.run, &[], true).await);
        assert_eq!(two_phase, "CUT0203", "PostgreSQL {}", w.server.major());
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_somebody_reads() {
    let w = World::newest("in-use").await;
    w.sql("create table t (id int primary key)").await;
    let tap = w.tap().await;
    assert_eq!(code(open(&w, None).await), "CUT0202");
    // It is free as soon as its reader ends.
    let other = open(&w, None);
    let end = async { drop(tap) };
    let (other, ()) = tokio::join!(other, end);
    other.unwrap();
    w.release().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_is_gone() {
    for w in World::everywhere("unpublished").await {
        w.sql("create table t (id int primary key)").await;
        let mut tap = w.tap().await;
        w.sql("drop publication cutover_unpublished").await;
        // With a change the server itself says so, on new versions by a warning.
        w.sql("insert into t values (1)").await;
        let e = tap.error().await;
        assert_eq!(e.code(), Some("CUT0204"), "PostgreSQL {}: {e}", w.server.major());
        drop(tap);
        assert_eq!(code(open(&w, None).await), "CUT0204");
        // It must not be created again behind our back: changes in between are missing.
        let tables = w.tables().await;
        assert_eq!(code(w.db.capture(&w.run, &tables, true).await), "CUT0204");
        w.release().await;
    }
}

/// Codes of the publication that refuse a move.
async fn move_stops(w: &World) -> Vec<String> {
    let question = Question {
        run: w.run.clone(),
        side: Side::Blue,
        scope: Scope::Move,
        selection: Selection::default(),
        tables: w.tables().await,
        owners: Vec::new(),
        owned_in: Vec::new(),
        schema_owners: Default::default(),
        belongings: Vec::new(),
        forced: Vec::new(),
        owns_writes: true,
        resuming: true,
        copies_schema: true,
        workers: 1,
    };
    let findings = w.db.examine(&question).await.unwrap();
    findings.into_iter().map(|f| f.code).filter(|code| code.starts_with("CUT02")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_left() {
    for w in World::everywhere("left").await {
        w.sql("create table t (id int primary key); create table u (id int primary key)").await;
        let mut tap = w.tap().await;
        w.sql("alter publication cutover_left drop table u").await;
        // A move does not wait until the stream has looked.
        assert_eq!(move_stops(&w).await, ["CUT0205"]);
        // No change of it is needed: the publication is looked at from time to time.
        let e = tap.error().await;
        assert_eq!(e.code(), Some("CUT0205"), "PostgreSQL {}: {e}", w.server.major());
        assert!(e.to_string().contains("public.u"), "{e}");
        drop(tap);
        assert_eq!(code(open(&w, None).await), "CUT0205");
        let tables = w.tables().await;
        assert_eq!(code(w.db.capture(&w.run, &tables, true).await), "CUT0205");
        w.sql("drop table u").await;
        // Where the stream tells of it, that is no reason to stop here.
        w.db.stream(&w.run, None).await.map(drop).unwrap();
        w.sql("drop event trigger cutover_left_ddl_drop").await;
        let e = w.db.stream(&w.run, None).await.map(drop).unwrap_err();
        assert!(e.to_string().contains("dropped"), "{e}");
        assert!(e.remedy().is_some_and(|remedy| remedy.contains("start it again")), "{e}");
        // A start knows which tables there are by now.
        let tables = w.tables().await;
        w.db.resume(&w.run, &tables).await.map(drop).unwrap();
        w.db.stream(&w.run, None).await.map(drop).unwrap();
        w.release().await;
    }
}

/// What was written to it meanwhile is in no stream; a start copies it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_left_and_came_back_between_two_looks() {
    for w in World::everywhere("came-back").await {
        w.sql("create table t (id int primary key); create table u (id int primary key)").await;
        drop(w.tap().await);
        let tables = w.tables().await;
        let since = w.db.resume(&w.run, &tables).await.unwrap().unwrap().since;
        w.sql(
            "alter publication cutover_came_back drop table u; insert into u values (1); \
             alter publication cutover_came_back add table u",
        )
        .await;
        assert_eq!(move_stops(&w).await, ["CUT0205"]);
        let e = open(&w, None).await.unwrap_err();
        assert_eq!(e.code(), Some("CUT0205"), "PostgreSQL {}: {e}", w.server.major());
        assert!(e.to_string().contains("for a while: public.u"), "{e}");
        let again = w.db.resume(&w.run, &tables).await.unwrap().unwrap().since;
        let differs: Vec<&TableName> =
            since.iter().filter(|(t, s)| again.get(*t) != Some(*s)).map(|(t, _)| t).collect();
        assert_eq!(differs, [&TableName::new("public", "u")]);
        assert_eq!(move_stops(&w).await, Vec::<String>::new());
        w.db.stream(&w.run, None).await.map(drop).unwrap();
        w.release().await;
    }
}

/// New servers leave out what was written meanwhile with a mere warning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_was_made_anew_between_two_looks() {
    for w in World::everywhere("anew").await {
        w.sql("create table t (id int primary key)").await;
        drop(w.tap().await);
        let tables = w.tables().await;
        let since = w.db.resume(&w.run, &tables).await.unwrap().unwrap().since;
        w.sql(
            "drop publication cutover_anew; insert into t values (1); \
             create publication cutover_anew for table t",
        )
        .await;
        assert_eq!(move_stops(&w).await, ["CUT0204"], "PostgreSQL {}", w.server.major());
        assert_eq!(code(open(&w, None).await), "CUT0204");
        let again = w.db.resume(&w.run, &tables).await.unwrap().unwrap().since;
        assert_ne!(since, again, "it is copied again");
        assert_eq!(move_stops(&w).await, Vec::<String>::new());
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_of_change_that_left() {
    for w in World::everywhere("kind-left").await {
        w.sql("create table t (id int primary key)").await;
        drop(w.tap().await);
        assert_eq!(move_stops(&w).await, Vec::<String>::new());
        w.sql("alter publication cutover_kind_left set (publish = 'insert')").await;
        assert_eq!(move_stops(&w).await, ["CUT0205"]);
        assert_eq!(code(open(&w, None).await), "CUT0205");
        // It must not be set back behind our back either: changes in between are missing.
        let tables = w.tables().await;
        assert_eq!(code(w.db.resume(&w.run, &tables).await), "CUT0205");
        assert_eq!(code(open(&w, None).await), "CUT0205");
        // Nor by whoever did it.
        let back = "alter publication cutover_kind_left \
                    set (publish = 'insert, update, delete, truncate')";
        w.sql(back).await;
        assert_eq!(move_stops(&w).await, ["CUT0205"]);
        assert_eq!(code(w.db.resume(&w.run, &tables).await), "CUT0205");
        assert_eq!(code(open(&w, None).await), "CUT0205");
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_joins_is_published() {
    for w in World::everywhere("joins").await {
        w.sql("create table t (id int primary key)").await;
        let mut tap = w.tap().await;
        w.sql("create table u (id int primary key)").await;
        w.capture().await;
        w.sql("insert into u values (1); delete from u").await;
        let lines = crate::world::show(&w.drain(&mut tap).await);
        assert!(lines.contains(&"- public.u 1".to_owned()), "{lines:?}");
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unlogged_table_that_joins_is_named() {
    for w in World::everywhere("unlogged").await {
        w.sql("create table t (id int primary key)").await;
        w.capture().await;
        w.sql("create unlogged table u (id int primary key)").await;
        let tables = w.tables().await;
        let error = w.db.resume(&w.run, &tables).await.err().unwrap();
        assert_eq!(error.code(), Some("CUT0128"), "{error}");
        assert!(error.remedy().unwrap().contains("\"public\".\"u\" SET LOGGED"), "{error:?}");
        w.sql("alter table u set logged").await;
        w.capture().await;
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_history_and_a_position_before_the_slot() {
    for w in World::everywhere("history").await {
        w.sql("create table t (id int primary key)").await;
        let Position::Postgres { timeline, lsn } = w.capture().await.start;
        let other = Position::Postgres { timeline: timeline + 1, lsn };
        assert_eq!(code(open(&w, Some(&other)).await), "CUT0208");
        let early = Position::Postgres { timeline, lsn: lsn - 1 };
        assert_eq!(code(open(&w, Some(&early)).await), "CUT0209");
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_transactions_arrive_when_they_commit() {
    for w in World::everywhere("prepared").await {
        w.sql("create table t (id int primary key)").await;
        let mut tap = w.tap().await;
        w.sql("begin; insert into t values (1); prepare transaction 'p1'").await;
        w.sql("insert into t values (2)").await;
        w.sql("commit prepared 'p1'").await;
        w.sql("begin; insert into t values (3); prepare transaction 'p2'").await;
        w.sql("rollback prepared 'p2'").await;
        assert_eq!(
            crate::world::show(&w.drain(&mut tap).await),
            ["begin", "+ public.t 2", "commit", "begin", "+ public.t 1", "commit"],
            "PostgreSQL {}",
            w.server.major()
        );
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_made_two_phase_while_we_follow() {
    // Only newer servers can change a slot; the stream itself must notice.
    for w in World::everywhere("changed").await {
        w.sql("create table t (id int primary key)").await;
        w.capture().await;
        w.sql("select pg_drop_replication_slot('cutover_changed')").await;
        w.sql(
            "select pg_create_logical_replication_slot('cutover_changed', 'pgoutput', false, true)",
        )
        .await;
        assert_eq!(code(open(&w, None).await), "CUT0203", "PostgreSQL {}", w.server.major());
        w.release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_rights() {
    let w = World::newest("rights").await;
    w.sql("create table t (id int primary key)").await;
    w.server.create_role("nobody_much", "pw", "").await.unwrap();
    let url = w.server.url_as("nobody_much", "pw", "rights");
    let weak = World::existing(w.server, "rights", &url);
    let tables = w.tables().await;
    let e = weak.db.capture(&w.run, &tables, false).await.map(drop).unwrap_err();
    assert_eq!(e.code(), Some("CUT0015"), "{e}");
    // A stream that was refused stays stopped until then.
    assert!(e.remedy().is_some_and(|r| r.contains("stop and start `cutover run`")), "{e:?}");
    w.capture().await;
    let weak: Result<Tap, _> = weak.db.stream(&w.run, None).await.map(|stream| Tap { stream });
    assert_eq!(code(weak), "CUT0015");
    w.release().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_with_no_more_rights_than_it_needs() {
    for w in World::everywhere("least").await {
        w.server.create_role("follower", "pw", "replication").await.unwrap();
        w.sql(
            "grant create on database least to follower; create table t (id int primary key); \
             alter table t owner to follower",
        )
        .await;
        let url = w.server.url_as("follower", "pw", "least");
        let follower = World::existing(w.server, "least", &url);
        let tables = follower.tables().await;
        let capture = follower.db.capture(&w.run, &tables, true).await.unwrap();
        assert!(capture.snapshot.is_some());
        let mut tap = follower.tap_from(Some(&capture.start)).await;
        w.sql("insert into t values (1)").await;
        let lines = crate::world::show(&follower.drain(&mut tap).await);
        assert_eq!(lines, ["begin", "+ public.t 1", "commit"], "{}", w.server.major());
        follower.db.head().await.unwrap();
        assert!(follower.db.retained(&w.run).await.unwrap().is_some());
        drop(capture);
        follower.db.snapshot_at_position().await.map(drop).unwrap();
        follower.release().await;
    }
}

//! What our own sink wrote on this database is left out and still moves the position.

use std::sync::Arc;

use cutover_core::{
    model::{
        event::{Change, Event, Relation, RelationColumn},
        position::Position,
        schema::TableName,
        value::{TupleBuilder, Value},
    },
    port::{
        PortError,
        copy::{CopyFormat, Range},
        sink::{Route, Sink},
        source::Source,
    },
};
use cutover_sandbox::{PgOptions, Postgres, find_postgres};

use crate::world::{World, show};

/// A transaction that was replicated from elsewhere. The origin is free afterwards: the session
/// may live on for a moment.
fn from(origin: &str, sql: &str) -> String {
    format!(
        "select pg_replication_origin_session_setup('{origin}'); \
         begin; select pg_replication_origin_xact_setup('0/1', now()); {sql}; commit; \
         select pg_replication_origin_session_reset()"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_transactions_are_left_out_and_those_of_others_are_not() {
    for w in World::everywhere_and_standbys("origins").await {
        w.sql(&format!("alter database {} set logical_decoding_work_mem = '64kB'", w.name)).await;
        w.sql("create table t (id int primary key, v text)").await;
        let mut tap = w.tap().await;
        let ours = w.run.object_name();
        // In a transaction of its own, as the sink does: version 14 cannot name an origin that was
        // created in the same one.
        let early = format!("{ours}/early");
        for origin in [ours.as_str(), &early, "someone_else"] {
            w.sql(&format!("select pg_replication_origin_create('{origin}')")).await;
        }
        let large = |from: i32| {
            format!(
                "insert into t select i, repeat('v', 100) from generate_series({from}, {}) i",
                from + 1_999
            )
        };
        w.sql(&from(&ours, "insert into t values (1, 'ours')")).await;
        w.sql(&from("someone_else", "insert into t values (2, 'theirs')")).await;
        w.sql(&from(&ours, &large(10_000))).await;
        w.sql(&from(&early, "insert into t values (4, 'ours')")).await;
        w.sql(&from(&early, &large(30_000))).await;
        w.sql(&from("someone_else", &large(20_000))).await;
        w.sql("insert into t values (3, 'local')").await;
        w.sql(&from(&ours, "truncate t")).await;
        let events = w.drain(&mut tap).await;
        let lines = show(&events);
        let short: Vec<_> = lines.iter().filter(|l| !l.ends_with("bytes")).collect();
        assert_eq!(lines.len(), 2_000 + 2 + 6, "PostgreSQL {}: {short:?}", w.server.major());
        assert_eq!(lines[..3], ["begin", "+ public.t 2,theirs", "commit"]);
        assert!(lines.contains(&"+ public.t 20000,100 bytes".to_owned()));
        assert_eq!(lines[lines.len() - 3..], ["begin", "+ public.t 3,local", "commit"]);
        // The last of ours lies behind the last commit and is reported all the same.
        let last = events.iter().rposition(|e| matches!(e, Event::Commit { .. })).unwrap();
        assert!(
            events[last..].iter().any(|e| matches!(e, Event::Idle { .. })),
            "no position for what was left out"
        );
        w.release().await;
        w.sql(&format!(
            "select pg_replication_origin_drop(o) from unnest(array['{ours}', '{early}', 'someone_else']) o"
        ))
        .await;
    }
}

/// What the sink writes of a table that is emptied and filled anew: more than the server keeps in
/// memory, so that it is handed out in pieces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_large_transactions_that_empty_a_table_first_are_left_out() {
    let column = |name: &str, type_id| RelationColumn {
        name: name.into(),
        key: name == "id",
        type_id,
        type_modifier: -1,
    };
    let name = TableName::new("public", "t");
    let relation = Arc::new(Relation {
        id: 1,
        name: name.clone(),
        columns: vec![column("id", 23), column("v", 25)],
        full_identity: false,
    });
    let mut reload = vec![Event::Truncate {
        relations: vec![Arc::clone(&relation)],
        others: false,
        cascade: false,
        restart_identity: false,
    }];
    reload.extend((0..2_000).map(|id| {
        let mut row = TupleBuilder::new();
        row.push(Value::Text(id.to_string().as_bytes()));
        row.push(Value::Text(&[b'v'; 100]));
        let change = Change::Insert { new: row.finish() };
        Event::Row { relation: Arc::clone(&relation), change }
    }));
    let begin = |transaction| Event::Begin { transaction, committed_at: 0 };
    let at = |n: u64| Position::Postgres { timeline: 1, lsn: (1 << 40) + n };
    let commit = |n| Event::Commit { position: at(n) };

    for w in World::everywhere("origins-of-reloads").await {
        w.sql(&format!("alter database {} set logical_decoding_work_mem = '64kB'", w.name)).await;
        let fill = "select i, repeat('v', 100) from generate_series(1, 2000) i";
        for table in ["t", "other"] {
            w.sql(&format!("create table {table} (id int primary key, v text)")).await;
        }
        w.sql(&format!("insert into other {fill}")).await;
        w.db.prepare(&w.run).await.unwrap();
        let mut tap = w.tap().await;
        let tables = w.tables().await;
        let table = |name: &str| tables.iter().find(|t| t.name.name == name).unwrap();
        let (target, other) = (table("t"), table("other"));
        let routes = [Route { source: name.clone(), target: target.clone() }];
        let mut writer = w.db.writer(&w.run, &routes).await.unwrap();
        for way in ["at once", "in two calls", "early", "a repair"] {
            match way {
                "at once" => {
                    let all = [vec![begin(1)], reload.clone(), vec![commit(1)]].concat();
                    writer.apply(&all).await.unwrap();
                }
                "in two calls" => {
                    writer.apply(&[begin(2)]).await.unwrap();
                    writer.apply(&[reload.clone(), vec![commit(2)]].concat()).await.unwrap();
                }
                "early" => {
                    let mut early = writer.early().await.unwrap().unwrap();
                    early.write(3, &reload).await.unwrap();
                    assert!(early.commit(&at(3)).await.unwrap());
                }
                _ => {
                    let all = Range { condition: String::new(), bytes: 0 };
                    let snapshot = w.db.snapshot().await.unwrap();
                    let rows = snapshot.read(other, &all, CopyFormat::PostgresText).await;
                    let rows = rows.and_then(|opened| opened.rows()).unwrap();
                    let replaced = writer.replace(target, None, CopyFormat::PostgresText, rows);
                    assert_eq!(replaced.await.unwrap(), 2_000);
                }
            }
            let mut lines = show(&w.drain(&mut tap).await);
            // A snapshot begins with a message of ours.
            lines.retain(|line| line.starts_with("truncate") || line.starts_with('+'));
            assert!(lines.is_empty(), "PostgreSQL {}, {way}: {}", w.server.major(), lines.len());
        }
        drop((tap, writer));
        w.release().await;
        Sink::release(&w.db, &w.run).await.unwrap();
    }
}

/// What the server was asked to leave out, by whoever reads the slot now.
async fn asked(w: &World) -> String {
    let sql =
        "select query from pg_stat_activity a join pg_replication_slots s on a.pid = s.active_pid
        where s.slot_name = '$slot'";
    w.text(&sql.replace("$slot", &w.run.object_name())).await
}

/// Origins belong to the whole server, so it has one of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_is_told_when_the_server_may_have_left_something_out() {
    let installs = find_postgres();
    for install in [&installs[0], &installs[installs.len() - 1]] {
        let server = Postgres::start(install, PgOptions::new()).await.unwrap();
        let server: &'static Postgres = Box::leak(Box::new(server));
        let w = World::on(server, "watcher").await;
        w.sql("create table t (id int primary key, v text)").await;
        let ours = w.run.object_name();
        let create = |origin: &str| format!("select pg_replication_origin_create('{origin}')");
        w.sql(&create(&ours)).await;
        w.capture().await;
        let mut tap = w.watch().await;
        let filters = server.major() >= 16;
        assert_eq!(asked(&w).await.contains("origin 'none'"), filters, "{}", asked(&w).await);
        w.sql(&from(&ours, "insert into t values (1, 'ours')")).await;
        w.sql("insert into t values (2, 'around the fence')").await;
        let lines = show(&w.drain(&mut tap).await);
        assert_eq!(lines, ["begin", "+ public.t 2,around the fence", "commit"]);
        tap.stream.vouch().await.unwrap();

        w.sql(&create("someone_else")).await;
        w.sql(&from("someone_else", "insert into t values (3, 'theirs')")).await;
        let theirs = ["begin", "+ public.t 3,theirs", "commit"];
        let lines = show(&w.drain(&mut tap).await);
        if filters {
            assert!(lines.is_empty(), "{lines:?}");
            let doubt = tap.stream.vouch().await.unwrap_err();
            assert!(matches!(doubt, PortError::Transient { .. }), "{doubt}");
            // Nothing was stored since, so it comes again.
            drop(tap);
            tap = w.watch().await;
            assert!(!asked(&w).await.contains("origin 'none'"));
            let again = show(&w.drain(&mut tap).await);
            assert!(again.windows(3).any(|lines| lines == theirs), "{again:?}");
        } else {
            assert_eq!(lines, theirs);
        }
        tap.stream.vouch().await.unwrap();
        drop(tap);
        w.release().await;
    }
}

//! What is not as the stream expects stops with a named error, and nothing is written.

use cutover_core::{
    model::{event::Event, position::Position, schema::TableName},
    port::{PortError, sink::Sink},
};

use crate::{
    on_each_server,
    world::{World, end},
};

/// The one of `pids` that an error names. A session that was refused may still be there as well.
fn named(error: &str, pids: &[i32]) -> i32 {
    let is = |pid: &&i32| error.contains(&format!("pid {pid} "));
    *pids.iter().find(is).unwrap_or_else(|| panic!("none of {pids:?}: {error}"))
}

/// A world with rows on both sides, one of them changed behind our back, and what a change of the
/// source then says. Neither the batch's other rows nor its position may be stored.
async fn refused(world: &mut World, behind: &str, statements: &[&str]) -> PortError {
    let (error, position) = stopped(world, behind, statements).await;
    assert!(error.to_string().contains("dst.t"), "{error}");
    assert!(error.to_string().contains(&position.to_string()), "{error}");
    error
}

/// As [`refused`], whatever the error names.
async fn stopped(world: &mut World, behind: &str, statements: &[&str]) -> (PortError, Position) {
    world
        .client
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS src.calm (id int PRIMARY KEY);
        CREATE TABLE IF NOT EXISTS dst.calm (id int PRIMARY KEY)",
        )
        .await
        .unwrap();
    world.watch().await;
    world.meddle(behind).await;
    let before = world.rows("dst", "t").await;
    let mut writer = world.writer().await;
    let stored = writer.progress().await.unwrap();
    let mut events = world.changes(&["INSERT INTO calm VALUES (1)"]).await;
    events.extend(world.changes(statements).await);
    let position = end(&events);
    let error = writer.apply(&events).await.unwrap_err();
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    drop(writer);
    assert_eq!(world.writer().await.progress().await.unwrap(), stored);
    assert_eq!(world.rows("dst", "t").await, before);
    assert!(world.rows("dst", "calm").await.is_empty());
    (error, position)
}

async fn seeded(server: &'static cutover_sandbox::Postgres, ddl: &str, rows: &str) -> World {
    let mut world = World::with(server, ddl).await;
    let events = world.changes(&[rows]).await;
    world.writer().await.apply(&events).await.unwrap();
    world
}

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, a text)";

/// A new copy of the table is the remedy, and whoever makes it knows which one.
fn assert_spoiled(error: &PortError, code: &str) {
    assert_eq!(error.code(), Some(code), "{error}");
    assert!(error.remedy().unwrap().contains("cutover verify --repair"), "{error}");
    let PortError::Definite { spoiled: Some(table), .. } = error else { panic!("{error:?}") };
    assert_eq!(**table, TableName::new("dst", "t"));
}

on_each_server! {
    async fn a_missing_row(server) {
        for statement in ["UPDATE t SET a = 'secret1' WHERE id = 2", "DELETE FROM t WHERE id = 2",
                          "UPDATE t SET id = 9 WHERE id = 2"] {
            let mut world = seeded(server, T, "INSERT INTO t VALUES (1, 'secret'), (2, 'b')").await;
            let error =
                refused(&mut world, "DELETE FROM dst.t WHERE id = 2", &[statement]).await;
            assert_spoiled(&error, "CUT0401");
        }
    }

    async fn a_row_that_is_there_already(server) {
        for statement in ["INSERT INTO t VALUES (2, 'secret1')",
                          "INSERT INTO t SELECT i, 'secret' FROM generate_series(2, 200) i",
                          "UPDATE t SET id = 2 WHERE id = 1"] {
            let mut world = seeded(server, T, "INSERT INTO t VALUES (1, 'a')").await;
            let error =
                refused(&mut world, "INSERT INTO dst.t VALUES (2, 'secret')", &[statement]).await;
            assert_spoiled(&error, "CUT0402");
        }
    }

    async fn a_missing_row_without_a_key(server) {
        let ddl = "CREATE TABLE t (id int, a text); ALTER TABLE t REPLICA IDENTITY FULL";
        let mut world = seeded(server, ddl, "INSERT INTO t VALUES (1, 'secret')").await;
        let error = refused(&mut world, "UPDATE dst.t SET a = 'Secret'", &["DELETE FROM t"]).await;
        assert_spoiled(&error, "CUT0401");
    }

    async fn a_key_that_names_two_rows(server) {
        let mut world = seeded(server, T, "INSERT INTO t VALUES (1, 'a')").await;
        let behind = "ALTER TABLE dst.t DROP CONSTRAINT t_pkey; INSERT INTO dst.t VALUES (1, 'b')";
        let error = refused(&mut world, behind, &["UPDATE t SET a = 'secret'"]).await;
        assert_spoiled(&error, "CUT0408");
    }

    async fn a_row_that_green_does_not_accept(server) {
        for behind in ["ALTER TABLE dst.t ADD CHECK (a <> 'secret')",
                       "ALTER TABLE dst.t ALTER a TYPE varchar(3)",
                       "ALTER TABLE dst.t ALTER a TYPE int USING 1",
                       "CREATE FUNCTION dst.no() RETURNS trigger LANGUAGE plpgsql AS
                          $$ BEGIN RAISE 'row %', NEW; END $$;
                        CREATE TRIGGER no BEFORE INSERT ON dst.t FOR EACH ROW EXECUTE FUNCTION dst.no();
                        ALTER TABLE dst.t ENABLE ALWAYS TRIGGER no",
                       "CREATE FUNCTION dst.no() RETURNS trigger LANGUAGE plpgsql AS
                          $$ BEGIN RETURN NULL; END $$;
                        CREATE TRIGGER no BEFORE INSERT ON dst.t FOR EACH ROW EXECUTE FUNCTION dst.no();
                        ALTER TABLE dst.t ENABLE ALWAYS TRIGGER no"] {
            let mut world = seeded(server, T, "INSERT INTO t VALUES (1, 'a')").await;
            let error =
                refused(&mut world, behind, &["INSERT INTO t VALUES (2, 'secret')"]).await;
            assert_eq!(error.code(), Some("CUT0407"), "{behind}: {error}");
            // Many rows take another way.
            let statement = "INSERT INTO t SELECT i, 'secret' FROM generate_series(3, 200) i";
            let mut world = seeded(server, T, "INSERT INTO t VALUES (1, 'a')").await;
            let error = refused(&mut world, behind, &[statement]).await;
            assert_eq!(error.code(), Some("CUT0407"), "{behind}: {error}");
        }
    }

    /// A function may call its error what it likes, and say the value.
    async fn a_row_that_a_function_refuses_in_its_own_words(server) {
        const MANY: &str = "INSERT INTO t SELECT i, 'secret' || i FROM generate_series(3, 200) i";
        for (state, statement, code) in [
            ("UE001", "INSERT INTO t VALUES (2, 'secret')", "CUT0407"),
            ("UE001", "UPDATE t SET a = 'secret' WHERE id = 1", "CUT0407"),
            ("UE001", MANY, "CUT0407"),
            ("XX000", MANY, "CUT0407"),
            ("55000", MANY, "CUT0016"),
            ("42501", "INSERT INTO t VALUES (2, 'secret')", "CUT0015"),
        ] {
            let behind = format!(
                "CREATE FUNCTION dst.fine(v text) RETURNS bool LANGUAGE plpgsql AS
                   $$ BEGIN IF v LIKE 'secret%' THEN
                        RAISE EXCEPTION 'bad %', v USING ERRCODE = '{state}';
                      END IF; RETURN true; END $$;
                 ALTER TABLE dst.t ADD CHECK (dst.fine(a))"
            );
            let mut world = seeded(server, T, "INSERT INTO t VALUES (1, 'a')").await;
            let (error, _) = stopped(&mut world, &behind, &[statement]).await;
            assert_eq!(error.code(), Some(code), "{state}: {error}");
        }
    }

    /// Both sides are alike, so that making them alike does not help.
    async fn a_function_that_finds_something_by_the_path_of_clients(server) {
        for body in ["RETURN other(a)", "RETURN EXISTS (SELECT FROM t)"] {
            let behind = format!(
                "CREATE FUNCTION dst.other(a text) RETURNS bool LANGUAGE sql AS 'SELECT true';
                 CREATE FUNCTION dst.asks(a text) RETURNS bool LANGUAGE plpgsql
                   AS $$ BEGIN {body}; END $$;
                 SET search_path = dst; ALTER TABLE t ADD CHECK (asks(a)); RESET search_path"
            );
            let mut world = seeded(server, T, "INSERT INTO t VALUES (1, 'a')").await;
            let error = refused(&mut world, &behind, &["INSERT INTO t VALUES (2, 'secret')"]).await;
            assert_eq!(error.code(), Some("CUT0407"), "{error}");
            assert!(error.remedy().unwrap().contains("ALTER FUNCTION"), "{error:?}");
        }
    }

    async fn a_truncate_that_a_foreign_key_forbids(server) {
        let mut world = seeded(server, T, "INSERT INTO t VALUES (1, 'a')").await;
        let behind = "CREATE TABLE dst.child (id int PRIMARY KEY, t int REFERENCES dst.t)";
        let error = refused(&mut world, behind, &["TRUNCATE t"]).await;
        assert_eq!(error.code(), Some("CUT0405"), "{error}");
    }

    async fn a_table_without_a_route(server) {
        let mut world = seeded(server, T, "INSERT INTO t VALUES (1, 'a')").await;
        let mut writer = world.writer().await;
        world.define("src", "CREATE TABLE fresh (id int PRIMARY KEY)").await;
        world.watch().await;
        let events = world.changes(&["INSERT INTO fresh VALUES (1)"]).await;
        let error = writer.apply(&events).await.unwrap_err();
        assert_eq!(error.code(), Some("CUT0404"), "{error}");
        assert!(error.to_string().contains("src.fresh"));
        // After an error the writer takes nothing.
        let error = writer.apply(&events).await.unwrap_err();
        assert_eq!(error.code(), Some("CUT0411"), "{error}");
    }

    async fn another_timeline(server) {
        let mut world = seeded(server, T, "INSERT INTO t VALUES (1, 'a')").await;
        let mut events = world.changes(&["DELETE FROM t"]).await;
        let position = Position::Postgres { timeline: 2, lsn: 1 << 40 };
        *events.last_mut().unwrap() = Event::Commit { position };
        let error = world.writer().await.apply(&events).await.unwrap_err();
        assert_eq!(error.code(), Some("CUT0406"), "{error}");
    }

    async fn a_second_writer_and_a_second_lease(server) {
        let world = World::with(server, T).await;
        let writer = world.writer().await;
        let error = world.green.writer(&world.run, &[]).await.err().unwrap();
        assert_eq!(error.code(), Some("CUT0409"), "{error}");
        named(&error.to_string(), &world.backends("apply").await);
        drop(writer);
        drop(world.writer().await);

        let mut lease = world.green.lease(&world.run).await.unwrap();
        lease.keep().await.unwrap();
        let error = world.green.lease(&world.run).await.err().unwrap();
        assert_eq!(error.code(), Some("CUT0501"), "{error}");
        assert!(error.to_string().contains("lease"), "{error}");
        let pid = named(&error.to_string(), &world.backends("lease").await);
        world.client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
        // It is taken again, but not from another process.
        lease.keep().await.unwrap();
        let now = world.backends("lease").await;
        assert_ne!(now, [pid]);
        let other = world.process(&world.server.url(&world.name));
        world.client.execute("SELECT pg_terminate_backend($1)", &[&now[0]]).await.unwrap();
        let taken = cutover_sandbox::wait_for("the lease", std::time::Duration::from_secs(60),
            async || other.lease(&world.run).await.ok()).await.unwrap();
        assert_eq!(lease.keep().await.unwrap_err().code(), Some("CUT0501"));
        drop(taken);
    }

    async fn a_run_that_was_not_prepared(server) {
        let world = World::with(server, T).await;
        world.green.release(&world.run).await.unwrap();
        let error = world.green.writer(&world.run, &[]).await.err().unwrap();
        assert_eq!(error.code(), Some("CUT0410"), "{error}");
        world.green.prepare(&world.run).await.unwrap();
        world.client
            .batch_execute(&format!("UPDATE {}.progress SET format = 99", world.run.object_name()))
            .await
            .unwrap();
        let error = world.green.writer(&world.run, &[]).await.err().unwrap();
        assert_eq!(error.code(), Some("CUT0410"), "{error}");
    }
}

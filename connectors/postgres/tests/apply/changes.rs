//! What streams say, and that both sides are equal afterwards.

use cutover_core::{
    model::{event::Event, schema::TableName},
    port::sink::{Route, Sink},
};

use crate::{
    on_each_server,
    world::{World, end},
};

/// Applies the changes in one call, and again one transaction per call in another world.
async fn both_ways(server: &'static cutover_sandbox::Postgres, ddl: &str, statements: &[&str]) {
    for toast in [false, true] {
        for one_call in [true, false] {
            let mut world = World::with(server, ddl).await;
            world.toast = toast;
            let mut writer = world.writer().await;
            if one_call {
                let events = world.changes(statements).await;
                let stored = writer.apply(&events).await.unwrap();
                assert_eq!(stored, Some(end(&events)));
            } else {
                for statement in statements {
                    let events = world.changes(&[statement]).await;
                    if !events.is_empty() {
                        writer.apply(&events).await.unwrap();
                    }
                }
            }
            world.assert_equal().await;
        }
    }
}

on_each_server! {
    async fn mixed_changes_of_rows_with_a_key(server) {
        both_ways(server, "CREATE TABLE t (id int PRIMARY KEY, a text, b numeric)", &[
            "INSERT INTO t SELECT i, 'a' || i, i / 3.0 FROM generate_series(1, 200) i",
            "UPDATE t SET a = NULL WHERE id % 7 = 0",
            "UPDATE t SET b = b * 2, a = repeat('x', 300) WHERE id % 5 = 0",
            "UPDATE t SET b = 0 WHERE id % 10 = 0",
            "DELETE FROM t WHERE id % 11 = 0",
            "INSERT INTO t SELECT i, repeat('new', 100), i FROM generate_series(11, 200, 11) i",
            "UPDATE t SET b = NULL WHERE id % 22 = 0",
            "DELETE FROM t WHERE id = 33",
        ]).await;
    }

    async fn names_in_mixed_case_and_with_quotes(server) {
        both_ways(
            server,
            "CREATE TABLE \"My \"\"T\"\".x\" (\"Select\" int, \"ä b\" text, \"from\" text,
                PRIMARY KEY (\"from\", \"Select\"))",
            &[
                "INSERT INTO \"My \"\"T\"\".x\" VALUES (1, 'x', 'f'), (2, NULL, 'f'), (1, '', 'g')",
                "UPDATE \"My \"\"T\"\".x\" SET \"ä b\" = 'y' WHERE \"from\" = 'f'",
                "DELETE FROM \"My \"\"T\"\".x\" WHERE \"Select\" = 2",
                "UPDATE \"My \"\"T\"\".x\" SET \"from\" = 'h' WHERE \"from\" = 'g'",
            ],
        ).await;
    }

    async fn keys_that_change_and_swap(server) {
        both_ways(server, "CREATE TABLE t (id int PRIMARY KEY, a text)", &[
            "INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three')",
            "BEGIN; UPDATE t SET id = 10 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2;
             UPDATE t SET id = 2 WHERE id = 10; COMMIT",
            "UPDATE t SET id = id + 100, a = repeat('z', 200)",
            "UPDATE t SET id = id - 100",
            "DELETE FROM t WHERE id = 3",
        ]).await;
    }

    async fn unique_values_that_swap(server) {
        both_ways(server, "CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, a text);
                           CREATE TABLE calm (id int PRIMARY KEY)", &[
            "INSERT INTO t VALUES (1, 1, 'x'), (2, 2, 'y'), (3, 3, 'z'); INSERT INTO calm VALUES (1)",
            "BEGIN; UPDATE t SET u = 99 WHERE id = 1; UPDATE t SET u = 1 WHERE id = 2;
             UPDATE t SET u = 2 WHERE id = 1; COMMIT",
            "INSERT INTO calm SELECT generate_series(2, 300)",
            "BEGIN; UPDATE t SET u = NULL WHERE id = 3; UPDATE t SET u = 3 WHERE id = 1;
             UPDATE t SET u = 2 WHERE id = 3; COMMIT",
            "BEGIN; DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (4, 2, 'w'); COMMIT",
        ]).await;
    }

    async fn a_deferrable_unique_value_swaps_in_one_statement(server) {
        both_ways(
            server,
            "CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY IMMEDIATE)",
            &[
                "INSERT INTO t SELECT i, i FROM generate_series(1, 10) i",
                "UPDATE t SET u = 11 - u",
                "UPDATE t SET u = 11 - u, id = id + 1000",
            ],
        ).await;
    }

    /// Within a transaction a key may name two rows for a while.
    async fn primary_keys_that_are_checked_late(server) {
        let ddl = "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, a text);
                   ALTER TABLE t REPLICA IDENTITY FULL";
        let fill = "INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three')";
        let alone = [
            "BEGIN; INSERT INTO t VALUES (1, 'new'); DELETE FROM t WHERE a = 'one'; COMMIT",
            "BEGIN; INSERT INTO t VALUES (2, 'new'); UPDATE t SET a = 'x' WHERE a = 'two';
             DELETE FROM t WHERE a = 'x'; COMMIT",
            "BEGIN; INSERT INTO t VALUES (3, 'new'); UPDATE t SET id = 4 WHERE a = 'three'; COMMIT",
            "UPDATE t SET id = id + 1",
            "UPDATE t SET id = 4 - id",
        ];
        for statement in alone {
            let mut world = World::with(server, ddl).await;
            let mut writer = world.writer().await;
            for statement in [fill, statement] {
                let events = world.changes(&[statement]).await;
                writer.apply(&events).await.unwrap();
            }
            assert_eq!(world.rows("src", "t").await, world.rows("dst", "t").await, "{statement}");
            both_ways(server, ddl, &[fill, statement, "DELETE FROM t WHERE id = 2"]).await;
        }
    }

    /// Nobody asks them of values that stay.
    async fn constraints_of_domains_that_are_not_valid(server) {
        let ddl = "CREATE DOMAIN small AS int; CREATE DOMAIN smaller AS small;
                   CREATE DOMAIN word AS text;
                   CREATE TABLE t (id int PRIMARY KEY, i int GENERATED ALWAYS AS IDENTITY,
                                   a smaller, w word, n int)";
        let fill = "INSERT INTO t VALUES (1, DEFAULT, 100, NULL, 1), (2, DEFAULT, 200, '', 2),
                                         (3, DEFAULT, NULL, 'x', 3), (4, DEFAULT, 4, 'y', 4)";
        let late = "ALTER DOMAIN small ADD CHECK (VALUE < 10) NOT VALID;
                    ALTER DOMAIN word ADD CHECK (VALUE IS NOT NULL AND VALUE <> '') NOT VALID";
        for statement in [
            "UPDATE t SET n = n + 1",
            "UPDATE t SET n = n + 1 WHERE id = 1",
            "UPDATE t SET id = id + 10, n = 0",
            "UPDATE t SET i = DEFAULT, n = 0 WHERE id < 3",
            "UPDATE t SET a = 5, w = 'new'",
            "UPDATE t SET a = NULL; UPDATE t SET w = 'y', a = 6 WHERE id = 2",
        ] {
            let mut world = World::with(server, ddl).await;
            world.writer().await.apply(&world.changes(&[fill]).await).await.unwrap();
            for schema in ["src", "dst"] {
                world.define(schema, late).await;
            }
            let events = world.changes(&[statement]).await;
            world.writer().await.apply(&events).await.unwrap();
            world.assert_equal().await;
        }
    }

    async fn rows_are_found_by_what_a_domain_would_refuse(server) {
        let ddl = "CREATE DOMAIN small AS numeric; CREATE DOMAIN words AS text[];
                   CREATE DOMAIN code AS char(3);
                   CREATE TABLE t (k small, c code, n int, PRIMARY KEY (k, c));
                   CREATE TABLE f (a small, w words, c code);
                   ALTER TABLE f REPLICA IDENTITY FULL";
        let fill = "INSERT INTO t SELECT i, 'a', i FROM generate_series(95, 105) i;
                    INSERT INTO f VALUES (100, '{x,y}', 'a'), (100, '{x,y}', 'a'), (5, '{x}', NULL),
                                         (NULL, NULL, 'b')";
        let late = "ALTER DOMAIN small ADD CHECK (VALUE < 10) NOT VALID;
                    ALTER DOMAIN words ADD CHECK (cardinality(VALUE) < 2) NOT VALID;
                    ALTER DOMAIN code ADD CHECK (VALUE <> 'a') NOT VALID";
        for statement in [
            "UPDATE t SET n = n + 1",
            "UPDATE t SET n = n + 1 WHERE k = 100",
            "UPDATE t SET k = 200 - k - 100 WHERE k > 100",
            "DELETE FROM t",
            "DELETE FROM t WHERE k < 97",
            "UPDATE f SET a = 7 WHERE ctid = (SELECT min(ctid) FROM f)",
            "UPDATE f SET c = 'd'",
            "DELETE FROM f WHERE ctid = (SELECT min(ctid) FROM f)",
            "DELETE FROM f",
        ] {
            let mut world = World::with(server, ddl).await;
            world.writer().await.apply(&world.changes(&[fill]).await).await.unwrap();
            for schema in ["src", "dst"] {
                world.define(schema, late).await;
            }
            let events = world.changes(&[statement]).await;
            let applied = world.writer().await.apply(&events).await;
            applied.unwrap_or_else(|e| panic!("{statement}: {e}"));
            world.assert_equal().await;
        }
    }

    async fn exclusion_constraints(server) {
        both_ways(
            server,
            "CREATE TABLE t (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&))",
            &[
                "INSERT INTO t VALUES (1, '[1,5)'), (2, '[5,9)')",
                "BEGIN; UPDATE t SET r = '[20,21)' WHERE id = 1; UPDATE t SET r = '[1,9)' WHERE id = 2;
                 COMMIT",
                "BEGIN; UPDATE t SET r = '[30,31)' WHERE id = 2; UPDATE t SET r = '[2,4)' WHERE id = 1;
                 COMMIT",
            ],
        ).await;
    }

    async fn rows_without_a_key(server) {
        both_ways(
            server,
            "CREATE TABLE t (a int, b text, n numeric, j json, p point, x int[]);
             ALTER TABLE t REPLICA IDENTITY FULL;
             CREATE TABLE keyed (id int PRIMARY KEY, b text);
             ALTER TABLE keyed REPLICA IDENTITY FULL",
            &[
                "INSERT INTO t VALUES (1, 'a', 1.0, '{\"k\": 1}', '(1,2)', '{1,NULL}'),
                   (1, 'a', 1.0, '{\"k\": 1}', '(1,2)', '{1,NULL}'),
                   (1, 'a', 1.00, '{\"k\":1}', '(1,2)', '{1,NULL}'),
                   (NULL, NULL, NULL, NULL, NULL, NULL), (NULL, NULL, NULL, NULL, NULL, '{}')",
                "DELETE FROM t WHERE ctid = (SELECT ctid FROM t WHERE n::text = '1.00' LIMIT 1)",
                "DELETE FROM t WHERE ctid = (SELECT ctid FROM t WHERE n::text = '1.0' LIMIT 1)",
                "UPDATE t SET b = repeat('long', 100) WHERE a = 1",
                "UPDATE t SET a = 2 WHERE a = 1",
                "UPDATE t SET a = a",
                "UPDATE t SET j = '[]' WHERE a IS NULL",
                "DELETE FROM t WHERE x = '{}'",
                "INSERT INTO keyed SELECT i, repeat('k', 200) FROM generate_series(1, 100) i",
                "UPDATE keyed SET id = 1000 WHERE id = 1",
                "UPDATE keyed SET b = 'short' WHERE id < 50",
                "DELETE FROM keyed WHERE id > 900",
            ],
        ).await;
    }

    async fn rows_that_are_only_added(server) {
        both_ways(server, "CREATE TABLE t (a int, at timestamptz)", &[
            "INSERT INTO t SELECT 1, '2024-02-29 12:00+01' FROM generate_series(1, 500)",
            "INSERT INTO t VALUES (NULL, 'infinity')",
        ]).await;
    }

    async fn identity_and_generated_columns(server) {
        both_ways(
            server,
            "CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int,
                twice int GENERATED ALWAYS AS (v * 2) STORED);
             CREATE TABLE d (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v int);
             CREATE TABLE b (k text PRIMARY KEY, n bigint GENERATED ALWAYS AS IDENTITY, v text)",
            &[
                "INSERT INTO a (v) SELECT generate_series(1, 100)",
                "UPDATE a SET v = v + 1 WHERE id < 20",
                "DELETE FROM a WHERE id = 5",
                "UPDATE a SET id = DEFAULT WHERE id = 7",
                "INSERT INTO d VALUES (40, 1), (DEFAULT, 2)",
                "UPDATE d SET id = 41 WHERE id = 40",
                "INSERT INTO b (k, v) VALUES ('x', repeat('v', 500)), ('y', 'v')",
                "UPDATE b SET v = 'w' WHERE k = 'y'",
                "UPDATE b SET n = DEFAULT WHERE k = 'x'",
                "UPDATE b SET n = DEFAULT, k = 'z' WHERE k = 'y'",
            ],
        ).await;
    }

    async fn truncates(server) {
        both_ways(
            server,
            "CREATE TABLE p (id int PRIMARY KEY);
             CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p);
             CREATE TABLE other (id int PRIMARY KEY)",
            &[
                "INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1, 1); INSERT INTO other VALUES (1)",
                "BEGIN; INSERT INTO p VALUES (3); TRUNCATE p, c; INSERT INTO p VALUES (1), (9); COMMIT",
                "INSERT INTO c VALUES (5, 9)",
                "TRUNCATE other",
                "INSERT INTO other VALUES (2)",
                "TRUNCATE p CASCADE",
                "INSERT INTO p VALUES (7)",
            ],
        ).await;
    }

    async fn partitions_to_partitions(server) {
        both_ways(
            server,
            "CREATE TABLE t (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
             CREATE TABLE t1 PARTITION OF t FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
             CREATE TABLE t2 PARTITION OF t FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
            &[
                "INSERT INTO t SELECT i, date '2024-06-01' + i * 3, 'x' FROM generate_series(1, 100) i",
                "UPDATE t SET v = 'y' WHERE id % 3 = 0",
                "UPDATE t SET at = at + 365 WHERE at < '2024-07-01'",
                "DELETE FROM t WHERE id % 7 = 0",
            ],
        ).await;
    }

    async fn partitions_to_another_layout(server) {
        let mut world = World::empty(server).await;
        world.define("src",
            "CREATE TABLE t (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
             CREATE TABLE t1 PARTITION OF t FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
             CREATE TABLE t2 (v text, at date NOT NULL, id int NOT NULL);
             ALTER TABLE t ATTACH PARTITION t2 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
        ).await;
        world.define("dst",
            "CREATE TABLE t (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY HASH (id, at);
             CREATE TABLE h0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE h1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        ).await;
        world.watch().await;
        let target = world.table("dst", "t").await;
        let routes = ["t1", "t2"].map(|leaf| Route {
            source: TableName::new("src", leaf),
            target: target.clone(),
        });
        let mut writer = world.green.writer(&world.run, &routes).await.unwrap();
        for statements in [
            &["INSERT INTO t SELECT i, date '2024-06-01' + i, 'x' FROM generate_series(1, 400) i"][..],
            &["UPDATE t SET v = 'y' WHERE id % 3 = 0",
              "UPDATE t SET at = at + 365 WHERE at < '2024-07-01'",
              "DELETE FROM t WHERE id % 7 = 0"],
            &["TRUNCATE t", "INSERT INTO t VALUES (1, '2025-05-05', 'after')"],
        ] {
            let events = world.changes(statements).await;
            writer.apply(&events).await.unwrap();
            assert_eq!(world.rows("src", "t").await, world.rows("dst", "t").await);
        }
        // Emptying one of two source tables cannot be repeated on their common target.
        let events = world.changes(&["TRUNCATE t1"]).await;
        let error = writer.apply(&events).await.unwrap_err();
        assert_eq!(error.code(), Some("CUT0405"), "{error}");
    }

    async fn partitions_of_which_some_have_the_same_names(server) {
        let mut world = World::empty(server).await;
        let blue = "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
             CREATE TABLE a PARTITION OF t FOR VALUES FROM (0) TO (100);
             CREATE TABLE b PARTITION OF t FOR VALUES FROM (100) TO (200);
             CREATE TABLE alike (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE x PARTITION OF alike FOR VALUES FROM (0) TO (300);
             CREATE TABLE y PARTITION OF alike FOR VALUES FROM (300) TO (400)";
        world.define("src", blue).await;
        let green = blue.replace("TO (100)", "TO (150)").replace("FROM (100)", "FROM (150)");
        world.define("dst", &green.replace("TABLE b", "TABLE c")).await;
        world.watch().await;
        let mut routes = Vec::new();
        for (leaf, name, root) in [("a", "a", Some("t")), ("b", "t", None),
                                   ("x", "x", Some("alike")), ("y", "y", Some("alike"))] {
            let mut target = world.table("dst", name).await;
            target.root = root.map(|root| TableName::new("dst", root));
            routes.push(Route { source: TableName::new("src", leaf), target });
        }
        let fill = "INSERT INTO t SELECT i, 'v' FROM generate_series(0, 199) i";
        let events = world.changes(&[fill, "INSERT INTO alike VALUES (1), (300)"]).await;
        world.green.writer(&world.run, &routes).await.unwrap().apply(&events).await.unwrap();
        // Rows of `b` are in all of them.
        let before = world.rows("dst", "t").await;
        for emptied in ["a", "b"] {
            let events = world.changes(&[&format!("TRUNCATE {emptied}")]).await;
            let mut writer = world.green.writer(&world.run, &routes).await.unwrap();
            let applied = writer.apply(&events).await;
            let code = applied.as_ref().err().and_then(|error| error.code());
            assert_eq!(code, Some("CUT0405"), "TRUNCATE {emptied}: {applied:?}");
            drop(writer);
            assert_eq!(world.rows("dst", "t").await, before, "TRUNCATE {emptied}");
        }
        let last = [fill, "TRUNCATE t", "INSERT INTO t VALUES (7, 'new'), (177, 'new')", "TRUNCATE x"];
        let events = world.changes(&last).await;
        world.green.writer(&world.run, &routes).await.unwrap().apply(&events).await.unwrap();
        for table in ["t", "alike"] {
            assert_eq!(world.rows("src", table).await, world.rows("dst", table).await);
        }
    }

    async fn columns_of_another_order_and_number(server) {
        let mut world = World::empty(server).await;
        world.define("src", "CREATE TABLE t (id int PRIMARY KEY, a text, b int)").await;
        world.define("dst",
            "CREATE TABLE t (b int, d int DEFAULT 7, id int PRIMARY KEY, a text)").await;
        world.watch().await;
        let mut writer = world.writer().await;
        let events = world.changes(&[
            "INSERT INTO t SELECT i, 'a', i FROM generate_series(1, 3) i",
            "UPDATE t SET b = 0 WHERE id = 2",
        ]).await;
        writer.apply(&events).await.unwrap();
        assert_eq!(world.rows("dst", "t").await, ["(0,7,2,a)", "(1,7,1,a)", "(3,7,3,a)"]);
    }

    async fn a_table_changes_its_shape(server) {
        let mut world = World::with(server, "CREATE TABLE t (id int PRIMARY KEY, a text)").await;
        let mut events = world.changes(&["INSERT INTO t VALUES (1, 'x'), (2, 'y')"]).await;
        world.define("dst", "ALTER TABLE t ADD b int DEFAULT 5").await;
        world.define("src", "ALTER TABLE t ADD b int DEFAULT 5").await;
        world.watch().await;
        events.extend(world.changes(&["UPDATE t SET b = 6 WHERE id = 1",
                                      "INSERT INTO t VALUES (3, 'z', 8)"]).await);
        world.writer().await.apply(&events).await.unwrap();
        world.assert_equal().await;
        // A writer that knew the table before: the source changed it first.
        let mut writer = world.writer().await;
        world.define("src", "ALTER TABLE t ADD c int").await;
        world.watch().await;
        let events = world.changes(&["UPDATE t SET c = 1"]).await;
        let error = writer.apply(&events).await.unwrap_err();
        assert_eq!(error.code(), Some("CUT0403"), "{error}");
    }

    async fn a_large_transaction_comes_in_several_calls(server) {
        let mut world = World::with(server,
            "CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, a text)").await;
        let mut writer = world.writer().await;
        let before = world.changes(&["INSERT INTO t VALUES (0, -1, 'before')"]).await;
        let large = world.changes(&[
            "BEGIN; INSERT INTO t SELECT i, i, 'x' FROM generate_series(1, 300) i;
             UPDATE t SET a = 'y' WHERE id % 3 = 0; UPDATE t SET u = -id - 10 WHERE id < 20;
             UPDATE t SET u = 20 - id WHERE id BETWEEN 1 AND 19; DELETE FROM t WHERE id > 250; COMMIT",
        ]).await;
        let after = world.changes(&["DELETE FROM t WHERE id = 0"]).await;
        let first_end = end(&before);
        let last_end = end(&after);
        let events: Vec<Event> = before.into_iter().chain(large).chain(after).collect();
        let mut stored = Vec::new();
        for part in events.chunks(90) {
            stored.push(writer.apply(part).await.unwrap());
        }
        assert_eq!(stored.first().unwrap().as_ref(), Some(&first_end));
        assert_eq!(stored[1], None);
        assert_eq!(stored.last().unwrap().as_ref(), Some(&last_end));
        world.assert_equal().await;
        assert_eq!(writer.progress().await.unwrap(), Some(last_end));
    }

    async fn a_call_of_many_parts(server) {
        let mut world = World::with(server,
            "CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, a text);
             CREATE TABLE log (n int)").await;
        let mut writer = world.writer().await;
        let events = world.changes(&[
            "INSERT INTO t SELECT i, i, 'x' FROM generate_series(1, 7000) i;
             INSERT INTO log SELECT generate_series(1, 7000)",
            "BEGIN; UPDATE t SET u = -1 WHERE id = 1; UPDATE t SET u = 1 WHERE id = 2;
             UPDATE t SET u = 2 WHERE id = 1; COMMIT",
            "UPDATE t SET a = 'y'",
            "TRUNCATE log",
            "INSERT INTO log VALUES (-1)",
            "DELETE FROM t WHERE id % 2 = 0",
        ]).await;
        assert!(events.len() > 20_000);
        assert_eq!(writer.apply(&events).await.unwrap(), Some(end(&events)));
        world.assert_equal().await;
        // What fails in a later part takes back the earlier ones.
        world.meddle("DELETE FROM dst.t WHERE id = 6999").await;
        let events = world.changes(&[
            "INSERT INTO log SELECT generate_series(1, 13000)", "UPDATE t SET a = 'z' WHERE id = 6999",
        ]).await;
        let error = writer.apply(&events).await.unwrap_err();
        assert_eq!(error.code(), Some("CUT0401"), "{error}");
        drop(writer);
        drop(world.writer().await);
        assert_eq!(world.rows("dst", "log").await, ["(-1)"]);
    }

    async fn what_was_applied_is_not_applied_twice(server) {
        let mut world = World::with(server, "CREATE TABLE t (id int PRIMARY KEY, n int)").await;
        let mut writer = world.writer().await;
        let first = world.changes(&["INSERT INTO t VALUES (1, 1)", "INSERT INTO t VALUES (2, 1)"]).await;
        writer.apply(&first).await.unwrap();
        let second = world.changes(&["UPDATE t SET n = n + 1"]).await;
        let both: Vec<Event> = first.iter().cloned().chain(second.iter().cloned()).collect();
        drop(writer);
        let mut writer = world.writer().await;
        assert_eq!(writer.progress().await.unwrap(), Some(end(&first)));
        assert_eq!(writer.apply(&both).await.unwrap(), Some(end(&second)));
        assert_eq!(writer.apply(&both).await.unwrap(), Some(end(&second)));
        world.assert_equal().await;
    }

    async fn positions_without_rows(server) {
        let mut world = World::with(server, "CREATE TABLE t (id int PRIMARY KEY)").await;
        let mut writer = world.writer().await;
        assert_eq!(writer.progress().await.unwrap(), None);
        let message = [
            Event::Begin { transaction: 1, committed_at: 0 },
            Event::Message { prefix: "cutover".into(), content: "m".into() },
            Event::Commit { position: world.next_position() },
        ];
        // Nothing was written, so nothing new is durable.
        assert_eq!(writer.apply(&message).await.unwrap(), None);
        let position = world.next_position();
        writer.store(&position).await.unwrap();
        assert_eq!(writer.progress().await.unwrap(), Some(position.clone()));
        let events = world.changes(&["INSERT INTO t VALUES (1)"]).await;
        let mut events: Vec<Event> = events;
        let idle = world.next_position();
        events.push(Event::Idle { position: idle.clone() });
        assert_eq!(writer.apply(&events).await.unwrap(), Some(idle.clone()));
        // Never backwards.
        writer.store(&position).await.unwrap();
        assert_eq!(writer.progress().await.unwrap(), Some(idle));
    }
}

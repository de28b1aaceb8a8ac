//! The shapes.

use super::Shape;

/// What every supported server knows.
pub(crate) const ALL: &[Shape] = &[
    // Nothing names a row: duplicates, NULLs, values that are equal but read differently.
    Shape {
        ddl: "CREATE TABLE full_no_key (a int, b text, c numeric);
              ALTER TABLE full_no_key REPLICA IDENTITY FULL",
        rows: "INSERT INTO full_no_key VALUES (1, 'x', 1.0), (1, 'x', 1.0), (1, 'x', 1.00),
               (NULL, NULL, NULL), (NULL, NULL, NULL), (2, '', 'NaN')",
        changes: &[
            "INSERT INTO full_no_key VALUES ({n}, 'new', {n}.50), ({n}, 'new', {n}.50)",
            "UPDATE full_no_key SET b = 'y{n}' WHERE ctid = (SELECT min(ctid) FROM full_no_key WHERE a = 1)",
            "UPDATE full_no_key SET b = 'was null' WHERE ctid = (SELECT min(ctid) FROM full_no_key WHERE a IS NULL)",
            "DELETE FROM full_no_key WHERE ctid = (SELECT max(ctid) FROM full_no_key WHERE b = 'new')",
        ],
    },
    Shape {
        ddl: "CREATE TABLE full_with_key (id int PRIMARY KEY, v text, big text);
              ALTER TABLE full_with_key REPLICA IDENTITY FULL;
              ALTER TABLE full_with_key ALTER big SET STORAGE EXTERNAL",
        rows: "INSERT INTO full_with_key SELECT i, 'v' || i, repeat(md5(i::text), 200) FROM generate_series(1, 40) i",
        changes: &[
            "UPDATE full_with_key SET v = 'changed {n}' WHERE id = 10",
            "UPDATE full_with_key SET id = 1000 + {n} WHERE id = {n}",
            "UPDATE full_with_key SET big = big || 'x' WHERE id = 20",
            "DELETE FROM full_with_key WHERE id = 30 + {n}",
            "INSERT INTO full_with_key VALUES (2000 + {n}, NULL, NULL)",
        ],
    },
    Shape {
        ddl: "CREATE TABLE by_index (a int NOT NULL, b text NOT NULL, v text, UNIQUE (b, a));
              ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_b_a_key",
        rows: "INSERT INTO by_index SELECT i, 'b' || i, 'v' FROM generate_series(1, 20) i",
        changes: &[
            "INSERT INTO by_index VALUES ({n}, 'new', NULL)",
            "UPDATE by_index SET v = '{n}' WHERE a > 15",
            "UPDATE by_index SET a = a + 1000 WHERE a = {n} AND b = 'b{n}'",
            "DELETE FROM by_index WHERE a = 10 + {n}",
        ],
    },
    // The chosen index is not the primary key, whose columns are changed freely.
    Shape {
        ddl: "CREATE TABLE two_keys (id int PRIMARY KEY, code text NOT NULL, v int);
              CREATE UNIQUE INDEX two_keys_code ON two_keys (code) INCLUDE (v);
              ALTER TABLE two_keys REPLICA IDENTITY USING INDEX two_keys_code",
        rows: "INSERT INTO two_keys SELECT i, 'c' || i, i FROM generate_series(1, 20) i",
        changes: &[
            "UPDATE two_keys SET id = id + 100 * {n} WHERE v < 5",
            "UPDATE two_keys SET code = code || '-{n}' WHERE v = 7",
            "BEGIN; UPDATE two_keys SET id = -1 WHERE v = 10; UPDATE two_keys SET id = (SELECT id FROM two_keys WHERE v = 11) + 5000 WHERE v = 11; UPDATE two_keys SET id = {n} * 7000 WHERE v = 10; COMMIT",
            "DELETE FROM two_keys WHERE v = 15 + {n}",
        ],
    },
    // Partitions of partitions, a default, rows that wander between partitions.
    Shape {
        ddl: "CREATE TABLE measures (id int, day date, kind text, v int, PRIMARY KEY (id, day, kind)) PARTITION BY RANGE (day);
              CREATE TABLE measures_1 PARTITION OF measures FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') PARTITION BY LIST (kind);
              CREATE TABLE measures_1_a PARTITION OF measures_1 FOR VALUES IN ('a');
              CREATE TABLE measures_1_b PARTITION OF measures_1 DEFAULT;
              CREATE TABLE measures_2 (kind text NOT NULL, gone int, v int, day date NOT NULL, id int NOT NULL);
              ALTER TABLE measures_2 DROP COLUMN gone;
              ALTER TABLE measures ATTACH PARTITION measures_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
              CREATE TABLE measures_rest PARTITION OF measures DEFAULT;
              CREATE TABLE no_partitions (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        rows: "INSERT INTO measures SELECT i, '2026-01-01'::date + i, (ARRAY['a','b','c'])[1 + i % 3], i FROM generate_series(1, 90) i",
        changes: &[
            "INSERT INTO measures SELECT 1000 * {n} + i, '2026-01-15'::date + i, 'a', i FROM generate_series(1, 70) i",
            "UPDATE measures SET day = day + 30 WHERE id % 10 = {n}",
            "UPDATE measures SET kind = 'z{n}' WHERE id % 10 = 5",
            "DELETE FROM measures WHERE id % 10 = 6 + {n}",
            "TRUNCATE measures_1_a",
            "BEGIN; INSERT INTO measures_1_b VALUES (-{n}, '2026-01-02', 'q', 1); TRUNCATE measures_2; INSERT INTO measures_2 (id, day, kind) VALUES (-{n}, '2026-02-02', 'q'); COMMIT",
        ],
    },
    Shape {
        ddl: "CREATE TABLE emptied (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
              CREATE TABLE emptied_1 PARTITION OF emptied FOR VALUES IN (1);
              CREATE TABLE emptied_2 PARTITION OF emptied FOR VALUES IN (2);
              CREATE TABLE emptied_child (id serial PRIMARY KEY, e int, f int, FOREIGN KEY (e, f) REFERENCES emptied)",
        rows: "INSERT INTO emptied SELECT i, 1 + i % 2 FROM generate_series(1, 10) i;
               INSERT INTO emptied_child (e, f) SELECT id, k FROM emptied",
        changes: &[
            "TRUNCATE emptied RESTART IDENTITY CASCADE",
            "INSERT INTO emptied VALUES ({n}, 1), ({n}, 2)",
            "INSERT INTO emptied_child (e, f) SELECT id, k FROM emptied",
        ],
    },
    // Inheritance of old.
    Shape {
        ddl: "CREATE TABLE parent (id int PRIMARY KEY, v text);
              CREATE TABLE child (extra int, PRIMARY KEY (id)) INHERITS (parent);
              CREATE TABLE grandchild (more text, PRIMARY KEY (id)) INHERITS (child)",
        rows: "INSERT INTO parent SELECT i, 'p' FROM generate_series(1, 10) i;
               INSERT INTO child SELECT i, 'c', i FROM generate_series(1, 10) i;
               INSERT INTO grandchild SELECT i, 'g', i, 'm' FROM generate_series(1, 10) i",
        changes: &[
            "UPDATE parent SET v = v || '{n}' WHERE id IN (1, 2)",
            "DELETE FROM parent WHERE id = 2 + {n}",
            "INSERT INTO child VALUES ({n}00, 'new', 1)",
            "UPDATE ONLY parent SET id = id + 500 WHERE id = 10",
            "UPDATE ONLY parent SET id = id - 500 WHERE id = 510",
            "TRUNCATE ONLY child",
            "INSERT INTO child VALUES (6, 'again', 1), (7, 'again', 1), (8, 'again', 1)",
        ],
    },
    // As many columns as there can be, and one that was dropped.
    Shape {
        ddl: "DO $$ BEGIN EXECUTE 'CREATE TABLE wide (id int PRIMARY KEY, gone int, ' || \
              (SELECT string_agg('c' || i || CASE i % 3 WHEN 0 THEN ' int' WHEN 1 THEN ' text' ELSE ' bool' END, ', ') FROM generate_series(1, 1598) i) || ')'; END $$;
              ALTER TABLE wide DROP COLUMN gone",
        rows: "INSERT INTO wide (id, c1, c2, c3, c1598) SELECT i, 'a', true, 3, NULL FROM generate_series(1, 200) i",
        changes: &[
            "UPDATE wide SET c1596 = coalesce(c1596, 0) + 1, c1 = '{n}' WHERE id <= 10",
            "UPDATE wide SET id = id + 1000 * {n} WHERE id = 10 + {n}",
            "DELETE FROM wide WHERE id = 20 + {n}",
            "INSERT INTO wide (id, c1000) VALUES (5000 + {n}, 'x')",
            "INSERT INTO wide (id) SELECT 6000 + {n} * 100 + i FROM generate_series(1, 70) i",
        ],
    },
    Shape {
        ddl: "CREATE TABLE dropped (a int, id int, b text, c int);
              ALTER TABLE dropped DROP COLUMN a;
              ALTER TABLE dropped ADD PRIMARY KEY (id);
              ALTER TABLE dropped DROP COLUMN b;
              ALTER TABLE dropped ADD COLUMN b int DEFAULT 7",
        rows: "INSERT INTO dropped (id, c) SELECT i, i FROM generate_series(1, 10) i",
        changes: &[
            "UPDATE dropped SET b = {n} WHERE id = 1",
            "UPDATE dropped SET id = id + 100 WHERE id = 1 + {n}",
            "DELETE FROM dropped WHERE id = 5 + {n}",
            "INSERT INTO dropped VALUES ({n}000, 1, 2)",
        ],
    },
    Shape {
        ddl: "CREATE TABLE computed (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, t text);
              CREATE INDEX ON computed (twice)",
        rows: "INSERT INTO computed (id, a) SELECT i, i FROM generate_series(1, 10) i",
        changes: &[
            "INSERT INTO computed (id, a) VALUES ({n}00, 5)",
            "UPDATE computed SET a = a + 1 WHERE id = 1",
            "UPDATE computed SET t = 'only this {n}' WHERE id = 2",
            "DELETE FROM computed WHERE id = 3 + {n}",
        ],
    },
    // Nothing names a row, and one column is computed.
    Shape {
        ddl: "CREATE TABLE computed_full (a int, twice int GENERATED ALWAYS AS (a * 2) STORED);
              ALTER TABLE computed_full REPLICA IDENTITY FULL",
        rows: "INSERT INTO computed_full (a) SELECT i FROM generate_series(1, 10) i",
        changes: &[
            "INSERT INTO computed_full (a) VALUES ({n}00), ({n}00)",
            "UPDATE computed_full SET a = 1000 + a WHERE a = {n}",
            "DELETE FROM computed_full WHERE a = 5 + {n}",
        ],
    },
    Shape {
        ddl: "CREATE TABLE always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
              CREATE TABLE always_beside (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT -3 MINVALUE -1000000 MAXVALUE 100), v text)",
        rows: "INSERT INTO always (v) SELECT 'v' FROM generate_series(1, 20);
               INSERT INTO always_beside (id) SELECT i FROM generate_series(1, 20) i",
        changes: &[
            "INSERT INTO always (v) VALUES ('{n}')",
            "INSERT INTO always OVERRIDING SYSTEM VALUE VALUES (5000 + {n}, '{n}')",
            "UPDATE always SET v = 'w{n}' WHERE id = 2",
            "UPDATE always SET id = DEFAULT WHERE id = 10 + {n}",
            "INSERT INTO always_beside (id) VALUES ({n}00)",
            "UPDATE always_beside SET n = DEFAULT WHERE id = {n}",
            "UPDATE always_beside SET v = '{n}' WHERE id > 10",
            "DELETE FROM always WHERE id = 5 + {n}",
        ],
    },
    // Unique values that change places within one transaction, in every way there is.
    Shape {
        ddl: "CREATE TABLE swap (id int PRIMARY KEY, u int NOT NULL UNIQUE DEFERRABLE INITIALLY DEFERRED, n int UNIQUE);
              CREATE TABLE swap_now (id int PRIMARY KEY, u int NOT NULL UNIQUE DEFERRABLE);
              CREATE TABLE swap_key (id int UNIQUE DEFERRABLE INITIALLY DEFERRED NOT NULL, k int PRIMARY KEY)",
        rows: "INSERT INTO swap SELECT i, i, i FROM generate_series(1, 20) i;
               INSERT INTO swap_now SELECT i, i FROM generate_series(1, 20) i;
               INSERT INTO swap_key SELECT i, i FROM generate_series(1, 20) i",
        changes: &[
            "BEGIN; UPDATE swap SET u = u + (SELECT u FROM swap WHERE id = 4) WHERE id = 3; UPDATE swap SET u = (SELECT u FROM swap WHERE id = 3) - u WHERE id = 4; UPDATE swap SET u = u - (SELECT u FROM swap WHERE id = 4) WHERE id = 3; COMMIT",
            "BEGIN; UPDATE swap SET n = NULL WHERE id = 1; UPDATE swap SET n = 1 WHERE id = 2; UPDATE swap SET n = 2 WHERE id = 1; COMMIT",
            "UPDATE swap SET u = 21 - u",
            "UPDATE swap_now SET u = u + 1",
            "BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE swap_now SET u = u + (SELECT u FROM swap_now WHERE id = 2) WHERE id = 1; UPDATE swap_now SET u = (SELECT u FROM swap_now WHERE id = 1) - u WHERE id = 2; UPDATE swap_now SET u = u - (SELECT u FROM swap_now WHERE id = 2) WHERE id = 1; COMMIT",
            "BEGIN; DELETE FROM swap WHERE id = 12 + {n}; INSERT INTO swap SELECT 100 + {n}, max(u) + 1, 100 + {n} FROM swap; UPDATE swap SET id = 12 + {n} WHERE id = 100 + {n}; COMMIT",
            "BEGIN; UPDATE swap_key SET id = id + 1; UPDATE swap_key SET k = k + 100 WHERE k = {n}; COMMIT",
            // A primary key that changes places through a third value.
            "BEGIN; UPDATE swap_now SET id = 0 WHERE id = 5; UPDATE swap_now SET id = 5 WHERE id = 6; UPDATE swap_now SET id = 6 WHERE id = 0; COMMIT",
        ],
    },
    // A key that names two rows until the transaction ends.
    Shape {
        ddl: "CREATE TABLE late_key (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text);
              ALTER TABLE late_key REPLICA IDENTITY FULL",
        rows: "INSERT INTO late_key SELECT i, 'v' || i FROM generate_series(1, 20) i",
        changes: &[
            "BEGIN; INSERT INTO late_key SELECT id, 'new {n}' FROM late_key WHERE v = 'v{n}'; DELETE FROM late_key WHERE v = 'v{n}'; COMMIT",
            "BEGIN; INSERT INTO late_key SELECT id, 'too' FROM late_key WHERE v = 'v1{n}'; UPDATE late_key SET v = 'old' WHERE v = 'v1{n}'; DELETE FROM late_key WHERE v = 'old'; COMMIT",
            "UPDATE late_key SET id = id + 1",
            "UPDATE late_key SET id = 21 - id",
        ],
    },
    // Each refers to the other.
    Shape {
        ddl: "CREATE TABLE hen (id int PRIMARY KEY, egg int NOT NULL);
              CREATE TABLE egg (id int PRIMARY KEY, hen int NOT NULL REFERENCES hen DEFERRABLE INITIALLY DEFERRED);
              ALTER TABLE hen ADD FOREIGN KEY (egg) REFERENCES egg DEFERRABLE INITIALLY DEFERRED;
              CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE ON UPDATE CASCADE)",
        rows: "BEGIN; INSERT INTO hen SELECT i, i FROM generate_series(1, 10) i; INSERT INTO egg SELECT i, i FROM generate_series(1, 10) i; COMMIT;
               INSERT INTO tree SELECT i, nullif(i / 2, 0) FROM generate_series(1, 31) i",
        changes: &[
            "BEGIN; INSERT INTO hen VALUES ({n}00, {n}00); INSERT INTO egg VALUES ({n}00, {n}00); COMMIT",
            "BEGIN; DELETE FROM hen WHERE id = {n}; DELETE FROM egg WHERE hen = {n}; COMMIT",
            "UPDATE tree SET id = id + 100 WHERE id = 4 + {n}",
            "DELETE FROM tree WHERE id = 12 + {n}",
        ],
    },
    Shape {
        ddl: "CREATE TABLE booked (id int PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&));
              CREATE TABLE booked_late (id int PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&) DEFERRABLE INITIALLY DEFERRED)",
        rows: "INSERT INTO booked SELECT i, int4range(i * 10, i * 10 + 10) FROM generate_series(1, 10) i;
               INSERT INTO booked_late SELECT i, int4range(i * 10, i * 10 + 10) FROM generate_series(1, 10) i",
        changes: &[
            "BEGIN; UPDATE booked SET during = NULL WHERE id = 1; UPDATE booked SET during = int4range(10, 20) WHERE id = 2; UPDATE booked SET during = int4range(20, 30) WHERE id = 1; COMMIT",
            "BEGIN; DELETE FROM booked WHERE id = 3 + {n}; INSERT INTO booked SELECT 3 + {n}, int4range(30 + 10 * {n}, 35 + 10 * {n}); COMMIT",
            "BEGIN; UPDATE booked_late SET during = int4range(20, 30) WHERE id = 1; UPDATE booked_late SET during = int4range(10, 20) WHERE id = 2; COMMIT",
            "BEGIN; UPDATE booked_late SET during = int4range(10, 20) WHERE id = 1; UPDATE booked_late SET during = int4range(20, 30) WHERE id = 2; COMMIT",
        ],
    },
    // Policies that would hide everything from others.
    Shape {
        ddl: "CREATE TABLE guarded (id int PRIMARY KEY, v text);
              ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
              CREATE POLICY nobody ON guarded USING (false)",
        rows: "INSERT INTO guarded SELECT i, 'v' FROM generate_series(1, 10) i",
        changes: &[
            "INSERT INTO guarded VALUES ({n}00, 'new')",
            "UPDATE guarded SET v = '{n}' WHERE id = 1",
            "DELETE FROM guarded WHERE id = 1 + {n}",
        ],
    },
    // Names.
    Shape {
        ddl: r#"CREATE TABLE "Case" ("Id" int PRIMARY KEY, "ID" text, id int);
              CREATE TABLE "CASE" ("Id" int PRIMARY KEY, "ID" text, id int);
              CREATE TABLE "case" ("Id" int PRIMARY KEY, "ID" text, id int);
              CREATE TABLE "say ""hi"" 'you' \ $1 %s; -- x" ("a ""b"" 'c' \ $1, (d)" int PRIMARY KEY, "--" text, "t" int, "a0" int, "u" int);
              CREATE TABLE "a.b" ("a.b" int PRIMARY KEY, "$" text);
              CREATE TABLE "ünïcödé 表 🐘" ("schlüssel 鍵" serial PRIMARY KEY, "wert 🐘" text);
              CREATE TABLE "select" ("from" int PRIMARY KEY, "user" text, "order" int);
              CREATE TABLE ääääääääääääääääääääääääääääääx (ööööööööööööööööööööööööööööööx int PRIMARY KEY, üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüx text);
              CREATE TABLE " lead trail " (" k " int PRIMARY KEY, "	tab" text)"#,
        rows: r#"INSERT INTO "Case" VALUES (1, 'one', 1), (2, 'two', 2); INSERT INTO "CASE" VALUES (3, 'three', 3); INSERT INTO "case" VALUES (4, 'four', 4)"#,
        changes: &[
            r#"INSERT INTO "Case" VALUES ({n}0, 'Case', {n})"#,
            r#"INSERT INTO "CASE" VALUES ({n}0, 'CASE', {n})"#,
            r#"UPDATE "case" SET "ID" = '{n}', id = {n} WHERE "Id" = 4"#,
            r#"INSERT INTO "say ""hi"" 'you' \ $1 %s; -- x" VALUES ({n}, 'x', 1, 2, 3)"#,
            r#"UPDATE "say ""hi"" 'you' \ $1 %s; -- x" SET "--" = 'y', t = 5, a0 = 6 WHERE "a ""b"" 'c' \ $1, (d)" = {n}"#,
            r#"INSERT INTO "ünïcödé 表 🐘" ("wert 🐘") VALUES ('🐘')"#,
            r#"INSERT INTO "a.b" VALUES ({n}, 'x')"#,
            r#"INSERT INTO "select" VALUES ({n}, 'x', 1)"#,
            r#"UPDATE "select" SET "user" = 'y' WHERE "from" = {n}"#,
            "INSERT INTO ääääääääääääääääääääääääääääääx VALUES ({n}, 'x')",
            "UPDATE ääääääääääääääääääääääääääääääx SET üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüx = 'y'",
            r#"INSERT INTO " lead trail " VALUES ({n}, 'x')"#,
            r#"DELETE FROM " lead trail " WHERE " k " < {n}"#,
        ],
    },
    // Two tables whose names read alike when schema and name are joined by a dot.
    Shape {
        ddl: r#"CREATE SCHEMA "shapes.a"; CREATE TABLE "shapes.a".b (id int PRIMARY KEY, left_side text);
              CREATE TABLE "a.b.c" (id int PRIMARY KEY); CREATE SCHEMA "shapes.a.b"; CREATE TABLE "shapes.a.b".c (id text PRIMARY KEY, other int)"#,
        rows: r#"INSERT INTO "shapes.a".b VALUES (1, 'x'); INSERT INTO "a.b.c" VALUES (1); INSERT INTO "shapes.a.b".c VALUES ('x')"#,
        changes: &[
            r#"INSERT INTO "shapes.a".b VALUES ({n}0, 'x')"#,
            r#"INSERT INTO "a.b.c" VALUES ({n}0)"#,
            r#"INSERT INTO "shapes.a.b".c VALUES ('{n}', {n})"#,
        ],
    },
    Shape {
        ddl: "CREATE TABLE empty_table (id int PRIMARY KEY); CREATE TABLE filled_later (id int PRIMARY KEY)",
        rows: "",
        changes: &["INSERT INTO filled_later VALUES ({n})"],
    },
    Shape {
        ddl: "CREATE TABLE no_columns (); ALTER TABLE no_columns REPLICA IDENTITY FULL;
              CREATE TABLE only_computed (a int GENERATED ALWAYS AS (7) STORED); ALTER TABLE only_computed REPLICA IDENTITY FULL",
        rows: "INSERT INTO no_columns DEFAULT VALUES; INSERT INTO no_columns DEFAULT VALUES; INSERT INTO only_computed DEFAULT VALUES",
        changes: &[
            "INSERT INTO no_columns DEFAULT VALUES",
            "INSERT INTO only_computed DEFAULT VALUES",
            "DELETE FROM no_columns WHERE ctid = (SELECT min(ctid) FROM no_columns)",
        ],
    },
];

/// What servers know from 18 on; keys by period need no extension where all their columns are ranges.
pub(crate) const FROM_18: &[Shape] = &[
    Shape {
        ddl: "CREATE TABLE rooms (room int4range, during daterange, v text, PRIMARY KEY (room, during WITHOUT OVERLAPS));
              CREATE TABLE stays (id int PRIMARY KEY, room int4range, during daterange,
                  FOREIGN KEY (room, PERIOD during) REFERENCES rooms (room, PERIOD during))",
        rows: "INSERT INTO rooms SELECT int4range(i, i + 1), daterange('2026-01-01', '2026-07-01'), 'v' FROM generate_series(1, 20) i;
               INSERT INTO stays SELECT i, int4range(i, i + 1), daterange('2026-02-01', '2026-03-01') FROM generate_series(1, 5) i",
        changes: &[
            "INSERT INTO rooms VALUES ('[{n}00,{n}01)', '[2026-01-01,2026-02-01)', NULL), ('[{n}00,{n}01)', '[2026-02-01,2026-03-01)', NULL)",
            "UPDATE rooms SET v = 'changed {n}' WHERE room @> 1",
            "UPDATE rooms SET during = daterange(lower(during), upper(during) + {n}) WHERE room @> 6",
            "INSERT INTO stays VALUES ({n}00, '[2,3)', '[2026-04-0{n},2026-05-01)')",
            "DELETE FROM rooms WHERE room @> 10 + {n}",
        ],
    },
    Shape {
        ddl: "CREATE TABLE lax (id int PRIMARY KEY, v int CONSTRAINT lax_v CHECK (v > 0) NOT ENFORCED,
                  up int CONSTRAINT lax_up REFERENCES lax NOT ENFORCED);
              CREATE TABLE late (id int PRIMARY KEY, v int);
              INSERT INTO late VALUES (1, NULL), (2, 2);
              ALTER TABLE late ADD CONSTRAINT late_v NOT NULL v NOT VALID",
        rows: "INSERT INTO lax SELECT i, -i, 1000 + i FROM generate_series(1, 10) i;
               INSERT INTO late SELECT i, i FROM generate_series(3, 10) i",
        changes: &[
            "INSERT INTO lax VALUES ({n}00, -1, -1)",
            "UPDATE lax SET v = v - 1, up = NULL WHERE id = {n}",
            "DELETE FROM lax WHERE id = 4 + {n}",
            "UPDATE late SET v = v + 1 WHERE id = 1 + {n}",
            "INSERT INTO late VALUES ({n}00, 1)",
        ],
    },
    Shape {
        ddl: "CREATE TABLE one_null (id int PRIMARY KEY, a int, b int, UNIQUE NULLS NOT DISTINCT (a, b));
              CREATE TABLE when_read (a int PRIMARY KEY, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL, t text)",
        rows: "INSERT INTO one_null VALUES (1, NULL, NULL), (2, 1, NULL), (3, NULL, 1);
               INSERT INTO when_read (a, t) SELECT i, 't' FROM generate_series(1, 10) i",
        changes: &[
            "BEGIN; UPDATE one_null SET a = -{n} WHERE id = 1; UPDATE one_null SET b = NULL WHERE id = 3; UPDATE one_null SET a = 7, b = 7 WHERE id = 3; UPDATE one_null SET a = NULL, b = NULL WHERE id = 1; UPDATE one_null SET a = NULL, b = {n} WHERE id = 3; COMMIT",
            "INSERT INTO one_null VALUES ({n}0, {n}, {n})",
            "UPDATE when_read SET a = a + 100 WHERE twice = 2 * {n}",
            "DELETE FROM when_read WHERE twice = 2 * (5 + {n})",
        ],
    },
];

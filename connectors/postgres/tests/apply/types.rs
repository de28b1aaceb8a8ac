//! Every type: what one table renders, the other must hold after the journey.

use crate::{on_each_server, world::World};

/// Column definition and literals; the first is what rows begin with.
const TYPES: &[(&str, &[&str])] = &[
    ("boolean", &["true", "false"]),
    ("\"char\"", &["'x'", "''", "'\\'"]),
    ("name", &["'n'", "'ä ö'"]),
    ("smallint", &["-32768", "32767"]),
    ("integer", &["-2147483648", "0"]),
    ("bigint", &["9223372036854775807", "-9223372036854775808"]),
    ("numeric", &["'NaN'", "1.10", "1e-20", "123456789012345678901234567890.5", "'Infinity'"]),
    ("numeric(10,2)", &["1.1", "-99999999.99"]),
    ("real", &["'NaN'", "'-Infinity'", "1.1", "3.4028235e38", "-0.0", "1e-45"]),
    ("double precision", &["0.1", "'Infinity'", "1.7976931348623157e308", "-0.0"]),
    ("money", &["'-12.34'", "92233720368547758.07"]),
    (
        "text",
        &["''", "'NULL'", "E'\\\\N'", "E'tab\\tline\\nreturn\\r\\\\ \"q\" {}'", "repeat('ß', 500)"],
    ),
    ("character(5)", &["'ab'", "'     '", "'abcde'"]),
    ("character varying(10)", &["'x  '", "''"]),
    ("bytea", &["'\\x00ff5c'", "''"]),
    ("date", &["'infinity'", "'4713-01-01 BC'", "'2024-02-29'"]),
    ("time", &["'24:00'", "'12:34:56.789012'"]),
    ("time(3) with time zone", &["'23:59:59.999+15:59'"]),
    ("timestamp", &["'-infinity'", "'294276-12-31 23:59:59.999999'"]),
    ("timestamptz", &["'infinity'", "'2024-02-29 12:00:00.123456+05:30'", "'0044-03-15 BC'"]),
    ("interval", &["'1 mon -3 days 04:05:06.789'", "'-1 year'"]),
    ("interval day to second(2)", &["'3 days 1.23'"]),
    ("uuid", &["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
    ("inet", &["'10.1.2.3/8'", "'::1'"]),
    ("cidr", &["'10.0.0.0/8'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    ("bit(3)", &["B'101'"]),
    ("bit varying", &["B''", "B'1011'"]),
    ("json", &["'{\"b\": 1,  \"a\": [1.0, null]}'", "'\"x\"'"]),
    ("jsonb", &["'{\"b\": 1.00, \"a\": [true, null, \"\\u00e4\"]}'"]),
    ("jsonpath", &["'$.a[*] ? (@ > 1)'"]),
    ("xml", &["'<a b=\"c\">d</a>'"]),
    ("point", &["'(1.5,-2)'"]),
    ("box", &["'(1,2),(3,4)'"]),
    ("path", &["'((1,1),(2,2))'", "'[(0,0),(1,1)]'"]),
    ("polygon", &["'((1,1),(2,2),(3,0))'"]),
    ("circle", &["'<(1,2),3>'"]),
    ("line", &["'{1,2,3}'"]),
    ("tsvector", &["'a:1 ''b c'':2A'"]),
    ("tsquery", &["'a & !b'"]),
    ("pg_lsn", &["'16/B374D848'"]),
    ("oid", &["4294967295"]),
    ("int4range", &["'[1,5)'", "'empty'", "'(,)'"]),
    ("tstzrange", &["'[2024-01-01 00:00+00, infinity)'"]),
    ("nummultirange", &["'{[1.0,2.0),(5,)}'"]),
    ("integer[]", &["'{1,NULL,3}'", "'{}'", "'[0:1][2:3]={{1,2},{3,4}}'"]),
    ("text[]", &["ARRAY['a,b', 'NULL', NULL, '', '\"', '{x}', E'\\\\']"]),
    ("numeric(5,1)[]", &["'{1.5,NaN}'"]),
    ("bytea[]", &["ARRAY['\\x01'::bytea, NULL]"]),
    ("jsonb[]", &["ARRAY['{\"a\": \"b,c\"}'::jsonb]"]),
    ("mood", &["'so so'", "'Happy'"]),
    ("mood[]", &["ARRAY['so so', 'Happy']::mood[]"]),
    ("\"Pair\"", &["ROW(1, 'a,\"b')", "ROW(NULL, NULL)"]),
    ("\"Pair\"[]", &["ARRAY[ROW(1, 'x')::\"Pair\", NULL]"]),
    ("positive", &["5"]),
    ("words", &["ARRAY['x', 'y z']"]),
    ("email", &["'a@b'"]),
    ("\"floatRange\"", &["'[1.5,2.5]'"]),
];

const DEFINED: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'so so', 'Happy');
    CREATE TYPE \"Pair\" AS (a int, b text);
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN words AS text[];
    CREATE DOMAIN lower AS text;
    CREATE DOMAIN email AS lower CHECK (VALUE LIKE '%@%');
    CREATE TYPE \"floatRange\" AS RANGE (subtype = float8)";

fn keep(type_: &str, server: &cutover_sandbox::Postgres) -> bool {
    // Some builds of the servers have no XML.
    type_ != "xml" || server.install().bindir.starts_with("/usr")
}

on_each_server! {
    async fn every_type_inserted_updated_and_found_without_a_key(server) {
        let types: Vec<_> = TYPES.iter().filter(|(t, _)| keep(t, server)).collect();
        let tables: Vec<String> = types
            .iter()
            .enumerate()
            .map(|(i, (t, _))| format!(
                "CREATE TABLE k{i} (id int PRIMARY KEY, v {t}, \"V 2\" {t});
                 CREATE TABLE f{i} (v {t}, n int); ALTER TABLE f{i} REPLICA IDENTITY FULL"
            ))
            .collect();
        let mut world = World::with(server, &format!("{DEFINED}; {}", tables.join(";"))).await;
        let mut writer = world.writer().await;
        for (i, (t, literals)) in types.iter().enumerate() {
            let mut statements = Vec::new();
            for (n, v) in literals.iter().enumerate() {
                statements.push(format!("INSERT INTO k{i} VALUES ({n}, {v}, NULL)"));
                statements.push(format!("INSERT INTO f{i} VALUES ({v}, {n}), ({v}, {n}), (NULL, {n})"));
            }
            let events = world.changes(&statements.iter().map(String::as_str).collect::<Vec<_>>()).await;
            writer.apply(&events).await.unwrap_or_else(|e| panic!("{t}: {e}"));
            // Copied in, for many rows take another way than few.
            let many = format!("INSERT INTO k{i} SELECT g, v, v FROM k{i}, generate_series(1000, 1099) g WHERE id = 0");
            let events = world.changes(&[&many]).await;
            writer.apply(&events).await.unwrap_or_else(|e| panic!("{t}: {e}"));
            let mut statements = Vec::new();
            for (n, v) in literals.iter().enumerate() {
                statements.push(format!("UPDATE k{i} SET \"V 2\" = {v}, v = NULL WHERE id % 7 = {n}"));
                statements.push(format!("UPDATE k{i} SET id = id + 5000 WHERE id = {n}"));
                statements.push(format!(
                    "DELETE FROM f{i} WHERE ctid = (SELECT ctid FROM f{i} WHERE n = {n} LIMIT 1)"));
                statements.push(format!("UPDATE f{i} SET v = {v} WHERE v IS NULL AND n = {n}"));
                statements.push(format!("UPDATE f{i} SET v = NULL WHERE n = {n}"));
            }
            let events = world.changes(&statements.iter().map(String::as_str).collect::<Vec<_>>()).await;
            writer.apply(&events).await.unwrap_or_else(|e| panic!("{t}: {e}"));
        }
        world.assert_equal().await;
    }

    async fn every_type_that_can_be_a_key(server) {
        let mut world = World::with(server, DEFINED).await;
        let mut keys = 0;
        for (i, (t, literals)) in TYPES.iter().filter(|(t, _)| keep(t, server)).enumerate() {
            let ddl = format!("CREATE TABLE t{i} (k {t} PRIMARY KEY, n int)");
            let can = world.client
                .batch_execute(&format!("SET search_path = src; {ddl}; SET search_path = dst; {ddl}"))
                .await
                .is_ok();
            world.client.batch_execute("SET search_path = ''").await.unwrap();
            if !can {
                continue;
            }
            keys += 1;
            world.watch().await;
            let mut writer = world.writer().await;
            for step in ["INSERT INTO t{i} VALUES ({v}, 1)", "UPDATE t{i} SET n = 2", "DELETE FROM t{i}"] {
                let statements: Vec<String> = literals
                    .iter()
                    .map(|v| step.replace("{i}", &i.to_string()).replace("{v}", v))
                    .collect();
                let events =
                    world.changes(&statements.iter().map(String::as_str).collect::<Vec<_>>()).await;
                writer.apply(&events).await.unwrap_or_else(|e| panic!("{t}: {e}"));
                let table = format!("t{i}");
                assert_eq!(world.rows("src", &table).await, world.rows("dst", &table).await, "{t}");
            }
        }
        assert!(keys > 30, "{keys} types");
    }

    async fn types_of_extensions_are_found_outside_of_the_search_path(server) {
        let world = World::empty(server).await;
        if world.client
            .batch_execute("CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext;
                            CREATE EXTENSION hstore SCHEMA ext")
            .await
            .is_err()
        {
            // Not every build has them.
            return;
        }
        drop(world.client.batch_execute("SELECT 1").await);
        let mut world = world;
        let ddl = "CREATE TABLE t (k ext.citext PRIMARY KEY, h ext.hstore);
                   CREATE TABLE f (k ext.citext, h ext.hstore); ALTER TABLE f REPLICA IDENTITY FULL";
        world.define("src", ddl).await;
        world.define("dst", ddl).await;
        world.watch().await;
        let mut writer = world.writer().await;
        let events = world.changes(&[
            "INSERT INTO t VALUES ('Bob', 'a=>1'), ('ann', NULL)",
            "INSERT INTO f VALUES ('Bob', 'a=>1'), ('bob', 'a=>1')",
        ]).await;
        writer.apply(&events).await.unwrap();
        let events = world.changes(&[
            "UPDATE t SET h = 'b=>NULL'",
            "UPDATE t SET k = 'BOB' WHERE k OPERATOR(ext.=) 'bob'",
            "DELETE FROM f WHERE k::text = 'bob'",
        ]).await;
        writer.apply(&events).await.unwrap();
        world.assert_equal().await;
    }
}

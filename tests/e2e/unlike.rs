//! Two servers that have nothing in common but the rows: another encoding, another order of
//! texts, another time zone, and settings of databases and roles that would spoil every session.

use cutover_core::model::side::Side;

use crate::{
    shapes::{Shape, make, there_and_back},
    world::{Options, World},
};

/// Values that are printed by settings, and characters that are other bytes in each encoding.
const SHAPES: &[Shape] = &[
    Shape {
        ddl: "CREATE TYPE mood AS ENUM ('süß', 'ok');
              CREATE TABLE printed (id int PRIMARY KEY, d date, t timestamptz, z timetz, i interval,
                 f float8, r real, b bytea, m money, x xml, n numeric, a timestamptz[], k mood,
                 j json, p tstzrange, c char(5))",
        rows: "INSERT INTO printed SELECT g, '2026-01-02'::date + g, '2026-03-29 00:30+00'::timestamptz
                 + g * '1 hour'::interval, '12:00+05:30', '1 mon -2 days 3.5 s', 1.0 / 3 * g, 0.1,
                 '\\x00ff5c27', 1234.56::numeric::money, '<?xml version=\"1.0\"?><a>é</a>'::xml, g / 7.0,
                 ARRAY['infinity', '0044-03-15 BC']::timestamptz[], 'süß', '{\"é\": 1}',
                 tstzrange('2026-01-01', '2027-01-01'), 'ñ' FROM generate_series(1, 40) g",
        changes: &[
            "UPDATE printed SET t = t + '1 day', f = f * {n}, b = b || decode('e9', 'hex') WHERE id % 3 = 0",
            "UPDATE printed SET i = i * -{n}, m = m * 2, d = '0001-01-01 BC', c = 'ü' WHERE id % 4 = 0",
            "UPDATE printed SET id = id + {n}000 WHERE id = {n}",
            "DELETE FROM printed WHERE id = 30 + {n}",
            "INSERT INTO printed (id, x, k) VALUES (100 + {n}, '<b>ß</b>', 'süß')",
        ],
    },
    Shape {
        ddl: "CREATE TABLE \"schlüssel\" (\"größe\" text PRIMARY KEY, n int);
              CREATE TABLE ganz (v text, m mood); ALTER TABLE ganz REPLICA IDENTITY FULL",
        rows: "INSERT INTO \"schlüssel\" SELECT w || g, g FROM
                 unnest(ARRAY['ä', 'Ä', 'a', 'A', 'z', 'Z', 'é', 'ÿ', '', '-']) w, generate_series(1, 9) g;
               INSERT INTO ganz SELECT 'grün', 'süß' FROM generate_series(1, 6)",
        changes: &[
            "UPDATE \"schlüssel\" SET n = n + 1 WHERE \"größe\" > 'm'",
            "UPDATE \"schlüssel\" SET \"größe\" = \"größe\" || 'ß{n}' WHERE n % 5 = 0",
            "DELETE FROM \"schlüssel\" WHERE \"größe\" = 'é' || {n}",
            "UPDATE ganz SET v = 'blau{n}' WHERE ctid = (SELECT min(ctid) FROM ganz)",
            "DELETE FROM ganz WHERE ctid = (SELECT max(ctid) FROM ganz)",
        ],
    },
];

/// Of the databases: for everybody.
const DATABASES: [&[(&str, &str)]; 2] = [
    &[
        ("TimeZone", "Asia/Kolkata"),
        ("DateStyle", "SQL, DMY"),
        ("IntervalStyle", "sql_standard"),
        ("extra_float_digits", "-15"),
        ("bytea_output", "escape"),
        ("synchronous_commit", "off"),
        ("quote_all_identifiers", "on"),
        ("transform_null_equals", "on"),
    ],
    &[
        ("TimeZone", "America/St_Johns"),
        ("DateStyle", "German, DMY"),
        ("IntervalStyle", "iso_8601"),
        ("extra_float_digits", "0"),
        ("bytea_output", "escape"),
        ("array_nulls", "off"),
        ("standard_conforming_strings", "off"),
        ("default_transaction_isolation", "serializable"),
    ],
];

/// Of our role in them.
const ROLE: &[(&str, &str)] = &[
    ("role", "shop"),
    ("statement_timeout", "1ms"),
    ("lock_timeout", "1ms"),
    ("idle_in_transaction_session_timeout", "1ms"),
    ("idle_session_timeout", "50ms"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_deferrable", "on"),
    ("default_transaction_isolation", "serializable"),
    ("client_encoding", "LATIN1"),
    ("search_path", "nowhere"),
    ("row_security", "on"),
    ("xmloption", "document"),
    ("array_nulls", "off"),
    ("check_function_bodies", "off"),
    ("plpgsql.variable_conflict", "use_column"),
    ("plpgsql.extra_errors", "all"),
    ("work_mem", "64kB"),
    ("logical_decoding_work_mem", "64kB"),
    ("enable_indexscan", "off"),
];

async fn spoil(world: &World) {
    for (side, settings) in [Side::Blue, Side::Green].into_iter().zip(DATABASES) {
        let client = world.superuser(side).await;
        let mut text = String::new();
        for (name, value) in settings {
            text += &format!("ALTER DATABASE shop SET {name} = '{value}';");
        }
        for (name, value) in ROLE {
            text += &format!("ALTER ROLE cutover IN DATABASE shop SET {name} = '{value}';");
        }
        if world.server(side).major() >= 17 {
            text += "ALTER ROLE cutover IN DATABASE shop SET transaction_timeout = '300ms'";
        }
        client.batch_execute(&text).await.expect("settings");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_that_have_only_the_rows_in_common() {
    let world = World::with(Options {
        databases: [
            "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0".into(),
            "ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'sv-SE' LOCALE 'C' TEMPLATE template0"
                .into(),
        ],
        ..Options::default()
    })
    .await;
    make(&world, SHAPES).await;
    spoil(&world).await;
    let answer = world.desk.ask(&["check"]).await;
    answer.exits(0);
    for code in ["CUT0164", "CUT0190", "CUT0194", "CUT0195"] {
        answer.says(code);
    }
    there_and_back(&world, SHAPES).await;
    for side in [Side::Blue, Side::Green] {
        let text = "ALTER DATABASE shop RESET ALL; ALTER ROLE cutover IN DATABASE shop RESET ALL";
        world.superuser(side).await.batch_execute(text).await.expect("settings");
    }
    world.nothing_is_left().await;
}

//! Money where it is printed in other ways than in the locale C.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use cutover_core::{
    model::selection::Selection,
    port::{copy::CopyFormat, schema::SchemaCopy, sink::Sink, source::Source},
};
use cutover_postgres::schema::PgSchemaCopy;
use cutover_sandbox::{PgInstall, PgOptions, Postgres, find_postgres};

use crate::{
    journey::apply,
    random::{Random, seed},
    world::{Half, Pair},
};

/// Two digits behind the point, and none; and an amount as it is written and printed there.
const LOCALES: [(&str, &str); 2] = [("de_DE", "-1.234,56 €"), ("ja_JP", "￥-1,235")];

/// Compiles the locales; whether this machine can.
fn compile(folder: &Path) -> bool {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    LOCALES.iter().all(|(name, _)| {
        let to = folder.join(format!("{name}.UTF-8"));
        let arguments = ["-c", "-i", name, "-f", "UTF-8"];
        let made = Command::new("localedef").args(arguments).arg(&to).output();
        let there = to.join("LC_MONETARY").is_file();
        if !there {
            eprintln!("skipped: locale {name} (localedef, package locales): {made:?}");
        }
        there
    })
}

async fn server(install: &PgInstall, locales: &Path) -> &'static Postgres {
    let mut options = PgOptions::new().set("autovacuum", "off");
    options.locales = Some(locales.to_owned());
    Box::leak(Box::new(Postgres::start(install, options).await.unwrap()))
}

const DDL: &str = "
    CREATE TABLE app.m (id int PRIMARY KEY, m money DEFAULT {amount}, a money[] DEFAULT ARRAY[{amount}::money],
      n int, CONSTRAINT above CHECK (m > {amount}::money * 1000000));
    CREATE TABLE app.k (m money PRIMARY KEY, n int);
    CREATE TABLE app.f (m money, n int);
    ALTER TABLE app.f REPLICA IDENTITY FULL;
    CREATE TABLE app.p (m money) PARTITION BY RANGE (m);
    CREATE TABLE app.p_less PARTITION OF app.p FOR VALUES FROM (MINVALUE) TO ({amount});
    CREATE TABLE app.p_rest PARTITION OF app.p DEFAULT;
    ALTER TABLE app.p_less REPLICA IDENTITY FULL; ALTER TABLE app.p_rest REPLICA IDENTITY FULL";

const ROWS: &str = "
    INSERT INTO app.m (id) VALUES ({n});
    INSERT INTO app.m SELECT {n} + i, x, ARRAY[x, NULL, x * -1], i
      FROM (SELECT i, (i * i * i + {n}) * {amount}::money / 7 AS x FROM generate_series(1, 40) i) AS all_of_them
      WHERE x > {amount}::money * 1000000;
    INSERT INTO app.k SELECT m, id FROM app.m WHERE id > {n};
    INSERT INTO app.f SELECT m, id FROM app.m, generate_series(1, 2) WHERE id > {n};
    INSERT INTO app.p SELECT {amount}::money + i * '0'::money + ({n} + i)::int8::money
      FROM generate_series(-5, 5) i";

const CHANGES: &str = "
    UPDATE app.m SET m = m * 3, a = a || m WHERE id % 3 = 1;
    UPDATE app.m SET n = n + 1;
    DELETE FROM app.m WHERE id % 5 = 1;
    UPDATE app.k SET n = n + 1000 WHERE n % 2 = 0;
    UPDATE app.k SET m = m - '77777'::money WHERE n % 3 = 0;
    DELETE FROM app.k WHERE n % 7 = 1;
    UPDATE app.f SET n = -n WHERE ctid IN (SELECT min(ctid) FROM app.f GROUP BY n);
    DELETE FROM app.f WHERE n > 30";

/// What a client of the database reads, as its locale prints it.
async fn reads(half: &Half) -> String {
    let client = half.connect().await;
    client.batch_execute("SET quote_all_identifiers = off").await.unwrap();
    let sql = "SELECT string_agg(t, E'\\n' ORDER BY t COLLATE \"C\") FROM (
        SELECT 'm' || x::text AS t FROM app.m x UNION ALL SELECT 'k' || x::text FROM app.k x
        UNION ALL SELECT 'f' || x::text FROM app.f x
        UNION ALL SELECT tableoid::regclass || x::text FROM app.p x
        UNION ALL SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'app.m'::regclass
        UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'above'
        UNION ALL SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relispartition) AS all_of_it";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_travels_between_servers_that_print_it_in_their_own_way() {
    let folder = tempfile::tempdir().unwrap();
    if !compile(folder.path()) {
        return;
    }
    let mut random = Random::new(seed());
    let installs = find_postgres();
    let blue = server(installs.first().unwrap(), folder.path()).await;
    let green = server(installs.last().unwrap(), folder.path()).await;
    for (locale, amount) in LOCALES {
        let pair = Pair::with((blue, ""), (green, "")).await;
        for half in [&pair.blue, &pair.green] {
            let set = "ALTER DATABASE {d} SET lc_monetary = '{l}.UTF-8'";
            half.sql(&set.replace("{d}", &half.name).replace("{l}", locale)).await;
        }
        let client = pair.blue.connect().await;
        let writes = async |sql: &str, n: &str| {
            let sql = sql.replace("{amount}", &format!("'{amount}'")).replace("{n}", n);
            client.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{locale}: {e:?}: {sql}"));
        };
        writes(DDL, "").await;
        writes(ROWS, "0").await;

        // Definitions hold amounts as well.
        pair.green.sql("DROP SCHEMA app").await;
        let copy = PgSchemaCopy::new(pair.blue.db.clone(), pair.green.db.clone());
        let all = Selection { include: vec!["app.*".into()], exclude: Vec::new() };
        copy.before_rows(&all).await.unwrap();
        copy.after_rows(&all, 1, None, false).await.unwrap();
        let (snapshot, mut pump) = pair.follow().await;
        for table in pair.blue.tables().await {
            for format in [CopyFormat::PostgresText, CopyFormat::PostgresBinary] {
                pair.green.db.clear(&pair.run, &table).await.unwrap();
                pair.copy(&*snapshot, &table, format).await.unwrap();
                pair.assert_equal(&table, &format!("{locale}, {format:?}")).await;
            }
        }
        drop(snapshot);
        let read = reads(&pair.blue).await;
        assert!(read.contains(amount), "{locale}: {read}");
        assert_eq!(read, reads(&pair.green).await, "{locale}");

        let mut writer = pair.writer().await;
        writes(ROWS, "100").await;
        let events = pair.changes(&mut pump).await;
        apply(&mut *writer, &events, &mut random, locale).await;
        writes(CHANGES, "").await;
        let events = pair.changes(&mut pump).await;
        apply(&mut *writer, &events, &mut random, locale).await;
        for table in pair.blue.tables().await {
            pair.assert_equal(&table, &format!("{locale}, followed")).await;
        }
        assert_eq!(reads(&pair.blue).await, reads(&pair.green).await, "{locale}");
        drop(writer);
        Source::release(&pair.blue.db, &pair.run).await.unwrap();
    }
}

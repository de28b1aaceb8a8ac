//! Databases of different encodings: every character arrives, or the run stops by name.

use cutover_core::{
    model::{digest::RowKey, event::Event, schema::Table},
    port::{copy::CopyFormat, reader::RowReader, sink::Sink, source::Source},
};

use crate::{
    journey::{apply, keys, repair},
    random::{Random, seed},
    world::{Pair, pairs},
};

/// Characters beside ASCII that an encoding has. Of EUC_JP: kanji, kana, half-width kana, and signs
/// that other programs map in other ways.
fn alphabet(encoding: &str) -> Vec<char> {
    match encoding {
        "LATIN1" => ('\u{80}'..='\u{ff}').collect(),
        "WIN1252" => ('\u{a0}'..='\u{ff}').chain("€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ".chars()).collect(),
        "EUC_JP" => "日本語表示亜弌ぁんァヶｱﾝ、。〇〒゛〆→Σя─鷗".chars().collect(),
        _ => "é日😀ß\u{301}".chars().collect(),
    }
}

fn text(r: &mut Random, letters: &[char], most: usize) -> String {
    let n = r.below(most + 1);
    (0..n)
        .map(
            |_| {
                if r.one_in(3) {
                    r.pick(&['a', 'Z', '\'', '"', '\\', ' '])
                } else {
                    r.pick(letters)
                }
            },
        )
        .collect()
}

/// Names, labels, keys and values outside of ASCII. The first table is copied in binary form, the
/// others have types of their own.
fn ddl(letter: char) -> String {
    format!(
        "CREATE TYPE app.mood AS ENUM ('ok', 'x{letter}');
         CREATE TYPE app.pair AS (\"{letter}\" text, b int);
         CREATE TABLE app.\"t{letter}\" (id int PRIMARY KEY, \"c{letter}\" text, v varchar(9),
                c char(9), j json, a text[][], x xml, pad text);
         ALTER TABLE app.\"t{letter}\" ALTER pad SET STORAGE EXTERNAL;
         CREATE TABLE app.k (k text, l varchar(30), n int, PRIMARY KEY (k, l));
         CREATE TABLE app.f (v text, m app.mood, p app.pair, n int);
         ALTER TABLE app.f REPLICA IDENTITY FULL"
    )
}

fn inserts(r: &mut Random, letters: &[char], from: usize, rows: usize) -> Vec<String> {
    let q = cutover_postgres::sql::literal;
    let letter = letters[0];
    // Where bytes are counted, few characters fit.
    let (v, c) = if letters.contains(&'😀') { (2, 0) } else { (9, 9) };
    let mut all = Vec::new();
    for id in from..from + rows {
        let mut t = |most| q(&text(r, letters, most));
        // PostgreSQL would take backslashes as its own.
        let plain = |text: String| text.replace(['\\', '"', '<'], "_");
        let (json, xml) = (plain(t(9)), plain(t(9)));
        all.push(format!(
            "INSERT INTO app.\"t{letter}\" VALUES ({id}, {}, {}, {}, to_json({json}::text),
                ARRAY[[{}, NULL], ['', {}]], xmlelement(name a, {xml}), repeat({}, 2000))",
            t(30),
            t(v),
            t(c),
            t(5),
            t(5),
            t(3)
        ));
        all.push(format!("INSERT INTO app.k VALUES ({}, 'l' || {id}, {id})", t(20)));
        all.push(format!(
            "INSERT INTO app.f VALUES ({}, 'x{letter}', ROW({}, {id}), {id})",
            t(20),
            t(9)
        ));
    }
    all
}

fn changes(r: &mut Random, letters: &[char]) -> Vec<String> {
    let letter = letters[0];
    let v = if letters.contains(&'😀') { 2 } else { 9 };
    let mut t = |most| cutover_postgres::sql::literal(&text(r, letters, most));
    vec![
        format!("UPDATE app.\"t{letter}\" SET \"c{letter}\" = {} WHERE id % 3 = 0", t(20)),
        format!("UPDATE app.\"t{letter}\" SET v = {}, pad = {} WHERE id % 5 = 0", t(v), t(4)),
        format!("DELETE FROM app.\"t{letter}\" WHERE id % 7 = 3"),
        "UPDATE app.k SET n = n + 1000".to_owned(),
        format!("UPDATE app.k SET k = k || {}, n = 0 WHERE n % 4 = 0", t(9)),
        "DELETE FROM app.k WHERE n % 5 = 0".to_owned(),
        format!("UPDATE app.f SET v = {}, m = 'ok' WHERE n % 3 = 0", t(20)),
        "DELETE FROM app.f WHERE n % 4 = 0".to_owned(),
        // So many that they are copied in.
        format!(
            "INSERT INTO app.k SELECT {} || g, {}, g FROM generate_series(5000, 5100) g",
            t(9),
            t(4)
        ),
    ]
}

async fn all_equal(pair: &Pair, when: &str) {
    for table in pair.blue.tables().await {
        pair.assert_equal(&table, when).await;
    }
}

/// Copy, stream, comparison by key, and repair, with characters of `encoding`.
async fn travel(pair: &Pair, encoding: &str, r: &mut Random) {
    let letters = alphabet(encoding);
    let when = |what: &str| format!("{what}, {encoding}");
    pair.both(&ddl(letters[0])).await;
    for statement in inserts(r, &letters, 0, 30) {
        pair.blue.sql(&statement).await;
    }
    let (snapshot, mut pump) = pair.follow().await;
    let tables = pair.blue.tables().await;
    assert_eq!(tables.len(), 3);
    for table in &tables {
        let own = table.columns.iter().any(|c| c.base_type.starts_with("app."));
        let binary = (!own).then_some(CopyFormat::PostgresBinary);
        for format in [CopyFormat::PostgresText].into_iter().chain(binary) {
            pair.green.db.clear(&pair.run, table).await.unwrap();
            pair.copy(&*snapshot, table, format).await.unwrap();
            pair.assert_equal(table, &when(&format!("copied as {format:?}"))).await;
        }
    }
    drop(snapshot);
    let mut writer = pair.writer().await;
    let mut named = std::collections::HashMap::<String, Vec<RowKey>>::new();
    for statements in [inserts(r, &letters, 100, 20), changes(r, &letters)] {
        for statement in statements {
            pair.blue.sql(&statement).await;
        }
        let events = pair.changes(&mut pump).await;
        for (table, mut more) in keys(&events) {
            named.entry(table).or_default().append(&mut more);
        }
        apply(&mut *writer, &events, r, &when("streamed")).await;
        all_equal(pair, &when("streamed")).await;
    }
    let snapshot = pair.blue.db.snapshot().await.unwrap();
    for table in tables.iter().filter(|t| !t.key().is_empty()) {
        let mut found = Vec::new();
        for half in [&pair.blue, &pair.green] {
            let rows = half.reader.key_digests(table, &named[&table.name.name]).await.unwrap();
            let mut rows: Vec<_> = rows.into_iter().map(|row| (row.key, row.hash)).collect();
            rows.sort();
            found.push(rows);
        }
        assert!(!found[0].is_empty() && found[0] == found[1], "{}", when("by key"));
        repair(pair, &*snapshot, table, &mut *writer).await;
    }
    buckets_agree(pair, &tables).await;
    drop(writer);
    Source::release(&pair.blue.db, &pair.run).await.unwrap();
}

/// Which bucket a row falls into does not depend on the encoding either.
async fn buckets_agree(pair: &Pair, tables: &[Table]) {
    for table in tables {
        let whole = cutover_core::port::copy::Range { condition: String::new(), bytes: 0 };
        let mut found = Vec::new();
        for half in [&pair.blue, &pair.green] {
            found.push(half.reader.bucket_digests(table, &whole, 16).await.unwrap());
        }
        assert!(found[0] == found[1], "buckets of {}", table.name);
    }
}

fn encoded(encoding: &str) -> String {
    format!("ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_character_arrives_in_unicode_and_goes_back() {
    let mut r = Random::new(seed());
    for (blue, green) in pairs(&[(14, 18)]).await {
        for encoding in ["LATIN1", "WIN1252", "EUC_JP", "SQL_ASCII"] {
            let how = encoded(encoding);
            let there = Pair::with((blue, &how), (green, "")).await;
            travel(&there, encoding, &mut r).await;
            let back = Pair::with((green, ""), (blue, &how)).await;
            travel(&back, encoding, &mut r).await;
        }
    }
}

/// The same encoding on both sides, neither of them Unicode.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_encodings_need_no_unicode() {
    let mut r = Random::new(seed());
    for (blue, green) in pairs(&[(14, 18)]).await {
        for encoding in ["LATIN1", "EUC_JP", "SQL_ASCII"] {
            let how = encoded(encoding);
            let pair = Pair::with((blue, &how), (green, &how)).await;
            travel(&pair, encoding, &mut r).await;
        }
    }
}

/// On every way that rows are written: the stop is named, nothing of the batch is written, and
/// neither the value nor its bytes are told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_character_that_the_other_side_lacks_stops_by_name() {
    for (blue, green) in pairs(&[(17, 14), (18, 18)]).await {
        let pair = Pair::with((blue, ""), (green, &encoded("LATIN1"))).await;
        pair.both(
            "CREATE TABLE app.t (id int PRIMARY KEY, v text);
             CREATE TABLE app.k (k text PRIMARY KEY);
             CREATE TABLE app.f (v text, m int); ALTER TABLE app.f REPLICA IDENTITY FULL",
        )
        .await;
        pair.blue
            .sql(
                "INSERT INTO app.t SELECT i, 'é' FROM generate_series(1, 9) i;
                 INSERT INTO app.k VALUES ('é'); INSERT INTO app.f VALUES ('é')",
            )
            .await;
        let (snapshot, mut pump) = pair.follow().await;
        let tables = pair.blue.tables().await;
        for table in &tables {
            pair.copy(&*snapshot, table, CopyFormat::PostgresText).await.unwrap();
        }
        drop(snapshot);
        for change in [
            "INSERT INTO app.t VALUES (10, 'é日')",
            "INSERT INTO app.t SELECT i, 'é日' || i FROM generate_series(11, 200) i",
            "UPDATE app.t SET v = '日' WHERE id = 1",
            "UPDATE app.t SET v = '日', id = -2 WHERE id = 2",
            "UPDATE app.k SET k = '日'",
            "UPDATE app.f SET v = '日'",
        ] {
            pair.blue.sql(change).await;
            let events = pair.changes(&mut pump).await;
            let mut writer = pair.writer().await;
            let before = writer.progress().await.unwrap();
            let error = writer.apply(&events).await.unwrap_err();
            drop(writer);
            assert_eq!(error.code(), Some("CUT0023"), "{change}: {error}");
            let told = format!("{error:?} {error}");
            assert!(told.contains("app.") && told.contains("UTF8 to LATIN1"), "{told}");
            assert!(!told.contains('日') && !told.contains("0x"), "{told}");
            assert_eq!(pair.writer().await.progress().await.unwrap(), before);
            // Undone on blue, so that the next one stands alone; what is in between is passed by.
            pair.blue
                .sql(
                    "DELETE FROM app.t WHERE id > 9 OR id < 0; DELETE FROM app.t WHERE id = 2;
                     INSERT INTO app.t VALUES (2, 'é'); UPDATE app.t SET v = 'é';
                     UPDATE app.k SET k = 'é'; UPDATE app.f SET v = 'é'",
                )
                .await;
            let skipped = pair.changes(&mut pump).await;
            let Some(Event::Commit { position }) = skipped.last() else { panic!() };
            pair.writer().await.store(position).await.unwrap();
            all_equal(&pair, change).await;
        }
        // In the copy.
        pair.blue.sql("INSERT INTO app.t VALUES (10, 'é日')").await;
        let snapshot = pair.blue.db.snapshot().await.unwrap();
        let table = tables.iter().find(|t| t.name.name == "t").unwrap();
        for format in [CopyFormat::PostgresText, CopyFormat::PostgresBinary] {
            pair.green.db.clear(&pair.run, table).await.unwrap();
            let error = pair.copy(&*snapshot, table, format).await.unwrap_err();
            assert_eq!(error.code(), Some("CUT0023"), "{error}");
            let told = format!("{error:?} {error}");
            assert!(told.contains("app.t") && !told.contains("0x"), "{told}");
            assert_eq!(pair.green.rows(&table.name).await.len(), 0);
        }
        Source::release(&pair.blue.db, &pair.run).await.unwrap();
    }
}

/// Bytes that blue itself cannot read: no text in any encoding, or in none that Unicode has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_text_stop_by_name() {
    for (blue, green) in pairs(&[(14, 17), (18, 18)]).await {
        for (encoding, bytes) in [("SQL_ASCII", "\\351"), ("WIN1252", "\\201")] {
            let pair = Pair::with((blue, &encoded(encoding)), (green, "")).await;
            pair.both("CREATE TABLE app.t (id int PRIMARY KEY, v text)").await;
            pair.blue.sql("INSERT INTO app.t VALUES (1, 'good')").await;
            let (snapshot, mut pump) = pair.follow().await;
            let table = &pair.blue.tables().await[0];
            pair.copy(&*snapshot, table, CopyFormat::PostgresBinary).await.unwrap();
            drop(snapshot);
            let raw = format!("SET client_encoding = '{encoding}'");
            pair.blue
                .sql(&format!(
                    "{raw}; INSERT INTO app.t VALUES (2, E'{bytes}'); SET client_encoding = UTF8"
                ))
                .await;
            let named = |error: cutover_core::port::PortError, place: &str| {
                assert_eq!(error.code(), Some("CUT0023"), "{encoding}: {error}");
                let told = format!("{error:?} {error}");
                assert!(told.contains(place) && !told.contains("0x"), "{told}");
                assert!(!error.is_transient() && error.remedy().is_some());
            };
            let snapshot = pair.blue.db.snapshot().await.unwrap();
            for format in [CopyFormat::PostgresText, CopyFormat::PostgresBinary] {
                pair.green.db.clear(&pair.run, table).await.unwrap();
                named(pair.copy(&*snapshot, table, format).await.unwrap_err(), "app.t");
            }
            drop(snapshot);
            // The stream tells where: the server stops there each time.
            let mut events = Vec::new();
            let error = loop {
                if let Err(e) = pump.stream.next(&mut events).await {
                    break e;
                }
            };
            named(error, ", at ");
            if encoding == "WIN1252" {
                let whole = cutover_core::port::copy::Range { condition: String::new(), bytes: 0 };
                let digests = pair.blue.reader.bucket_digests(table, &whole, 1).await;
                named(digests.unwrap_err(), "app.t");
            }
            Source::release(&pair.blue.db, &pair.run).await.unwrap();
        }
    }
}

/// What preflight warns of (`CUT0194`): the values arrive, and the server keeps them in another
/// order, which is a difference to the comparison.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_arrive_and_may_be_sorted_anew() {
    for (blue, green) in pairs(&[(14, 18)]).await {
        let pair = Pair::with((blue, &encoded("LATIN1")), (green, "")).await;
        pair.both("CREATE TABLE app.t (id int PRIMARY KEY, j jsonb)").await;
        pair.blue.sql("INSERT INTO app.t VALUES (1, '{\"é\": 1, \"zz\": 2}')").await;
        let (snapshot, mut pump) = pair.follow().await;
        let table = &pair.blue.tables().await[0];
        pair.copy(&*snapshot, table, CopyFormat::PostgresBinary).await.unwrap();
        drop(snapshot);
        pair.blue.sql("INSERT INTO app.t VALUES (2, '{\"é\": {\"ü\": [], \"aa\": 0}}')").await;
        let events = pair.changes(&mut pump).await;
        pair.writer().await.apply(&events).await.unwrap();
        let (b, g) = (pair.blue.rows(&table.name).await, pair.green.rows(&table.name).await);
        assert_eq!(b[0], "(1,\"{\"\"é\"\": 1, \"\"zz\"\": 2}\")");
        assert_eq!(g[0], "(1,\"{\"\"zz\"\": 2, \"\"é\"\": 1}\")");
        let documents = async |half: &crate::world::Half| {
            let rows =
                half.client.query("SELECT j::text FROM app.t ORDER BY id", &[]).await.unwrap();
            rows.iter()
                .map(|row| serde_json::from_str::<serde_json::Value>(row.get(0)).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(documents(&pair.blue).await, documents(&pair.green).await);
        Source::release(&pair.blue.db, &pair.run).await.unwrap();
    }
}

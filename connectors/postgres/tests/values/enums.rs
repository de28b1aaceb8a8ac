//! Labels that blue gets while it is followed: never a wrong row, a named stop where green lacks
//! the label, and on it goes after the remedy.

use cutover_core::{
    model::event::Event,
    port::{copy::CopyFormat, source::Source},
};

use crate::world::{Pair, pairs};

const DDL: &str = "
CREATE TYPE app.mood AS ENUM ('sad', 'ok');
CREATE TABLE app.t (id int PRIMARY KEY, m app.mood, n int);
CREATE TABLE app.f (m app.mood, ms app.mood[]); ALTER TABLE app.f REPLICA IDENTITY FULL;
CREATE TABLE app.k (m app.mood PRIMARY KEY, n int)";

/// Applies what must be refused, and returns the writer's word.
async fn refused(pair: &Pair, events: &[Event]) {
    let mut writer = pair.writer().await;
    let before = writer.progress().await.unwrap();
    let error = writer.apply(events).await.unwrap_err();
    assert_eq!(error.code(), Some("CUT0407"), "{error}");
    assert!(error.to_string().contains("22P02"), "{error}");
    assert!(error.remedy().unwrap().contains("enum labels"), "{error:?}");
    assert!(!format!("{error:?}").contains("elated"), "{error:?}");
    drop(writer);
    assert_eq!(pair.writer().await.progress().await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_that_green_lacks_stops_the_stream_until_it_has_it() {
    for (blue, green) in pairs(&[(14, 17), (18, 18)]).await {
        let pair = Pair::new(blue, green).await;
        pair.both(DDL).await;
        pair.blue.sql("INSERT INTO app.t SELECT i, 'sad', i FROM generate_series(1, 9) i").await;
        pair.blue
            .sql("INSERT INTO app.f VALUES ('ok', '{sad}'); INSERT INTO app.k VALUES ('ok', 1)")
            .await;
        let (snapshot, mut pump) = pair.follow().await;
        for table in pair.blue.tables().await {
            pair.copy(&*snapshot, &table, CopyFormat::PostgresText).await.unwrap();
        }
        // One change on every way that rows are written.
        for (label, change) in [
            ("elated 1", "INSERT INTO app.t VALUES (10, 'elated 1', 1)"),
            (
                "elated 2",
                "INSERT INTO app.t SELECT i, 'elated 2', i FROM generate_series(11, 200) i",
            ),
            ("elated 3", "UPDATE app.t SET m = 'elated 3' WHERE id = 1"),
            ("elated 4", "UPDATE app.t SET m = 'elated 4', id = id + 1000 WHERE id = 2"),
            ("elated 5", "UPDATE app.f SET m = 'elated 5'"),
            ("elated 6", "UPDATE app.f SET ms = '{sad,NULL,elated 6}'"),
            ("elated 7", "UPDATE app.k SET m = 'elated 7'"),
        ] {
            pair.blue.sql(&format!("ALTER TYPE app.mood ADD VALUE '{label}' BEFORE 'ok'")).await;
            pair.blue.sql(change).await;
            let events = pair.changes(&mut pump).await;
            refused(&pair, &events).await;
            pair.green.sql(&format!("ALTER TYPE app.mood ADD VALUE '{label}' BEFORE 'ok'")).await;
            let mut writer = pair.writer().await;
            writer.apply(&events).await.unwrap_or_else(|e| panic!("{change}: {e}"));
            for table in pair.blue.tables().await {
                pair.assert_equal(&table, change).await;
            }
        }
        Source::release(&pair.blue.db, &pair.run).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_that_is_renamed() {
    for (blue, green) in pairs(&[(14, 17), (18, 18)]).await {
        let pair = Pair::new(blue, green).await;
        pair.both(DDL).await;
        pair.blue.sql("INSERT INTO app.t SELECT i, 'sad', i FROM generate_series(1, 9) i").await;
        let (snapshot, mut pump) = pair.follow().await;
        for table in pair.blue.tables().await {
            pair.copy(&*snapshot, &table, CopyFormat::PostgresText).await.unwrap();
        }
        let table = pair.blue.tables().await.into_iter().find(|t| t.name.name == "t").unwrap();
        // A row that does not change its label does not hide that green has the old one.
        pair.blue.sql("ALTER TYPE app.mood RENAME VALUE 'sad' TO 'elated'").await;
        pair.blue.sql("UPDATE app.t SET n = 100 WHERE id = 1").await;
        let events = pair.changes(&mut pump).await;
        refused(&pair, &events).await;
        pair.green.sql("ALTER TYPE app.mood RENAME VALUE 'sad' TO 'elated'").await;
        let mut writer = pair.writer().await;
        writer.apply(&events).await.unwrap();
        pair.assert_equal(&table, "renamed on both sides").await;
        // The other order: what was written before has the old label.
        pair.blue.sql("UPDATE app.t SET n = 200 WHERE id = 2").await;
        pair.both("ALTER TYPE app.mood RENAME VALUE 'elated' TO 'glad'").await;
        let events = pair.changes(&mut pump).await;
        drop(writer);
        refused(&pair, &events).await;
        pair.green.sql("ALTER TYPE app.mood RENAME VALUE 'glad' TO 'elated'").await;
        pair.writer().await.apply(&events).await.unwrap();
        pair.green.sql("ALTER TYPE app.mood RENAME VALUE 'elated' TO 'glad'").await;
        pair.assert_equal(&table, "renamed after the change").await;
        Source::release(&pair.blue.db, &pair.run).await.unwrap();
    }
}

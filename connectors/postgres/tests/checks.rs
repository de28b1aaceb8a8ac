//! Every finding on real servers of every version at hand, and every remedy: it is executed as it
//! is printed, and the finding is gone.

#[path = "checks/blue.rs"]
mod blue;
#[path = "checks/grants.rs"]
mod grants;
#[path = "checks/green.rs"]
mod green;
#[path = "checks/place.rs"]
mod place;
#[path = "checks/standby.rs"]
mod standby;

use std::collections::BTreeSet;

use cutover_core::{
    model::{finding::Scope, selection::Selection, side::Side},
    port::examine::{Examine, Question},
};
use cutover_sandbox::{PgOptions, StopMode, find_postgres, wait_until};

use place::{PATIENCE, Place, codes, errors};

#[tokio::test]
async fn a_superuser_has_no_finding_about_rights() {
    for install in find_postgres() {
        let place = Place::start(&install, PgOptions::new()).await;
        place
            .sql("CREATE SCHEMA app AUTHORIZATION app;\nCREATE TABLE app.t (id int PRIMARY KEY)")
            .await;
        place.hand_over().await;
        for side in [Side::Blue, Side::Green] {
            let question = place.question(side, place.tables().await);
            let findings = place.as_superuser(side).examine(&question).await.unwrap();
            assert_eq!(findings, [], "{} {side}", install.major);
        }
    }
}

#[tokio::test]
async fn a_standby_is_refused_until_it_is_promoted() {
    for install in find_postgres() {
        let mut place = Place::start(&install, PgOptions::new()).await;
        let database = place.as_superuser(Side::Blue);
        let question = place.question(Side::Blue, Vec::new());
        place.server.stop(StopMode::Fast).await.unwrap();
        std::fs::write(place.server.data_dir().join("standby.signal"), "").unwrap();
        place.server.start_again().await.unwrap();
        let findings = database.examine(&question).await.unwrap();
        assert_eq!(codes(&findings), BTreeSet::from(["CUT0102"]), "{findings:#?}");
        assert!(findings[0].remedy.ends_with("SELECT pg_promote();"));
        place.sql("SELECT pg_promote()").await;
        assert_eq!(database.examine(&question).await.unwrap(), []);
    }
}

#[tokio::test]
async fn without_a_sender_no_replication_session_opens() {
    for install in find_postgres() {
        let options = PgOptions::new().set("max_wal_senders", "0").set("wal_level", "logical");
        let place = Place::start(&install, options).await;
        let question = place.question(Side::Blue, Vec::new());
        let findings = place.as_superuser(Side::Blue).examine(&question).await.unwrap();
        assert_eq!(codes(&findings), BTreeSet::from(["CUT0105", "CUT0115"]), "{findings:#?}");
    }
}

#[tokio::test]
async fn a_writer_that_stays_open_stops_a_move_until_it_is_ended() {
    for install in find_postgres() {
        let place = Place::start(&install, PgOptions::new()).await;
        place
            .sql("CREATE SCHEMA app AUTHORIZATION app;\nCREATE TABLE app.t (id int PRIMARY KEY)")
            .await;
        place.hand_over().await;
        place.capture(&place.tables().await).await;
        let writer = place.server.connect("Shop").await.unwrap();
        writer.batch_execute("BEGIN; INSERT INTO app.t VALUES (1)").await.unwrap();
        let reader = place.server.connect("Shop").await.unwrap();
        reader.batch_execute("BEGIN; SELECT * FROM app.t").await.unwrap();

        let database = place.as_superuser(Side::Blue);
        let mut question = place.question(Side::Blue, place.tables().await);
        question.scope = Scope::Move;
        question.resuming = true;
        let mut findings = Vec::new();
        wait_until("the writer to be old enough", PATIENCE, async || {
            findings = database.examine(&question).await.unwrap();
            !errors(&findings).is_empty()
        })
        .await
        .unwrap();
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert_eq!(finding.code, "CUT0139");
        assert_eq!(finding.remedy.lines().count(), 2, "only the writer: {}", finding.remedy);
        place.follow(finding).await;
        wait_until("the writer to be gone", PATIENCE, async || {
            database.examine(&question).await.unwrap().is_empty()
        })
        .await
        .unwrap();
        assert!(writer.batch_execute("COMMIT").await.is_err());
        reader.batch_execute("COMMIT").await.unwrap();
    }
}

/// The server publishes the table above it, and says nothing.
#[tokio::test]
async fn an_unlogged_partition_that_came_later_stops_a_move() {
    let install = find_postgres().pop().unwrap();
    let place = Place::start(&install, PgOptions::new()).await;
    place
        .sql(
            "CREATE SCHEMA app AUTHORIZATION app;
             CREATE TABLE app.t (id int PRIMARY KEY) PARTITION BY LIST (id);
             CREATE TABLE app.t_1 PARTITION OF app.t FOR VALUES IN (1);
             CREATE UNLOGGED TABLE app.t_2 PARTITION OF app.t FOR VALUES IN (2)",
        )
        .await;
    place.hand_over().await;
    let tables = place.tables().await;
    let logged: Vec<_> = tables.iter().filter(|t| t.name.name != "t_2").cloned().collect();
    place.capture(&logged).await;
    let mut question = place.question(Side::Blue, tables);
    question.scope = Scope::Move;
    question.resuming = true;
    let findings = place.as_superuser(Side::Blue).examine(&question).await.unwrap();
    let [finding] = &findings[..] else { panic!("{findings:#?}") };
    assert_eq!(finding.code, "CUT0128");
    assert!(finding.remedy.contains("\"t_2\""), "{finding:?}");
}

/// The server publishes the table above them: clients could not change any of them any more.
#[tokio::test]
async fn leaves_that_are_left_out_or_come_later_need_an_identity_as_well() {
    let install = find_postgres().pop().unwrap();
    let place = Place::start(&install, PgOptions::new()).await;
    place
        .sql(
            "CREATE SCHEMA app AUTHORIZATION app;
             CREATE TABLE app.t (id int) PARTITION BY LIST (id);
             CREATE TABLE app.t_1 PARTITION OF app.t FOR VALUES IN (1);
             ALTER TABLE app.t_1 REPLICA IDENTITY FULL;
             CREATE TABLE app.t_2 PARTITION OF app.t FOR VALUES IN (2);
             CREATE TABLE app.keyed (id int PRIMARY KEY) PARTITION BY LIST (id);
             CREATE TABLE app.keyed_1 PARTITION OF app.keyed FOR VALUES IN (1)",
        )
        .await;
    place.hand_over().await;
    let mut tables = place.tables().await;
    tables.retain(|t| t.name.name != "t_2");
    let mut question = place.question(Side::Blue, tables);
    question.selection.exclude.push("app.t_2".into());
    let database = place.as_superuser(Side::Blue);
    let findings = database.examine(&question).await.unwrap();
    let [finding] = &errors(&findings)[..] else { panic!("{findings:#?}") };
    assert_eq!(finding.code, "CUT0125");
    assert!(finding.what.ends_with(": \"app\".\"t_2\""), "{finding:?}");
    let later: Vec<_> = findings.iter().filter(|f| f.code == "CUT0196").collect();
    let [later] = &later[..] else { panic!("{findings:#?}") };
    assert!(later.what.ends_with("on 1 table: \"app\".\"t\""), "{later:?}");
    place.follow(finding).await;
    let findings = database.examine(&question).await.unwrap();
    assert_eq!(errors(&findings), [&findings[0]; 0], "{findings:#?}");
}

#[tokio::test]
async fn a_schema_of_the_user_with_a_name_like_ours_is_not_left_behind_silently() {
    let install = find_postgres().pop().unwrap();
    let place = Place::start(&install, PgOptions::new()).await;
    place
        .sql(
            "CREATE SCHEMA app AUTHORIZATION app;
             CREATE SCHEMA cutover_other CREATE TABLE progress (one boolean);
             CREATE SCHEMA cutover_archive CREATE TABLE invoices (id int PRIMARY KEY)",
        )
        .await;
    place.hand_over().await;
    let mut question = place.question(Side::Blue, place.tables().await);
    let asked = async |question: &Question| {
        let findings = place.as_superuser(Side::Blue).examine(question).await.unwrap();
        findings.iter().map(|f| (f.code.clone(), f.what.clone())).collect::<Vec<_>>()
    };
    let other = ("CUT0142".to_owned(), "other runs have things here: schema cutover_other".into());
    assert_eq!(asked(&question).await, std::slice::from_ref(&other));
    question.selection = Selection::default();
    let [(code, what), rest @ ..] = &asked(&question).await[..] else { panic!("no finding") };
    assert_eq!((code.as_str(), rest), ("CUT0183", &[other.clone()][..]));
    assert!(what.ends_with("\"cutover_archive\".\"invoices\""), "{what}");
    question.selection.exclude.push("cutover_archive.*".into());
    assert_eq!(asked(&question).await, [other]);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_an_error_and_not_a_clean_bill() {
    let install = find_postgres().pop().unwrap();
    let mut place = Place::start(&install, PgOptions::new()).await;
    let question = place.question(Side::Blue, Vec::new());
    place.server.stop(StopMode::Immediate).await.unwrap();
    assert!(place.as_superuser(Side::Blue).examine(&question).await.unwrap_err().is_transient());
}

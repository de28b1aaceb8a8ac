//! One PostgreSQL server: asked, stopped, killed, frozen, started again.

use std::net::TcpListener;

use cutover_sandbox::{PgOptions, Postgres, StopMode, wait_until};

use crate::{LIMIT, install, is_alive, server};

const COUNT: &str = "select count(*) from t";

async fn with_rows() -> Postgres {
    let server = server().await;
    let sql = "create table t (id int primary key); insert into t select generate_series(1, 100)";
    server.execute("postgres", sql).await.unwrap();
    server
}

async fn count(server: &Postgres) -> Option<String> {
    server.query_text("postgres", COUNT).await.unwrap()
}

#[tokio::test]
async fn databases_and_roles_with_awkward_names() {
    let server = server().await;
    server.create_database("Shop \"1\"").await.unwrap();
    server.create_role("O'Brien", "it's", "replication").await.unwrap();
    let found = "select datname from pg_database where datname = 'Shop \"1\"'";
    assert!(server.query_text("postgres", found).await.unwrap().is_some());
    let found = "select 1 from pg_roles where rolname = 'O''Brien' and rolreplication";
    assert!(server.query_text("postgres", found).await.unwrap().is_some());
}

#[tokio::test]
async fn a_wrong_password_is_refused_with_the_servers_words() {
    let server = server().await;
    let url = server.url_as("postgres", "wrong", "postgres");
    let error = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.err().unwrap();
    assert_eq!(error.code().unwrap().code(), "28P01");
    let error = server.execute("nowhere", "select 1").await.unwrap_err().to_string();
    assert!(error.contains("\"nowhere\" does not exist"), "{error}");
}

#[tokio::test]
async fn a_clean_restart_keeps_port_password_and_rows() {
    let mut server = with_rows().await;
    let (port, pid) = (server.port(), server.pid());
    server.restart().await.unwrap();
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), pid);
    assert_eq!(count(&server).await.as_deref(), Some("100"));
}

#[tokio::test]
async fn a_stopped_server_is_gone_until_it_is_started_again() {
    let mut server = with_rows().await;
    let session = server.connect("postgres").await.unwrap();
    server.stop(StopMode::Fast).await.unwrap();
    assert_eq!(server.pid(), None);
    assert!(session.simple_query("select 1").await.is_err());
    assert!(server.connect("postgres").await.is_err());
    server.start_again().await.unwrap();
    assert_eq!(count(&server).await.as_deref(), Some("100"));
    assert!(server.start_again().await.is_err(), "it runs already");
}

#[tokio::test]
async fn a_killed_server_recovers_what_was_committed() {
    let mut server = with_rows().await;
    let session = server.connect("postgres").await.unwrap();
    session.batch_execute("begin; insert into t values (101)").await.unwrap();
    server.kill9().await.unwrap();
    assert!(session.simple_query("commit").await.is_err());
    server.start_again().await.unwrap();
    assert_eq!(count(&server).await.as_deref(), Some("100"));
    assert!(server.log().contains("was not properly shut down"), "{}", server.log());
}

#[tokio::test]
async fn an_immediate_stop_is_recovered_from_as_well() {
    let mut server = with_rows().await;
    server.stop(StopMode::Immediate).await.unwrap();
    server.start_again().await.unwrap();
    assert_eq!(count(&server).await.as_deref(), Some("100"));
}

#[tokio::test]
async fn a_paused_server_answers_nobody_until_it_is_resumed() {
    let mut server = with_rows().await;
    let session = server.connect("postgres").await.unwrap();
    server.pause().unwrap();
    let mut question = Box::pin(session.simple_query(COUNT));
    let limit = std::time::Duration::from_millis(300);
    assert!(tokio::time::timeout(limit, &mut question).await.is_err(), "it answered");
    server.resume().unwrap();
    tokio::time::timeout(LIMIT, question).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_paused_server_can_be_killed() {
    let mut server = with_rows().await;
    server.pause().unwrap();
    server.kill9().await.unwrap();
    server.start_again().await.unwrap();
    assert_eq!(count(&server).await.as_deref(), Some("100"));
}

#[tokio::test]
async fn settings_win_over_the_built_in_ones_and_can_be_added_later() {
    let options = PgOptions::new().set("wal_level", "replica").set("work_mem", "5MB").durable();
    let mut server = Postgres::start(&install(), options).await.unwrap();
    let show = async |server: &Postgres, name: &str| {
        server.query_text("postgres", &format!("show {name}")).await.unwrap().unwrap()
    };
    assert_eq!(show(&server, "wal_level").await, "replica");
    assert_eq!(show(&server, "work_mem").await, "5MB");
    assert_eq!(show(&server, "fsync").await, "on");
    server.configure(&[("work_mem", "6MB"), ("search_path", "it's, public")]).unwrap();
    server.restart().await.unwrap();
    assert_eq!(show(&server, "work_mem").await, "6MB");
    assert_eq!(show(&server, "search_path").await, "it's, public");
}

#[tokio::test]
async fn a_setting_the_server_refuses_is_an_error_with_its_log() {
    let options = PgOptions::new().set("no_such_setting", "1");
    let error = Postgres::start(&install(), options).await.unwrap_err().to_string();
    assert!(error.contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn it_waits_for_its_port_when_somebody_else_has_it_for_a_moment() {
    let mut server = with_rows().await;
    server.stop(StopMode::Fast).await.unwrap();
    let thief = TcpListener::bind(("127.0.0.1", server.port())).unwrap();
    let log = server.data_dir().parent().unwrap().join("log");
    let give_back = async {
        wait_until("the server to complain", LIMIT, async || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.contains("Address already in use"))
        })
        .await
        .unwrap();
        drop(thief);
    };
    let (started, ()) = tokio::join!(server.start_again(), give_back);
    started.unwrap();
    assert_eq!(count(&server).await.as_deref(), Some("100"));
}

#[tokio::test]
async fn nothing_is_left_when_it_is_dropped() {
    let server = with_rows().await;
    let folder = server.data_dir().parent().unwrap().to_owned();
    let pid = server.pid().unwrap();
    assert!(folder.is_dir() && is_alive(pid));
    drop(server);
    assert!(!folder.exists(), "{} is left", folder.display());
    assert!(!is_alive(pid));
}

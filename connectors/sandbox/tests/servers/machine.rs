//! What is found on this machine, and how each version starts.

use std::collections::HashSet;

use cutover_sandbox::{PgOptions, Postgres, find_postgres, find_program, postgres};

use crate::server;

#[tokio::test]
async fn every_version_found_starts_and_can_decode_its_log() {
    let found = find_postgres();
    assert!(found.len() >= 2, "two versions are needed: run scripts/setup test");
    assert!(found.is_sorted_by_key(|install| install.major), "{found:?}");
    for install in found {
        let server = Postgres::start(&install, PgOptions::new()).await.unwrap();
        let version = server.query_text("postgres", "show server_version_num").await.unwrap();
        let number: u32 = version.unwrap().parse().unwrap();
        assert_eq!(number / 10_000, install.major);
        let slot = "select lsn from pg_create_logical_replication_slot('s', 'pgoutput')";
        assert!(server.query_text("postgres", slot).await.unwrap().is_some(), "{install:?}");
        for (setting, expected) in
            [("max_replication_slots", "50"), ("max_prepared_transactions", "10"), ("fsync", "off")]
        {
            let value = server.query_text("postgres", &format!("show {setting}")).await.unwrap();
            assert_eq!(value.as_deref(), Some(expected), "{setting} of {}", install.version);
        }
    }
}

#[tokio::test]
async fn copies_of_one_data_folder_are_different_servers() {
    let (one, two) = tokio::join!(server(), server());
    let sql = "select system_identifier::text from pg_control_system()";
    let ids = [one.query_text("postgres", sql).await, two.query_text("postgres", sql).await];
    assert_ne!(ids[0].as_ref().unwrap(), ids[1].as_ref().unwrap());
    assert_ne!(one.password(), two.password());
    assert_ne!(one.port(), two.port());
}

#[tokio::test]
async fn a_new_identity_survives_a_crash_and_an_archive_of_the_log() {
    let mut server = server().await;
    let sql = "select system_identifier::text from pg_control_system()";
    let before = server.query_text("postgres", sql).await.unwrap();
    server.execute("postgres", "select pg_switch_wal(); checkpoint").await.unwrap();
    server.kill9().await.unwrap();
    server.start_again().await.unwrap();
    assert_eq!(server.query_text("postgres", sql).await.unwrap(), before);
    let log = server.log();
    assert!(!log.contains("different database system"), "{log}");
}

#[test]
fn a_version_that_is_not_there_is_an_error_with_its_remedy() {
    let error = postgres(7).unwrap_err().to_string();
    assert!(error.contains("PostgreSQL 7") && error.contains("scripts/setup"), "{error}");
}

#[test]
fn client_programs_are_found_by_version() {
    let newest = find_program("pg_dump", None).unwrap();
    for install in find_postgres() {
        let Some(program) = find_program("pg_dump", Some(install.major)) else {
            assert!(newest.major < install.major);
            continue;
        };
        assert!((install.major..=newest.major).contains(&program.major), "{program:?}");
        assert!(program.path.ends_with("pg_dump") && program.path.is_file());
    }
    assert_eq!(find_program("no-such-program", None), None);
}

#[tokio::test]
async fn servers_started_together_get_ports_of_their_own() {
    let servers = tokio::join!(server(), server(), server(), server());
    let ports = [servers.0.port(), servers.1.port(), servers.2.port(), servers.3.port()];
    assert_eq!(HashSet::from(ports).len(), 4, "{ports:?}");
}

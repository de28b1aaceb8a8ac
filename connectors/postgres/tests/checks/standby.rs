//! What is found where a standby is read.

use cutover_core::{model::side::Side, port::examine::Examine};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{PgInstall, PgOptions, Postgres, find_postgres};

use crate::place::{Place, codes};

async fn found(place: &Place, database: &Database, at: &str) -> Vec<String> {
    let question = place.question(Side::Blue, place.tables().await);
    let all = database.examine(&question).await.unwrap();
    let mut found: Vec<String> =
        all.iter().filter(|f| f.place == at).map(|f| f.code.clone()).collect();
    found.sort();
    assert!(!codes(&all).contains("CUT0193"), "a failover is another matter here: {all:#?}");
    found
}

fn reading(place: &Place, reader: &Postgres) -> Database {
    let config = PgConfig::parse(&reader.url("Shop"), None).unwrap();
    place.as_superuser(Side::Blue).reading_from(config)
}

async fn with_standby(install: &PgInstall, options: PgOptions) -> (Place, Postgres) {
    let mut place = Place::start(install, options).await;
    place.sql("CREATE SCHEMA app; CREATE TABLE app.fine (id int PRIMARY KEY)").await;
    let settings = [("sync_replication_slots", "off"), ("max_slot_wal_keep_size", "64MB")];
    let settings = if install.major >= 17 { &settings[..] } else { &settings[1..] };
    let standby = place.server.standby(settings).await.unwrap();
    (place, standby)
}

#[tokio::test]
async fn both_servers_are_looked_at_each_for_what_it_does() {
    let install = find_postgres().into_iter().find(|i| i.major >= 16).expect("one that decodes");
    // Enough for the standby's own stream, and not for ours.
    let options = PgOptions::new().set("max_replication_slots", "1");
    let (place, standby) = with_standby(&install, options).await;
    let blue = reading(&place, &standby);
    assert_eq!(found(&place, &blue, "blue").await, [""; 0]);
    assert_eq!(found(&place, &blue, "blue.read_from").await, ["CUT0104", "CUT0107"]);

    for setting in ["hot_standby_feedback = off", "primary_slot_name = ''"] {
        standby.execute("Shop", &format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    standby.execute("Shop", "SELECT pg_reload_conf()").await.unwrap();
    let blue = reading(&place, &standby);
    assert_eq!(found(&place, &blue, "blue").await, ["CUT0179", "CUT0180"]);

    let (_stranger, elsewhere) = with_standby(&install, PgOptions::new()).await;
    for reader in [&elsewhere, &place.server] {
        let blue = reading(&place, reader);
        let found = found(&place, &blue, "blue").await;
        assert!(found.contains(&"CUT0178".to_owned()), "{found:?}");
    }
}

#[tokio::test]
async fn a_standby_that_cannot_be_asked_is_a_finding() {
    let install = find_postgres().into_iter().next_back().expect("PostgreSQL");
    let (place, mut standby) = with_standby(&install, PgOptions::new()).await;
    let blue = reading(&place, &standby);
    standby.stop(cutover_sandbox::StopMode::Fast).await.unwrap();
    assert_eq!(found(&place, &blue, "blue.read_from").await, ["CUT0100"]);
}

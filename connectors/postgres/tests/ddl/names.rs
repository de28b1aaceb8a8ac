//! Names of schemas that change, and names that the run leaves out.

use cutover_core::port::sink::Redefined;

use crate::world::Stage;

const TABLES: &str = "CREATE SCHEMA kinds; CREATE TYPE kinds.kind AS ENUM ('a');
    CREATE SCHEMA nobodys; CREATE TABLE nobodys.t (id integer);
    CREATE TABLE t (id integer PRIMARY KEY, kind kinds.kind, kinds kinds.kind[]);
    CREATE TABLE aside (id integer PRIMARY KEY)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_another_name_is_told_in_its_place() {
    for (from, to) in [(0, 1), (1, 0)] {
        for (statement, says) in [
            ("ALTER SCHEMA public RENAME TO shop", "shop.t was followed under another name"),
            ("ALTER SCHEMA kinds RENAME TO sorts", "sorts.kind and not kinds.kind"),
            ("ALTER TABLE t RENAME TO aside_t", "aside_t was followed under another name"),
            ("ALTER TABLE t SET SCHEMA kinds", "kinds.t was followed under another name"),
        ] {
            let mut stage = Stage::new(from, to, TABLES).await;
            stage
                .on_blue(&format!("BEGIN; INSERT INTO t VALUES (1, 'a'); {statement}; COMMIT"))
                .await;
            let said = stage.follow(true).await;
            let Some(Redefined::Differs { why, .. }) = said.last() else {
                panic!("{statement}: {said:?}");
            };
            assert!(why.contains(says), "{statement}: {why}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_leaves_the_names_of_tables_as_they_are_stops_nobody() {
    let mut stage = Stage::new(1, 0, TABLES).await;
    stage.asks = true;
    stage
        .on_blue(
            "ALTER SCHEMA public OWNER TO CURRENT_USER; ALTER SCHEMA nobodys RENAME TO others; \
             ALTER TABLE others.t RENAME TO tt; ALTER TABLE aside RENAME TO aside_too; \
             ALTER SCHEMA kinds RENAME TO sorts; ALTER SCHEMA sorts RENAME TO kinds; \
             INSERT INTO t VALUES (1, 'a', '{a}')",
        )
        .await;
    let said = stage.follow(true).await;
    let fine = |s: &Redefined| matches!(s, Redefined::Unconcerned | Redefined::Alike { .. });
    assert!(said.iter().all(fine), "{said:?}");
    stage.on_blue("ALTER TABLE aside_too RENAME TO aside").await;
    stage.follow(true).await;
    stage.equal("renamed and back").await;
}

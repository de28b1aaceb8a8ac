//! Domains that tables have: what asks less of their values is made, what asks more stops.

use cutover_core::port::sink::Redefined;

use crate::world::Stage;

const TABLES: &str = "CREATE DOMAIN \"Small\" AS varchar(9) DEFAULT 'a' NOT NULL
        CONSTRAINT \"no X\" CHECK (VALUE <> 'x') CONSTRAINT \"no Y\" CHECK (VALUE <> 'y');
    CREATE DOMAIN free AS integer;
    CREATE TABLE t (id integer PRIMARY KEY, s \"Small\", f free)";

async fn domains(client: &tokio_postgres::Client) -> String {
    let query = "SELECT string_agg(concat_ws(' ', t.typname, t.typnotnull, \
                 pg_get_expr(t.typdefaultbin, 0), (SELECT string_agg(k.conname || ' ' || \
                 pg_get_constraintdef(k.oid), ',' ORDER BY k.conname) FROM pg_constraint k \
                 WHERE k.contypid = t.oid AND k.contype = 'c')), '; ' ORDER BY t.typname) \
                 FROM pg_type t WHERE t.typtype = 'd' AND t.typnamespace = 'public'::regnamespace";
    client.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_domain_asks_no_more_is_made_in_its_place() {
    for (from, to) in [(0, 1), (1, 0)] {
        let mut stage = Stage::new(from, to, TABLES).await;
        for (id, (change, row)) in [
            ("ALTER DOMAIN \"Small\" DROP CONSTRAINT \"no X\"", "'x', 1"),
            ("ALTER DOMAIN \"Small\" SET DEFAULT lower('B')", "'x', 1"),
            ("ALTER DOMAIN \"Small\" RENAME CONSTRAINT \"no Y\" TO no_y", "'x', 1"),
            ("ALTER DOMAIN \"Small\" DROP NOT NULL", "NULL, 1"),
            ("ALTER DOMAIN free SET DEFAULT 7", "'x', NULL"),
            ("ALTER DOMAIN free DROP DEFAULT", "'x', NULL"),
        ]
        .into_iter()
        .enumerate()
        {
            stage.on_blue(&format!("{change}; INSERT INTO t VALUES ({id}, {row})")).await;
            let said = stage.follow(true).await;
            let fine = |s: &Redefined| !matches!(s, Redefined::Differs { .. });
            assert!(said.iter().all(fine), "{change}: {said:?}");
            let [here, there] = [domains(&stage.here).await, domains(&stage.there).await];
            let renamed = |text: String| text.replace("no Y", "no_y");
            assert_eq!(renamed(here), renamed(there), "{change}");
        }
        stage.equal("domains").await;
        // Asked once more under another name, and made here on purpose.
        let mine = "ALTER DOMAIN free ADD CONSTRAINT mine CHECK (VALUE < 100)";
        stage.there.batch_execute(mine).await.unwrap();
        stage.on_blue("ALTER DOMAIN free SET DEFAULT 3").await;
        assert!(matches!(stage.follow(true).await[..], [Redefined::Made { .. }]));
        assert!(domains(&stage.there).await.contains("mine"));
        // Written in another way, and the same.
        stage.on_blue("ALTER DOMAIN free SET DEFAULT 3").await;
        assert!(matches!(stage.follow(false).await[..], [Redefined::Alike { .. }]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_domain_asks_more_stops() {
    for change in [
        "ALTER DOMAIN free ADD CONSTRAINT few CHECK (VALUE < 100)",
        "ALTER DOMAIN free ADD CONSTRAINT few CHECK (VALUE < 100) NOT VALID",
        "ALTER DOMAIN free SET NOT NULL",
        "DROP DOMAIN free CASCADE",
    ] {
        let mut stage = Stage::new(1, 0, TABLES).await;
        stage.on_blue(change).await;
        let said = stage.follow(true).await;
        let Some(Redefined::Differs { why, .. }) = said.last() else { panic!("{said:?}") };
        assert!(!why.is_empty());
        if change.starts_with("ALTER") {
            stage.reopen().await;
            stage.there.batch_execute(change).await.unwrap();
            let said = stage.follow(true).await;
            assert!(matches!(said[..], [Redefined::Alike { .. }]), "{change}: {said:?}");
        }
    }
}

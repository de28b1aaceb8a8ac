//! Every promise of a throwaway server, against the real programs of this machine.

use cutover_sandbox::{PgBouncer, PgBouncerOptions, PgOptions, Postgres, find_postgres};

#[tokio::test]
async fn a_server_and_a_pooler_answer() {
    for install in find_postgres() {
        let server = Postgres::start(&install, PgOptions::new()).await.unwrap();
        let pooler = PgBouncer::start(
            PgBouncerOptions::new()
                .database("shop", server.host(), server.port(), "postgres")
                .user(server.user(), server.password()),
        )
        .await
        .unwrap();
        let databases = pooler.admin("SHOW DATABASES").await.unwrap();
        assert!(databases.iter().any(|row| row.get("name") == Some("shop")));
    }
}

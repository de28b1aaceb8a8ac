//! PgBouncer between clients and two servers.

use std::fs;

use cutover_sandbox::{PgBouncer, PgBouncerOptions, Postgres, wait_for};
use tokio_postgres::{Client, NoTls};

use crate::{LIMIT, server};

struct Shop {
    blue: Postgres,
    green: Postgres,
    pooler: PgBouncer,
}

/// Two servers that know their name, and a pooler that leads to the first.
async fn shop() -> Shop {
    let (blue, green) = tokio::join!(server(), server());
    for (one, name) in [(&blue, "blue"), (&green, "green")] {
        one.create_role("app", "secret", "").await.unwrap();
        let sql =
            format!("create view whoami as select '{name}' as name; grant select on whoami to app");
        one.execute("postgres", &sql).await.unwrap();
    }
    let options = PgBouncerOptions::new()
        .database("shop", blue.host(), blue.port(), "postgres")
        .user("app", "secret");
    let pooler = PgBouncer::start(options).await.unwrap();
    Shop { blue, green, pooler }
}

async fn client(pooler: &PgBouncer, password: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) =
        tokio_postgres::connect(&pooler.url_as("app", password, "shop"), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn who(client: &Client) -> Option<String> {
    let answer = client.simple_query("select name from whoami").await.ok()?;
    answer.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

#[tokio::test]
async fn a_query_runs_through_and_the_console_answers() {
    let Shop { blue, pooler, .. } = shop().await;
    let client = client(&pooler, "secret").await.unwrap();
    assert_eq!(who(&client).await.as_deref(), Some("blue"));
    let rows = pooler.admin("SHOW DATABASES").await.unwrap();
    let shop = rows.iter().find(|row| row.get("name") == Some("shop")).unwrap();
    assert_eq!(shop.get("port"), Some(blue.port().to_string().as_str()));
    assert_eq!(shop.get("paused"), Some("0"));
    let error = pooler.admin("SHOW NONSENSE").await.unwrap_err().to_string();
    assert!(error.contains("SHOW NONSENSE"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let Shop { pooler, .. } = shop().await;
    assert!(client(&pooler, "wrong").await.is_err());
}

#[tokio::test]
async fn a_rewritten_configuration_leads_to_the_other_server() {
    let Shop { blue, green, pooler } = shop().await;
    let client = client(&pooler, "secret").await.unwrap();
    assert_eq!(who(&client).await.as_deref(), Some("blue"));
    let path = pooler.config_path();
    let old = format!("port={}", blue.port());
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(&old));
    // As an operator's tool would: a new file renamed over the old one.
    let draft = path.with_extension("draft");
    fs::write(&draft, text.replace(&old, &format!("port={}", green.port()))).unwrap();
    fs::rename(&draft, &path).unwrap();
    for order in ["PAUSE shop", "RELOAD", "RESUME shop"] {
        pooler.admin(order).await.unwrap();
    }
    assert_eq!(who(&client).await.as_deref(), Some("green"));
}

#[tokio::test]
async fn a_killed_pooler_comes_back_on_the_same_port() {
    let Shop { pooler: mut killed, blue, .. } = shop().await;
    let port = killed.port();
    let before = client(&killed, "secret").await.unwrap();
    assert_eq!(who(&before).await.as_deref(), Some("blue"));
    killed.kill9().await.unwrap();
    assert_eq!(killed.pid(), None);
    assert_eq!(who(&before).await, None);
    killed.start_again().await.unwrap();
    assert_eq!(killed.port(), port);
    let after = client(&killed, "secret").await.unwrap();
    assert_eq!(who(&after).await.as_deref(), Some("blue"));
    assert!(killed.start_again().await.is_err(), "it runs already");
    drop(blue);
}

#[tokio::test]
async fn a_frozen_pooler_answers_nobody_until_it_is_thawed() {
    let Shop { mut pooler, blue, .. } = shop().await;
    let client = client(&pooler, "secret").await.unwrap();
    pooler.pause().unwrap();
    let mut question = Box::pin(who(&client));
    let limit = std::time::Duration::from_millis(300);
    assert!(tokio::time::timeout(limit, &mut question).await.is_err(), "it answered");
    pooler.resume().unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, question).await.unwrap().as_deref(), Some("blue"));
    drop(blue);
}

#[tokio::test]
async fn clients_get_through_again_after_the_server_behind_was_killed() {
    let Shop { mut blue, pooler, .. } = shop().await;
    let first = client(&pooler, "secret").await.unwrap();
    assert_eq!(who(&first).await.as_deref(), Some("blue"));
    blue.kill9().await.unwrap();
    blue.start_again().await.unwrap();
    let name = wait_for("a client to get through", LIMIT, async || {
        who(&client(&pooler, "secret").await.ok()?).await
    })
    .await
    .unwrap();
    assert_eq!(name, "blue");
}

#[tokio::test]
async fn a_configuration_it_refuses_is_an_error_with_its_words() {
    let options = PgBouncerOptions::new().set("pool_mode", "nonsense");
    let error = PgBouncer::start(options).await.unwrap_err().to_string();
    assert!(error.contains("pool_mode"), "{error}");
}

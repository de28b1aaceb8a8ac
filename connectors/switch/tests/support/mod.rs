//! Two PostgreSQL servers with a PgBouncer in front, and clients that go through it.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "shared by several test programs")]

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use cutover_core::{model::side::Side, port::switch::TrafficSwitch};
use cutover_sandbox::{PgBouncer, PgBouncerOptions, PgOptions, Postgres, find_postgres};
use cutover_switch::{PgBouncerConfig, PgBouncerSwitch, Target, Targets};
use cutover_testkit::contract::switch::{Client, SwitchHarness};
use tokio::sync::Mutex;
use tokio_postgres::{NoTls, SimpleQueryMessage};

const PASSWORD: &str = "app0pass";

pub struct Rig {
    pub blue: Postgres,
    pub green: Postgres,
    pub bouncer: Mutex<PgBouncer>,
    pub config: PgBouncerConfig,
    pub targets: Targets,
    pub password: String,
    sessions: HashMap<Side, tokio_postgres::Client>,
    port: u16,
}

impl Rig {
    /// `change` may change the options of PgBouncer.
    pub async fn start(change: impl FnOnce(PgBouncerOptions) -> PgBouncerOptions) -> Self {
        Self::start_with(false, change).await
    }

    /// With `secret`, PgBouncer knows the SCRAM secret of its user, the same on both servers, and
    /// not the password.
    pub async fn start_with(
        secret: bool,
        change: impl FnOnce(PgBouncerOptions) -> PgBouncerOptions,
    ) -> Self {
        let install = find_postgres().pop().expect("a PostgreSQL on this machine");
        let (blue, green) = tokio::join!(
            Postgres::start(&install, PgOptions::new()),
            Postgres::start(&install, PgOptions::new())
        );
        let (blue, green) = (blue.unwrap(), green.unwrap());
        let mut sessions = HashMap::new();
        let mut known = PASSWORD.to_owned();
        for (side, server) in [(Side::Blue, &blue), (Side::Green, &green)] {
            server.create_role("app", &known, "").await.unwrap();
            if secret {
                let sql = "select rolpassword from pg_authid where rolname = 'app'";
                known = server.query_text("postgres", sql).await.unwrap().unwrap();
            }
            let sql = format!(
                "create table writes (id bigserial primary key);
                 create table me as select '{side}' as side;
                 grant all on writes, writes_id_seq, me to app"
            );
            server.execute("postgres", &sql).await.unwrap();
            sessions.insert(side, server.connect("postgres").await.unwrap());
        }
        let target = |server: &Postgres| Target {
            host: server.host().to_owned(),
            port: server.port(),
            dbname: "postgres".to_owned(),
        };
        let targets = Targets { blue: target(&blue), green: target(&green) };
        let options = PgBouncerOptions::new()
            .database("shop", blue.host(), blue.port(), "postgres")
            .user("app", &known);
        let bouncer = PgBouncer::start(change(options)).await.unwrap();
        let config = PgBouncerConfig {
            admin: format!("postgres://pgbouncer@127.0.0.1:{}/pgbouncer", bouncer.port()),
            database: vec!["shop".to_owned()],
            config: bouncer.config_path(),
            blue: None,
            green: None,
        };
        let port = bouncer.port();
        let password = bouncer.admin_password().to_owned();
        let bouncer = Mutex::new(bouncer);
        Self { blue, green, bouncer, config, targets, password, sessions, port }
    }

    pub fn new_switch(&self) -> PgBouncerSwitch {
        self.switch_with(|_| {})
    }

    /// A switch whose section is a little different.
    pub fn switch_with(&self, change: impl FnOnce(&mut PgBouncerConfig)) -> PgBouncerSwitch {
        let mut config = self.config.clone();
        change(&mut config);
        let targets = self.targets.clone();
        PgBouncerSwitch::new("pgbouncer[0]", config, Some(&self.password), targets).unwrap()
    }

    pub async fn number(&self, side: Side, sql: &str) -> u64 {
        let rows = self.sessions[&side].simple_query(sql).await.unwrap();
        first(&rows).and_then(|text| text.parse().ok()).expect("a number")
    }

    pub async fn console(&self, order: &str) {
        self.bouncer.lock().await.admin(order).await.unwrap();
    }

    pub async fn setting(&self, name: &str) -> String {
        let rows = self.bouncer.lock().await.admin("SHOW CONFIG").await.unwrap();
        let row = rows.iter().find(|row| row.get("key") == Some(name)).expect("a setting");
        row.get("value").unwrap_or_default().to_owned()
    }

    pub async fn shows(&self, database: &str) -> bool {
        let rows = self.bouncer.lock().await.admin("SHOW DATABASES").await.unwrap();
        rows.iter().any(|row| row.get("name") == Some(database))
    }

    pub async fn paused(&self, database: &str) -> bool {
        let rows = self.bouncer.lock().await.admin("SHOW DATABASES").await.unwrap();
        let row = rows.iter().find(|row| row.get("name") == Some(database)).expect("a database");
        row.get("paused") == Some("1")
    }

    pub async fn logins(&self) -> u64 {
        self.in_pools("sv_login").await
    }

    pub async fn waiting(&self) -> u64 {
        self.in_pools("cl_waiting").await
    }

    async fn in_pools(&self, column: &str) -> u64 {
        let rows = self.bouncer.lock().await.admin("SHOW POOLS").await.unwrap();
        rows.iter().map(|row| row.get(column).unwrap().parse::<u64>().unwrap()).sum()
    }

    pub async fn client_of(&self, database: &str) -> Box<dyn Client> {
        let address = format!("postgres://app:{PASSWORD}@127.0.0.1:{}/{database}", self.port);
        let (client, connection) = tokio_postgres::connect(&address, NoTls).await.unwrap();
        tokio::spawn(connection);
        Box::new(App(client))
    }

    pub async fn edit(&self, edit: impl FnOnce(String) -> String) {
        let path = &self.config.config;
        let text = std::fs::read_to_string(path).unwrap();
        std::fs::write(path, edit(text)).unwrap();
    }
}

fn first(answer: &[SimpleQueryMessage]) -> Option<&str> {
    answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    })
}

#[async_trait(?Send)]
impl SwitchHarness for Rig {
    fn switch(&self) -> Arc<dyn TrafficSwitch> {
        Arc::new(self.new_switch())
    }

    async fn client(&self) -> Box<dyn Client> {
        self.client_of("shop").await
    }

    async fn in_flight(&self) -> usize {
        let sql = "select count(*) from pg_stat_activity where usename = 'app' \
                   and (xact_start is not null or state <> 'idle')";
        let mut all = 0;
        for side in [Side::Blue, Side::Green] {
            all += self.number(side, sql).await;
        }
        usize::try_from(all).unwrap()
    }

    async fn written(&self, side: Side) -> u64 {
        self.number(side, "select count(*) from writes").await
    }

    async fn stop(&self) {
        self.bouncer.lock().await.kill9().await.unwrap();
    }

    async fn start(&self) {
        self.bouncer.lock().await.start_again().await.unwrap();
    }

    async fn freeze(&self) {
        self.bouncer.lock().await.pause().unwrap();
    }

    async fn thaw(&self) {
        self.bouncer.lock().await.resume().unwrap();
    }
}

/// A client that keeps to simple queries, as transaction pooling asks for.
struct App(tokio_postgres::Client);

impl App {
    async fn say(&self, sql: &str) -> Result<Option<String>, String> {
        match self.0.simple_query(sql).await {
            Ok(answer) => Ok(first(&answer).map(str::to_owned)),
            Err(error) => Err(format!("{sql}: {error:?}")),
        }
    }
}

#[async_trait]
impl Client for App {
    async fn write(&mut self) -> Result<Side, String> {
        self.begin().await?;
        self.finish().await
    }

    async fn begin(&mut self) -> Result<(), String> {
        self.say("begin").await?;
        self.say("insert into writes default values").await.map(drop)
    }

    async fn finish(&mut self) -> Result<Side, String> {
        let side = self.say("select side from me").await?;
        self.say("commit").await?;
        match side.as_deref() {
            Some("blue") => Ok(Side::Blue),
            Some("green") => Ok(Side::Green),
            other => Err(format!("{other:?}")),
        }
    }
}

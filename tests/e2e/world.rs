//! Two servers, a pooler, a shop, and a desk to migrate it from.

use std::{fmt::Write as _, time::Duration};

use cutover_core::model::side::Side;
use cutover_sandbox::{
    PgInstall, Postgres,
    shop::{self, CUTOVER_PASSWORD, Load, LoadView, SHOP_PASSWORD, ShopSize, Stage, StageOptions},
    wait_until,
};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, error::SqlState};

use crate::program::{Desk, Ended};

/// Name of every run here: each has servers of its own.
pub(crate) const RUN: &str = "e2e";
/// What the run's sessions say to pass the fence.
pub(crate) const PASS: &str = "SET cutover.run = 'cutover_e2e'";
/// The pause budget of every story: more than a user would allow, since tests share a machine.
pub(crate) const BUDGET: Duration = Duration::from_secs(3);
/// How many clients write, and how fast all of them together.
const CLIENTS: usize = 8;
const RATE: f64 = 100.0;
/// How long clients may take to end their last transaction, and sides to become equal.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(120);
/// How long it may take until every client has been served twice, where nobody holds them.
pub(crate) const SERVED_WITHIN: Duration = Duration::from_secs(60);

/// What a world is like.
pub(crate) struct Options {
    /// The older server; the oldest complete one here when not given.
    pub(crate) versions: Option<(PgInstall, PgInstall)>,
    /// How much is in the shop.
    pub(crate) size: ShopSize,
    /// What stands behind `CREATE DATABASE` on blue and on green.
    pub(crate) databases: [String; 2],
    /// Behind the addresses of both sides: `?name=value`.
    pub(crate) parameters: &'static str,
    /// The `copy` section.
    pub(crate) copy: String,
    /// Switches beside the pooler, as items of the `switch` section.
    pub(crate) more_switches: String,
    /// Anything else for the end of the file.
    pub(crate) more: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            versions: None,
            size: ShopSize::small(),
            databases: Default::default(),
            parameters: "",
            copy: "{ workers: 2 }".into(),
            more_switches: String::new(),
            more: String::new(),
        }
    }
}

/// Everything a story stands on. Dropping it stops and removes it.
pub(crate) struct World {
    pub(crate) desk: Desk,
    pub(crate) shop: Stage,
    /// Name of the database on both servers.
    pub(crate) database: String,
}

/// How the program reaches what a world stands on.
pub(crate) struct Reach {
    pub(crate) blue: u16,
    pub(crate) green: u16,
    pub(crate) console: u16,
    pub(crate) database: String,
}

impl World {
    /// A small shop on the oldest and the newest complete server.
    pub(crate) async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let (blue, green) = options
            .versions
            .clone()
            .or_else(shop::old_and_new)
            .expect("two versions of PostgreSQL: run scripts/setup test");
        let stage = StageOptions {
            blue,
            green,
            size: options.size,
            durable: false,
            databases: options.databases.clone(),
        };
        let shop = Stage::set(&stage).await.expect("the servers start");
        let reach = Reach {
            blue: shop.blue.port(),
            green: shop.green.port(),
            console: shop.pooler.port(),
            database: "shop".to_owned(),
        };
        let desk = Desk::new(&yaml(&shop, &reach, &options), secrets(&shop));
        Self { desk, shop, database: reach.database }
    }

    pub(crate) fn server(&self, side: Side) -> &Postgres {
        match side {
            Side::Blue => &self.shop.blue,
            Side::Green => &self.shop.green,
        }
    }

    /// Clients that write through the pooler until they are told to stop.
    pub(crate) fn load(&self) -> Load {
        self.shop.load(CLIENTS, RATE)
    }

    /// A session of the superuser.
    pub(crate) async fn superuser(&self, side: Side) -> Client {
        self.server(side).connect(&self.database).await.expect("a session")
    }

    /// A session of the application that goes around the pooler.
    pub(crate) async fn direct(&self, side: Side) -> Client {
        connect(&self.server(side).url_as("shop", SHOP_PASSWORD, &self.database)).await
    }

    /// Changes a setting of a server: `SET name = value` or `RESET name`.
    pub(crate) async fn alter_system(&self, side: Side, word: &str) {
        let root = self.superuser(side).await;
        root.batch_execute(&format!("ALTER SYSTEM {word}")).await.expect("a setting");
        root.batch_execute("SELECT pg_reload_conf()").await.expect("a superuser may");
    }

    /// Whether clients that go around the pooler may write there.
    pub(crate) async fn takes_writes(&self, side: Side) -> bool {
        let client = self.direct(side).await;
        match client.batch_execute("UPDATE accounts SET balance = balance WHERE false").await {
            Ok(()) => true,
            Err(e) if e.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => false,
            Err(e) => panic!("asking {side} whether it takes writes: {e:?}"),
        }
    }

    /// Exactly `owner` takes writes.
    pub(crate) async fn only_takes_writes(&self, owner: Side) {
        assert!(self.takes_writes(owner).await, "{owner} refuses writes");
        assert!(!self.takes_writes(owner.other()).await, "{} takes writes too", owner.other());
    }

    /// Every client has a transaction acknowledged that was asked for after this call.
    pub(crate) async fn traffic_flows(&self, load: &Load, within: Duration) {
        // What was on its way may be answered; the one after that was asked for later.
        let before = load.view().acknowledged;
        wait_until("every client to be served", within, async || {
            load.view().acknowledged.iter().zip(&before).all(|(now, then)| *now >= then + 2)
        })
        .await
        .unwrap_or_else(|e| panic!("{e}; {:?}", load.view()));
    }

    /// Ends the load: no transaction failed, nothing that was acknowledged is lost, and both sides
    /// hold the same rows.
    pub(crate) async fn close_the_books(&self, load: Load, owner: Side) -> LoadView {
        let view = load.stop(LAST_WORDS).await;
        assert_eq!(view.failed, 0, "failed transactions: {:?}", view.first_error);
        self.books_are_right(&view, owner).await;
        view
    }

    /// Nothing that was acknowledged is lost, and both sides hold the same rows.
    pub(crate) async fn books_are_right(&self, view: &LoadView, owner: Side) {
        check_books(view, &self.superuser(owner).await).await;
        self.sides_are_equal().await;
    }

    /// Both sides come to hold the same rows in every table.
    pub(crate) async fn sides_are_equal(&self) {
        become_equal(async |side| self.superuser(side).await).await;
    }

    /// Asks for a switch whose fence waits until this client of blue ends its transaction.
    pub(crate) async fn held_in_the_fence(&self) -> (JoinHandle<Ended>, Client) {
        let writer = self.direct(Side::Blue).await;
        let write = "BEGIN; INSERT INTO audit_log (what) VALUES ('held')";
        let pooler = self.shop.pooler_url();
        let asked = held_in_the_fence(&self.desk, &pooler, (&writer, write), "switch").await;
        (asked, writer)
    }

    /// Nothing that a run creates, and none of its sessions, is on either server.
    pub(crate) async fn nothing_is_left(&self) {
        for side in [Side::Blue, Side::Green] {
            self.nothing_is_left_on(side).await;
        }
        self.desk.files_keep_secrets();
    }

    pub(crate) async fn nothing_is_left_on(&self, side: Side) {
        let client = self.superuser(side).await;
        let mut left = Vec::new();
        wait_until("nothing to be left", LAST_WORDS, async || {
            let rows = client.query(LEFTOVERS, &[]).await.expect("leftovers");
            left = rows.iter().map(|row| row.get::<_, String>(0)).collect();
            left.is_empty()
        })
        .await
        .unwrap_or_else(|e| panic!("{e} on {side}: {left:?}"));
    }
}

/// Asks for a move, and has its fence wait for a client around the pooler that is in the middle of a
/// write. It comes when the pause has begun, which a transaction through the pooler keeps from being
/// had until then: no check before has met it, however long those take on a busy machine.
pub(crate) async fn held_in_the_fence(
    desk: &Desk,
    pooler: &str,
    (writer, write): (&Client, &str),
    command: &'static str,
) -> JoinHandle<Ended> {
    let slow = connect(pooler).await;
    slow.batch_execute("BEGIN; SELECT 1").await.expect("a transaction through the pooler");
    let since = desk.length("moves.journal");
    let asked = desk.begin_move(command);
    let mut begun = desk.reaches(since, "pause", &asked).await;
    writer.batch_execute(write).await.expect("a write");
    slow.batch_execute("COMMIT").await.expect("its end");
    begun = begun && desk.reaches(since, "fence", &asked).await;
    if !begun {
        panic!("the fence was not reached: {}", asked.await.expect("the command ends").said);
    }
    asked
}

/// Waits until both sides hold the same rows in every table.
pub(crate) async fn become_equal(superuser: impl AsyncFn(Side) -> Client) {
    let (mut blue, mut green) = (String::new(), String::new());
    let equal = wait_until("both sides to hold the same rows", LAST_WORDS, async || {
        blue = digest(&superuser(Side::Blue).await).await;
        green = digest(&superuser(Side::Green).await).await;
        blue == green
    })
    .await;
    equal.unwrap_or_else(|e| panic!("{e}\nblue:\n{blue}\ngreen:\n{green}"));
}

/// Nothing that was acknowledged is lost where the owner's superuser looks.
pub(crate) async fn check_books(view: &LoadView, owner: &Client) {
    assert!(view.done > 0, "nobody wrote anything: {view:?}");
    let books = shop::check(owner, &view.acknowledged, &view.unknown).await.expect("books");
    assert!(books.are_right(), "{books:?} after {view:?}");
}

/// A line for each table: its name, rows, and a sum over all of them.
pub(crate) async fn digest(client: &Client) -> String {
    client.batch_execute(RENDERING).await.expect("settings");
    let tables = client
        .query(
            "SELECT c.oid::regclass::text FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'r' AND n.nspname !~ '^(pg_|cutover_|information_schema)' \
             ORDER BY (c.oid::regclass::text) COLLATE \"C\"",
            &[],
        )
        .await
        .expect("tables");
    let mut text = String::new();
    for row in tables {
        let table: String = row.get(0);
        let sums = client
            .query_one(
                &format!(
                    "SELECT count(*) || ' ' || \
                     coalesce(sum(hash_record_extended( \
                       ROW(convert_to((t.*)::text, 'UTF8')), 0)::numeric), 0) FROM {table} t"
                ),
                &[],
            )
            .await
            .expect("a digest");
        // Writing to a String does not fail.
        writeln!(text, "{table} {}", sums.get::<_, String>(0)).ok();
    }
    text
}

/// A session that ends when it is dropped.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a session");
    tokio::spawn(async move {
        // The client's next statement says what happened.
        connection.await.ok();
    });
    client
}

/// The same text on both sides, whatever the databases say.
const RENDERING: &str = "SET DateStyle = 'ISO,YMD'; SET TimeZone = 'UTC'; SET lc_monetary = 'C';
    SET IntervalStyle = postgres; SET extra_float_digits = 3; SET bytea_output = hex;
    SET search_path = public; SET quote_all_identifiers = off";

const LEFTOVERS: &str = "
    SELECT 'slot ' || slot_name FROM pg_replication_slots
    UNION ALL SELECT 'publication ' || pubname FROM pg_publication
    UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin
    UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname ~ 'cutover'
    UNION ALL SELECT 'relation ' || oid::regclass FROM pg_class WHERE relname ~ 'cutover'
    UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE proname ~ 'cutover'
    UNION ALL SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass FROM pg_trigger
        WHERE NOT tgisinternal
    UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger
    UNION ALL SELECT 'setting ' || unnest(setconfig) FROM pg_db_role_setting s
        JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = current_database()
    UNION ALL SELECT 'advisory lock ' || objid FROM pg_locks WHERE locktype = 'advisory'
    UNION ALL SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts
    UNION ALL SELECT 'session ' || application_name FROM pg_stat_activity
        WHERE usename = 'cutover'";

/// What a desk keeps secret.
pub(crate) fn secrets(shop: &Stage) -> Vec<(String, String)> {
    [
        ("CUTOVER_E2E", CUTOVER_PASSWORD.to_owned()),
        ("CUTOVER_E2E_POOLER", shop.pooler.admin_password().to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// The configuration of a run that reaches the servers as `reach` says; the pooler's own way to
/// them is the direct one.
pub(crate) fn yaml(shop: &Stage, reach: &Reach, options: &Options) -> String {
    let target = |side: &str, server: &Postgres, port: u16| {
        if port == server.port() {
            return String::new();
        }
        format!(
            "      {side}: {{ host: 127.0.0.1, port: {}, dbname: {} }}\n",
            server.port(),
            reach.database
        )
    };
    let switch = format!(
        "  - pgbouncer:\n      admin: \"postgres://pgbouncer@127.0.0.1:{}/pgbouncer\"\n      \
         password: {{env: CUTOVER_E2E_POOLER}}\n      database: shop\n      config: \"{}\"\n\
         {}{}{}",
        reach.console,
        shop.pooler.config_path().display(),
        target("blue", &shop.blue, reach.blue),
        target("green", &shop.green, reach.green),
        options.more_switches
    );
    let url = |port: u16| {
        format!(
            "{{ url: \"postgres://cutover@127.0.0.1:{port}/{}{}\", password: {{env: \
             CUTOVER_E2E}} }}",
            reach.database, options.parameters
        )
    };
    format!(
        "run: {RUN}\nstate_dir: ./state\nblue: {}\ngreen: {}\ncopy: {}\nswitch:\n{switch}\
         move: {{ pause_budget: {}s }}\nhttp: {{ listen: \"127.0.0.1:0\" }}\n{}",
        url(reach.blue),
        url(reach.green),
        options.copy,
        BUDGET.as_secs(),
        options.more,
    )
}

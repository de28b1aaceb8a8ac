//! Two databases of one name on servers that stories may share, a pooler, and a desk to migrate
//! from. Unlike a world it owns no server, so that servers can be exchanged below it.

use cutover_core::model::side::Side;
use cutover_sandbox::{
    PgBouncer, PgOptions, Postgres, find_postgres,
    shop::{self, CUTOVER_PASSWORD, Load, LoadOptions, LoadView, SHOP_PASSWORD, ShopSize},
    wait_until,
};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::{
    program::{COMMAND_WITHIN, Desk, Ended, Run},
    world::{BUDGET, LAST_WORDS, become_equal, check_books, connect, held_in_the_fence},
};

const SIZE: ShopSize = ShopSize { accounts: 100, products: 50, documents: 5 };
const CLIENTS: usize = 4;
const RATE: f64 = 40.0;

/// One run between two shops; its name is that of the databases, and of the run.
pub(crate) struct Pair {
    pub(crate) desk: Desk,
    pub(crate) name: String,
    pooler: PgBouncer,
    /// Addresses of the superusers, blue first.
    root: [String; 2],
    /// The same of the application.
    shop: [String; 2],
}

impl Pair {
    /// Opens a shop on servers that have its roles; `more` ends the configuration.
    pub(crate) async fn open(name: &str, blue: &Postgres, green: &Postgres, more: &str) -> Self {
        let pooler = shop::open(blue, green, name, ["", ""], SIZE).await.expect("a shop");
        let side = |server: &Postgres| {
            format!(
                "{{ url: \"postgres://cutover@127.0.0.1:{}/{name}\", \
                 password: {{env: CUTOVER_E2E}} }}",
                server.port()
            )
        };
        let yaml = format!(
            "run: {name}\nstate_dir: ./state\nblue: {}\ngreen: {}\nswitch:\n  - pgbouncer:\n      \
             admin: \"postgres://pgbouncer@127.0.0.1:{}/pgbouncer\"\n      \
             password: {{env: CUTOVER_E2E_POOLER}}\n      database: {name}\n      config: \"{}\"\n\
             move: {{ pause_budget: {}s }}\nhttp: {{ listen: \"127.0.0.1:0\" }}\n{more}",
            side(blue),
            side(green),
            pooler.port(),
            pooler.config_path().display(),
            BUDGET.as_secs(),
        );
        let secrets = vec![
            ("CUTOVER_E2E".to_owned(), CUTOVER_PASSWORD.to_owned()),
            ("CUTOVER_E2E_POOLER".to_owned(), pooler.admin_password().to_owned()),
        ];
        Self {
            desk: Desk::new(&yaml, secrets),
            name: name.to_owned(),
            pooler,
            root: [blue, green].map(|s| s.url(name)),
            shop: [blue, green].map(|s| s.url_as("shop", SHOP_PASSWORD, name)),
        }
    }

    /// Clients that write through the pooler until they are told to stop.
    pub(crate) fn load(&self) -> Load {
        Load::start(LoadOptions {
            url: self.pooler.url_as("shop", SHOP_PASSWORD, &self.name),
            clients: CLIENTS,
            rate: RATE,
            accounts: SIZE.accounts,
            products: SIZE.products,
            documents: SIZE.documents,
            reconnect: true,
            remember: false,
            large_every: 0,
        })
    }

    /// A session of the superuser.
    pub(crate) async fn superuser(&self, side: Side) -> Client {
        connect(&self.root[usize::from(side == Side::Green)]).await
    }

    /// A session of the application that goes around the pooler.
    pub(crate) async fn direct(&self, side: Side) -> Client {
        connect(&self.shop[usize::from(side == Side::Green)]).await
    }

    /// A client around the pooler does something.
    pub(crate) async fn does(&self, side: Side, sql: &str) {
        let client = self.direct(side).await;
        client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{side}: {e:?}: {sql}"));
    }

    /// Waits until a query says `true` on a side.
    pub(crate) async fn holds(&self, side: Side, sql: &str) {
        wait_until(&format!("{sql} on {side}"), COMMAND_WITHIN, async || {
            let client = self.superuser(side).await;
            client.query_one(sql, &[]).await.is_ok_and(|row| row.get(0))
        })
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    }

    /// Asks for a move away from `owner`, whose fence waits for a client there that is in the middle of
    /// `write`.
    pub(crate) async fn held_in_the_fence(
        &self,
        command: &'static str,
        owner: Side,
        write: &str,
    ) -> (JoinHandle<Ended>, Client) {
        let writer = self.direct(owner).await;
        let pooler = self.pooler.url_as("shop", SHOP_PASSWORD, &self.name);
        let asked = held_in_the_fence(&self.desk, &pooler, (&writer, write), command).await;
        (asked, writer)
    }

    /// Ends the load: nothing that was acknowledged is lost, and both sides hold the same rows.
    pub(crate) async fn close_the_books(&self, load: Load, owner: Side) -> LoadView {
        let view = load.stop(LAST_WORDS).await;
        check_books(&view, &self.superuser(owner).await).await;
        self.sides_are_equal().await;
        view
    }

    /// Both sides come to hold the same rows in every table.
    pub(crate) async fn sides_are_equal(&self) {
        become_equal(async |side| self.superuser(side).await).await;
    }

    /// Columns, indexes and types of users, as the catalog of a side has them.
    pub(crate) async fn defined(&self, side: Side) -> String {
        let client = self.superuser(side).await;
        client.query_one(DEFINED, &[]).await.expect("definitions").get(0)
    }

    /// The run moves to green with nothing lost, ends, and leaves nothing behind.
    pub(crate) async fn completes(&self, mut run: Run) {
        self.desk.moves("switch").await.exits(0);
        self.sides_are_equal().await;
        self.desk.ask(&["finish", "--yes"]).await.exits(0);
        assert!(run.ended(COMMAND_WITHIN).await.success());
        self.nothing_is_left().await;
    }

    /// Nothing of this run is on either server, whatever others are there.
    pub(crate) async fn nothing_is_left(&self) {
        let ours = format!("cutover_{}%", self.name.replace('-', "_"));
        for side in [Side::Blue, Side::Green] {
            let client = self.superuser(side).await;
            let mut left = Vec::new();
            wait_until("nothing to be left", LAST_WORDS, async || {
                let rows = client.query(LEFTOVERS, &[&ours]).await.expect("leftovers");
                left = rows.iter().map(|row| row.get::<_, String>(0)).collect();
                left.is_empty()
            })
            .await
            .unwrap_or_else(|e| panic!("{e} on {side}: {left:?}"));
        }
        self.desk.files_keep_secrets();
    }
}

const DEFINED: &str = r"
    WITH ours AS (SELECT oid FROM pg_namespace WHERE nspname !~ '^(pg_|cutover_|information_schema)')
    SELECT string_agg(d, E'\n' ORDER BY d) FROM (
        SELECT format('%s.%I %s %s %s', attrelid::regclass, attname,
                      format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid))
          FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
          LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
         WHERE relkind IN ('r', 'p', 'c') AND relnamespace IN (SELECT oid FROM ours)
           AND attnum > 0 AND NOT attisdropped
        UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index
            JOIN pg_class c ON c.oid = indexrelid WHERE relnamespace IN (SELECT oid FROM ours)
        UNION ALL SELECT format('%s %s %s', t.oid::regtype, typtype,
                (SELECT string_agg(quote_literal(enumlabel), ',' ORDER BY enumsortorder)
                   FROM pg_enum WHERE enumtypid = t.oid))
            FROM pg_type t WHERE typtype IN ('e', 'd', 'r') AND typnamespace IN (SELECT oid FROM ours)
        UNION ALL SELECT format('%s of %s', conname, contypid::regtype) FROM pg_constraint
            WHERE contypid <> 0 AND contype = 'c' AND connamespace IN (SELECT oid FROM ours)
    ) AS a(d)";

const LEFTOVERS: &str = "
    SELECT 'slot ' || slot_name FROM pg_replication_slots
        WHERE slot_name LIKE $1 OR (database = current_database() AND NOT temporary)
    UNION ALL SELECT 'publication ' || pubname FROM pg_publication
    UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin WHERE roname LIKE $1
    UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname ~ 'cutover'
    UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE proname ~ 'cutover'
    UNION ALL SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass FROM pg_trigger
        WHERE NOT tgisinternal
    UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger
    UNION ALL SELECT 'setting ' || unnest(setconfig) FROM pg_db_role_setting s
        JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = current_database()
    UNION ALL SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts
        WHERE database = current_database()
    UNION ALL SELECT 'session ' || application_name FROM pg_stat_activity
        WHERE usename = 'cutover' AND datname = current_database()";

/// The oldest and the newest version here, with the roles of the shop.
pub(crate) async fn oldest_and_newest() -> (Postgres, Postgres) {
    let all = find_postgres();
    let start = async |install| Postgres::start(install, PgOptions::new()).await.expect("a server");
    let (blue, green) = tokio::join!(
        start(all.first().expect("PostgreSQL")),
        start(all.last().expect("PostgreSQL"))
    );
    shop::roles(&[&blue, &green]).await.expect("roles");
    (blue, green)
}

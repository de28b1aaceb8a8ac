//! What migrations happen on: servers that stay from one to the next, with new databases for each,
//! and a proxy before every address that the program knows.

use std::{fs, net::SocketAddr, time::Duration};

use cutover_core::model::side::Side;
use cutover_sandbox::{
    PgInstall,
    shop::{Load, LoadOptions, ShopSize, Stage, StageOptions},
    wait_until,
};
use cutover_testkit::FaultProxy;

use crate::{
    program::Desk,
    world::{Options, Reach, World, secrets, yaml},
};

/// Clients beside the one of a large transaction that is aimed at.
pub(crate) const CLIENTS: usize = 6;
/// Transactions per second over all clients around a fault, and on the way to it and from it.
pub(crate) const BUSY: f64 = 40.0;
pub(crate) const CALM: f64 = 6.0;
/// One in so many transactions of the first client is large by chance: when busy, about one in four
/// seconds, beside those that are asked for.
const LARGE_EVERY: u64 = 26;
/// A copy of it is made for each migration.
const TEMPLATE: &str = "shop";
pub(crate) const SIZE: ShopSize = ShopSize { accounts: 100, products: 5000, documents: 5 };
/// Makes the products five MiB, in the order of their key: copied in ranges, which stay when the copy
/// is cut off.
const LARGE: [&str; 3] = [
    "ALTER TABLE products ALTER COLUMN name SET STORAGE PLAIN",
    "UPDATE products SET name = repeat('p', 900)",
    "VACUUM FULL products",
];
const PATIENCE: Duration = Duration::from_secs(30);

/// Two servers, a pooler, and the proxies before them.
pub(crate) struct Arena {
    /// The present migration's; its databases are new.
    pub(crate) world: World,
    pub(crate) blue: FaultProxy,
    pub(crate) green: FaultProxy,
    pub(crate) console: FaultProxy,
    /// The pooler's file as it was at first.
    ini: String,
}

impl Arena {
    pub(crate) async fn open(blue: PgInstall, green: PgInstall) -> Self {
        let stage =
            StageOptions { blue, green, size: SIZE, durable: false, databases: Default::default() };
        let shop = Stage::set(&stage).await.expect("the servers start");
        // A crash forgets as much as it can of what nobody waited for; what is large is sent while
        // it runs.
        for server in [&shop.blue, &shop.green] {
            let settings = [("wal_writer_delay", "10s"), ("logical_decoding_work_mem", "1MB")];
            server.configure(&settings).expect("settings");
            server.execute("postgres", "SELECT pg_reload_conf()").await.expect("a reload");
        }
        for sql in LARGE {
            shop.blue.execute(TEMPLATE, sql).await.expect("large products");
        }
        let proxy = async |port: u16| {
            FaultProxy::start(SocketAddr::from(([127, 0, 0, 1], port))).await.expect("a proxy")
        };
        let (blue, green) = (proxy(shop.blue.port()).await, proxy(shop.green.port()).await);
        let console = proxy(shop.pooler.port()).await;
        let ini = fs::read_to_string(shop.pooler.config_path()).expect("the pooler's file");
        let world = World { desk: Desk::new("", Vec::new()), shop, database: TEMPLATE.into() };
        Self { world, blue, green, console, ini }
    }

    /// New databases, a new folder, and a pooler that points at blue. With `slowly`, rows take a
    /// second or two to be copied, so that a fault finds some of the tables copied, and of the largest
    /// one some ranges.
    pub(crate) async fn begin(&mut self, number: u64, slowly: bool) {
        let (old, new) = (self.world.database.clone(), format!("shop_{number}"));
        for proxy in [&self.blue, &self.green, &self.console] {
            proxy.heal();
            proxy.reset();
        }
        for side in [Side::Blue, Side::Green] {
            let server = self.world.server(side);
            if old != TEMPLATE {
                let drop = format!("DROP DATABASE {old} WITH (FORCE)");
                server.execute("postgres", &drop).await.expect("the old database goes");
            }
            // A copy of files, and not of pages through the log: cheaper, and a checkpoint comes
            // with it. Without one a crash takes the sequences of a copied database back to where
            // they were in the template: the copy of a page logs no value ahead, and `nextval`
            // relies on one. Before 15 there is no other way.
            let how = if server.major() >= 15 { "STRATEGY file_copy" } else { "" };
            let create = format!("CREATE DATABASE {new} OWNER shop TEMPLATE {TEMPLATE} {how}");
            // An autovacuum of the template may be in the way for a moment.
            wait_until("a copy of the template", PATIENCE, async || {
                server.execute("postgres", &create).await.is_ok()
            })
            .await
            .expect("the new database");
            let grant = format!("GRANT CREATE ON DATABASE {new} TO cutover");
            server.execute("postgres", &grant).await.expect("a grant");
        }
        let pooler = &mut self.world.shop.pooler;
        pooler.kill9().await.expect("the pooler ends");
        let ini = self.ini.replace("dbname=shop", &format!("dbname={new}"));
        fs::write(pooler.config_path(), ini).expect("the pooler's file");
        pooler.start_again().await.expect("the pooler starts");
        let reach = Reach {
            blue: self.blue.port(),
            green: self.green.port(),
            console: self.console.port(),
            database: new.clone(),
        };
        let rate = if slowly { ", rate: 2MiB" } else { "" };
        let copy = format!("{{ workers: 2, chunk: 64KiB{rate} }}");
        // What was forgotten is missed after three times that long.
        let parameters = "?connect_timeout=4";
        let options = Options { copy, parameters, ..Options::default() };
        let shop = &self.world.shop;
        self.world.desk = Desk::new(&yaml(shop, &reach, &options), secrets(shop));
        self.world.database = new;
    }

    /// Clients at work.
    pub(crate) fn load(&self) -> Load {
        Load::start(LoadOptions {
            url: self.world.shop.pooler_url(),
            clients: CLIENTS,
            rate: CALM,
            accounts: SIZE.accounts,
            products: SIZE.products,
            documents: SIZE.documents,
            reconnect: true,
            remember: true,
            large_every: LARGE_EVERY,
        })
    }

    pub(crate) fn proxy(&self, side: Side) -> &FaultProxy {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }
}

//! Two servers, a pooler in front of the older one, roles, and the shop.

use super::{Load, LoadOptions, ShopSize, fill};
use crate::{
    PgBouncer, PgBouncerOptions, PgInstall, PgOptions, Postgres, SandboxError, find_postgres,
    find_program,
};

/// Passwords of throwaway servers on loopback that live for minutes.
pub const SHOP_PASSWORD: &str = "shop-password";
/// Password of the role that migrates.
pub const CUTOVER_PASSWORD: &str = "cutover-password";

/// What to set up.
#[derive(Debug, Clone)]
pub struct StageOptions {
    /// The older server.
    pub blue: PgInstall,
    /// The newer one.
    pub green: PgInstall,
    /// How much is in the shop.
    pub size: ShopSize,
    /// Whether commits reach the disk.
    pub durable: bool,
    /// What stands behind `CREATE DATABASE` on blue and on green: encoding, locale. May be empty.
    pub databases: [String; 2],
}

/// Two servers, a pooler and a shop. The role `shop` owns it; the role `cutover` has what a
/// migration needs and no more. Dropping it stops and removes everything.
pub struct Stage {
    /// The server in use.
    pub blue: Postgres,
    /// Its successor.
    pub green: Postgres,
    /// In front of blue.
    pub pooler: PgBouncer,
    /// How much is in the shop.
    pub size: ShopSize,
}

impl Stage {
    /// Starts and fills everything.
    ///
    /// # Errors
    ///
    /// A server does not start, or says no.
    pub async fn set(options: &StageOptions) -> Result<Self, SandboxError> {
        let start = async |install: &PgInstall| {
            let base = PgOptions::new().set("max_connections", "200");
            let options = if options.durable { base.durable() } else { base };
            Postgres::start(install, options).await
        };
        let (blue, green) = tokio::try_join!(start(&options.blue), start(&options.green))?;
        let [one, other] = &options.databases;
        tokio::try_join!(roles(&blue, one), roles(&green, other))?;
        // The same SCRAM secret everywhere: with it PgBouncer need not compute one from the
        // password at every login, which is most of what a login costs.
        let secret = blue
            .query_text(
                "postgres",
                "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = 'shop'",
            )
            .await?
            .unwrap_or_default();
        green.execute("postgres", &format!("ALTER ROLE shop PASSWORD '{secret}'")).await?;
        let shop = blue.connect("shop").await?;
        shop.batch_execute("SET ROLE shop").await.map_err(SandboxError::sql("becoming shop"))?;
        fill(&shop, options.size).await?;
        let pooler = PgBouncer::start(
            PgBouncerOptions::new()
                .database("shop", blue.host(), blue.port(), "shop")
                .user("shop", &secret),
        )
        .await?;
        Ok(Self { blue, green, pooler, size: options.size })
    }

    /// Address of the shop through the pooler.
    #[must_use]
    pub fn pooler_url(&self) -> String {
        self.pooler.url_as("shop", SHOP_PASSWORD, "shop")
    }

    /// Starts clients that write through the pooler.
    #[must_use]
    pub fn load(&self, clients: usize, rate: f64) -> Load {
        Load::start(LoadOptions {
            url: self.pooler_url(),
            clients,
            rate,
            accounts: self.size.accounts,
            products: self.size.products,
            documents: self.size.documents,
            reconnect: true,
            remember: false,
        })
    }
}

/// The oldest and the newest complete PostgreSQL here; `None` when there are not two, or no
/// `pg_dump` can read the older one.
#[must_use]
pub fn old_and_new() -> Option<(PgInstall, PgInstall)> {
    let all = find_postgres();
    // Complete installations first: they are the ones people run.
    let mut complete: Vec<_> =
        all.iter().filter(|i| i.program("pg_dump").is_some()).cloned().collect();
    if complete.len() < 2 {
        complete = all;
    }
    complete.sort_by_key(|i| i.major);
    let (old, new) = (complete.first()?.clone(), complete.last()?.clone());
    find_program("pg_dump", Some(old.major))?;
    (old.major < new.major).then_some((old, new))
}

async fn roles(server: &Postgres, database: &str) -> Result<(), SandboxError> {
    server.create_role("shop", SHOP_PASSWORD, "").await?;
    server.create_role("cutover", CUTOVER_PASSWORD, "REPLICATION").await?;
    server.execute("postgres", &format!("CREATE DATABASE shop OWNER shop {database}")).await?;
    let replica_role = if server.major() >= 15 {
        "GRANT SET ON PARAMETER session_replication_role TO cutover;"
    } else {
        "ALTER ROLE cutover SET session_replication_role = 'replica';"
    };
    server
        .execute(
            "shop",
            &format!(
                "GRANT shop, pg_read_all_stats TO cutover;
                 GRANT CREATE ON DATABASE shop TO cutover;
                 GRANT CREATE ON SCHEMA public TO cutover, shop;
                 GRANT EXECUTE ON FUNCTION pg_replication_origin_create(text) TO cutover;
                 GRANT EXECUTE ON FUNCTION pg_replication_origin_drop(text) TO cutover;
                 GRANT EXECUTE ON FUNCTION pg_replication_origin_oid(text) TO cutover;
                 GRANT EXECUTE ON FUNCTION pg_replication_origin_session_setup(text) TO cutover;
                 {replica_role}"
            ),
        )
        .await
}

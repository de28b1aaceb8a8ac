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
        roles(&[&blue, &green]).await?;
        let [one, other] = &options.databases;
        let pooler = open(&blue, &green, "shop", [one, other], options.size).await?;
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
            large_every: 0,
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

/// Makes the roles of a shop on servers, once for all shops there.
///
/// # Errors
///
/// A server says no.
pub async fn roles(servers: &[&Postgres]) -> Result<(), SandboxError> {
    let mut newest_first = servers.to_vec();
    newest_first.sort_by_key(|server| std::cmp::Reverse(server.major()));
    let mut shared: Option<[String; 2]> = None;
    for server in newest_first {
        // The same SCRAM secrets everywhere: with one PgBouncer need not compute it from the
        // password at every login, which is most of what a login costs, and those of newer servers
        // are cheap for everybody.
        let [shop, cutover] =
            shared.as_ref().map_or([SHOP_PASSWORD, CUTOVER_PASSWORD], |s| [&s[0], &s[1]]);
        server.create_role("shop", shop, "").await?;
        server.create_role("cutover", cutover, "REPLICATION").await?;
        shared = Some([secret(server, "shop").await?, secret(server, "cutover").await?]);
        let replica_role = if server.major() >= 15 {
            "GRANT SET ON PARAMETER session_replication_role TO cutover"
        } else {
            "ALTER ROLE cutover SET session_replication_role = 'replica'"
        };
        let rights = format!("GRANT shop, pg_read_all_stats TO cutover; {replica_role}");
        server.execute("postgres", &rights).await?;
    }
    Ok(())
}

/// The password of a role as the server keeps it.
async fn secret(server: &Postgres, role: &str) -> Result<String, SandboxError> {
    let sql = format!("SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = '{role}'");
    Ok(server.query_text("postgres", &sql).await?.unwrap_or_default())
}

/// Opens a shop on servers that know its roles: a database of that name on both (`made` is what
/// follows `CREATE DATABASE` on blue and on green), rows on blue, and a pooler in front of it.
///
/// # Errors
///
/// A server says no.
pub async fn open(
    blue: &Postgres,
    green: &Postgres,
    database: &str,
    made: [&str; 2],
    size: ShopSize,
) -> Result<PgBouncer, SandboxError> {
    tokio::try_join!(empty(blue, database, made[0]), empty(green, database, made[1]))?;
    let shop = blue.connect(database).await?;
    shop.batch_execute("SET ROLE shop").await.map_err(SandboxError::sql("becoming shop"))?;
    fill(&shop, size).await?;
    let options = PgBouncerOptions::new()
        .database(database, blue.host(), blue.port(), database)
        .user("shop", &secret(blue, "shop").await?);
    PgBouncer::start(options).await
}

/// Makes a database that belongs to the shop, and in which a migration has its rights. `made` is
/// what follows `CREATE DATABASE`.
///
/// # Errors
///
/// The server says no.
pub async fn empty(server: &Postgres, database: &str, made: &str) -> Result<(), SandboxError> {
    let create = format!("CREATE DATABASE \"{database}\" OWNER shop {made}");
    server.execute("postgres", &create).await?;
    server
        .execute(
            database,
            &format!(
                "GRANT CREATE ON DATABASE \"{database}\" TO cutover;
                 GRANT CREATE ON SCHEMA public TO cutover, shop;
                 GRANT EXECUTE ON FUNCTION pg_replication_origin_create(text) TO cutover;
                 GRANT EXECUTE ON FUNCTION pg_replication_origin_drop(text) TO cutover;
                 GRANT EXECUTE ON FUNCTION pg_replication_origin_oid(text) TO cutover;
                 GRANT EXECUTE ON FUNCTION pg_replication_origin_session_setup(text) TO cutover;"
            ),
        )
        .await
}

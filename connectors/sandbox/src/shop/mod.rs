//! A shop under load: a schema that uses what real databases use, rows for it, clients that keep
//! writing, and a check that nothing they were told is lost.
//!
//! Money only moves between accounts, so its sum never changes; every transaction leaves a
//! receipt, so every acknowledged one can be found.

mod large;
mod load;
mod stage;

use tokio_postgres::Client;

use crate::SandboxError;

pub use large::LargeTransaction;
pub use load::{Heard, Load, LoadOptions, LoadView, Told};
pub use stage::{
    CUTOVER_PASSWORD, SHOP_PASSWORD, Stage, StageOptions, empty, old_and_new, open, roles,
};

/// The tables.
pub const SCHEMA: &str = include_str!("schema.sql");
/// What every account starts with.
const BALANCE: i64 = 1000;

/// How much is in the shop at the beginning.
#[derive(Debug, Clone, Copy)]
pub struct ShopSize {
    /// Accounts; transfers are ten times as many.
    pub accounts: u32,
    /// Products.
    pub products: u32,
    /// Documents of about 40 KiB each.
    pub documents: u32,
}

impl ShopSize {
    /// A few MiB: loaded in about a second.
    #[must_use]
    pub fn small() -> Self {
        Self { accounts: 1000, products: 200, documents: 50 }
    }

    /// About 150 MiB.
    #[must_use]
    pub fn demo() -> Self {
        Self { accounts: 20_000, products: 2000, documents: 1000 }
    }
}

/// Makes tables and rows. The session must be allowed to create tables.
///
/// # Errors
///
/// What the server says.
pub async fn fill(client: &Client, size: ShopSize) -> Result<(), SandboxError> {
    client.batch_execute(SCHEMA).await.map_err(SandboxError::sql("making the shop"))?;
    let ShopSize { accounts, products, documents } = size;
    let transfers = accounts * 10;
    let orders = accounts;
    client
        .batch_execute(&format!(
            "INSERT INTO accounts SELECT i, 'user' || i || '@example.com',
                 (ARRAY['basic','silver','gold'])[1 + i % 3]::tier, {BALANCE}
                 FROM generate_series(1, {accounts}) i;
             INSERT INTO transfers (sender, receiver, amount, at)
                 SELECT 1 + i % {accounts}, 1 + (i * 7) % {accounts}, 1 + i % 50,
                        '2026-01-01'::timestamptz + i * interval '1 second'
                 FROM generate_series(1, {transfers}) i;
             INSERT INTO products SELECT i, 'product ' || i,
                 jsonb_build_object('weight', i % 100, 'colours', jsonb_build_array('red', 'blue'),
                     'deep', jsonb_build_object('x', i, 'none', null)),
                 ARRAY['a' || i % 10, 'with \"quotes\" and , commas', NULL], i % 500 + 0.99, 1000000
                 FROM generate_series(1, {products}) i;
             INSERT INTO orders (account, note)
                 SELECT 1 + i % {accounts}, CASE WHEN i % 3 = 0 THEN 'note ' || i END
                 FROM generate_series(1, {orders}) i;
             INSERT INTO order_items SELECT i, l, 1 + (i + l) % {products}, l, 9.99
                 FROM generate_series(1, {orders}) i, generate_series(1, 3) l;
             INSERT INTO documents SELECT md5('d' || i)::uuid, 0,
                 (SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 1250) j),
                 decode(md5(i::text), 'hex')
                 FROM generate_series(1, {documents}) i;
             INSERT INTO events SELECT i, '2026-01-01'::date + (i % 90), 'seen',
                 jsonb_build_object('i', i) FROM generate_series(1, {accounts}) i;
             INSERT INTO audit_log (what) SELECT 'line ' || i FROM generate_series(1, 500) i;
             INSERT INTO \"Order Notes\" SELECT i, 1, 'hello' FROM generate_series(1, {orders}) i;
             ANALYZE;"
        ))
        .await
        .map_err(SandboxError::sql("filling the shop"))?;
    Ok(())
}

/// What a check of one database found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Books {
    /// Sum of all balances minus what it must be.
    pub missing_money: String,
    /// Receipts that clients were given and the database does not have.
    pub lost: u64,
    /// Receipts in the database.
    pub receipts: u64,
}

impl Books {
    /// Whether nothing is lost.
    #[must_use]
    pub fn are_right(&self) -> bool {
        self.lost == 0 && self.missing_money.trim_end_matches(['0', '.']).is_empty()
    }
}

/// Compares a database with what clients were told: `acknowledged[c]` transactions of client `c`,
/// the ones in `unknown` (client, number) left out, since nobody knows about them.
///
/// # Errors
///
/// What the server says.
pub async fn check(
    client: &Client,
    acknowledged: &[u64],
    unknown: &[(usize, u64)],
) -> Result<Books, SandboxError> {
    let row = client
        .query_one("SELECT (sum(balance) - count(*) * 1000)::text FROM public.accounts", &[])
        .await
        .map_err(SandboxError::sql("counting the money"))?;
    let missing_money: String = row.get(0);
    let mut lost = 0;
    let mut receipts = 0;
    let rows = client
        .query("SELECT client, array_agg(n) FROM public.receipts GROUP BY client", &[])
        .await
        .map_err(SandboxError::sql("reading receipts"))?;
    let mut found = std::collections::HashMap::new();
    for row in rows {
        let numbers: Vec<i64> = row.get(1);
        receipts += numbers.len() as u64;
        found.insert(
            row.get::<_, i32>(0),
            numbers.into_iter().collect::<std::collections::HashSet<i64>>(),
        );
    }
    for (c, &last) in acknowledged.iter().enumerate() {
        let have = i32::try_from(c).ok().and_then(|c| found.get(&c));
        for n in 1..=last {
            let there = i64::try_from(n).is_ok_and(|n| have.is_some_and(|h| h.contains(&n)));
            if !there && !unknown.contains(&(c, n)) {
                lost += 1;
            }
        }
    }
    Ok(Books { missing_money, lost, receipts })
}

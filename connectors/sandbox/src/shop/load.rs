//! Clients that keep writing at a rate, and remember what they were told.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::large::LargeTransaction;

/// How to load.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Address of the pooler with credentials.
    pub url: String,
    /// Clients at the same time.
    pub clients: usize,
    /// Transactions per second over all clients, until [`Load::set_rate`].
    pub rate: f64,
    /// Accounts in the shop.
    pub accounts: u32,
    /// Products in the shop.
    pub products: u32,
    /// Documents in the shop.
    pub documents: u32,
    /// Connect again after an error and go on.
    pub reconnect: bool,
    /// Remember every attempt, for [`Load::heard`].
    pub remember: bool,
    /// One in so many transactions of the first client, on average, is a [`LargeTransaction`]; 0
    /// for none. See [`Load::let_large`].
    pub large_every: u64,
}

/// One attempt of a client: a transaction, or a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Which client.
    pub client: usize,
    /// The number of the transaction's receipt; `None` for a connection.
    pub number: Option<u64>,
    /// Before the first word was sent.
    pub began: Instant,
    /// When the last answer came.
    pub ended: Instant,
    /// What the client was told.
    pub told: Told,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It is committed, by the server at this port.
    Committed {
        /// Port of the server that wrote the receipt.
        port: u16,
    },
    /// The client did not want it any more: it never said COMMIT.
    RolledBack,
    /// The server said no, with this SQLSTATE.
    No(String),
    /// No answer: the connection broke, or none was made.
    Nothing,
}

impl Told {
    /// What an error tells a client.
    #[must_use]
    pub fn by(error: &tokio_postgres::Error) -> Self {
        error.code().map_or(Self::Nothing, |code| Self::No(code.code().to_owned()))
    }
}

/// What has happened so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadView {
    /// Acknowledged transactions.
    pub done: u64,
    /// Transactions that ended with an error.
    pub failed: u64,
    /// Longest time from BEGIN to the answer to COMMIT since it was last reset.
    pub longest: Duration,
    /// The first error.
    pub first_error: Option<String>,
    /// The last number given to each client's transactions.
    pub acknowledged: Vec<u64>,
    /// Transactions that were not acknowledged: client and number.
    pub unknown: Vec<(usize, u64)>,
}

/// The first error, and the transactions that were not acknowledged.
type Rest = (Option<String>, Vec<(usize, u64)>);

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    done: AtomicU64,
    failed: AtomicU64,
    longest_us: AtomicU64,
    acknowledged: Vec<AtomicU64>,
    rest: Mutex<Rest>,
    heard: Mutex<Vec<Heard>>,
    held: AtomicBool,
    at_work: AtomicUsize,
    rate: watch::Sender<f64>,
    no_large: AtomicBool,
    large_next: AtomicBool,
    in_large: AtomicBool,
}

/// Running clients. They end when it is dropped.
pub struct Load {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Load {
    /// Starts the clients.
    #[must_use]
    pub fn start(options: LoadOptions) -> Self {
        let shared = Arc::new(Shared {
            acknowledged: (0..options.clients).map(|_| AtomicU64::new(0)).collect(),
            rate: watch::Sender::new(options.rate),
            ..Shared::default()
        });
        let options = Arc::new(options);
        let tasks = (0..options.clients)
            .map(|c| {
                let one = One {
                    number: c,
                    n: 0,
                    random: 0x9e37_79b9_7f4a_7c15 ^ (c as u64 + 1),
                    options: Arc::clone(&options),
                    shared: Arc::clone(&shared),
                };
                tokio::spawn(one.run())
            })
            .collect();
        Self { shared, tasks }
    }

    /// What has happened so far.
    #[must_use]
    pub fn view(&self) -> LoadView {
        let s = &self.shared;
        let rest = s.rest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        LoadView {
            done: s.done.load(Ordering::Relaxed),
            failed: s.failed.load(Ordering::Relaxed),
            longest: Duration::from_micros(s.longest_us.load(Ordering::Relaxed)),
            first_error: rest.0,
            acknowledged: s.acknowledged.iter().map(|a| a.load(Ordering::Relaxed)).collect(),
            unknown: rest.1,
        }
    }

    /// Measures the longest wait anew; returns the old one.
    pub fn reset_longest(&self) -> Duration {
        Duration::from_micros(self.shared.longest_us.swap(0, Ordering::Relaxed))
    }

    /// Every attempt so far, in the order of their ends; empty unless it was asked for.
    #[must_use]
    pub fn heard(&self) -> Vec<Heard> {
        self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets clients begin nothing new until they are let go on.
    pub fn hold(&self, on: bool) {
        self.shared.held.store(on, Ordering::SeqCst);
    }

    /// From now on so many transactions per second over all clients.
    pub fn set_rate(&self, rate: f64) {
        self.shared.rate.send_replace(rate);
    }

    /// Whether large transactions may be begun from now on; they may at first.
    pub fn let_large(&self, on: bool) {
        self.shared.no_large.store(!on, Ordering::SeqCst);
    }

    /// The next transaction of the first client is large, if any may be.
    pub fn make_large_next(&self) {
        self.shared.large_next.store(true, Ordering::SeqCst);
    }

    /// Whether a client is in the middle of a large transaction.
    #[must_use]
    pub fn is_in_large(&self) -> bool {
        self.shared.in_large.load(Ordering::SeqCst)
    }

    /// Whether no client is in the middle of anything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.shared.at_work.load(Ordering::SeqCst) == 0
    }

    /// Lets every client finish its transaction, at most `within`, and says what happened.
    pub async fn stop(mut self, within: Duration) -> LoadView {
        self.shared.stop.store(true, Ordering::Relaxed);
        let deadline = tokio::time::Instant::now() + within;
        for task in &mut self.tasks {
            if tokio::time::timeout_at(deadline, &mut *task).await.is_err() {
                task.abort();
            }
        }
        self.view()
    }
}

struct One {
    number: usize,
    n: u64,
    random: u64,
    options: Arc<LoadOptions>,
    shared: Arc<Shared>,
}

impl One {
    async fn run(mut self) {
        let mut rate = self.shared.rate.subscribe();
        let mut due = tokio::time::Instant::now();
        let mut client: Option<Client> = None;
        while !self.shared.stop.load(Ordering::Relaxed) {
            // Arrivals are independent of one another (a Poisson process, as those of `pgbench
            // --rate`). At a fixed interval all who were held once would come together from then
            // on, and be under way together whenever a pause begins.
            let period = self.options.clients as f64 / *rate.borrow_and_update();
            let next = due + Duration::from_secs_f64(period * self.exponential());
            due = next.max(tokio::time::Instant::now());
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                // How long somebody has waited already says nothing about how long he still will.
                Ok(()) = rate.changed() => {
                    due = tokio::time::Instant::now();
                    continue;
                }
            }
            // Counted before it looks, so that whoever holds and then finds nobody at work is right.
            let _at_work = AtWork::new(&self.shared);
            if self.shared.held.load(Ordering::SeqCst) {
                continue;
            }
            let began = Instant::now();
            let connected = match client.take().filter(|c| !c.is_closed()) {
                Some(c) => c,
                None => match connect(&self.options.url).await {
                    Ok(c) => c,
                    Err(e) => {
                        self.remember(None, began, Err(&e));
                        self.fail(&e);
                        if !self.options.reconnect {
                            return;
                        }
                        continue;
                    }
                },
            };
            self.n += 1;
            let began = Instant::now();
            let result = self.transaction(&connected).await;
            self.remember(Some(self.n), began, result.as_ref().map(Told::clone));
            match result {
                Ok(Told::RolledBack) => {
                    self.leave_open();
                    client = Some(connected);
                }
                Ok(_) => {
                    let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                    self.shared.longest_us.fetch_max(took, Ordering::Relaxed);
                    self.shared.done.fetch_add(1, Ordering::Relaxed);
                    self.shared.acknowledged[self.number].store(self.n, Ordering::Relaxed);
                    client = Some(connected);
                }
                Err(e) => {
                    self.leave_open();
                    self.fail(&e);
                    if !self.options.reconnect {
                        return;
                    }
                }
            }
        }
    }

    fn remember(
        &self,
        number: Option<u64>,
        began: Instant,
        result: Result<Told, &tokio_postgres::Error>,
    ) {
        if !self.options.remember {
            return;
        }
        let told = result.unwrap_or_else(Told::by);
        let ended = Instant::now();
        let heard = Heard { client: self.number, number, began, ended, told };
        self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner).push(heard);
    }

    /// The present transaction is not acknowledged.
    fn leave_open(&self) {
        let mut rest = self.shared.rest.lock().unwrap_or_else(PoisonError::into_inner);
        rest.1.push((self.number, self.n));
    }

    fn fail(&self, e: &tokio_postgres::Error) {
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
        let mut rest = self.shared.rest.lock().unwrap_or_else(PoisonError::into_inner);
        rest.0.get_or_insert_with(|| {
            let cause = std::error::Error::source(e).map(ToString::to_string).unwrap_or_default();
            format!("{e}: {cause}")
        });
    }

    /// A time between two arrivals, in units of its mean.
    fn exponential(&mut self) -> f64 {
        const STEPS: u32 = 1 << 24;
        -(f64::from(self.pick(STEPS) + 1) / f64::from(STEPS)).ln()
    }

    /// A number below `bound`, xorshift64*.
    fn pick(&mut self, bound: u32) -> u32 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let x = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((x >> 32) % u64::from(bound.max(1))) as u32
    }

    /// Makes one transaction.
    async fn transaction(&mut self, client: &Client) -> Result<Told, tokio_postgres::Error> {
        if self.number == 0 && self.is_large_next() {
            let large = LargeTransaction {
                client: self.number,
                number: self.n,
                accounts: self.options.accounts,
                dice: self.random,
            };
            self.pick(1);
            self.shared.in_large.store(true, Ordering::SeqCst);
            let told = large.run(client).await;
            self.shared.in_large.store(false, Ordering::SeqCst);
            return told;
        }
        self.small(client).await.map(|port| Told::Committed { port })
    }

    /// Whether it is the turn of a large one, by chance or because somebody wants one.
    fn is_large_next(&mut self) -> bool {
        let every = u32::try_from(self.options.large_every).unwrap_or(u32::MAX);
        let by_chance = every > 0 && self.pick(every) == 0;
        let s = &self.shared;
        !s.no_large.load(Ordering::SeqCst)
            && (s.large_next.swap(false, Ordering::SeqCst) || by_chance)
    }

    /// Makes a small one; the port of the server that made it.
    async fn small(&mut self, client: &Client) -> Result<u16, tokio_postgres::Error> {
        let receipt = format!(
            "INSERT INTO receipts VALUES ({}, {}) RETURNING inet_server_port()",
            self.number, self.n
        );
        let (accounts, products) = (self.options.accounts, self.options.products);
        match self.pick(10) {
            0..=4 => {
                let (a, b, amount) =
                    (1 + self.pick(accounts), 1 + self.pick(accounts), 1 + self.pick(20));
                let (low, high, sign) = if a < b { (a, b, "-") } else { (b, a, "") };
                client.batch_execute("BEGIN").await?;
                if a != b {
                    // Always in the order of the keys, so that clients do not deadlock.
                    let minus = if sign == "-" { "" } else { "-" };
                    client
                        .batch_execute(&format!(
                            "UPDATE accounts SET balance = balance + {sign}{amount}, \
                             changed_at = now() WHERE id = {low};
                             UPDATE accounts SET balance = balance + {minus}{amount}, \
                             changed_at = now() WHERE id = {high};
                             INSERT INTO transfers (sender, receiver, amount) \
                             VALUES ({a}, {b}, {amount})"
                        ))
                        .await?;
                }
                committed(client, &format!("{receipt}; COMMIT")).await
            }
            5..=6 => {
                let (account, product) = (1 + self.pick(accounts), 1 + self.pick(products));
                client.batch_execute("BEGIN").await?;
                let rows = client
                    .simple_query(&format!(
                        "INSERT INTO orders (account) VALUES ({account}) RETURNING id"
                    ))
                    .await?;
                let id = rows.iter().find_map(|m| match m {
                    SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                });
                let id = id.unwrap_or_default();
                committed(
                    client,
                    &format!(
                        "INSERT INTO order_items VALUES ({id}, 1, {product}, 2, 5.00);
                         UPDATE products SET stock = stock - 2 WHERE id = {product};
                         INSERT INTO \"Order Notes\" VALUES ({id}, 1, 'new');
                         {receipt}; COMMIT"
                    ),
                )
                .await
            }
            7 => {
                let document = 1 + self.pick(self.options.documents);
                committed(
                    client,
                    &format!(
                        "BEGIN; UPDATE documents SET views = views + 1 \
                         WHERE id = md5('d' || {document})::uuid; {receipt}; COMMIT"
                    ),
                )
                .await
            }
            8 => {
                let (day, id) = (self.pick(90), 1_000_000 + self.n * 1000 + self.number as u64);
                committed(
                    client,
                    &format!(
                        "BEGIN; INSERT INTO events VALUES ({id}, '2026-01-01'::date + {day}, \
                         'click', '{{\"n\": {id}}}');
                         INSERT INTO audit_log (what) VALUES ('{id}'); {receipt}; COMMIT"
                    ),
                )
                .await
            }
            _ => {
                let order = 1 + self.pick(accounts);
                let tier = ["basic", "silver", "gold"][self.pick(3) as usize];
                committed(
                    client,
                    &format!(
                        "BEGIN; DELETE FROM \"Order Notes\" WHERE \"Order\" = {order} AND \"Nr.\" = 1;
                         UPDATE accounts SET tier = '{tier}' WHERE id = {order};
                         {receipt}; COMMIT"
                    ),
                )
                .await
            }
        }
    }
}

/// Runs a transaction to its end; the port that its receipt returned.
pub(super) async fn committed(client: &Client, sql: &str) -> Result<u16, tokio_postgres::Error> {
    let rows = client.simple_query(sql).await?;
    let port = rows.iter().find_map(|m| match m {
        SimpleQueryMessage::Row(row) => row.get(0).and_then(|port| port.parse().ok()),
        _ => None,
    });
    Ok(port.unwrap_or_default())
}

/// A client between taking its turn and having its answer.
struct AtWork(Arc<Shared>);

impl AtWork {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.at_work.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        // The client's next statement says what happened.
        connection.await.ok();
    });
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients that nobody can be reached by: every turn of theirs is a connection that fails at
    /// once, without a word to the outside, so that the clock of a test may run ahead.
    fn nobody_is_reached(rate: f64) -> Load {
        Load::start(LoadOptions {
            url: "no address".to_owned(),
            clients: 4,
            rate,
            accounts: 2,
            products: 1,
            documents: 1,
            reconnect: true,
            remember: false,
            large_every: 0,
        })
    }

    /// Turns that came in the next `seconds` of the test's clock.
    async fn turns(load: &Load, seconds: u64) -> u64 {
        let before = load.view().failed;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        load.view().failed - before
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_rate_holds_from_now_on() {
        let load = nobody_is_reached(10.0);
        for (rate, turns_wanted) in [(10.0, 900..1100), (40.0, 3700..4300), (1.0, 70..130)] {
            load.set_rate(rate);
            let came = turns(&load, 100).await;
            assert!(turns_wanted.contains(&came), "{came} turns in 100 s at {rate}/s");
        }
        // One in years; who waits for such a turn does not do so when the rate is another.
        load.set_rate(1e-8);
        assert_eq!(turns(&load, 1000).await, 0);
        load.set_rate(10.0);
        let came = turns(&load, 10).await;
        assert!((60..140).contains(&came), "{came} turns in 10 s at 10/s");
    }
}

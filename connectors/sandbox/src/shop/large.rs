//! A transaction of some MiB that takes its time: whoever follows the log sees it while it runs.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::{Client, Error};

use super::load::{Told, committed};

/// Bytes of a row, about.
const ROW: u32 = 40_000;
/// How long the client thinks between two statements, in milliseconds, at most.
const THINKS_MS: u64 = 40;

/// Some hundred documents in several statements, and money that moves; every fourth is half as
/// large. Some of it is written behind a savepoint and taken back again, and some clients do not
/// want the whole of it in the end. The documents of the one before go with it, so that the shop
/// does not grow.
///
/// What was taken back holds the receipt with the number negated: nobody may ever see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LargeTransaction {
    /// Which client.
    pub client: usize,
    /// Number of its receipt; must not be 0.
    pub number: u64,
    /// Accounts in the shop; at least 2.
    pub accounts: u32,
    /// Draws everything else.
    pub dice: u64,
}

impl LargeTransaction {
    /// A number below `bound`, another one for each `what`.
    fn draw(&self, what: u64, bound: u64) -> u64 {
        let mut z = self.dice.wrapping_add(what.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    /// Whether the client says COMMIT in the end.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.draw(0, 4) > 0
    }

    /// Whether it is one of the smaller ones.
    #[must_use]
    pub fn is_half(&self) -> bool {
        self.draw(3, 4) == 0
    }

    /// Statements from BEGIN to before the end, one after the other.
    #[must_use]
    pub fn statements(&self) -> Vec<String> {
        let (client, number) = (self.client, self.number);
        let money = self.money();
        let mut all = vec!["BEGIN".to_owned()];
        // Accounts are locked from here on, or at the end only.
        let early = self.draw(1, 2) == 0;
        if early {
            all.push(money.clone());
        }
        all.push(format!("DELETE FROM documents WHERE views = {}", self.mark()));
        let parts = 2 + self.draw(2, 3);
        let rows = (110 + self.draw(4, 30)) / parts / if self.is_half() { 2 } else { 1 } + 1;
        for part in 0..parts {
            match self.draw(20 + part, 3) {
                0 => {
                    // A receipt that must never be seen, and money that nobody has.
                    all.push(format!(
                        "SAVEPOINT s; {}; INSERT INTO receipts VALUES ({client}, -{number});
                         UPDATE accounts SET balance = balance + 1000000 WHERE id = {}",
                        self.documents(part, rows),
                        self.pair().0
                    ));
                    all.push(format!("ROLLBACK TO s; {}", self.documents(part, rows)));
                }
                1 => all.push(format!("SAVEPOINT s; {}; RELEASE s", self.documents(part, rows))),
                _ => all.push(self.documents(part, rows)),
            }
        }
        all.push(format!(
            "UPDATE documents SET thumbnail = '\\x00' WHERE views = {} AND body < '8'",
            self.mark()
        ));
        if !early {
            all.push(money);
        }
        all
    }

    /// The last words of a client that wants it: its first row is the port of the server.
    #[must_use]
    pub fn end(&self) -> String {
        format!(
            "INSERT INTO receipts VALUES ({}, {}) RETURNING inet_server_port(); COMMIT",
            self.client, self.number
        )
    }

    /// Runs all of it.
    ///
    /// # Errors
    ///
    /// As for every client: what was asked for may have happened or not.
    pub async fn run(&self, client: &Client) -> Result<Told, Error> {
        for (i, statement) in (40..).zip(self.statements()) {
            client.batch_execute(&statement).await?;
            sleep(Duration::from_millis(self.draw(i, THINKS_MS))).await;
        }
        self.finish(client).await
    }

    /// Ends what [`LargeTransaction::statements`] began.
    ///
    /// # Errors
    ///
    /// As for [`LargeTransaction::run`].
    pub async fn finish(&self, client: &Client) -> Result<Told, Error> {
        if !self.is_wanted() {
            client.batch_execute("ROLLBACK").await?;
            return Ok(Told::RolledBack);
        }
        committed(client, &self.end()).await.map(|port| Told::Committed { port })
    }

    /// What its documents have instead of a number of views. Nobody else touches those.
    fn mark(&self) -> i64 {
        -1 - i64::try_from(self.client).unwrap_or_default()
    }

    fn documents(&self, part: u64, rows: u64) -> String {
        format!(
            "INSERT INTO documents SELECT md5('{} {} {part} ' || i)::uuid, {},
               repeat(md5(i::text || {}), {}) FROM generate_series(1, {rows}) i",
            self.client,
            self.number,
            self.mark(),
            self.number,
            ROW / 32
        )
    }

    /// Two accounts, the smaller first, as every client of the shop takes them.
    fn pair(&self) -> (u64, u64) {
        let accounts = u64::from(self.accounts.max(2));
        let low = 1 + self.draw(10, accounts - 1);
        (low, low + 1 + self.draw(11, accounts - low))
    }

    fn money(&self) -> String {
        let ((low, high), amount) = (self.pair(), 1 + self.draw(12, 20));
        format!(
            "UPDATE accounts SET balance = balance - {amount}, changed_at = now() WHERE id = {low};
             UPDATE accounts SET balance = balance + {amount}, changed_at = now() WHERE id = {high};
             INSERT INTO transfers (sender, receiver, amount) VALUES ({low}, {high}, {amount})"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_drawn() {
        let all: Vec<LargeTransaction> = (1..200)
            .map(|n| LargeTransaction { client: 0, number: n, accounts: 2, dice: n })
            .collect();
        assert!(all.iter().any(LargeTransaction::is_wanted));
        assert!(!all.iter().all(LargeTransaction::is_wanted));
        for large in &all {
            assert_eq!(large.pair(), (1, 2));
        }
        for word in ["ROLLBACK TO", "RELEASE"] {
            let with = |l: &&LargeTransaction| l.statements().iter().any(|s| s.contains(word));
            let count = all.iter().filter(with).count();
            assert!(count > 0 && count < all.len(), "{word}: {count}");
        }
    }
}

//! Finds the moment for a PAUSE, and keeps PgBouncer from taking it for a server that refuses logins.
//!
//! A PAUSE waits for the transactions that are under way and closes all other connections; the ends
//! of their processes take processors from those that are waited for. Both are a matter of the
//! moment: with 300 transactions of 5 ms in a second none is under way for a fifth of the time. So
//! it is looked for, and pools do not grow meanwhile: a login takes longer than the wait for the
//! next free connection.
//!
//! A PAUSE cuts off a login to a server that is under way. PgBouncer counts that as a failed login:
//! after RESUME it disconnects every client that comes before the next login has succeeded, and
//! tries that only after `server_login_retry`. So no login may be under way when PAUSE is given.
//! Settings change in the running process only, and a RELOAD puts them back.

use std::time::{Duration, Instant};

use tokio_postgres::SimpleQueryRow;

use super::{
    console::{OrderError, Session},
    state::by,
};

/// How long a login may be waited for; then the pause is tried all the same.
const LOGIN: Duration = Duration::from_millis(500);

/// How long a moment with few transactions under way is waited for.
pub(super) const PATIENCE: Duration = Duration::from_millis(120);

/// How often we look.
const AGAIN: Duration = Duration::from_millis(1);

/// From so many transactions under way on there is no use in waiting for fewer.
const MOST: f64 = 6.0;

/// So many connections of a database are enough for a moment.
pub(super) const ENOUGH: u64 = 3;

/// The settings that a move changes for a moment, as they were before we touched them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Usual {
    /// It keeps pools from growing.
    max_db_connections: String,
    /// It makes them shrink.
    pub(super) server_idle_timeout: String,
}

impl Usual {
    /// From `SHOW CONFIG`; `None` when this version does not show it.
    pub(super) fn read(config: &[SimpleQueryRow]) -> Option<Self> {
        let value = |key: &str| {
            let row = config.iter().find(|row| by(row)("key").is_some_and(|name| name == key))?;
            by(row)("value").filter(|text| !text.is_empty())
        };
        Some(Self {
            max_db_connections: value("max_db_connections")?,
            server_idle_timeout: value("server_idle_timeout")?,
        })
    }

    /// The order that lets pools grow again.
    pub(super) fn grow(&self) -> String {
        format!("SET max_db_connections = '{}'", self.max_db_connections)
    }
}

/// The order that makes PgBouncer try again soon when the first login after a RESUME fails, or
/// when logins to the side it comes from failed before.
pub(super) const EAGER: &str = "SET server_login_retry = '0.05'";

/// Whether the first logins after a RESUME are over: one has succeeded, or nobody wants one.
pub(super) async fn is_calm(
    control: &Session,
    names: &[String],
    answer: Duration,
) -> Result<bool, OrderError> {
    let pools = control.order("SHOW POOLS", answer).await?;
    let ready: u64 =
        ["sv_active", "sv_idle", "sv_used"].map(|column| sum(&pools, names, column)).iter().sum();
    Ok(ready > 0 || sum(&pools, names, "cl_waiting") == 0)
}

/// What is under way in the pools that are to be paused.
#[derive(Debug, Clone, Copy, Default)]
struct UnderWay {
    logins: u64,
    transactions: u64,
    waiting: u64,
}

impl UnderWay {
    fn of(pools: &[SimpleQueryRow], names: &[String]) -> Self {
        let of = |column| sum(pools, names, column);
        Self { logins: of("sv_login"), transactions: of("sv_active"), waiting: of("cl_waiting") }
    }

    /// Whether this is the moment, after looking for so long. At first only when nothing is under
    /// way, then also when a little is: a PAUSE waits for the slowest of those under way, and what
    /// ends in it takes processors from them.
    fn is_quiet(self, waited: Duration, patience: Duration) -> bool {
        if self.logins > 0 {
            return false;
        }
        if waited >= patience {
            return true;
        }
        let tolerated = MOST * waited.as_secs_f64() / patience.as_secs_f64();
        self.waiting == 0 && self.transactions as f64 <= tolerated
    }
}

/// Keeps the pools of `names` from growing, waits until no login is under way, and with some
/// patience until few transactions are; all of it at most `within`.
pub(super) async fn settle(
    control: &Session,
    usual: &Usual,
    names: &[String],
    patience: Duration,
    within: Duration,
    answer: Duration,
) -> Result<(), OrderError> {
    let begun = Instant::now();
    stop_growth(control, usual, names, 1, answer).await?;
    let mut pools = control.order("SHOW POOLS", answer).await?;
    while begun.elapsed() < within.min(LOGIN)
        && !UnderWay::of(&pools, names).is_quiet(begun.elapsed(), patience)
    {
        tokio::time::sleep(AGAIN).await;
        pools = control.order("SHOW POOLS", answer).await?;
    }
    Ok(())
}

/// Keeps the pools of `names` from growing beyond what they are now, or `enough` connections.
pub(super) async fn stop_growth(
    control: &Session,
    usual: &Usual,
    names: &[String],
    enough: u64,
    answer: Duration,
) -> Result<(), OrderError> {
    let databases = control.order("SHOW DATABASES", answer).await?;
    let limit = cap(&databases, names, usual, enough);
    match control.order(&format!("SET max_db_connections = '{limit}'"), answer).await {
        // Whoever may not do this may not PAUSE either, which says so better.
        Ok(_) | Err(OrderError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// As many connections as there are: no more can come, and a crash of ours leaves no less.
fn cap(databases: &[SimpleQueryRow], names: &[String], usual: &Usual, enough: u64) -> u64 {
    let most = databases
        .iter()
        .filter(|row| by(row)("name").is_some_and(|name| names.contains(&name)))
        .filter_map(|row| by(row)("current_connections")?.parse().ok())
        .max();
    bounded(most.unwrap_or(1).max(enough), &usual.max_db_connections)
}

/// Zero would mean "no limit", in both places.
fn bounded(most: u64, usual: &str) -> u64 {
    let most = most.max(1);
    match usual.parse() {
        Ok(limit) if limit > 0 => most.min(limit),
        _ => most,
    }
}

/// The sum of one column of `SHOW POOLS` over the pools of `names`.
pub(super) fn sum(pools: &[SimpleQueryRow], names: &[String], column: &str) -> u64 {
    pools
        .iter()
        .filter(|row| by(row)("database").is_some_and(|name| names.contains(&name)))
        .filter_map(|row| by(row)(column)?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_a_quiet_moment_is_waited_for_the_less_quiet_it_has_to_be() {
        let ms = Duration::from_millis;
        let quiet = |logins, transactions, waiting, waited| {
            UnderWay { logins, transactions, waiting }.is_quiet(ms(waited), PATIENCE)
        };
        assert!(quiet(0, 0, 0, 0));
        assert!(!quiet(0, 1, 0, 0) && quiet(0, 1, 0, 20));
        assert!(!quiet(0, 5, 0, 90) && quiet(0, 5, 0, 100));
        assert!(!quiet(0, 0, 1, 110), "whoever waits is under way next");
        assert!(quiet(0, 50, 9, 120), "never longer than that");
        assert!(!quiet(1, 0, 0, 300), "a login is cut off by a PAUSE");
        let busy = UnderWay { logins: 0, transactions: 9, waiting: 9 };
        assert!(busy.is_quiet(Duration::ZERO, Duration::ZERO), "without patience");
    }

    #[test]
    fn the_cap_is_never_no_limit_and_never_above_the_usual_one() {
        for (most, usual, want) in [(7, "0", 7), (7, "5", 5), (0, "0", 1), (1, "x", 1), (3, "9", 3)]
        {
            assert_eq!(bounded(most, usual), want, "{most:?} {usual}");
        }
    }
}

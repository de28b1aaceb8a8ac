//! Keeps PgBouncer from taking a pause for a server that refuses logins.
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

/// Keeps the pools of `names` from growing and waits until no login is under way.
pub(super) async fn settle(
    control: &Session,
    usual: &Usual,
    names: &[String],
    within: Duration,
    answer: Duration,
) -> Result<(), OrderError> {
    let begun = Instant::now();
    let databases = control.order("SHOW DATABASES", answer).await?;
    let limit = cap(&databases, names, usual);
    let stop = format!("SET max_db_connections = '{limit}'");
    let (stopped, pools) =
        tokio::join!(control.order(&stop, answer), control.order("SHOW POOLS", answer));
    match stopped {
        // Whoever may not do this may not PAUSE either, which says so better.
        Ok(_) | Err(OrderError::Refused { .. }) => {}
        Err(error) => return Err(error),
    }
    let mut pools = pools?;
    while sum(&pools, names, "sv_login") > 0 && begun.elapsed() < within.min(LOGIN) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        pools = control.order("SHOW POOLS", answer).await?;
    }
    Ok(())
}

/// As many connections as there are: no more can come, and a crash of ours leaves no less.
fn cap(databases: &[SimpleQueryRow], names: &[String], usual: &Usual) -> u64 {
    let most = databases
        .iter()
        .filter(|row| by(row)("name").is_some_and(|name| names.contains(&name)))
        .filter_map(|row| by(row)("current_connections")?.parse().ok())
        .max();
    bounded(most, &usual.max_db_connections)
}

/// Zero would mean "no limit", in both places.
fn bounded(most: Option<u64>, usual: &str) -> u64 {
    let most = most.unwrap_or(1).max(1);
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
    fn the_cap_is_never_no_limit_and_never_above_the_usual_one() {
        for (most, usual, want) in [
            (Some(7), "0", 7),
            (Some(7), "5", 5),
            (Some(0), "0", 1),
            (None, "x", 1),
            (Some(3), "9", 3),
        ] {
            assert_eq!(bounded(most, usual), want, "{most:?} {usual}");
        }
    }
}

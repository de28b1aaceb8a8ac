//! A large transaction of the campaign's own, brought to the moment that is aimed at.

use std::time::{Duration, Instant};

use cutover_core::model::side::Side;
use cutover_sandbox::shop::{Heard, LargeTransaction, Told};
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    arena::{CLIENTS, SIZE},
    plan::{Aim, Round},
    story::Story,
    world::connect,
};

/// How long the other side may take to come to the moment. Where the transaction was given up it
/// never does, and the fault strikes all the same.
const COMES_WITHIN: Duration = Duration::from_secs(3);

/// The session that applies a large transaction in this database.
const SESSION: &str = "datname = current_database() AND application_name LIKE 'cutover e2e early%'";

/// How often the log says that a large transaction was applied early, and that one was given up.
pub(crate) fn early_in(log: &str) -> [usize; 2] {
    let count = |what: &str| log.matches(what).count();
    [
        count("applying a transaction early"),
        count("a transaction in progress will be applied at its end")
            + count("a large transaction is applied at its end"),
    ]
}

impl Story<'_> {
    /// Begins large transaction `number` on `side` and returns when it has come to `aim`, and whether
    /// it was seen there. The task ends it, and says what its client was told.
    pub(crate) async fn come_to_early(
        &self,
        side: Side,
        aim: Aim,
        number: u64,
        round: &Round,
    ) -> (JoinHandle<Heard>, bool) {
        let mut large = LargeTransaction {
            client: CLIENTS,
            number,
            accounts: SIZE.accounts,
            dice: round.large,
        };
        while large.is_half() || aim != Aim::Written && !large.is_wanted() {
            large.dice = large.dice.wrapping_add(1);
        }
        let client = connect(&self.arena.world.shop.pooler_url()).await;
        for statement in large.statements() {
            client.batch_execute(&statement).await.expect("nothing is wrong yet");
        }
        let other = self.arena.world.superuser(side.other()).await;
        let comes = async |what: &str| {
            let sql = format!("SELECT FROM pg_stat_activity WHERE {SESSION} AND {what} LIMIT 1");
            let look = other.prepare(&sql).await.expect("a statement");
            let began = Instant::now();
            // Asked without a rest: it may be over in a millisecond.
            while began.elapsed() < COMES_WITHIN {
                if other.query_opt(&look, &[]).await.expect("activity").is_some() {
                    return true;
                }
            }
            false
        };
        let mut came = comes("backend_xid IS NOT NULL").await;
        let thinks = if aim == Aim::Written { round.thinks } else { Duration::ZERO };
        let task = tokio::spawn(async move {
            sleep(thinks).await;
            let began = Instant::now();
            let result = large.finish(&client).await;
            let told = result.unwrap_or_else(|e| Told::by(&e));
            let number = Some(large.number);
            Heard { client: large.client, number, began, ended: Instant::now(), told }
        });
        if aim == Aim::Stored {
            came &= comes("query ~ '^UPDATE cutover_e2e|^COMMIT'").await;
        }
        (task, came)
    }

    /// Ends the session that applies a large transaction, on whichever side it is.
    pub(crate) async fn end_early(&self) {
        for side in [Side::Blue, Side::Green] {
            let admin = self.arena.world.superuser(side).await;
            let sql =
                format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {SESSION}");
            admin.query(&sql, &[]).await.expect("the superuser's word");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_counted() {
        let log = "INFO applying a transaction early from=blue\n\
                   INFO a large transaction is applied at its end: it was rolled back for others\n\
                   INFO applying a transaction early from=blue\n";
        assert_eq!(early_in(log), [2, 1]);
    }
}

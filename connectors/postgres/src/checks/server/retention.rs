//! Settings under which the server gives up our slot, and with it the run.

use super::super::{Answer, facts::Context, found::*};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let keep = context.number("max_slot_wal_keep_size").await?;
    let idle = context.number("idle_replication_slot_timeout").await?;
    Ok(judge(keep, idle))
}

/// `keep` in MB, -1 without a limit; `idle` in seconds, 0 without a limit.
fn judge(keep: Option<i64>, idle: Option<i64>) -> Vec<Found> {
    let mut found = Vec::new();
    if let Some(limit) = keep.filter(|mb| *mb >= 0) {
        found.push(warning(
            "CUT0107",
            format!(
                "max_slot_wal_keep_size is {limit} MB: when we are further behind, during a long \
                 copy say, the server gives up the slot and the run must start again"
            ),
            reload_with("max_slot_wal_keep_size", -1),
        ));
    }
    if let Some(seconds) = idle.filter(|s| *s > 0) {
        found.push(warning(
            "CUT0108",
            format!(
                "idle_replication_slot_timeout is {seconds} s: when `cutover run` is stopped for \
                 longer, the server gives up the slot and the run must start again"
            ),
            reload_with("idle_replication_slot_timeout", 0),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_risks() {
        let codes = |keep, idle| judge(keep, idle).into_iter().map(|f| f.code).collect::<Vec<_>>();
        assert_eq!(codes(Some(-1), None), [""; 0]);
        assert_eq!(codes(Some(-1), Some(0)), [""; 0]);
        assert_eq!(codes(Some(0), Some(60)), ["CUT0107", "CUT0108"]);
        assert_eq!(codes(Some(4096), None), ["CUT0107"]);
    }
}

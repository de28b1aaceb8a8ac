//! The log must hold what a logical reader needs.

use super::super::{Answer, facts::Context, found::*};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    Ok(judge(context.setting("wal_level").await?.as_deref()))
}

fn judge(level: Option<&str>) -> Vec<Found> {
    match level {
        Some("logical") => Vec::new(),
        other => vec![error(
            "CUT0103",
            format!("wal_level is {}, not logical", other.unwrap_or("unknown")),
            restart_with("wal_level", "logical"),
        )],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_logical_will_do() {
        for (level, count) in [(Some("logical"), 0), (Some("replica"), 1), (None, 1)] {
            assert_eq!(judge(level).len(), count, "{level:?}");
        }
    }
}

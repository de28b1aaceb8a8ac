//! Extensions that write by themselves, or keep rows where we do not look.

use super::super::{Answer, facts::Context, found::*};

/// Name, whether it stops a run, and why.
const KNOWN: &[(&str, bool, &str)] = &[
    ("citus", true, "its shards live on other servers"),
    ("timescaledb", true, "its chunks are internal tables and its catalog is not moved"),
    ("bdr", true, "it replicates on its own"),
    ("pg_cron", false, "its jobs are not moved, and must not run on both sides"),
    ("pg_partman", false, "partitions it makes during a run stop the run: make them before"),
    ("pglogical", false, "its subscriptions and sets are not moved"),
    ("pgactive", false, "it replicates on its own"),
    ("pg_ivm", false, "the views it keeps are not followed"),
];

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    if !context.question.owns_writes {
        return Ok(Vec::new());
    }
    let rows = context.session.query("SELECT extname::text FROM pg_extension", &[]).await?;
    let installed: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(judge(&installed))
}

fn judge(installed: &[String]) -> Vec<Found> {
    KNOWN
        .iter()
        .filter(|(name, ..)| installed.iter().any(|i| i == name))
        .map(|(name, stops, why)| {
            let what = format!("extension {name}: {why}");
            if *stops {
                let remedy = "move this database with the extension's own means";
                error("CUT0146", what, remedy)
            } else {
                warning("CUT0146", what, "plan for it by hand, before and after the move")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use cutover_core::model::finding::Severity;

    use super::*;

    #[test]
    fn only_known_ones() {
        let found = judge(&["plpgsql".into(), "pg_cron".into(), "citus".into()]);
        let severities: Vec<_> = found.iter().map(|f| f.severity).collect();
        assert_eq!(severities, [Severity::Error, Severity::Warning]);
    }
}

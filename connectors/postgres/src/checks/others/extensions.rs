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
    let mut found = judge(&installed);
    found.extend(rows_of_users(context).await?);
    Ok(found)
}

/// Tables of extensions, and which of their rows are the user's: those that a dump would hold.
const TABLES: &str = "
SELECT e.extname::text, quote_ident(n.nspname) || '.' || quote_ident(c.relname), w.condition,
       has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
         AND NOT row_security_active(c.oid)
  FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS w(oid, condition)
  JOIN pg_class c ON c.oid = w.oid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') ORDER BY 1, 2";

/// The extension makes its tables on green, and fills them as on the first day.
async fn rows_of_users(context: &Context<'_>) -> Answer {
    let mut found = Vec::new();
    for row in context.session.query(TABLES, &[]).await? {
        let (extension, table, condition): (&str, &str, &str) =
            (row.get(0), row.get(1), row.get(2));
        let what = if row.get(3) {
            let any = format!("SELECT EXISTS (SELECT FROM {table} {condition})");
            if !context.session.query_one(&any, &[]).await?.get::<_, bool>(0) {
                continue;
            }
            "holds rows of yours"
        } else {
            "may hold rows of yours (our role may not look)"
        };
        let what = format!("{table} of extension {extension} {what}, which are not moved");
        let copy = format!("SELECT * FROM {table} {condition}");
        let remedy = format!(
            "once the definitions are on green, copy them by hand, and again when they change: \
             COPY ({}) TO STDOUT on blue, COPY {table} FROM STDIN on green",
            copy.trim_end()
        );
        found.push(warning("CUT0182", what, remedy));
    }
    Ok(found)
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

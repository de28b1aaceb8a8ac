//! The functions that mark our writes with a replication origin.

use super::super::{Answer, facts::Context, found::*};

/// What the sink calls.
const FUNCTIONS: &[&str] = &[
    "pg_replication_origin_create",
    "pg_replication_origin_drop",
    "pg_replication_origin_oid",
    "pg_replication_origin_session_setup",
];

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    // By name: a later version may add parameters.
    let rows = context
        .session
        .query(
            "SELECT p.oid::regprocedure::text FROM pg_proc p \
             WHERE p.pronamespace = 'pg_catalog'::regnamespace \
               AND p.proname = ANY ($1::text[]) AND NOT has_function_privilege(p.oid, 'EXECUTE') ORDER BY 1",
            &[&FUNCTIONS],
        )
        .await?;
    let closed: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(judge(&closed, &context.me()))
}

fn judge(closed: &[String], me: &str) -> Vec<Found> {
    if closed.is_empty() {
        return Vec::new();
    }
    vec![error(
        "CUT0122",
        format!("our role {me} may not call {}", list(closed)),
        lines(closed.iter().map(|f| format!("GRANT EXECUTE ON FUNCTION {f} TO {me};"))),
    )]
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;

    /// Every `pg_replication_origin_...` that the sources of the sink mention.
    fn mentioned(text: &str) -> impl Iterator<Item = String> + '_ {
        text.match_indices("pg_replication_origin_").map(|(at, _)| {
            text[at..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()
        })
    }

    #[test]
    fn all_that_the_sink_calls() {
        let sink = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sink");
        let mut called = BTreeSet::new();
        for file in std::fs::read_dir(sink).unwrap() {
            called.extend(mentioned(&std::fs::read_to_string(file.unwrap().path()).unwrap()));
        }
        assert_eq!(called.iter().collect::<Vec<_>>(), FUNCTIONS);
    }

    #[test]
    fn one_grant_per_function() {
        assert!(judge(&[], "\"c\"").is_empty());
        let found = judge(&["a(text)".into(), "b()".into()], "\"c\"");
        assert_eq!(
            found[0].remedy,
            "GRANT EXECUTE ON FUNCTION a(text) TO \"c\";\n\
             GRANT EXECUTE ON FUNCTION b() TO \"c\";"
        );
    }
}

//! Materialized views are not in the change log.

use super::super::{Answer, facts::Context, facts::Kind, found::*};
use crate::sql;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    if !context.question.owns_writes {
        return Ok(Vec::new());
    }
    let views: Vec<(String, String)> = context
        .selected(Kind::MaterializedView)
        .map(|r| (r.name.to_string(), sql::table(&r.name)))
        .collect();
    Ok(judge(&views))
}

/// Pairs of plain and quoted name.
fn judge(views: &[(String, String)]) -> Vec<Found> {
    if views.is_empty() {
        return Vec::new();
    }
    vec![warning(
        "CUT0137",
        format!(
            "{} not followed: {}; after the copy they are as old as it is",
            match views.len() {
                1 => "1 materialized view is".to_owned(),
                count => format!("{count} materialized views are"),
            },
            list(views.iter().map(|(plain, _)| plain))
        ),
        format!(
            "-- on green, shortly before the move and regularly after it:\n{}",
            lines(views.iter().map(|(_, quoted)| format!("REFRESH MATERIALIZED VIEW {quoted};")))
        ),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refresh_per_view() {
        assert!(judge(&[]).is_empty());
        let found = judge(&[("a.v".into(), "\"a\".\"v\"".into())]);
        assert!(found[0].remedy.ends_with("\nREFRESH MATERIALIZED VIEW \"a\".\"v\";"));
    }
}

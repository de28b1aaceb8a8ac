//! Without this right the sessions of others look as if they had no transaction.

use super::super::{Answer, facts::Context, found::*};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let row =
        context.session.query_one("SELECT pg_has_role('pg_read_all_stats', 'USAGE')", &[]).await?;
    Ok(judge(row.get(0), &context.me()))
}

fn judge(sees_all: bool, me: &str) -> Vec<Found> {
    if sees_all {
        return Vec::new();
    }
    vec![error(
        "CUT0123",
        format!(
            "our role {me} cannot see the transactions of other roles, so it cannot tell what \
             would hold up a move"
        ),
        format!("GRANT pg_read_all_stats TO {me}; -- or pg_monitor, which contains it"),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blindness_is_an_error() {
        assert!(judge(true, "\"c\"").is_empty());
        assert_eq!(judge(false, "\"c\"")[0].code, "CUT0123");
    }
}

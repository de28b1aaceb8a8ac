//! A replication session can be opened: the attribute of the role, and what is between us.

use std::error::Error;

use super::super::{Answer, facts::Context, found::*};

struct Facts {
    me: String,
    /// The role has the attribute, or needs none.
    allowed: bool,
    /// What the server said when we tried.
    refusal: Option<String>,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let refusal = context.database.replication("check").await.err().map(|e| match e.source() {
        Some(cause) => format!("{e}: {cause}"),
        None => e.to_string(),
    });
    Ok(judge(&Facts {
        me: context.me(),
        allowed: context.role.replication || context.role.superuser,
        refusal,
    }))
}

fn judge(facts: &Facts) -> Vec<Found> {
    // Managed services have other ways to allow it, so only a refusal counts.
    let Some(refusal) = &facts.refusal else { return Vec::new() };
    if !facts.allowed {
        return vec![error(
            "CUT0114",
            format!("our role {} may not open replication sessions", facts.me),
            format!("ALTER ROLE {} REPLICATION;", facts.me),
        )];
    }
    vec![error(
        "CUT0115",
        format!("the server refuses a replication session: {refusal}"),
        "give the address of the server itself, not of a pooler or proxy, and see that WAL senders \
         are free (max_wal_senders)",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attribute_and_the_rest_are_two_findings() {
        let code = |allowed, refusal: Option<&str>| {
            let refusal = refusal.map(str::to_owned);
            let facts = Facts { me: "\"c\"".into(), allowed, refusal };
            judge(&facts).first().map(|f| f.code)
        };
        assert_eq!(code(true, None), None);
        assert_eq!(code(false, None), None);
        assert_eq!(code(false, Some("must be replication role")), Some("CUT0114"));
        assert_eq!(code(true, Some("no free sender")), Some("CUT0115"));
    }
}

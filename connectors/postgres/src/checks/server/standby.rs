//! A standby can neither be fenced nor written.

use super::super::{Answer, facts::Context, found::*};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let row = context.session.query_one("SELECT pg_is_in_recovery()", &[]).await?;
    Ok(judge(row.get(0), context.version()))
}

fn judge(in_recovery: bool, version: u32) -> Vec<Found> {
    if !in_recovery {
        return Vec::new();
    }
    let decodes = if version >= 160_000 {
        "; it could be decoded, but neither fenced nor written"
    } else {
        ""
    };
    vec![error(
        "CUT0102",
        format!("this server is a standby{decodes}"),
        "give the address of its primary (and this one as `read_from`, to spare the primary), or \
         promote this server: SELECT pg_promote();",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_refused_on_every_version() {
        assert!(judge(false, 180_000).is_empty());
        assert!(!judge(true, 150_000)[0].what.contains("decoded"));
        assert!(judge(true, 160_000)[0].what.contains("decoded"));
    }
}

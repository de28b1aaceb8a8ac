//! The server that is read is a standby of this very server, and can be decoded.

use super::super::{Answer, facts::Context, found::*};
use crate::source::Follows;

/// The first version that decodes on a standby.
const SINCE: u32 = 160_000;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let Some(standby) = &context.database.standby else { return Ok(Vec::new()) };
    if context.version() < SINCE {
        return Ok(judge(context.version(), Follows::Yes));
    }
    let here = context.database.identity().await?;
    Ok(judge(context.version(), here.is_followed_by(&standby.identity().await?)))
}

fn judge(version: u32, follows: Follows) -> Vec<Found> {
    let remedy = "name a standby of this server under `read_from`, or leave `read_from` out";
    if version < SINCE {
        let major = version / 10_000;
        let what = format!("a standby can be read from PostgreSQL 16 on, and this is {major}");
        return vec![error("CUT0178", what, "leave `read_from` out")];
    }
    match follows {
        Follows::Yes => Vec::new(),
        Follows::NotNow(why) | Follows::Never(why) => vec![error("CUT0178", why, remedy)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_standby_of_this_server_that_decodes() {
        let count = |version, follows| judge(version, follows).len();
        assert_eq!(count(160_000, Follows::Yes), 0);
        assert_eq!(count(150_010, Follows::Yes), 1);
        assert_eq!(count(180_000, Follows::NotNow("timeline".into())), 1);
        assert_eq!(count(180_000, Follows::Never("stranger".into())), 1);
    }
}

//! Versions nobody has tried. Older ones than 14 are refused when the session is opened.

use super::super::{Answer, facts::Context, found::*};

/// Newest major version the tests run on.
const NEWEST: u32 = 18;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    Ok(judge(context.version()))
}

fn judge(version: u32) -> Vec<Found> {
    let major = version / 10_000;
    if major <= NEWEST {
        return Vec::new();
    }
    vec![warning(
        "CUT0101",
        format!("PostgreSQL {major} is newer than the newest version we have tried, {NEWEST}"),
        "rehearse the whole migration on a copy first, or take a newer cutover",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_from_the_future() {
        for (version, count) in [(140_000, 0), (180_006, 0), (190_000, 1)] {
            assert_eq!(judge(version).len(), count, "{version}");
        }
    }
}

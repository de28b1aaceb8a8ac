//! Minor versions that leave changes out of a table which is published while others write.

use super::super::{Answer, facts::Context, found::*};

/// From which minor version on of each major one a transaction that is under way hears of it when a
/// table is published (May 2025).
const MENDED: [(u32, u32); 4] = [(14, 18), (15, 13), (16, 9), (17, 5)];

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    Ok(judge(context.version()))
}

fn judge(version: u32) -> Vec<Found> {
    let (major, minor) = (version / 10_000, version % 10_000);
    let old = |(of, from): &&(u32, u32)| *of == major && minor < *from;
    let Some((_, from)) = MENDED.iter().find(old) else { return Vec::new() };
    vec![warning(
        "CUT0197",
        format!(
            "PostgreSQL {major}.{minor} may leave out changes of a table that is published while \
             others write it, as those that are new in a run are; versions before {major}.{from} do"
        ),
        format!(
            "install the newest minor version of PostgreSQL {major} before the run; or make no \
             tables while it is on, or run `cutover verify` behind them"
        ),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_minor_versions_before_the_one_that_mends_it() {
        for (version, count) in [
            (140_000, 1),
            (140_017, 1),
            (140_018, 0),
            (150_012, 1),
            (150_013, 0),
            (160_008, 1),
            (160_010, 0),
            (170_004, 1),
            (170_005, 0),
            (180_000, 0),
        ] {
            assert_eq!(judge(version).len(), count, "{version}");
        }
    }
}

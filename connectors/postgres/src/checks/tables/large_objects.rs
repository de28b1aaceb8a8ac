//! Large objects are in no table of the run, and no change log has them.

use super::super::{Answer, facts::Context, found::*};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let row =
        context.session.query_one("SELECT count(*) FROM pg_largeobject_metadata", &[]).await?;
    Ok(judge(row.get(0), context.question.owns_writes))
}

fn judge(count: i64, owns_writes: bool) -> Vec<Found> {
    // On the other side they are nobody's loss.
    if count == 0 || !owns_writes {
        return Vec::new();
    }
    let count = number(usize::try_from(count).unwrap_or(usize::MAX), "large object");
    vec![error(
        "CUT0130",
        format!("{count} in this database; they would be lost"),
        "-- keep the contents in a bytea column (lo_get), then remove them; vacuumlo finds those \
         that nothing points at. To remove all of them:\n\
         SELECT lo_unlink(oid) FROM pg_largeobject_metadata;",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_clients_write() {
        for (count, owns, want) in [(0, true, 0), (3, true, 1), (3, false, 0)] {
            assert_eq!(judge(count, owns).len(), want, "{count} {owns}");
        }
    }
}

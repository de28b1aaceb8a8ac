//! How much disk green needs. SQL does not show how much it has, so somebody must look.

use super::super::{Answer, facts::Context, found::*};

/// Nobody's disk is too small for less.
const SMALL: u64 = 1 << 30;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let question = context.question;
    if question.owns_writes || question.resuming {
        return Ok(Vec::new());
    }
    let row = context.session.query_one("SELECT pg_database_size(current_database())", &[]).await?;
    let here = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
    Ok(judge(question.tables.iter().map(|t| t.bytes).sum(), here))
}

/// `tables`: bytes of the tables that will be copied, without indexes; `here`: bytes of this
/// database now.
fn judge(tables: u64, here: u64) -> Vec<Found> {
    if tables < SMALL {
        return Vec::new();
    }
    vec![info(
        "CUT0134",
        format!(
            "{} of tables will be copied, their indexes and as much log come on top; this database \
             takes {} now. A server does not tell how much of its disk is free",
            gib(tables),
            gib(here)
        ),
        format!(
            "look at the disk of green's data folder (df -h): about {} should be free; blue keeps \
             log for as long as the copy takes, so look there too",
            gib(tables.saturating_mul(3))
        ),
    )]
}

fn gib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) / (1 << 30);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_databases_are_not_worth_a_word() {
        assert!(judge(SMALL - 1, 0).is_empty());
        let found = judge(3 * SMALL / 2, SMALL / 10);
        assert!(found[0].what.starts_with("1.5 GiB of tables"), "{}", found[0].what);
        assert!(found[0].remedy.contains("about 4.5 GiB"), "{}", found[0].remedy);
    }
}

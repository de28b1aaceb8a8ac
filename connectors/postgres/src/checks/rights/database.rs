//! Our schema and publication are made in the database.

use super::super::{Answer, facts::Context, found::*};
use crate::sql;

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let row = context
        .session
        .query_one("SELECT has_database_privilege(current_database(), 'CREATE')", &[])
        .await?;
    Ok(judge(row.get(0), &context.role.database, &context.me()))
}

fn judge(may_create: bool, database: &str, me: &str) -> Vec<Found> {
    if may_create {
        return Vec::new();
    }
    vec![error(
        "CUT0116",
        format!("our role {me} lacks CREATE on the database"),
        format!("GRANT CREATE ON DATABASE {} TO {me};", sql::ident(database)),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        assert!(judge(true, "Shop", "\"c\"").is_empty());
        let found = judge(false, "Shop", "\"c\"");
        assert_eq!(found[0].remedy, "GRANT CREATE ON DATABASE \"Shop\" TO \"c\";");
    }
}

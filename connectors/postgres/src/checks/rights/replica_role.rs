//! Our writes must leave triggers and foreign keys quiet: `session_replication_role = replica`.

use tokio_postgres::error::SqlState;

use super::super::{Answer, facts::Context, found::*};

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    if context.setting("session_replication_role").await?.as_deref() == Some("replica") {
        return Ok(Vec::new());
    }
    // Tried, not looked up: managed services allow it in ways of their own. Local to this
    // statement.
    let tried = context
        .session
        .query_one("SELECT set_config('session_replication_role', 'replica', true)", &[])
        .await;
    match tried {
        Ok(_) => Ok(Vec::new()),
        Err(e) if e.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            Ok(vec![judge(context.version(), &context.me())])
        }
        Err(e) => Err(e.into()),
    }
}

fn judge(version: u32, me: &str) -> Found {
    let remedy = if version >= 150_000 {
        format!("GRANT SET ON PARAMETER session_replication_role TO {me};")
    } else {
        // Before 15 the parameter cannot be granted, but a superuser can fix it for a role.
        format!("ALTER ROLE {me} SET session_replication_role = 'replica';")
    };
    error("CUT0121", format!("our role {me} may not set session_replication_role"), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_one_that_the_version_knows() {
        assert!(judge(140_010, "\"c\"").remedy.starts_with("ALTER ROLE \"c\" SET"));
        assert!(judge(150_000, "\"c\"").remedy.starts_with("GRANT SET ON PARAMETER"));
    }
}

//! Defaults of database and roles that would refuse clients' writes after a move.
//!
//! Our own sessions pin their settings and do not care.

use super::super::{Answer, facts::Context, found::*};
use crate::sql;

struct Default {
    /// `None`: every role.
    role: Option<String>,
    /// `None`: every database.
    database: Option<String>,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let rows = context
        .session
        .query(
            "SELECT r.rolname::text, d.datname::text FROM pg_db_role_setting s \
             CROSS JOIN unnest(s.setconfig) c(setting) \
             LEFT JOIN pg_roles r ON r.oid = s.setrole \
             LEFT JOIN pg_database d ON d.oid = s.setdatabase \
             WHERE (s.setdatabase = 0 OR d.datname = current_database()) \
               AND c.setting IN ('default_transaction_read_only=on', \
                   'default_transaction_read_only=true', 'default_transaction_read_only=1', \
                   'default_transaction_read_only=yes') ORDER BY 2, 1",
            &[],
        )
        .await?;
    let defaults: Vec<Default> =
        rows.iter().map(|row| Default { role: row.get(0), database: row.get(1) }).collect();
    Ok(judge(&defaults))
}

fn judge(defaults: &[Default]) -> Vec<Found> {
    if defaults.is_empty() {
        return Vec::new();
    }
    let reset = |d: &Default| {
        let what = match (&d.role, &d.database) {
            (Some(role), Some(database)) => {
                format!("ROLE {} IN DATABASE {}", sql::ident(role), sql::ident(database))
            }
            (Some(role), None) => format!("ROLE {}", sql::ident(role)),
            (None, Some(database)) => format!("DATABASE {}", sql::ident(database)),
            (None, None) => "ROLE ALL".to_owned(),
        };
        format!("ALTER {what} RESET default_transaction_read_only;")
    };
    let who = |d: &Default| match &d.role {
        Some(role) => format!("role {role}"),
        None => "everybody".to_owned(),
    };
    vec![warning(
        "CUT0113",
        format!(
            "sessions are read-only by default here for {}: clients could not write while this \
             side owns the writes",
            list(defaults.iter().map(who))
        ),
        // Whoever runs this may be read-only too.
        format!("SET default_transaction_read_only = off;\n{}", lines(defaults.iter().map(reset))),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_its_own_statement() {
        let text = |s: &str| Some(s.to_owned());
        assert!(judge(&[]).is_empty());
        let found = judge(&[
            Default { role: None, database: text("shop") },
            Default { role: text("App"), database: None },
            Default { role: text("App"), database: text("shop") },
        ]);
        assert_eq!(
            found[0].remedy.lines().collect::<Vec<_>>(),
            [
                "SET default_transaction_read_only = off;",
                "ALTER DATABASE \"shop\" RESET default_transaction_read_only;",
                "ALTER ROLE \"App\" RESET default_transaction_read_only;",
                "ALTER ROLE \"App\" IN DATABASE \"shop\" RESET default_transaction_read_only;",
            ]
        );
    }
}

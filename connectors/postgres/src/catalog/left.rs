//! What `pg_dump` says nothing of, or not of some schemas alone, so that no copy of definitions has it.

use cutover_core::model::{schema::TableName, selection::Selection};
use tokio_postgres::Error;

use super::USER_SCHEMA;
use crate::connect::Session;

/// In words. `schemas` are those of the run, out of `all` schemas of users.
pub(super) async fn left_behind(
    session: &Session,
    selection: &Selection,
    schemas: &[String],
    all: usize,
) -> Result<Vec<String>, Error> {
    let mut left: Vec<String> = Vec::new();
    if schemas.len() < all {
        let others = session.query(&filled(), &[&schemas]).await?;
        let others = others.iter().map(|row| row.get::<_, String>(0));
        // Who names a schema to leave it out knows.
        let meant = |schema: &String| selection.excludes(&TableName::new(schema.as_str(), "*"));
        left.extend(others.filter(|s| !meant(s)).map(|schema| format!("schema {schema}")));
        let outside = session.query(OUTSIDE, &[]).await?;
        left.extend(outside.iter().map(|row| row.get::<_, String>(0)));
    }
    let unsaid = session.query(UNSAID, &[&schemas]).await?;
    left.extend(unsaid.iter().map(|row| row.get::<_, String>(0)));
    Ok(left)
}

/// Schemas that are not of the run and hold more than what an extension brought.
fn filled() -> String {
    let holds = |catalog: &str, prefix: &str| {
        format!(
            "EXISTS (SELECT FROM {catalog} o WHERE o.{prefix}namespace = n.oid AND NOT EXISTS \
               (SELECT FROM pg_depend d WHERE d.classid = '{catalog}'::regclass \
                   AND d.objid = o.oid AND d.deptype IN ('e', 'i')))"
        )
    };
    format!(
        "SELECT n.nspname::text FROM pg_namespace n WHERE {USER_SCHEMA} \
            AND n.nspname <> ALL ($1::text[]) AND ({} OR {} OR {}) ORDER BY 1",
        holds("pg_class", "rel"),
        holds("pg_proc", "pro"),
        holds("pg_type", "typ")
    )
}

/// In no schema: with schemas named, `pg_dump` leaves all of it out. Publications are another finding.
const OUTSIDE: &str = "
    SELECT w.what FROM (
      SELECT 'pg_cast'::regclass, oid, 'cast (' || castsource::regtype || ' AS ' || casttarget::regtype
             || ')' FROM pg_cast WHERE oid >= 16384
      UNION ALL SELECT 'pg_default_acl'::regclass, oid, 'default privileges of '
             || pg_get_userbyid(defaclrole) || ' in every schema' FROM pg_default_acl
             WHERE defaclnamespace = 0
      UNION ALL SELECT 'pg_event_trigger'::regclass, oid, 'event trigger ' || evtname
             FROM pg_event_trigger WHERE evtname !~ '^cutover_'
      UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid, 'foreign data wrapper ' || fdwname
             FROM pg_foreign_data_wrapper
      UNION ALL SELECT 'pg_foreign_server'::regclass, oid, 'foreign server ' || srvname
             FROM pg_foreign_server
      UNION ALL SELECT 'pg_language'::regclass, oid, 'language ' || lanname
             FROM pg_language WHERE oid >= 16384
      UNION ALL SELECT 'pg_am'::regclass, oid, 'access method ' || amname
             FROM pg_am WHERE oid >= 16384) AS w(class, oid, what)
     WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = w.class AND d.objid = w.oid
                          AND d.deptype IN ('e', 'i'))
     GROUP BY 1 ORDER BY 1";

/// Of the database itself, and where its relations lie.
const UNSAID: &str = "
    SELECT 'tablespace ' || t.spcname FROM pg_tablespace t WHERE EXISTS (
      SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.reltablespace = t.oid AND n.nspname = ANY ($1::text[]))
    UNION ALL SELECT 'comment on the database' FROM pg_database
     WHERE datname = current_database() AND shobj_description(oid, 'pg_database') IS NOT NULL
    ORDER BY 1";

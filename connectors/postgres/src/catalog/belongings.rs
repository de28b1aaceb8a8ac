//! What a database has that not every role may make: because of who owns it, or because only a
//! superuser may. By the words of `pg_dump`.

use std::collections::HashSet;

use cutover_core::model::inventory::{Belonging, BuiltinGrant};
use tokio_postgres::Error;

use super::USER_SCHEMA;
use crate::connect::Session;

/// Something that is there.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) what: Belonging,
    /// Its name as grants and comments have it: in quotes where it needs some.
    pub(crate) quoted: String,
    /// Our role may act as its owner.
    pub(crate) ours: bool,
}

/// All of it, without what extensions brought and what belongs to runs.
pub(crate) async fn belongings(session: &Session) -> Result<Vec<Made>, Error> {
    let rows = session.query(&statement(session.version()), &[]).await?;
    let made = rows.iter().map(|row| Made {
        what: Belonging {
            kind: row.get(0),
            schema: row.get(1),
            name: row.get(2),
            owner: row.get(4),
            privileged: row.get(5),
        },
        quoted: row.get(3),
        ours: row.get(6),
    });
    Ok(made.collect())
}

/// What came with extensions and belongs to a role that ours is not: its schema, and kind and name as
/// grants have them.
pub(crate) async fn members_of_others(
    session: &Session,
) -> Result<HashSet<(String, String)>, Error> {
    let statement = format!(
        "SELECT n.nspname::text,
                CASE WHEN w.kind = 'AGGREGATE' THEN 'FUNCTION' WHEN w.kind = 'DOMAIN' THEN 'TYPE'
                     ELSE w.kind END || ' ' || w.quoted
           FROM ({TABLES} UNION ALL {ROUTINES} UNION ALL {TYPES})
                AS w(kind, class, oid, namespace, name, quoted, owner, privileged)
           JOIN pg_namespace n ON n.oid = w.namespace
           JOIN pg_depend d ON d.classid = w.class AND d.objid = w.oid AND d.deptype = 'e'
          WHERE NOT pg_has_role(w.owner, 'USAGE')"
    );
    Ok(session.query(&statement, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Grants on what comes with the server or with an extension.
pub(crate) async fn builtin_grants(session: &Session) -> Result<Vec<BuiltinGrant>, Error> {
    let rows = session.query(BUILTIN_GRANTS, &[]).await?;
    let grant = rows.iter().map(|row| BuiltinGrant {
        object: row.get(0),
        role: row.get(1),
        right: row.get(2),
        initial: row.get(3),
    });
    Ok(grant.collect())
}

/// What everybody may do from the start nobody needs a grant for. Rights from the start are recorded
/// where they are not the usual ones (PostgreSQL manual, `pg_init_privs`).
const BUILTIN_GRANTS: &str = "
    SELECT w.called || ' ' || quote_ident(n.nspname) || '.' || w.quoted,
           coalesce(r.rolname::text, 'PUBLIC'), a.privilege_type,
           EXISTS (SELECT FROM aclexplode(coalesce(i.initprivs, acldefault(w.type, w.owner))) x
                    WHERE x.grantee IN (0, a.grantee) AND x.privilege_type = a.privilege_type)
      FROM (SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, 'pg_class'::regclass, oid,
                   relnamespace, quote_ident(relname), relowner, relacl,
                   CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\" FROM pg_class
            UNION ALL
            SELECT 'FUNCTION', 'pg_proc'::regclass, oid, pronamespace,
                   quote_ident(proname) || '(' || pg_get_function_identity_arguments(oid) || ')',
                   proowner, proacl, 'f' FROM pg_proc WHERE proacl IS NOT NULL)
           AS w(called, class, oid, namespace, quoted, owner, acl, type)
      JOIN pg_namespace n ON n.oid = w.namespace
     CROSS JOIN LATERAL aclexplode(w.acl) a
      LEFT JOIN pg_roles r ON r.oid = a.grantee
      LEFT JOIN pg_init_privs i ON i.classoid = w.class AND i.objoid = w.oid AND i.objsubid = 0
     WHERE a.grantee <> w.owner AND (a.grantee = 0 OR r.rolname <> current_user)
       AND (n.nspname = 'pg_catalog'
            OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = w.class AND d.objid = w.oid
                          AND d.deptype = 'e'))
     ORDER BY 1, 2, 3";

/// What it takes to act as another role. Since 16 a membership may come without it.
pub(crate) fn right_to_become(version: u32) -> &'static str {
    if version >= 160_000 { "SET" } else { "MEMBER" }
}

fn statement(version: u32) -> String {
    let simple = |kind: &str, catalog: &str, prefix: &str, privileged: bool| {
        format!(
            "SELECT '{kind}', '{catalog}'::regclass, o.oid, o.{prefix}namespace, \
             o.{prefix}name::text, quote_ident(o.{prefix}name), o.{prefix}owner, {privileged} \
             FROM {catalog} o"
        )
    };
    let all = [
        RELATIONS.to_owned(),
        ROUTINES.to_owned(),
        TYPES.to_owned(),
        EVENT_TRIGGERS.to_owned(),
        DEFAULTS.to_owned(),
        SERVERS.to_owned(),
        simple("OPERATOR CLASS", "pg_opclass", "opc", true),
        simple("OPERATOR FAMILY", "pg_opfamily", "opf", true),
        simple("OPERATOR", "pg_operator", "opr", false),
        simple("COLLATION", "pg_collation", "coll", false),
        simple("CONVERSION", "pg_conversion", "con", false),
        simple("TEXT SEARCH DICTIONARY", "pg_ts_dict", "dict", false),
        simple("TEXT SEARCH CONFIGURATION", "pg_ts_config", "cfg", false),
        simple("STATISTICS", "pg_statistic_ext", "stx", false),
    ]
    .join(" UNION ALL ");
    format!(
        "SELECT w.kind, coalesce(n.nspname::text, '-'), w.name, w.quoted, r.rolname::text, \
                w.privileged, pg_has_role(w.owner, '{right}') \
           FROM ({all}) AS w(kind, class, oid, namespace, name, quoted, owner, privileged) \
           JOIN pg_roles r ON r.oid = w.owner \
           LEFT JOIN pg_namespace n ON n.oid = w.namespace \
          WHERE (w.namespace = 0 OR {USER_SCHEMA}) \
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = w.class AND d.objid = w.oid \
                               AND d.deptype IN ('e', 'i')) \
          ORDER BY 2, 1, 3",
        right = right_to_become(version)
    )
}

const RELATIONS: &str = "
    SELECT CASE o.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
                          WHEN 'S' THEN 'SEQUENCE' ELSE 'FOREIGN TABLE' END,
           'pg_class'::regclass, o.oid, o.relnamespace, o.relname::text, quote_ident(o.relname),
           o.relowner, false
      FROM pg_class o WHERE o.relkind IN ('v', 'm', 'S', 'f') AND o.relpersistence <> 't'";

/// As grants call all relations.
const TABLES: &str = "
    SELECT CASE o.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, 'pg_class'::regclass, o.oid,
           o.relnamespace, o.relname::text, quote_ident(o.relname), o.relowner, false
      FROM pg_class o";

/// With the types of what they take, as `pg_dump` writes them; grants and comments have its names,
/// too. Aggregates are "in" an untrusted language, and everybody may make them.
const ROUTINES: &str = "
    SELECT CASE o.prokind WHEN 'p' THEN 'PROCEDURE' WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END,
           'pg_proc'::regclass, o.oid, o.pronamespace, o.proname || a.types,
           quote_ident(o.proname) || CASE o.prokind WHEN 'a' THEN a.types
             ELSE '(' || pg_get_function_identity_arguments(o.oid) || ')' END,
           o.proowner, NOT l.lanpltrusted AND o.prokind <> 'a'
      FROM pg_proc o JOIN pg_language l ON l.oid = o.prolang
     CROSS JOIN LATERAL (SELECT CASE WHEN o.prokind = 'a' AND o.pronargs = 0 THEN '(*)' ELSE
           '(' || array_to_string(ARRAY(SELECT format_type(t.type, NULL)
                    FROM unnest(o.proargtypes) WITH ORDINALITY t(type, n) ORDER BY t.n), ', ')
           || ')' END) a(types)";

/// None that comes with a relation, and no arrays.
const TYPES: &str = "
    SELECT CASE o.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, 'pg_type'::regclass, o.oid,
           o.typnamespace, o.typname::text, quote_ident(o.typname), o.typowner, o.typtype = 'b'
      FROM pg_type o LEFT JOIN pg_class c ON c.oid = o.typrelid
     WHERE o.typtype IN ('b', 'c', 'd', 'e', 'r') AND (c.oid IS NULL OR c.relkind = 'c')
       AND NOT EXISTS (SELECT FROM pg_type e WHERE e.oid = o.typelem AND e.typarray = o.oid)";

const EVENT_TRIGGERS: &str = "
    SELECT 'EVENT TRIGGER', 'pg_event_trigger'::regclass, o.oid, 0, o.evtname::text,
           quote_ident(o.evtname), o.evtowner, true
      FROM pg_event_trigger o WHERE o.evtname !~ '^cutover_'";

/// A server takes a right on its wrapper, which its owner had.
const SERVERS: &str = "
    SELECT 'SERVER', 'pg_foreign_server'::regclass, o.oid, 0, o.srvname::text, quote_ident(o.srvname),
           o.srvowner, false
      FROM pg_foreign_server o
    UNION ALL SELECT 'FOREIGN DATA WRAPPER', 'pg_foreign_data_wrapper'::regclass, o.oid, 0,
           o.fdwname::text, quote_ident(o.fdwname), o.fdwowner, true
      FROM pg_foreign_data_wrapper o";

const DEFAULTS: &str = "
    SELECT 'DEFAULT ACL', 'pg_default_acl'::regclass, o.oid, o.defaclnamespace, k.name, k.name,
           o.defaclrole, false
      FROM pg_default_acl o CROSS JOIN LATERAL (SELECT 'DEFAULT PRIVILEGES FOR '
           || CASE o.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES'
                   WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS'
                   ELSE 'LARGE OBJECTS' END) k(name)";

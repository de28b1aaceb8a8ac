//! What a database has beside its tables.

use std::collections::BTreeMap;

use cutover_core::{
    model::{inventory::Inventory, schema::TableName, selection::Selection},
    port::Result,
};
use tokio_postgres::{Error, types::ToSql};

use super::{
    USER_SCHEMA, belongings, builtin_grants, definitions, in_one_view, left::left_behind,
    selects_schema, sequences,
};
use crate::connect::Session;

/// Objects that an extension brought along.
const OF_EXTENSION: &str = "EXISTS (SELECT FROM pg_depend d WHERE d.classid = $CLASS \
                            AND d.objid = o.oid AND d.deptype = 'e')";

/// Describes the database. `session` must not be in a transaction.
pub(crate) async fn inventory(session: &Session, selection: &Selection) -> Result<Inventory> {
    let tables = definitions(session, selection).await?;
    let sequences = sequences(session, selection).await?;
    let doing = "reading what the database has";
    in_one_view(session, doing, async {
        let schemas = schemas(session).await?;
        let all = schemas.len();
        let schemas: Vec<String> =
            schemas.into_iter().filter(|s| selects_schema(selection, &tables, s)).collect();
        let (table_schemas, table_names): (Vec<&str>, Vec<&str>) =
            tables.iter().map(|t| (t.name.schema.as_str(), t.name.name.as_str())).unzip();
        let mut inventory = facts(session).await?;
        inventory.extensions =
            texts(session, "SELECT extname::text FROM pg_extension", &[]).await?;
        inventory.extension_versions =
            pairs(session, "SELECT extname::text, extversion FROM pg_extension").await?;
        inventory.extension_schemas = pairs(session, EXTENSION_SCHEMAS).await?;
        inventory.settings = pairs(session, SETTINGS).await?;
        for row in session.query(ROLE_SETTINGS, &[]).await? {
            let of = inventory.role_settings.entry(row.get(0)).or_default();
            of.insert(row.get(1), row.get(2));
        }
        let rights = session.query(DATABASE_RIGHTS, &[]).await?;
        inventory.database_rights = rights.iter().map(|row| (row.get(0), row.get(1))).collect();
        inventory.database_users =
            rights.iter().filter(|row| row.get(2)).map(|row| row.get(0)).collect();
        (inventory.locale, inventory.locale_version) = locale(session).await?;
        inventory.available_extensions =
            texts(session, "SELECT DISTINCT name::text FROM pg_available_extensions", &[]).await?;
        inventory.needed_roles = texts(session, &needed_roles(), &[&schemas]).await?;
        inventory.owners = texts(session, OWNERS, &[&table_schemas, &table_names]).await?;
        let owned = session.query(OWNED_IN, &[&table_schemas, &table_names]).await?;
        inventory.owned_in = owned.iter().map(|row| (row.get(0), row.get(1))).collect();
        inventory.schema_owners = pairs_of(session, SCHEMA_OWNERS, &[&schemas]).await?;
        let grants = session.query(SCHEMA_GRANTS, &[]).await?;
        inventory.schema_grants =
            grants.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        inventory.schemas_of_others = texts(session, SCHEMAS_OF_OTHERS, &[]).await?;
        inventory.builtin_grants = builtin_grants(session).await?;
        let whole = schemas.len() == all;
        inventory.belongings = belongings(session)
            .await?
            .into_iter()
            .map(|made| made.what)
            .filter(|it| if it.schema == "-" { whole } else { schemas.contains(&it.schema) })
            // Who owns tables has to be one of ours in any case.
            .filter(|it| it.privileged || !inventory.owners.contains(&it.owner))
            .collect();
        inventory.left_behind = left_behind(session, selection, &schemas, all).await?;
        inventory.forced = {
            let rows = session.query(FORCED, &[&table_schemas, &table_names]).await?;
            rows.iter().map(|r| TableName::new(r.get::<_, &str>(0), r.get::<_, &str>(1))).collect()
        };
        inventory.roles = texts(session, "SELECT rolname::text FROM pg_roles", &[]).await?;
        inventory.types = texts(session, &types(), &[&schemas]).await?;
        inventory.collations = texts(session, COLLATIONS, &[]).await?;
        inventory.sequences = sequences.into_iter().map(|s| s.name).collect();
        Ok(inventory)
    })
    .await
}

async fn facts(session: &Session) -> std::result::Result<Inventory, Error> {
    let row = session
        .query_one(
            "SELECT current_setting('server_version'), \
                    (SELECT system_identifier::text FROM pg_control_system()), \
                    pg_postmaster_start_time()::text, \
                    current_database()::text, pg_encoding_to_char(d.encoding)::text, \
                    pg_database_size(d.oid), \
                    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) \
             FROM pg_database d WHERE d.datname = current_database()",
            &[],
        )
        .await?;
    let (identifier, started): (String, String) = (row.get(1), row.get(2));
    Ok(Inventory {
        engine: "postgresql".into(),
        version: session.version(),
        version_text: row.get(0),
        server: format!("{identifier} {started}"),
        database: row.get(3),
        encoding: row.get(4),
        bytes: u64::try_from(row.get::<_, i64>(5)).unwrap_or(0),
        superuser: row.get(6),
        ..Inventory::default()
    })
}

/// How text is sorted by default, in words, and the version of those rules.
async fn locale(session: &Session) -> std::result::Result<(String, Option<String>), Error> {
    // Names of columns changed with nearly every version.
    let (provider, name, version) = match session.version() {
        170_000.. => ("datlocprovider", "datlocale", "pg_database_collation_actual_version(oid)"),
        150_000.. => {
            ("datlocprovider", "daticulocale", "pg_database_collation_actual_version(oid)")
        }
        _ => ("'c'", "NULL", "NULL::text"),
    };
    let sql = format!(
        "SELECT CASE {provider} WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END \
                || ' ' || coalesce({name}, datcollate)::text || ' (characters: ' || datctype || ')', \
                {version} FROM pg_database WHERE datname = current_database()"
    );
    let row = session.query_one(&sql, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

/// Two columns of text.
async fn pairs(
    session: &Session,
    sql: &str,
) -> std::result::Result<BTreeMap<String, String>, Error> {
    pairs_of(session, sql, &[]).await
}

async fn pairs_of(
    session: &Session,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> std::result::Result<BTreeMap<String, String>, Error> {
    let rows = session.query(sql, parameters).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Settings that are stored with the database, but for our own role's.
const SETTINGS: &str = "SELECT CASE WHEN s.setrole = 0 THEN '' \
                                    ELSE 'role ' || quote_ident(r.rolname) || ': ' END \
                               || split_part(c.setting, '=', 1), \
                               encode(sha256(convert_to(c.setting, 'UTF8')), 'hex') \
                        FROM pg_db_role_setting s \
                        JOIN pg_database d ON d.oid = s.setdatabase \
                        CROSS JOIN unnest(s.setconfig) c(setting) \
                        LEFT JOIN pg_roles r ON r.oid = s.setrole \
                        WHERE d.datname = current_database() \
                          AND r.rolname IS DISTINCT FROM current_user";

/// Settings of roles that may log in to this database, wherever they do, but for our own role's.
const ROLE_SETTINGS: &str = "SELECT r.rolname::text, split_part(c.setting, '=', 1), \
                                    encode(sha256(convert_to(c.setting, 'UTF8')), 'hex') \
                             FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole \
                             CROSS JOIN unnest(s.setconfig) c(setting) \
                             WHERE s.setdatabase = 0 AND r.rolcanlogin \
                               AND has_database_privilege(r.oid, current_database(), 'CONNECT') \
                               AND r.rolname <> current_user";

const EXTENSION_SCHEMAS: &str = "SELECT e.extname::text, n.nspname::text FROM pg_extension e \
                                 JOIN pg_namespace n ON n.oid = e.extnamespace";

/// Clients take the part of roles that cannot log in, too (`SET ROLE`): of those that were granted
/// something.
const DATABASE_RIGHTS: &str = "SELECT r.rolname::text, array_agg(p.name ORDER BY p.name), \
                                      r.rolcanlogin OR r.oid IN (SELECT a.grantee \
                                        FROM pg_database d, aclexplode(d.datacl) a \
                                        WHERE d.datname = current_database()) \
                               FROM pg_roles r \
                               CROSS JOIN (VALUES ('CONNECT'), ('CREATE'), ('TEMPORARY')) p(name) \
                               WHERE NOT r.rolsuper AND r.rolname <> current_user \
                                 AND has_database_privilege(r.oid, current_database(), p.name) \
                               GROUP BY r.oid, r.rolname, r.rolcanlogin";

/// Names of all schemas of users, sorted.
pub(crate) async fn schemas(session: &Session) -> std::result::Result<Vec<String>, Error> {
    let sql = format!("SELECT n.nspname::text FROM pg_namespace n WHERE {USER_SCHEMA}");
    texts(session, &sql, &[]).await
}

/// One column of text, sorted by bytes and without doubles.
async fn texts(
    session: &Session,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> std::result::Result<Vec<String>, Error> {
    let rows = session.query(sql, parameters).await?;
    let mut texts: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    texts.sort();
    texts.dedup();
    Ok(texts)
}

/// Owners, grantees and roles named in policies. `pg_shdepend` does not know the bootstrap
/// superuser, so owners come from the objects themselves.
fn needed_roles() -> String {
    let objects = [
        // Indexes belong to their table.
        (
            "pg_class",
            "relnamespace",
            "relowner",
            "o.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')",
        ),
        ("pg_proc", "pronamespace", "proowner", "true"),
        // Row types belong to their relation, array types to their element.
        (
            "pg_type",
            "typnamespace",
            "typowner",
            "o.typrelid = 0 AND NOT EXISTS (SELECT FROM pg_type e WHERE e.oid = o.typelem \
             AND e.typarray = o.oid)",
        ),
    ];
    let mut parts = vec![
        "SELECT nspowner FROM pg_namespace WHERE nspname = ANY ($1)".to_owned(),
        "SELECT s.refobjid FROM pg_shdepend s JOIN pg_namespace n ON n.oid = s.objid \
         WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
           AND s.classid = 'pg_namespace'::regclass AND s.refclassid = 'pg_authid'::regclass \
           AND n.nspname = ANY ($1)"
            .to_owned(),
        "SELECT unnest(p.polroles) FROM pg_policy p JOIN pg_class o ON o.oid = p.polrelid \
         JOIN pg_namespace n ON n.oid = o.relnamespace WHERE n.nspname = ANY ($1)"
            .to_owned(),
    ];
    for (class, namespace, owner, own) in objects {
        let of_extension = OF_EXTENSION.replace("$CLASS", &format!("'{class}'::regclass"));
        parts.push(format!(
            "SELECT o.{owner} FROM {class} o JOIN pg_namespace n ON n.oid = o.{namespace} \
             WHERE n.nspname = ANY ($1) AND {own} AND NOT {of_extension}"
        ));
        parts.push(format!(
            "SELECT s.refobjid FROM pg_shdepend s JOIN {class} o ON o.oid = s.objid \
             JOIN pg_namespace n ON n.oid = o.{namespace} \
             WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
               AND s.classid = '{class}'::regclass AND s.refclassid = 'pg_authid'::regclass \
               AND n.nspname = ANY ($1) AND NOT {of_extension}"
        ));
    }
    format!("SELECT r.rolname::text FROM pg_roles r WHERE r.oid IN ({})", parts.join(" UNION ALL "))
}

const OWNERS: &str = "SELECT r.rolname::text FROM unnest($1::text[], $2::text[]) w(s, t) \
                      JOIN pg_namespace n ON n.nspname = w.s \
                      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.t \
                      JOIN pg_roles r ON r.oid = c.relowner";

const OWNED_IN: &str = "SELECT DISTINCT w.s, r.rolname::text \
                        FROM unnest($1::text[], $2::text[]) w(s, t) \
                        JOIN pg_namespace n ON n.nspname = w.s \
                        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.t \
                        JOIN pg_roles r ON r.oid = c.relowner ORDER BY 1, 2";

const SCHEMA_OWNERS: &str = "SELECT n.nspname::text, r.rolname::text FROM pg_namespace n \
                             JOIN pg_roles r ON r.oid = n.nspowner \
                             WHERE n.nspname = ANY ($1) OR n.nspname !~ '^pg_' \
                               AND n.oid IN (SELECT extnamespace FROM pg_extension)";

const SCHEMA_GRANTS: &str = "SELECT n.nspname::text, coalesce(r.rolname::text, 'PUBLIC'), \
                                    a.privilege_type \
                             FROM pg_namespace n, aclexplode(n.nspacl) a \
                             LEFT JOIN pg_roles r ON r.oid = a.grantee \
                             WHERE n.nspname !~ '^pg_' AND a.grantee <> n.nspowner \
                               AND (a.grantee = 0 OR r.rolname <> current_user) ORDER BY 1, 2, 3";

const SCHEMAS_OF_OTHERS: &str = "SELECT nspname::text FROM pg_namespace \
                                 WHERE NOT pg_has_role(nspowner, 'USAGE')";

const FORCED: &str = "SELECT w.s, w.t FROM unnest($1::text[], $2::text[]) w(s, t) \
                      JOIN pg_namespace n ON n.nspname = w.s \
                      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.t \
                      WHERE c.relrowsecurity AND c.relforcerowsecurity ORDER BY 1, 2";

const COLLATIONS: &str = "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.collname) \
                          FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace \
                          WHERE c.collencoding IN (-1, (SELECT encoding FROM pg_database \
                                                        WHERE datname = current_database()))";

/// Enums, domains, ranges, composites and base types; no row types of tables, no array types.
fn types() -> String {
    let of_extension = OF_EXTENSION.replace("$CLASS", "'pg_type'::regclass");
    format!(
        "SELECT quote_ident(n.nspname) || '.' || quote_ident(o.typname) \
         FROM pg_type o JOIN pg_namespace n ON n.oid = o.typnamespace \
         LEFT JOIN pg_class c ON c.oid = o.typrelid \
         WHERE n.nspname = ANY ($1) AND o.typisdefined AND (c.oid IS NULL OR c.relkind = 'c') \
           AND NOT EXISTS (SELECT FROM pg_type e WHERE e.oid = o.typelem AND e.typarray = o.oid) \
           AND NOT {of_extension}"
    )
}

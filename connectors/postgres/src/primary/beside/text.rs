//! Queries for what is defined beside tables. Pure.
//!
//! Every part says: kind, class and number of the object, the relation it is or is on (or 0), its
//! name, all that its definition says, and whether another version may say the same otherwise.

use crate::catalog::USER_SCHEMA;

/// The rights `e` that `from` unfolds, but for those of our own role, which is granted what it needs
/// on one side or the other. A text `of` says what each of them is on.
/// Without a privilege that not all versions know (17), and that is in `ALL` of those that do.
fn rights(from: &str, of: &str) -> String {
    format!(
        "(SELECT string_agg(g, ',' ORDER BY g COLLATE \"C\") FROM (
           SELECT concat_ws(' ', {of}, CASE e.grantee WHEN 0 THEN 'public'
                            ELSE pg_get_userbyid(e.grantee)::text END,
                            e.privilege_type, e.is_grantable)
             FROM {from} WHERE e.grantee <> (SELECT oid FROM me)
                           AND e.privilege_type <> 'MAINTAIN') AS rights(g))"
    )
}

/// The owner and the rights of others; `kind` as `acldefault` calls it.
fn owned(owner: &str, acl: &str, kind: &str) -> String {
    let unfolded = format!("aclexplode(coalesce({acl}, acldefault({kind}, {owner}))) AS e");
    format!("concat_ws(' ', pg_get_userbyid({owner}), {})", rights(&unfolded, "NULL"))
}

const RELATION_KIND: &str = "CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
                             WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table' ELSE 'table' END";
const ROUTINE: &str = "CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate'
                       ELSE 'function' END";
const SIGNATURE: &str = "n.name || '.' || quote_ident(p.proname) || '(' ||
                         oidvectortypes(p.proargtypes) || ')'";
const RELATION: &str = "n.name || '.' || quote_ident(c.relname)";
const TYPE: &str = "n.name || '.' || quote_ident(t.typname)";
const KIND: &str = "CASE t.typtype WHEN 'd' THEN 'domain' ELSE 'type' END";
/// The smallest number of an object that the server did not bring.
const FIRST_OF_USERS: u32 = 16_384;
/// Types that somebody made by themselves: no row types, no types of arrays.
const TYPES: &str = "pg_type t JOIN ours n ON n.oid = t.typnamespace
    LEFT JOIN pg_class k ON k.oid = t.typrelid
    WHERE t.typtype IN ('d', 'e', 'r', 'c') AND (t.typtype <> 'c' OR k.relkind = 'c')";

fn functions() -> String {
    format!(
        "SELECT {ROUTINE}, 'pg_proc'::regclass::oid, p.oid, 0::oid, {SIGNATURE},
            CASE p.prokind WHEN 'a' THEN (
              SELECT concat_ws(' ', a.aggkind, a.aggtransfn, a.aggfinalfn, a.aggcombinefn,
                               format_type(a.aggtranstype, -1), a.aggmtransfn, a.agginitval)
                FROM pg_aggregate a WHERE a.aggfnoid = p.oid)
            ELSE pg_get_functiondef(p.oid) END, p.prosqlbody IS NOT NULL
         FROM pg_proc p JOIN ours n ON n.oid = p.pronamespace"
    )
}

/// But for those of a run, and for those of partitions, which follow their root.
fn triggers() -> String {
    format!(
        "SELECT 'trigger', 0::oid, g.oid, c.oid, quote_ident(g.tgname) || ' on ' || {RELATION},
            concat_ws(' ', g.tgenabled, pg_get_triggerdef(g.oid)), g.tgqual IS NOT NULL
         FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN ours n ON n.oid = c.relnamespace
         WHERE NOT g.tgisinternal AND g.tgparentid = 0 AND g.tgname !~ '^cutover_.*_fence$'
         UNION ALL SELECT 'event trigger', 'pg_event_trigger'::regclass, v.oid, 0,
            quote_ident(v.evtname),
            concat_ws(' ', v.evtevent, v.evtenabled, v.evtfoid::regprocedure, v.evttags), false
         FROM pg_event_trigger v JOIN pg_proc p ON p.oid = v.evtfoid
         JOIN ours n ON n.oid = p.pronamespace WHERE v.evtname !~ '^cutover_'"
    )
}

fn policies() -> String {
    format!(
        "SELECT 'policy', 0::oid, y.oid, c.oid, quote_ident(y.polname) || ' on ' || {RELATION},
            concat_ws(' ', y.polcmd, y.polpermissive,
              (SELECT string_agg(r, ',' ORDER BY r COLLATE \"C\") FROM (
                 SELECT CASE o WHEN 0 THEN 'public' ELSE pg_get_userbyid(o)::text END
                   FROM unnest(y.polroles) AS o) AS roles(r)),
              'using', pg_get_expr(y.polqual, c.oid), 'check', pg_get_expr(y.polwithcheck, c.oid)),
            true
         FROM pg_policy y JOIN pg_class c ON c.oid = y.polrelid JOIN ours n ON n.oid = c.relnamespace
         UNION ALL SELECT 'row-level security', 0, c.oid, c.oid, 'on ' || {RELATION},
            concat_ws(' ', c.relrowsecurity, c.relforcerowsecurity), false
         FROM pg_class c JOIN ours n ON n.oid = c.relnamespace
         WHERE c.relrowsecurity OR c.relforcerowsecurity"
    )
}

fn rules() -> String {
    format!(
        "SELECT 'rule', 0::oid, r.oid, c.oid, quote_ident(r.rulename) || ' on ' || {RELATION},
            concat_ws(' ', r.ev_enabled, pg_get_ruledef(r.oid)), true
         FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
         JOIN ours n ON n.oid = c.relnamespace WHERE r.rulename <> '_RETURN'"
    )
}

fn grants() -> String {
    let of_relation = owned(
        "c.relowner",
        "c.relacl",
        "(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END)::\"char\"",
    );
    let columns = "(SELECT * FROM pg_attribute WHERE attrelid = c.oid AND attacl IS NOT NULL) AS a,
                   aclexplode(a.attacl) AS e";
    let of_columns = rights(columns, "a.attname");
    let of_function = owned("p.proowner", "p.proacl", "'f'");
    let of_type = owned("t.typowner", "t.typacl", "'T'");
    let of_schema = owned("s.nspowner", "s.nspacl", "'n'");
    let of_default = rights("aclexplode(a.defaclacl) AS e", "NULL");
    format!(
        "SELECT 'grants on ' || {RELATION_KIND}, 'pg_class'::regclass::oid, c.oid, c.oid, {RELATION},
            concat_ws(' ', {of_relation},
              CASE WHEN c.oid IN (SELECT attrelid FROM pg_attribute WHERE attacl IS NOT NULL)
                   THEN {of_columns} END), false
         FROM pg_class c JOIN ours n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
         UNION ALL SELECT 'grants on ' || {ROUTINE}, 'pg_proc'::regclass, p.oid, 0, {SIGNATURE},
            {of_function}, false
         FROM pg_proc p JOIN ours n ON n.oid = p.pronamespace
         UNION ALL SELECT 'grants on ' || {KIND}, 'pg_type'::regclass, t.oid, 0, {TYPE}, {of_type}, false
         FROM {TYPES}
         UNION ALL SELECT 'schema', 'pg_namespace'::regclass, s.oid, 0, n.name, {of_schema}, true
         FROM pg_namespace s JOIN ours n ON n.oid = s.oid
         UNION ALL SELECT 'default grants', 0, a.oid, 0,
            concat_ws(' ', 'of', quote_ident(pg_get_userbyid(a.defaclrole)), 'in ' || n.name, 'on',
              CASE a.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences'
                WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types' ELSE 'others' END),
            {of_default}, false
         FROM pg_default_acl a LEFT JOIN ours n ON n.oid = a.defaclnamespace
         WHERE n.oid IS NOT NULL OR a.defaclnamespace = 0"
    )
}

/// What is in the definition of a table, and in no comparison of it. Partitions follow their root.
fn of_tables() -> String {
    format!(
        "SELECT 'index', 0::oid, x.oid, c.oid, n.name || '.' || quote_ident(x.relname),
            pg_get_indexdef(x.oid), i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
         FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
         JOIN pg_class c ON c.oid = i.indrelid JOIN ours n ON n.oid = c.relnamespace
         WHERE NOT x.relispartition AND (i.indisvalid OR x.relkind = 'I')
           AND NOT EXISTS (SELECT FROM pg_constraint k
                            WHERE k.conindid = x.oid AND k.contype IN ('p', 'u', 'x'))
         UNION ALL SELECT 'constraint', 0, k.oid, c.oid,
            quote_ident(k.conname) || ' on ' || {RELATION}, pg_get_constraintdef(k.oid),
            k.contype IN ('c', 'x')
         FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
         JOIN ours n ON n.oid = c.relnamespace
         WHERE k.contype IN ('c', 'f', 'u', 'x') AND k.conparentid = 0 AND k.conislocal
         UNION ALL SELECT 'default', 0, d.oid, c.oid,
            'of ' || quote_ident(a.attname) || ' on ' || {RELATION},
            pg_get_expr(d.adbin, d.adrelid), true
         FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid JOIN ours n ON n.oid = c.relnamespace
         JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
         WHERE NOT c.relispartition
         UNION ALL SELECT 'statistics', 'pg_statistic_ext'::regclass, x.oid, c.oid,
            n.name || '.' || quote_ident(x.stxname), pg_get_statisticsobjdef(x.oid), true
         FROM pg_statistic_ext x JOIN pg_class c ON c.oid = x.stxrelid
         JOIN ours n ON n.oid = x.stxnamespace"
    )
}

fn others() -> String {
    format!(
        "SELECT {KIND}, 'pg_type'::regclass::oid,
            t.oid, 0::oid, {TYPE},
            CASE t.typtype
            WHEN 'd' THEN concat_ws(' ', format_type(t.typbasetype, t.typtypmod), t.typnotnull,
              t.typdefault, (SELECT string_agg(quote_ident(conname) || pg_get_constraintdef(oid),
                                               ',' ORDER BY conname)
                               FROM pg_constraint WHERE contypid = t.oid AND contype = 'c'))
            WHEN 'e' THEN (SELECT string_agg(quote_literal(enumlabel), ',' ORDER BY enumsortorder)
                             FROM pg_enum WHERE enumtypid = t.oid)
            WHEN 'r' THEN (SELECT concat_ws(' ', format_type(rngsubtype, -1), rngcanonical,
                                            rngsubdiff) FROM pg_range WHERE rngtypid = t.oid)
            ELSE (SELECT string_agg(quote_ident(attname) || ' ' || format_type(atttypid, atttypmod),
                                    ',' ORDER BY attnum)
                    FROM pg_attribute WHERE attrelid = t.typrelid AND NOT attisdropped) END,
            t.typtype = 'd'
         FROM {TYPES}
         UNION ALL SELECT 'sequence', 'pg_class'::regclass, c.oid, c.oid, {RELATION},
            concat_ws(' ', format_type(q.seqtypid, -1), q.seqincrement, q.seqmin, q.seqmax,
                      q.seqcache, q.seqcycle), false
         FROM pg_sequence q JOIN pg_class c ON c.oid = q.seqrelid
         JOIN ours n ON n.oid = c.relnamespace
         WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                              AND d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0)
         UNION ALL SELECT 'extension', 0, x.oid, 0, quote_ident(x.extname), x.extversion, false
         FROM pg_extension x"
    )
}

/// What the options of relations, of what they keep out of line, and of columns say, but for one that
/// servers set by themselves. Few columns have any: they are looked for once, and not per table.
fn storage() -> String {
    let options = |of: &str| {
        format!(
            "(SELECT string_agg(o, ',' ORDER BY o COLLATE \"C\") FROM unnest({of}) AS o
               WHERE o !~ '^pg_attver=')"
        )
    };
    let (own, toast, column) =
        (options("c.reloptions"), options("k.reloptions"), options("a.attoptions"));
    format!(
        "SELECT 'storage parameters on ' || CASE WHEN c.relkind IN ('i', 'I') THEN 'index'
              ELSE {RELATION_KIND} END, 'pg_class'::regclass::oid, c.oid,
            coalesce(i.indrelid, c.oid), {RELATION},
            concat_ws(' ', {own}, 'toast', {toast}, 'columns', d.list), false
         FROM pg_class c JOIN ours n ON n.oid = c.relnamespace
         LEFT JOIN pg_class k ON k.oid = c.reltoastrelid LEFT JOIN pg_index i ON i.indexrelid = c.oid
         LEFT JOIN (
           SELECT s.attrelid,
                  string_agg(concat_ws(' ', quote_ident(s.attname), s.said), ',' ORDER BY s.attnum)
             FROM (SELECT a.attrelid, a.attnum, a.attname,
                          nullif(concat_ws(' ', nullif(a.attstattarget, -1), {column},
                                           nullif(a.attcompression, ''),
                                           nullif(a.attstorage, t.typstorage)), '') AS said
                     FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                    WHERE a.attnum > 0 AND NOT a.attisdropped
                      AND (a.attstattarget <> -1 OR a.attoptions IS NOT NULL
                           OR a.attcompression <> '' OR a.attstorage <> t.typstorage)) AS s
            WHERE s.said IS NOT NULL GROUP BY s.attrelid) AS d(of, list)
           ON d.of = c.oid AND c.relkind IN ('r', 'p', 'm')
         WHERE c.relkind IN ('r', 'p', 'm', 'i', 'I')
           AND (c.reloptions IS NOT NULL OR k.reloptions IS NOT NULL OR d.list IS NOT NULL)"
    )
}

/// What operators, casts, collations and text search are made of.
fn tools() -> String {
    format!(
        "SELECT 'operator', 'pg_operator'::regclass::oid, o.oid, 0::oid,
            n.name || '.' || o.oprname || '(' ||
              CASE o.oprleft WHEN 0 THEN 'none' ELSE format_type(o.oprleft, -1) END || ',' ||
              CASE o.oprright WHEN 0 THEN 'none' ELSE format_type(o.oprright, -1) END || ')',
            concat_ws(' ', pg_get_userbyid(o.oprowner), o.oprcode, o.oprrest, o.oprjoin,
                      o.oprcom::regoperator, o.oprnegate::regoperator, o.oprcanmerge, o.oprcanhash),
            false
         FROM pg_operator o JOIN ours n ON n.oid = o.oprnamespace
         UNION ALL SELECT 'operator class', 'pg_opclass'::regclass, o.oid, 0,
            n.name || '.' || quote_ident(o.opcname) || ' for ' || m.amname,
            concat_ws(' ', pg_get_userbyid(o.opcowner), format_type(o.opcintype, -1), o.opcdefault,
                      format_type(o.opckeytype, -1), quote_ident(f.opfname)), false
         FROM pg_opclass o JOIN ours n ON n.oid = o.opcnamespace JOIN pg_am m ON m.oid = o.opcmethod
         JOIN pg_opfamily f ON f.oid = o.opcfamily
         UNION ALL SELECT 'operator family', 'pg_opfamily'::regclass, f.oid, 0,
            n.name || '.' || quote_ident(f.opfname) || ' for ' || m.amname,
            concat_ws(' ', pg_get_userbyid(f.opfowner),
              (SELECT string_agg(concat_ws(' ', o.amopstrategy, o.amoppurpose,
                                           o.amopopr::regoperator), ','
                                 ORDER BY o.amopstrategy, o.amopopr::regoperator::text COLLATE \"C\")
                 FROM pg_amop o WHERE o.amopfamily = f.oid),
              (SELECT string_agg(concat_ws(' ', p.amprocnum, format_type(p.amproclefttype, -1),
                                           format_type(p.amprocrighttype, -1), p.amproc), ','
                                 ORDER BY p.amprocnum, format_type(p.amproclefttype, -1) COLLATE \"C\",
                                          format_type(p.amprocrighttype, -1) COLLATE \"C\")
                 FROM pg_amproc p WHERE p.amprocfamily = f.oid)), false
         FROM pg_opfamily f JOIN ours n ON n.oid = f.opfnamespace
         JOIN pg_am m ON m.oid = f.opfmethod
         UNION ALL SELECT 'cast', 'pg_cast'::regclass, x.oid, 0,
            'of ' || format_type(x.castsource, -1) || ' to ' || format_type(x.casttarget, -1),
            concat_ws(' ', x.castcontext, x.castmethod,
                      CASE WHEN x.castfunc <> 0 THEN x.castfunc::regprocedure END), false
         FROM pg_cast x WHERE x.oid >= {FIRST_OF_USERS}
         UNION ALL SELECT 'collation', 'pg_collation'::regclass, l.oid, 0,
            n.name || '.' || quote_ident(l.collname),
            concat_ws(' ', pg_get_userbyid(l.collowner), l.collprovider, l.collisdeterministic,
                      l.collencoding, l.collcollate, l.collctype, to_jsonb(l) ->> 'colllocale',
                      to_jsonb(l) ->> 'colliculocale', to_jsonb(l) ->> 'collicurules'), true
         FROM pg_collation l JOIN ours n ON n.oid = l.collnamespace
         UNION ALL SELECT 'text search configuration', 'pg_ts_config'::regclass, g.oid, 0,
            n.name || '.' || quote_ident(g.cfgname),
            concat_ws(' ', pg_get_userbyid(g.cfgowner), p.prsname,
              (SELECT string_agg(concat_ws(' ', m.maptokentype, m.mapdict::regdictionary), ','
                                 ORDER BY m.maptokentype, m.mapseqno)
                 FROM pg_ts_config_map m WHERE m.mapcfg = g.oid)), false
         FROM pg_ts_config g JOIN ours n ON n.oid = g.cfgnamespace
         JOIN pg_ts_parser p ON p.oid = g.cfgparser
         UNION ALL SELECT 'text search dictionary', 'pg_ts_dict'::regclass, d.oid, 0,
            n.name || '.' || quote_ident(d.dictname),
            concat_ws(' ', pg_get_userbyid(d.dictowner), t.tmplname, d.dictinitoption), false
         FROM pg_ts_dict d JOIN ours n ON n.oid = d.dictnamespace
         JOIN pg_ts_template t ON t.oid = d.dicttemplate"
    )
}

/// Comments: those on a relation with all that it consists of together, of which there may be many.
fn comments() -> String {
    let of_object = |class: &str, id: &str| {
        format!(
            "(SELECT description FROM pg_description
               WHERE classoid = '{class}'::regclass AND objoid = {id} AND objsubid = 0)"
        )
    };
    let (of_function, of_type, of_schema) = (
        of_object("pg_proc", "p.oid"),
        of_object("pg_type", "t.oid"),
        of_object("pg_namespace", "s.oid"),
    );
    format!(
        "SELECT 'comments on ' || {RELATION_KIND}, 'pg_class'::regclass::oid, c.oid, c.oid, {RELATION},
            string_agg(concat_ws(' ', w.what, quote_literal(d.description)), ','
                       ORDER BY w.what COLLATE \"C\"), false
         FROM (SELECT * FROM pg_description WHERE objoid >= {FIRST_OF_USERS}) AS d
         CROSS JOIN LATERAL (
           SELECT a.attrelid AS of, 'column ' || quote_ident(a.attname) AS what FROM pg_attribute a
            WHERE d.classoid = 'pg_class'::regclass AND a.attrelid = d.objoid
              AND a.attnum = d.objsubid AND d.objsubid > 0 AND NOT a.attisdropped
           UNION ALL SELECT coalesce(i.indrelid, k.oid),
                            CASE WHEN i.indrelid <> 0 THEN 'index ' || quote_ident(k.relname) END
             FROM pg_class k LEFT JOIN pg_index i ON i.indexrelid = k.oid
            WHERE d.classoid = 'pg_class'::regclass AND d.objsubid = 0 AND k.oid = d.objoid
           UNION ALL SELECT k.conrelid, 'constraint ' || quote_ident(k.conname) FROM pg_constraint k
            WHERE d.classoid = 'pg_constraint'::regclass AND k.oid = d.objoid
           UNION ALL SELECT g.tgrelid, 'trigger ' || quote_ident(g.tgname) FROM pg_trigger g
            WHERE d.classoid = 'pg_trigger'::regclass AND g.oid = d.objoid
              AND g.tgname !~ '^cutover_.*_fence$'
           UNION ALL SELECT y.polrelid, 'policy ' || quote_ident(y.polname) FROM pg_policy y
            WHERE d.classoid = 'pg_policy'::regclass AND y.oid = d.objoid
           UNION ALL SELECT r.ev_class, 'rule ' || quote_ident(r.rulename) FROM pg_rewrite r
            WHERE d.classoid = 'pg_rewrite'::regclass AND r.oid = d.objoid
         ) AS w
         JOIN pg_class c ON c.oid = w.of JOIN ours n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
         GROUP BY c.oid, c.relkind, c.relname, n.name
         UNION ALL SELECT 'comments on ' || {ROUTINE}, 'pg_proc'::regclass, p.oid, 0, {SIGNATURE},
            {of_function}, false
         FROM pg_proc p JOIN ours n ON n.oid = p.pronamespace WHERE {of_function} IS NOT NULL
         UNION ALL SELECT 'comments on ' || {KIND}, 'pg_type'::regclass, t.oid, 0, {TYPE},
            {of_type}, false
         FROM {TYPES} AND {of_type} IS NOT NULL
         UNION ALL SELECT 'comments on schema', 'pg_namespace'::regclass, s.oid, 0, n.name,
            {of_schema}, false
         FROM pg_namespace s JOIN ours n ON n.oid = s.oid WHERE {of_schema} IS NOT NULL"
    )
}

/// Everything but views, in the schemas `$1`.
pub(super) fn objects() -> String {
    let parts = [
        functions(),
        triggers(),
        policies(),
        rules(),
        grants(),
        of_tables(),
        others(),
        storage(),
        tools(),
        comments(),
    ];
    around(&parts.join("\nUNION ALL "), "")
}

/// Views in the schemas `$1` with a number above `$2`, at most `$3`.
pub(super) fn views() -> String {
    let next = format!(
        "SELECT CASE c.relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END,
            'pg_class'::regclass::oid, c.oid, c.oid, {RELATION},
            concat_ws(' ', c.reloptions, pg_get_viewdef(c.oid)), true
         FROM (SELECT * FROM pg_class v
                WHERE v.relkind IN ('v', 'm') AND v.oid > $2::oid
                  AND v.relnamespace IN (SELECT oid FROM ours) ORDER BY v.oid LIMIT $3::int8) AS c
         JOIN ours n ON n.oid = c.relnamespace"
    );
    around(&next, "ORDER BY id")
}

/// Adds where each object belongs, and whether an extension brought it.
fn around(parts: &str, order: &str) -> String {
    format!(
        "WITH ours AS MATERIALIZED (
           SELECT n.oid, quote_ident(n.nspname) AS name FROM pg_namespace n
            WHERE n.nspname = ANY ($1::text[]) AND {USER_SCHEMA}),
         me AS MATERIALIZED (SELECT oid FROM pg_roles WHERE rolname = current_user)
         SELECT o.kind || ' ' || o.name AS name, o.id, o.rendered,
                hashtextextended(coalesce(o.definition, '') COLLATE \"C\", 0)::text AS digest,
                coalesce(c.relkind IN ('r', 'p'), false) AS is_table,
                cn.nspname::text AS schema, c.relname::text AS relation,
                rn.nspname::text AS root_schema, r.relname::text AS root,
                EXISTS (SELECT FROM pg_depend d WHERE d.deptype = 'e' AND d.classid = o.class
                           AND d.objid = o.id)
                OR EXISTS (SELECT FROM pg_depend d WHERE d.deptype = 'e'
                              AND d.classid = 'pg_class'::regclass AND d.objid = o.rel) AS extended
         FROM ({parts}) AS o(kind, class, id, rel, name, definition, rendered)
         LEFT JOIN pg_class c ON c.oid = o.rel LEFT JOIN pg_namespace cn ON cn.oid = c.relnamespace
         LEFT JOIN pg_class r ON c.relispartition AND r.oid = pg_partition_root(c.oid)
         LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace {order}"
    )
}

//! The event triggers as SQL. Pure.

use cutover_core::model::run::RunId;

use crate::{
    catalog,
    sql::{self, Names, PASS_SETTING},
};

/// The events, and the endings of their triggers' names.
pub(super) const EVENTS: [(&str, &str); 3] =
    [("ddl_command_end", "end"), ("sql_drop", "drop"), ("table_rewrite", "rewrite")];

/// Schemas of users, as a condition on a name.
fn user_schema(name: &str) -> String {
    format!("({name} !~ '^(pg_|cutover_)' AND {name} <> 'information_schema')")
}

/// What a table is like, as one `jsonb`: everything that decides which rows it can hold, and what
/// is needed to make it so elsewhere. `oid` is an expression. Names are written with their schema
/// only where the search path is that of our sessions or empty.
pub(super) fn table(oid: &str) -> String {
    format!(
        "(SELECT jsonb_build_object(
  'schema', n.nspname, 'name', c.relname, 'kind', c.relkind, 'persistence', c.relpersistence,
  'owner', pg_get_userbyid(c.relowner),
  'grants', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                      'to', CASE WHEN e.grantee <> 0 THEN pg_get_userbyid(e.grantee) END,
                      'what', e.privilege_type, 'on', e.is_grantable)), '[]')
               FROM aclexplode(c.relacl) e WHERE e.grantee <> c.relowner),
  'root', (SELECT jsonb_build_object('schema', m.nspname, 'name', r.relname)
             FROM pg_class r JOIN pg_namespace m ON m.oid = r.relnamespace
            WHERE c.relispartition AND r.oid = pg_partition_root(c.oid)),
  'parents', (SELECT coalesce(jsonb_agg(jsonb_build_object('schema', m.nspname, 'name', p.relname)
                                        ORDER BY i.inhseqno), '[]')
                FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
                JOIN pg_namespace m ON m.oid = p.relnamespace WHERE i.inhrelid = c.oid),
  'bound', pg_get_expr(c.relpartbound, c.oid), 'key', pg_get_partkeydef(c.oid),
  'partitions', ({below}
                 SELECT coalesce(jsonb_agg(jsonb_build_object(
                          'schema', m.nspname, 'name', p.relname,
                          'bound', pg_get_expr(p.relpartbound, p.oid),
                          'defaults', {own},
                          'parent', CASE WHEN below.parent <> c.oid THEN jsonb_build_object(
                              'schema', v.nspname, 'name', u.relname) END)
                          ORDER BY m.nspname, p.relname), '[]')
                   FROM below JOIN pg_class p ON p.oid = below.oid
                   JOIN pg_namespace m ON m.oid = p.relnamespace
                   JOIN pg_class u ON u.oid = below.parent
                   JOIN pg_namespace v ON v.oid = u.relnamespace),
  'leaves', ({below}
             SELECT coalesce(jsonb_agg(jsonb_build_object('schema', m.nspname, 'name', l.relname)),
                             '[]')
               FROM below JOIN pg_class l ON l.oid = below.oid
               JOIN pg_namespace m ON m.oid = l.relnamespace WHERE l.relkind = 'r'),
  'heirs', ({heirs}
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                     'schema', m.nspname, 'name', p.relname, 'bound', '', 'defaults', {own})
                     ORDER BY m.nspname, p.relname), '[]')
              FROM below JOIN pg_class p ON p.oid = below.oid
              JOIN pg_namespace m ON m.oid = p.relnamespace WHERE p.relkind = 'r'),
  'columns', (SELECT coalesce(jsonb_agg(jsonb_build_object(
        'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'domain', t.typtype = 'd',
        'not_null', a.attnotnull, 'generated', a.attgenerated, 'identity', a.attidentity,
        'collation', CASE WHEN a.attcollation <> t.typcollation THEN
           (SELECT quote_ident(m.nspname) || '.' || quote_ident(o.collname) FROM pg_collation o
              JOIN pg_namespace m ON m.oid = o.collnamespace WHERE o.oid = a.attcollation) END,
        'expression', pg_get_expr(d.adbin, d.adrelid),
        'missing', CASE WHEN a.atthasmissing THEN (a.attmissingval::text::text[])[1]
           WHEN c.relkind = 'p' THEN
             ({below} SELECT (l.attmissingval::text::text[])[1] FROM below
                JOIN pg_attribute l ON l.attrelid = below.oid AND l.attname = a.attname
               WHERE l.atthasmissing LIMIT 1) END)
      ORDER BY a.attnum), '[]')
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'indexes', (SELECT coalesce(jsonb_object_agg(x.relname, pg_get_indexdef(x.oid)), '{{}}')
                FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
               WHERE i.indrelid = c.oid AND i.indisvalid AND NOT x.relispartition
                 AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.oid
                                    AND k.contype IN ('p', 'u', 'x'))),
  'constraints', (SELECT coalesce(jsonb_object_agg(k.conname, pg_get_constraintdef(k.oid)), '{{}}')
                    FROM pg_constraint k WHERE k.conrelid = c.oid AND k.conparentid = 0
                     AND k.contype IN ('p', 'u', 'x', 'c', 'f')))
 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {oid})",
        below = BELOW,
        heirs = HEIRS,
        own = OWN_DEFAULTS
    )
}

/// What inherits from the table `c`, which is not partitioned; through two parents once.
const HEIRS: &str = "WITH RECURSIVE below(oid) AS (
    SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = c.oid AND c.relkind = 'r'
    UNION SELECT i.inhrelid FROM below JOIN pg_inherits i ON i.inhparent = below.oid)";

/// Defaults in which the partition or heir `p` is unlike the table `c` above it.
const OWN_DEFAULTS: &str = "
    (SELECT coalesce(jsonb_object_agg(a.attname, pg_get_expr(d.adbin, d.adrelid)), '{}')
       FROM pg_attribute a
       JOIN pg_attribute o ON o.attrelid = c.oid AND o.attname = a.attname
       LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
       LEFT JOIN pg_attrdef e ON e.adrelid = o.attrelid AND e.adnum = o.attnum
      WHERE a.attrelid = p.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        AND (d.oid IS NOT NULL OR e.oid IS NOT NULL)
        AND pg_get_expr(d.adbin, d.adrelid) IS DISTINCT FROM pg_get_expr(e.adbin, e.adrelid))";

/// What is below the partitioned table `c`. Not by `pg_partition_tree`, whose locks a client that
/// defines something may be waiting for while we wait for its own.
const BELOW: &str = "WITH RECURSIVE below(oid, parent) AS (
    SELECT i.inhrelid, i.inhparent FROM pg_inherits i
     WHERE i.inhparent = c.oid AND c.relkind = 'p' AND NOT i.inhdetachpending
    UNION ALL SELECT i.inhrelid, i.inhparent FROM below
      JOIN pg_inherits i ON i.inhparent = below.oid AND NOT i.inhdetachpending)";

/// What a type is like, as one `jsonb`.
pub(super) fn user_type(oid: &str) -> String {
    format!(
        "(SELECT jsonb_build_object('schema', n.nspname, 'name', t.typname, 'kind', t.typtype,
  'labels', (SELECT coalesce(jsonb_agg(e.enumlabel ORDER BY e.enumsortorder), '[]')
               FROM pg_enum e WHERE e.enumtypid = t.oid),
  'attributes', (SELECT coalesce(jsonb_agg(quote_ident(a.attname) || ' ' ||
                                           format_type(a.atttypid, a.atttypmod)
                                           ORDER BY a.attnum), '[]')
                   FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid
                    AND a.attnum > 0 AND NOT a.attisdropped),
  'base', CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
  'default', pg_get_expr(t.typdefaultbin, 0),
  'checks', (SELECT coalesce(jsonb_object_agg(k.conname, pg_get_constraintdef(k.oid)), '{{}}')
               FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'),
  'not_null', t.typnotnull, 'owner', pg_get_userbyid(t.typowner),
  'definition', CASE t.typtype
    WHEN 'c' THEN (SELECT coalesce(string_agg(
        quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
          || {attribute}, ', ' ORDER BY a.attnum), '')
      FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
     WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)
    WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod)
      || (SELECT {domain} FROM pg_type y WHERE y.oid = t.typbasetype)
      || coalesce(' DEFAULT ' || pg_get_expr(t.typdefaultbin, 0), '')
      || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
      || (SELECT coalesce(string_agg(' CONSTRAINT ' || quote_ident(k.conname) || ' '
             || regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', ''), '' ORDER BY k.conname), '')
            FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c')
    WHEN 'r' THEN (SELECT 'SUBTYPE = ' || format_type(r.rngsubtype, NULL)
      || CASE WHEN o.opcdefault THEN '' ELSE ', SUBTYPE_OPCLASS = ' || quote_ident(m.nspname)
           || '.' || quote_ident(o.opcname) END
      || {range}
      || CASE WHEN r.rngsubdiff = 0 THEN '' ELSE ', SUBTYPE_DIFF = ' || r.rngsubdiff::regproc END
      || (SELECT ', MULTIRANGE_TYPE_NAME = ' || quote_ident(q.nspname) || '.' || quote_ident(u.typname)
            FROM pg_type u JOIN pg_namespace q ON q.oid = u.typnamespace WHERE u.oid = r.rngmultitypid)
      FROM pg_range r JOIN pg_opclass o ON o.oid = r.rngsubopc
      JOIN pg_namespace m ON m.oid = o.opcnamespace JOIN pg_type y ON y.oid = r.rngsubtype
     WHERE r.rngtypid = t.oid AND r.rngcanonical = 0
       AND NOT EXISTS (SELECT FROM pg_proc f JOIN pg_namespace g ON g.oid = f.pronamespace
                        WHERE f.oid = r.rngsubdiff AND g.nspname <> 'pg_catalog')) END)
 FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = {oid})",
        attribute = collation("a.attcollation", " COLLATE "),
        domain = collation("t.typcollation", " COLLATE "),
        range = collation("r.rngcollation", ", COLLATION = "),
    )
}

/// A collation behind a word, where it is not that of the type `y`.
fn collation(oid: &str, word: &str) -> String {
    format!(
        "coalesce((SELECT '{word}' || quote_ident(w.nspname) || '.' || quote_ident(v.collname)
           FROM pg_collation v JOIN pg_namespace w ON w.oid = v.collnamespace
          WHERE v.oid = {oid} AND v.oid <> y.typcollation), '')"
    )
}

/// Types of users that these tables rest on, what those rest on first: schema, name, and what the
/// type is like. `$1` are the names of the tables. Extensions bring their own.
pub(super) fn types_below() -> String {
    format!(
        "WITH RECURSIVE used(oid) AS (
  SELECT a.atttypid FROM unnest($1::text[]) AS w(name)
    JOIN pg_attribute a ON a.attrelid = to_regclass(w.name) AND a.attnum > 0
     AND NOT a.attisdropped
  UNION SELECT x.oid FROM used JOIN pg_type t ON t.oid = used.oid CROSS JOIN LATERAL (
    SELECT t.typelem AS oid UNION ALL SELECT t.typbasetype
    UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE t.typtype = 'c'
       AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
    UNION ALL SELECT r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid) x
   WHERE x.oid <> 0)
SELECT s.nspname::text, o.typname::text, {}::text FROM used JOIN pg_type o ON o.oid = used.oid
  JOIN pg_namespace s ON s.oid = o.typnamespace
 WHERE o.typtype IN ('e', 'd', 'c', 'r') AND {}
   AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = o.typrelid AND c.relkind <> 'c')
   AND NOT EXISTS (SELECT FROM pg_depend p WHERE p.classid = 'pg_type'::regclass
                      AND p.objid = o.oid AND p.deptype = 'e')
 ORDER BY o.oid",
        user_type("o.oid"),
        user_schema("s.nspname")
    )
}

/// Tables with a column of a type, of an array of it, or of a domain over it.
pub(super) fn users_of_type(oid: &str) -> String {
    format!(
        "(SELECT jsonb_agg(DISTINCT jsonb_build_object('schema', m.nspname, 'name', u.relname))
   FROM pg_attribute a JOIN pg_class u ON u.oid = a.attrelid
   JOIN pg_namespace m ON m.oid = u.relnamespace JOIN pg_type y ON y.oid = a.atttypid
  WHERE u.relkind IN ('r', 'p') AND u.relpersistence <> 't' AND NOT a.attisdropped
    AND {oid} IN (y.oid, y.typelem, y.typbasetype))"
    )
}

/// Whether `$1` is a type of users on which nothing rests but what comes with it.
pub(super) const FREE_TYPE: &str = "
    SELECT EXISTS (SELECT FROM pg_type t LEFT JOIN pg_range r ON r.rngtypid = t.oid
      CROSS JOIN LATERAL (SELECT ARRAY[t.oid, t.typarray, r.rngmultitypid]) AS it(oids)
      WHERE t.oid = to_regtype($1) AND t.typtype IN ('e', 'd', 'c', 'r')
        AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind <> 'c')
        AND NOT EXISTS (SELECT FROM pg_depend p WHERE p.classid = 'pg_type'::regclass
              AND p.objid = t.oid AND p.deptype = 'e')
        AND NOT EXISTS (SELECT FROM pg_depend p WHERE p.refclassid = 'pg_type'::regclass
              AND p.refobjid = ANY (it.oids) AND p.deptype = 'n'
              AND NOT EXISTS (SELECT FROM pg_depend q WHERE q.refclassid = 'pg_type'::regclass
                    AND q.refobjid = ANY (it.oids) AND q.deptype = 'i'
                    AND (q.classid, q.objid) = (p.classid, p.objid))))";

/// What one event has to say: a query that gives `items`.
fn items(event: &str, names: &Names) -> String {
    match event {
        "ddl_command_end" => format!(
            "SELECT jsonb_agg(i.item ORDER BY i.n) FROM (
      SELECT 1 AS n, jsonb_build_object('what', 'table', 'created', w.created,
                                        'since', {since}, 'table', {image}) AS item
        FROM (SELECT coalesce(x.indrelid, k.oid) AS oid,
                     bool_or(x.indrelid IS NULL
                             AND d.command_tag ~ '^(CREATE TABLE|SELECT INTO)') AS created
                FROM pg_event_trigger_ddl_commands() d
                JOIN pg_class k ON d.classid = 'pg_class'::regclass AND k.oid = d.objid
                LEFT JOIN pg_index x ON x.indexrelid = k.oid
                JOIN pg_namespace s ON s.oid = k.relnamespace
               WHERE k.relkind IN ('r', 'p', 'i', 'I') AND k.relpersistence <> 't'
                 AND NOT d.in_extension AND {schema}
               GROUP BY 1
              UNION (
               -- Another name of a schema is one of all that is in it: some tables tell.
              SELECT k.oid, false FROM pg_event_trigger_ddl_commands() d
                JOIN pg_namespace s ON d.classid = 'pg_namespace'::regclass AND s.oid = d.objid
                JOIN pg_class k ON k.relkind IN ('r', 'p') AND k.relpersistence <> 't'
                 AND (k.relnamespace = s.oid OR k.oid IN (
                   SELECT a.attrelid FROM pg_type t
                     JOIN pg_type y ON t.oid IN (y.oid, y.typelem, y.typbasetype)
                     JOIN pg_attribute a ON a.atttypid = y.oid AND NOT a.attisdropped
                    WHERE t.typnamespace = s.oid))
               WHERE d.command_tag = 'ALTER SCHEMA' AND NOT d.in_extension AND {schema}
                 AND {carried} IS NOT NULL LIMIT 10)) w
      UNION ALL
      SELECT 2, jsonb_build_object('what', 'type', 'type', {typed},
                                   'tables', coalesce({users}, '[]'))
        FROM (SELECT DISTINCT t.oid AS objid FROM pg_event_trigger_ddl_commands() d
                LEFT JOIN pg_class k ON d.classid = 'pg_class'::regclass AND k.oid = d.objid
                 AND k.relkind = 'c'
                JOIN pg_type t ON t.oid = k.reltype
                  OR d.classid = 'pg_type'::regclass AND t.oid = d.objid
                JOIN pg_namespace s ON s.oid = t.typnamespace
               WHERE NOT d.in_extension AND {schema}) o) i",
            image = table("w.oid"),
            since = catalog::since("w.oid", names),
            carried = catalog::since("k.oid", names),
            typed = user_type("o.objid"),
            users = users_of_type("o.objid"),
            schema = user_schema("s.nspname"),
        ),
        // A column's or a constraint's address is schema, table, name; that of a type one text, and
        // that of a domain's constraint such a text and a name. What goes with a table or another
        // type says nothing.
        "sql_drop" => format!(
            "SELECT jsonb_agg(jsonb_build_object('what', 'dropped', 'type', d.object_type,
          'schema', n.names[1], 'name', n.names[2], 'part', n.names[3]))
      FROM pg_event_trigger_dropped_objects() d
      CROSS JOIN LATERAL (SELECT CASE d.object_type WHEN 'type'
        THEN ARRAY[d.schema_name, d.object_name]
        WHEN 'domain constraint' THEN parse_ident(d.address_names[1]) || d.address_args[1]
        ELSE d.address_names END) n(names)
     WHERE (d.object_type IN ('table', 'index', 'table column', 'table constraint',
                              'domain constraint')
            OR d.object_type = 'type' AND (d.original OR d.normal))
       AND NOT d.is_temporary AND {}",
            user_schema("n.names[1]")
        ),
        _ => format!(
            "SELECT jsonb_agg(jsonb_build_object('what', 'rewrite', 'reason', pg_event_trigger_table_rewrite_reason()))
      FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
     WHERE c.oid = pg_event_trigger_table_rewrite_oid() AND c.relpersistence <> 't' AND {}",
            user_schema("s.nspname")
        ),
    }
}

/// Name of the function, which all triggers share.
pub(super) fn function(names: &Names) -> String {
    format!("{}.{}", sql::ident(names.schema()), sql::ident(&names.definitions()))
}

/// Name of the trigger with this ending.
pub(super) fn trigger(names: &Names, ending: &str) -> String {
    format!("{}_{ending}", names.definitions())
}

/// Schema, function and triggers. The settings are those under which our sessions read the same
/// texts. When something cannot be told, that is told: whoever reads it must not go on. A message
/// is bytes to the server, so they are made UTF-8 here.
///
/// An empty message follows each: the server sorts changes of subtransactions by where rows begin
/// and where messages end, so that a message right before a row of another subtransaction has no
/// order with it (`logicalmsg_decode` and `ReorderBufferIterCompare`).
pub(super) fn create(run: &RunId, names: &Names) -> String {
    let prefix = sql::literal(&names.definitions());
    let branches: String = EVENTS
        .iter()
        .map(|(event, _)| {
            format!("WHEN {} THEN {} INTO said;\n", sql::literal(event), into(&items(event, names)))
        })
        .collect();
    let mut text = format!(
        "CREATE SCHEMA IF NOT EXISTS {schema};
CREATE OR REPLACE FUNCTION {function}() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO, YMD' SET IntervalStyle = postgres
SET TimeZone = 'UTC' SET extra_float_digits = 3 SET bytea_output = hex SET lc_monetary = 'C'
AS $ddl$
DECLARE said jsonb;
BEGIN
  IF coalesce(current_setting({pass}, true), '') = {ours} THEN RETURN; END IF;
  BEGIN
    CASE tg_event
    {branches}
    END CASE;
    IF said IS NOT NULL THEN
      PERFORM pg_logical_emit_message(true, {prefix}, convert_to(jsonb_build_object('tag', tg_tag,
        'plain', current_query() ~* 'alter' AND current_query() !~* 'using',
        'items', said)::text, 'UTF8'));
      PERFORM pg_logical_emit_message(true, {prefix}, '');
    END IF;
  EXCEPTION WHEN OTHERS THEN
    PERFORM pg_logical_emit_message(true, {prefix},
      jsonb_build_object('tag', tg_tag, 'untold', sqlstate)::text);
    PERFORM pg_logical_emit_message(true, {prefix}, '');
  END;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING 'cutover: run {run} was not told of a change of definitions (%)', sqlstate;
END $ddl$;
",
        schema = sql::ident(names.schema()),
        function = function(names),
        pass = sql::literal(PASS_SETTING),
        ours = sql::literal(&run.object_name()),
    );
    for (event, ending) in EVENTS {
        let trigger = sql::ident(&trigger(names, ending));
        text.push_str(&format!(
            "DROP EVENT TRIGGER IF EXISTS {trigger}; \
             CREATE EVENT TRIGGER {trigger} ON {event} EXECUTE FUNCTION {}();\n",
            function(names)
        ));
    }
    text
}

/// A query as an assignable one.
fn into(query: &str) -> String {
    format!("SELECT q.items FROM ({}) AS q(items)", query)
}

/// Number of our triggers that fire.
pub(super) fn firing(names: &Names) -> String {
    let list: Vec<String> =
        EVENTS.iter().map(|(_, ending)| sql::literal(&trigger(names, ending))).collect();
    format!(
        "SELECT count(*) FROM pg_event_trigger t WHERE t.evtname IN ({}) AND t.evtenabled <> 'D' \
         AND t.evtfoid = to_regprocedure({})",
        list.join(", "),
        sql::literal(&format!("{}()", function(names)))
    )
}

/// Removes what [`create`] made, but for the schema.
pub(super) fn remove(names: &Names) -> String {
    let mut text: String = EVENTS
        .iter()
        .map(|(_, ending)| {
            format!("DROP EVENT TRIGGER IF EXISTS {}; ", sql::ident(&trigger(names, ending)))
        })
        .collect();
    text.push_str(&format!("DROP FUNCTION IF EXISTS {}()", function(names)));
    text
}

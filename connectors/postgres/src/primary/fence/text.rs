//! The statements of the fence. Pure.

use cutover_core::model::{run::RunId, schema::TableName};

use crate::sql::{self, Names, PASS_SETTING};

/// SQLSTATE of our own: the fence was opened since closing it was decided.
pub(super) const EPOCH_OVER: &str = "CUT01";

/// What the fence's triggers do while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::primary) enum Triggers {
    /// Nothing, and nobody pays for them. Closing is refused.
    Asleep,
    /// They ask the function, which lets everything pass.
    Awake,
}

/// Trigger type bits: BEFORE, INSERT, DELETE, UPDATE, TRUNCATE, for each statement.
const TRIGGER_TYPE: u32 = 2 | 4 | 8 | 16 | 32;

fn function(names: &Names) -> String {
    format!("{}.{}", sql::ident(names.schema()), sql::ident(&names.fence()))
}

fn table(names: &Names, name: &str) -> String {
    format!("{}.{}", sql::ident(names.schema()), sql::ident(name))
}

/// One row: the epoch.
fn epochs(names: &Names) -> String {
    table(names, "fence")
}

/// One row per fenced table.
fn fenced(names: &Names) -> String {
    table(names, "fenced")
}

fn open_function(names: &Names) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql AS \
         $fence$BEGIN RETURN NULL; END$fence$",
        function(names)
    )
}

/// Operators and functions are qualified: it runs under the client's search path.
fn closed_function(run: &RunId, names: &Names) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql AS $fence$BEGIN \
         IF coalesce(pg_catalog.current_setting({}, true), '') OPERATOR(pg_catalog.<>) {} THEN \
         RAISE EXCEPTION USING ERRCODE = '25006', \
         MESSAGE = 'cutover: run {run} refuses writes to this database: they are held back or \
         have moved to its successor', \
         HINT = 'Connect through the address that follows the move, and try again.'; \
         END IF; RETURN NULL; END$fence$",
        function(names),
        sql::literal(PASS_SETTING),
        sql::literal(&run.object_name()),
    )
}

/// What everything else rests on: schema, tables, function. Leaves alone what is there.
pub(super) fn foundation(names: &Names) -> String {
    format!(
        "DO $cutover$ BEGIN \
           IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = {schema_text}) THEN \
             CREATE SCHEMA {schema}; \
           END IF; \
           CREATE TABLE IF NOT EXISTS {epochs} (one boolean PRIMARY KEY CHECK (one), \
                                                epoch bigint NOT NULL); \
           INSERT INTO {epochs} VALUES (true, 1) ON CONFLICT DO NOTHING; \
           CREATE TABLE IF NOT EXISTS {fenced} (relid oid PRIMARY KEY); \
           IF to_regprocedure({function_text}) IS NULL THEN {open}; END IF; \
         END $cutover$",
        schema_text = sql::literal(names.schema()),
        schema = sql::ident(names.schema()),
        epochs = epochs(names),
        fenced = fenced(names),
        function_text = sql::literal(&format!("{}()", function(names))),
        open = open_function(names),
    )
}

/// Numbers of the tables that are fenced as they should be; a trigger that should sleep may be
/// awake.
pub(super) fn fenced_well(names: &Names, triggers: Triggers) -> String {
    let states = match triggers {
        Triggers::Asleep => "'A', 'D'",
        Triggers::Awake => "'A'",
    };
    format!(
        "SELECT f.relid FROM {} f INTERSECT SELECT t.tgrelid FROM pg_trigger t WHERE {}",
        fenced(names),
        good_trigger(states, names)
    )
}

/// Names of the tables whose trigger is not awake, or not as it should be.
pub(super) fn asleep(names: &Names) -> String {
    format!(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid IN ({}) ORDER BY 1, 2",
        bare(&fenced(names), names)
    )
}

/// Numbers of the tables that `tables` lists without a working trigger. As a difference of sets: as a
/// condition on each table it would be asked of each trigger there is when the server believes, from
/// before they were made or woken, that there are hardly any.
fn bare(tables: &str, names: &Names) -> String {
    format!(
        "SELECT f.relid FROM {tables} f EXCEPT SELECT t.tgrelid FROM pg_trigger t WHERE {}",
        good_trigger("'A'", names)
    )
}

/// Whether there is a working trigger on `relation`, as a subquery.
fn working_trigger(names: &Names, relation: &str) -> String {
    format!(
        "SELECT FROM pg_trigger t WHERE t.tgrelid = {relation} AND {}",
        good_trigger("'A'", names)
    )
}

/// Whether `t` is a trigger of the fence and as it should be.
fn good_trigger(states: &str, names: &Names) -> String {
    format!(
        "t.tgname = {} AND t.tgenabled IN ({states}) AND t.tgtype = {TRIGGER_TYPE} \
         AND t.tgqual IS NULL AND t.tgfoid = (SELECT to_regprocedure({}))",
        sql::literal(&names.fence()),
        sql::literal(&format!("{}()", function(names))),
    )
}

/// Puts the trigger on one table. Also safe behind a closed fence: making a trigger waits for
/// writers by itself.
pub(super) fn fence_one(names: &Names, name: &TableName, triggers: Triggers) -> String {
    let (trigger, on) = (sql::ident(&names.fence()), sql::table(name));
    let state = match triggers {
        Triggers::Asleep => "DISABLE",
        Triggers::Awake => "ENABLE ALWAYS",
    };
    format!(
        "CREATE OR REPLACE TRIGGER {trigger} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE \
         ON {on} FOR EACH STATEMENT EXECUTE FUNCTION {}(); \
         ALTER TABLE ONLY {on} {state} TRIGGER {trigger}; \
         INSERT INTO {} VALUES ({}::regclass) ON CONFLICT DO NOTHING",
        function(names),
        fenced(names),
        sql::literal(&on),
    )
}

/// Makes durable what was installed, and counts the tables so that the questions inside of the
/// pause are planned well.
pub(super) fn settled(names: &Names) -> String {
    format!("ANALYZE {}", fenced(names))
}

/// Tables that still have the trigger.
pub(super) fn fenced_tables(names: &Names) -> String {
    format!(
        "SELECT n.nspname::text, c.relname::text FROM pg_trigger t \
         JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE t.tgfoid = to_regprocedure({}) AND NOT t.tgisinternal \
         ORDER BY n.nspname, c.relname",
        sql::literal(&format!("{}()", function(names)))
    )
}

pub(super) fn unfence_one(names: &Names, name: &TableName) -> String {
    format!("DROP TRIGGER IF EXISTS {} ON {}", sql::ident(&names.fence()), sql::table(name))
}

/// Names of fenced tables that are not among these.
pub(super) fn fenced_beside(names: &Names) -> String {
    format!(
        "SELECT n.nspname::text, c.relname::text FROM {} f JOIN pg_class c ON c.oid = f.relid \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE f.relid <> ALL ($1::oid[]) \
         ORDER BY 1, 2",
        fenced(names)
    )
}

/// The table is no part of the run any more.
pub(super) fn leave_one(names: &Names, name: &TableName) -> String {
    format!(
        "{}; DELETE FROM {} WHERE relid = {}::regclass",
        unfence_one(names, name),
        fenced(names),
        sql::literal(&sql::table(name)),
    )
}

/// Removes what the fence rests on; the schema only when nothing else of the run is in it.
pub(super) fn remove_foundation(names: &Names) -> String {
    let schema = sql::ident(names.schema());
    format!(
        "DO $cutover$ BEGIN \
           IF EXISTS (SELECT FROM pg_namespace WHERE nspname = {}) THEN \
             DROP FUNCTION IF EXISTS {}(); DROP TABLE IF EXISTS {}; DROP TABLE IF EXISTS {}; \
             DROP TABLE IF EXISTS {}; \
             BEGIN DROP SCHEMA {schema}; \
             EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END; \
           END IF; \
         END $cutover$",
        sql::literal(names.schema()),
        function(names),
        fenced(names),
        epochs(names),
        // Marks of the copy of definitions: nobody needs them when the fence goes.
        crate::schema::marks(names),
    )
}

/// Settings of the transaction that moves the fence. A fence that a crash of the server takes
/// back is none, so its commit is flushed whatever the database says.
const SETTINGS: &str = "PERFORM set_config('lock_timeout', '1000', true); \
                        IF current_setting('synchronous_commit') = 'off' THEN \
                          PERFORM set_config('synchronous_commit', 'on', true); END IF;";

/// Makes the function refuse, if `epoch` still is the epoch, and then does `also`.
pub(super) fn close(run: &RunId, names: &Names, epoch: i64, also: &str) -> String {
    format!(
        "DO $cutover$ BEGIN {SETTINGS} \
           UPDATE {} SET epoch = epoch WHERE epoch = {epoch}; \
           IF NOT FOUND THEN RAISE EXCEPTION USING ERRCODE = '{EPOCH_OVER}', \
             MESSAGE = 'cutover: the fence was opened by another process'; END IF; \
           {}; {also} \
         END $cutover$",
        epochs(names),
        closed_function(run, names),
    )
}

/// Makes the function let everything pass, and ends the epoch.
pub(super) fn open(names: &Names) -> String {
    format!(
        "DO $cutover$ BEGIN {SETTINGS} UPDATE {} SET epoch = epoch + 1; {}; END $cutover$",
        epochs(names),
        open_function(names),
    )
}

pub(super) fn epoch(names: &Names) -> String {
    format!("SELECT epoch FROM {}", epochs(names))
}

/// Whether the function refuses; tables without a working trigger; subscriptions that write past
/// it. Parents count: rows are also written by naming a parent.
pub(super) fn state(names: &Names) -> String {
    format!(
        "WITH RECURSIVE up(relid) AS ( \
             SELECT f.relid FROM {fenced} f \
           UNION SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.relid) \
         SELECT (SELECT position('RAISE EXCEPTION' IN p.prosrc) > 0 FROM pg_proc p \
                 WHERE p.oid = to_regprocedure({function})), \
                ARRAY(SELECT n.nspname || '.' || c.relname FROM pg_class c \
                      JOIN pg_namespace n ON n.oid = c.relnamespace \
                      WHERE c.oid IN ({bare}) ORDER BY 1), \
                ARRAY(SELECT DISTINCT s.subname::text FROM pg_subscription_rel r \
                      JOIN pg_subscription s ON s.oid = r.srsubid \
                      WHERE r.srrelid IN (SELECT relid FROM up) \
                        AND (s.subenabled OR EXISTS (SELECT FROM pg_stat_subscription w \
                                            WHERE w.subid = s.oid AND w.pid IS NOT NULL)))",
        fenced = fenced(names),
        function = sql::literal(&format!("{}()", function(names))),
        bare = bare("up", names),
    )
}

/// Transactions that hold a lock under which rows of the run may have been written, each once:
/// virtual transaction, process, application, name of a prepared transaction. Without our own
/// sessions, and without autovacuum, which cuts off empty pages under such a lock.
pub(super) fn writers(run: &RunId, names: &Names) -> String {
    format!(
        "SELECT DISTINCT l.virtualtransaction, l.pid, a.application_name, \
                (SELECT p.gid FROM pg_locks x \
                 JOIN pg_prepared_xacts p ON p.transaction = x.transactionid \
                 WHERE l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid' \
                   AND x.virtualtransaction = l.virtualtransaction LIMIT 1) \
         FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'relation' AND l.granted \
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
           AND l.relation IN (SELECT relid FROM {}) AND {WRITING} \
           AND l.pid IS DISTINCT FROM pg_backend_pid() \
           AND a.backend_type IS DISTINCT FROM 'autovacuum worker' AND NOT {}",
        fenced(names),
        ours(run)
    )
}

/// Lock modes under which rows may have been written, as a condition on `l`. Who attaches a
/// partition or a child with rows holds a weaker one on what is above it, as who merely tends a
/// table does (`ANALYZE`), and the strongest one on what is attached.
const WRITING: &str = "\
    (l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', \
                'AccessExclusiveLock') \
     OR l.mode = 'ShareUpdateExclusiveLock' \
        AND EXISTS (SELECT FROM pg_locks y WHERE y.locktype = 'relation' AND y.granted \
                       AND y.mode = 'AccessExclusiveLock' AND y.relation <> l.relation \
                       AND y.virtualtransaction = l.virtualtransaction))";

/// Lock modes that are in the way of who defines a trigger, as a condition on `l`: those of [`WRITING`]
/// are among them.
const DEFINING: &str = "l.mode NOT IN ('AccessShareLock', 'RowShareLock')";

/// What every lock of [`in_the_way`] is, as a condition on `l`.
pub(in crate::primary) const MIGHT_BE: &str =
    "l.locktype = 'relation' AND l.granted AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')";

/// Locks `l` on tables of the run that closing the fence waits for, as a condition; and those that
/// waking it waits for, on tables where it sleeps. Where there is no fence yet every table that is
/// not the system's counts, and it would have to be made.
pub(in crate::primary) fn in_the_way(names: &Names, fenced: bool) -> [String; 2] {
    let here = "l.locktype = 'relation' AND l.granted \
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    if !fenced {
        // Numbers below belong to the system's catalogs.
        let users = format!("{here} AND l.relation >= 16384");
        return [format!("{users} AND {WRITING}"), format!("{users} AND {DEFINING}")];
    }
    let ours = format!("{here} AND l.relation IN (SELECT relid FROM {})", self::fenced(names));
    let sleeps = format!("NOT EXISTS ({})", working_trigger(names, "l.relation"));
    [format!("{ours} AND {WRITING}"), format!("{ours} AND {DEFINING} AND {sleeps}")]
}

/// Condition on `a` (pg_stat_activity) for sessions of this run.
pub(in crate::primary) fn ours(run: &RunId) -> String {
    let prefix = format!("cutover {run} ");
    format!(
        "coalesce(a.usename = current_user AND left(a.application_name, {}) = {}, false)",
        prefix.len(),
        sql::literal(&prefix)
    )
}

/// Whether the list of fenced tables is there for us to read, as a question. Never an error, also
/// where we may not look into its schema.
pub(crate) fn is_fenced(names: &Names) -> String {
    format!(
        "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                         WHERE n.nspname = {} AND c.relname = 'fenced' \
                           AND has_schema_privilege(n.oid, 'USAGE') \
                           AND has_table_privilege(c.oid, 'SELECT'))",
        sql::literal(names.schema())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A condition on each table is compared with each trigger when the server has not counted them.
    #[test]
    fn tables_without_a_trigger_are_a_difference_of_sets() {
        let names = Names::of(&RunId::new("shop").unwrap());
        for text in [state(&names), asleep(&names)] {
            assert!(
                text.contains(" EXCEPT SELECT t.tgrelid") && !text.contains("NOT EXISTS"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_run_name_stays_inside_of_its_quotes() {
        let run = RunId::new("shop-pg17").unwrap();
        let names = Names::of(&run);
        let closed = closed_function(&run, &names);
        assert!(closed.contains("'cutover_shop_pg17'"), "{closed}");
        assert!(closed.contains("run shop-pg17 refuses"), "{closed}");
        assert!(!open_function(&names).contains("RAISE EXCEPTION"));
        assert!(close(&run, &names, 7, "").contains("WHERE epoch = 7"));
        assert!(ours(&run).contains("left(a.application_name, 18) = 'cutover shop-pg17 '"));
    }
}

//! Two schemas of one database as the two sides, and a stream made by triggers.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use cutover_core::{
    model::{
        event::{Change, Event, Relation, RelationColumn},
        position::Position,
        run::RunId,
        schema::{Column, Generated, Identity, RowIdentity, Table, TableName},
        side::Side,
        value::{Tuple, TupleBuilder, Value},
    },
    port::sink::{Route, Sink, SinkWriter},
};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{PgOptions, Postgres, find_postgres};
use tokio::sync::OnceCell;
use tokio_postgres::Client;

static SERVERS: OnceCell<Vec<Postgres>> = OnceCell::const_new();
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The oldest and the newest server of this machine.
pub(crate) async fn servers() -> &'static [Postgres] {
    SERVERS
        .get_or_init(|| async {
            let mut installs = find_postgres();
            assert!(
                installs.len() >= 2,
                "two PostgreSQL versions are needed: run scripts/setup test"
            );
            let newest = installs.pop().unwrap();
            let mut servers = Vec::new();
            for install in [installs.remove(0), newest] {
                let origins = if install.major < 18 {
                    "max_replication_slots"
                } else {
                    "max_active_replication_origins"
                };
                // Every test has an origin of its own.
                let options = PgOptions::new().set(origins, "500").set("max_connections", "300");
                servers.push(Postgres::start(&install, options).await.unwrap());
            }
            servers
        })
        .await
}

/// A row.
type Texts = Vec<Option<String>>;

/// One test's database.
pub(crate) struct World {
    pub(crate) server: &'static Postgres,
    pub(crate) name: String,
    pub(crate) client: Client,
    pub(crate) green: Database,
    pub(crate) run: RunId,
    relations: HashMap<String, Arc<Relation>>,
    lsn: u64,
    /// Whether long values that an update leaves alone are left out, as TOAST does.
    pub(crate) toast: bool,
}

/// As our sessions are pinned.
const PINNED: &str = "SET search_path = ''; SET DateStyle = 'ISO,YMD';
    SET IntervalStyle = postgres; SET TimeZone = 'UTC'; SET extra_float_digits = 3;
    SET bytea_output = hex; SET lc_monetary = 'C'";

const LOG: &str = "
CREATE SCHEMA log; CREATE SCHEMA src; CREATE SCHEMA dst;
CREATE TABLE log.changes (
  n bigserial, xid bigint, rel text, op text, old text[], new text[]);
CREATE FUNCTION log.row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE o text[]; n text[]; cols text;
BEGIN
  SELECT string_agg(format(
    'CASE WHEN ($1).%1$I IS NOT DISTINCT FROM NULL THEN NULL ELSE format(''%%s'', ($1).%1$I) END',
    attname), ',' ORDER BY attnum) INTO cols
    FROM pg_attribute
   WHERE attrelid = TG_RELID AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
  IF TG_OP <> 'INSERT' THEN
    EXECUTE 'SELECT ARRAY[' || cols || ']::text[]' INTO o USING OLD;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    EXECUTE 'SELECT ARRAY[' || cols || ']::text[]' INTO n USING NEW;
  END IF;
  INSERT INTO log.changes (xid, rel, op, old, new)
  VALUES (txid_current(), TG_TABLE_NAME, TG_OP, o, n);
  RETURN NULL;
END $$;
CREATE FUNCTION log.truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO log.changes (xid, rel, op) VALUES (txid_current(), TG_TABLE_NAME, TG_OP);
  RETURN NULL;
END $$;";

fn database(url: &str, run: &RunId) -> Database {
    let config = PgConfig::parse(url, None).unwrap();
    Database::new(config, Side::Green, run.clone(), &std::env::temp_dir())
}

impl World {
    /// An empty database on this server.
    pub(crate) async fn empty(server: &'static Postgres) -> Self {
        let name = format!("w{}", COUNT.fetch_add(1, Ordering::Relaxed));
        server.create_database(&name).await.unwrap();
        let client = server.connect(&name).await.unwrap();
        client.batch_execute(PINNED).await.unwrap();
        client.batch_execute(LOG).await.unwrap();
        let run = RunId::new(&format!("run-{}", name)).unwrap();
        let green = database(&server.url(&name), &run);
        green.prepare(&run).await.unwrap();
        let relations = HashMap::new();
        Self { server, name, client, green, run, relations, lsn: 0x1000, toast: false }
    }

    /// What another process would have of the same run.
    pub(crate) fn process(&self, url: &str) -> Database {
        database(url, &self.run)
    }

    /// The same definitions in both schemas.
    pub(crate) async fn with(server: &'static Postgres, ddl: &str) -> Self {
        let mut world = Self::empty(server).await;
        world.define("src", ddl).await;
        world.define("dst", ddl).await;
        world.watch().await;
        world
    }

    pub(crate) async fn define(&self, schema: &str, ddl: &str) {
        let sql = format!("SET search_path = {schema}; {ddl}; SET search_path = ''");
        self.client.batch_execute(&sql).await.unwrap();
    }

    /// Begins to log changes of all tables in `src`; also after definitions changed.
    pub(crate) async fn watch(&mut self) {
        self.relations.clear();
        for table in self.tables("src").await {
            let name = cutover_postgres::sql::table(&table.name);
            self.client
                .batch_execute(&format!(
                    "DROP TRIGGER IF EXISTS log_row ON {name};
                     DROP TRIGGER IF EXISTS log_truncate ON {name};
                     CREATE TRIGGER log_row AFTER INSERT OR UPDATE OR DELETE ON {name}
                       FOR EACH ROW EXECUTE FUNCTION log.row();
                     CREATE TRIGGER log_truncate AFTER TRUNCATE ON {name}
                       FOR EACH STATEMENT EXECUTE FUNCTION log.truncate()"
                ))
                .await
                .unwrap();
            let full = table.identity == RowIdentity::Full;
            let is_key = |c: &str| match &table.identity {
                RowIdentity::Key(key) => key.iter().any(|k| k == c),
                RowIdentity::Full => true,
                RowIdentity::Nothing => false,
            };
            let relation = Relation {
                id: u32::try_from(self.relations.len()).unwrap(),
                name: table.name.clone(),
                columns: table
                    .carried()
                    .map(|c| RelationColumn {
                        name: c.name.clone(),
                        key: is_key(&c.name),
                        type_id: 0,
                        type_modifier: -1,
                    })
                    .collect(),
                full_identity: full,
            };
            self.relations.insert(table.name.name, Arc::new(relation));
        }
    }

    pub(crate) fn relation(&self, name: &str) -> Arc<Relation> {
        Arc::clone(&self.relations[name])
    }

    /// Tables of a schema, partitioned ones left out.
    pub(crate) async fn tables(&self, schema: &str) -> Vec<Table> {
        let rows = self
            .client
            .query(
                "SELECT c.oid, c.relname::text, c.relreplident::text FROM pg_class c
                  WHERE c.relnamespace = $1::text::regnamespace AND c.relkind = 'r'
                  ORDER BY c.relname",
                &[&schema],
            )
            .await
            .unwrap();
        let mut tables = Vec::new();
        for row in rows {
            tables.push(self.describe(schema, row.get(0), row.get(1), row.get(2)).await);
        }
        tables
    }

    /// One table, also a partitioned one.
    pub(crate) async fn table(&self, schema: &str, name: &str) -> Table {
        let row = self
            .client
            .query_one(
                "SELECT c.oid, c.relreplident::text FROM pg_class c
                  WHERE c.relnamespace = $1::text::regnamespace AND c.relname = $2",
                &[&schema, &name],
            )
            .await
            .unwrap();
        self.describe(schema, row.get(0), name.to_owned(), row.get(1)).await
    }

    async fn describe(&self, schema: &str, oid: u32, name: String, identity: String) -> Table {
        let columns = self
            .client
            .query(
                "SELECT attname::text, format_type(atttypid, -1), format_type(atttypid, atttypmod),
                        NOT attnotnull, attgenerated <> '', attidentity::text
                   FROM pg_attribute
                  WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                &[&oid],
            )
            .await
            .unwrap();
        let columns = columns
            .iter()
            .map(|c| Column {
                name: c.get(0),
                base_type: c.get(1),
                declared_type: c.get(2),
                nullable: c.get(3),
                generated: if c.get(4) { Generated::Stored } else { Generated::No },
                identity: match c.get::<_, &str>(5) {
                    "a" => Identity::Always,
                    "d" => Identity::ByDefault,
                    _ => Identity::No,
                },
                collation: None,
            })
            .collect();
        let key = async |condition: &str| -> Vec<String> {
            let text = format!(
                "SELECT a.attname::text FROM pg_index i
                   CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k(attnum, n)
                   JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                  WHERE i.indrelid = $1 AND {condition} ORDER BY k.n"
            );
            let rows = self.client.query(&text, &[&oid]).await.unwrap();
            rows.iter().map(|r| r.get(0)).collect()
        };
        let primary_key = key("i.indisprimary").await;
        let identity = match identity.as_str() {
            "f" => RowIdentity::Full,
            "i" => RowIdentity::Key(key("i.indisreplident").await),
            "d" if !primary_key.is_empty() => RowIdentity::Key(primary_key.clone()),
            _ => RowIdentity::Nothing,
        };
        Table {
            name: TableName::new(schema, name),
            columns,
            identity,
            primary_key,
            root: None,
            estimated_rows: None,
            bytes: 0,
        }
    }

    /// Every table of `src` goes to the one of the same name in `dst`.
    pub(crate) async fn routes(&self) -> Vec<Route> {
        let targets = self.tables("dst").await;
        targets
            .into_iter()
            .map(|target| Route { source: TableName::new("src", target.name.name.clone()), target })
            .collect()
    }

    pub(crate) async fn writer(&self) -> Box<dyn SinkWriter> {
        self.green.writer(&self.run, &self.routes().await).await.unwrap()
    }

    /// Runs statements on `src`, each its own transaction unless they say otherwise, and returns
    /// what a stream would say.
    pub(crate) async fn changes(&mut self, statements: &[&str]) -> Vec<Event> {
        self.client.batch_execute("SET search_path = src").await.unwrap();
        for statement in statements {
            self.client.batch_execute(statement).await.unwrap_or_else(|e| {
                panic!("{statement}: {:?}", e.as_db_error().map(|d| d.message().to_owned()))
            });
        }
        self.client.batch_execute("SET search_path = ''").await.unwrap();
        self.take().await
    }

    /// Everything that was logged since the last time.
    pub(crate) async fn take(&mut self) -> Vec<Event> {
        let rows = self
            .client
            .query(
                "WITH gone AS (DELETE FROM log.changes RETURNING *)
                 SELECT xid, rel, op, old, new FROM gone ORDER BY n",
                &[],
            )
            .await
            .unwrap();
        let mut events: Vec<Event> = Vec::new();
        let mut current = None;
        for row in rows {
            let xid: i64 = row.get(0);
            if current != Some(xid) {
                if current.is_some() {
                    events.push(self.commit());
                }
                current = Some(xid);
                let transaction = u32::try_from(xid).unwrap();
                events.push(Event::Begin { transaction, committed_at: 0 });
            }
            let relation = self.relation(row.get(1));
            let (old, new): (Option<Texts>, Option<Texts>) = (row.get(3), row.get(4));
            let op: &str = row.get(2);
            if op == "TRUNCATE" {
                if let Some(Event::Truncate { relations, .. }) = events.last_mut() {
                    relations.push(relation);
                } else {
                    events.push(Event::Truncate {
                        relations: vec![relation],
                        others: false,
                        cascade: false,
                        restart_identity: false,
                    });
                }
                continue;
            }
            let change = match (old, new) {
                (None, Some(new)) => Change::Insert { new: tuple(&new) },
                (Some(old), None) => Change::Delete { old: identity(&relation, &old) },
                (Some(old), Some(new)) => self.update(&relation, &old, &new),
                (None, None) => panic!("a change without rows"),
            };
            events.push(Event::Row { relation, change });
        }
        if current.is_some() {
            events.push(self.commit());
        }
        events
    }

    fn update(
        &self,
        relation: &Relation,
        old: &[Option<String>],
        new: &[Option<String>],
    ) -> Change {
        let mut b = TupleBuilder::new();
        for (before, after) in old.iter().zip(new) {
            let long = after.as_ref().is_some_and(|v| v.len() > 100);
            b.push(match after {
                Some(_) if self.toast && long && before == after => Value::Unchanged,
                Some(text) => Value::Text(text.as_bytes()),
                None => Value::Null,
            });
        }
        let moved =
            relation.columns.iter().zip(old.iter().zip(new)).any(|(c, (o, n))| c.key && o != n);
        let old = (relation.full_identity || moved).then(|| identity(relation, old));
        Change::Update { old, new: b.finish() }
    }

    fn commit(&mut self) -> Event {
        Event::Commit { position: self.next_position() }
    }

    pub(crate) fn next_position(&mut self) -> Position {
        self.lsn += 0x100;
        Position::Postgres { timeline: 1, lsn: self.lsn }
    }

    /// Both schemas hold the same rows in all tables.
    pub(crate) async fn assert_equal(&self) {
        for table in self.tables("src").await {
            let name = &table.name.name;
            assert_eq!(self.rows("src", name).await, self.rows("dst", name).await, "{name}");
        }
    }

    /// The rows of a table as sorted text.
    pub(crate) async fn rows(&self, schema: &str, table: &str) -> Vec<String> {
        let text = format!(
            "SELECT t::text FROM {} t ORDER BY t::text COLLATE \"C\"",
            cutover_postgres::sql::table(&TableName::new(schema, table))
        );
        let rows = self.client.query(&text, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Runs statements as a session in replica role, so that nobody logs them.
    pub(crate) async fn meddle(&self, sql: &str) {
        self.client
            .batch_execute(&format!(
                "SET session_replication_role = replica; {sql};
                 SET session_replication_role = origin"
            ))
            .await
            .unwrap();
    }

    /// Pids of our sessions with this purpose.
    pub(crate) async fn backends(&self, purpose: &str) -> Vec<i32> {
        let rows = self
            .client
            .query(
                "SELECT pid FROM pg_stat_activity
                  WHERE datname = current_database() AND application_name LIKE '% ' || $1::text",
                &[&purpose],
            )
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// The position at which the last transaction ends.
pub(crate) fn end(events: &[Event]) -> Position {
    events
        .iter()
        .rev()
        .find_map(|e| match e {
            Event::Commit { position } => Some(position.clone()),
            _ => None,
        })
        .unwrap()
}

fn tuple(values: &[Option<String>]) -> Tuple {
    let mut b = TupleBuilder::new();
    for value in values {
        b.push(value.as_ref().map_or(Value::Null, |v| Value::Text(v.as_bytes())));
    }
    b.finish()
}

/// What a source sends of an old row.
fn identity(relation: &Relation, old: &[Option<String>]) -> Tuple {
    let only: Vec<Option<String>> = relation
        .columns
        .iter()
        .zip(old)
        .map(|(column, value)| value.clone().filter(|_| column.key))
        .collect();
    tuple(&only)
}

/// Runs a test on every server.
#[macro_export]
macro_rules! on_each_server {
    ($($(#[$attribute:meta])* async fn $name:ident($server:ident) $body:block)*) => {$(
        $(#[$attribute])*
        #[tokio::test]
        async fn $name() {
            for $server in $crate::world::servers().await {
                $body
            }
        }
    )*};
}

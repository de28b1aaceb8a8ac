//! From the stream's tables to the tables of this side.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use cutover_core::{
    model::{
        event::{Event, Relation},
        schema::{Table, TableName},
    },
    port::{Result, sink::Route},
};
use tokio_postgres::{Row, types::Type};

use super::{
    refusal,
    shape::{Facts, Shape, Target, Texts},
};
use crate::connect::{Session, port_error};

/// Shapes kept before all are forgotten; a source may announce a table again and again.
const MOST_SHAPES: usize = 10_000;

/// Kind of table and equality operators of its columns. Domains count as what they are built on.
/// A type is listed when values of it can always be compared; arrays, ranges and composites can
/// only if their parts can, so they are not. Then, whether a cast of a text would call a function
/// and not the type's input (`regclass` does, and then knows neither `-` nor numbers) where a cast
/// of a bpchar would not. Then, the enum of a domain: equality of enums does not know domains. Then,
/// whether the primary key may be broken within a transaction. Last, what a domain
/// is built on when it has a constraint that is not valid: values of before may break that. Types are
/// looked at once, whatever the planner knows about the catalog: asked for each column of ten thousand
/// tables this took minutes.
const FACTS: &str = "
WITH wanted AS MATERIALIZED (
  SELECT w.n, c.oid, c.relkind, a.attname, a.attnum, a.atttypid
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w(schema, name, n)
    JOIN pg_namespace s ON s.nspname = w.schema
    JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = w.name
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
), types AS MATERIALIZED (
  SELECT u.atttypid,
    (SELECT pg_catalog.quote_ident(n.nspname) || '.' || o.oprname
       FROM pg_opclass k
       JOIN pg_am m ON m.oid = k.opcmethod AND m.amname = 'btree'
       JOIN pg_amop p ON p.amopfamily = k.opcfamily AND p.amoplefttype = k.opcintype
        AND p.amoprighttype = k.opcintype AND p.amopstrategy = 3
       JOIN pg_operator o ON o.oid = p.amopopr
       JOIN pg_namespace n ON n.oid = o.oprnamespace
      WHERE k.opcdefault
        AND k.opcintype = CASE
          WHEN t.typtype = 'e' THEN 'pg_catalog.anyenum'::regtype
          WHEN t.oid = 'pg_catalog.varchar'::regtype THEN 'pg_catalog.text'::regtype
          WHEN t.oid = 'pg_catalog.cidr'::regtype THEN 'pg_catalog.inet'::regtype
          ELSE t.oid END
      LIMIT 1) AS equality,
    EXISTS (SELECT FROM pg_cast x WHERE x.casttarget = t.oid AND x.castmethod = 'f'
               AND x.castsource = 'pg_catalog.text'::regtype)
    AND NOT EXISTS (SELECT FROM pg_cast x WHERE x.casttarget = t.oid
               AND x.castsource = 'pg_catalog.bpchar'::regtype) AS by_input,
    CASE WHEN t.typtype = 'e' AND t.oid <> u.atttypid
         THEN pg_catalog.format_type(t.oid, NULL) END AS compared_as,
    CASE WHEN t.unproven THEN pg_catalog.format_type(t.oid, -1) END AS unproven
  FROM (SELECT DISTINCT atttypid FROM wanted) u
  JOIN LATERAL (
    WITH RECURSIVE b(oid, base) AS (
      SELECT y.oid, y.typbasetype FROM pg_type y WHERE y.oid = u.atttypid
      UNION ALL
      SELECT y.oid, y.typbasetype FROM b JOIN pg_type y ON y.oid = b.base WHERE b.base <> 0
    ) SELECT y.oid, y.typtype, EXISTS (
        SELECT FROM b x JOIN pg_constraint k ON k.contypid = x.oid WHERE NOT k.convalidated
      ) AS unproven FROM b JOIN pg_type y ON y.oid = b.oid WHERE b.base = 0
  ) AS t ON true
)
SELECT w.n, w.relkind = 'p', w.attname::text, t.equality, t.by_input, t.compared_as,
  EXISTS (SELECT FROM pg_index x
           WHERE x.indrelid = w.oid AND x.indisprimary AND NOT x.indimmediate),
  t.unproven
FROM wanted w LEFT JOIN types t ON t.atttypid = w.atttypid
ORDER BY w.n, w.attnum";

/// Describes tables for building statements, in the order given.
///
/// # Errors
///
/// `CUT0403` when a table does not exist.
pub(super) async fn targets(session: &Session, tables: &[&Table]) -> Result<Vec<Target>> {
    let schemas: Vec<&str> = tables.iter().map(|t| t.name.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|t| t.name.name.as_str()).collect();
    let reading = |e| port_error("reading the target tables", e);
    let statement = session
        .prepare_typed(FACTS, &[Type::TEXT_ARRAY, Type::TEXT_ARRAY])
        .await
        .map_err(reading)?;
    let mut facts: Vec<Option<Facts>> = vec![None; tables.len()];
    let take = |row: &Row| {
        let n: i64 = row.get(0);
        let at = usize::try_from(n - 1).ok().and_then(|at| facts.get_mut(at));
        let Some(slot) = at else { return };
        let known = slot.get_or_insert_with(Facts::default);
        known.partitioned = row.get(1);
        known.late_key = row.get(6);
        // A table without columns has one row of nothing but its kind.
        let Some(column) = row.get::<_, Option<String>>(2) else { return };
        if row.get::<_, Option<bool>>(4).unwrap_or_default() {
            known.by_input.push(column.clone());
        }
        if let Some(of) = row.get::<_, Option<String>>(7) {
            known.unproven.push((column.clone(), of));
        }
        if let Some(of) = row.get::<_, Option<String>>(5) {
            known.compared_as.push((column.clone(), of));
        }
        if let Some(operator) = row.get::<_, Option<String>>(3) {
            known.equality.push((column, operator));
        }
    };
    session.each(&statement, &[&schemas, &names], take).await.map_err(reading)?;
    let mut texts = Texts::default();
    tables
        .iter()
        .zip(facts)
        .map(|(table, facts)| match facts {
            Some(facts) => Ok(Target::new(table, &facts, &mut texts)),
            None => Err(refusal::table_missing(&table.name)),
        })
        .collect()
}

/// Knows where every table of the stream goes.
#[derive(Debug)]
pub(super) struct Router {
    targets: Vec<Target>,
    /// Per target what its rows are emptied with: the root of its partitions where others come in
    /// through that, else itself.
    holders: Vec<usize>,
    /// Source tables per holder.
    sources: Vec<usize>,
    by_source: HashMap<TableName, usize>,
    /// By the address of the relation, which is kept alive here.
    shapes: HashMap<usize, (Arc<Relation>, Shape)>,
}

impl Router {
    /// Reads what the catalog says about the targets of the routes.
    pub(super) async fn new(session: &Session, routes: &[Route]) -> Result<Self> {
        let mut tables: Vec<&Table> = Vec::new();
        let mut at: HashMap<&TableName, usize> = HashMap::new();
        let mut by_source = HashMap::new();
        for route in routes {
            let index = *at.entry(&route.target.name).or_insert_with(|| {
                tables.push(&route.target);
                tables.len() - 1
            });
            by_source.insert(route.source.clone(), index);
        }
        let root = |table: &Table| table.root.as_ref().and_then(|root| at.get(root).copied());
        let holders: Vec<usize> =
            tables.iter().enumerate().map(|(i, table)| root(table).unwrap_or(i)).collect();
        let mut sources = vec![0; tables.len()];
        by_source.values().for_each(|target: &usize| sources[holders[*target]] += 1);
        let targets = targets(session, &tables).await?;
        Ok(Self { targets, holders, sources, by_source, shapes: HashMap::new() })
    }

    /// The table with this number.
    pub(super) fn target(&self, index: usize) -> &Target {
        &self.targets[index]
    }

    /// Number of target tables.
    pub(super) fn len(&self) -> usize {
        self.targets.len()
    }

    /// The target that this one is emptied with, and how many source tables have rows there. A
    /// partition whose root takes rows may hold some of any source.
    pub(super) fn holder(&self, index: usize) -> (usize, usize) {
        let holder = self.holders[index];
        (holder, self.sources[holder])
    }

    /// Learns the relations of the events, and says which targets they touch.
    ///
    /// # Errors
    ///
    /// `CUT0404` for a table without a route, `CUT0403` when the target lacks columns.
    pub(super) fn learn_all(&mut self, events: &[Event]) -> Result<BTreeSet<usize>> {
        let mut touched = BTreeSet::new();
        let mut last = None;
        for event in events {
            match event {
                Event::Row { relation, .. } if last == Some(Arc::as_ptr(relation)) => {}
                Event::Row { relation, .. } => {
                    touched.insert(self.learn(relation)?);
                    last = Some(Arc::as_ptr(relation));
                }
                Event::Truncate { relations, .. } => {
                    for relation in relations {
                        touched.insert(self.learn(relation)?);
                    }
                }
                _ => {}
            }
        }
        Ok(touched)
    }

    fn learn(&mut self, relation: &Arc<Relation>) -> Result<usize> {
        let address = address(relation);
        if let Some((_, shape)) = self.shapes.get(&address) {
            return Ok(shape.target);
        }
        let index = self.index(relation)?;
        let shape = Shape::new(relation, index, &self.targets[index])?;
        self.shapes.insert(address, (Arc::clone(relation), shape));
        Ok(index)
    }

    /// The target of a relation.
    pub(super) fn index(&self, relation: &Relation) -> Result<usize> {
        self.by_source.get(&relation.name).copied().ok_or_else(|| refusal::no_route(&relation.name))
    }

    /// How a learned relation maps to its target.
    pub(super) fn shape(&self, relation: &Arc<Relation>) -> Result<&Shape> {
        match self.shapes.get(&address(relation)) {
            Some((_, shape)) => Ok(shape),
            None => Err(refusal::not_a_stream("a table was not announced")),
        }
    }

    /// Forgets relations when there are too many; only between calls.
    pub(super) fn trim(&mut self) {
        if self.shapes.len() > MOST_SHAPES {
            self.shapes.clear();
        }
    }
}

fn address(relation: &Arc<Relation>) -> usize {
    Arc::as_ptr(relation) as usize
}

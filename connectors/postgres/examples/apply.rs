//! The sink alone: synthetic events in the shape of pgbench's TPC-B, applied from memory.
//!
//! `cargo run --release -p cutover-postgres --example apply -- [TRANSACTIONS] [PER_CALL] [MAJOR]`
#![allow(clippy::print_stdout, missing_docs)]

mod measure;

use std::{env, sync::Arc, time::Instant};

use cutover_core::{
    model::{
        event::{Change, Event, Relation, RelationColumn},
        position::Position,
        run::RunId,
        schema::TableName,
        selection::Selection,
        side::Side,
        value::{TupleBuilder, Value},
    },
    port::{
        sink::{Route, Sink},
        source::Source,
    },
};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{PgOptions, Postgres, find_postgres};
use measure::{Cpu, Result, pgbench};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let mut number = |default: u32| -> Result<u32> {
        arguments.next().map_or(Ok(default), |text| Ok(text.parse()?))
    };
    let (transactions, per_call, major) = (number(200_000)?, number(1000)?, number(15)?);
    let install = find_postgres().into_iter().find(|i| i.major == major).ok_or("no such server")?;
    let options = PgOptions::new()
        .durable()
        .set("shared_buffers", "512MB")
        .set("max_wal_size", "8GB")
        .set("checkpoint_timeout", "1h")
        .set("autovacuum", "off");
    let green = Postgres::start(&install, options).await?;
    green.create_database("ours").await?;
    pgbench(&green, "ours", &["-i", "-q", "-s", "10"])?;
    let run = RunId::new("apply")?;
    let config = PgConfig::parse(&green.url("ours"), None)?;
    let sink = Database::new(config, Side::Green, run.clone(), &env::temp_dir());
    sink.prepare(&run).await?;
    let targets = sink.tables(&Selection::default()).await?;
    let routes: Vec<Route> =
        targets.into_iter().map(|t| Route { source: t.name.clone(), target: t }).collect();
    let mut writer = sink.writer(&run, &routes).await?;

    let mut load = Load::new();
    let mut waits = Vec::new();
    let before = Cpu::now(&green, &green);
    let began = Instant::now();
    let mut making = std::time::Duration::ZERO;
    for call in 0..transactions / per_call {
        let at = Instant::now();
        let events: Vec<Event> =
            (0..per_call).flat_map(|i| load.transaction(call * per_call + i)).collect();
        making += at.elapsed();
        let at = Instant::now();
        writer.apply(&events).await?;
        waits.push(at.elapsed());
    }
    let took = began.elapsed() - making;
    let after = Cpu::now(&green, &green);
    waits.sort();
    println!(
        "{:.0} transactions/s; a call: median {:?}, 99 % {:?}; target {:.2} s, own {:.2} s",
        f64::from(transactions) / took.as_secs_f64(),
        waits[waits.len() / 2],
        waits[waits.len() * 99 / 100],
        after.target - before.target,
        after.own - before.own - making.as_secs_f64(),
    );
    Ok(())
}

struct Load {
    accounts: Arc<Relation>,
    tellers: Arc<Relation>,
    branches: Arc<Relation>,
    history: Arc<Relation>,
    seed: u64,
}

impl Load {
    fn new() -> Self {
        let relation = |name: &str, columns: &[&str], key: bool| {
            Arc::new(Relation {
                id: 0,
                name: TableName::new("public", format!("pgbench_{name}")),
                columns: columns
                    .iter()
                    .enumerate()
                    .map(|(i, c)| RelationColumn {
                        name: (*c).to_owned(),
                        key: key && i == 0,
                        type_id: 23,
                        type_modifier: -1,
                    })
                    .collect(),
                full_identity: false,
            })
        };
        Self {
            accounts: relation("accounts", &["aid", "bid", "abalance", "filler"], true),
            tellers: relation("tellers", &["tid", "bid", "tbalance", "filler"], true),
            branches: relation("branches", &["bid", "bbalance", "filler"], true),
            history: relation("history", &["tid", "bid", "aid", "delta", "mtime", "filler"], false),
            seed: 1,
        }
    }

    fn next(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.seed >> 33) % below
    }

    fn transaction(&mut self, n: u32) -> [Event; 6] {
        let (aid, tid) = (self.next(1_000_000) + 1, self.next(100) + 1);
        let bid = (tid - 1) / 10 + 1;
        let filler = " ".repeat(84);
        let update = |relation: &Arc<Relation>, row| Event::Row {
            relation: Arc::clone(relation),
            change: Change::Update { old: None, new: row },
        };
        let row = |numbers: &[u64], rest: &[Option<&str>]| {
            let mut b = TupleBuilder::new();
            for number in numbers {
                b.push(Value::Text(number.to_string().as_bytes()));
            }
            for text in rest {
                b.push(text.map_or(Value::Null, |t| Value::Text(t.as_bytes())));
            }
            b.finish()
        };
        [
            Event::Begin { transaction: n, committed_at: 0 },
            update(
                &self.accounts,
                row(&[aid, (aid - 1) / 100_000 + 1, u64::from(n)], &[Some(&filler)]),
            ),
            update(&self.tellers, row(&[tid, bid, u64::from(n)], &[None])),
            update(&self.branches, row(&[bid, u64::from(n)], &[None])),
            Event::Row {
                relation: Arc::clone(&self.history),
                change: Change::Insert {
                    new: row(
                        &[tid, bid, aid, u64::from(n)],
                        &[Some("2026-11-21 02:45:56.123456"), None],
                    ),
                },
            },
            Event::Commit {
                position: Position::Postgres { timeline: 1, lsn: (u64::from(n) + 1) * 1000 },
            },
        ]
    }
}

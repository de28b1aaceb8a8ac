//! What a move asks of one database inside the pause, and how fast digests are.
//!
//! `cargo run --release -p cutover-postgres --example pause -- [TABLES] [SEQUENCES] [MIB] [MAJOR]`
//!
//! A throwaway server. Medians of 21, everything warm, nothing else going on in the database.
#![allow(clippy::print_stdout, missing_docs)]

use std::{
    env,
    error::Error,
    time::{Duration, Instant},
};

use cutover_core::{
    model::{run::RunId, selection::Selection, side::Side},
    port::{
        copy::{CopyFormat, Range},
        primary::Primary,
        reader::RowReader,
        source::Source,
    },
};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{PgOptions, Postgres, find_postgres};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let mut number = |default: u32| -> Result<u32> {
        arguments.next().map_or(Ok(default), |text| Ok(text.parse()?))
    };
    let (tables, sequences, mib, major) = (number(1000)?, number(500)?, number(256)?, number(15)?);
    let install = find_postgres().into_iter().find(|i| i.major == major).ok_or("no such server")?;
    let server = Postgres::start(&install, PgOptions::new().set("shared_buffers", "1GB")).await?;
    server
        .execute(
            "postgres",
            &format!(
                "DO $$ BEGIN FOR i IN 1..{tables} LOOP \
                   EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, v text)', i); END LOOP; \
                 FOR i IN 1..{sequences} LOOP EXECUTE format('CREATE SEQUENCE s%s', i); END LOOP; \
                 END $$; \
                 CREATE TABLE big (id int PRIMARY KEY, a text, b text, c numeric, d timestamptz); \
                 INSERT INTO big SELECT i, md5(i::text), repeat(md5(i::text), 4), i / 7.0, now() \
                 FROM generate_series(1, {mib} * 4500) i; \
                 INSERT INTO t1 SELECT i, 'x' FROM generate_series(1, 100000) i"
            ),
        )
        .await?;
    server.execute("postgres", "VACUUM ANALYZE").await?;
    let config = PgConfig::parse(&server.url("postgres"), None)?;
    let run = RunId::new("measure")?;
    let db = Database::new(config, Side::Blue, run.clone(), &env::temp_dir());
    let all = Selection::default();
    println!("PostgreSQL {}, {tables} tables, {sequences} sequences", install.version);

    let begun = Instant::now();
    let found = db.tables(&all).await?;
    println!("reading the catalog: {:?}", begun.elapsed());
    let begun = Instant::now();
    db.install_fence(&run, &found).await?;
    println!("installing the fence: {:?}", begun.elapsed());
    let counters = db.counters(&all).await?;
    db.warm_up().await?;
    let (mut close, mut open, mut read, mut advance) = (vec![], vec![], vec![], vec![]);
    for i in 0..21 {
        let begun = Instant::now();
        db.close_to_clients(&run, Duration::from_secs(1)).await?;
        close.push(begun.elapsed());
        let begun = Instant::now();
        db.counters(&all).await?;
        read.push(begun.elapsed());
        let mut moved = counters.clone();
        for counter in &mut moved {
            counter.last_value = i + 2;
            counter.is_called = true;
        }
        let begun = Instant::now();
        db.advance(&moved).await?;
        advance.push(begun.elapsed());
        let begun = Instant::now();
        db.open_to_clients(&run).await?;
        open.push(begun.elapsed());
    }
    for (what, times) in [
        ("closing the fence", close),
        ("opening the fence", open),
        ("reading the sequences", read),
        ("moving the sequences", advance),
    ] {
        println!("{what}: {:?}", median(times));
    }

    let t1 = found.iter().find(|t| t.name.name == "t1").ok_or("no t1")?;
    let live = db.reader();
    let keys: Vec<_> =
        live.bucket_rows(t1, 16, &[0]).await?.into_iter().map(|r| r.key).take(1000).collect();
    let mut lookups = vec![];
    for _ in 0..21 {
        let begun = Instant::now();
        live.key_digests(t1, &keys).await?;
        lookups.push(begun.elapsed());
    }
    println!("digests of {} keys: {:?}", keys.len(), median(lookups));

    let big = found.iter().find(|t| t.name.name == "big").ok_or("no big")?;
    let size = big.bytes as f64 / f64::from(1 << 20);
    let whole = Range { condition: String::new(), bytes: 0 };
    let snapshot = db.snapshot().await?;
    for buckets in [1, 4096] {
        let begun = Instant::now();
        snapshot.bucket_digests(big, &whole, buckets).await?;
        let rate = size / begun.elapsed().as_secs_f64();
        println!("digests of {size:.0} MiB in {buckets} buckets, one session: {rate:.0} MiB/s");
    }
    for format in [CopyFormat::PostgresBinary, CopyFormat::PostgresText] {
        let begun = Instant::now();
        let mut stream = snapshot.read(big, &whole, format).await?.rows()?;
        let mut chunks = 0;
        while stream.next().await?.is_some() {
            chunks += 1;
        }
        let rate = size / begun.elapsed().as_secs_f64();
        println!("reading as {format:?}, one session: {rate:.0} MiB/s in {chunks} chunks");
    }
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

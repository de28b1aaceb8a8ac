//! Following a steady load: lag from COMMIT to COMMIT, what it costs blue, and memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cutover_sandbox::Postgres;
use tokio::task::JoinHandle;

use crate::{
    Result, argument,
    cpu::{Cpu, peak_mib},
    drain::subscribe,
    figures::{load, machine, quantile},
    plot,
    program::{Program, Running},
    servers::{both, one, tool, yaml},
};

/// pgbench's TPC-B, and a row whose commit can be found again on the other side.
const SCRIPT: &str = "\
\\set aid random(1, 100000 * :scale)
\\set bid random(1, 1 * :scale)
\\set tid random(1, 10 * :scale)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime)
  VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
INSERT INTO ticks DEFAULT VALUES;
COMMIT;
";
const SCALE: &str = "50";
const IDLE: Duration = Duration::from_secs(10);
const WITHIN: Duration = Duration::from_secs(600);

struct Bench {
    blue: Postgres,
    green: Postgres,
    script: tempfile::NamedTempFile,
    seconds: u32,
}

/// What pgbench and the processor clock say about a stretch of load.
struct Stretch {
    tps: f64,
    latency_ms: f64,
    cpu: Cpu,
}

pub(crate) async fn run(arguments: &[String]) -> Result<()> {
    let rate: u32 = argument(arguments, 0, 1000)?;
    let seconds: u32 = argument(arguments, 1, 30)?;
    let (blue, green) = both().await?;
    println!("{}", machine(&blue, &green));
    blue.create_database("bench").await?;
    green.create_database("ours").await?;
    tool("pgbench", &blue, "bench", &["-i", "-q", "-s", SCALE]).await?;
    blue.execute(
        "bench",
        "CREATE TABLE ticks (id bigserial PRIMARY KEY);
         ALTER TABLE pgbench_history REPLICA IDENTITY FULL",
    )
    .await?;
    blue.execute("bench", "VACUUM (ANALYZE)").await?;
    let script = tempfile::NamedTempFile::new()?;
    std::fs::write(script.path(), SCRIPT)?;
    let bench = Bench { blue, green, script, seconds };
    let limits = [Some(rate), None];

    // Warm both ways alike.
    bench.stretch(None, None).await?;
    let mut alone = Vec::new();
    for limit in limits {
        alone.push(bench.told("alone", limit, None).await?);
    }
    let only = arguments.get(2).map(String::as_str);
    let wanted = |what: &str| only.is_none_or(|only| only == what);
    let mut silent = Vec::new();
    for continuous in [false, true] {
        if !wanted(if continuous { "compared" } else { "followed" }) {
            continue;
        }
        let text = yaml(&bench.blue, &bench.green, "ours", 2);
        let text = text.replace("continuous: false", &format!("continuous: {continuous}"));
        let program = Program::new(&text, &[])?;
        let running = program.start()?;
        let streaming = |s: &serde_json::Value| {
            s["phase"] == "streaming" && s["lag"]["bytes"].as_u64().is_some_and(|b| b < 1 << 20)
        };
        program.until("streaming", WITHIN, streaming).await?;
        let what = if continuous { "followed and compared" } else { "followed" };
        if continuous {
            program.command(&["verify"]).await?;
        }
        bench.idle(what, &running).await;
        for (i, limit) in limits.into_iter().enumerate() {
            let with = bench.followed(what, limit, &alone[i], "ours", Some(&running)).await?;
            if continuous {
                let Some(before): Option<&Stretch> = silent.get(i) else { continue };
                println!(
                    "  against following without comparing: {:+.1} % transactions, {:+.1} % \
                     processor of blue per transaction",
                    (with.tps / before.tps - 1.0) * 100.0,
                    (with.blue() / before.blue() - 1.0) * 100.0
                );
            } else {
                silent.push(with);
            }
        }
        println!("  memory of cutover run, at most: {:.0} MiB", peak_mib(running.id())?);
        let verdict = program.command(&["verify"]).await?;
        println!("  {} rows {}", verdict["rows"], verdict["verdict"].as_str().unwrap_or("?"));
        if verdict["verdict"] != "equal" {
            return Err("the sides differ".into());
        }
        program.command(&["abort", "--yes"]).await?;
        drop(running);
        bench.green.execute("postgres", "DROP DATABASE ours").await?;
        bench.green.create_database("ours").await?;
    }
    if !wanted("subscription") {
        return Ok(());
    }
    bench.green.create_database("native").await?;
    subscribe(&bench.blue, &bench.green).await?;
    bench.green.execute("native", "ALTER SUBSCRIPTION native ENABLE").await?;
    for (i, limit) in limits.into_iter().enumerate() {
        bench.followed("subscription", limit, &alone[i], "native", None).await?;
    }
    println!("load {}", load());
    Ok(())
}

/// Looks at green all the time.
struct Watch {
    stop: Arc<AtomicBool>,
    task: JoinHandle<std::result::Result<Seen, String>>,
}

/// The highest tick that was there, and when, microseconds since 1970.
type Seen = Vec<(i64, i64)>;

impl Watch {
    async fn start(green: &Postgres, database: &str) -> Result<Self> {
        let client = green.connect(database).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let sql = "SELECT coalesce(max(id), 0), \
                       (extract(epoch FROM clock_timestamp()) * 1000000)::int8 FROM ticks";
            let sql = client.prepare(sql).await.map_err(|e| e.to_string())?;
            let mut seen: Seen = Vec::new();
            while !told.load(Ordering::Acquire) {
                let row = client.query_one(&sql, &[]).await.map_err(|e| e.to_string())?;
                let (highest, at) = (row.get(0), row.get(1));
                if seen.last().is_none_or(|(last, _)| *last < highest) {
                    seen.push((highest, at));
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(seen)
        });
        Ok(Self { stop, task })
    }
}

impl Stretch {
    /// Processor of blue for so much load.
    fn blue(&self) -> f64 {
        self.cpu.blue / self.tps
    }
}

impl Bench {
    /// What following costs while nothing happens.
    async fn idle(&self, what: &str, by: &Running) {
        let before = Cpu::now(&self.blue, &self.green, by.id());
        tokio::time::sleep(IDLE).await;
        let cpu = Cpu::now(&self.blue, &self.green, by.id()).since(before);
        let percent = |seconds: f64| seconds / IDLE.as_secs_f64() * 100.0;
        println!(
            "{what}, without any load, per cent of a core: blue {:.1}, green {:.1}, itself {:.1}",
            percent(cpu.blue),
            percent(cpu.green),
            percent(cpu.program)
        );
    }

    /// A stretch of load that is followed into `database`, beside the same load `alone`.
    async fn followed(
        &self,
        what: &str,
        limit: Option<u32>,
        alone: &Stretch,
        database: &str,
        by: Option<&Running>,
    ) -> Result<Stretch> {
        let first = one(&self.blue, "bench", "SELECT coalesce(max(id), 0) FROM ticks").await?;
        let watch = Watch::start(&self.green, database).await?;
        let with = self.told(what, limit, by).await?;
        println!(
            "  against the same load alone: {:+.1} % transactions, {:+.1} % processor of blue per \
             transaction",
            (with.tps / alone.tps - 1.0) * 100.0,
            (with.blue() / alone.blue() - 1.0) * 100.0
        );
        let lags = self.lag(first.parse()?, watch, database).await?;
        let load = limit.map_or("no limit".to_owned(), |r| format!("{r} transactions/s"));
        plot::shares(
            &format!("lag-{}-{}", limit.unwrap_or(0), what.replace(' ', "-")),
            &format!("commit to commit, {load}, {what}, ms"),
            &[("lag", &lags)],
        )?;
        Ok(with)
    }

    async fn told(&self, what: &str, limit: Option<u32>, by: Option<&Running>) -> Result<Stretch> {
        let s = self.stretch(limit, by).await?;
        let load = limit.map_or("as fast as it goes".to_owned(), |r| format!("at {r}/s"));
        println!(
            "{what}, {load}: {:.0} transactions/s, latency {:.2} ms; processor seconds: blue \
             {:.1}, green {:.1}, cutover {:.1}",
            s.tps, s.latency_ms, s.cpu.blue, s.cpu.green, s.cpu.program
        );
        Ok(s)
    }

    async fn stretch(&self, limit: Option<u32>, by: Option<&Running>) -> Result<Stretch> {
        self.blue.execute("postgres", "CHECKPOINT").await?;
        let (seconds, rate) = (self.seconds.to_string(), limit.unwrap_or(0).to_string());
        let file = self.script.path().to_str().ok_or("no path")?;
        let define = format!("scale={SCALE}");
        let mut options =
            vec!["-n", "-c", "32", "-j", "2", "-T", &seconds, "-D", &define, "-f", file];
        if limit.is_some() {
            options.extend(["-R", &rate]);
        }
        let pid = by.and_then(Running::id);
        let before = Cpu::now(&self.blue, &self.green, pid);
        let said = tool("pgbench", &self.blue, "bench", &options).await?;
        let cpu = Cpu::now(&self.blue, &self.green, pid).since(before);
        let number = |label: &str| -> Result<f64> {
            let line = said.lines().find_map(|l| l.strip_prefix(label)).ok_or("pgbench?")?;
            Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
        };
        Ok(Stretch { tps: number("tps = ")?, latency_ms: number("latency average = ")?, cpu })
    }

    /// From the commit on blue until green shows a tick, for every tick after `first`.
    async fn lag(&self, first: i64, watch: Watch, database: &str) -> Result<Vec<f64>> {
        let last: i64 = one(&self.blue, "bench", "SELECT max(id) FROM ticks").await?.parse()?;
        let there = format!("SELECT EXISTS (SELECT FROM ticks WHERE id = {last})");
        let deadline = std::time::Instant::now() + WITHIN;
        while one(&self.green, database, &there).await? != "t" {
            if std::time::Instant::now() > deadline {
                return Err("the last row does not arrive".into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // One more look after the last row.
        tokio::time::sleep(Duration::from_millis(100)).await;
        watch.stop.store(true, Ordering::Release);
        let seen = watch.task.await??;
        let sql = "SELECT id, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::int8 \
                   FROM ticks WHERE id > $1 ORDER BY id";
        let blue = self.blue.connect("bench").await?.query(sql, &[&first]).await?;
        let lags: Vec<f64> = blue
            .iter()
            .filter_map(|row| {
                let (id, committed): (i64, i64) = (row.get(0), row.get(1));
                let at = seen.partition_point(|(highest, _)| *highest < id);
                Some((seen.get(at)?.1 - committed) as f64 / 1000.0)
            })
            .collect();
        if lags.len() != blue.len() {
            return Err("not every tick was seen".into());
        }
        println!(
            "  lag of {} transactions: median {:.1} ms, p90 {:.1}, p99 {:.1}, worst {:.1}",
            lags.len(),
            quantile(&lags, 0.5),
            quantile(&lags, 0.9),
            quantile(&lags, 0.99),
            quantile(&lags, 1.0)
        );
        Ok(lags)
    }
}

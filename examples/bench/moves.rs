//! Moves there and back under load through PgBouncer, the way back armed all the time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cutover_sandbox::shop::{self, ShopSize, StageOptions};
use serde_json::Value;

use crate::{
    Result, argument,
    figures::{load, machine, quantile},
    plot,
    program::Program,
    servers::installs,
};

struct Move {
    kind: &'static str,
    pause_ms: f64,
    longest_ms: f64,
    steps: Vec<(String, f64)>,
}

pub(crate) async fn run(arguments: &[String]) -> Result<()> {
    let each: usize = argument(arguments, 0, 20)?;
    let rate: f64 = argument(arguments, 1, 300.0)?;
    let clients: usize = argument(arguments, 2, 32)?;
    let tables: usize = argument(arguments, 3, 0)?;
    let sequences: usize = argument(arguments, 4, 0)?;
    let (blue, green) = installs()?;
    let size = ShopSize::demo();
    let stage = shop::Stage::set(&StageOptions {
        blue,
        green,
        size,
        durable: true,
        databases: Default::default(),
    })
    .await?;
    println!("{}", machine(&stage.blue, &stage.green));
    for i in 0..tables.max(sequences) {
        let id = if i < sequences { "bigserial" } else { "bigint" };
        stage
            .blue
            .execute(
                "shop",
                &format!(
                    "SET ROLE shop;
                     CREATE TABLE more_{i} (id {id} PRIMARY KEY, note text);
                     INSERT INTO more_{i} SELECT i, 'note' FROM generate_series(1, 10) i"
                ),
            )
            .await?;
    }
    let yaml = format!(
        "run: bench\n\
         state_dir: ./state\n\
         blue: {{ url: \"postgres://cutover@127.0.0.1:{}/shop\", password: {{env: CUTOVER_BENCH}} }}\n\
         green: {{ url: \"postgres://cutover@127.0.0.1:{}/shop\", password: {{env: CUTOVER_BENCH}} }}\n\
         tables: {{ include: [\"public.*\"] }}\n\
         copy: {{ workers: 2 }}\n\
         switch:\n\
         \x20 - pgbouncer:\n\
         \x20     admin: \"{}\"\n\
         \x20     password: {{env: CUTOVER_BENCH_POOLER}}\n\
         \x20     database: shop\n\
         \x20     config: \"{}\"\n\
         http: {{ listen: \"127.0.0.1:0\" }}\n",
        stage.blue.port(),
        stage.green.port(),
        stage.pooler.admin_url(),
        stage.pooler.config_path().display(),
    );
    let program = Program::new(
        &yaml,
        &[
            ("CUTOVER_BENCH", shop::CUTOVER_PASSWORD),
            ("CUTOVER_BENCH_POOLER", stage.pooler.admin_password()),
        ],
    )?;
    let clock = Instant::now();
    let clients_load = stage.load(clients, rate);
    let running = program.start()?;
    let ready = |status: &Value| status["ready"]["state"] == "ready";
    program.until("ready", Duration::from_secs(180), ready).await?;
    let mut moves = Vec::new();
    let mut refused = Vec::new();
    println!("move      pause ms  longest client wait ms  steps ms");
    for i in 0..2 * each {
        let kind = if i % 2 == 0 { "switch" } else { "rollback" };
        program.until("ready", Duration::from_secs(60), ready).await?;
        clients_load.reset_longest();
        let answer = loop {
            match program.ask(&[kind]).await? {
                (0, answer, _) => break answer,
                // Refused before any client waited, or taken back: counted, and tried again.
                (1, answer, said) if refused.len() < 2 * each => {
                    println!("{kind:<8} {:>9}  {said}", "-");
                    refused.push(answer["pause_ms"].as_f64());
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                (exit, _, said) => return Err(program.broken(&format!("{kind}: {exit}: {said}"))),
            }
        };
        // Clients that waited have had their turn by then.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let one = Move {
            kind,
            pause_ms: answer["pause_ms"].as_f64().ok_or("no pause in the answer")?,
            longest_ms: clients_load.reset_longest().as_secs_f64() * 1000.0,
            steps: steps(&answer["steps_ms"]),
        };
        let told: Vec<String> = one.steps.iter().map(|(s, ms)| format!("{s} {ms:.1}")).collect();
        println!("{kind:<8} {:>9.1}  {:>22.1}  {}", one.pause_ms, one.longest_ms, told.join(", "));
        moves.push(one);
    }
    // A rollback was last: blue owns the writes again, and green holds the same.
    let took = clock.elapsed().as_secs_f64();
    let view = clients_load.stop(Duration::from_secs(10)).await;
    let compared = program.command(&["verify"]).await?;
    let books =
        shop::check(&stage.blue.connect("shop").await?, &view.acknowledged, &view.unknown).await?;
    running.stop().await?;
    println!();
    for kind in ["switch", "rollback", "all"] {
        let of = |get: fn(&Move) -> f64| -> Vec<f64> {
            moves.iter().filter(|m| kind == "all" || m.kind == kind).map(get).collect()
        };
        let (pauses, waits) = (of(|m| m.pause_ms), of(|m| m.longest_ms));
        println!(
            "{kind:<8} {:>3} moves: pause median {:.1} ms, p90 {:.1}, p99 {:.1}, worst {:.1}; longest client \
             wait median {:.1} ms, worst {:.1}",
            pauses.len(),
            quantile(&pauses, 0.5),
            quantile(&pauses, 0.9),
            quantile(&pauses, 0.99),
            quantile(&pauses, 1.0),
            quantile(&waits, 0.5),
            quantile(&waits, 1.0),
        );
    }
    let pauses = |kind: &str| -> Vec<f64> {
        moves.iter().filter(|m| m.kind == kind).map(|m| m.pause_ms).collect()
    };
    let longest: Vec<f64> = moves.iter().map(|m| m.longest_ms).collect();
    plot::shares(
        &format!("moves-{rate}-{tables}"),
        &format!("{} moves at {rate} transactions/s from {clients} clients, ms", moves.len()),
        &[
            ("pause, switch", &pauses("switch")),
            ("pause, rollback", &pauses("rollback")),
            ("longest client wait", &longest),
        ],
    )?;
    println!(
        "{} moves refused before any client waited, {} taken back",
        refused.iter().filter(|p| p.is_none()).count(),
        refused.iter().flatten().count()
    );
    let mut steps: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (step, ms) in moves.iter().flat_map(|m| &m.steps) {
        steps.entry(step).or_default().push(*ms);
    }
    for (step, ms) in &steps {
        println!(
            "  {step:<14} median {:>6.1} ms, worst {:>6.1}",
            quantile(ms, 0.5),
            quantile(ms, 1.0)
        );
    }
    println!(
        "{} transactions done ({:.0}/s), {} failed, {} lost, money missing {}; {} rows {}; load {}",
        view.done,
        view.done as f64 / took,
        view.failed,
        books.lost,
        books.missing_money,
        compared["rows"],
        compared["verdict"].as_str().unwrap_or("?"),
        load(),
    );
    if view.failed > 0 || !books.are_right() || compared["verdict"] != "equal" {
        return Err(format!("not good: {:?}", view.first_error).into());
    }
    Ok(())
}

fn steps(value: &Value) -> Vec<(String, f64)> {
    let pairs = value.as_array().into_iter().flatten();
    pairs.filter_map(|p| Some((p[0].as_str()?.to_owned(), p[1].as_f64()?))).collect()
}

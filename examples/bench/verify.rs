//! The full comparison of both sides at one position.

use std::time::Duration;

use crate::{
    Result, argument,
    copy::fill,
    cpu::Cpu,
    figures::{load, machine},
    program::Program,
    servers::{both, yaml},
};

pub(crate) async fn run(arguments: &[String]) -> Result<()> {
    let scale: u32 = argument(arguments, 0, 30)?;
    let workers: usize = argument(arguments, 1, 2)?;
    let (blue, green) = both().await?;
    let mib = (fill(&blue, scale).await? >> 20) as f64;
    println!("{}", machine(&blue, &green));
    green.create_database("ours").await?;
    let program = Program::new(&yaml(&blue, &green, "ours", workers), &[])?;
    let running = program.start()?;
    let streaming = |s: &serde_json::Value| s["phase"] == "streaming" && s["lag"]["bytes"].is_u64();
    program.until("streaming", Duration::from_secs(900), streaming).await?;
    println!("{mib} MiB of tables on each side, {workers} workers");
    for _ in 0..2 {
        let before = Cpu::now(&blue, &green, running.id());
        let answer = program.command(&["verify"]).await?;
        let cpu = Cpu::now(&blue, &green, running.id()).since(before);
        let took = answer["took_ms"].as_f64().ok_or("no time in the answer")? / 1000.0;
        println!(
            "{} rows {} in {took:.1} s: {:.0} MiB/s; {:.0} MiB per core and second (processor: \
             blue {:.1} s, green {:.1}, itself {:.1}); load {}",
            answer["rows"],
            answer["verdict"].as_str().unwrap_or("?"),
            mib / took,
            mib / cpu.sum(),
            cpu.blue,
            cpu.green,
            cpu.program,
            load()
        );
    }
    running.stop().await?;
    Ok(())
}

//! `cutover plan`: every step in words; changes nothing.

use cutover::{
    config::{
        Config,
        checked::Schema,
        units::{format_duration, format_size},
    },
    cutover::plan::{self, Phase, PlannedStep},
    error::{Exit, Failure},
};
use cutover_core::{model::side::Side, port::switch::TrafficSwitch};
use serde_json::json;

use super::output::{Printer, Tone, wrap};
use crate::wiring;

/// Longest line.
const WIDTH: usize = 100;

pub(super) fn plan(config: &Config, printer: Printer) -> Result<Exit, Failure> {
    let ports = wiring::ports(config)?;
    let switches: Vec<&dyn TrafficSwitch> = ports.switches.iter().map(AsRef::as_ref).collect();
    let run = run_steps(config);
    let there = plan::describe(Side::Blue, false, &switches);
    let back = plan::describe(Side::Green, false, &switches);
    let head = |text: &str| printer.tone(Tone::Head, text);

    let mut lines = vec![
        head(&format!("The run {}", config.run)),
        format!("  blue   {}", ports.blue.address),
        format!("  green  {}", ports.green.address),
    ];
    lines.extend(numbered(run.iter().map(String::as_str)));
    lines.push(String::new());
    lines.push(head("The switch to green"));
    if switches.is_empty() {
        lines.extend(wrap("  ", "No switch is configured: moves are refused.", WIDTH));
    }
    lines.extend(bounds(config));
    lines.extend(move_lines(&there));
    lines.push(String::new());
    lines.push(head("The way back to blue"));
    lines.extend(wrap("  ", "The same steps with the sides exchanged:", WIDTH));
    lines.extend(move_lines(&back));
    lines.push(String::new());
    lines.push(head("The end"));
    let end = "`cutover finish` removes slots, publications, origins, fences and the schema of the \
               run from both servers; `cutover abort` does the same before a switch.";
    lines.extend(wrap("  ", end, WIDTH));
    printer.answer(
        &json!({
            "configuration": config.public(),
            "run": run,
            "switch": there,
            "rollback": back,
        }),
        &lines.join("\n"),
    );
    Ok(Exit::Done)
}

fn run_steps(config: &Config) -> Vec<String> {
    let definitions = match &config.schema {
        Schema::Copy => "copy definitions to green: schemas, types, tables, functions".to_owned(),
        Schema::Provided => "use green's own tables".to_owned(),
        Schema::Run(commands) => {
            format!("copy definitions to green, then run {} command(s) of yours", commands.len())
        }
    };
    let rate = config.copy.rate.map(|r| format!(", at most {} per second", format_size(r)));
    let reads = |side| match config.database(side).read_from {
        Some(_) => format!("create publication on {side} and slot on its standby"),
        None => format!("create publication and slot on {side}"),
    };
    let keeper = if config.blue.read_from.is_some() { "the standby" } else { "blue" };
    vec![
        "preflight: stop on any error".into(),
        format!("{}; {keeper} keeps its log from here on", reads(Side::Blue)),
        definitions,
        "fence green: nobody but us writes there".into(),
        format!(
            "copy rows with {} worker(s) under one snapshot, in ranges of {}{}",
            config.copy.workers,
            format_size(config.copy.chunk),
            rate.unwrap_or_default()
        ),
        "build indexes and constraints, gather statistics".into(),
        format!("{} for the way back; install blue's fence, open", reads(Side::Green)),
        "follow blue's changes; watch green for writes of others".into(),
        if config.verify.continuous {
            "compare every row at one position, then every changed row again and again".into()
        } else {
            "compare when asked".into()
        },
        "wait for commands".into(),
    ]
}

fn bounds(config: &Config) -> Vec<String> {
    let text = format!(
        "Clients wait at most {}; it begins with a lag of at most {}.",
        format_duration(config.moves.pause_budget),
        format_duration(config.moves.max_lag)
    );
    wrap("  ", &text, WIDTH)
}

fn numbered<'a>(steps: impl Iterator<Item = &'a str>) -> Vec<String> {
    steps.enumerate().flat_map(|(i, s)| wrap(&format!("{:>4}. ", i + 1), s, WIDTH)).collect()
}

/// The steps under what clients feel of them.
fn move_lines(steps: &[PlannedStep]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut phase = None;
    for (i, step) in steps.iter().enumerate() {
        if phase != Some(step.phase) {
            phase = Some(step.phase);
            lines.push(
                match step.phase {
                    Phase::Before => "  clients go on; a failure ends the move",
                    Phase::Pause => "  clients wait; a failure lets them go where they were",
                    Phase::Forward => "  clients wait until `point`; there is no way but forward",
                }
                .to_owned(),
            );
        }
        let first = format!("{:>4}. {:<15}", i + 1, step.step.name());
        let indent = " ".repeat(first.chars().count());
        lines.extend(wrap(&first, &step.what, WIDTH));
        for switch in &step.switches {
            lines.extend(wrap(&format!("{indent}- "), switch, WIDTH));
        }
        if let Some(undo) = &step.undo {
            lines.extend(wrap(&format!("{indent}undo: "), undo, WIDTH));
        }
    }
    lines
}

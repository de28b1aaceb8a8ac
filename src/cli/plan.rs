//! `cutover plan`: every step in words; changes nothing.

use cutover::{
    config::{Config, checked::Schema},
    cutover::plan::{self, Phase, PlannedStep},
    error::{Exit, Failure},
};
use cutover_core::{model::side::Side, port::switch::TrafficSwitch};
use serde_json::json;

use super::output::Printer;
use crate::wiring;

pub(super) fn plan(config: &Config, printer: Printer) -> Result<Exit, Failure> {
    let ports = wiring::ports(config)?;
    let switches: Vec<&dyn TrafficSwitch> = ports.switches.iter().map(AsRef::as_ref).collect();
    let run = run_steps(config);
    let there = plan::describe(Side::Blue, false, &switches);
    let back = plan::describe(Side::Green, false, &switches);
    let mut lines = vec![format!(
        "The run {} from {} to {}:",
        config.run, ports.blue.address, ports.green.address
    )];
    lines.extend(run.iter().enumerate().map(|(i, s)| format!("{:>3}. {s}", i + 1)));
    for (title, steps) in [("The switch to green:", &there), ("The way back to blue:", &back)] {
        lines.push(String::new());
        lines.push(title.into());
        lines.extend(steps.iter().enumerate().flat_map(|(i, s)| step_lines(i, s)));
    }
    printer.answer(&json!({ "run": run, "switch": there, "rollback": back }), &lines.join("\n"));
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
    vec![
        "preflight: stop on any error".into(),
        "create publication and slot on blue; blue keeps its log from here on".into(),
        definitions,
        "fence green: nobody but us writes there".into(),
        format!(
            "copy rows with {} worker(s) under one snapshot, in ranges of {} MiB",
            config.copy.workers,
            config.copy.chunk >> 20
        ),
        "build indexes and constraints, gather statistics".into(),
        "create publication and slot on green for the way back; install blue's fence, open".into(),
        "follow blue's changes; watch green for writes of others".into(),
        if config.verify.continuous {
            "compare every row at one position, then every changed row again and again".into()
        } else {
            "compare when asked".into()
        },
        "wait for commands".into(),
    ]
}

fn step_lines(i: usize, step: &PlannedStep) -> Vec<String> {
    let phase = match step.phase {
        Phase::Before => "clients go on",
        Phase::Pause => "clients wait",
        Phase::Forward => "no way but forward",
    };
    let mut lines = vec![format!("{:>3}. {:<14} {} [{phase}]", i + 1, step.step.name(), step.what)];
    lines.extend(step.switches.iter().map(|s| format!("       {s}")));
    lines.extend(step.undo.iter().map(|u| format!("       undo: {u}")));
    lines
}

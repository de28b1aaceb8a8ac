//! `cutover guard`: stands by while a move is made.

use std::{os::unix::process::parent_id, sync::Arc};

use cutover::{
    config::Config,
    cutover::{
        ground::{Failure as Refusal, Ground, live::LiveGround},
        guard::{GuardEnd, serve},
    },
    error::{Exit, Failure},
    observe::logs,
    run::recovery::{Site, parts},
};
use cutover_core::model::side::Side;
use tokio::io::BufReader;

use crate::wiring;

pub(super) async fn guard(config: &Config, filter: Option<&str>) -> Result<Exit, Failure> {
    logs::start(filter.unwrap_or("warn,cutover::cutover::guard=info"), false);
    let ports = wiring::ports(config)?;
    let parent = parent_id();
    let make = |from: Side| -> Result<Arc<dyn Ground>, Refusal> {
        let site = Site {
            run: &config.run,
            selection: &config.tables,
            ports: &ports,
            budget: config.moves.pause_budget,
        };
        Ok(Arc::new(LiveGround::new(parts(&site, from))))
    };
    let kill = || {
        // Only the process that started us: once it is gone, its number may be somebody else's.
        if parent_id() == parent {
            let status =
                std::process::Command::new("kill").arg("-9").arg(parent.to_string()).status();
            if let Err(e) = status {
                tracing::error!("`kill` cannot be started: {e}");
            }
        }
    };
    let input = BufReader::new(tokio::io::stdin());
    let end = serve(input, tokio::io::stdout(), make, &kill)
        .await
        .map_err(|e| Failure::new("the guard failed").caused_by(&e))?;
    Ok(match end {
        GuardEnd::Released | GuardEnd::NothingToDo | GuardEnd::Freed(_) => Exit::Done,
        GuardEnd::NeedsOperator(_) => Exit::Undecided,
    })
}

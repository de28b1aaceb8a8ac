//! `cutover guard`: stands by while a move is made.

use std::sync::Arc;

use cutover::{
    config::{Config, checked::LogFormat, reference::move_mark},
    cutover::{
        ground::{Failure as Refusal, Ground, live::LiveGround},
        guard::{GuardEnd, Parent, serve, stand_fast},
    },
    error::{Exit, Failure},
    run::recovery::{Site, parts},
};
use cutover_core::model::side::Side;
use tokio::io::BufReader;

use super::output::Printer;
use crate::wiring;

pub(super) async fn guard(
    config: &Config,
    of: Option<&str>,
    filter: Option<&str>,
    printer: Printer,
) -> Result<Exit, Failure> {
    printer.start_logs(
        filter.unwrap_or("warn,cutover::cutover::guard=info"),
        config.log.format == LogFormat::Json,
    );
    let ports = wiring::ports(config)?;
    stand_fast().map_err(|e| Failure::new("the guard cannot stand fast").caused_by(&e))?;
    let parent = Parent::here();
    let make = |from: Side| -> Result<Arc<dyn Ground>, Refusal> {
        if of.is_some_and(|of| of != move_mark(&config.public())) {
            return Err(Refusal::definite(
                "CUT0737",
                "the configuration file is not the one that `cutover run` was started with",
                "stop and start `cutover run`, or take the change back",
            ));
        }
        let site = Site {
            run: &config.run,
            selection: &config.tables,
            ports: &ports,
            budget: config.moves.pause_budget,
        };
        Ok(Arc::new(LiveGround::new(parts(&site, from))))
    };
    let kill = move || parent.kill();
    let input = BufReader::new(tokio::io::stdin());
    let end = serve(input, tokio::io::stdout(), make, &kill)
        .await
        .map_err(|e| Failure::new("the guard failed").caused_by(&e))?;
    Ok(match end {
        GuardEnd::Released | GuardEnd::NothingToDo | GuardEnd::Freed(_) => Exit::Done,
        GuardEnd::NeedsOperator(_) => Exit::Undecided,
    })
}

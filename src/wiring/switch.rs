//! A `switch` section: one port each.

use std::sync::Arc;

use cutover::{
    config::{
        Config,
        checked::{self, Switch, SwitchKind},
    },
    error::{Exit, Failure},
};
use cutover_core::port::switch::TrafficSwitch;
use cutover_postgres::Database;
use cutover_switch::{
    BadConfig, CommandConfig, CommandSwitch, PgBouncerConfig, PgBouncerSwitch, Target, Targets,
    WebhookConfig, WebhookSwitch,
};

pub(super) fn open(
    config: &Config,
    switch: &Switch,
    blue: &Database,
    green: &Database,
) -> Result<Arc<dyn TrafficSwitch>, Failure> {
    let name = &switch.name;
    let bad = |e: BadConfig| {
        Failure::new(format!("{name}: {}", e.what))
            .code("CUT0004")
            .remedy(e.remedy)
            .exit(Exit::Usage)
    };
    Ok(match &switch.kind {
        SwitchKind::PgBouncer { admin, databases, config: file, blue: b, green: g } => {
            let targets = Targets { blue: target(blue, b), green: target(green, g) };
            let section = PgBouncerConfig {
                admin: admin.url.expose().to_owned(),
                database: databases.clone(),
                config: file.clone(),
                blue: None,
                green: None,
            };
            let password = admin.password.as_ref().map(|p| p.secret.expose());
            Arc::new(
                PgBouncerSwitch::new(name, section, password, targets)
                    .map_err(bad)?
                    .with_pause_budget(config.moves.pause_budget),
            )
        }
        SwitchKind::Command { argv, timeout, env } => {
            let section = CommandConfig { argv: argv.clone(), timeout: *timeout, env: env.clone() };
            Arc::new(CommandSwitch::new(name, section, &config.run).map_err(bad)?)
        }
        SwitchKind::Webhook { url, observe_url, secret, timeout } => {
            let section = WebhookConfig {
                url: url.expose().to_owned(),
                observe_url: observe_url.as_ref().map(|u| u.expose().to_owned()),
                timeout: *timeout,
            };
            let secret = secret.as_ref().map(|s| s.secret.expose());
            Arc::new(WebhookSwitch::new(name, section, secret, &config.run).map_err(bad)?)
        }
    })
}

/// A side as the pooler reaches it; as we do, unless the user says otherwise.
fn target(database: &Database, given: &Option<checked::Target>) -> Target {
    match given {
        Some(t) => Target { host: t.host.clone(), port: t.port, dbname: t.dbname.clone() },
        None => Target {
            host: database.host(),
            port: database.port(),
            dbname: database.dbname().to_owned(),
        },
    }
}

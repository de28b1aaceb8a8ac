//! A `switch` section: one port each.

use std::sync::Arc;

use cutover::{
    config::{
        Config,
        checked::{Switch, SwitchKind},
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
        SwitchKind::PgBouncer { admin, database, config: file, blue: b, green: g } => {
            let targets = Targets {
                blue: target(&target_of(blue), b.as_deref()).map_err(bad)?,
                green: target(&target_of(green), g.as_deref()).map_err(bad)?,
            };
            let section = PgBouncerConfig {
                admin: admin.url.expose().to_owned(),
                database: vec![database.clone()],
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
        SwitchKind::Command { argv, timeout } => {
            let section =
                CommandConfig { argv: argv.clone(), timeout: *timeout, env: Vec::new() };
            Arc::new(CommandSwitch::new(name, section, &config.run).map_err(bad)?)
        }
        SwitchKind::Webhook { url, secret, timeout } => {
            let section = WebhookConfig {
                url: url.expose().to_owned(),
                observe_url: None,
                timeout: *timeout,
            };
            let secret = Some(secret.secret.expose());
            Arc::new(WebhookSwitch::new(name, section, secret, &config.run).map_err(bad)?)
        }
    })
}

/// A side as we reach it.
fn target_of(database: &Database) -> Target {
    Target { host: database.host(), port: database.port(), dbname: database.dbname().to_owned() }
}

/// `host=... port=... dbname=...` over the address as we reach it.
fn target(default: &Target, parameters: Option<&str>) -> Result<Target, BadConfig> {
    let mut target = default.clone();
    for part in parameters.unwrap_or_default().split_whitespace() {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match (key, value.parse::<u16>()) {
            ("host", _) => target.host = value.to_owned(),
            ("port", Ok(port)) => target.port = port,
            ("dbname", _) => target.dbname = value.to_owned(),
            _ => {
                return Err(BadConfig {
                    what: format!("{key:?} is not host=, port= or dbname= with a value"),
                    remedy: "write for example host=10.0.0.1 port=5432 dbname=shop".into(),
                });
            }
        }
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_win_over_the_address() {
        let ours = Target { host: "h".into(), port: 1, dbname: "d".into() };
        assert_eq!(target(&ours, None).unwrap(), ours);
        let theirs = target(&ours, Some("host=10.0.0.1  port=2")).unwrap();
        assert_eq!(theirs.to_string(), "10.0.0.1:2/d");
        for bad in ["user=x", "port=x", "host"] {
            assert!(target(&ours, Some(bad)).is_err() || bad == "host", "{bad}");
        }
    }
}

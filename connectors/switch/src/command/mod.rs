//! A program of the user as a traffic switch: JSON on its input, an exit status for an answer.
//!
//! No shell, a bare environment, a time limit that ends its whole process group. The contract is
//! in `docs/SWITCHES.md`. `process` runs it; what an exit means for traffic is decided here.

mod process;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use cutover_core::{
    model::{
        finding::{Finding, Severity},
        run::RunId,
        side::Side,
    },
    port::switch::{Routing, SwitchError, TrafficSwitch},
};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::{
    BadConfig, duration,
    failure::{self, ambiguous, chain, refused, refused_by},
    wire::{self, Action, Question},
};
use process::{Ended, RunError};

/// The `command` section of a switch.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// The program and its arguments. No shell reads them.
    pub argv: Vec<String>,
    /// How long it may take beyond what a pause allows; 5 s when not set.
    #[serde(default = "default_timeout", deserialize_with = "duration::deserialize")]
    pub timeout: Duration,
    /// Names of environment variables it gets beside PATH, HOME, LANG and our own.
    #[serde(default)]
    pub env: Vec<String>,
}

fn default_timeout() -> Duration {
    Duration::from_secs(5)
}

/// One program.
pub struct CommandSwitch {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    run: RunId,
    config: CommandConfig,
    /// One question at a time.
    turn: Mutex<()>,
}

impl CommandSwitch {
    /// Checks the section; starts nothing.
    ///
    /// # Errors
    ///
    /// When no program is named or the time limit is zero.
    pub fn new(name: &str, config: CommandConfig, run: &RunId) -> Result<Self, BadConfig> {
        if config.argv.first().is_none_or(String::is_empty) {
            return Err(BadConfig::new("no program is named", "write argv: [/path/to/program]"));
        }
        if config.timeout.is_zero() {
            return Err(BadConfig::new("the timeout is zero", "write for example timeout: 5s"));
        }
        let inner = Inner { name: name.to_owned(), run: run.clone(), config, turn: Mutex::new(()) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Runs to its end even when the caller stops waiting; see [`Inner::ask`].
    async fn ask(
        &self,
        action: Action,
        side: Option<Side>,
        within: Duration,
    ) -> Result<Vec<u8>, SwitchError> {
        let inner = Arc::clone(&self.inner);
        match tokio::spawn(async move { inner.ask(action, side, within).await }).await {
            Ok(answer) => answer,
            Err(error) => Err(ambiguous(self.name(), action.as_str(), error)),
        }
    }
}

impl Inner {
    /// Asks, and reads the exit status as the contract says.
    async fn ask(
        &self,
        action: Action,
        side: Option<Side>,
        within: Duration,
    ) -> Result<Vec<u8>, SwitchError> {
        let _turn = self.turn.lock().await;
        let question = Question::new(action, &self.run, &self.name, side, within).line();
        // The program must be able to undo a pause that takes too long before it is killed.
        let limit = match action {
            Action::Pause => within + self.config.timeout,
            _ => within,
        };
        let variables = [
            ("CUTOVER_ACTION", action.as_str()),
            ("CUTOVER_RUN", self.run.as_str()),
            ("CUTOVER_SWITCH", &self.name),
            ("CUTOVER_SIDE", side.map_or("", Side::as_str)),
        ];
        let ended =
            process::run(&self.config.argv, &self.config.env, &variables, &question, limit).await;
        decide(&self.name, action, ended)
    }
}

/// What an end means for traffic.
fn decide(
    switch: &str,
    action: Action,
    ended: Result<Ended, RunError>,
) -> Result<Vec<u8>, SwitchError> {
    let doing = action.as_str();
    match ended {
        Ok(Ended { status: Some(0), stdout, .. }) => Ok(stdout),
        Ok(Ended { status: Some(1), stderr, .. }) => {
            Err(refused(switch, format!("{doing}: {}", said(&stderr))))
        }
        Ok(Ended { status: Some(other), stderr, .. }) => Err(ambiguous(
            switch,
            doing,
            format!("it ended with status {other}: {}", said(&stderr)),
        )),
        Ok(Ended { status: None, stderr, .. }) => {
            Err(ambiguous(switch, doing, format!("it was killed: {}", said(&stderr))))
        }
        Err(RunError::NotStarted { program, cause }) => {
            Err(refused_by(switch, format!("{doing}: {program} cannot be started"), cause))
        }
        Err(error) => Err(ambiguous(switch, doing, error)),
    }
}

fn said(stderr: &str) -> &str {
    if stderr.is_empty() { "it said nothing on its error output" } else { stderr }
}

#[async_trait]
impl TrafficSwitch for CommandSwitch {
    fn name(&self) -> &str {
        &self.inner.name
    }

    fn describe(&self, side: Side) -> String {
        format!("run {} with action point_at and side {side}", self.inner.config.argv.join(" "))
    }

    async fn observe(&self) -> Result<Routing, SwitchError> {
        let answer = self.ask(Action::Observe, None, self.inner.config.timeout).await?;
        wire::routing(&answer)
            .map_err(|error| ambiguous(self.name(), "observe: its output is not the answer", error))
    }

    async fn pause(&self, within: Duration) -> Result<(), SwitchError> {
        self.ask(Action::Pause, None, within).await.map(drop)
    }

    async fn point_at(&self, side: Side) -> Result<(), SwitchError> {
        self.ask(Action::PointAt, Some(side), self.inner.config.timeout).await.map(drop)
    }

    async fn examine(&self) -> Vec<Finding> {
        let name = self.name();
        let broken = |what: String| Finding {
            code: "CUT0729".to_owned(),
            severity: Severity::Error,
            place: name.to_owned(),
            what,
            remedy: "run it by hand with the question on its standard input; docs/SWITCHES.md has \
                     the contract and an example"
                .to_owned(),
        };
        let mut findings = Vec::new();
        let program = &self.inner.config.argv[0];
        if program.contains('/') && !Path::new(program).exists() {
            return vec![broken(format!("{program} does not exist"))];
        }
        for variable in &self.inner.config.env {
            if std::env::var_os(variable).is_none() {
                findings.push(broken(format!("environment variable {variable} is not set")));
            }
        }
        match self.observe().await {
            Ok(routing) => findings.extend(wire::judge(name, routing)),
            Err(error) => findings.push(broken(chain(&error))),
        }
        let answer = self.ask(Action::Examine, None, self.inner.config.timeout).await;
        match answer.map(|text| wire::findings(name, &text)) {
            Ok(Ok(own)) => findings.extend(own),
            Ok(Err(error)) => {
                findings.push(broken(format!("its answer to examine cannot be read: {error}")));
            }
            Err(error) => findings.push(broken(failure::chain(&error))),
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_status_says_what_is_known() {
        let end = |status, stderr: &str| {
            let ended = Ended { status, stdout: b"{}".to_vec(), stderr: stderr.to_owned() };
            decide("command[0]", Action::Pause, Ok(ended))
        };
        assert_eq!(end(Some(0), "warned").unwrap(), b"{}");
        let text = |result: Result<Vec<u8>, SwitchError>| chain(&result.unwrap_err());
        assert!(matches!(end(Some(1), "busy"), Err(SwitchError::Refused { .. })));
        assert_eq!(text(end(Some(1), "busy")), "command[0] refused: pause: busy");
        for status in [Some(2), Some(127), None] {
            assert!(matches!(end(status, ""), Err(SwitchError::Ambiguous { .. })), "{status:?}");
        }
        assert!(text(end(Some(3), "half done")).contains("status 3: half done"));
        let not_started = RunError::NotStarted {
            program: "x".into(),
            cause: std::io::Error::other("no such file"),
        };
        let refused = decide("command[0]", Action::Pause, Err(not_started));
        assert!(matches!(refused, Err(SwitchError::Refused { .. })));
    }

    #[test]
    fn sections() {
        let read = |json: &str| serde_json::from_str::<CommandConfig>(json);
        let config = read(r#"{"argv": ["/bin/x", "a b"], "timeout": "2s"}"#).unwrap();
        assert_eq!(config.timeout, Duration::from_secs(2));
        let run = RunId::new("shop").unwrap();
        let switch = CommandSwitch::new("command[0]", config, &run).unwrap();
        assert_eq!(
            switch.describe(Side::Green),
            "run /bin/x a b with action point_at and side green"
        );
        assert!(read(r#"{"argv": ["x"], "timeout": 2}"#).is_err());
        assert!(read(r#"{"argv": ["x"], "shell": true}"#).is_err());
        assert!(CommandSwitch::new("c", read(r#"{"argv": []}"#).unwrap(), &run).is_err());
    }
}

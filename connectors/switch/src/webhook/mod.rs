//! A service of the user as a traffic switch: the question as a signed HTTP POST.
//!
//! 2xx is done, 409 is refused, a connection that was never made is refused; everything else is
//! ambiguous and nothing is sent twice. The contract is in `docs/SWITCHES.md`. `send` speaks HTTP;
//! what an answer means for traffic is decided here.

mod send;
mod sign;

use std::{sync::Arc, time::Duration};

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
    failure::{ambiguous, chain, refused, refused_by},
    wire::{self, Action, Question},
};
use send::{Answer, Hook, SendError};

/// The `webhook` section of a switch.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where `pause` and `point_at` go.
    pub url: String,
    /// Where `observe` and `examine` go. Without it the switch cannot say where writes go, and a
    /// crash in the middle of a move needs an operator.
    #[serde(default)]
    pub observe_url: Option<String>,
    /// How long an answer may take beyond what a pause allows; 5 s when not set.
    #[serde(default = "default_timeout", deserialize_with = "duration::deserialize")]
    pub timeout: Duration,
}

fn default_timeout() -> Duration {
    Duration::from_secs(5)
}

impl std::fmt::Debug for WebhookConfig {
    /// Hosts only: paths and queries of hooks are often their credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookConfig")
            .field("url", &send::place(&self.url))
            .field("observe_url", &self.observe_url.as_deref().map(send::place))
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// One service.
pub struct WebhookSwitch {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    run: RunId,
    act: Arc<Hook>,
    ask: Option<Arc<Hook>>,
    timeout: Duration,
    /// One question at a time.
    turn: Mutex<()>,
}

impl WebhookSwitch {
    /// Checks the section; connects to nothing. With a `secret` every request is signed.
    ///
    /// # Errors
    ///
    /// When an address is none, the time limit is zero or the secret is empty.
    pub fn new(
        name: &str,
        config: WebhookConfig,
        secret: Option<&str>,
        run: &RunId,
    ) -> Result<Self, BadConfig> {
        if config.timeout.is_zero() {
            return Err(BadConfig::new("the timeout is zero", "write for example timeout: 5s"));
        }
        if secret.is_some_and(str::is_empty) {
            return Err(BadConfig::new(
                "the secret is empty, which signs nothing",
                "give a secret of at least 32 random characters, or none",
            ));
        }
        let hook = |url: &str| Hook::new(url, secret).map(Arc::new);
        let ask = match config.observe_url.as_deref() {
            Some(url) => Some(hook(url)?),
            None => None,
        };
        let inner = Inner {
            name: name.to_owned(),
            run: run.clone(),
            act: hook(&config.url)?,
            ask,
            timeout: config.timeout,
            turn: Mutex::new(()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Runs to its end even when the caller stops waiting, so that questions never overlap.
    async fn ask(
        &self,
        hook: &Arc<Hook>,
        action: Action,
        side: Option<Side>,
        within: Duration,
    ) -> Result<Vec<u8>, SwitchError> {
        let (inner, hook) = (Arc::clone(&self.inner), Arc::clone(hook));
        let work = async move {
            let _turn = inner.turn.lock().await;
            let body = Question::new(action, &inner.run, &inner.name, side, within).line();
            // The service must be able to undo a pause that takes too long and say so.
            let limit = match action {
                Action::Pause => within + inner.timeout,
                _ => within,
            };
            let sent = tokio::task::spawn_blocking(move || hook.post(&body, limit)).await;
            match sent {
                Ok(answer) => decide(&inner.name, action, answer),
                Err(error) => Err(ambiguous(&inner.name, action.as_str(), error)),
            }
        };
        match tokio::spawn(work).await {
            Ok(answer) => answer,
            Err(error) => Err(ambiguous(self.name(), action.as_str(), error)),
        }
    }
}

/// What an answer means for traffic.
fn decide(
    switch: &str,
    action: Action,
    answer: Result<Answer, SendError>,
) -> Result<Vec<u8>, SwitchError> {
    let doing = action.as_str();
    match answer {
        Ok(Answer { status: 200..=299, body }) => Ok(body),
        Ok(Answer { status: 409, body }) => {
            Err(refused(switch, format!("{doing}: {}", send::excerpt(&body))))
        }
        Ok(Answer { status, body }) => Err(ambiguous(
            switch,
            doing,
            format!("it answered with status {status}: {}", send::excerpt(&body)),
        )),
        Err(error @ SendError::NotSent { .. }) => {
            Err(refused_by(switch, format!("{doing}: nothing was sent"), error))
        }
        Err(error) => Err(ambiguous(switch, doing, error)),
    }
}

#[async_trait]
impl TrafficSwitch for WebhookSwitch {
    fn name(&self) -> &str {
        &self.inner.name
    }

    fn describe(&self, side: Side) -> String {
        format!("post action point_at and side {side} to {}", self.inner.act.place())
    }

    async fn observe(&self) -> Result<Routing, SwitchError> {
        let Some(hook) = &self.inner.ask else {
            return Ok(Routing { side: None, paused: None });
        };
        let answer = self.ask(hook, Action::Observe, None, self.inner.timeout).await?;
        wire::routing(&answer)
            .map_err(|error| ambiguous(self.name(), "observe: its body is not the answer", error))
    }

    async fn pause(&self, within: Duration) -> Result<(), SwitchError> {
        self.ask(&self.inner.act, Action::Pause, None, within).await.map(drop)
    }

    async fn point_at(&self, side: Side) -> Result<(), SwitchError> {
        let within = self.inner.timeout;
        self.ask(&self.inner.act, Action::PointAt, Some(side), within).await.map(drop)
    }

    async fn examine(&self) -> Vec<Finding> {
        let name = self.name();
        let finding = |severity, what: String, remedy: &str| Finding {
            code: "CUT0729".to_owned(),
            severity,
            place: name.to_owned(),
            what,
            remedy: remedy.to_owned(),
        };
        let contract = "answer as docs/SWITCHES.md describes; try it with curl";
        let mut findings = Vec::new();
        if !self.inner.act.is_signed() {
            findings.push(finding(
                Severity::Warning,
                "requests are not signed: whoever reaches the service can move traffic".to_owned(),
                "give the webhook a secret and check the signature in the service",
            ));
        }
        let Some(hook) = &self.inner.ask else {
            findings.push(finding(
                Severity::Warning,
                "it has no observe_url: after a crash in the middle of a move nobody knows where \
                 writes go, and an operator must say"
                    .to_owned(),
                "set observe_url",
            ));
            if let Err(error) = self.inner.act.reach(self.inner.timeout).await {
                findings.push(finding(Severity::Error, chain(&error), contract));
            }
            return findings;
        };
        match self.observe().await {
            Ok(routing) => findings.extend(wire::judge(name, routing)),
            Err(error) => findings.push(finding(Severity::Error, chain(&error), contract)),
        }
        let answer = self.ask(hook, Action::Examine, None, self.inner.timeout).await;
        match answer.map(|body| wire::findings(name, &body)) {
            Ok(Ok(own)) => findings.extend(own),
            Ok(Err(error)) => findings.push(finding(
                Severity::Error,
                format!("its answer to examine cannot be read: {error}"),
                contract,
            )),
            Err(error) => findings.push(finding(Severity::Error, chain(&error), contract)),
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_is_known() {
        let answer =
            |status| decide("w", Action::PointAt, Ok(Answer { status, body: b"because".to_vec() }));
        for done in [200, 202, 204] {
            assert_eq!(answer(done).unwrap(), b"because");
        }
        let text = |status| chain(&answer(status).unwrap_err());
        assert_eq!(text(409), "w refused: point_at: because");
        for unknown in [302, 400, 404, 500, 503] {
            assert!(matches!(answer(unknown), Err(SwitchError::Ambiguous { .. })), "{unknown}");
        }
        assert!(text(500).contains("status 500: because"));
    }

    #[test]
    fn sections_keep_their_secrets() {
        let read = |json: &str| serde_json::from_str::<WebhookConfig>(json);
        let config = read(
            r#"{"url": "http://u:s3cret@h:81/s3cret?k=s3cret", "observe_url": "http://h/s3cret"}"#,
        )
        .unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
        let run = RunId::new("shop").unwrap();
        let switch = WebhookSwitch::new("w", config, Some("k"), &run).unwrap();
        assert_eq!(
            switch.describe(Side::Blue),
            "post action point_at and side blue to http://h:81"
        );
        for bad in ["ftp://h/", "h/x", ""] {
            let config = read(&format!(r#"{{"url": "{bad}"}}"#)).unwrap();
            assert!(WebhookSwitch::new("w", config, None, &run).is_err(), "{bad}");
        }
        let config = read(r#"{"url": "http://h/"}"#).unwrap();
        assert!(WebhookSwitch::new("w", config, Some(""), &run).is_err());
    }
}

//! The documented example of a switch command, driving a real device.

#[path = "support/device.rs"]
#[allow(unreachable_pub, missing_docs, reason = "shared by several test programs")]
mod device;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use cutover_core::{
    model::{finding::Severity, run::RunId, side::Side},
    port::switch::{SwitchError, TrafficSwitch},
};
use cutover_switch::{CommandConfig, CommandSwitch};
use cutover_testkit::contract::switch::{self, Client, SwitchHarness};
use device::Device;

fn command(argv: Vec<String>, timeout: Duration) -> CommandSwitch {
    let config = CommandConfig { argv, timeout, env: Vec::new() };
    CommandSwitch::new("command[0]", config, &RunId::new("shop").unwrap()).unwrap()
}

fn sh(script: &str) -> CommandSwitch {
    command(["/bin/sh", "-c", script].map(str::to_owned).to_vec(), Duration::from_secs(10))
}

struct Harness(Device);

#[async_trait(?Send)]
impl SwitchHarness for Harness {
    fn switch(&self) -> Arc<dyn TrafficSwitch> {
        let example = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../docs/examples/switch-command.sh")
            .display()
            .to_string();
        let console = self.0.redirector.console();
        let argv = vec![example, console.ip().to_string(), console.port().to_string()];
        Arc::new(command(argv, Duration::from_secs(5)))
    }

    async fn client(&self) -> Box<dyn Client> {
        self.0.client().await
    }

    async fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    async fn written(&self, side: Side) -> u64 {
        self.0.written(side)
    }

    async fn stop(&self) {
        self.0.redirector.close_console();
    }

    async fn start(&self) {
        self.0.redirector.open_console().await.unwrap();
    }

    async fn freeze(&self) {
        self.0.redirector.freeze(true);
    }

    async fn thaw(&self) {
        self.0.redirector.freeze(false);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_passes_the_contract() {
    let harness = Harness(Device::start().await);
    switch::check(&harness).await;
    assert_eq!(harness.switch().examine().await, []);
}

#[tokio::test]
async fn answers_that_are_none_are_ambiguous() {
    let confused = sh("echo sideways").observe().await.unwrap_err();
    assert!(matches!(confused, SwitchError::Ambiguous { .. }), "{confused:?}");
    let slow = command(vec!["/bin/sleep".into(), "60".into()], Duration::from_millis(100));
    let error = slow.point_at(Side::Green).await.unwrap_err();
    assert!(matches!(error, SwitchError::Ambiguous { .. }), "{error:?}");
    let error = sh("echo busy now >&2; exit 1").pause(Duration::ZERO).await.unwrap_err();
    assert_eq!(error.to_string(), "command[0] refused: pause: busy now");
}

#[tokio::test]
async fn a_command_can_report_findings_of_its_own() {
    let switch = sh("if [ $CUTOVER_ACTION = examine ]; then \
         echo '{\"findings\": [{\"severity\": \"warning\", \"what\": \"w\", \"remedy\": \"r\"}]}'; \
         else echo '{\"side\": \"blue\", \"paused\": false}'; fi");
    let found = switch.examine().await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&*found[0].what, found[0].severity), ("w", Severity::Warning));

    let absent = command(vec!["/no/such/program".into()], Duration::from_secs(1));
    let found = absent.examine().await;
    assert_eq!((found.len(), &*found[0].code), (1, "CUT0729"));
    let error = absent.point_at(Side::Green).await.unwrap_err();
    assert!(matches!(error, SwitchError::Refused { .. }), "{error:?}");
}

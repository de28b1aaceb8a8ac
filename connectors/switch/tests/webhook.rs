//! The webhook switch against a real HTTP server that drives a real device.

#[path = "support/device.rs"]
#[allow(unreachable_pub, missing_docs, reason = "shared by several test programs")]
mod device;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use cutover_core::{
    model::{finding::Severity, run::RunId, side::Side},
    port::switch::{Routing, SwitchError, TrafficSwitch},
};
use cutover_switch::{WebhookConfig, WebhookSwitch};
use cutover_testkit::contract::switch::{self, Client, SwitchHarness};
use device::Device;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::{net::TcpListener, task::JoinHandle};

const SECRET: &str = "a long and random secret";

/// The service as somebody would write it after reading the contract.
async fn answer(
    State(device): State<Arc<Device>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let timestamp = header("x-cutover-timestamp");
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{timestamp}.{}", String::from_utf8_lossy(&body)).as_bytes());
    let wanted: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
    if header("x-cutover-signature") != format!("sha256={wanted}") {
        return (StatusCode::FORBIDDEN, "bad signature".to_owned());
    }
    device.redirector.awake().await;
    let question: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let gate = device.redirector.gate();
    match question["action"].as_str().unwrap() {
        "observe" => {
            let (side, paused) = gate.observe();
            let answer = serde_json::json!({ "side": side, "paused": paused });
            (StatusCode::OK, answer.to_string())
        }
        "pause" => {
            let within = Duration::from_millis(question["within_ms"].as_u64().unwrap());
            if gate.pause(within).await {
                (StatusCode::NO_CONTENT, String::new())
            } else {
                (StatusCode::CONFLICT, "a write stays in flight".to_owned())
            }
        }
        "point_at" => {
            gate.point_at(serde_json::from_value(question["side"].clone()).unwrap());
            (StatusCode::ACCEPTED, String::new())
        }
        _ => (StatusCode::OK, String::new()),
    }
}

struct Harness {
    device: Arc<Device>,
    address: SocketAddr,
    server: Mutex<Option<JoinHandle<()>>>,
}

impl Harness {
    async fn new() -> Self {
        let device = Arc::new(Device::start().await);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let harness = Self { device, address, server: Mutex::default() };
        harness.serve(listener);
        harness
    }

    fn serve(&self, listener: TcpListener) {
        let app =
            Router::new().route("/traffic", post(answer)).with_state(Arc::clone(&self.device));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        *self.server.lock().unwrap() = Some(server);
    }

    fn hook(&self, observe: bool, secret: Option<&str>) -> WebhookSwitch {
        let url = format!("http://{}/traffic", self.address);
        let config = WebhookConfig {
            observe_url: observe.then(|| url.clone()),
            url,
            timeout: Duration::from_secs(3),
        };
        let run = RunId::new("shop").unwrap();
        WebhookSwitch::new("webhook[0]", config, secret, &run).unwrap()
    }
}

#[async_trait(?Send)]
impl SwitchHarness for Harness {
    fn switch(&self) -> Arc<dyn TrafficSwitch> {
        Arc::new(self.hook(true, Some(SECRET)))
    }

    async fn client(&self) -> Box<dyn Client> {
        self.device.client().await
    }

    async fn in_flight(&self) -> usize {
        self.device.in_flight()
    }

    async fn written(&self, side: Side) -> u64 {
        self.device.written(side)
    }

    async fn stop(&self) {
        let server = self.server.lock().unwrap().take().unwrap();
        server.abort();
        // The port is free once the task has ended.
        server.await.unwrap_err();
    }

    async fn start(&self) {
        self.serve(TcpListener::bind(self.address).await.unwrap());
    }

    async fn freeze(&self) {
        self.device.redirector.freeze(true);
    }

    async fn thaw(&self) {
        self.device.redirector.freeze(false);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_passes_the_contract() {
    let harness = Harness::new().await;
    switch::check(&harness).await;
    assert_eq!(harness.switch().examine().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_signature_moves_nothing_and_is_no_refusal() {
    let harness = Harness::new().await;
    for secret in [None, Some("another secret")] {
        let error = harness.hook(true, secret).point_at(Side::Green).await.unwrap_err();
        assert!(matches!(error, SwitchError::Ambiguous { .. }), "{error:?}");
    }
    assert_eq!(harness.device.redirector.gate().observe(), (Side::Blue, false));
    let found = harness.hook(true, None).examine().await;
    assert!(found.iter().any(|finding| finding.severity == Severity::Error), "{found:?}");
}

/// Also finds two TLS libraries in one program, which would panic here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_does_not_speak_tls_is_no_refusal() {
    let harness = Harness::new().await;
    let url = format!("https://{}/traffic", harness.address);
    let timeout = Duration::from_secs(3);
    let config = WebhookConfig { url, observe_url: None, timeout };
    let run = RunId::new("shop").unwrap();
    let hook = match WebhookSwitch::new("webhook[0]", config, Some(SECRET), &run) {
        Ok(hook) => hook,
        // A machine without certificates cannot use https at all.
        Err(error) => return assert!(error.remedy.contains("ca-certificates"), "{error:?}"),
    };
    let error = hook.point_at(Side::Green).await.unwrap_err();
    assert!(matches!(error, SwitchError::Ambiguous { .. }), "{error:?}");
    assert_eq!(harness.device.redirector.gate().observe(), (Side::Blue, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_place_to_ask_it_says_that_it_does_not_know() {
    let harness = Harness::new().await;
    let hook = harness.hook(false, Some(SECRET));
    hook.point_at(Side::Green).await.unwrap();
    assert_eq!(hook.observe().await.unwrap(), Routing { side: None, paused: None });
    let found = hook.examine().await;
    assert_eq!(found.iter().map(|f| f.severity).collect::<Vec<_>>(), [Severity::Warning]);
    harness.stop().await;
    let found = hook.examine().await;
    assert_eq!(found.last().unwrap().severity, Severity::Error, "nobody listens: {found:?}");
}

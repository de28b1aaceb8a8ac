//! The status as Prometheus metrics. Pure: one scrape, one look.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use serde_json::Value;

use crate::{
    observe::progress::TableState,
    run::status::{Readiness, Status},
};

type Number = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    name: String,
}

/// All metrics in the OpenMetrics text format. What is unknown is left out, not zero.
#[must_use]
pub(super) fn text(status: &Status) -> String {
    let mut registry = Registry::with_prefix("cutover");
    let mut set = |name: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            let gauge = Number::default();
            gauge.set(value);
            registry.register(name, help, gauge);
        }
    };
    let number = |value: Option<u64>| value.map(|v| v as f64);
    let truth = |yes: bool| Some(f64::from(u8::from(yes)));
    set("lag_bytes", "Log bytes not applied yet", number(status.lag.bytes));
    set("lag_seconds", "Seconds behind by commit time", status.lag.seconds);
    set("lag_transactions", "Transactions in hand", number(status.lag.transactions));
    set("retained_bytes", "Log bytes the owner keeps for us", number(status.retained_bytes));
    set("ready", "1 when a move would be accepted", truth(status.ready == Readiness::Ready));
    set("alarms", "Alarms that are raised", Some(status.alarms.len() as f64));
    let split = status.alarms.iter().any(|a| a.code == "CUT0701");
    set("split_brain", "1 when somebody wrote where nobody may", truth(split));
    let estimate = status.pause_estimate.as_ref().and_then(|e| e["ms"].as_f64());
    set("pause_estimate_seconds", "Expected pause of a move", estimate.map(|ms| ms / 1000.0));
    let last = status.moves.iter().rev().find_map(|m| m.pause_ms);
    set("pause_last_seconds", "Pause of the last move", last.map(|ms| ms / 1000.0));
    set("moves", "Moves and rehearsals that ended", Some(status.moves.len() as f64));
    let copied = |of: fn(&crate::observe::progress::TableProgress) -> u64| {
        Some(status.copy.tables.iter().map(of).sum::<u64>() as f64)
    };
    set("copy_rows", "Rows copied by this process", copied(|t| t.rows));
    set("copy_bytes", "Bytes copied by this process", copied(|t| t.bytes));
    set("copy_tables_done", "Tables copied", copied(|t| u64::from(t.state == TableState::Done)));
    set("copy_tables", "Tables to copy", Some(status.copy.tables.len() as f64));
    let proof = |key: &str| status.proof.as_ref().and_then(|p| p[key].as_f64());
    set("verify_pending", "Changed rows that wait for a comparison", proof("pending"));
    set("verify_compared", "Changed rows compared by this process", proof("compared"));
    set("verify_different", "Rows known to differ", proof("different"));

    for (name, help, key) in [
        ("applied_transactions", "Transactions applied by this process", "transactions"),
        ("applied_rows", "Row changes applied by this process", "rows"),
        ("applied_batches", "Batches applied by this process", "batches"),
        ("reconnects", "Lost connections of this process", "reconnects"),
        ("foreign_rows", "Row changes by somebody else on the side without writes", "foreign"),
    ] {
        let family = Family::<Label, Number>::default();
        for stream in ["forward", "back"] {
            let value = status.streams.as_ref().map(|s: &Value| &s[stream][key]);
            if let Some(value) = value.and_then(Value::as_f64) {
                family.get_or_create(&Label { name: stream.into() }).set(value);
            }
        }
        registry.register(name, help, family);
    }
    for (name, help, value) in [
        ("phase", "1 for the phase of the run", status.phase.as_str()),
        ("owner", "1 for the side that owns the writes", status.owner.as_str()),
    ] {
        let family = Family::<Label, Number>::default();
        family.get_or_create(&Label { name: value.into() }).set(1.0);
        registry.register(name, help, family);
    }
    let mut text = String::new();
    // Writing into a String does not fail.
    encode(&mut text, &registry).ok();
    text
}

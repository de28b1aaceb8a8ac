//! The status as Prometheus metrics. Pure: one scrape, one look.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use serde_json::Value;

use crate::{
    observe::metrics::{self, Metric},
    run::status::{Readiness, Status},
};

type Number = Gauge<f64, AtomicU64>;

/// A label with the name that [`metrics`] gives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Label(&'static str, String);

impl EncodeLabelSet for Label {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>,
    ) -> std::fmt::Result {
        [(self.0, self.1.as_str())].encode(encoder)
    }
}

/// Upper bounds of the pauses, in seconds: what people hope for and what they fear.
const PAUSES: [f64; 12] = [0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Numbers on their way into the text.
struct Scrape(Registry);

impl Scrape {
    /// A number; what is unknown is left out, not zero.
    fn set(&mut self, metric: Metric, value: Option<f64>) {
        if let Some(value) = value {
            let gauge = Number::default();
            gauge.set(value);
            self.0.register(metric.name, metric.help, gauge);
        }
    }

    /// A number per value of the label.
    fn set_each(&mut self, metric: Metric, values: impl IntoIterator<Item = (String, f64)>) {
        let family = Family::<Label, Number>::default();
        let label = metric.label.map_or("name", |l| l.name);
        for (name, value) in values {
            family.get_or_create(&Label(label, name)).set(value);
        }
        self.0.register(metric.name, metric.help, family);
    }

    fn observe(&mut self, metric: Metric, values: impl IntoIterator<Item = (String, f64)>) {
        let family = Family::<Label, Histogram>::new_with_constructor(|| Histogram::new(PAUSES));
        let label = metric.label.map_or("name", |l| l.name);
        for (name, value) in values {
            family.get_or_create(&Label(label, name)).observe(value);
        }
        self.0.register(metric.name, metric.help, family);
    }
}

/// All metrics in the OpenMetrics text format.
#[must_use]
pub(super) fn text(status: &Status) -> String {
    let mut s = Scrape(Registry::with_prefix(metrics::PREFIX));
    let number = |value: Option<u64>| value.map(|v| v as f64);
    let truth = |yes: bool| Some(f64::from(u8::from(yes)));
    let one = |name: &str| [(name.to_owned(), 1.0)];

    s.set_each(metrics::PHASE, one(status.phase.as_str()));
    s.set_each(metrics::OWNER, one(status.owner.as_str()));
    s.set(metrics::READY, truth(status.ready == Readiness::Ready));
    s.set(metrics::ALARMS, Some(status.alarms.len() as f64));
    s.set(metrics::SPLIT_BRAIN, truth(status.alarms.iter().any(|a| a.code == "CUT0701")));

    s.set(metrics::LAG_BYTES, number(status.lag.bytes));
    s.set(metrics::LAG_SECONDS, status.lag.seconds);
    s.set(metrics::LAG_TRANSACTIONS, number(status.lag.transactions));
    s.set(metrics::RETAINED_BYTES, number(status.retained_bytes));

    let estimate = status.pause_estimate.as_ref().and_then(|e| e["ms"].as_f64());
    s.set(metrics::PAUSE_ESTIMATE, estimate.map(|ms| ms / 1000.0));
    let pauses: Vec<(String, f64)> =
        status.moves.iter().filter_map(|m| Some((m.kind.clone(), m.pause_ms? / 1000.0))).collect();
    s.set(metrics::PAUSE_LAST, pauses.last().map(|(_, seconds)| *seconds));
    s.observe(metrics::PAUSE, pauses);
    s.set(metrics::MOVES, Some(status.moves.len() as f64));

    let all = &status.copy.all;
    for (metric, value) in [
        (metrics::COPY_ROWS, all.rows),
        (metrics::COPY_BYTES, all.bytes),
        (metrics::COPY_TABLES, all.tables),
        (metrics::COPY_TABLES_DONE, all.done),
    ] {
        s.set(metric, Some(value as f64));
    }

    for (metric, key) in [
        (metrics::APPLIED_TRANSACTIONS, "transactions"),
        (metrics::APPLIED_ROWS, "rows"),
        (metrics::APPLIED_BATCHES, "batches"),
        (metrics::EARLY, "early"),
        (metrics::EARLY_GIVEN_UP, "early_given_up"),
        (metrics::RECONNECTS, "reconnects"),
        (metrics::FOREIGN_ROWS, "foreign"),
    ] {
        let values = ["forward", "back"].into_iter().filter_map(|stream| {
            let value = status.streams.as_ref()?[stream][key].as_f64()?;
            Some((stream.to_owned(), value))
        });
        s.set_each(metric, values);
    }

    let proof = |key: &str| status.proof.as_ref().and_then(|p| p[key].as_f64());
    s.set(metrics::VERIFY_ROWS, proof("rows"));
    let reading = |key: &str| status.proof.as_ref().and_then(|p| p["reading"][key].as_f64());
    let ratio = reading("bytes").zip(reading("of")).map(|(bytes, of)| bytes / of);
    s.set(metrics::VERIFY_READ_RATIO, ratio);
    s.set(metrics::VERIFY_PENDING, proof("pending"));
    s.set(metrics::VERIFY_COMPARED, proof("compared"));
    s.set(metrics::VERIFY_DIFFERENT, proof("different"));
    s.set_each(metrics::VERIFY_VERDICT, status.proof.iter().flat_map(|p| one(verdict(p))));

    let mut text = String::new();
    // Writing into a String does not fail.
    encode(&mut text, &s.0).ok();
    text
}

/// An unfinished comparison is not "equal".
fn verdict(proof: &Value) -> &'static str {
    if proof["different"].as_u64() != Some(0) {
        "different"
    } else if proof["full_pass"].is_null() || proof["whole"].as_u64() != Some(0) {
        "inconclusive"
    } else {
        "equal"
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A status in which everything is known.
    pub(in crate::web) fn full() -> Status {
        let stream = json!({
            "transactions": 5, "rows": 12, "batches": 2, "early": 1, "early_given_up": 0,
            "reconnects": 1, "foreign": 0,
        });
        serde_json::from_value(json!({
            "run": "shop", "phase": "streaming", "owner": "blue", "doing": "following changes",
            "busy": null, "ready": {"state": "ready"},
            "lag": {"bytes": 1024, "seconds": 0.5, "transactions": 3},
            "retained_bytes": 4096, "pause_estimate": {"ms": 25.0},
            "copy": {
                "doing": "", "all": {"tables": 1, "done": 1, "rows": 7, "bytes": 70},
                "bytes_per_second": 0.0, "rows_per_second": 0.0, "eta_seconds": null,
                "tables": [{"table": "public.t", "state": "done", "rows": 7, "estimated_rows": 7,
                            "bytes": 70, "size": 100}],
            },
            "streams": {"forward": stream, "back": stream},
            "proof": {"full_pass": {"postgres": {"timeline": 1, "lsn": 9}}, "rows": 7, "pending": 1,
                      "compared": 2, "different": 0, "whole": 0,
                      "reading": {"bytes": 1, "of": 4, "eta_seconds": 3}},
            "alarms": [],
            "moves": [{"id": "1", "kind": "switch", "ending": "moved", "owner": "green",
                       "pause_ms": 21.0, "evidence": null}],
        }))
        .unwrap()
    }

    #[test]
    fn every_metric_is_served() {
        let text = text(&full());
        for metric in metrics::ALL {
            assert!(text.contains(&format!("cutover_{}", metric.name)), "{}", metric.name);
        }
        for line in [
            "cutover_phase{name=\"streaming\"} 1.0",
            "cutover_owner{name=\"blue\"} 1.0",
            "cutover_applied_rows{name=\"back\"} 12.0",
            "cutover_verify_verdict{name=\"equal\"} 1.0",
            "cutover_verify_read_ratio 0.25",
            "cutover_pause_seconds_bucket{le=\"0.03\",kind=\"switch\"} 1",
            "cutover_lag_seconds 0.5",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert!(!text.contains("public.t"), "tables are no labels");
    }

    #[test]
    fn unknown_is_left_out_and_unfinished_is_not_equal() {
        let mut status = full();
        status.lag = Default::default();
        status.retained_bytes = None;
        let scraped = text(&status);
        assert!(!scraped.contains("lag_bytes") && !scraped.contains("retained"), "{scraped}");
        for (key, value, want) in [
            ("full_pass", Value::Null, "inconclusive"),
            ("whole", json!(1), "inconclusive"),
            ("different", json!(1), "different"),
        ] {
            let mut proof = full().proof.unwrap();
            proof[key] = value;
            assert_eq!(verdict(&proof), want);
        }
    }
}

//! What the dispatcher counts (operations.md, Metrics).

use std::time::Duration;

use fanfare_domain::{Answer, Failure};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// The dispatcher's metrics; every label value is there from the start.
#[derive(Clone)]
pub(crate) struct Metrics {
    attempts: IntCounterVec,
    attempt_duration: Histogram,
    latency: Histogram,
    deliveries: IntCounterVec,
    claims: IntCounterVec,
    diverted: IntCounter,
    redelivered: IntCounter,
    pub(crate) in_flight: IntGauge,
    pub(crate) passing: IntGauge,
}

const ATTEMPT_BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0];
const LATENCY_BUCKETS: [f64; 13] =
    [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 43_200.0, 172_800.0];

impl Metrics {
    pub(crate) fn register(registry: &Registry, limit: usize) -> anyhow::Result<Self> {
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let attempts =
            counters("fanfare_attempts_total", "Attempts made, by how they ended.", &["outcome", "status_class"])?;
        for class in ["2xx", "3xx", "4xx", "5xx"] {
            for outcome in ["success", "http"] {
                let _ = attempts.with_label_values(&[outcome, class]);
            }
        }
        for failure in [
            Failure::Timeout,
            Failure::Connect,
            Failure::Dns,
            Failure::Tls,
            Failure::RefusedTarget,
            Failure::BadResponse,
            Failure::Template,
        ] {
            let _ = attempts.with_label_values(&[failure.label(), "none"]);
        }
        let deliveries = counters("fanfare_deliveries_total", "Deliveries that ended here, by how.", &["outcome"])?;
        ["delivered", "failed"].iter().for_each(|outcome| drop(deliveries.with_label_values(&[outcome])));
        let claims = counters("fanfare_claims_total", "Claims, by what they found.", &["result"])?;
        ["go", "wait", "retry", "ended", "done", "stale", "held", "cancelled"]
            .iter()
            .for_each(|result| drop(claims.with_label_values(&[result])));
        let in_flight_limit = gauge("fanfare_deliveries_in_flight_limit", "Attempts that may be under way here.")?;
        in_flight_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
        Ok(Self {
            attempts,
            attempt_duration: histogram(
                "fanfare_attempt_duration_seconds",
                "How long attempts took.",
                &ATTEMPT_BUCKETS,
            )?,
            latency: histogram("fanfare_delivery_latency_seconds", "From acceptance to delivered.", &LATENCY_BUCKETS)?,
            deliveries,
            claims,
            diverted: counter(
                "fanfare_deliveries_diverted_total",
                "Deliveries that had to wait for room at their webhook.",
            )?,
            redelivered: counter("fanfare_redelivered_attempts_total", "Attempts that may have been made before.")?,
            passing: gauge(
                "fanfare_deliveries_passing",
                "Deliveries that are done here but for the publish of their retry or wait: many while the broker is blocked.",
            )?,
            in_flight: gauge("fanfare_deliveries_in_flight", "Attempts under way here.")?,
        })
    }

    pub(crate) fn claimed(&self, result: &str) {
        self.claims.with_label_values(&[result]).inc();
    }

    pub(crate) fn diverted(&self) {
        self.diverted.inc();
    }

    pub(crate) fn redelivered(&self) {
        self.redelivered.inc();
    }

    pub(crate) fn attempted(&self, answer: &Answer, success: bool, took: Duration) {
        let (outcome, class) = match answer {
            Answer::Response { status, .. } => {
                let class = match status {
                    100..=199 => "1xx",
                    200..=299 => "2xx",
                    300..=399 => "3xx",
                    400..=499 => "4xx",
                    _ => "5xx",
                };
                (if success { "success" } else { "http" }, class)
            }
            Answer::None(failure) => (failure.label(), "none"),
        };
        self.attempts.with_label_values(&[outcome, class]).inc();
        self.attempt_duration.observe(took.as_secs_f64());
    }

    pub(crate) fn delivered(&self, since_acceptance: Duration) {
        self.deliveries.with_label_values(&["delivered"]).inc();
        self.latency.observe(since_acceptance.as_secs_f64());
    }

    pub(crate) fn failed(&self) {
        self.deliveries.with_label_values(&["failed"]).inc();
    }
}

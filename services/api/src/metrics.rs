//! What is counted of requests (operations.md, Metrics).

use std::time::Duration;

use axum::http::{Method, StatusCode};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

const SERVICE: &str = "api";
const BUCKETS_SECS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// The route of what has none.
const NO_ROUTE: &str = "none";

/// The api's metrics. Routes are as registered, never as asked: labels stay few.
#[derive(Clone)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    durations: HistogramVec,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> anyhow::Result<Self> {
        let requests = IntCounterVec::new(
            Opts::new("fanfare_http_requests_total", "Requests answered, by route and status."),
            &["service", "route", "method", "code"],
        )?;
        let durations = HistogramVec::new(
            HistogramOpts::new("fanfare_http_request_duration_seconds", "From a request's head to its answer's head.")
                .buckets(BUCKETS_SECS.to_vec()),
            &["service", "route"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(durations.clone()))?;
        Ok(Self { requests, durations })
    }

    pub(crate) fn answered(&self, route: Option<&str>, method: &Method, status: StatusCode, took: Duration) {
        let route = route.unwrap_or(NO_ROUTE);
        self.requests.with_label_values(&[SERVICE, route, label(method), status.as_str()]).inc();
        self.durations.with_label_values(&[SERVICE, route]).observe(took.as_secs_f64());
    }
}

/// A client may invent methods, and must not invent labels.
fn label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "PUT" => "PUT",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

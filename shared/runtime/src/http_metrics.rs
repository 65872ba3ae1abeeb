//! What is counted of requests to us, the same for the two services that take any (operations.md, Metrics).

use std::time::Duration;

use axum::http::{Method, StatusCode};
use fanfare_metrics::{Counters, FAST_SECS, Histogram, counters, histograms};

/// The route of what has none.
const NO_ROUTE: &str = "none";

/// Requests by route, method and status.
#[derive(Clone)]
pub struct HttpMetrics {
    service: &'static str,
    requests: Counters<4>,
    durations: Vec<(&'static str, Histogram)>,
}

impl HttpMetrics {
    /// Declares them for these routes, each of them (and what has none) with these methods and statuses from the start.
    pub fn declare(
        service: &'static str,
        routes: &[&'static str],
        methods: &[&'static str],
        codes: &[&'static str],
    ) -> Self {
        let routes = || routes.iter().copied().chain([NO_ROUTE]);
        let each = |route| {
            methods.iter().flat_map(move |method| codes.iter().map(move |code| [service, route, *method, *code]))
        };
        let durations = histograms(
            "fanfare_http_request_duration_seconds",
            "Time from a request's head to the head of its answer.",
            &FAST_SECS,
            &["service", "route"],
        );
        Self {
            service,
            requests: counters(
                "fanfare_http_requests_total",
                "Requests answered, by route, method and status; a status that is rare shows once it has occurred.",
                ["service", "route", "method", "code"],
                routes().flat_map(each),
            ),
            durations: routes().map(|route| (route, durations.with_label_values(&[service, route]))).collect(),
        }
    }

    /// A request was answered. A route that was not declared counts as none.
    pub fn answered(&self, route: Option<&str>, method: &Method, status: StatusCode, took: Duration) {
        let of = |name: &str| self.durations.iter().find(|(route, _)| *route == name);
        let Some((route, durations)) = of(route.unwrap_or(NO_ROUTE)).or_else(|| of(NO_ROUTE)) else { return };
        self.requests.inc([self.service, route, label(method), status.as_str()]);
        durations.observe(took.as_secs_f64());
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

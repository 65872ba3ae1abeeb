//! What the dispatcher counts (operations.md, Metrics).

use std::time::Duration;

use fanfare_domain::{Answer, Failure, TenantId};
use fanfare_metrics::{
    ATTEMPT_SECS, Counters, Histogram, IntCounter, IntGauge, LATENCY_SECS, TenantCounters, Tenants, counter, counters,
    gauge, histogram, tenant_counters,
};
use fanfare_store::Limit;

/// The dispatcher's metrics; every label value is there from the start.
#[derive(Clone)]
pub(crate) struct Metrics {
    attempts: TenantCounters<2>,
    attempt_duration: Histogram,
    first_attempt: Histogram,
    lateness: Histogram,
    latency: Histogram,
    deliveries: TenantCounters<1>,
    claims: Counters<1>,
    diverted: Counters<1>,
    redelivered: IntCounter,
    pub(crate) in_flight: IntGauge,
    pub(crate) passing: IntGauge,
}

/// The status class of an attempt that got no answer.
const NONE: &str = "none";

impl Metrics {
    pub(crate) fn declare(limit: usize, tenants: &Tenants) -> Self {
        let answered = ["2xx", "3xx", "4xx", "5xx"].into_iter().flat_map(|class| [["success", class], ["http", class]]);
        let failures = [
            Failure::Timeout,
            Failure::Connect,
            Failure::Dns,
            Failure::Tls,
            Failure::RefusedTarget,
            Failure::BadResponse,
            Failure::Template,
        ];
        let in_flight_limit =
            gauge("fanfare_deliveries_in_flight_limit", "Attempts that may be under way in this process at most.");
        in_flight_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
        Self {
            attempts: tenant_counters(
                "fanfare_attempts_total",
                "Attempts made, by how they ended and by the class of the answer's status.",
                ["outcome", "status_class"],
                answered.chain([["http", "1xx"]]).chain(failures.map(|failure| [failure.label(), NONE])),
                tenants,
            ),
            attempt_duration: histogram(
                "fanfare_attempt_duration_seconds",
                "Time that attempts took, from connecting to the last byte read.",
                &ATTEMPT_SECS,
            ),
            first_attempt: histogram(
                "fanfare_first_attempt_delay_seconds",
                "Time from an event's acceptance to the first attempt of a delivery.",
                &LATENCY_SECS,
            ),
            lateness: histogram(
                "fanfare_retry_lateness_seconds",
                "How much later than it was due a retry reached a dispatcher.",
                &LATENCY_SECS,
            ),
            latency: histogram(
                "fanfare_delivery_latency_seconds",
                "Time from an event's acceptance to its delivery, retries included.",
                &LATENCY_SECS,
            ),
            deliveries: tenant_counters(
                "fanfare_deliveries_total",
                "Deliveries that dispatchers brought to their end: delivered, or failed for good. Cancelled ones are in the ledger.",
                ["outcome"],
                [["delivered"], ["failed"]],
                tenants,
            ),
            claims: counters(
                "fanfare_claims_total",
                "Claims of deliveries by what they found: `go` is attempted, `wait` comes again, `retry` and `ended` are passed on once more, the others need nothing.",
                ["result"],
                [["go"], ["wait"], ["retry"], ["ended"], ["done"], ["stale"], ["held"], ["cancelled"]],
            ),
            diverted: counters(
                "fanfare_deliveries_diverted_total",
                "Deliveries put off into a tier by a limit of their webhook: attempts at once, attempts per second, or its receiver's Retry-After.",
                ["reason"],
                Limit::ALL.map(|limit| [limit.name()]),
            ),
            redelivered: counter(
                "fanfare_redelivered_attempts_total",
                "Attempts that may have been made before, by a dispatcher that was lost with their outcome.",
            ),
            passing: gauge(
                "fanfare_deliveries_passing",
                "Deliveries that are done here but for publishing their retry or wait; many while the broker is blocked.",
            ),
            in_flight: gauge("fanfare_deliveries_in_flight", "Attempts under way in this process."),
        }
    }

    pub(crate) fn claimed(&self, result: &str) {
        self.claims.inc([result]);
    }

    pub(crate) fn diverted(&self, by: Limit) {
        self.diverted.inc([by.name()]);
    }

    pub(crate) fn redelivered(&self) {
        self.redelivered.inc();
    }

    /// A delivery's very first attempt begins.
    pub(crate) fn first_attempt(&self, since_acceptance: Duration) {
        self.first_attempt.observe(since_acceptance.as_secs_f64());
    }

    /// A retry has come.
    pub(crate) fn retried(&self, late: Duration) {
        self.lateness.observe(late.as_secs_f64());
    }

    pub(crate) fn attempted(&self, tenant: &TenantId, answer: &Answer, success: bool, took: Duration) {
        let labels = match answer {
            Answer::Response { status, .. } => {
                let class = match status {
                    100..=199 => "1xx",
                    200..=299 => "2xx",
                    300..=399 => "3xx",
                    400..=499 => "4xx",
                    _ => "5xx",
                };
                [if success { "success" } else { "http" }, class]
            }
            Answer::None(failure) => [failure.label(), NONE],
        };
        self.attempts.inc(tenant.as_str(), labels);
        self.attempt_duration.observe(took.as_secs_f64());
    }

    pub(crate) fn delivered(&self, tenant: &TenantId, since_acceptance: Duration) {
        self.deliveries.inc(tenant.as_str(), ["delivered"]);
        self.latency.observe(since_acceptance.as_secs_f64());
    }

    pub(crate) fn failed(&self, tenant: &TenantId) {
        self.deliveries.inc(tenant.as_str(), ["failed"]);
    }
}

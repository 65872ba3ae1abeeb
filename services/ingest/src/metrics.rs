//! What ingest counts (operations.md, Metrics).

use fanfare_metrics::{Counters, Histogram, IntCounter, IntGauge, SIZE_BYTES, counter, counters, gauge, histogram};
use fanfare_runtime::HttpMetrics;

/// Ingest's metrics; every label value is there from the start.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) accepted: Counters<1>,
    pub(crate) duplicate: Counters<1>,
    pub(crate) rejected: Counters<1>,
    /// Bytes of the events that were judged.
    pub(crate) size: Histogram,
    /// Requests over HTTP.
    pub(crate) http: HttpMetrics,
    /// Messages that were put off.
    pub(crate) put_off: IntCounter,
    /// Bytes of request bodies held.
    pub(crate) bodies_bytes: IntGauge,
    /// Rejected messages that wait, unacked, for room in `fanfare.rejected`.
    pub(crate) rejects_waiting: IntGauge,
    /// Rejected messages that were let go because `fanfare.rejected` was full.
    pub(crate) rejects_dropped: IntCounter,
}

/// Where events are published.
pub(crate) const EVENTS: &str = "/v1/events";
const CODES: [&str; 11] = ["202", "400", "401", "403", "404", "408", "413", "415", "429", "500", "503"];

impl Metrics {
    pub(crate) fn declare() -> Self {
        let sources = || [["http"], ["amqp"]];
        let reasons = [
            ["invalid"],
            ["conflict"],
            ["tenant"],
            ["too_large"],
            ["too_slow"],
            ["unavailable"],
            ["unauthorized"],
            ["rate"],
        ];
        Self {
            accepted: counters(
                "fanfare_events_accepted_total",
                "Events accepted for the first time, by the way they came.",
                ["source"],
                sources(),
            ),
            duplicate: counters(
                "fanfare_events_duplicate_total",
                "Events that had been accepted before, by the way they came.",
                ["source"],
                sources(),
            ),
            rejected: counters("fanfare_events_rejected_total", "Events refused, by the reason.", ["reason"], reasons),
            size: histogram("fanfare_event_size_bytes", "Bytes of each event that was judged.", &SIZE_BYTES),
            http: HttpMetrics::declare("ingest", &[EVENTS], &["POST"], &CODES),
            put_off: counter(
                "fanfare_events_put_off_total",
                "Events put off because something of their tenant is missing; the log says what to mend.",
            ),
            bodies_bytes: gauge("fanfare_ingest_bodies_bytes", "Bytes of request bodies held in memory."),
            rejects_waiting: gauge(
                "fanfare_rejects_waiting",
                "Rejected messages that wait for room in the queue fanfare.rejected.",
            ),
            rejects_dropped: counter(
                "fanfare_rejects_dropped_total",
                "Rejected messages that were dropped because the queue fanfare.rejected was full: empty it.",
            ),
        }
    }
}

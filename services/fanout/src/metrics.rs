//! What fanout counts (operations.md, Metrics).

use std::time::Duration;

use fanfare_metrics::{Counters, FAST_SECS, Histogram, IntCounter, counter, counters, histogram};

/// Fanout's metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    fanned_out: Counters<1>,
    created: IntCounter,
    duration: Histogram,
    put_off: IntCounter,
}

impl Metrics {
    pub(crate) fn declare() -> Self {
        Self {
            fanned_out: counters(
                "fanfare_events_fanned_out_total",
                "Events whose matches are recorded, by whether any webhook matched.",
                ["matched"],
                [["true"], ["false"]],
            ),
            created: counter("fanfare_deliveries_created_total", "Deliveries made by matching events to webhooks."),
            duration: histogram(
                "fanfare_fanout_duration_seconds",
                "Time from taking an event to having its deliveries in their queue.",
                &FAST_SECS,
            ),
            put_off: counter(
                "fanfare_events_put_off_total",
                "Events put off because something of their tenant is missing; the log says what to mend.",
            ),
        }
    }

    pub(crate) fn put_off(&self) {
        self.put_off.inc();
    }

    pub(crate) fn fanned_out(&self, deliveries: usize) {
        self.fanned_out.inc([if deliveries > 0 { "true" } else { "false" }]);
        self.created.inc_by(deliveries as u64);
    }

    pub(crate) fn took(&self, took: Duration) {
        self.duration.observe(took.as_secs_f64());
    }
}

//! What ingest counts (operations.md, Metrics).

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Ingest's counters; every label value is there from the start.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) accepted: IntCounterVec,
    pub(crate) duplicate: IntCounterVec,
    pub(crate) rejected: IntCounterVec,
    /// Messages that were put off.
    pub(crate) put_off: IntCounter,
    /// Bytes of request bodies held.
    pub(crate) bodies_bytes: IntGauge,
    /// Rejected messages that wait, unacked, for room in `fanfare.rejected`.
    pub(crate) rejects_waiting: IntGauge,
    /// Rejected messages that were let go because `fanfare.rejected` was full.
    pub(crate) rejects_dropped: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> anyhow::Result<Self> {
        let counter = |name: &str, help: &str, label: &str, values: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label])?;
            values.iter().for_each(|value| drop(counter.with_label_values(&[value])));
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let rejects_dropped = IntCounter::new(
            "fanfare_rejects_dropped_total",
            "Rejected messages that were let go because the queue fanfare.rejected was full: empty it.",
        )?;
        registry.register(Box::new(rejects_dropped.clone()))?;
        let put_off = IntCounter::new(
            "fanfare_events_put_off_total",
            "Events that could not be judged for something their tenant lacks: the log says what to mend.",
        )?;
        registry.register(Box::new(put_off.clone()))?;
        let sources = ["http", "amqp"];
        let reasons = ["invalid", "conflict", "tenant", "too_large", "too_slow", "unavailable", "unauthorized", "rate"];
        Ok(Self {
            accepted: counter(
                "fanfare_events_accepted_total",
                "Events accepted, by the way they came.",
                "source",
                &sources,
            )?,
            duplicate: counter(
                "fanfare_events_duplicate_total",
                "Events accepted before, by the way they came.",
                "source",
                &sources,
            )?,
            rejected: counter(
                "fanfare_events_rejected_total",
                "Events not accepted, by the reason.",
                "reason",
                &reasons,
            )?,
            put_off,
            bodies_bytes: gauge("fanfare_ingest_bodies_bytes", "Bytes of request bodies held at present.")?,
            rejects_waiting: gauge(
                "fanfare_rejects_waiting",
                "Rejected messages that wait for room in the queue fanfare.rejected.",
            )?,
            rejects_dropped,
        })
    }
}

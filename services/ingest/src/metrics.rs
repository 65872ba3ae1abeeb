//! What ingest counts (operations.md, Metrics).

use prometheus::{IntCounterVec, Opts, Registry};

/// Ingest's counters; every label value is there from the start.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) accepted: IntCounterVec,
    pub(crate) duplicate: IntCounterVec,
    pub(crate) rejected: IntCounterVec,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> anyhow::Result<Self> {
        let counter = |name: &str, help: &str, label: &str, values: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label])?;
            values.iter().for_each(|value| drop(counter.with_label_values(&[value])));
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let sources = ["http", "amqp"];
        let reasons = ["invalid", "conflict", "tenant", "too_large", "unavailable", "unauthorized", "rate"];
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
        })
    }
}

//! What fanout counts (operations.md, Metrics).

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Fanout's counters.
#[derive(Clone)]
pub(crate) struct Metrics {
    fanned_out: IntCounterVec,
    created: IntCounter,
    put_off: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> anyhow::Result<Self> {
        let opts = Opts::new(
            "fanfare_events_fanned_out_total",
            "Events whose matches are recorded, by whether there was one.",
        );
        let fanned_out = IntCounterVec::new(opts, &["matched"])?;
        ["true", "false"].iter().for_each(|value| drop(fanned_out.with_label_values(&[value])));
        let created = IntCounter::new("fanfare_deliveries_created_total", "Deliveries made of events.")?;
        registry.register(Box::new(fanned_out.clone()))?;
        let put_off = IntCounter::new(
            "fanfare_events_put_off_total",
            "Events that could not be matched for something their tenant lacks: the log says what to mend.",
        )?;
        registry.register(Box::new(created.clone()))?;
        registry.register(Box::new(put_off.clone()))?;
        Ok(Self { fanned_out, created, put_off })
    }

    pub(crate) fn put_off(&self) {
        self.put_off.inc();
    }

    pub(crate) fn fanned_out(&self, deliveries: usize) {
        self.fanned_out.with_label_values(&[if deliveries > 0 { "true" } else { "false" }]).inc();
        self.created.inc_by(deliveries as u64);
    }
}

//! The one way to declare a metric. Each is declared once in a process, in the registry that its admin port shows; every
//! value of a label is there, at 0, from the start, and is found again without a lock.
//! Names, labels and buckets are those of the design's table of metrics; no label carries an id, a secret or a payload, but
//! for the tenants' where the operator wants them.
mod tenants; // counters and gauges that may be told apart by tenant

pub use prometheus::{Gauge, Histogram, HistogramVec, IntCounter, IntGauge, Registry};
use prometheus::{GaugeVec, HistogramOpts, IntCounterVec, Opts};
pub use tenants::{OTHER, TenantCounters, TenantGauges, Tenants, tenant_counters, tenant_gauges};

/// Buckets in seconds of what should take milliseconds: calls, publishes, requests to us.
pub const FAST_SECS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Buckets in seconds of attempts at receivers.
pub const ATTEMPT_SECS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0];
/// Buckets in seconds of what may take days; 5 s is an objective.
pub const LATENCY_SECS: [f64; 13] =
    [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 43_200.0, 172_800.0];
/// Buckets of items in one message.
pub const ITEMS: [f64; 6] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
/// Buckets of an event's bytes.
pub const SIZE_BYTES: [f64; 7] = [256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0];

const ONCE: &str = "a metric is declared once, with names and labels that Prometheus allows";

/// What the admin port shows. The process's own metrics are in it already.
pub fn registry() -> &'static Registry {
    prometheus::default_registry()
}

fn shown<M: prometheus::core::Collector + Clone + 'static>(metric: prometheus::Result<M>) -> M {
    let metric = metric.expect(ONCE);
    registry().register(Box::new(metric.clone())).expect(ONCE);
    metric
}

/// A counter.
pub fn counter(name: &str, help: &str) -> IntCounter {
    shown(IntCounter::new(name, help))
}

/// A gauge of whole numbers.
pub fn gauge(name: &str, help: &str) -> IntGauge {
    shown(IntGauge::new(name, help))
}

/// A gauge of seconds.
pub fn seconds(name: &str, help: &str) -> Gauge {
    shown(Gauge::new(name, help))
}

/// A histogram.
pub fn histogram(name: &str, help: &str, buckets: &[f64]) -> Histogram {
    shown(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
}

/// A histogram per label's value, for values that a part of a process declares as it starts.
pub fn histograms(name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
    shown(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
}

/// Counters by their labels' values.
#[derive(Clone)]
pub struct Counters<const N: usize> {
    known: Vec<([&'static str; N], IntCounter)>,
    all: IntCounterVec,
    /// The value of one more label, the same for all.
    more: Option<String>,
}

/// Counters, each at 0 for every one of `values`.
pub fn counters<const N: usize>(
    name: &str,
    help: &str,
    labels: [&str; N],
    values: impl IntoIterator<Item = [&'static str; N]>,
) -> Counters<N> {
    Counters::declare(&shown(IntCounterVec::new(Opts::new(name, help), &labels)), values, None)
}

impl<const N: usize> Counters<N> {
    fn declare(all: &IntCounterVec, values: impl IntoIterator<Item = [&'static str; N]>, more: Option<&str>) -> Self {
        let mut counters = Self { known: Vec::new(), all: all.clone(), more: more.map(str::to_owned) };
        counters.known = values.into_iter().map(|values| (values, counters.also(values))).collect();
        counters
    }

    /// Counts one. Declared values are found by a scan of few; others (an unusual HTTP status) by the slower way.
    pub fn inc(&self, values: [&str; N]) {
        match self.known.iter().find(|(known, _)| *known == values) {
            Some((_, counter)) => counter.inc(),
            None => self.also(values).inc(),
        }
    }

    /// Declares further values.
    pub fn also(&self, values: [&str; N]) -> IntCounter {
        let values: Vec<&str> = values.into_iter().chain(self.more.as_deref()).collect();
        self.all.with_label_values(&values)
    }
}

/// Gauges by their labels' values.
#[derive(Clone)]
pub struct Gauges<const N: usize> {
    all: GaugeVec,
}

/// Gauges, each at 0 for every one of `values`.
pub fn gauges<const N: usize>(
    name: &str,
    help: &str,
    labels: [&str; N],
    values: impl IntoIterator<Item = [&'static str; N]>,
) -> Gauges<N> {
    let all = shown(GaugeVec::new(Opts::new(name, help), &labels));
    values.into_iter().for_each(|values| all.with_label_values(&values).set(0.0));
    Gauges { all }
}

impl<const N: usize> Gauges<N> {
    /// Sets one.
    pub fn set(&self, values: [&str; N], to: f64) {
        self.all.with_label_values(&values).set(to);
    }

    /// Shows one no more: what it says is not known.
    pub fn forget(&self, values: [&str; N]) {
        let _ = self.all.remove_label_values(&values); // it was perhaps never set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_declared_value_is_there_at_0_and_another_counts_all_the_same() {
        let counters = counters("test_total", "A test.", ["way"], [["in"], ["out"]]);
        counters.inc(["out"]);
        counters.inc(["up"]);
        let gathered = registry().gather();
        let family = gathered.iter().find(|family| family.name() == "test_total").unwrap();
        let mut values: Vec<(String, f64)> = family
            .get_metric()
            .iter()
            .map(|metric| (metric.get_label()[0].value().to_owned(), metric.get_counter().get_value()))
            .collect();
        values.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(values, [("in".to_owned(), 0.0), ("out".to_owned(), 1.0), ("up".to_owned(), 1.0)]);
    }
}

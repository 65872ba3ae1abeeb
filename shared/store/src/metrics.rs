//! What every service counts of Redis (operations.md, Metrics). Declared with the process's first use of it.

use std::sync::LazyLock;

use fanfare_metrics::{Counters, FAST_SECS, Gauge, HistogramVec, IntGauge, counters, gauge, histograms, seconds};

use crate::StoreError;

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::declare);

/// Redis's metrics.
pub(crate) struct Metrics {
    /// Calls of scripts; those off the hot path as one.
    pub(crate) calls: HistogramVec,
    /// 1 while Redis lacks what we knew.
    pub(crate) lost: IntGauge,
    /// How old the configuration in memory may be.
    pub(crate) config_lag: Gauge,
    errors: Counters<1>,
}

impl Metrics {
    fn declare() -> Self {
        Self {
            calls: histograms(
                "fanfare_redis_call_duration_seconds",
                "From a pipeline of calls of a script to its answers; `other`: scripts off the hot path.",
                &FAST_SECS,
                &["script"],
            ),
            lost: gauge("fanfare_store_lost", "Whether Redis came back without what was in it: 1 or 0."),
            config_lag: seconds(
                "fanfare_config_lag_seconds",
                "How long the configuration in Redis could not be followed: 0 while it is.",
            ),
            errors: counters(
                "fanfare_redis_errors_total",
                "Calls that failed: Redis was away, had lost its data, or answered what is not understood.",
                ["kind"],
                [["away"], ["lost"], ["odd"]],
            ),
        }
    }

    /// A call failed.
    pub(crate) fn failed(&self, error: &StoreError) {
        self.errors.inc([match error {
            StoreError::Away(_) => "away",
            StoreError::Lost => "lost",
            StoreError::Odd(_) => "odd",
        }]);
    }
}

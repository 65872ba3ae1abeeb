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
                "Time from a pipeline of calls of one script to its answers; `other` stands for the scripts off the hot path.",
                &FAST_SECS,
                &["script"],
            ),
            lost: gauge("fanfare_store_lost", "1 while Redis lacks what was in it (it came back empty), else 0."),
            config_lag: seconds(
                "fanfare_config_lag_seconds",
                "How long this process has not been able to follow the configuration in Redis; 0 while it follows.",
            ),
            errors: counters(
                "fanfare_redis_errors_total",
                "Calls of Redis that failed, by why: it was away, had lost its data, or answered what is not understood.",
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

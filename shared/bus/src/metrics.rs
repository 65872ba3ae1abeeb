//! What every service counts of the broker (operations.md, Metrics). Declared with the process's first connection.

use std::{sync::LazyLock, time::Duration};

use fanfare_metrics::{
    Counters, FAST_SECS, Histogram, HistogramVec, ITEMS, IntCounter, IntGauge, counter, counters, gauge, histogram,
    histograms,
};

use crate::{publish::PublishError, topology};

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::declare);

/// The tiers as one: which of them tells `fanfare_retries_scheduled_total`.
const TIER: &str = "fanfare.tier";
/// The exchange without a name, which leads to queues by theirs.
const DEFAULT: &str = "default";

/// The broker's metrics.
pub(crate) struct Metrics {
    /// 1 while the broker takes no publishes.
    pub(crate) blocked: IntGauge,
    /// Items handed over and not confirmed.
    pub(crate) unconfirmed: IntGauge,
    /// Connections made again.
    pub(crate) reconnects: IntCounter,
    /// Messages that nobody can read.
    pub(crate) poison: IntCounter,
    publishes: Counters<2>,
    confirms: Histogram,
    messages: Counters<2>,
    items: HistogramVec,
}

impl Metrics {
    fn declare() -> Self {
        let exchanges = [DEFAULT, topology::EVENTS, topology::DELIVERIES, topology::REJECTED, TIER];
        let results = ["confirmed", "returned", "nacked", "failed"];
        let publishes = exchanges.into_iter().flat_map(|exchange| results.map(|result| [exchange, result]));
        Self {
            blocked: gauge(
                "fanfare_amqp_blocked",
                "1 while the broker takes no publishes (a memory or disk alarm), else 0.",
            ),
            unconfirmed: gauge(
                "fanfare_amqp_unconfirmed",
                "Items handed over to be published that the broker has not confirmed yet.",
            ),
            reconnects: counter(
                "fanfare_amqp_reconnects_total",
                "Connections to the broker that were lost and made again.",
            ),
            poison: counter("fanfare_poison_total", "Messages that could not be read; they lie in fanfare.dead."),
            publishes: counters(
                "fanfare_amqp_publishes_total",
                "Messages published, by exchange and by what the broker answered; `default` leads to queues by their names, `fanfare.tier` stands for all tiers.",
                ["exchange", "result"],
                publishes,
            ),
            confirms: histogram(
                "fanfare_amqp_confirm_duration_seconds",
                "Time from a publish to the broker's confirm.",
                &FAST_SECS,
            ),
            messages: counters(
                "fanfare_amqp_messages_total",
                "Messages taken from queues, by whether the broker had given them out before.",
                ["queue", "redelivered"],
                [],
            ),
            items: histograms(
                "fanfare_amqp_batch_items",
                "Items in each message taken from a queue.",
                &ITEMS,
                &["queue"],
            ),
        }
    }

    /// A message's publish came to its end.
    pub(crate) fn published(&self, exchange: &str, result: Result<(), PublishError>, took: Duration) {
        let exchange = match exchange {
            "" => DEFAULT,
            tier if tier.starts_with(TIER) => TIER,
            named => named,
        };
        let result = match result {
            Ok(()) => "confirmed",
            Err(PublishError::Unroutable) => "returned",
            Err(PublishError::Refused) => "nacked",
            Err(PublishError::Lost) => "failed",
        };
        self.publishes.inc([exchange, result]);
        self.confirms.observe(took.as_secs_f64());
    }

    /// What is counted of one queue; the queues of events as one.
    pub(crate) fn of_queue(&self, queue: &str) -> QueueMetrics {
        let queue = if queue.starts_with(topology::EVENTS) { topology::EVENTS } else { queue };
        QueueMetrics {
            first: self.messages.also([queue, "false"]),
            again: self.messages.also([queue, "true"]),
            items: self.items.with_label_values(&[queue]),
        }
    }
}

/// What is counted of one queue that is consumed here.
pub(crate) struct QueueMetrics {
    first: IntCounter,
    again: IntCounter,
    /// Items in its messages.
    pub(crate) items: Histogram,
}

impl QueueMetrics {
    /// A message was taken.
    pub(crate) fn taken(&self, message: &crate::Message) {
        if message.redelivered { self.again.inc() } else { self.first.inc() }
    }
}

/// An item handed over: counted until it is dropped.
pub(crate) struct Unconfirmed(());

impl Unconfirmed {
    pub(crate) fn one() -> Self {
        METRICS.unconfirmed.inc();
        Self(())
    }
}

impl Drop for Unconfirmed {
    fn drop(&mut self) {
        METRICS.unconfirmed.dec();
    }
}

//! From an event to its deliveries: matched in memory, recorded once, published, confirmed; only then acked.

use std::{sync::Arc, time::Duration};

use fanfare_bus::{BATCH_ITEMS, Bus, DeliveryItem, EventItem, Message, Route, Settled, Waiting};
use fanfare_domain::WebhookId;
use fanfare_runtime::fail_point;
use fanfare_store::{Events, Matching, surely};
use futures::future::join_all;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{index::Indexes, metrics::Metrics};

/// Messages of one queue at work at once; each holds up to a batch of events.
const PREFETCH: u16 = 32;
/// A body of up to this travels with its deliveries however many there are.
const INLINE_BYTES: usize = 8 * 1024;
/// A larger one only where all its copies together stay under this.
const COPIES_BYTES: usize = 64 * 1024;

/// Everything that fanning out needs.
pub(crate) struct Fanout {
    pub(crate) indexes: Indexes,
    pub(crate) events: Events,
    pub(crate) bus: Bus,
    pub(crate) metrics: Metrics,
}

/// Consumes one queue of events until `stop`.
pub(crate) async fn consume(
    bus: Bus,
    queue: String,
    fanout: Arc<Fanout>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let work = |message: Message| {
        let fanout = fanout.clone();
        async move {
            if let Some(batch) = fanout.bus.read(&message).await {
                fail_point("fanout.consumed");
                join_all(batch.events.into_iter().map(|event| fanout.fan_out(event))).await;
                fail_point("fanout.published");
            }
            Settled::Ack
        }
    };
    bus.consume(&queue, PREFETCH, &stop, work).await;
    Ok(())
}

impl Fanout {
    /// Returns once every delivery of the event is confirmed.
    async fn fan_out(&self, event: EventItem) {
        let matches = self.record(&event, &self.matches(&event).await).await;
        fail_point("fanout.recorded");
        self.metrics.fanned_out(matches.len());
        let carried = carried(&event, matches.len());
        let publishes = deliveries(&event, &matches).into_iter().map(|deliveries| {
            let item = EventItem { deliveries, event: carried.clone(), ..without_body(&event) };
            async move { self.bus.publisher().publish_surely(Route::deliveries(), &item).await }
        });
        join_all(publishes).await;
    }

    /// The webhooks that want the event, by a configuration no older than the event; waits where that can't be had.
    async fn matches(&self, event: &EventItem) -> Vec<(WebhookId, String)> {
        let mut pause = Duration::from_millis(20);
        let index = loop {
            match self.indexes.of(&event.tenant, event.config).await {
                Ok(index) => break index,
                Err(error) => tracing::warn!(tenant = %event.tenant, %error, "an event waits to be matched"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        };
        let json = event.event.as_ref().map_or("null", |json| json.get());
        index.matches(&event.kind, &mut || Arc::new(serde_json::from_str(json).unwrap_or(Value::Null)))
    }

    /// Records the matches; what was decided first stands.
    async fn record(&self, event: &EventItem, matches: &[(WebhookId, String)]) -> Vec<(WebhookId, String)> {
        let json = event.event.as_ref().map_or("null", |json| json.get());
        let matching = Matching {
            tenant: &event.tenant,
            event: event.id,
            accepted_ms: event.accepted,
            kind: &event.kind,
            json,
            matches,
        };
        surely("recording an event's matches", || self.events.matched(&matching)).await
    }
}

fn without_body(event: &EventItem) -> EventItem {
    EventItem {
        event: None,
        tenant: event.tenant.clone(),
        kind: event.kind.clone(),
        traceparent: event.traceparent.clone(),
        deliveries: Vec::new(),
        ..*event
    }
}

/// The event's body, where it travels with its deliveries; else the dispatcher reads it from Redis.
fn carried(event: &EventItem, matches: usize) -> Option<Box<serde_json::value::RawValue>> {
    let bytes = event.event.as_ref().map_or(0, |json| json.get().len());
    let inline = bytes <= INLINE_BYTES || bytes.saturating_mul(matches) <= COPIES_BYTES;
    event.event.clone().filter(|_| inline)
}

/// First attempts at the matching webhooks, in parts that fit a batch.
fn deliveries(event: &EventItem, matches: &[(WebhookId, String)]) -> Vec<Vec<DeliveryItem>> {
    let delivery = |(webhook, shape): &(WebhookId, String)| DeliveryItem {
        webhook: webhook.clone(),
        replay: None,
        attempt: 1,
        epoch: 0,
        shape: shape.clone(),
        waiting: Waiting::default(),
        ended: None,
    };
    debug_assert!(event.deliveries.is_empty(), "an event that is fanned out already");
    matches.chunks(BATCH_ITEMS).map(|part| part.iter().map(delivery).collect()).collect()
}

//! From an event to its deliveries: matched in memory, recorded once, published, confirmed; only then acked.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fanfare_bus::{BATCH_ITEMS, Bus, DeliveryItem, EventItem, Message, Route, Settled, Stuck, Turn, Waiting};
use fanfare_domain::{
    WebhookId,
    ladder::{Hop, next_hop},
};
use fanfare_runtime::{fail_point, now_ms};
use fanfare_store::{Events, Matching};
use futures::future::join_all;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    index::{IndexError, Indexes},
    metrics::Metrics,
};

/// Messages of one queue at work at once; each holds up to a batch of events.
const PREFETCH: u16 = 32;
/// A body of up to this travels with its deliveries however many there are.
const INLINE_BYTES: usize = 8 * 1024;
/// A larger one only where all its copies together stay under this.
const COPIES_BYTES: usize = 64 * 1024;

/// How long an event waits here for what its tenant lacks. Longer than it takes to notice that all of Redis is lost: then
/// nothing is better off elsewhere.
const PATIENCE: Duration = Duration::from_secs(4);
/// The shortest and the longest wait of an event that is put off.
const PUT_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Everything that fanning out needs.
pub(crate) struct Fanout {
    pub(crate) indexes: Indexes,
    pub(crate) stuck: Stuck,
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
    /// Returns once every delivery of the event is confirmed, or the event itself is put off.
    async fn fan_out(&self, event: EventItem) {
        let begun = Instant::now();
        let Some(matches) = self.matches(&event).await else { return self.put_off(&event).await };
        fail_point("fanout.recorded");
        self.metrics.fanned_out(matches.len());
        let carried = carried(&event, matches.len());
        let publishes = deliveries(&event, &matches).into_iter().map(|deliveries| {
            let item = EventItem { deliveries, event: carried.clone(), ..without_body(&event) };
            async move { self.bus.publisher().publish_surely(Route::deliveries(), &item).await }
        });
        join_all(publishes).await;
        self.metrics.took(begun.elapsed());
    }

    /// The matches in force; waits while Redis is away or lost as a whole. `None` where the tenant alone lacks something:
    /// its events must not fill the queue's consumers.
    async fn matches(&self, event: &EventItem) -> Option<Vec<(WebhookId, String)>> {
        let turn = self.stuck.turn(&event.tenant, Instant::now());
        if turn == Turn::Later {
            return None;
        }
        let (mut since, mut pause) = (Instant::now(), Duration::from_millis(20));
        loop {
            let error = match self.match_and_record(event).await {
                Ok(matches) => {
                    self.stuck.goes_on(&event.tenant);
                    return Some(matches);
                }
                Err(error) => error,
            };
            if !error.is_the_tenants() || self.indexes.all_is_lost() {
                since = Instant::now();
            } else if turn == Turn::Probe || since.elapsed() >= PATIENCE {
                self.stuck.is_stuck(&event.tenant, &error.to_string(), Instant::now());
                return None;
            }
            tracing::warn!(tenant = %event.tenant, %error, "an event waits to be matched");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    /// Matches by a configuration no older than the event, and records the matches: what was decided first stands.
    async fn match_and_record(&self, event: &EventItem) -> Result<Vec<(WebhookId, String)>, IndexError> {
        let index = self.indexes.of(&event.tenant, event.config).await?;
        let json = event.event.as_ref().map_or("null", |json| json.get());
        let matches = index.matches(&event.kind, &mut || Arc::new(serde_json::from_str(json).unwrap_or(Value::Null)));
        let matching = Matching {
            tenant: &event.tenant,
            event: event.id,
            accepted_ms: event.accepted,
            kind: &event.kind,
            json,
            matches: &matches,
        };
        Ok(self.events.matched(&matching).await?)
    }

    /// The event once more, out of a tier that leads back to its queue.
    async fn put_off(&self, event: &EventItem) {
        self.metrics.put_off();
        let age = Duration::from_millis(now_ms().saturating_sub(event.accepted));
        self.bus.publisher().publish_surely(Route::events_after(wait_tier_ms(age), &event.tenant), event).await;
        fail_point("fanout.put_off");
    }
}

/// The tier of an event that is put off: as long again as it has waited, so that many cost little and a young one is soon
/// back.
fn wait_tier_ms(age: Duration) -> u64 {
    match next_hop(age.clamp(PUT_OFF.0, PUT_OFF.1), 0) {
        Hop::Tier { ms, .. } => ms,
        Hop::Now => unreachable!("a second or more is left"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_put_off_longer_each_time_and_never_for_long() {
        for (age, tier_ms) in [(0, 1_000), (999, 1_000), (4_000, 2_000), (90_000, 60_000), (86_400_000, 300_000)] {
            assert_eq!(wait_tier_ms(Duration::from_millis(age)), tier_ms, "{age} ms after its acceptance");
        }
    }
}

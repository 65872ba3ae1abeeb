//! A wait, tier by tier: where one ends, the largest that fits what is left is next, until the delivery is due.

use std::{sync::Arc, time::Duration};

use fanfare_bus::{Bus, DeliveryItem, EventItem, Message, Route, Settled, Waiting};
use fanfare_domain::ladder::{Hop, next_hop};
use fanfare_runtime::{fail_point, now_ms};
use futures::future::join_all;

use crate::metrics::Metrics;

/// Everything that waiting needs.
pub(crate) struct Waits {
    pub(crate) bus: Bus,
    pub(crate) metrics: Metrics,
}

impl Waits {
    /// Sends each delivery of a message on; acked once all are confirmed.
    pub(crate) async fn settle(self: Arc<Self>, message: Message) -> Settled {
        if let Some(batch) = self.bus.read(&message).await {
            fail_point("scheduler.due");
            let each = batch.events.iter().flat_map(|event| event.deliveries.iter().map(move |item| (event, item)));
            join_all(each.map(|(event, item)| self.send_on(event, item))).await;
            fail_point("scheduler.moved");
        }
        Settled::Ack
    }

    /// Puts a delivery into its next tier, or before a dispatcher; returns once that is confirmed.
    pub(crate) async fn send_on(&self, event: &EventItem, item: &DeliveryItem) {
        let left = Duration::from_millis(item.waiting.due.saturating_sub(now_ms()));
        let route = match next_hop(left, item.waiting.hops) {
            Hop::Now => Route::deliveries(),
            Hop::Tier { ms, last } => {
                self.metrics.waits_in(ms);
                Route::tier(ms, last)
            }
        };
        let waiting = Waiting { hops: item.waiting.hops + 1, ..item.waiting };
        self.bus.publisher().publish_surely(route, &event.with(vec![DeliveryItem { waiting, ..item.clone() }])).await;
    }
}

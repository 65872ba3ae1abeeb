//! Failures: a retry's wait begins, or an end's consequences are drawn; noted in the record once it is sure to happen.

use std::sync::Arc;

use fanfare_bus::{DeliveryItem, EventItem, Message, Settled, Waiting};
use fanfare_runtime::{fail_point, now_ms};
use fanfare_store::{Deliveries, Tenants, surely};
use futures::future::join_all;

use crate::{metrics::Metrics, notices::Notices, waits::Waits};

/// Everything that failures need.
pub(crate) struct Outcomes {
    pub(crate) records: Deliveries,
    pub(crate) tenants: Tenants,
    pub(crate) waits: Arc<Waits>,
    pub(crate) notices: Arc<Notices>,
    /// Divides every delay (`FANFARE_SCHEDULER__SPEED`).
    pub(crate) speed: u32,
    pub(crate) metrics: Metrics,
}

impl Outcomes {
    /// Settles each failure of a message; acked once what follows is confirmed.
    pub(crate) async fn settle(self: Arc<Self>, message: Message) -> Settled {
        if let Some(batch) = self.waits.bus.read(&message).await {
            fail_point("scheduler.consumed");
            let each = batch.events.iter().flat_map(|event| event.deliveries.iter().map(move |item| (event, item)));
            join_all(each.map(|(event, item)| self.follow(event, item))).await;
            fail_point("scheduler.noted");
        }
        Settled::Ack
    }

    async fn follow(&self, event: &EventItem, item: &DeliveryItem) {
        let due_ms = match item.ended {
            Some(ended) => {
                if let Some(reason) = ended.disable {
                    let disable = || self.tenants.disable(&event.tenant, &item.webhook, reason, now_ms());
                    if surely("disabling a webhook", disable).await {
                        tracing::warn!(tenant = %event.tenant, webhook = %item.webhook, reason = reason.as_str(), "a webhook is disabled");
                        self.metrics.disabled(reason);
                    }
                }
                None
            }
            None => {
                let waiting = sped_up(item.waiting, self.speed);
                self.waits.send_on(event, &DeliveryItem { waiting, ..item.clone() }).await;
                Some(waiting.due)
            }
        };
        fail_point("scheduler.published");
        // After the retry is on its way: what is told delays nothing.
        surely("queueing a notice", || self.notices.queue(event, item)).await;
        let id = event.delivery_id(item);
        surely("noting a retry", || self.records.scheduled(&event.tenant, &id, item.attempt, item.epoch, due_ms)).await;
    }
}

/// A wait `speed` times shorter.
fn sped_up(waiting: Waiting, speed: u32) -> Waiting {
    let wait = waiting.due.saturating_sub(waiting.since).div_ceil(u64::from(speed.max(1)));
    Waiting { due: waiting.since + wait, ..waiting }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_divides_the_wait_and_nothing_else() {
        let waiting = Waiting { since: 1_000, due: 301_000, hops: 0 };
        assert_eq!(sped_up(waiting, 600), Waiting { due: 1_500, ..waiting });
        assert_eq!(sped_up(waiting, 1), waiting);
    }
}

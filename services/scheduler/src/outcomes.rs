//! Failures: a retry's wait begins, or an end's consequences are drawn; noted in the record once it is sure to happen.

use std::{sync::Arc, time::Duration};

use fanfare_bus::{DeliveryItem, Ended, EventItem, Message, Settled, Waiting};
use fanfare_runtime::{fail_point, now_ms};
use fanfare_store::{Deliveries, StoreError, Tenants, while_away};
use futures::future::join_all;

use crate::{metrics::Metrics, notices::Notices, waits::Waits};

/// When a final failure comes again whose consequences cannot be drawn.
const UNDRAWN: Duration = Duration::from_secs(20);

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
                if let Err(error) = self.disable(event, item, ended).await {
                    tracing::error!(tenant = %event.tenant, webhook = %item.webhook, %error, "a webhook cannot be disabled: its failure comes again");
                    return self.waits.send_on(event, &undrawn(item, now_ms())).await;
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
        // After the retry is on its way: what is told delays nothing, and what cannot be noted is only published twice.
        if let Err(error) = self.tell_and_note(event, item, due_ms).await {
            tracing::error!(tenant = %event.tenant, webhook = %item.webhook, %error, "what follows from a failure cannot be noted");
        }
    }

    async fn disable(&self, event: &EventItem, item: &DeliveryItem, ended: Ended) -> Result<(), StoreError> {
        let Some(reason) = ended.disable else { return Ok(()) };
        let disable = || self.tenants.disable(&event.tenant, &item.webhook, reason, now_ms());
        if while_away("disabling a webhook", disable).await? {
            tracing::warn!(tenant = %event.tenant, webhook = %item.webhook, reason = reason.as_str(), "a webhook is disabled");
            self.metrics.disabled(reason);
        }
        Ok(())
    }

    async fn tell_and_note(
        &self,
        event: &EventItem,
        item: &DeliveryItem,
        due_ms: Option<u64>,
    ) -> Result<(), StoreError> {
        while_away("queueing a notice", || self.notices.queue(event, item)).await?;
        let id = event.delivery_id(item);
        let note = || self.records.scheduled(&event.tenant, &id, item.attempt, item.epoch, due_ms);
        while_away("noting a retry", note).await
    }
}

/// A final failure whose consequences cannot be drawn now, as a delivery that comes again: its claim finds them not drawn
/// and passes it back here, or waits where nothing can be decided on. It holds no room here meanwhile.
fn undrawn(item: &DeliveryItem, now_ms: u64) -> DeliveryItem {
    let due = now_ms + u64::try_from(UNDRAWN.as_millis()).unwrap_or(u64::MAX);
    let waiting = Waiting { since: now_ms, due, hops: 0 };
    // An ended item names the attempt after the last.
    DeliveryItem { attempt: item.attempt.saturating_sub(1).max(1), ended: None, waiting, ..item.clone() }
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
    fn a_failure_without_its_consequences_comes_again_as_the_delivery_that_it_was() {
        let ended = Some(Ended { disable: Some(fanfare_domain::DisableReason::Gone) });
        let item = DeliveryItem {
            webhook: "5ceec43ce1b5b412ba9d0e73".parse().unwrap(),
            replay: None,
            attempt: 4,
            epoch: 1,
            shape: "0123456789ab:full".to_owned(),
            waiting: Waiting::default(),
            ended,
        };
        let again = undrawn(&item, 1_000);
        assert_eq!((again.attempt, again.epoch, again.ended), (3, 1, None));
        assert_eq!(again.waiting, Waiting { since: 1_000, due: 21_000, hops: 0 });
    }

    #[test]
    fn speed_divides_the_wait_and_nothing_else() {
        let waiting = Waiting { since: 1_000, due: 301_000, hops: 0 };
        assert_eq!(sped_up(waiting, 600), Waiting { due: 1_500, ..waiting });
        assert_eq!(sped_up(waiting, 1), waiting);
    }
}

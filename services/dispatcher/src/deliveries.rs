//! From a message to its recorded attempts: each delivery is claimed, sent, completed; a failure's next step is published
//! before the message is acked.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use fanfare_bus::{Bus, DeliveryItem, Ended, EventItem, Message, Route, Settled, Waiting, topology};
use fanfare_domain::{
    Answer, Chance, DeliveryId, DeliveryPolicy, DisableReason, Failure, NextStep,
    ladder::{Hop, next_hop},
    next_step, outcome,
};
use fanfare_runtime::{fail_point, now_ms};
use fanfare_store::{
    AttemptEntry, Attempted, Claim, ClaimRequest, Deliveries, EntryForm, Life, Limit, Recorded, StoreError, Verdict,
    while_away,
};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::{
    LEASE_MARGIN,
    metrics::Metrics,
    relief::{self, Passing},
    send::{Made, Meta, Payload, Sender},
    shapes::{NoCatalog, Shapes, render},
    slots::Slots,
    webhooks::{InForce, NotReady, Webhooks},
};

/// The first wait of a delivery whose webhook has no room; doubled each time.
const NO_ROOM: Duration = Duration::from_millis(500);
/// The shortest wait of a delivery that could not be claimed; doubled like the other.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// Doubled so often at most.
const NO_ROOM_DOUBLINGS: u32 = 6;
/// The wait of a delivery that cannot be made ready: an operator has something to mend.
const NOT_READY: Duration = Duration::from_secs(20);

/// Everything that delivering needs.
pub(crate) struct Dispatch {
    pub(crate) life: Life,
    pub(crate) records: Deliveries,
    pub(crate) webhooks: Webhooks,
    pub(crate) shapes: Shapes,
    pub(crate) sender: Sender,
    pub(crate) slots: Slots,
    pub(crate) passing: Passing,
    pub(crate) metrics: Metrics,
    pub(crate) bus: Bus,
}

/// Consumes deliveries until `stop`.
pub(crate) async fn consume(
    bus: Bus,
    dispatch: Arc<Dispatch>,
    max_in_flight: usize,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let work = |message: Message| {
        let dispatch = dispatch.clone();
        async move {
            if let Some(batch) = dispatch.bus.read(&message).await {
                fail_point("dispatcher.consumed");
                let count = batch.events.iter().map(|event| event.deliveries.len()).sum();
                let held = Mutex::new(dispatch.slots.hold(count, max_in_flight).await);
                let events: Vec<_> = batch.events.iter().map(|event| (event, Rendered::default())).collect();
                let deliveries = events.iter().flat_map(|(event, rendered)| {
                    event.deliveries.iter().map(|item| dispatch.deliver(event, item, rendered, &held))
                });
                let mut deliveries: FuturesUnordered<_> = deliveries.collect();
                while deliveries.next().await.is_some() {}
            }
            Settled::Ack
        }
    };
    // Messages hold one delivery or many: enough of the small ones to fill the process.
    let prefetch = u16::try_from(max_in_flight).unwrap_or(u16::MAX);
    relief::consume(&bus, topology::DELIVERIES, prefetch, &dispatch.passing, &stop, work).await;
    Ok(())
}

/// An event's body in the shapes that were asked for, each rendered once.
#[derive(Default)]
struct Rendered {
    payloads: Mutex<Vec<(String, Arc<Payload>)>>,
}

/// What a delivery is left to do when it does not go to its end here.
enum Left {
    /// Nothing: it is final, stale, or another's.
    Nothing,
    /// To come again after a wait.
    Wait(Duration),
    /// To be passed on to the scheduler: a retry to come, or an end's consequences.
    PassOn(Box<DeliveryItem>),
}

impl Dispatch {
    /// Returns once the delivery is settled: recorded, or on its way in another message.
    async fn deliver(
        &self,
        event: &EventItem,
        item: &DeliveryItem,
        rendered: &Rendered,
        held: &Mutex<OwnedSemaphorePermit>,
    ) {
        let own = held.lock().unwrap_or_else(PoisonError::into_inner).split(1);
        let Some(slot) = self.slots.take(&item.webhook, self.webhooks.cap(&event.tenant, &item.webhook)).await else {
            self.metrics.diverted(Limit::Cap);
            drop(own);
            return self.come_again(event, item, NO_ROOM * 2_u32.pow(item.waiting.hops.min(NO_ROOM_DOUBLINGS))).await;
        };
        self.metrics.in_flight.inc();
        let left = self.claim_and_attempt(event, item, rendered).await;
        self.metrics.in_flight.dec();
        // Its room is free before anything is published: a broker that blocks must not stop those who succeed.
        drop((slot, own));
        match left {
            Left::Nothing => {}
            Left::Wait(wait) => {
                let spread = SHORTEST_WAIT * 2_u32.pow(item.waiting.hops.min(NO_ROOM_DOUBLINGS));
                self.come_again(event, item, wait.max(spread)).await;
            }
            Left::PassOn(delivery) => {
                let _passing = self.passing.one();
                self.bus
                    .publisher()
                    .publish_surely(Route::queue(topology::OUTCOMES), &event.with(vec![*delivery]))
                    .await;
                fail_point("dispatcher.published");
            }
        }
    }

    async fn claim_and_attempt(&self, event: &EventItem, item: &DeliveryItem, rendered: &Rendered) -> Left {
        let id = event.delivery_id(item);
        let token = self.life.token();
        let request = ClaimRequest {
            tenant: &event.tenant,
            id: &id,
            attempt: item.attempt,
            epoch: item.epoch,
            shape: &item.shape,
            accepted_ms: event.accepted,
            token: &token,
        };
        let asked_at = Instant::now();
        let claim = match while_away("claiming a delivery", || self.records.claim(&request)).await {
            Ok(claim) => claim,
            Err(error) => return stuck(event, &id, &error),
        };
        fail_point("dispatcher.claimed");
        self.metrics.claimed(label(&claim));
        match claim {
            Claim::Nothing(_) => Left::Nothing,
            Claim::Wait { wait, limit } => {
                if let Some(limit) = limit {
                    self.metrics.diverted(limit);
                }
                Left::Wait(wait)
            }
            Claim::Retry { attempt, due_ms, epoch } => {
                let waiting = Waiting { since: now_ms(), due: due_ms.max(1), hops: 0 };
                Left::PassOn(Box::new(DeliveryItem { attempt, epoch, waiting, ..item.clone() }))
            }
            Claim::Ended(reason) => {
                let ended = self.consequences(event, item, &reason).await;
                Left::PassOn(Box::new(DeliveryItem { ended: Some(ended), attempt: item.attempt + 1, ..item.clone() }))
            }
            Claim::Go { revision, claimed_before, first_attempt_ms } => {
                let claimed = Claimed { id, token, asked_at, redelivery: claimed_before > 0, first_attempt_ms };
                match self.webhooks.at_least(&event.tenant, &item.webhook, revision).await {
                    Ok(webhook) => self.attempt(event, item, &claimed, &webhook, rendered).await,
                    Err(why) => self.not_ready(event, item, &claimed, &why).await,
                }
            }
        }
    }

    async fn attempt(
        &self,
        event: &EventItem,
        item: &DeliveryItem,
        claimed: &Claimed,
        webhook: &InForce,
        rendered: &Rendered,
    ) -> Left {
        let payload = match self.payload(event, item, claimed, rendered).await {
            Ok(payload) => payload,
            Err(Unrendered::Unread(error)) => {
                let _ = stuck(event, &claimed.id, &*error);
                return self.undo(event, item, claimed, NOT_READY).await;
            }
            Err(Unrendered::Wrong(why)) => {
                let entry = AttemptEntry { error: Some(why), ..entry_without_request(webhook) };
                let made = Made { answer: Answer::None(Failure::Template), entry, took: Duration::ZERO };
                return self.record(event, item, claimed, webhook, made).await;
            }
        };
        // On a monotonic clock, right before sending: a process that was frozen meanwhile sends nothing stale.
        if claimed.asked_at.elapsed() >= LEASE_MARGIN || !self.life.may_send() {
            return self.undo(event, item, claimed, Duration::from_millis(100)).await;
        }
        if claimed.redelivery {
            self.metrics.redelivered();
        }
        let id = claimed.id.webhook_id_header();
        let meta = Meta {
            id: &id,
            attempt: item.attempt,
            first_attempt_ms: claimed.first_attempt_ms,
            redelivery: claimed.redelivery,
            replay: item.replay.as_deref(),
            form: EntryForm::Short,
        };
        self.timed(event, item, claimed);
        let made = self.sender.send(webhook, &payload, &meta).await;
        fail_point("dispatcher.sent");
        self.record(event, item, claimed, webhook, made).await
    }

    /// Counts how prompt an attempt is that begins now.
    fn timed(&self, event: &EventItem, item: &DeliveryItem, claimed: &Claimed) {
        let since = |then_ms: u64| Duration::from_millis(now_ms().saturating_sub(then_ms));
        if item.attempt > 1 && item.waiting.due > 0 {
            self.metrics.retried(since(item.waiting.due));
        } else if item.attempt == 1 && item.replay.is_none() && !claimed.redelivery {
            self.metrics.first_attempt(since(event.accepted));
        }
    }

    /// Records an attempt and publishes what follows from it.
    async fn record(
        &self,
        event: &EventItem,
        item: &DeliveryItem,
        claimed: &Claimed,
        webhook: &InForce,
        made: Made,
    ) -> Left {
        let judged = outcome(&made.answer, &webhook.policy);
        let step = next_step(judged, item.attempt, &webhook.policy, Chance(rand::random()));
        self.metrics.attempted(&event.tenant, &made.answer, step == NextStep::Done, made.took);
        let now_ms = now_ms();
        let verdict = match step {
            NextStep::Done => Verdict::Delivered,
            NextStep::Retry { after, whole_webhook } => {
                let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                Verdict::Retry { due_ms: now_ms.saturating_add(after_ms), pause: whole_webhook.unwrap_or_default() }
            }
            NextStep::GiveUp { disable } => {
                Verdict::Failed { reason: disable.unwrap_or(DisableReason::Exhausted).as_str() }
            }
        };
        if step != NextStep::Done {
            tracing::info!(
                tenant = %event.tenant, delivery = %claimed.id, attempt = item.attempt, status = made.entry.status,
                error = made.entry.error, "an attempt failed"
            );
        }
        let entry = serde_json::to_string(&made.entry).expect("an entry is texts and numbers");
        let attempted = Attempted {
            tenant: &event.tenant,
            id: &claimed.id,
            token: &claimed.token,
            attempt: item.attempt,
            verdict: &verdict,
            entry,
        };
        let recorded = match while_away("recording an attempt", || self.records.complete(&attempted)).await {
            Ok(recorded) => recorded,
            // Made, and perhaps made again once its tenant is back: at least once.
            Err(error) => return stuck(event, &claimed.id, &error),
        };
        fail_point("dispatcher.recorded");
        if recorded == Recorded::Late && step != NextStep::Done {
            // The claim had passed to another, or Redis did record it and its answer was lost: the next claim tells which.
            return Left::Wait(SHORTEST_WAIT);
        }
        match (step, verdict) {
            (NextStep::Done, _) => {
                self.metrics.delivered(&event.tenant, Duration::from_millis(now_ms.saturating_sub(event.accepted)));
                Left::Nothing
            }
            (_, Verdict::Retry { due_ms, .. }) => {
                let waiting = Waiting { since: now_ms, due: due_ms, hops: 0 };
                Left::PassOn(Box::new(DeliveryItem { attempt: item.attempt + 1, waiting, ..item.clone() }))
            }
            (NextStep::GiveUp { disable }, _) => {
                self.metrics.failed(&event.tenant);
                let ended = Some(Ended { disable });
                Left::PassOn(Box::new(DeliveryItem { attempt: item.attempt + 1, ended, ..item.clone() }))
            }
            (NextStep::Retry { .. }, _) => unreachable!("a retry's verdict is one"),
        }
    }

    /// The request's body and headers, rendered once per event and shape.
    async fn payload(
        &self,
        event: &EventItem,
        item: &DeliveryItem,
        claimed: &Claimed,
        rendered: &Rendered,
    ) -> Result<Arc<Payload>, Unrendered> {
        let known = |rendered: &Rendered| {
            let payloads = rendered.payloads.lock().unwrap_or_else(PoisonError::into_inner);
            payloads.iter().find(|(shape, _)| *shape == item.shape).map(|(_, payload)| payload.clone())
        };
        if let Some(payload) = known(rendered) {
            return Ok(payload);
        }
        let catalog = self.shapes.catalog(&item.shape).await?;
        let payload = match &event.event {
            Some(json) => render(&catalog, &item.shape, json.get().as_bytes())?,
            None => {
                let read = || self.records.event_body(&event.tenant, &claimed.id);
                let stored = while_away("reading a large event", read).await?;
                let stored = stored.ok_or("the event's body is no longer in Redis".to_owned())?;
                render(&catalog, &item.shape, &stored)?
            }
        };
        let payload = Arc::new(payload);
        rendered.payloads.lock().unwrap_or_else(PoisonError::into_inner).push((item.shape.clone(), payload.clone()));
        Ok(payload)
    }

    async fn not_ready(&self, event: &EventItem, item: &DeliveryItem, claimed: &Claimed, why: &NotReady) -> Left {
        match why {
            // Deleted since the claim: the next claim cancels it.
            NotReady::Gone => self.undo(event, item, claimed, Duration::from_millis(100)).await,
            why => {
                tracing::error!(tenant = %event.tenant, webhook = %item.webhook, error = %why, "a delivery waits: its webhook is not ready");
                self.undo(event, item, claimed, NOT_READY).await
            }
        }
    }

    /// Gives a claim back under which nothing was sent.
    async fn undo(&self, event: &EventItem, item: &DeliveryItem, claimed: &Claimed, wait: Duration) -> Left {
        let attempted = Attempted {
            tenant: &event.tenant,
            id: &claimed.id,
            token: &claimed.token,
            attempt: item.attempt,
            verdict: &Verdict::Undone,
            entry: String::new(),
        };
        match while_away("giving a claim back", || self.records.complete(&attempted)).await {
            Ok(_) => Left::Wait(wait),
            Err(error) => stuck(event, &claimed.id, &error), // its lease ends by itself
        }
    }

    /// What follows for the webhook from a failure that was recorded with this reason.
    async fn consequences(&self, event: &EventItem, item: &DeliveryItem, reason: &str) -> Ended {
        let policy =
            self.webhooks.at_least(&event.tenant, &item.webhook, 0).await.map(|webhook| webhook.policy.clone());
        Ended { disable: disables(reason, &policy.unwrap_or_default()) }
    }

    /// The same attempt again after a short wait, straight from its tier to a dispatcher.
    async fn come_again(&self, event: &EventItem, item: &DeliveryItem, wait: Duration) {
        let _passing = self.passing.one();
        let now_ms = now_ms();
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let waiting = Waiting { since: now_ms, due: now_ms.saturating_add(wait_ms), hops: item.waiting.hops + 1 };
        let route = match next_hop(wait, 0) {
            Hop::Now => Route::deliveries(),
            Hop::Tier { ms, last } => Route::tier(ms, last),
        };
        self.bus.publisher().publish_surely(route, &event.with(vec![DeliveryItem { waiting, ..item.clone() }])).await;
    }
}

/// Why there is no body to send.
enum Unrendered {
    /// The catalog makes none of this event: an attempt that failed.
    Wrong(String),
    /// The event or its catalog cannot be read at present: no attempt at all.
    Unread(Box<dyn std::error::Error + Send + Sync>),
}

impl From<StoreError> for Unrendered {
    fn from(error: StoreError) -> Self {
        Self::Unread(error.into())
    }
}

impl From<NoCatalog> for Unrendered {
    fn from(error: NoCatalog) -> Self {
        Self::Unread(error.into())
    }
}

impl From<String> for Unrendered {
    fn from(why: String) -> Self {
        Self::Wrong(why)
    }
}

/// A delivery that nobody can decide on leaves for a tier: an operator has something to mend, and others their turn.
fn stuck(event: &EventItem, id: &DeliveryId, error: &dyn std::error::Error) -> Left {
    tracing::error!(tenant = %event.tenant, delivery = %id, %error, "a delivery waits until this is mended");
    Left::Wait(NOT_READY)
}

/// A delivery under our claim.
struct Claimed {
    id: DeliveryId,
    token: String,
    asked_at: Instant,
    redelivery: bool,
    first_attempt_ms: u64,
}

fn disables(reason: &str, policy: &DeliveryPolicy) -> Option<DisableReason> {
    match reason {
        "gone" => Some(DisableReason::Gone),
        "exhausted" if policy.exhausted_disables => Some(DisableReason::Exhausted),
        _ => None,
    }
}

/// An attempt of which no request came about.
pub(crate) fn entry_without_request(webhook: &InForce) -> AttemptEntry {
    AttemptEntry {
        form: EntryForm::Whole,
        at: now_ms(),
        ms: 0,
        error: None,
        method: webhook.method.to_string(),
        url: webhook.target.clone(),
        headers: Vec::new(),
        status: None,
        answer_headers: Vec::new(),
        answer_body: String::new(),
    }
}

fn label(claim: &Claim) -> &'static str {
    match claim {
        Claim::Go { .. } => "go",
        Claim::Wait { .. } => "wait",
        Claim::Retry { .. } => "retry",
        Claim::Ended(_) => "ended",
        Claim::Nothing(why) => why,
    }
}

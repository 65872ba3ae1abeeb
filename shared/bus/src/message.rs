//! What travels between the services: a batch of events, each with its deliveries. JSON, so that it can be read in the
//! broker's own console; an event's bytes are copied from message to message and never parsed again.
//!
//! Ids only: never a target, a secret or a header's value (delivery.md, Broker objects).

use fanfare_domain::{DeliveryId, DisableReason, Event, EventId, JobId, TenantId, WebhookId, notice::NoticeKind};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The header that tells a message's form, on every message.
pub const VERSION_HEADER: &str = "x-fanfare-v";
/// The form written here; an older one is read as long as messages of it can be waiting (14 days).
pub const VERSION: i32 = 1;

/// The events of one message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Batch {
    /// In no particular order.
    pub events: Vec<EventItem>,
}

/// An event on its way, and in the later queues its deliveries.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventItem {
    /// Whose event it is.
    pub tenant: TenantId,
    /// Fanfare's id of it.
    pub id: EventId,
    /// Its CloudEvents type.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it was accepted, in unix milliseconds.
    pub accepted: u64,
    /// The version of the tenant's configuration at acceptance, or a later one: what is known must be no older.
    pub config: u64,
    /// A W3C `traceparent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The event itself; absent where it is large: then it is read from Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Box<RawValue>>,
    /// Its deliveries that travel with it; none before the fan-out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliveries: Vec<DeliveryItem>,
}

/// A delivery on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryItem {
    /// The webhook it is for.
    pub webhook: WebhookId,
    /// The replay job that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<String>,
    /// The attempt to make, from 1.
    pub attempt: u32,
    /// Raised when what is under way is replaced: an older epoch is stale.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u32,
    /// What shapes its body, pinned at fan-out: catalog digest and payload form.
    pub shape: String,
    /// When it failed and when the next attempt is due by the schedule, in unix milliseconds; 0: at once.
    #[serde(default, skip_serializing_if = "Waiting::is_none")]
    pub waiting: Waiting,
    /// It ended in failure, which has consequences still to be drawn; only in `fanfare.outcomes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// A wait between two attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// When the wait began, in unix milliseconds.
    pub since: u64,
    /// When it ends.
    pub due: u64,
    /// The tiers it has been through.
    #[serde(default)]
    pub hops: u32,
}

impl Waiting {
    /// No wait at all.
    fn is_none(&self) -> bool {
        self.due == 0
    }
}

/// What follows for the webhook from a delivery's final failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The webhook is to be disabled for it.
    pub disable: Option<DisableReason>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A request that the api wants made now (`fanfare.probes`); its answer is [`Probed`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probe {
    /// Whose webhook.
    pub tenant: TenantId,
    /// Which webhook.
    pub webhook: WebhookId,
    /// Which form of it.
    pub of: ProbeOf,
    /// The event to send, as accepted events are.
    pub event: Box<RawValue>,
    /// An id for the request.
    pub id: EventId,
    /// What shapes its body.
    pub shape: String,
}

/// A job to go on with (`fanfare.jobs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobItem {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which.
    pub job: JobId,
    /// The turn this message is for, from 0: when the job has got further, the message is stale.
    pub turn: u32,
}

/// Something to tell of a webhook (`fanfare.notices`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Whose webhook it is.
    pub tenant: TenantId,
    /// Which.
    pub webhook: WebhookId,
    /// What is told.
    pub kind: NoticeKind,
    /// How.
    pub way: Way,
    /// The delivery whose failure is the cause.
    pub delivery: DeliveryId,
    /// When it happened, in unix milliseconds.
    pub at: u64,
    /// How often it could not be told.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tries: u32,
}

/// How something is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// By mail, to the webhook's `notifyEmail`.
    Mail,
    /// By an event that the tenant's own webhooks can subscribe to.
    Event,
}

/// Which form of a webhook a request is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeOf {
    /// What is stored.
    Stored {
        /// The revision it has: what is known must be no older.
        revision: u64,
    },
    /// What would be stored if the request succeeds.
    Unsaved {
        /// The webhook in its stored form, as a text that is sealed like a secret: it holds target and headers.
        sealed: String,
    },
}

/// What became of a [`Probe`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probed {
    /// An attempt as logged, in JSON, as a text that is sealed like a secret: it tells the target.
    Made(String),
    /// No request could be made; the log of whoever answers says why.
    Not,
}

/// Why a message's body is none that we can read.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// A newer version of Fanfare wrote it.
    #[error("message of version {0}, and this program reads up to {VERSION}: upgrade it")]
    Newer(i32),
    /// It does not say its version.
    #[error("message without the header `{VERSION_HEADER}`: Fanfare did not write it")]
    Foreign,
    /// It is not what its queue is for.
    #[error("message is not what its queue is for: {0}")]
    Other(#[from] serde_json::Error),
}

impl Batch {
    /// Reads a message's body of the given version. We always write one: a message without is somebody else's.
    pub fn read(version: Option<i32>, body: &[u8]) -> Result<Self, FormError> {
        read(version, body)
    }
}

/// Reads a message's body of the given version.
pub(crate) fn read<T: for<'de> Deserialize<'de>>(version: Option<i32>, body: &[u8]) -> Result<T, FormError> {
    match version {
        None => Err(FormError::Foreign),
        Some(newer) if newer > VERSION => Err(FormError::Newer(newer)),
        _ => Ok(serde_json::from_slice(body)?),
    }
}

impl EventItem {
    /// An event that was just accepted under `id`, by a configuration of version `config`, to be fanned out.
    pub fn accepted(tenant: &TenantId, event: &Event, id: EventId, accepted_ms: u64, config: u64) -> Self {
        Self {
            tenant: tenant.clone(),
            id,
            kind: event.kind.clone(),
            accepted: accepted_ms,
            config,
            traceparent: event.traceparent.clone(),
            event: Some(event.json.clone()),
            deliveries: Vec::new(),
        }
    }

    /// This event with other deliveries.
    pub fn with(&self, deliveries: Vec<DeliveryItem>) -> Self {
        Self { deliveries, ..self.clone() }
    }

    /// The id of one of its deliveries.
    pub fn delivery_id(&self, delivery: &DeliveryItem) -> DeliveryId {
        DeliveryId { event: self.id, webhook: delivery.webhook.clone(), replay: delivery.replay.clone() }
    }

    /// As a batch's member, to be joined with others without being parsed again.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let event_bytes = self.event.as_ref().map_or(0, |event| event.get().len());
        let mut bytes = Vec::with_capacity(event_bytes + 512);
        serde_json::to_writer(&mut bytes, self).expect("names are strings and the event is JSON already");
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back_as_written_and_keeps_the_events_bytes() {
        let body = br#"{"events":[{"tenant":"acme","id":"01K3V7M2Z8Q4R6T1W9X0Y5B3CD","type":"t","accepted":5,"config":2,"event":{"n": 1.50},"deliveries":[{"webhook":"65f0c2a91b7e4d3388aa01ff","attempt":2,"shape":"a:full","waiting":{"since":1,"due":9,"hops":1}}]}]}"#;
        let batch = Batch::read(Some(1), body).unwrap();
        assert_eq!(batch.events[0].event.as_ref().unwrap().get(), r#"{"n": 1.50}"#);
        let delivery = &batch.events[0].deliveries[0];
        assert_eq!((delivery.attempt, delivery.epoch, delivery.waiting.due), (2, 0, 9));
        assert_eq!(serde_json::to_vec(&batch).unwrap(), body);
    }

    #[test]
    fn a_newer_form_is_not_guessed_at() {
        assert!(matches!(Batch::read(Some(2), b"{}"), Err(FormError::Newer(2))));
        assert!(matches!(Batch::read(Some(1), b"[]"), Err(FormError::Other(_))));
        assert!(matches!(Batch::read(None, br#"{"events":[]}"#), Err(FormError::Foreign)));
    }
}

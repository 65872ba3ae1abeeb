//! Events from the exchange `fanfare.ingest`, in both modes of the CloudEvents AMQP binding. What cannot be accepted goes to
//! `fanfare.rejected` as it came, with the reason.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use fanfare_bus::{Bus, Message, PublishError, Route, Settled, topology};
use fanfare_domain::{
    Event, TenantId,
    event::{Defaults, EventError, parse_binary, parse_structured},
};
use fanfare_runtime::now_ms;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use prometheus::IntGauge;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    accept::{Accepted, Intake, Refused},
    metrics::Metrics,
};

/// Events at work at once.
const PREFETCH: u16 = 1_024;
/// Rejected messages that wait for room in a full `fanfare.rejected`; the rest of the prefetch is for events.
const REJECTS_WAITING: usize = 64;
/// How long each tries again.
const REJECT_AGAIN: Duration = Duration::from_secs(1);
/// How often a full queue is told of.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// The header that says why a message was rejected.
const REASON: &str = "x-fanfare-reason";

/// Consumes until `stop`.
pub(crate) async fn consume(
    bus: Bus,
    intake: Arc<Intake>,
    max_event_bytes: usize,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let rejects = Arc::new(Rejects { bus: bus.clone(), room: Semaphore::new(REJECTS_WAITING), told: Mutex::default() });
    let work = |message: Message| {
        let (rejects, intake, stop) = (rejects.clone(), intake.clone(), stop.clone());
        async move { settle(&rejects, &intake, max_event_bytes, message, &stop).await }
    };
    bus.consume(topology::INGEST, PREFETCH, &stop, work).await;
    Ok(())
}

async fn settle(
    rejects: &Rejects,
    intake: &Arc<Intake>,
    max_event_bytes: usize,
    message: Message,
    stop: &CancellationToken,
) -> Settled {
    let parsed = read(&message, max_event_bytes);
    let mut pause = Duration::from_millis(50);
    loop {
        let result = match &parsed {
            Ok((tenant, event)) => accept(intake, tenant, event).await,
            Err(refused) => {
                intake.metrics.rejected.with_label_values(&["invalid"]).inc();
                Err(refused.clone())
            }
        };
        let reason = match result {
            Ok(_) => return Settled::Ack,
            Err(Refused::Invalid(errors)) => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            Err(Refused::Conflict) => "an event with this id and source was accepted with another content".to_owned(),
            Err(Refused::Unavailable(why)) => {
                tracing::debug!(why, "an event waits");
                tokio::select! {
                    () = stop.cancelled() => return Settled::Leave,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(Duration::from_secs(2));
                continue;
            }
        };
        return rejects.keep(&message, &reason, &intake.metrics, stop).await;
    }
}

/// Properties as they were, but for those that the broker would act on.
fn without_effect(kept: &BasicProperties) -> BasicProperties {
    macro_rules! copy {
        ($($get:ident => $with:ident),*) => {{
            let mut properties = BasicProperties::default();
            $(if let Some(value) = kept.$get() { properties = properties.$with(value.clone()); })*
            properties
        }};
    }
    copy!(content_type => with_content_type, content_encoding => with_content_encoding, headers => with_headers,
        delivery_mode => with_delivery_mode, priority => with_priority, correlation_id => with_correlation_id,
        reply_to => with_reply_to, message_id => with_message_id, timestamp => with_timestamp, kind => with_type,
        app_id => with_app_id)
}

/// Where rejected messages go.
struct Rejects {
    bus: Bus,
    /// For those that wait, unacked, while the queue is full.
    room: Semaphore,
    /// When it was last told that it is full.
    told: Mutex<Option<Instant>>,
}

impl Rejects {
    /// Puts the message where the operator finds it, body and properties untouched. Where that is full, a few wait and the
    /// rest is let go: what cannot be accepted must not hold up what can.
    async fn keep(&self, message: &Message, reason: &str, metrics: &Metrics, stop: &CancellationToken) -> Settled {
        let properties = rejected_properties(&message.properties, reason);
        let mut waits = None;
        loop {
            match self.bus.publisher().publish_whole(Route::rejected(), message.body.clone(), properties.clone()).await
            {
                Ok(()) => return Settled::Ack,
                Err(PublishError::Refused) => {
                    self.tell(metrics);
                    if waits.is_none() {
                        waits = self.room.try_acquire().ok().map(|room| (room, Waiting::new(&metrics.rejects_waiting)));
                    }
                    if waits.is_none() {
                        metrics.rejects_dropped.inc();
                        return Settled::Ack;
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot keep a rejected message: trying again"),
            }
            tokio::select! {
                () = stop.cancelled() => return Settled::Leave,
                () = tokio::time::sleep(REJECT_AGAIN) => {}
            }
        }
    }

    fn tell(&self, metrics: &Metrics) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            let dropped = metrics.rejects_dropped.get();
            tracing::error!(
                queue = topology::REJECTED,
                dropped,
                "the queue of rejected messages is full: a few wait, further ones are let go; read and empty it"
            );
        }
    }
}

/// Counted in a gauge for as long as it lives.
struct Waiting<'g>(&'g IntGauge);

impl<'g> Waiting<'g> {
    fn new(gauge: &'g IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn rejected_properties(of: &BasicProperties, reason: &str) -> BasicProperties {
    let mut headers = of.headers().clone().unwrap_or_default();
    headers.insert(REASON.into(), AMQPValue::LongString(reason.chars().take(1_000).collect::<String>().into()));
    // Both would be acted on again: the broker refuses another's `user-id`, and lets an expired message go.
    for (name, kept) in [("x-fanfare-user-id", of.user_id()), ("x-fanfare-expiration", of.expiration())] {
        if let Some(kept) = kept {
            headers.insert(name.into(), AMQPValue::LongString(kept.as_str().into()));
        }
    }
    without_effect(&of.clone().with_headers(headers))
}

async fn accept(intake: &Arc<Intake>, tenant: &TenantId, event: &Event) -> Result<Accepted, Refused> {
    if *intake.configuration.lost().borrow() {
        return Err(Refused::Unavailable(fanfare_store::StoreError::Lost.to_string()));
    }
    let known = intake.configuration.followed(tenant).await.map_err(|error| crate::accept::away(&error))?;
    let known = known.ok_or_else(|| Refused::invalid("tenant", "there is no such tenant"))?;
    intake.accept(&known, event, "amqp").await
}

/// The tenant that the routing key names, and the event in the message.
fn read(message: &Message, max_event_bytes: usize) -> Result<(TenantId, Event), Refused> {
    if message.body.len() > max_event_bytes {
        return Err(Refused::invalid("body", &format!("is too large: an event is at most {max_event_bytes} bytes")));
    }
    let word = message.routing_key.split('.').next().unwrap_or_default();
    let tenant: TenantId =
        word.parse().map_err(|_| Refused::invalid("routing key", "must be `<tenant>.<event type>`"))?;
    let defaults = Defaults { now_ms: now_ms(), plain: None };
    let content_type = message.properties.content_type().as_ref().map(ToString::to_string);
    let essence =
        content_type.as_deref().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let parsed = match essence.as_str() {
        "application/cloudevents+json" => parse_structured(&message.body, &defaults),
        "application/cloudevents-batch+json" => {
            return Err(Refused::invalid("content-type", "batches come over HTTP only"));
        }
        _ => {
            let attributes = message.properties.headers().as_ref().map(attributes).unwrap_or_default();
            parse_binary(attributes, content_type.as_deref(), &message.body, &defaults)
        }
    };
    let event = parsed.map_err(|error| match error {
        EventError::NotJson(why) => Refused::invalid("body", &format!("is no JSON: {why}")),
        EventError::Invalid(errors) => Refused::Invalid(errors),
    })?;
    match &event.tenant {
        Some(named) if named != tenant.as_str() => Err(Refused::invalid("tenant", "is another than the routing key's")),
        _ => Ok((tenant, event)),
    }
}

/// The attributes in the message's headers (CloudEvents AMQP binding 1.0.2, 3.1.3.1).
fn attributes(headers: &FieldTable) -> Vec<(String, String)> {
    let prefixed = |(name, value): (&lapin::types::ShortString, &AMQPValue)| {
        let name = name.as_str();
        let name = name.strip_prefix("cloudEvents:").or_else(|| name.strip_prefix("cloudEvents_"))?;
        Some((name.to_owned(), value_text(value)?))
    };
    headers.inner().iter().filter_map(prefixed).collect()
}

fn value_text(value: &AMQPValue) -> Option<String> {
    Some(match value {
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        AMQPValue::ShortString(text) => text.to_string(),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::ShortShortInt(number) => number.to_string(),
        AMQPValue::ShortInt(number) => number.to_string(),
        AMQPValue::LongInt(number) => number.to_string(),
        AMQPValue::LongLongInt(number) => number.to_string(),
        AMQPValue::LongUInt(number) => number.to_string(),
        AMQPValue::Timestamp(secs) => fanfare_domain::span::rfc3339(secs.saturating_mul(1_000)),
        _ => return None,
    })
}

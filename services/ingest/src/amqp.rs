//! Events from the exchange `fanfare.ingest`, in both modes of the CloudEvents AMQP binding. What cannot be accepted goes to
//! `fanfare.rejected` as it came, with the reason.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use fanfare_bus::{Bus, Message, PublishError, Route, Settled, Stuck, Turn, topology};
use fanfare_domain::{
    Event, TenantId,
    event::{Defaults, EventError, parse_binary, parse_structured},
    ladder::{Hop, next_hop},
};
use fanfare_metrics::IntGauge;
use fanfare_runtime::{fail_point, now_ms};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
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
/// How long an event waits here for what its tenant lacks; longer than it takes to notice that all of Redis is lost.
const PATIENCE: Duration = Duration::from_secs(4);
/// The longest wait of an event that is put off; the first is this halved so often.
const LONGEST_WAIT: Duration = Duration::from_secs(256);
const SHORTEST_HALVINGS: u32 = 8;
/// The routing key of a message that was put off, and how often it was: in its headers while it waits.
const KEY: &str = "x-fanfare-routing-key";
const PUT_OFF: &str = "x-fanfare-put-off";
/// The header that says why a message was rejected.
const REASON: &str = "x-fanfare-reason";

/// Consumes until `stop`.
pub(crate) async fn consume(
    bus: Bus,
    intake: Arc<Intake>,
    max_event_bytes: usize,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let messages = Arc::new(Messages {
        rejects: Rejects { bus: bus.clone(), room: Semaphore::new(REJECTS_WAITING), told: Mutex::default() },
        intake,
        stuck: Stuck::default(),
        max_event_bytes,
        stop: stop.clone(),
    });
    let work = |message: Message| {
        let messages = messages.clone();
        async move { messages.settle(came_back(message)).await }
    };
    bus.consume(topology::INGEST, PREFETCH, &stop, work).await;
    Ok(())
}

/// Everything that messages need.
struct Messages {
    rejects: Rejects,
    intake: Arc<Intake>,
    stuck: Stuck,
    max_event_bytes: usize,
    stop: CancellationToken,
}

impl Messages {
    async fn settle(&self, Came { message, put_off }: Came) -> Settled {
        let (tenant, event) = match read(&message, self.max_event_bytes) {
            Ok(read) => read,
            Err(refused) => {
                self.intake.metrics.rejected.inc(["invalid"]);
                return self.reject(&message, refused).await;
            }
        };
        let turn = self.stuck.turn(&tenant, Instant::now());
        if turn == Turn::Later {
            return self.put_off(&message, put_off).await;
        }
        let (mut since, mut pause) = (Instant::now(), Duration::from_millis(50));
        loop {
            let why = match accept(&self.intake, &tenant, &event).await {
                Ok(_) => {
                    self.stuck.goes_on(&tenant);
                    return Settled::Ack;
                }
                Err(Refused::Unavailable(why)) => {
                    since = Instant::now();
                    why
                }
                Err(Refused::Stuck(why)) if turn == Turn::Probe || since.elapsed() >= PATIENCE => {
                    self.stuck.is_stuck(&tenant, &why, Instant::now());
                    return self.put_off(&message, put_off).await;
                }
                Err(Refused::Stuck(why)) => why,
                Err(refused) => return self.reject(&message, refused).await,
            };
            tracing::debug!(why, "an event waits");
            tokio::select! {
                () = self.stop.cancelled() => return Settled::Leave,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    async fn reject(&self, message: &Message, refused: Refused) -> Settled {
        let reason = match refused {
            Refused::Invalid(errors) => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            Refused::Conflict => "an event with this id and source was accepted with another content".to_owned(),
            Refused::Unavailable(why) | Refused::Stuck(why) => why,
        };
        self.rejects.keep(message, &reason, &self.intake.metrics, &self.stop).await
    }

    /// The message once more, out of a tier that leads back to the intake; each time it waits twice as long.
    async fn put_off(&self, message: &Message, times: u32) -> Settled {
        self.intake.metrics.put_off.inc();
        let mut headers = kept_apart(&message.properties);
        // They had their effect when it was published; a message that leaves a tier is routed by them once more.
        let mut own = FieldTable::default();
        for (name, value) in headers.inner().iter().filter(|(name, _)| !matches!(name.as_str(), "CC" | "BCC")) {
            own.insert(name.clone(), value.clone());
        }
        headers = own;
        headers.insert(KEY.into(), AMQPValue::LongString(message.routing_key.as_str().into()));
        headers.insert(PUT_OFF.into(), AMQPValue::LongUInt(times.saturating_add(1)));
        let properties = without_effect(&message.properties.clone().with_headers(headers)).with_delivery_mode(2);
        let wait = (LONGEST_WAIT / 2_u32.pow(SHORTEST_HALVINGS)) * 2_u32.pow(times.min(SHORTEST_HALVINGS));
        let Hop::Tier { ms, .. } = next_hop(wait, 0) else { unreachable!("a second or more is left") };
        loop {
            let published = self.rejects.bus.publisher().publish_whole(
                Route::ingest_after(ms),
                message.body.clone(),
                properties.clone(),
            );
            match published.await {
                Ok(()) => break,
                Err(error) => tracing::warn!(%error, "cannot put an event off: trying again"),
            }
            tokio::select! {
                () = self.stop.cancelled() => return Settled::Leave,
                () = tokio::time::sleep(REJECT_AGAIN) => {}
            }
        }
        fail_point("ingest.put_off");
        Settled::Ack
    }
}

/// A message as its publisher sent it, and how often it was put off.
struct Came {
    message: Message,
    put_off: u32,
}

/// Only what comes out of a tier is believed what it says of itself: anybody may write such headers.
fn came_back(mut message: Message) -> Came {
    if message.exchange != topology::DUE {
        return Came { message, put_off: 0 };
    }
    let (mut headers, mut put_off) = (FieldTable::default(), 0);
    for (name, value) in message.properties.headers().iter().flat_map(FieldTable::inner) {
        match (name.as_str(), value) {
            (KEY, AMQPValue::LongString(key)) => {
                message.routing_key = String::from_utf8_lossy(key.as_bytes()).into_owned()
            }
            (PUT_OFF, AMQPValue::LongUInt(times)) => put_off = *times,
            _ => drop(headers.insert(name.clone(), value.clone())),
        }
    }
    message.properties = message.properties.clone().with_headers(headers);
    Came { message, put_off }
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
    let mut headers = kept_apart(of);
    headers.insert(REASON.into(), AMQPValue::LongString(reason.chars().take(1_000).collect::<String>().into()));
    without_effect(&of.clone().with_headers(headers))
}

/// The headers, and with them two properties that would be acted on again: the broker refuses another's `user-id`, and lets
/// an expired message go.
fn kept_apart(of: &BasicProperties) -> FieldTable {
    let mut headers = of.headers().clone().unwrap_or_default();
    for (name, kept) in [("x-fanfare-user-id", of.user_id()), ("x-fanfare-expiration", of.expiration())] {
        if let Some(kept) = kept {
            headers.insert(name.into(), AMQPValue::LongString(kept.as_str().into()));
        }
    }
    headers
}

async fn accept(intake: &Intake, tenant: &TenantId, event: &Event) -> Result<Accepted, Refused> {
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

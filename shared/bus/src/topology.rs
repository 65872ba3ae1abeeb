//! Every exchange and queue of Fanfare, declared in this one place (delivery.md, Broker objects).
//!
//! All durable; queues are quorum queues. Work queues dead-letter to `fanfare.dead` after 100 deliveries: a lost connection
//! counts as one for every message that was prefetched, and RabbitMQ 4 would drop after 20.

use fanfare_domain::{TenantId, ladder::TIERS_MS};
use lapin::{
    Channel, ErrorKind, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable},
};

/// The exchange that upstream systems publish to, and its queue.
pub const INGEST: &str = "fanfare.ingest";
/// What cannot be accepted.
pub const REJECTED: &str = "fanfare.rejected";
/// Accepted events, by tenant.
pub const EVENTS: &str = "fanfare.events";
/// Deliveries that are due.
pub const DELIVERIES: &str = "fanfare.deliveries";
/// Failures.
pub const OUTCOMES: &str = "fanfare.outcomes";
/// Where waits end.
pub const DUE: &str = "fanfare.due";
/// Replays and resumes.
pub const JOBS: &str = "fanfare.jobs";
/// Mails and operational events.
pub const NOTICES: &str = "fanfare.notices";
/// Requests that the api wants made.
pub const PROBES: &str = "fanfare.probes";
/// What was given out too often.
pub const DEAD: &str = "fanfare.dead";

/// The routing key of a delivery that is not due yet when its tier ends.
pub const KEY_DUE: &str = "due";
/// The routing key of a delivery that is due when its tier ends.
pub const KEY_MAIN: &str = "main";

/// The routing key of a job that comes back when its tier ends.
pub const KEY_JOB: &str = "job";
/// The routing key of a notice that comes back when its tier ends.
pub const KEY_NOTICE: &str = "notice";

/// How many queues share the tenants' events.
pub const EVENT_QUEUES: u8 = 8;
/// `fanfare.dead` and `fanfare.rejected` hold no more than this.
pub const KEEPSAKE_MAX_BYTES: i64 = 256 * 1024 * 1024;
/// How often a message may be given out before it is poison.
const DELIVERY_LIMIT: i64 = 100;

/// The queue of a tenant's events, so that a hot tenant stands before few others.
pub fn events_queue(tenant: &TenantId) -> String {
    // FNV-1a: the same in every process and version, and a tenant's id is short.
    let hash = tenant
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    events_queue_name(u8::try_from(hash % u64::from(EVENT_QUEUES)).unwrap_or_default())
}

/// All queues of events.
pub fn events_queues() -> impl Iterator<Item = String> {
    (0..EVENT_QUEUES).map(events_queue_name)
}

fn events_queue_name(number: u8) -> String {
    format!("{EVENTS}.{number}")
}

/// The exchange, and the queue, of the tier of so many milliseconds.
pub fn tier(ms: u64) -> String {
    format!("fanfare.tier.{ms}")
}

/// Every queue there is.
pub(crate) fn queues() -> impl Iterator<Item = String> {
    let named = [INGEST, REJECTED, DELIVERIES, OUTCOMES, DUE, JOBS, NOTICES, PROBES, DEAD];
    named.into_iter().map(str::to_owned).chain(events_queues()).chain(TIERS_MS.map(tier))
}

/// Why the broker's objects could not be declared.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// An object of that name exists and differs.
    #[error(
        "`{name}` exists on the broker with other arguments: {reason}; give Fanfare a vhost of its own (FANFARE_AMQP__VHOST), \
         or let the queue run empty, delete it and start again"
    )]
    Differs {
        /// The object's name.
        name: String,
        /// What the broker says.
        reason: String,
    },
    /// The connection or the broker failed.
    #[error("declaring `{name}`: {why}")]
    Failed {
        /// The object's name.
        name: String,
        /// The cause, told with it.
        why: lapin::Error,
    },
}

impl TopologyError {
    fn of(name: &str, error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(amqp)
                if *amqp.kind() == AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) =>
            {
                Self::Differs { name: name.to_owned(), reason: amqp.get_message().to_string() }
            }
            _ => Self::Failed { name: name.to_owned(), why: error },
        }
    }
}

/// Declares everything that is not there yet. Declaring what is there alike changes nothing.
pub async fn declare(channel: &Channel) -> Result<(), TopologyError> {
    exchange(channel, REJECTED, ExchangeKind::Fanout, None).await?;
    keepsake(channel, REJECTED).await?;
    bind(channel, REJECTED, REJECTED, "").await?;
    keepsake(channel, DEAD).await?;

    exchange(channel, INGEST, ExchangeKind::Topic, Some(REJECTED)).await?;
    work(channel, INGEST).await?;
    bind(channel, INGEST, INGEST, "#").await?;

    exchange(channel, EVENTS, ExchangeKind::Direct, None).await?;
    for name in events_queues() {
        work(channel, &name).await?;
        bind(channel, EVENTS, &name, &name).await?;
    }

    exchange(channel, DELIVERIES, ExchangeKind::Direct, None).await?;
    work(channel, DELIVERIES).await?;
    bind(channel, DELIVERIES, DELIVERIES, KEY_MAIN).await?;

    for name in [OUTCOMES, JOBS, NOTICES, PROBES] {
        work(channel, name).await?;
    }

    exchange(channel, DUE, ExchangeKind::Direct, None).await?;
    work(channel, DUE).await?;
    bind(channel, DUE, DUE, KEY_DUE).await?;
    bind(channel, DUE, DELIVERIES, KEY_MAIN).await?;
    for name in events_queues() {
        bind(channel, DUE, &name, &name).await?; // events that were put off come back to their queue
    }
    bind(channel, DUE, JOBS, KEY_JOB).await?;
    bind(channel, DUE, NOTICES, KEY_NOTICE).await?;
    bind(channel, DUE, INGEST, INGEST).await?; // and so do messages
    for ms in TIERS_MS {
        let name = tier(ms);
        exchange(channel, &name, ExchangeKind::Fanout, None).await?;
        let ttl = i64::try_from(ms).expect("a tier lasts days");
        // No length limit, and no x-expires: that would delete an idle tier with what waits in it.
        queue(
            channel,
            &name,
            [
                ("x-message-ttl", AMQPValue::LongLongInt(ttl)),
                ("x-dead-letter-exchange", text(DUE)),
                ("x-dead-letter-strategy", text("at-least-once")),
                ("x-overflow", text("reject-publish")),
            ],
        )
        .await?;
        bind(channel, &name, &name, "").await?;
    }
    Ok(())
}

async fn work(channel: &Channel, name: &str) -> Result<(), TopologyError> {
    let arguments = [
        ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(DEAD)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ];
    queue(channel, name, arguments).await
}

async fn keepsake(channel: &Channel, name: &str) -> Result<(), TopologyError> {
    let arguments =
        [("x-max-length-bytes", AMQPValue::LongLongInt(KEEPSAKE_MAX_BYTES)), ("x-overflow", text("reject-publish"))];
    queue(channel, name, arguments).await
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

async fn queue<const N: usize>(
    channel: &Channel,
    name: &str,
    arguments: [(&str, AMQPValue); N],
) -> Result<(), TopologyError> {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), text("quorum"));
    for (key, value) in arguments {
        table.insert(key.into(), value);
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(name.into(), options, table).await;
    declared.map(drop).map_err(|error| TopologyError::of(name, error))
}

async fn exchange(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
    alternate: Option<&str>,
) -> Result<(), TopologyError> {
    let mut table = FieldTable::default();
    if let Some(alternate) = alternate {
        table.insert("alternate-exchange".into(), text(alternate));
    }
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.into(), kind, options, table).await.map_err(|error| TopologyError::of(name, error))
}

async fn bind(channel: &Channel, exchange: &str, queue: &str, key: &str) -> Result<(), TopologyError> {
    let bound = channel
        .queue_bind(queue.into(), exchange.into(), key.into(), QueueBindOptions::default(), FieldTable::default())
        .await;
    bound.map_err(|error| TopologyError::of(queue, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_spread_over_all_queues_and_stay_in_theirs() {
        let queue = |n: u32| events_queue(&format!("tenant-{n}").parse().unwrap());
        let used: std::collections::BTreeSet<String> = (0..200).map(queue).collect();
        assert_eq!(used, events_queues().collect());
        assert_eq!(queue(7), queue(7));
    }
}

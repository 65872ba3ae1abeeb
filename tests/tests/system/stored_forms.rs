//! What a release has stored in Redis and left in the broker, the next one works on to its end: nothing is lost in an
//! upgrade (docs/upgrade.md). `tests/stored-forms/README.md` says how a release's forms are recorded.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use fanfare_local::{Answer, Broker, Receiver, Redis, Sandbox, Service};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions},
    types::FieldTable,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::fanfare::{Fanfare, PATIENCE, broker, order, story};

/// Seals the secrets in the recorded forms: of use for nothing else.
const SECRETS_KEYS: (&str, &str) = ("FANFARE_SECRETS__KEYS", "forms:c3RvcmVkIGZvcm1zIG9mIGEgdGVzdCwgbm9zZWNyZXQ=");
/// How long an upgrade takes here: longer than the retries recorded wait.
const UPGRADE_MS: u64 = 120_000;
/// Stands in recorded forms for the receiver's port, which is another each time; as long as any of ours.
const PORT: &str = "127.0.0.1:00000";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("stored-forms")
}

/// A key of Redis: its members are what its type's own command takes, in order.
#[derive(Serialize, Deserialize)]
pub(crate) struct Key {
    key: String,
    kind: String,
    /// How long it has to live, in milliseconds; absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
    members: Vec<Vec<Bytes>>,
}

/// A message as it lay in its queue.
#[derive(Serialize, Deserialize)]
struct Message {
    queue: String,
    exchange: String,
    routing_key: String,
    content_type: Option<String>,
    headers: FieldTable,
    body: Bytes,
}

/// A text where it is one.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Bytes {
    Text(String),
    Base64 { base64: String },
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|odd| Self::Base64 { base64: STANDARD.encode(odd.as_bytes()) }, Self::Text)
    }
}

impl Bytes {
    fn bytes(&self) -> Result<Vec<u8>> {
        match self {
            Self::Text(text) => Ok(text.clone().into_bytes()),
            Self::Base64 { base64 } => Ok(STANDARD.decode(base64)?),
        }
    }
}

/// What the story must know of what was recorded.
#[derive(Default, Serialize, Deserialize)]
struct Told {
    /// The tenant's key and the operator's publish key.
    key: String,
    operator_key: String,
    /// Path at the receiver → webhook and secret.
    webhooks: BTreeMap<String, (String, String)>,
    /// Fanfare's id of an event → where it is to come, and how its delivery stands.
    events: BTreeMap<String, (String, String)>,
    /// An event that was accepted: the same again is none.
    accepted: Value,
    /// When all this was, in unix milliseconds.
    recorded: u64,
}

/// All that was recorded of a release.
struct Forms {
    keys: Vec<Key>,
    messages: Vec<Message>,
    told: Told,
}

impl Forms {
    /// As if it had been recorded an upgrade's time ago: what is out of its retention is gone, and rightly so.
    fn read(folder: &Path, port: u16) -> Result<Self> {
        let text = |name: &str| -> Result<String> {
            let path = folder.join(name);
            let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            Ok(text.replace(PORT, &format!("127.0.0.1:{port}")))
        };
        let told: Told = serde_json::from_str(&text("told.json")?)?;
        let to = now_ms()? - UPGRADE_MS;
        let later = |name: &str| text(name).map(|text| moved(&text, told.recorded, to));
        Ok(Self {
            keys: serde_json::from_str(&later("redis.json")?)?,
            messages: serde_json::from_str(&later("broker.json")?)?,
            told,
        })
    }

    fn write(&self, folder: &Path, port: u16) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let (keys, messages) =
            (serde_json::to_string_pretty(&self.keys)?, serde_json::to_string_pretty(&self.messages)?);
        let told = serde_json::to_string_pretty(&self.told)?;
        for (name, text) in [("redis.json", keys), ("broker.json", messages), ("told.json", told)] {
            std::fs::write(folder.join(name), text.replace(&format!("127.0.0.1:{port}"), PORT) + "\n")?;
        }
        Ok(())
    }
}

fn now_ms() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

/// The text with every unix time in milliseconds that is within an hour of `from` as far from `to`.
fn moved(text: &str, from: u64, to: u64) -> String {
    let mut moved = String::with_capacity(text.len());
    for part in text.split_inclusive(|c: char| !c.is_ascii_digit()) {
        let digits = part.trim_end_matches(|c: char| !c.is_ascii_digit());
        match digits.parse::<u64>() {
            Ok(time) if digits.len() == 13 && time.abs_diff(from) < 3_600_000 => {
                moved += &(to + time - from).to_string();
                moved += &part[digits.len()..];
            }
            _ => moved += part,
        }
    }
    moved
}

async fn redis_to(redis: &Redis) -> Result<redis::aio::MultiplexedConnection> {
    Ok(redis::Client::open(redis.url())?.get_multiplexed_async_connection().await?)
}

/// Everything in a Redis.
pub(crate) async fn stored(server: &Redis) -> Result<Vec<Key>> {
    let mut redis = redis_to(server).await?;
    let mut names: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await?;
    names.sort();
    let mut keys = Vec::new();
    for key in names {
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut redis).await?;
        let ttl: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut redis).await?;
        let members: Vec<Vec<Vec<u8>>> = match kind.as_str() {
            "string" => vec![vec![redis::cmd("GET").arg(&key).query_async(&mut redis).await?]],
            "hash" => pairs(redis::cmd("HGETALL").arg(&key).query_async(&mut redis).await?),
            // ZADD takes the score first.
            "zset" => {
                let pairs: Vec<(Vec<u8>, Vec<u8>)> =
                    redis::cmd("ZRANGE").arg(&key).arg(0).arg(-1).arg("WITHSCORES").query_async(&mut redis).await?;
                pairs.into_iter().map(|(member, score)| vec![score, member]).collect()
            }
            "set" => ones(redis::cmd("SMEMBERS").arg(&key).query_async(&mut redis).await?),
            "list" => ones(redis::cmd("LRANGE").arg(&key).arg(0).arg(-1).query_async(&mut redis).await?),
            "stream" => {
                let entries: Vec<(Vec<u8>, Vec<Vec<u8>>)> =
                    redis::cmd("XRANGE").arg(&key).arg("-").arg("+").query_async(&mut redis).await?;
                entries.into_iter().map(|(id, fields)| [vec![id], fields].concat()).collect()
            }
            "none" => continue, // it has just lived out its time
            other => anyhow::bail!("`{key}` is a {other}: this story knows no such kind"),
        };
        let members = members.into_iter().map(|member| member.into_iter().map(Bytes::from).collect()).collect();
        keys.push(Key { key, kind, ttl: u64::try_from(ttl).ok(), members });
    }
    Ok(keys)
}

fn pairs(pairs: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<Vec<Vec<u8>>> {
    pairs.into_iter().map(|(name, value)| vec![name, value]).collect()
}

fn ones(members: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    members.into_iter().map(|member| vec![member]).collect()
}

pub(crate) async fn store(server: &Redis, keys: &[Key]) -> Result<()> {
    let mut redis = redis_to(server).await?;
    for Key { key, kind, ttl, members } in keys {
        let command = match kind.as_str() {
            "string" => "SET",
            "hash" => "HSET",
            "zset" => "ZADD",
            "set" => "SADD",
            "list" => "RPUSH",
            _ => "XADD",
        };
        for member in members {
            let mut put = redis::cmd(command);
            put.arg(key);
            for part in member {
                put.arg(part.bytes()?);
            }
            put.exec_async(&mut redis).await.with_context(|| format!("storing {key}"))?;
        }
        if let Some(ttl) = ttl {
            redis::cmd("PEXPIRE").arg(key).arg(ttl).exec_async(&mut redis).await?;
        }
    }
    Ok(())
}

async fn channel(amqp_url: &str) -> Result<(Connection, Channel)> {
    let connection = Connection::connect(amqp_url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok((connection, channel))
}

/// Takes all messages out of a vhost's queues.
async fn queued(broker: &Broker, fanfare: &Fanfare) -> Result<Vec<Message>> {
    let (_connection, channel) = channel(&fanfare.amqp_url).await?;
    let mut messages = Vec::new();
    for queue in broker.depths(&fanfare.vhost).await? {
        while let Some(got) = channel.basic_get(queue.name.as_str().into(), BasicGetOptions { no_ack: true }).await? {
            let properties = &got.delivery.properties;
            // What the broker itself has noted: nobody can publish it.
            let of_broker = |name: &str| name == "x-delivery-count" || name.contains("death");
            let mut headers = FieldTable::default();
            for (name, value) in properties.headers().iter().flat_map(|headers| headers.inner()) {
                if !of_broker(name.as_str()) {
                    headers.insert(name.clone(), value.clone());
                }
            }
            messages.push(Message {
                queue: queue.name.clone(),
                exchange: got.delivery.exchange.to_string(),
                routing_key: got.delivery.routing_key.to_string(),
                content_type: properties.content_type().as_ref().map(ToString::to_string),
                headers,
                body: got.delivery.data.clone().into(),
            });
        }
    }
    Ok(messages)
}

/// Puts the messages back; those that waited in a tier have waited enough, and come from its shortest.
async fn queue(amqp_url: &str, messages: &[Message]) -> Result<()> {
    let (_connection, channel) = channel(amqp_url).await?;
    for message in messages {
        let waited = message.exchange.starts_with("fanfare.tier.");
        let exchange = if waited { "fanfare.tier.100" } else { &message.exchange };
        let mut properties = BasicProperties::default().with_delivery_mode(2).with_headers(message.headers.clone());
        if let Some(content_type) = &message.content_type {
            properties = properties.with_content_type(content_type.as_str().into());
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let body = message.body.bytes()?;
        let published =
            channel.basic_publish(exchange.into(), message.routing_key.as_str().into(), options, &body, properties);
        let confirmed = published.await?.await?;
        ensure!(confirmed.is_ack() && confirmed.take_message().is_none(), "{} is not routed", message.queue);
    }
    Ok(())
}

/// Waits until a queue holds messages that nobody has taken.
async fn until_queued(broker: &Broker, fanfare: &Fanfare, queue: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let depths = broker.depths(&fanfare.vhost).await?;
        let ready: u64 = depths.iter().filter(|depth| depth.name.starts_with(queue)).map(|depth| depth.ready).sum();
        if ready > 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "nothing lies in {queue}: {depths:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Brings work into every place where it can wait, stops all services there, and takes down what lies in Redis and broker.
async fn record(folder: &Path) -> Result<()> {
    let broker = broker().await?;
    let mut fanfare = Fanfare::start_with(&[SECRETS_KEYS]).await?;
    let receiver = Receiver::start().await?;
    receiver.answer_by(|request| match request.target.as_str() {
        "/failing" | "/later" => Answer::status(503),
        "/gone" => Answer::status(410),
        "/hanging" => Answer::hang(),
        _ => Answer::status(200),
    });
    let tenant = fanfare.tenant("acme").await?;
    let mut told = Told { key: tenant.client.token().to_owned(), ..Told::default() };
    let made = fanfare.operator.post("/v1/keys", &json!({})).await?;
    told.operator_key = made["key"].as_str().context("a key")?.to_owned();
    for (path, trigger, mut fields) in [
        ("/well", "order.paid", json!({ "headers": { "x-team": "hooks" }, "name": "well", "rateLimit": 1000 })),
        ("/failing", "order.failing", json!({ "retrySchedule": ["60s", "60s"] })),
        ("/later", "order.later", json!({ "retrySchedule": ["60s", "60s"], "maxInFlight": 3 })),
        ("/hanging", "order.hanging", json!({})),
        ("/off", "order.off", json!({ "active": false })),
        ("/on-again", "order.on-again", json!({ "active": false })),
        ("/gone", "order.gone", json!({ "payload": "identity", "notifyEmail": "ops@example.com" })),
        ("/told", "fanfare.webhook.disabled", json!({})),
        ("/large", "order.large", json!({ "filter": { "data": { "kind": ["large"] } } })),
    ] {
        fields["target"] = receiver.url(path).into();
        let webhook = tenant.webhook_with(&receiver, trigger, &fields).await?;
        told.webhooks.insert(path.to_owned(), (webhook.id, webhook.secret));
    }
    let rotated = tenant
        .client
        .post(&format!("/v1/webhooks/{}/secret/rotate", told.webhooks["/well"].0), &json!({ "graceSeconds": 3600 }))
        .await?;
    if let Some(secret) = rotated["secret"].as_str() {
        secret.clone_into(&mut told.webhooks.get_mut("/well").context("made above")?.1);
    }
    let publish = async |told: &mut Told, kind: &str, stands: &str| -> Result<String> {
        let event = tenant.client.publish(&order(kind, 1)).await?;
        told.events.insert(event.clone(), (format!("/{}", &kind["order.".len()..]), stands.to_owned()));
        Ok(event)
    };

    // Delivered; held by a webhook that is off; failed for good, whose webhook is disabled and holds.
    let well = order("order.paid", 1);
    told.accepted = serde_json::from_str(&well.to_json())?;
    let event = tenant.client.publish(&well).await?;
    told.events.insert(event.clone(), ("/well".to_owned(), "delivered".to_owned()));
    tenant.delivery_that_is(&event, "delivered").await?;
    for kind in ["order.off", "order.on-again"] {
        let event = publish(&mut told, kind, "held").await?;
        tenant.delivery_that_is(&event, "held").await?;
    }
    // A scheduler that dies where it has a notice in hand: a failure waits in its tier, and the notice in its queue.
    let event = publish(&mut told, "order.failing", "pending").await?;
    until_queued(broker, &fanfare, "fanfare.tier.").await?;
    tenant.delivery_that_is(&event, "pending").await?;
    fanfare.start_to_stop_dead(Service::Scheduler, "notices.consumed").await?;
    let event = publish(&mut told, "order.gone", "failed").await?;
    tenant.delivery_that_is(&event, "failed").await?;
    until_queued(broker, &fanfare, "fanfare.notices").await?;
    fanfare.services.scheduler.kill();
    // A failure that no scheduler takes up; a job that none drives.
    publish(&mut told, "order.later", "pending").await?;
    until_queued(broker, &fanfare, "fanfare.outcomes").await?;
    let on_again = &told.webhooks["/on-again"].0;
    tenant.client.patch(&format!("/v1/webhooks/{on_again}"), &json!({ "active": true })).await?;
    // An attempt under way, and a delivery, and an event, that nobody takes up; one of them too large for its message.
    publish(&mut told, "order.hanging", "pending").await?;
    receiver.wait_for_one(PATIENCE, |request| request.target == "/hanging").await?;
    fanfare.services.dispatcher.kill();
    until_queued(broker, &fanfare, "fanfare.deliveries").await?;
    let large = json!({ "kind": "large", "text": "and so on, ".repeat(9_000) });
    let event = tenant.client.publish(&fanfare_local::Event::new("order.large", large)).await?;
    told.events.insert(event.clone(), ("/large".to_owned(), "pending".to_owned()));
    tenant.delivery_that_is(&event, "pending").await?;
    fanfare.services.fanout.kill();
    let event = tenant.client.publish(&order("order.paid", 2)).await?;
    told.events.insert(event, ("/well".to_owned(), "unmatched".to_owned()));
    until_queued(broker, &fanfare, "fanfare.events.").await?;
    fanfare.services.ingest.kill();
    fanfare.services.api.kill();

    told.recorded = now_ms()?;
    let messages = queued(broker, &fanfare).await?;
    let keys = stored(&fanfare.redis).await?;
    for queue in ["fanfare.events.", "fanfare.deliveries", "fanfare.outcomes", "fanfare.notices", "fanfare.tier."] {
        ensure!(messages.iter().any(|message| message.queue.starts_with(queue)), "no message of {queue} is recorded");
    }
    Forms { keys, messages, told }.write(folder, receiver.address().port())?;
    broker.delete_vhost(&fanfare.vhost).await
}

/// Starts today's services over what was recorded, and sees all of it to its end.
async fn work_on(folder: &Path) -> Result<()> {
    let receiver = Receiver::start().await?;
    let forms = Forms::read(folder, receiver.address().port())?;
    let sandbox = Sandbox::new()?;
    let redis = Redis::start(&sandbox).await?;
    store(&redis, &forms.keys).await?;
    let mut fanfare = Fanfare::start_over(sandbox, redis, broker().await?, &[SECRETS_KEYS]).await?;
    let told = &forms.told;
    let tenant = fanfare.tenant_with_key("acme", &told.key);
    queue(&fanfare.amqp_url, &forms.messages).await?;

    let first = tenant.client.offer(&event_of(&told.accepted)).await?;
    assert_eq!((first.status, first.json()["duplicate"].as_bool()), (202, Some(true)), "taken before, by its id");
    let operator = fanfare.operator.with_token(&told.operator_key);
    let new = operator.publish(&order("order.paid", 3).with("tenant", "acme")).await?;
    tenant.delivery_that_is(&new, "delivered").await?;
    for (event, (path, stood)) in &told.events {
        let (stands, attempts) = match (path.as_str(), stood.as_str()) {
            ("/off", _) => ("held", 0),
            ("/gone", _) => ("failed", 1),
            ("/failing" | "/later" | "/hanging", _) => ("delivered", 2),
            _ => ("delivered", 1),
        };
        let delivery = tenant.delivery_that_is(event, stands).await?;
        let made = delivery["attempts"].as_array().map_or(0, Vec::len);
        // Of an attempt that nobody finished nothing is known but that it was begun.
        let made = made + usize::from(path == "/hanging");
        assert_eq!((path, delivery["webhook"].as_str(), made), (path, Some(told.webhooks[path].0.as_str()), attempts));
    }
    // What is held, and what was disabled, goes on when it is enabled.
    let gone = tenant.client.webhook(&told.webhooks["/gone"].0).await?;
    ensure!(!gone.fields["disabled"].is_null(), "a disabled webhook is one no more");
    tenant.client.patch(&format!("/v1/webhooks/{}", told.webhooks["/off"].0), &json!({ "active": true })).await?;
    tenant.client.post(&format!("/v1/webhooks/{}/enable", gone.id), &json!({})).await?;
    tenant.client.publish(&order("order.gone", 4)).await?;
    for (path, (_, secret)) in &told.webhooks {
        let came = receiver.wait_for_one(PATIENCE, |request| request.target == *path).await;
        came.with_context(|| format!("nothing came to {path}"))?;
        for request in receiver.requests().iter().filter(|request| request.target == *path) {
            request.verify(secret).with_context(|| format!("a request to {path}"))?;
            assert_eq!(request.header("x-team"), (path == "/well").then_some("hooks"));
        }
    }
    let mut ids: Vec<_> = receiver.requests().iter().map(|one| one.header("webhook-id").map(str::to_owned)).collect();
    let came = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), came, "nothing comes twice");
    fanfare.balance().await
}

/// An event as it was published.
fn event_of(event: &Value) -> fanfare_local::Event {
    let kind = event["type"].as_str().unwrap_or_default();
    let made = fanfare_local::Event::new(kind, event["data"].clone());
    made.with("id", event["id"].clone()).with("source", event["source"].clone())
}

#[test]
fn what_a_release_has_stored_and_sent_is_worked_on_to_its_end() {
    story(async {
        if std::env::var_os("FANFARE_RECORD_FORMS").is_some() {
            record(&folder().join(env!("CARGO_PKG_VERSION"))).await?;
        }
        let mut releases = 0;
        for release in std::fs::read_dir(folder())? {
            let path = release?.path();
            if path.is_dir() {
                work_on(&path).await.with_context(|| format!("the forms of {}", path.display()))?;
                releases += 1;
            }
        }
        ensure!(releases > 0, "no release's forms are recorded");
        Ok(())
    });
}

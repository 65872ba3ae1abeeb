//! One Fanfare for one test: a vhost of the shared broker, a Redis of its own, the five services, and balanced books at
//! the end.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use fanfare_local::{
    Binaries, Broker, Client, Event, Receiver, Recorded, Redis, Sandbox, Service, Services, Settings, Webhook, settings,
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// How long a story waits for a fact before it is told as a failure; generous, for machines that are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

static BROKER: OnceCell<(Sandbox, Broker)> = OnceCell::const_new();
static VHOSTS: AtomicU32 = AtomicU32::new(1);

/// Runs a story to its end on one runtime that all stories share.
pub(crate) fn story(story: impl Future<Output = Result<()>>) {
    static RUNTIME: std::sync::LazyLock<tokio::runtime::Runtime> = std::sync::LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads and sockets")
    });
    if let Err(error) = RUNTIME.block_on(story) {
        panic!("{error:?}");
    }
}

/// The broker that all stories of this process share, each in a vhost of its own.
pub(crate) async fn broker() -> Result<&'static Broker> {
    let started = async {
        let sandbox = Sandbox::new()?;
        let broker = Broker::start(&sandbox).await?;
        Ok::<_, anyhow::Error>((sandbox, broker))
    };
    BROKER.get_or_try_init(|| started).await.map(|(_, broker)| broker)
}

pub(crate) struct Fanfare {
    pub(crate) services: Services,
    pub(crate) operator: Client,
    pub(crate) redis: Redis,
    pub(crate) sandbox: Sandbox,
    pub(crate) settings: Settings,
    pub(crate) amqp_url: String,
    pub(crate) vhost: String,
    tenants: Vec<String>,
}

/// A tenant and its key.
#[derive(Clone)]
pub(crate) struct Tenant {
    pub(crate) id: String,
    pub(crate) client: Client,
}

impl Fanfare {
    /// All five services, one of each, with a one-second attempt timeout so that hanging is soon over.
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// The same with settings of the story's own.
    pub(crate) async fn start_with(changes: &[(&str, &str)]) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let redis = Redis::start(&sandbox).await?;
        Self::start_over(sandbox, redis, broker().await?, changes).await
    }

    /// The same over servers of the story's own.
    pub(crate) async fn start_over(
        sandbox: Sandbox,
        redis: Redis,
        broker: &Broker,
        changes: &[(&str, &str)],
    ) -> Result<Self> {
        let vhost = format!("story-{}", VHOSTS.fetch_add(1, Ordering::Relaxed));
        let amqp_url = broker.vhost(&vhost).await?;
        let mut settings = settings(&amqp_url, &redis.url());
        for (name, value) in
            [("FANFARE_DISPATCHER__TIMEOUT", "2s"), ("FANFARE_TELEMETRY__LOG_FORMAT", "text")].iter().chain(changes)
        {
            settings.insert((*name).to_owned(), (*value).to_owned());
        }
        let services = Services::start(&sandbox, &Binaries::of_profile("debug"), &settings).await?;
        let operator = services.operator()?;
        Ok(Self { services, operator, redis, sandbox, settings, amqp_url, vhost, tenants: Vec::new() })
    }

    /// A tenant of the standard catalog.
    pub(crate) async fn tenant(&mut self, id: &str) -> Result<Tenant> {
        self.tenant_of(id, "standard").await
    }

    /// A tenant of a catalog.
    pub(crate) async fn tenant_of(&mut self, id: &str, catalog: &str) -> Result<Tenant> {
        let client = self.operator.create_tenant(id, Some(catalog)).await?;
        self.tenants.push(id.to_owned());
        Ok(Tenant { id: id.to_owned(), client })
    }

    /// A tenant that is there already, by its key.
    pub(crate) fn tenant_with_key(&mut self, id: &str, key: &str) -> Tenant {
        self.tenants.push(id.to_owned());
        Tenant { id: id.to_owned(), client: self.operator.with_token(key) }
    }

    pub(crate) async fn redis_connection(&self) -> Result<redis::aio::MultiplexedConnection> {
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
        Ok(redis::Client::open(self.redis.url())?.get_multiplexed_async_connection_with_config(&config).await?)
    }

    /// A tenant's ledger: how many deliveries stand how.
    pub(crate) async fn ledger(&self, tenant: &str) -> Result<BTreeMap<String, i64>> {
        let mut redis = self.redis_connection().await?;
        Ok(redis::cmd("HGETALL").arg(format!("f:{{{tenant}}}:ledger")).query_async(&mut redis).await?)
    }

    /// Ends the story: every delivery has an end or is held, the books balance, and no message is left over.
    pub(crate) async fn balance(self) -> Result<()> {
        let settled = self.settle().await;
        if settled.is_err() {
            eprintln!("{}", self.sandbox.log_tails(40));
        }
        settled
    }

    async fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for tenant in &self.tenants {
            loop {
                let ledger = self.ledger(tenant).await?;
                let count = |state: &str| ledger.get(state).copied().unwrap_or(0);
                let ended = count("delivered") + count("failed") + count("cancelled") + count("held");
                let mut redis = self.redis_connection().await?;
                let unfanned: i64 =
                    redis::cmd("ZCARD").arg(format!("f:{{{tenant}}}:open")).query_async(&mut redis).await?;
                if count("created") == ended && count("pending") == 0 && unfanned == 0 {
                    break;
                }
                ensure!(
                    Instant::now() < deadline,
                    "the books of `{tenant}` do not balance: {ledger:?}, not fanned out: {unfanned}"
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let broker = broker().await?;
        loop {
            let left: Vec<_> =
                broker.depths(&self.vhost).await?.into_iter().filter(|queue| queue.ready + queue.unacked > 0).collect();
            // Copies that a redelivery made wait in tiers until they come up as stale.
            if left.iter().all(|queue| queue.name.starts_with("fanfare.tier.") || queue.name == "fanfare.rejected") {
                break;
            }
            ensure!(Instant::now() < deadline, "messages are left over: {left:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        broker.delete_vhost(&self.vhost).await
    }

    /// Starts a service again, to stop dead where it passes a fail point. What it has in hand is settled before: that would
    /// come again, and be what stops it.
    pub(crate) async fn start_to_stop_dead(&mut self, service: Service, fail_point: &str) -> Result<()> {
        self.services.get(service).stop(PATIENCE).await?;
        self.start_with_fail_point(service, fail_point).await
    }

    /// Starts it again without a fail point.
    pub(crate) async fn start_mended(&mut self, service: Service) -> Result<()> {
        self.start_with_fail_point(service, "").await
    }

    async fn start_with_fail_point(&mut self, service: Service, fail_point: &str) -> Result<()> {
        let settings = Settings::from([("FANFARE_FAIL_POINT".to_owned(), fail_point.to_owned())]);
        self.services.get_mut(service).start_again_with(&settings).await
    }

    /// Another dispatcher, or another of any service, beside the first.
    pub(crate) async fn another(&self, service: Service) -> Result<fanfare_local::Instance> {
        fanfare_local::Instance::start(&self.sandbox, &Binaries::of_profile("debug"), service, &self.settings).await
    }
}

impl Tenant {
    /// A webhook on a receiver for a trigger.
    pub(crate) async fn webhook(&self, receiver: &Receiver, trigger: &str) -> Result<Webhook> {
        self.webhook_with(receiver, trigger, &json!({})).await
    }

    /// The same with further fields.
    pub(crate) async fn webhook_with(&self, receiver: &Receiver, trigger: &str, fields: &Value) -> Result<Webhook> {
        let mut body = json!({ "target": receiver.url("/hook"), "triggers": [trigger] });
        if let (Some(body), Some(fields)) = (body.as_object_mut(), fields.as_object()) {
            body.extend(fields.clone());
        }
        self.client.create_webhook(&body).await
    }

    /// Waits until a delivery stands so, and returns it with its attempts.
    pub(crate) async fn delivery_that_is(&self, event: &str, status: &str) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.client.deliveries(&format!("event={event}")).await?;
            if let Some(delivery) = found.iter().find(|delivery| delivery["status"] == status) {
                return self.client.delivery(delivery["id"].as_str().context("a delivery has an id")?).await;
            }
            if Instant::now() > deadline {
                bail!("no delivery of {event} became {status}: {found:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The one request that a receiver got, or the next `count`.
pub(crate) async fn requests(receiver: &Receiver, count: usize) -> Result<Vec<std::sync::Arc<Recorded>>> {
    receiver.wait_for(count, PATIENCE).await
}

/// A plain event of this type.
pub(crate) fn order(kind: &str, total: u32) -> Event {
    Event::new(kind, json!({ "total": total, "currency": "EUR", "price": 1.5 }))
}

/// The headers of a request as the log should name them: those that are not HTTP's own.
pub(crate) fn headers_beside_https(request: &Recorded) -> Value {
    let https = ["host", "content-length", "accept"];
    let named = request.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.as_str().into()));
    named.filter(|(name, _)| !https.contains(&name.as_str())).collect::<serde_json::Map<_, _>>().into()
}

//! What a benchmark stands on: a private broker and Redis, the receiver, the five release binaries, two tenants.
use super::child::{Child, Ingest, RECEIVER, ReceiverJob};
use super::plan::Plan;
use super::receiver::{COUNT, HANG, REPORT, RESET, RESET_STAMPED, Received};
use super::{events, usage};
use anyhow::{Context, Result, bail, ensure};
use fanfare_local::{Binaries, Broker, Client, Redis, Sandbox, Service, Services, free_port, settings};
use serde_json::json;
use std::time::{Duration, Instant};

const READY_WITHIN: Duration = Duration::from_secs(10);
const VHOST: &str = "fanfare";
const FLOOR_VHOST: &str = "floor";

pub(super) struct Stage {
    pub(super) sandbox: Sandbox,
    pub(super) broker: Broker,
    pub(super) redis: Redis,
    pub(super) receiver: Receiver,
    /// Absent where only the floor is measured.
    pub(super) fanfare: Option<Fanfare>,
    pub(super) floor_url: String,
}

pub(super) struct Fanfare {
    pub(super) services: Services,
    pub(super) amqp_url: String,
    /// Who has one webhook, and who has ten.
    pub(super) one: Tenant,
    pub(super) ten: Tenant,
}

pub(super) struct Tenant {
    pub(super) id: &'static str,
    pub(super) ingest: Ingest,
}

impl Stage {
    pub(super) async fn start(plan: &Plan) -> Result<Self> {
        let binaries = Binaries::of_profile("dist");
        if plan.needs_fanfare() {
            let missing: Vec<String> = Service::ALL
                .into_iter()
                .filter(|service| !binaries.path(*service).exists())
                .map(Service::binary)
                .collect();
            ensure!(
                missing.is_empty(),
                "not built: {}; cargo build --profile dist --workspace --bins",
                missing.join(", ")
            );
        }
        let sandbox = plan.logs.as_ref().map_or_else(Sandbox::new, |folder| Sandbox::with_logs(folder))?;
        let receiver = Receiver::start(&sandbox).await?;
        let redis = Redis::start(&sandbox).await?;
        let broker = Broker::start(&sandbox).await?;
        let floor_url = broker.vhost(FLOOR_VHOST).await?;
        let mut stage = Self { sandbox, broker, redis, receiver, fanfare: None, floor_url };
        if plan.needs_fanfare() {
            stage.fanfare = Some(stage.start_fanfare(plan, &binaries).await?);
        }
        Ok(stage)
    }

    async fn start_fanfare(&self, plan: &Plan, binaries: &Binaries) -> Result<Fanfare> {
        let amqp_url = self.broker.vhost(VHOST).await?;
        let mut settings = settings(&amqp_url, &self.redis.url());
        settings.extend(plan.settings.iter().cloned());
        let services = Services::start(&self.sandbox, binaries, &settings).await?;
        let operator = services.operator()?;
        let address = services.ingest.url()?.trim_start_matches("http://").to_owned();
        let tenant = async |id: &'static str, webhooks: usize| {
            let client = operator.create_tenant(id, Some("standard")).await?;
            for number in 0..webhooks {
                self.create_webhook(&client, number, plan.posts).await?;
            }
            let ingest = Ingest { address: address.clone(), key: client.token().to_owned() };
            anyhow::Ok(Tenant { id, ingest })
        };
        let (one, ten) = (tenant("one", 1).await?, tenant("ten", 10).await?);
        Ok(Fanfare { services, amqp_url, one, ten })
    }

    async fn create_webhook(&self, client: &Client, number: usize, in_flight: usize) -> Result<()> {
        let webhook = json!({
            "name": format!("target {number}"),
            "target": self.receiver.target(number),
            "triggers": events::types()?,
            "maxInFlight": in_flight,
        });
        client.create_webhook(&webhook).await.map(drop)
    }

    /// A tenant with so many webhooks that answer and one that never does: its client, its way in, and that one's id.
    pub(super) async fn tenant_with_one_that_hangs(
        &self,
        id: &str,
        healthy: usize,
    ) -> Result<(Client, Ingest, String)> {
        let fanfare = self.fanfare.as_ref().context("the services are not started")?;
        let client = fanfare.services.operator()?.create_tenant(id, Some("standard")).await?;
        for number in 0..healthy {
            let webhook = json!({ "target": self.receiver.target(number), "triggers": events::types()? });
            client.create_webhook(&webhook).await?;
        }
        let webhook = json!({ "target": self.receiver.hanging_target(), "triggers": events::types()? });
        let hanging = client.create_webhook(&webhook).await?;
        let ingest = Ingest { address: fanfare.one.ingest.address.clone(), key: client.token().to_owned() };
        Ok((client, ingest, hanging.id))
    }

    /// The processes that stay, by name and pid.
    pub(super) fn processes(&self) -> Vec<(&'static str, u32)> {
        let mut processes = Vec::new();
        if let Some(fanfare) = &self.fanfare {
            processes
                .extend(Service::ALL.map(|service| (service.name(), fanfare.services.get(service).process().pid())));
        }
        processes.extend(self.broker.process().map(|broker| ("broker", broker.pid())));
        processes.extend(self.redis.process().map(|redis| ("redis", redis.pid())));
        processes.push(("receiver", self.receiver.process.pid()));
        processes
    }

    /// What they took so far, in the same order.
    pub(super) fn usage(&self) -> Result<Vec<usage::Usage>> {
        let pids: Vec<u32> = self.processes().into_iter().map(|(_, pid)| pid).collect();
        usage::of_trees(&pids)
    }

    /// An error where a service has ended.
    pub(super) fn check_alive(&self) -> Result<()> {
        for service in self.fanfare.iter().flat_map(|fanfare| Service::ALL.map(|service| fanfare.services.get(service)))
        {
            if let Some(status) = service.process().ended() {
                bail!("{} ended with {status}", service.service().name());
            }
        }
        Ok(())
    }

    /// What waits in the queues, to say where deliveries got stuck.
    pub(super) async fn backlog(&self) -> String {
        let vhost = if self.fanfare.is_some() { VHOST } else { FLOOR_VHOST };
        let queues = self.broker.depths(vhost).await.unwrap_or_default();
        let waiting = queues.iter().filter(|queue| queue.ready + queue.unacked > 0);
        let lines: Vec<String> =
            waiting.map(|queue| format!("{}: {} ready, {} unacked", queue.name, queue.ready, queue.unacked)).collect();
        if lines.is_empty() { "all queues are empty".into() } else { lines.join("; ") }
    }
}

/// The receiver, as the driver sees it.
pub(super) struct Receiver {
    process: Child,
    port: u16,
    http: reqwest::Client,
}

impl Receiver {
    async fn start(sandbox: &Sandbox) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default(); // reqwest wants one, even for http
        let port = free_port()?;
        let process = Child::start(sandbox, "receiver", RECEIVER, &ReceiverJob { port })?;
        let http = reqwest::Client::builder().no_proxy().timeout(READY_WITHIN).build()?;
        let receiver = Self { process, port, http };
        let deadline = Instant::now() + READY_WITHIN;
        while receiver.count().await.is_err() {
            receiver.process.has_ended()?;
            ensure!(Instant::now() < deadline, "the receiver does not listen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(receiver)
    }

    /// Webhook number so and so's URL.
    pub(super) fn target(&self, number: usize) -> String {
        format!("http://127.0.0.1:{}/{number}", self.port)
    }

    /// The URL of one that never answers.
    pub(super) fn hanging_target(&self) -> String {
        format!("http://127.0.0.1:{}{HANG}", self.port)
    }

    pub(super) async fn reset(&self, is_stamped: bool) -> Result<()> {
        self.ask(if is_stamped { RESET_STAMPED } else { RESET }).await.map(drop)
    }

    pub(super) async fn count(&self) -> Result<usize> {
        Ok(self.ask(COUNT).await?.parse()?)
    }

    pub(super) async fn report(&self) -> Result<Received> {
        Ok(serde_json::from_str(&self.ask(REPORT).await?)?)
    }

    async fn ask(&self, path: &str) -> Result<String> {
        let answer = self.http.get(format!("http://127.0.0.1:{}{path}", self.port)).send().await;
        Ok(answer.context("asking the receiver")?.error_for_status()?.text().await?)
    }
}

//! Broker, Redis and receiver: those the environment names; else private ones, installed or by Docker.
use crate::plan::Plan;
use anyhow::{Result, bail};
use fanfare_local::{Broker, Container, Receiver, Redis, Sandbox};

/// What runs beside the services; killed when dropped.
pub(crate) struct Private {
    pub(crate) amqp_url: String,
    pub(crate) redis_url: String,
    pub(crate) receiver: Receiver,
    _broker: Server<Broker>,
    _redis: Server<Redis>,
}

/// Where a server comes from.
enum Server<Installed> {
    Given,
    Installed(Installed),
    #[expect(dead_code, reason = "held to be dropped")]
    Docker(Container),
}

impl<Installed> Server<Installed> {
    fn at(&self, port: u16) -> String {
        match self {
            Self::Given => "as configured".into(),
            Self::Installed(_) => format!("127.0.0.1:{port}"),
            Self::Docker(_) => format!("127.0.0.1:{port} (Docker)"),
        }
    }
}

impl Private {
    /// Starts what is needed; also returns what to say about it.
    pub(crate) async fn start(sandbox: &Sandbox, plan: &Plan) -> Result<(Self, String)> {
        let (broker, redis) = tokio::try_join!(broker(sandbox, plan), redis(sandbox, plan))?;
        let receiver = Receiver::start_on(plan.ports.receiver).await?;
        let summary = format!(
            "broker {}, redis {}, receiver {} that checks signatures",
            broker.at(plan.ports.broker),
            redis.at(plan.ports.redis),
            receiver.address(),
        );
        let private_amqp = || format!("amqp://guest:guest@127.0.0.1:{}/%2f", plan.ports.broker);
        let private_redis = || format!("redis://127.0.0.1:{}/0", plan.ports.redis);
        let private = Self {
            amqp_url: plan.given_broker().map_or_else(private_amqp, ToOwned::to_owned),
            redis_url: plan.given_redis().map_or_else(private_redis, ToOwned::to_owned),
            receiver,
            _broker: broker,
            _redis: redis,
        };
        Ok((private, summary))
    }
}

async fn broker(sandbox: &Sandbox, plan: &Plan) -> Result<Server<Broker>> {
    let port = plan.ports.broker;
    if plan.given_broker().is_some() {
        return Ok(Server::Given);
    }
    if Broker::is_installed() {
        return Ok(Server::Installed(Broker::start_on(sandbox, port, plan.ports.management).await?));
    }
    if Container::is_possible() {
        let is_ready = async || Broker::answers_on(port).await;
        return Ok(Server::Docker(Container::start(sandbox, "rabbitmq:4", (port, 5672), &[], is_ready).await?));
    }
    bail!(
        "RabbitMQ is not installed and Docker does not answer; sudo deploy/local/install, or name a broker in FANFARE_AMQP__URL"
    )
}

async fn redis(sandbox: &Sandbox, plan: &Plan) -> Result<Server<Redis>> {
    let port = plan.ports.redis;
    if plan.given_redis().is_some() {
        return Ok(Server::Given);
    }
    if Redis::is_installed() {
        return Ok(Server::Installed(Redis::start_on(sandbox, port).await?));
    }
    if Container::is_possible() {
        let is_ready = async || Redis::answers_on(port).await;
        let arguments = ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"];
        return Ok(Server::Docker(Container::start(sandbox, "redis:8", (port, 6379), &arguments, is_ready).await?));
    }
    bail!(
        "Redis is not installed and Docker does not answer; sudo deploy/local/install, or name a Redis in FANFARE_REDIS__URL"
    )
}

//! fanfare-dispatcher: takes deliveries from the broker, makes the HTTP attempts, records them, passes failures on.
mod deliveries; // from a message to its recorded attempts
mod metrics; // what is counted
mod probes; // requests that the api wants made now
mod relief; // further consumers while failures cannot be published
mod resolve; // names become addresses that may be called
mod send; // one request, and what came of it
mod shapes; // what shapes a body, today or in the past
mod slots; // room for attempts, per webhook
mod webhooks; // what is in force for a webhook, ready to send

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use fanfare_bus::Bus;
use fanfare_catalog::Catalogs;
use fanfare_runtime::{Service, Settings};
use fanfare_store::{CatalogTexts, Configuration, Deliveries, Life, Redis, Sealer};

/// How much longer a claim holds than its attempt may take.
const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// Many small, short-lived pieces on several threads: what the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let settings = fanfare_runtime::settings(Service::Dispatcher)?; // answers --help and --check-config itself
    fanfare_runtime::run(&settings.runtime, serve(&settings))
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let sealer = Sealer::parse(settings.secrets.keys.as_deref().unwrap_or_default())
        .map_err(|why| anyhow::anyhow!("setting FANFARE_SECRETS__KEYS: {why}"))?;
    let mut tasks = fanfare_runtime::start(Service::Dispatcher, settings).await?;
    let catalogs = Catalogs::load(settings.catalogs.path.as_deref())?;
    let redis = Redis::new(&settings.redis.connection()).context("setting FANFARE_REDIS__URL")?;
    let Some(configuration) = Configuration::load(&redis, tasks.stop()).await else { return tasks.finish().await };
    redis.check().await?;
    let bus = match Bus::connect(settings.amqp.connection()?, "dispatcher", tasks.stop()).await {
        Err(fanfare_bus::BusError::Stopped) => return tasks.finish().await,
        bus => bus.context("preparing the broker")?,
    };
    tasks.watch("amqp", bus.link(), |link| *link != fanfare_bus::Link::Away);
    tasks.watch("redis", configuration.up(), |up| *up);
    tasks.watch_unreadable(configuration.unreadable());
    let Some(life) = Life::begin(&redis, tasks.stop()).await else { return tasks.finish().await };
    let limits = &settings.dispatcher;
    let timeout = limits.timeout.0;
    let metrics = metrics::Metrics::declare(limits.max_in_flight);
    let dispatch = Arc::new(deliveries::Dispatch {
        records: Deliveries::new(
            &redis,
            timeout + LEASE_MARGIN,
            limits.max_in_flight_per_webhook,
            settings.log.retention,
            Some(life.clone()),
        ),
        life,
        webhooks: webhooks::Webhooks::new(configuration, catalogs.clone(), sealer),
        shapes: shapes::Shapes::new(catalogs, CatalogTexts::new(&redis)),
        sender: send::Sender::new(settings.target_rules(), timeout)?,
        slots: slots::Slots::new(limits.max_in_flight, limits.max_in_flight_per_webhook),
        passing: relief::Passing::new(metrics.passing.clone()),
        metrics,
        bus: bus.clone(),
    });
    tasks.spawn("deliveries", deliveries::consume(bus.clone(), dispatch.clone(), limits.max_in_flight, tasks.stop()));
    tasks.spawn("probes", probes::consume(bus, dispatch, tasks.stop()));
    tasks.finish().await
}

//! fanfare-fanout: finds the webhooks that want an event, records the match once, and publishes a delivery for each.
mod events; // from an event to its deliveries
mod index; // a tenant's webhooks by event type, in memory
mod metrics; // what is counted

use std::sync::Arc;

use anyhow::Context;
use fanfare_bus::{Bus, Stuck, topology};
use fanfare_catalog::Catalogs;
use fanfare_runtime::{Service, Settings};
use fanfare_store::{CatalogTexts, Configuration, Events, Redis};

/// Many small, short-lived pieces on several threads: what the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let settings = fanfare_runtime::settings(Service::Fanout)?; // answers --help and --check-config itself
    fanfare_runtime::run(&settings.runtime, serve(&settings))
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let mut tasks = fanfare_runtime::start(Service::Fanout, settings).await?;
    let catalogs = Catalogs::load(settings.catalogs.path.as_deref())?;
    let redis = Redis::new(&settings.redis.connection()).context("setting FANFARE_REDIS__URL")?;
    // Before anything is consumed: an index that is not loaded must never count as "nobody wants it".
    let Some(configuration) = Configuration::load(&redis, tasks.stop()).await else { return tasks.finish().await };
    redis.check().await?;
    let bus = match Bus::connect(settings.amqp.connection()?, "fanout", tasks.stop()).await {
        Err(fanfare_bus::BusError::Stopped) => return tasks.finish().await,
        bus => bus.context("preparing the broker")?,
    };
    tasks.watch("amqp", bus.link(), |link| *link != fanfare_bus::Link::Away);
    tasks.watch("redis", configuration.up(), |up| *up);
    tasks.watch_unreadable(configuration.unreadable());
    let fanout = Arc::new(events::Fanout {
        indexes: index::Indexes::new(configuration, catalogs, CatalogTexts::new(&redis)),
        stuck: Stuck::default(),
        events: Events::new(&redis, settings.ingest.dedup_window, settings.log.retention),
        bus: bus.clone(),
        metrics: metrics::Metrics::declare(),
    });
    for queue in topology::events_queues() {
        tasks.spawn("events", events::consume(bus.clone(), queue, fanout.clone(), tasks.stop()));
    }
    tasks.finish().await
}

//! fanfare-ingest: takes events over HTTP and AMQP, and answers for each once the broker has it.
mod accept; // from an event to its acceptance, the same for both ways in
mod amqp; // events from the ingest exchange
mod http; // events over HTTP, in four forms
mod limit; // requests per second and key
mod metrics; // what is counted

use std::sync::Arc;

use anyhow::Context;
use fanfare_bus::Bus;
use fanfare_catalog::Catalogs;
use fanfare_runtime::{Service, Settings};
use fanfare_store::{Configuration, Events, Redis};

/// Many small, short-lived pieces on several threads: what the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let settings = fanfare_runtime::settings(Service::Ingest)?; // answers --help and --check-config itself
    fanfare_runtime::run(&settings.runtime, serve(&settings))
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let mut tasks = fanfare_runtime::start(Service::Ingest, settings).await?;
    let catalogs = Catalogs::load(settings.catalogs.path.as_deref())?;
    let redis = Redis::new(&settings.redis.connection()).context("setting FANFARE_REDIS__URL")?;
    let Some(configuration) = Configuration::load(&redis, tasks.stop()).await else { return tasks.finish().await };
    redis.check().await?;
    let bus = match Bus::connect(settings.amqp.connection()?, "ingest", tasks.stop()).await {
        Err(fanfare_bus::BusError::Stopped) => return tasks.finish().await,
        bus => bus.context("preparing the broker")?,
    };
    let metrics = metrics::Metrics::declare();
    let intake = Arc::new(accept::Intake {
        configuration,
        catalogs,
        events: Events::new(&redis, settings.ingest.dedup_window, settings.log.retention),
        publisher: bus.publisher().clone(),
        metrics,
    });
    tasks.watch("amqp", bus.link(), |link| *link != fanfare_bus::Link::Away);
    tasks.watch("redis", intake.configuration.up(), |up| *up);
    tasks.watch_unreadable(intake.configuration.unreadable());
    let listener = http::listen(settings.ingest.listen).await?;
    tasks.spawn("http", http::serve(listener, intake.clone(), settings.ingest.clone(), tasks.stop()));
    tasks.spawn("amqp", amqp::consume(bus, intake, settings.ingest.max_event_bytes, tasks.stop()));
    tasks.finish().await
}

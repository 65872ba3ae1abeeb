//! fanfare-api: the management API: tenants, keys, webhooks, and what became of events and deliveries.
mod acts; // retry and cancel
mod app; // the routes, and what every request has around it
mod attempt_view; // an attempt as shown
mod auth; // who asks, and whether they may
mod catalog; // event types and triggers
mod check_catalog; // --check-catalog
mod check_delivery; // --check-delivery
mod deliveries; // what became of deliveries
mod docs; // the description for people
mod etag; // revisions, If-Match
mod events; // what became of events
mod examples; // events to send as examples
mod explain; // why a webhook got an event, or did not
mod keys; // tenants' keys and the operator's publish keys
mod list; // queries of lists: limit, offset, sort, filters, cursors
mod metrics; // what is counted
mod openapi; // the description for machines
mod ping; // an example sent now
mod probe; // a request to a target now, made by a dispatcher
mod problem; // what follows from a failure behind us
mod request; // what comes in: path, query, JSON body
mod save; // read, change, test, write on top of what was read
mod secret; // keys and secrets, made
mod tenants; // the operator's tenants
mod webhook_view; // a webhook as its tenant sees it
mod webhooks; // webhooks: list, read, write, enable, rotate

use anyhow::Context;
use fanfare_bus::{Bus, Link};
use fanfare_catalog::Catalogs;
use fanfare_runtime::{HttpMetrics, Service, Settings};
use fanfare_store::{Configuration, Redis, Sealer};

/// Many small, short-lived pieces on several threads: what the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    check_catalog::answer(std::env::args()); // answers --check-catalog itself
    check_delivery::answer(std::env::args()); // answers --check-delivery itself
    let settings = fanfare_runtime::settings(Service::Api)?; // answers --help and --check-config itself
    fanfare_runtime::run(&settings.runtime, serve(&settings))
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let sealer = Sealer::parse(settings.secrets.keys.as_deref().unwrap_or_default())
        .map_err(|why| anyhow::anyhow!("setting FANFARE_SECRETS__KEYS: {why}"))?;
    let mut tasks = fanfare_runtime::start(Service::Api, settings).await?; // probes answer from here on
    let catalogs = Catalogs::load(settings.catalogs.path.as_deref())?;
    app::check_collections(&catalogs)?;
    let redis = Redis::new(&settings.redis.connection()).context("setting FANFARE_REDIS__URL")?;
    let Some(configuration) = Configuration::load(&redis, tasks.stop()).await else { return tasks.finish().await };
    redis.check().await?;
    let bus = match Bus::connect(settings.amqp.connection()?, "api", tasks.stop()).await {
        Err(fanfare_bus::BusError::Stopped) => return tasks.finish().await,
        bus => bus.context("preparing the broker")?,
    };
    tasks.watch("amqp", bus.link(), |link| *link != Link::Away);
    tasks.watch("redis", configuration.up(), |up| *up);
    tasks.watch_unreadable(configuration.unreadable());
    let metrics = HttpMetrics::declare("api", &metrics::ROUTES, &["GET", "POST"], &["200", "500", "503"]);
    let api = app::Api::new(settings, catalogs, sealer, &redis, configuration, bus, metrics)?;
    let listener = app::listen(settings.api.listen).await?;
    tasks.spawn("http", app::serve(listener, api, tasks.stop()));
    tasks.finish().await
}

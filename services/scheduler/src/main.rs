//! fanfare-scheduler: takes failures, lets retries wait in the broker's tiers, draws a final failure's consequences, does jobs,
//! and gives notice.
mod gauges; // how everything stands, shown by one scheduler
mod jobs; // what webhooks held: released or cancelled, step by step
mod mail; // what mails say, and the way to the mail server
mod metrics; // what is counted
mod notices; // what is told when something goes wrong
mod outcomes; // failures: a wait begins, or a webhook is disabled
mod waits; // a tier has ended: the next one, or the dispatcher

use std::sync::Arc;

use anyhow::Context;
use fanfare_bus::{Bus, topology};
use fanfare_runtime::{Service, Settings};
use fanfare_store::{Configuration, Deliveries, Events, HotLog, Jobs, Redis, Standing, Tenants};

/// Messages of one queue at work at once.
const PREFETCH: u16 = 256;
/// Jobs at work at once; the others wait for their turns.
const JOBS: u16 = 64;
/// Notices at work at once: as many connections to the mail server at most.
const NOTICES: u16 = 8;

/// Many small, short-lived pieces on several threads: what the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let settings = fanfare_runtime::settings(Service::Scheduler)?; // answers --help and --check-config itself
    fanfare_runtime::run(&settings.runtime, serve(&settings))
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let mut tasks = fanfare_runtime::start(Service::Scheduler, settings).await?;
    let speed = settings.scheduler.speed;
    if speed != 1 {
        tracing::warn!(speed, "every retry delay is divided: for showing and testing only (FANFARE_SCHEDULER__SPEED)");
    }
    let mailer = match (&settings.smtp.url, &settings.smtp.from) {
        (Some(url), Some(from)) => Some(mail::Mailer::new(url, from)?),
        _ => None,
    };
    let redis = Redis::new(&settings.redis.connection()).context("setting FANFARE_REDIS__URL")?;
    let Some(configuration) = Configuration::load(&redis, tasks.stop()).await else { return tasks.finish().await };
    redis.check().await?;
    let bus = match Bus::connect(settings.amqp.connection()?, "scheduler", tasks.stop()).await {
        Err(fanfare_bus::BusError::Stopped) => return tasks.finish().await,
        bus => bus.context("preparing the broker")?,
    };
    tasks.watch("amqp", bus.link(), |link| *link != fanfare_bus::Link::Away);
    tasks.watch("redis", configuration.up(), |up| *up);
    tasks.watch_unreadable(configuration.unreadable());
    let metrics = metrics::Metrics::declare();
    let waits = Arc::new(waits::Waits { bus: bus.clone(), metrics: metrics.clone() });
    let records = Deliveries::new(&redis, settings.dispatcher.timeout.0, 1, settings.log.retention, None);
    let driver = Arc::new(jobs::Driver {
        bus: bus.clone(),
        jobs: Jobs::new(&redis, settings.dispatcher.max_in_flight_per_webhook, settings.log.retention),
        records: records.clone(),
        metrics: metrics.clone(),
        stop: tasks.stop(),
    });
    let notices = Arc::new(notices::Notices {
        bus: bus.clone(),
        configuration: configuration.clone(),
        known: fanfare_store::Notices::new(&redis),
        events: Events::new(&redis, settings.ingest.dedup_window, settings.log.retention),
        log: HotLog::new(&redis, settings.log.retention),
        mailer,
        console: settings.console.public_url.clone(),
        metrics: metrics.clone(),
    });
    let outcomes = Arc::new(outcomes::Outcomes {
        records,
        tenants: Tenants::new(&redis, &configuration),
        waits: waits.clone(),
        notices: notices.clone(),
        speed,
        metrics,
    });
    let standings = gauges::Standings {
        bus: bus.clone(),
        configuration,
        standing: Standing::new(
            &redis,
            settings.dispatcher.max_in_flight_per_webhook,
            format!("{:032x}", rand::random::<u128>()),
        ),
        shown: gauges::Shown::declare(),
    };
    tasks.spawn("gauges", standings.keep(tasks.stop()));
    tasks.spawn("jobs seen to", jobs::see_to(driver.clone()));
    let (messages, stop) = (bus.clone(), tasks.stop());
    tasks.spawn("jobs", async move {
        messages.consume(topology::JOBS, JOBS, &stop, |message| driver.clone().settle(message)).await;
        Ok(())
    });
    let (messages, stop) = (bus.clone(), tasks.stop());
    tasks.spawn("notices", async move {
        messages.consume(topology::NOTICES, NOTICES, &stop, |message| notices.clone().settle(message)).await;
        Ok(())
    });
    let (failures, ended, stop) = (bus.clone(), bus, tasks.stop());
    tasks.spawn("outcomes", async move {
        failures.consume(topology::OUTCOMES, PREFETCH, &stop, |message| outcomes.clone().settle(message)).await;
        Ok(())
    });
    let stop = tasks.stop();
    tasks.spawn("due", async move {
        ended.consume(topology::DUE, PREFETCH, &stop, |message| waits.clone().settle(message)).await;
        Ok(())
    });
    tasks.finish().await
}

//! What a fault costs: the others, where one of ten receivers never answers; everyone, where the dispatcher is killed.
use super::child::{Child, How, Ingest, LOAD, LoadJob};
use super::drive::{PROGRESS_WITHIN, wait_for};
use super::plan::{Part, Plan};
use super::receiver::Received;
use super::report::Report;
use super::setup::{Fanfare, Stage};
use anyhow::{Context, Result, bail};
use fanfare_local::Service;
use std::time::{Duration, Instant};

/// Webhooks that answer, beside the one that does not.
const HEALTHY: usize = 9;

/// A fault, once.
#[derive(Debug)]
pub(super) enum Fault {
    /// The nine that answer beside one that hangs.
    Hang {
        /// All ten answer.
        without: Received,
        /// One does not.
        with: Received,
    },
    /// The dispatcher killed under full load, and started again at once.
    Kill {
        received: Received,
        /// From the kill to the last delivery.
        until_all: Duration,
    },
}

pub(super) async fn measure(
    plan: &Plan,
    stage: &mut Stage,
    part: Part,
    pair: usize,
    report: &mut Report,
) -> Result<Fault> {
    let fault = match part {
        Part::Hang => hang(plan, stage, pair).await?,
        Part::Kill => kill(plan, stage, pair).await?,
        other => bail!("{} is no fault", other.name()),
    };
    report.fault(pair, &fault)?;
    Ok(fault)
}

async fn hang(plan: &Plan, stage: &Stage, pair: usize) -> Result<Fault> {
    let fanfare = stage.fanfare.as_ref().context("the services are not started")?;
    let events = plan.events(Part::Hang);
    let steady = async |ingest: Ingest, log: &str, expected: usize| {
        stage.receiver.reset(true).await?;
        let how = How::Steady { ingest, connections: plan.connections, per_second: plan.hang_rate() };
        let child = Child::start(&stage.sandbox, &format!("{log}-{pair}"), LOAD, &LoadJob { how, events })?;
        wait_for(stage, Part::Hang, &child, expected).await?;
        child.published(PROGRESS_WITHIN).await?;
        stage.receiver.report().await
    };
    let without = steady(fanfare.ten.ingest.clone(), "ten", events * (HEALTHY + 1)).await?;
    let (client, ingest, hanging) = stage.tenant_with_one_that_hangs(&format!("nine{pair}"), HEALTHY).await?;
    let with = steady(ingest, "nine", events * HEALTHY).await?;
    client.delete(&format!("/v1/webhooks/{hanging}")).await?;
    Ok(Fault::Hang { without, with })
}

async fn kill(plan: &Plan, stage: &mut Stage, pair: usize) -> Result<Fault> {
    let events = plan.events(Part::Kill);
    stage.receiver.reset(false).await?;
    let ingest = stage.fanfare.as_ref().context("the services are not started")?.one.ingest.clone();
    let how = How::Single { ingest, connections: plan.connections };
    let child = Child::start(&stage.sandbox, &format!("kill-{pair}"), LOAD, &LoadJob { how, events })?;
    wait_for(stage, Part::Kill, &child, events / 2).await?;
    let killed = Instant::now();
    let dispatcher = stage.fanfare.as_mut().map(|Fanfare { services, .. }| services.get_mut(Service::Dispatcher));
    let dispatcher = dispatcher.context("the services are not started")?;
    dispatcher.kill();
    dispatcher.start_again().await?;
    wait_for(stage, Part::Kill, &child, events).await?;
    let until_all = killed.elapsed();
    child.published(PROGRESS_WITHIN).await?;
    Ok(Fault::Kill { received: stage.receiver.report().await?, until_all })
}

//! Runs the plan: each part in turn, pair after pair, so that what disturbs this machine disturbs all of them.
use super::child::{Child, FLOOR, FloorJob, How, LOAD, LoadJob, Published};
use super::faults;
use super::plan::{Part, Plan};
use super::receiver::Received;
use super::redis;
use super::report::{self, Report};
use super::setup::{Fanfare, Stage, Tenant};
use super::usage::Usage;
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Without a further delivery, the rest is lost.
pub(super) const PROGRESS_WITHIN: Duration = Duration::from_secs(60);
/// What follows the last delivery (records, acks, the broker's statistics) belongs to the run.
const SETTLE: Duration = Duration::from_millis(500);
/// Connections, caches and queues are there before anything is measured.
const WARM_UP_DELIVERIES: usize = 3_000;
const LOG_LINES: usize = 20;

/// A part, once.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) part: Part,
    pub(super) received: Received,
    pub(super) published: Published,
    /// What the processes of [`Stage::processes`] took for it.
    pub(super) usage: Vec<Usage>,
    /// By how much Redis grew.
    pub(super) redis_bytes: i64,
    /// How many scripts Redis ran.
    pub(super) redis_scripts: u64,
}

impl Run {
    /// Deliveries per second, from the first publish to the last delivery.
    pub(super) fn rate(&self) -> f64 {
        per_second(self.received.deliveries, self.published.first_micros, self.received.last_micros)
    }

    /// The same from a tenth of the deliveries to nine tenths: without start and end.
    pub(super) fn middle_rate(&self) -> f64 {
        let middle = self.received.deliveries * 9 / 10 - self.received.deliveries / 10;
        per_second(middle, self.received.tenth_micros, self.received.nine_tenths_micros)
    }

    /// A percentile of the latency, in milliseconds.
    pub(super) fn latency_millis(&self, percent: f64) -> f64 {
        self.received.latency_millis(percent)
    }

    pub(super) fn per_thousand(&self, cpu_millis: u64) -> f64 {
        cpu_millis as f64 / self.received.deliveries.max(1) as f64
    }
}

fn per_second(deliveries: usize, from_micros: u64, to_micros: u64) -> f64 {
    deliveries as f64 * 1e6 / to_micros.saturating_sub(from_micros).max(1) as f64
}

pub(super) async fn run(plan: &Plan) -> Result<()> {
    report::say("starting broker, Redis, receiver and services\n")?;
    let mut stage = Stage::start(plan).await?;
    let done = measure_all(plan, &mut stage).await;
    if done.is_err() && plan.logs.is_none() {
        report::complain(&stage.sandbox.log_tails(LOG_LINES))?;
    }
    done
}

async fn measure_all(plan: &Plan, stage: &mut Stage) -> Result<()> {
    let mut report = Report::begin(plan, stage).await?;
    let warm_up = Plan { deliveries: plan.deliveries.min(WARM_UP_DELIVERIES), ..plan.clone() };
    for part in plan.parts.iter().filter(|part| **part != Part::Latency && !part.is_fault()) {
        measure(&warm_up, stage, *part, 0, &mut report).await?;
    }
    let mut runs = Vec::new();
    for pair in 1..=plan.pairs {
        for part in plan.parts.iter().filter(|part| !part.is_fault()) {
            let run = measure(plan, stage, *part, pair, &mut report).await?;
            runs.push(run);
        }
    }
    // Faults last: what they leave behind disturbs nothing else.
    let mut faults = Vec::new();
    for pair in 1..=plan.pairs {
        for part in plan.parts.iter().filter(|part| part.is_fault()) {
            faults.push(faults::measure(plan, stage, *part, pair, &mut report).await?);
        }
    }
    report.end(plan, stage, &runs, &faults)
}

/// Runs a part once.
async fn measure(plan: &Plan, stage: &Stage, part: Part, pair: usize, report: &mut Report) -> Result<Run> {
    let events = plan.events(part);
    stage.receiver.reset(part == Part::Latency).await?;
    let usage_before = stage.usage()?;
    let (bytes_before, scripts_before) = redis_state(stage).await?;
    let child = start(plan, stage, part, pair, events)?;
    report.began(part, pair, child.pid())?;
    wait_for(stage, part, &child, events * part.fan_out()).await?;
    let published = child.published(PROGRESS_WITHIN).await?;
    tokio::time::sleep(SETTLE).await;
    let usage = stage.usage()?.into_iter().zip(usage_before).map(|(after, before)| after - before).collect();
    let (bytes, scripts) = redis_state(stage).await?;
    let run = Run {
        part,
        received: stage.receiver.report().await?,
        published,
        usage,
        redis_bytes: bytes - bytes_before,
        redis_scripts: scripts - scripts_before,
    };
    report.ended(&run, events * part.fan_out())?;
    Ok(run)
}

async fn redis_state(stage: &Stage) -> Result<(i64, u64)> {
    let port = stage.redis.port();
    Ok((redis::used_memory(port).await?, redis::scripts(port).await?))
}

fn start(plan: &Plan, stage: &Stage, part: Part, pair: usize, events: usize) -> Result<Child> {
    let log = format!("{}-{pair}", part.name());
    let fanfare = || stage.fanfare.as_ref().context("the services are not started");
    let single = |tenant: &Tenant| How::Single { ingest: tenant.ingest.clone(), connections: plan.connections };
    let batch = |tenant: &Tenant| How::Batch { ingest: tenant.ingest.clone(), connections: plan.batchers };
    let amqp = |fanfare: &Fanfare, tenant: &Tenant| How::Amqp {
        url: fanfare.amqp_url.clone(),
        tenant: tenant.id.to_owned(),
        in_flight: plan.in_flight,
    };
    let steady = |tenant: &Tenant| How::Steady {
        ingest: tenant.ingest.clone(),
        connections: plan.connections,
        per_second: plan.rate,
    };
    let how = match part {
        Part::Floor => {
            let job = FloorJob {
                amqp_url: stage.floor_url.clone(),
                target: stage.receiver.target(0),
                events,
                in_flight: plan.in_flight,
                posts: plan.posts,
            };
            return Child::start(&stage.sandbox, &log, FLOOR, &job);
        }
        Part::Http => single(&fanfare()?.one),
        Part::Http10 => single(&fanfare()?.ten),
        Part::Batch => batch(&fanfare()?.one),
        Part::Batch10 => batch(&fanfare()?.ten),
        Part::Amqp => amqp(fanfare()?, &fanfare()?.one),
        Part::Amqp10 => amqp(fanfare()?, &fanfare()?.ten),
        Part::Latency => steady(&fanfare()?.one),
        Part::Hang | Part::Kill => bail!("{} is measured apart", part.name()),
    };
    Child::start(&stage.sandbox, &log, LOAD, &LoadJob { how, events })
}

/// Until all is delivered.
pub(super) async fn wait_for(stage: &Stage, part: Part, child: &Child, expected: usize) -> Result<()> {
    let (mut count, mut progress) = (0, Instant::now());
    loop {
        child.has_ended().with_context(|| format!("{} broke off", part.name()))?;
        stage.check_alive()?;
        let now = stage.receiver.count().await?;
        if now >= expected {
            return Ok(());
        }
        if now > count {
            (count, progress) = (now, Instant::now());
        }
        if progress.elapsed() > PROGRESS_WITHIN {
            let (name, missing, backlog) = (part.name(), expected - now, stage.backlog().await);
            bail!(
                "{name}: {missing} of {expected} deliveries are missing, after {PROGRESS_WITHIN:?} without one; {backlog}"
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_percentiles() {
        let received = Received {
            deliveries: 100,
            last_micros: 3_000_000,
            tenth_micros: 1_100_000,
            nine_tenths_micros: 1_900_000,
            latencies: (1..=100).map(|millis| millis * 1_000).collect(),
            ..Received::default()
        };
        let published = Published { first_micros: 1_000_000, ..Published::default() };
        let run = Run { part: Part::Latency, received, published, usage: Vec::new(), redis_bytes: 0, redis_scripts: 0 };
        assert!((run.rate() - 50.0).abs() < 0.01 && (run.middle_rate() - 100.0).abs() < 0.01);
        assert_eq!([50.0, 99.0, 100.0].map(|percent| run.latency_millis(percent)), [50.0, 99.0, 100.0]);
        assert!((run.per_thousand(500) - 5.0).abs() < 0.01);
    }
}

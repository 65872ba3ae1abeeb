//! What Fanfare takes: deliveries per second, latency, processor time, memory and log bytes, beside the floor, which is
//! the least that a broker, HTTP and acks cost (architecture.md, *Cost of the hot path*).
//!
//! Four kinds of process, so that what each takes is told apart; all but the first are this binary, started by itself:
//! - `plan`, `drive`, `setup`, `report`: the driver: what to run, running it, what is needed for it, printing it
//! - `receiver`: answers 200 and counts
//! - `load`: publishes, over HTTP or AMQP
//! - `floor`: does all by itself, with nothing but two queues
//!
//! - `faults`: what a receiver that hangs and a dispatcher that is killed cost
//! - `events`, `child`, `usage`, `redis`: what is published; what is said between driver and children; /proc; INFO
mod child;
mod drive;
mod events;
mod faults;
mod floor;
mod load;
mod plan;
mod receiver;
mod redis;
mod report;
mod setup;
mod usage;

use anyhow::{Context, Result, bail};
use std::future::Future;
use tokio::runtime::Builder;

/// Does what the arguments say: without a role it drives the others.
pub fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let first = arguments.next();
    let mut job = || arguments.next().context("started by `fanfare-bench` itself, with a job");
    match first.as_deref() {
        Some(child::RECEIVER) => on_one_thread(receiver::run(&child::read(&job()?)?)),
        Some(child::LOAD) => on_one_thread(load::run(child::read(&job()?)?)),
        // On all processors, as the services are.
        Some(child::FLOOR) => {
            Builder::new_multi_thread().enable_all().build()?.block_on(floor::run(child::read(&job()?)?))
        }
        _ => {
            let given = std::env::var("BENCH").unwrap_or_default();
            let words = given.split_whitespace().map(ToOwned::to_owned).chain(first).chain(arguments);
            match plan::Plan::parse(words)? {
                plan::Asked::Help => report::say(plan::HELP),
                plan::Asked::Run(plan) => on_one_thread(until_signal(drive::run(&plan))),
            }
        }
    }
}

fn on_one_thread(work: impl Future<Output = Result<()>>) -> Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Ctrl-C drops the work, and with it all that it started.
async fn until_signal(work: impl Future<Output = Result<()>>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}

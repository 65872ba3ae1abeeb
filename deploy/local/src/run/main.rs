//! fanfare-run: the whole of Fanfare on this machine, with a receiver that checks signatures (`make run`). Says what it
//! does, step by step, and stays until Ctrl-C, which ends all that it started and nothing else.
mod compile; // cargo build of the services
mod demo; // a tenant with webhooks, and its catalog's examples published
mod plan; // what goes where: ports, settings, catalog
mod private; // broker, Redis and receiver
mod screen; // what is printed

use anyhow::Result;
use demo::Demo;
use fanfare_local::{Answer, Binaries, Recorded, Sandbox, Services};
use plan::Plan;
use private::Private;
use screen::{Reported, say, step};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Longer than the services' own grace.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    let Ok(mut stop) = Stop::new() else { return ExitCode::FAILURE };
    // What is dropped on the way is killed with all it started.
    let started = tokio::select! {
        started = start() => started,
        () = stop.asked() => return ExitCode::SUCCESS,
    };
    let Ok(running) = started else { return ExitCode::FAILURE };
    tokio::select! {
        never = running.demo.show_arrivals(&running.private.receiver) => match never {},
        () = stop.asked() => say("stopping (once more: at once)"),
    }
    tokio::select! {
        ended = running.stop() => if let Err(error) = ended { say(&format!("{error:#}")) },
        () = stop.asked() => {}
    }
    drop(running);
    say("stopped");
    ExitCode::SUCCESS
}

struct Running {
    services: Services,
    demo: Demo,
    private: Private, // dropped last
}

/// Every step, then the examples and how to go on.
async fn start() -> Result<Running, Reported> {
    step("build", compile::services()).await?;
    let (plan, sandbox, private) = step("private", async {
        let mut plan = Plan::from_env(std::env::vars())?;
        let sandbox = plan.prepare()?;
        let (private, summary) = Private::start(&sandbox, &plan).await?;
        Ok(((plan, sandbox, private), summary))
    })
    .await?;
    let (services, demo) = step("services", start_services(&plan, &sandbox, &private)).await?;
    let ready = Instant::now();
    if let Some(speed) = plan.speed() {
        say(&format!("warning          retries come {speed} times as soon as their schedules say"));
    }
    let first = demo.publish_examples(&private.receiver, ready).await;
    screen::how_to_go_on(&plan, &demo, first);
    Ok(Running { services, demo, private })
}

/// What a step made, and what to say about it.
type Step<T> = Result<(T, String)>;

async fn start_services(plan: &Plan, sandbox: &Sandbox, private: &Private) -> Step<(Services, Demo)> {
    let settings = plan.settings(&private.amqp_url, &private.redis_url)?;
    let binaries = Binaries::of_profile(compile::PROFILE);
    let services = Services::start_each(sandbox, &binaries, |service| plan.settings_of(service, &settings)).await?;
    plan.write_token(services.operator()?.token())?;
    private.receiver.answer_by(answer_in(plan.answer_file()));
    let demo = Demo::make(plan, &services, private).await?;
    let summary = format!(
        "ingest :{}, api :{}, fanout, dispatcher, scheduler; tenant {} ({}); logs in {}/",
        plan.ports.ingest,
        plan.ports.api,
        demo.tenant(),
        plan.catalog,
        screen::short(&plan.folder),
    );
    Ok(((services, demo), summary))
}

/// 200, or what a person wrote into the file to see what happens then.
fn answer_in(file: PathBuf) -> impl Fn(&Recorded) -> Answer {
    move |_| {
        let written = std::fs::read_to_string(&file).ok();
        let status = written.and_then(|text| text.trim().parse().ok()).filter(|status| (200..=599).contains(status));
        Answer::status(status.unwrap_or(200))
    }
}

impl Running {
    async fn stop(&self) -> Result<()> {
        self.demo.clear_up().await;
        self.services.stop(STOPPED_WITHIN).await
    }
}

/// Ctrl-C, SIGTERM, or the terminal closed.
struct Stop([Signal; 3]);

impl Stop {
    fn new() -> std::io::Result<Self> {
        let [interrupt, terminate, hang_up] = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Ok(Self([signal(interrupt)?, signal(terminate)?, signal(hang_up)?]))
    }

    async fn asked(&mut self) {
        let [interrupt, terminate, hang_up] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    }
}

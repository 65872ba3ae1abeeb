//! A service's life: start, run, drain, end. A task has a name, and a shutdown says whose work is late.

use std::{collections::HashMap, future::Future, io::IsTerminal, num::NonZero, time::Duration};

use anyhow::Context;
use fanfare_metrics::{gauge, gauges};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::{Id, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    admin::{self, Health, Phase},
    settings::{RuntimeSettings, Service, Settings, TelemetrySettings},
};

/// The tasks of a process, and what they share.
pub struct Tasks {
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, &'static str>,
    stop: CancellationToken,
    grace: Duration,
    health: Health,
}

/// Threads at most where the settings name no number: what needs more wants replicas.
const MOST_THREADS: usize = 4;

/// Does the work of a service's `main` on as many threads as the settings say. What these services do is pass small things
/// on: work that moves between threads costs more than it gains, where other processes want the processors, too.
pub fn run(settings: &RuntimeSettings, main: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = match settings.threads {
        0 => (processors / 2).clamp(1, MOST_THREADS),
        named => named,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let ended = runtime.block_on(main);
    // A name server that does not answer keeps a thread for longer than a process is given to end.
    runtime.shutdown_background();
    ended
}

/// Sets up telemetry, signals and the admin port, which answers while the rest still waits for its dependencies.
pub async fn start(service: Service, settings: &Settings) -> anyhow::Result<Tasks> {
    telemetry(&settings.telemetry)?;
    if settings.telemetry.otlp_endpoint.is_some() {
        tracing::warn!("traces are not made yet: the setting telemetry.otlp_endpoint has no effect");
    }
    open_many_files();
    // Two crates bring rustls: the process decides for both which cryptography it uses.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anyhow::bail!("a TLS provider is installed already");
    }
    let revision = option_env!("FANFARE_REVISION").unwrap_or("unknown");
    gauges("fanfare_build_info", "Always 1; the labels say which build runs.", ["service", "version", "revision"], [])
        .set([service.name(), env!("CARGO_PKG_VERSION"), revision], 1.0);
    let health = Health::new(service.name());
    let stop = CancellationToken::new();
    let mut signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (signalled, draining) = (stop.clone(), health.clone());
    tokio::spawn(async move {
        tokio::select! {
            _ = signals.0.recv() => {}
            _ = signals.1.recv() => {}
        }
        tracing::info!("told to stop: finishing what is held");
        draining.enter(Phase::Draining);
        signalled.cancel();
    });
    let listener = admin::listen(settings.admin_listen(service)).await?;
    tokio::spawn(admin::serve(listener, health.clone()));
    Ok(Tasks { tasks: JoinSet::new(), names: HashMap::new(), stop, grace: settings.shutdown.grace.0, health })
}

impl Tasks {
    /// Cancelled when the process is to take no more work.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// For telling how the process is.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Tells probes and metrics how a dependency stands, for as long as it can be watched.
    pub fn watch<T: Send + Sync + 'static>(
        &self,
        dependency: &'static str,
        mut watched: watch::Receiver<T>,
        is_up: fn(&T) -> bool,
    ) {
        let health = self.health.clone();
        tokio::spawn(async move {
            loop {
                let up = is_up(&watched.borrow_and_update());
                health.dependency(dependency, up);
                if watched.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Shows how many stored tenants, webhooks and keys cannot be read, for as long as that can be watched.
    pub fn watch_unreadable(&self, mut watched: watch::Receiver<usize>) {
        let gauge = gauge(
            "fanfare_configuration_unreadable",
            "Stored tenants, webhooks and keys that this version cannot read; the log names them.",
        );
        tokio::spawn(async move {
            loop {
                gauge.set(i64::try_from(*watched.borrow_and_update()).unwrap_or(i64::MAX));
                if watched.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Runs a task that ends when `stop` is cancelled, or with what the whole process cannot go on without.
    pub fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// Waits for a signal or the first task that ends; then lets all finish within the grace period.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        if !self.stop.is_cancelled() {
            self.health.enter(Phase::Ready);
            tracing::info!("ready");
        }
        let mut result = Ok(());
        tokio::select! {
            () = self.stop.cancelled() => {}
            Some(ended) = self.tasks.join_next_with_id() => {
                result = self.note(ended).and_then(|name| {
                    if self.stop.is_cancelled() { Ok(()) } else { anyhow::bail!("`{name}` ended of itself") }
                });
                self.stop.cancel();
            }
        }
        let deadline = tokio::time::sleep(self.grace);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                ended = self.tasks.join_next_with_id() => match ended {
                    None => return result,
                    Some(ended) => result = result.and(self.note(ended).map(drop)),
                },
                () = &mut deadline => {
                    let late: Vec<_> = self.names.values().collect();
                    tracing::warn!(?late, "not finished within the grace period: the broker gives the rest to others");
                    return result;
                }
            }
        }
    }

    fn note(
        &mut self,
        ended: Result<(Id, anyhow::Result<()>), tokio::task::JoinError>,
    ) -> anyhow::Result<&'static str> {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(error.into())),
        };
        let name = self.names.remove(&id).unwrap_or("a task");
        result.with_context(|| format!("`{name}` failed"))?;
        Ok(name)
    }
}

/// As many open files as the system lets us have: a shell's usual 1,024 are a thousand slow clients.
fn open_many_files() {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit { current: files.maximum, maximum: files.maximum };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, most) {
        tracing::warn!(%error, ?files, "cannot open more files");
    }
}

fn telemetry(settings: &TelemetrySettings) -> anyhow::Result<()> {
    let directives =
        std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty()).unwrap_or_else(|| settings.log.clone());
    let filter =
        EnvFilter::try_new(&directives).with_context(|| format!("setting FANFARE_TELEMETRY__LOG: `{directives}`"))?;
    let json =
        settings.log_format.as_deref().map_or_else(|| !std::io::stderr().is_terminal(), |format| format == "json");
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = if json { builder.json().flatten_event(true).try_init() } else { builder.with_target(false).try_init() };
    set.map_err(|error| anyhow::anyhow!("logging is set up already: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// As one that asks a name server which is away.
    #[test]
    fn a_thread_that_hangs_does_not_keep_a_process_that_has_ended() {
        let (release, hanging) = mpsc::channel::<()>();
        let (tell, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let main = async move {
                drop(tokio::task::spawn_blocking(move || hanging.recv()));
                Ok(())
            };
            tell.send(run(&RuntimeSettings::default(), main).is_ok())
        });
        assert_eq!(ended.recv_timeout(Duration::from_secs(60)), Ok(true));
        drop(release);
    }
}

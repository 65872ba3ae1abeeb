//! The five services as processes: started with settings and ports, waited for, killed, frozen, started again.
use crate::client::{self, Client};
use crate::process::{POLL, Process};
use crate::{Sandbox, ports};
use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

const READY_WITHIN: Duration = Duration::from_secs(60);
const LOG_LINES: usize = 30;

/// Settings as environment variables (contract.md, *Services*).
pub type Settings = BTreeMap<String, String>;

/// One of the five binaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "named in the contract")]
pub enum Service {
    Ingest,
    Fanout,
    Dispatcher,
    Scheduler,
    Api,
}

impl Service {
    /// All five, in the order in which an event meets them.
    pub const ALL: [Self; 5] = [Self::Ingest, Self::Api, Self::Fanout, Self::Dispatcher, Self::Scheduler];

    /// `ingest`
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Fanout => "fanout",
            Self::Dispatcher => "dispatcher",
            Self::Scheduler => "scheduler",
            Self::Api => "api",
        }
    }

    /// `fanfare-ingest`
    pub fn binary(self) -> String {
        format!("fanfare-{}", self.name())
    }

    /// The setting that says where it serves clients, for the two that do.
    pub fn listen_setting(self) -> Option<&'static str> {
        match self {
            Self::Ingest => Some("FANFARE_INGEST__LISTEN"),
            Self::Api => Some("FANFARE_API__LISTEN"),
            Self::Fanout | Self::Dispatcher | Self::Scheduler => None,
        }
    }
}

/// The setting that says where a service has its probes and metrics.
const ADMIN_LISTEN: &str = "FANFARE_ADMIN__LISTEN";

/// The settings that every service needs: broker, Redis, a new admin token and key for secrets, targets on 127.0.0.0/8.
pub fn settings(amqp_url: &str, redis_url: &str) -> Settings {
    [
        ("FANFARE_AMQP__URL", amqp_url.to_owned()),
        ("FANFARE_REDIS__URL", redis_url.to_owned()),
        ("FANFARE_API__ADMIN_TOKEN", format!("admin-{:032x}", rand::random::<u128>())),
        ("FANFARE_SECRETS__KEYS", format!("local:{}", STANDARD.encode(rand::random::<[u8; 32]>()))),
        ("FANFARE_TARGETS__ALLOW_NETWORKS", "127.0.0.0/8".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The folder where the binaries lie.
#[derive(Clone, Debug)]
pub struct Binaries(PathBuf);

impl Binaries {
    /// Those that cargo made with a profile: `debug`, `release` or `dist`.
    pub fn of_profile(profile: &str) -> Self {
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        Self(target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")).join(profile))
    }

    /// Those in another folder.
    pub fn in_folder(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// A service's binary.
    pub fn path(&self, service: Service) -> PathBuf {
        self.0.join(service.binary())
    }
}

/// One service, started as a process; killed when dropped.
#[derive(Debug)]
pub struct Instance {
    service: Service,
    name: String,
    binary: PathBuf,
    settings: Settings,
    sandbox: Sandbox,
    process: Process,
    http: reqwest::Client,
}

impl Instance {
    /// Starts one and waits until it is ready; on failure the error has the end of its log.
    pub async fn start(sandbox: &Sandbox, binaries: &Binaries, service: Service, settings: &Settings) -> Result<Self> {
        let instance = Self::launch(sandbox, binaries, service, settings)?;
        instance.wait_ready(READY_WITHIN).await?;
        Ok(instance)
    }

    /// Starts one and does not wait. Addresses that the settings leave out are free ports on 127.0.0.1. It has only
    /// these settings for its environment, and our `RUST_LOG` and `RUST_BACKTRACE`. The log of a second instance in the
    /// same sandbox is `<service>-2.log`.
    pub fn launch(sandbox: &Sandbox, binaries: &Binaries, service: Service, settings: &Settings) -> Result<Self> {
        let binary = binaries.path(service);
        ensure!(binary.exists(), "`{}` is not there: cargo build", binary.display());
        let mut settings = settings.clone();
        for setting in service.listen_setting().into_iter().chain([ADMIN_LISTEN]) {
            if !settings.contains_key(setting) {
                settings.insert(setting.into(), format!("127.0.0.1:{}", ports::free_port()?));
            }
        }
        let name = free_name(sandbox, service.name());
        let process = Process::start(sandbox, &name, &command(&binary, &settings))?;
        Ok(Self { service, name, binary, settings, sandbox: sandbox.clone(), process, http: client::http()? })
    }

    /// Which service it is.
    pub fn service(&self) -> Service {
        self.service
    }

    /// Its process: pid, log, SIGKILL, SIGTERM, SIGSTOP, usage.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Where clients reach it (ingest and api): `http://127.0.0.1:<port>`.
    pub fn url(&self) -> Result<String> {
        let setting = self.service.listen_setting().context("it serves no clients")?;
        Ok(format!("http://{}", reachable(&self.settings[setting])))
    }

    /// Where its probes and metrics are.
    pub fn admin_url(&self) -> String {
        format!("http://{}", reachable(&self.settings[ADMIN_LISTEN]))
    }

    /// Whether `/readyz` says yes now.
    pub async fn is_ready(&self) -> bool {
        let asked = self.http.get(format!("{}/readyz", self.admin_url())).timeout(Duration::from_secs(2)).send();
        asked.await.is_ok_and(|answer| answer.status().is_success())
    }

    /// Waits until it is ready; fails at once where it has ended.
    pub async fn wait_ready(&self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            let is_ready = self.is_ready().await;
            // One that found its port taken has ended, and who took it may say yes.
            if let Some(status) = self.process.ended() {
                bail!("{} ended with {status}; its log ends:\n{}", self.name, self.process.log_tail(LOG_LINES));
            }
            if is_ready {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} is not ready after {within:?}:\n{}", self.name, self.process.log_tail(LOG_LINES));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// `/metrics` as it stands.
    pub async fn metrics(&self) -> Result<String> {
        Ok(self.http.get(format!("{}/metrics", self.admin_url())).send().await?.error_for_status()?.text().await?)
    }

    /// The sum of a metric's samples over all its labels: `fanfare_deliveries_total`.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = self.metrics().await?;
        let samples =
            text.lines().filter_map(|line| line.strip_prefix(name)).filter(|rest| rest.starts_with(['{', ' ']));
        Ok(samples.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// SIGTERM, and waits for its end: status 0 where it could drain.
    pub async fn stop(&self, within: Duration) -> Result<ExitStatus> {
        self.process.terminate(within).await
    }

    /// SIGKILL; gone when this returns.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Starts it anew on the same ports (killing what still runs), with the settings it had, and waits until it is ready.
    pub async fn start_again(&mut self) -> Result<()> {
        self.start_again_with(&Settings::new()).await
    }

    /// The same with some settings changed.
    pub async fn start_again_with(&mut self, changed: &Settings) -> Result<()> {
        self.process.kill();
        self.settings.extend(changed.clone());
        self.process = Process::start(&self.sandbox, &self.name, &command(&self.binary, &self.settings))?;
        self.wait_ready(READY_WITHIN).await
    }
}

/// All five, one of each.
#[derive(Debug)]
#[expect(missing_docs, reason = "named in the contract")]
pub struct Services {
    pub ingest: Instance,
    pub fanout: Instance,
    pub dispatcher: Instance,
    pub scheduler: Instance,
    pub api: Instance,
}

impl Services {
    /// Starts them with the same settings on free ports, and waits until all are ready.
    pub async fn start(sandbox: &Sandbox, binaries: &Binaries, settings: &Settings) -> Result<Self> {
        Self::start_each(sandbox, binaries, |_| settings.clone()).await
    }

    /// Starts each with settings of its own.
    pub async fn start_each(
        sandbox: &Sandbox,
        binaries: &Binaries,
        settings_of: impl Fn(Service) -> Settings,
    ) -> Result<Self> {
        let launch = |service| Instance::launch(sandbox, binaries, service, &settings_of(service));
        let services = Self {
            ingest: launch(Service::Ingest)?,
            fanout: launch(Service::Fanout)?,
            dispatcher: launch(Service::Dispatcher)?,
            scheduler: launch(Service::Scheduler)?,
            api: launch(Service::Api)?,
        };
        for service in Service::ALL {
            services.get(service).wait_ready(READY_WITHIN).await?;
        }
        Ok(services)
    }

    /// One of them.
    pub fn get(&self, service: Service) -> &Instance {
        match service {
            Service::Ingest => &self.ingest,
            Service::Fanout => &self.fanout,
            Service::Dispatcher => &self.dispatcher,
            Service::Scheduler => &self.scheduler,
            Service::Api => &self.api,
        }
    }

    /// One of them, to start it again.
    pub fn get_mut(&mut self, service: Service) -> &mut Instance {
        match service {
            Service::Ingest => &mut self.ingest,
            Service::Fanout => &mut self.fanout,
            Service::Dispatcher => &mut self.dispatcher,
            Service::Scheduler => &mut self.scheduler,
            Service::Api => &mut self.api,
        }
    }

    /// A client with the admin token.
    pub fn operator(&self) -> Result<Client> {
        let token = self.api.settings.get("FANFARE_API__ADMIN_TOKEN").context("no admin token is set")?;
        Client::new(&self.api.url()?, &self.ingest.url()?, token)
    }

    /// SIGTERM to all, and waits for them; the error names who did not end with status 0.
    pub async fn stop(&self, within: Duration) -> Result<()> {
        for service in Service::ALL {
            self.get(service).process.ask_to_end();
        }
        for service in Service::ALL {
            let status = self.get(service).process.wait(within).await?;
            let log = || self.get(service).process.log_tail(LOG_LINES);
            ensure!(status.success(), "{} ended with {status}; its log ends:\n{}", service.name(), log());
        }
        Ok(())
    }
}

/// As the image has it: freed memory goes back to the system after a second, not after 10 ms, which is the allocator's own.
/// What one burst of events has freed is what the next one wants: given back between them, it is faulted in anew, for a
/// seventh of all that the services compute (`make bench`).
const ALLOCATOR: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "1000");

fn command(binary: &Path, settings: &Settings) -> Command {
    let mut command = Command::new(binary);
    command.env(ALLOCATOR.0, ALLOCATOR.1);
    command.envs(settings);
    // No backtraces: they would push the cause out of the ends of logs.
    for inherited in ["PATH", "HOME", "RUST_LOG", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
        if let Some(value) = std::env::var_os(inherited) {
            command.env(inherited, value);
        }
    }
    command
}

fn free_name(sandbox: &Sandbox, service: &str) -> String {
    let numbered = (2..).map(|number| format!("{service}-{number}"));
    let mut names = std::iter::once(service.to_owned()).chain(numbered);
    names.find(|name| !sandbox.logs().join(format!("{name}.log")).exists()).unwrap_or_else(|| service.to_owned())
}

/// Who listens on all addresses is reached on one.
fn reachable(listen: &str) -> String {
    listen.replace("0.0.0.0:", "127.0.0.1:")
}

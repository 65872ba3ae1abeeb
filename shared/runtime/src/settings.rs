//! The settings of all services (contract.md, Services): built-in defaults, then a TOML file, then the environment. One
//! tree for all, so that one file can serve five services; each takes what it needs.

mod help; // what `--help` says
mod values; // how a setting is written

use std::{net::SocketAddr, path::PathBuf};

use fanfare_domain::{Span, TargetRules};
use fanfare_metrics::Tenants;
use figment::{
    Figment,
    providers::{Format, Serialized, Toml},
    value::{Dict, Value},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use values::{Bytes, list, optional_parsed, optional_text, parsed};

/// The services, by the names their binaries have behind `fanfare-`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Accepts events.
    Ingest,
    /// Matches events to webhooks.
    Fanout,
    /// Makes the requests.
    Dispatcher,
    /// Makes deliveries wait.
    Scheduler,
    /// Manages.
    Api,
}

impl Service {
    /// The service's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Fanout => "fanout",
            Self::Dispatcher => "dispatcher",
            Self::Scheduler => "scheduler",
            Self::Api => "api",
        }
    }

    fn admin_port(self) -> u16 {
        match self {
            Self::Ingest => 9101,
            Self::Fanout => 9102,
            Self::Dispatcher => 9103,
            Self::Scheduler => 9104,
            Self::Api => 9105,
        }
    }
}

impl AmqpSection {
    /// How to reach the broker.
    pub fn connection(&self) -> anyhow::Result<fanfare_bus::AmqpSettings> {
        let parts = [&self.username, &self.password, &self.vhost].map(Option::as_deref);
        fanfare_bus::AmqpSettings::parse(&self.url, parts[0], parts[1], parts[2])
            .map_err(|why| anyhow::anyhow!("setting FANFARE_AMQP__URL: {why}"))
    }

    /// How to reach the broker's management API, where it is to be asked.
    pub fn management(&self) -> anyhow::Result<Option<fanfare_bus::ManagementSettings>> {
        let Some(url) = &self.management_url else { return Ok(None) };
        fanfare_bus::ManagementSettings::parse(url, &self.connection()?)
            .map(Some)
            .map_err(|why| anyhow::anyhow!("setting FANFARE_AMQP__MANAGEMENT_URL: {why}"))
    }
}

impl RedisSection {
    /// How to reach Redis.
    pub fn connection(&self) -> fanfare_store::RedisSettings {
        fanfare_store::RedisSettings {
            url: self.url.clone(),
            username: self.username.clone(),
            password: self.password.clone(),
            gone_after: self.gone_after.0,
        }
    }
}

/// Every setting, with its default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "a section is what its settings are")]
#[derive(Default)]
pub struct Settings {
    pub amqp: AmqpSection,
    pub redis: RedisSection,
    pub log: LogSettings,
    pub ingest: IngestSettings,
    pub api: ApiSettings,
    pub admin: AdminSettings,
    pub secrets: SecretSettings,
    pub catalogs: CatalogSettings,
    pub targets: TargetSettings,
    pub dispatcher: DispatcherSettings,
    pub scheduler: SchedulerSettings,
    pub runtime: RuntimeSettings,
    pub shutdown: ShutdownSettings,
    pub console: ConsoleSettings,
    pub telemetry: TelemetrySettings,
    pub smtp: SmtpSettings,
}

/// Declares a section: its fields with defaults and help, in one place that `--help` is made from.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident $section:literal {
        $($(#[doc = $help:literal])+ $(#[de($de:literal)])? $field:ident: $type:ty = $default:expr,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[doc = $help])+ $(#[serde(deserialize_with = $de)])? pub $field: $type,)*
        }
        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
        impl $name {
            const HELP: &'static [(&'static str, &'static str, &'static str)] =
                &[$(($section, stringify!($field), concat!($($help),+)),)*];
        }
    };
}

section! {
    /// How to reach the broker.
    AmqpSection "amqp" {
        /// The broker; a comma-separated list is tried in turn. The vhost is Fanfare's own.
        url: String = "amqp://guest:guest@127.0.0.1:5672/%2f".into(),
        /// Goes over the URL's user.
        #[de("optional_text")]
        username: Option<String> = None,
        /// Goes over the URL's password.
        #[de("optional_text")]
        password: Option<String> = None,
        /// Goes over the URL's vhost.
        #[de("optional_text")]
        vhost: Option<String> = None,
        /// The broker's management API, `http://user:password@host:15672`, which the scheduler asks for bytes in queues. Without
        /// a user: the broker's. Absent: nobody asks, and nothing warns before `fanfare.dead` or `fanfare.rejected` is full.
        #[de("optional_text")]
        management_url: Option<String> = None,
    }
}

section! {
    /// How to reach Redis.
    RedisSection "redis" {
        /// Subscriptions, pending deliveries and, unless set apart, the log: `redis://host:port/db`,
        /// `redis+sentinel://host:port,…/primary's name` or `redis+cluster://host:port,…`; with TLS `rediss…`.
        url: String = "redis://127.0.0.1:6379/0".into(),
        /// Goes over the URL's user.
        #[de("optional_text")]
        username: Option<String> = None,
        /// Goes over the URL's password.
        #[de("optional_text")]
        password: Option<String> = None,
        /// After how long a tenant's configuration that Redis had, and lacks, is taken for lost, and what it has for all there is;
        /// longer than a fail-over may take.
        gone_after: Span = Span::secs(300),
    }
}

section! {
    /// The deliveries' log.
    LogSettings "log" {
        /// Where the log is kept; absent: where everything is.
        #[de("optional_text")]
        redis_url: Option<String> = None,
        /// How long a delivery stays in the log, from its final state.
        retention: Span = Span::secs(7 * 86_400),
        /// The log's size at most.
        budget: Bytes = Bytes(8 << 30),
    }
}

section! {
    /// The service that accepts events.
    IngestSettings "ingest" {
        /// Where events are taken over HTTP.
        #[de("parsed")]
        listen: SocketAddr = ([0, 0, 0, 0], 8080).into(),
        /// The largest event.
        #[de("parsed")]
        max_event_bytes: usize = 262_144,
        /// The largest batch of events.
        #[de("parsed")]
        max_batch_bytes: usize = 4_194_304,
        /// For how long the same event is taken once.
        dedup_window: Span = Span::secs(86_400),
        /// Requests per second and key; over it 429.
        #[de("optional_parsed")]
        rate_limit: Option<u32> = None,
    }
}

section! {
    /// The management API.
    ApiSettings "api" {
        /// Where the management API listens.
        #[de("parsed")]
        listen: SocketAddr = ([0, 0, 0, 0], 8081).into(),
        /// The operator's token; the api does not start without.
        #[de("optional_text")]
        admin_token: Option<String> = None,
    }
}

section! {
    /// Probes and metrics.
    AdminSettings "admin" {
        /// Probes and metrics of the service started; absent: 0.0.0.0 and the service's own port.
        #[de("optional_parsed")]
        listen: Option<SocketAddr> = None,
    }
}

section! {
    /// Stored secrets.
    SecretSettings "secrets" {
        /// `<id>:<32 bytes, Base64>,…`: the first encrypts stored secrets, all decrypt.
        #[de("optional_text")]
        keys: Option<String> = None,
    }
}

section! {
    /// Catalogs beside the built-in ones.
    CatalogSettings "catalogs" {
        /// A folder of further catalogs, `*.yaml`.
        path: Option<PathBuf> = None,
    }
}

section! {
    /// Where deliveries may go.
    TargetSettings "targets" {
        /// CIDRs that targets may be in although they are not public.
        #[de("list")]
        allow_networks: Vec<IpNet> = Vec::new(),
        /// The ports targets may have; none: all.
        #[de("list")]
        allow_ports: Vec<u16> = Vec::new(),
        /// Refuses targets without TLS.
        #[de("parsed")]
        https_only: bool = false,
    }
}

section! {
    /// The service that makes the requests.
    DispatcherSettings "dispatcher" {
        /// Longest time one attempt may take, from connecting to the last byte read.
        timeout: Span = Span::secs(15),
        /// Attempts under way at most.
        #[de("parsed")]
        max_in_flight: usize = 512,
        /// Attempts under way at most for one webhook, over all dispatchers.
        #[de("parsed")]
        max_in_flight_per_webhook: u32 = 16,
    }
}

section! {
    /// The service that makes deliveries wait.
    SchedulerSettings "scheduler" {
        /// Divides every retry delay, to show and test long timetables.
        #[de("parsed")]
        speed: u32 = 1,
    }
}

section! {
    /// What a process takes of its machine.
    RuntimeSettings "runtime" {
        /// Threads that work side by side; 0: half of the processors, 1 to 4. More throughput comes with more replicas.
        #[de("parsed")]
        threads: usize = 0,
    }
}

section! {
    /// The end of a service.
    ShutdownSettings "shutdown" {
        /// How long a service may finish what it holds.
        grace: Span = Span::secs(25),
    }
}

section! {
    /// The web console.
    ConsoleSettings "console" {
        /// The console's address, as people reach it.
        #[de("optional_text")]
        public_url: Option<String> = None,
        /// Origins that may show the console in a frame. There is none yet.
        #[de("list")]
        embed_origins: Vec<String> = Vec::new(),
    }
}

section! {
    /// Logs, metrics and traces of the services themselves.
    TelemetrySettings "telemetry" {
        /// What is logged, as in `info,fanfare=debug`; RUST_LOG wins over it.
        log: String = "info".into(),
        /// `text` or `json`; absent: text on a terminal, else JSON.
        #[de("optional_text")]
        log_format: Option<String> = None,
        /// Adds the label `tenant` to the metrics of attempts, ended deliveries, the ledger and the oldest waiting.
        #[de("parsed")]
        tenant_labels: bool = false,
        /// Where traces go, by OTLP. None are made yet.
        #[de("optional_text")]
        otlp_endpoint: Option<String> = None,
        /// The share of traces that is kept. None are made yet.
        #[de("parsed")]
        trace_ratio: f64 = 1.0,
    }
}

section! {
    /// Mail.
    SmtpSettings "smtp" {
        /// `smtp://host:port` or `smtps://…`; absent: no mail.
        #[de("optional_text")]
        url: Option<String> = None,
        /// The sender of notices.
        #[de("optional_text")]
        from: Option<String> = None,
    }
}

/// The settings of this process. Answers `--help` and `--check-config` itself, and then ends the process.
pub fn settings(service: Service) -> anyhow::Result<Settings> {
    let mut check = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--help" | "-h" => {
                print(&help::help(service));
                std::process::exit(0);
            }
            "--version" | "-V" => {
                print(&format!("fanfare-{} {}\n", service.name(), env!("CARGO_PKG_VERSION")));
                std::process::exit(0);
            }
            "--check-config" => check = true,
            other => anyhow::bail!("unknown argument `{other}`: `--help` lists what there is"),
        }
    }
    let settings = checked_settings(service)?;
    if check {
        print("the configuration is valid\n");
        std::process::exit(0);
    }
    Ok(settings)
}

/// The settings of this process, whatever its arguments.
pub fn checked_settings(service: Service) -> anyhow::Result<Settings> {
    let settings = read(std::env::var_os("FANFARE_CONFIG").map(PathBuf::from), std::env::vars())?;
    settings.check(service)?;
    Ok(settings)
}

#[expect(clippy::print_stdout, reason = "the answer to a question asked on the command line")]
fn print(text: &str) {
    print!("{text}");
}

fn read(file: Option<PathBuf>, environment: impl Iterator<Item = (String, String)>) -> anyhow::Result<Settings> {
    let mut figment = Figment::from(Serialized::defaults(Settings::default()));
    if let Some(file) = file {
        anyhow::ensure!(file.is_file(), "FANFARE_CONFIG names `{}`, which is no file", file.display());
        figment = figment.merge(Toml::file_exact(file));
    }
    let mut sections = Dict::new();
    for (name, value) in environment {
        // Kubernetes puts FANFARE_API_PORT and its like into pods: only names with `__` are settings.
        let Some((section, key)) = name.strip_prefix("FANFARE_").and_then(|rest| rest.split_once("__")) else {
            continue;
        };
        let (section, key) = (section.to_ascii_lowercase(), key.to_ascii_lowercase());
        let entry = sections.entry(section).or_insert_with(|| Value::from(Dict::new()));
        if let Value::Dict(_, keys) = entry {
            keys.insert(key, Value::from(value));
        }
    }
    sections.remove("cli");
    let figment = figment.merge(Serialized::defaults(sections));
    let mut tree: Dict = figment.extract()?;
    tree.remove("cli"); // the command line's own section, in a file that it shares with services
    Figment::from(Serialized::defaults(tree)).extract().map_err(|errors| {
        let first = errors.into_iter().next();
        let (name, why) = first.map(|error| (setting_name(&error.path), error.kind.to_string())).unwrap_or_default();
        anyhow::anyhow!("setting {name}: {why}")
    })
}

fn setting_name(path: &[String]) -> String {
    format!("FANFARE_{}", path.join("__").to_ascii_uppercase())
}

impl Settings {
    /// What no single type can tell.
    fn check(&self, service: Service) -> anyhow::Result<()> {
        let needs_secrets = matches!(service, Service::Api | Service::Dispatcher);
        anyhow::ensure!(
            !needs_secrets || self.secrets.keys.is_some(),
            "setting FANFARE_SECRETS__KEYS: is required, `<id>:<32 bytes, Base64>`"
        );
        let needs_token = service == Service::Api;
        anyhow::ensure!(
            !needs_token || self.api.admin_token.is_some(),
            "setting FANFARE_API__ADMIN_TOKEN: is required"
        );
        self.amqp.connection()?;
        self.amqp.management()?;
        fanfare_store::Redis::new(&self.redis.connection())
            .map_err(|why| anyhow::anyhow!("setting FANFARE_REDIS__URL: {why}"))?;
        anyhow::ensure!(
            self.log.redis_url.as_ref().is_none_or(|url| *url == self.redis.url),
            "setting FANFARE_LOG__REDIS_URL: the log cannot be kept apart from the state yet; leave it out, or name what \
             FANFARE_REDIS__URL names"
        );
        if let Some(keys) = &self.secrets.keys {
            fanfare_store::Sealer::parse(keys)
                .map_err(|why| anyhow::anyhow!("setting FANFARE_SECRETS__KEYS: {why}"))?;
        }
        fanfare_catalog::Catalogs::load(self.catalogs.path.as_deref())
            .map_err(|why| anyhow::anyhow!("setting FANFARE_CATALOGS__PATH: {why:#}"))?;
        anyhow::ensure!(self.runtime.threads <= 256, "setting FANFARE_RUNTIME__THREADS: must be 256 or less");
        anyhow::ensure!(self.scheduler.speed >= 1, "setting FANFARE_SCHEDULER__SPEED: must be 1 or more");
        anyhow::ensure!(
            self.dispatcher.max_in_flight >= 1,
            "setting FANFARE_DISPATCHER__MAX_IN_FLIGHT: must be 1 or more"
        );
        let per_webhook = self.dispatcher.max_in_flight_per_webhook;
        anyhow::ensure!(
            (1..=1_000).contains(&per_webhook),
            "setting FANFARE_DISPATCHER__MAX_IN_FLIGHT_PER_WEBHOOK: must be 1 to 1000"
        );
        let timeout = self.dispatcher.timeout;
        anyhow::ensure!(
            timeout >= Span::secs(1) && timeout <= Span::secs(300),
            "setting FANFARE_DISPATCHER__TIMEOUT: must be 1s to 5min"
        );
        anyhow::ensure!(
            self.ingest.dedup_window >= Span::secs(1),
            "setting FANFARE_INGEST__DEDUP_WINDOW: must be 1s or more"
        );
        if let Some(url) = &self.smtp.url {
            anyhow::ensure!(
                url.starts_with("smtp://") || url.starts_with("smtps://"),
                "setting FANFARE_SMTP__URL: must be `smtp://host:port` or `smtps://host:port`"
            );
            anyhow::ensure!(
                self.smtp.from.is_some(),
                "setting FANFARE_SMTP__FROM: is required where FANFARE_SMTP__URL is set, `Fanfare <fanfare@example.com>`"
            );
        }
        if let Some(format) = &self.telemetry.log_format {
            anyhow::ensure!(
                matches!(format.as_str(), "text" | "json"),
                "setting FANFARE_TELEMETRY__LOG_FORMAT: must be `text` or `json`"
            );
        }
        Ok(())
    }

    /// Where the admin port of `service` listens.
    pub fn admin_listen(&self, service: Service) -> SocketAddr {
        self.admin.listen.unwrap_or_else(|| ([0, 0, 0, 0], service.admin_port()).into())
    }

    /// Whether metrics tell tenants apart.
    pub fn tenants(&self) -> Tenants {
        if self.telemetry.tenant_labels { Tenants::told_apart() } else { Tenants::as_one() }
    }

    /// Where deliveries may go.
    pub fn target_rules(&self) -> TargetRules {
        TargetRules {
            allow_networks: self.targets.allow_networks.clone(),
            allow_ports: self.targets.allow_ports.clone(),
            https_only: self.targets.https_only,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_env(pairs: &[(&str, &str)]) -> anyhow::Result<Settings> {
        read(None, pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn the_environment_sets_every_kind_of_setting() {
        let settings = from_env(&[
            ("FANFARE_API__ADMIN_TOKEN", "12345"),
            ("FANFARE_API_PORT", "tcp://10.0.0.1:8081"),
            ("FANFARE_CLI__URL", "http://x"),
            ("FANFARE_TARGETS__ALLOW_NETWORKS", "127.0.0.0/8, ::1/128"),
            ("FANFARE_TARGETS__ALLOW_PORTS", "80"),
            ("FANFARE_TARGETS__HTTPS_ONLY", "true"),
            ("FANFARE_DISPATCHER__TIMEOUT", "2s"),
            ("FANFARE_DISPATCHER__MAX_IN_FLIGHT", "8"),
            ("FANFARE_INGEST__LISTEN", "127.0.0.1:0"),
            ("FANFARE_INGEST__RATE_LIMIT", ""),
            ("FANFARE_LOG__BUDGET", "1GiB"),
        ])
        .unwrap();
        assert_eq!(settings.api.admin_token.as_deref(), Some("12345"));
        assert_eq!(settings.targets.allow_networks.len(), 2);
        assert_eq!((settings.targets.https_only, settings.dispatcher.max_in_flight), (true, 8));
        assert_eq!((settings.dispatcher.timeout, settings.ingest.rate_limit), (Span::secs(2), None));
        assert_eq!(settings.log.budget, Bytes(1 << 30));
    }

    #[test]
    fn a_bad_setting_is_named() {
        for (name, value) in [
            ("FANFARE_DISPATCHER__TIMEOUT", "soon"),
            ("FANFARE_DISPATCHER__MAX_IN_FLIGHT", "many"),
            ("FANFARE_TARGETS__ALLOW_NETWORKS", "10.0.0.0/99"),
            ("FANFARE_INGEST__COLOUR", "red"),
            ("FANFARE_LOG__BUDGET", "8XB"),
        ] {
            let error = from_env(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error} does not name {name}");
        }
    }

    #[test]
    fn what_would_fail_later_fails_at_the_start() {
        let key = "a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        for (name, value) in [
            ("FANFARE_AMQP__URL", "http://broker"),
            ("FANFARE_AMQP__MANAGEMENT_URL", "amqp://broker"),
            ("FANFARE_REDIS__URL", "amqp://redis"),
            ("FANFARE_REDIS__URL", "redis+sentinel://a,b,c"),
            ("FANFARE_LOG__REDIS_URL", "redis://elsewhere:6379/0"),
            ("FANFARE_SECRETS__KEYS", "a:short"),
            ("FANFARE_SCHEDULER__SPEED", "0"),
            ("FANFARE_RUNTIME__THREADS", "257"),
            ("FANFARE_DISPATCHER__MAX_IN_FLIGHT_PER_WEBHOOK", "1001"),
        ] {
            let settings = from_env(&[("FANFARE_SECRETS__KEYS", key), (name, value)]).unwrap();
            let error = settings.check(Service::Dispatcher).unwrap_err().to_string();
            assert!(error.contains(name), "{error} does not name {name}");
        }
        assert!(from_env(&[("FANFARE_SECRETS__KEYS", key)]).unwrap().check(Service::Dispatcher).is_ok());
        assert!(
            from_env(&[("FANFARE_SECRETS__KEYS", key)]).unwrap().check(Service::Api).is_err(),
            "the api needs a token"
        );
    }
}

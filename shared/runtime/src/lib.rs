//! What every service's `main` needs: settings, telemetry, the admin port with probes and metrics, and an orderly end.
mod admin; // /livez, /readyz, /metrics
mod clock; // the time, for what is recorded
mod fail_point; // where a test can stop a process dead
mod http_metrics; // requests, counted and timed
mod problem; // what a client gets instead of an answer
mod settings; // defaults, a TOML file, the environment
mod tasks; // start, run, drain, end

pub use admin::{Health, Phase};
pub use clock::now_ms;
pub use fail_point::fail_point;
pub use http_metrics::HttpMetrics;
pub use problem::Problem;
pub use settings::{
    AdminSettings, AmqpSection, ApiSettings, CatalogSettings, DispatcherSettings, IngestSettings, LogSettings,
    RedisSection, RuntimeSettings, SchedulerSettings, SecretSettings, Service, Settings, SmtpSettings, TargetSettings,
    TelemetrySettings, checked_settings, settings,
};
pub use tasks::{Tasks, run, start};

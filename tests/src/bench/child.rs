//! What driver and children say to each other: the job as JSON in the child's only argument, what came of it as JSON in
//! the last line of its output.
use super::usage;
use anyhow::{Context, Result, ensure};
use fanfare_local::{Process, Sandbox};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::Write;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) const RECEIVER: &str = "receiver";
pub(super) const LOAD: &str = "load";
pub(super) const FLOOR: &str = "floor";

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ReceiverJob {
    pub(super) port: u16,
}

/// Publish so many events.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LoadJob {
    pub(super) how: How,
    pub(super) events: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum How {
    /// Each event a request.
    Single { ingest: Ingest, connections: usize },
    /// A hundred events a request.
    Batch { ingest: Ingest, connections: usize },
    /// Each event a request, so many a second, whatever the answers take; each with the time it was published.
    Steady { ingest: Ingest, connections: usize, per_second: u32 },
    /// Each event a message.
    Amqp { url: String, tenant: String, in_flight: u16 },
}

/// Where events are published over HTTP.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ingest {
    /// `127.0.0.1:<port>`
    pub(super) address: String,
    pub(super) key: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FloorJob {
    pub(super) amqp_url: String,
    /// Where to POST.
    pub(super) target: String,
    pub(super) events: usize,
    /// Unconfirmed messages, and messages that each of the two consumers holds.
    pub(super) in_flight: u16,
    /// Requests under way.
    pub(super) posts: usize,
}

/// What a child did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Published {
    /// When the first event was handed over, in microseconds since 1970.
    pub(super) first_micros: u64,
    /// When the last was confirmed or answered 202.
    pub(super) last_micros: u64,
    /// Answers 429 and 503, each followed by another try.
    pub(super) refused: u64,
    /// By how much the latest event was late (steady).
    pub(super) late_micros: u64,
    /// Mean size of an event.
    pub(super) event_bytes: usize,
    /// Processor time from first to last.
    pub(super) cpu_millis: u64,
    pub(super) peak_bytes: u64,
}

impl Published {
    /// Before the first event; [`Published::finished`] after the last.
    pub(super) fn started(event_bytes: usize) -> Result<Self> {
        let cpu_millis = usage::own()?.cpu_millis();
        Ok(Self { first_micros: now_micros(), event_bytes, cpu_millis, ..Self::default() })
    }

    pub(super) fn finished(self) -> Result<Self> {
        let usage = usage::own()?;
        let cpu_millis = usage.cpu_millis() - self.cpu_millis;
        Ok(Self { last_micros: now_micros(), cpu_millis, peak_bytes: usage.peak_bytes, ..self })
    }

    /// Says it to the driver.
    pub(super) fn tell(&self) -> Result<()> {
        writeln!(std::io::stdout(), "{}", serde_json::to_string(self)?).context("telling the driver")
    }
}

/// A child with a job.
#[derive(Debug)]
pub(super) struct Child(Process);

impl Child {
    pub(super) fn start(sandbox: &Sandbox, log: &str, role: &str, job: &impl Serialize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(role).arg(serde_json::to_string(job)?);
        Ok(Self(Process::start(sandbox, log, &command)?))
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Whether it has ended; an error where it ended badly.
    pub(super) fn has_ended(&self) -> Result<bool> {
        let Some(status) = self.0.ended() else { return Ok(false) };
        ensure!(status.success(), "{} ended with {status}:\n{}", self.0.log().display(), self.0.log_tail(20));
        Ok(true)
    }

    /// Waits for its end, and what it says then.
    pub(super) async fn published(&self, within: Duration) -> Result<Published> {
        self.0.wait(within).await?;
        self.has_ended()?;
        read(self.0.log_tail(1).trim())
    }
}

pub(super) fn read<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).with_context(|| format!("reading `{json}`"))
}

/// The clock that all processes of this machine share.
pub(super) fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

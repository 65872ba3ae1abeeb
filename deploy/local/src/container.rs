//! A server in a Docker container, for who has Docker but may not install RabbitMQ or Redis.
use crate::process::{POLL, Process};
use crate::sandbox::Sandbox;
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// The first start downloads the image.
const READY_WITHIN: Duration = Duration::from_secs(300);

/// A running container; removed when dropped.
#[derive(Debug)]
pub struct Container {
    name: String,
    _client: Process,
}

impl Container {
    /// Whether Docker is there and lets us.
    pub fn is_possible() -> bool {
        run_docker(&["version"])
    }

    /// Runs `image` with `inner` of its ports reachable at `port` here, and waits until `is_ready` says so.
    pub async fn start(
        sandbox: &Sandbox,
        image: &str,
        (port, inner): (u16, u16),
        arguments: &[&str],
        is_ready: impl AsyncFn() -> bool,
    ) -> Result<Self> {
        let name = format!("fanfare-{port}-{:08x}", rand::random::<u32>());
        sandbox.guard().container(&name)?;
        let mut command = Command::new("docker");
        command.envs(std::env::vars_os());
        command.args(["run", "--rm", "--name", &name, "--publish", &format!("127.0.0.1:{port}:{inner}"), image]);
        let client = Process::start(sandbox, image.split(':').next().unwrap_or(image), command.args(arguments))?;
        let container = Self { name, _client: client };
        let deadline = Instant::now() + READY_WITHIN;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() || !is_ready().await {
            if let Some(status) = container._client.ended() {
                bail!("docker run {image} ended with {status}:\n{}", container._client.log_tail(10));
            }
            if Instant::now() > deadline {
                bail!("{image} is not ready after {READY_WITHIN:?}:\n{}", container._client.log_tail(10));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(container)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        run_docker(&["rm", "--force", "--volumes", &self.name]);
    }
}

fn run_docker(arguments: &[&str]) -> bool {
    let mut docker = Command::new("docker");
    docker.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    docker.status().context("starting docker").is_ok_and(|status| status.success())
}

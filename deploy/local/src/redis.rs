//! Redis, or Valkey: a private one with the settings Fanfare asks for, on a port and in a folder of its own.
use crate::ports;
use crate::process::{POLL, Process, Usage};
use crate::root::Root;
use crate::sandbox::Sandbox;
use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const READY_WITHIN: Duration = Duration::from_secs(30);
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// The name by which Sentinels started here know their primary.
pub const PRIMARY: &str = "fanfare";

/// What a server is started as.
#[derive(Clone, Copy, Debug)]
enum Role {
    /// A server of its own.
    Alone,
    /// Follows the server on this port.
    Replica(u16),
    /// Watches the server on this port, with two others.
    Sentinel(u16),
    /// A cluster's node, with the port of its bus.
    Node(u16),
}

/// A private Redis, or what `FANFARE_TEST_REDIS` names (`valkey-server`); killed when dropped.
#[derive(Debug)]
pub struct Redis {
    sandbox: Sandbox,
    root: Root,
    program: String,
    folder: PathBuf,
    port: u16,
    role: Role,
    server: Option<Process>,
}

impl Redis {
    /// Whether there is one to start.
    pub fn is_installed() -> bool {
        Root::from_env().is_ok_and(|root| root.find(&program()).is_some())
    }

    /// Whether a PING on a port of 127.0.0.1 is answered with PONG, and not that it still loads.
    pub async fn answers_on(port: u16) -> bool {
        let mut pong = [0; 7];
        let asked = async {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.write_all(b"PING\r\n").await?;
            stream.read_exact(&mut pong).await
        };
        matches!(tokio::time::timeout(Duration::from_secs(5), asked).await, Ok(Ok(_))) && &pong == b"+PONG\r\n"
    }

    /// Starts one on a free port and waits until it answers.
    pub async fn start(sandbox: &Sandbox) -> Result<Self> {
        Self::start_on(sandbox, ports::free_port()?).await
    }

    /// The same on a given port.
    pub async fn start_on(sandbox: &Sandbox, port: u16) -> Result<Self> {
        Self::start_as(sandbox, port, Role::Alone).await
    }

    /// A replica of `primary`.
    pub async fn start_replica(sandbox: &Sandbox, primary: &Self) -> Result<Self> {
        Self::start_as(sandbox, ports::free_port()?, Role::Replica(primary.port)).await
    }

    /// A Sentinel of `primary`, under the name [`PRIMARY`]; two must agree before it is replaced.
    pub async fn start_sentinel(sandbox: &Sandbox, primary: &Self) -> Result<Self> {
        Self::start_as(sandbox, ports::free_port()?, Role::Sentinel(primary.port)).await
    }

    /// A cluster of three primaries that share the slots.
    pub async fn start_cluster(sandbox: &Sandbox) -> Result<[Self; 3]> {
        let node = || async { Self::start_as(sandbox, ports::free_port()?, Role::Node(ports::free_port()?)).await };
        let nodes = [node().await?, node().await?, node().await?];
        let cli = nodes[0].program.replace("server", "cli");
        let mut command = tokio::process::Command::from(nodes[0].root.command(None, &cli));
        command.args(["--cluster", "create"]).args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)));
        let made = command.args(["--cluster-yes"]).kill_on_drop(true).output().await?;
        ensure!(made.status.success(), "making a cluster: {}", String::from_utf8_lossy(&made.stdout));
        Ok(nodes)
    }

    async fn start_as(sandbox: &Sandbox, port: u16, role: Role) -> Result<Self> {
        let root = Root::from_env()?;
        let program = program();
        ensure!(root.find(&program).is_some(), "`{program}` is not installed: deploy/local/install says how");
        let folder = sandbox.state_folder(&root)?;
        let mut redis = Self { sandbox: sandbox.clone(), root, program, folder, port, role, server: None };
        redis.start_again().await?;
        Ok(redis)
    }

    /// Starts it after [`Redis::stop`] or [`Redis::kill`], with what its append-only file holds.
    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(self.server.is_none(), "Redis runs already");
        if let Some(holder) = ports::holder_of(self.port) {
            bail!("port {} is taken by {holder}", self.port);
        }
        let command = self.command()?;
        let name = match self.role {
            Role::Alone => self.program.clone(),
            _ => format!("{}-{}", self.program, self.port),
        };
        let server = self.server.insert(Process::start(&self.sandbox, &name, &command)?);
        let deadline = Instant::now() + READY_WITHIN;
        while !Self::answers_on(self.port).await {
            if let Some(status) = server.ended() {
                bail!("{} ended with {status}; its log ends:\n{}", self.program, server.log_tail(30));
            }
            if Instant::now() > deadline {
                bail!("{} is not ready after {READY_WITHIN:?}:\n{}", self.program, server.log_tail(30));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let mut command = self.root.command(None, &self.program);
        let port = self.port.to_string();
        if let Role::Sentinel(primary) = self.role {
            // It writes down there what it learns.
            let file = self.folder.join("sentinel.conf");
            let settings = format!(
                "sentinel monitor {PRIMARY} 127.0.0.1 {primary} 2\nsentinel down-after-milliseconds {PRIMARY} 1000\n\
                 sentinel failover-timeout {PRIMARY} 5000\n"
            );
            std::fs::write(&file, settings)?;
            command.arg(self.root.inside(&file)).args(["--sentinel", "--port", &port, "--bind", "127.0.0.1"]);
            command.arg("--dir").arg(self.root.inside(&self.folder)).args(["--daemonize", "no"]);
            return Ok(command);
        }
        command.args(["--port", &port, "--bind", "127.0.0.1", "--protected-mode", "yes"]);
        command.arg("--dir").arg(self.root.inside(&self.folder));
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]);
        // Events are stored compressed; and a log that is rewritten at every doubling from 64 MB on costs a quarter of
        // what Redis does.
        command.args(["--rdbcompression", "no", "--auto-aof-rewrite-min-size", "512mb"]);
        command.args(["--save", "", "--daemonize", "no"]);
        match self.role {
            Role::Replica(primary) => command.args(["--replicaof", "127.0.0.1", &primary.to_string()]),
            Role::Node(bus) => command.args(["--cluster-enabled", "yes", "--cluster-port", &bus.to_string()]),
            Role::Alone | Role::Sentinel(_) => &mut command,
        };
        Ok(command)
    }

    /// Stops it in an orderly way.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(server) = self.server.take() {
            server.terminate(STOPPED_WITHIN).await?;
        }
        Ok(())
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// The running server, to freeze it.
    pub fn process(&self) -> Option<&Process> {
        self.server.as_ref()
    }

    /// What it took since it was last started.
    pub fn usage(&self) -> Result<Usage> {
        self.server.as_ref().context("Redis is stopped")?.usage()
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL, database 0.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }
}

fn program() -> String {
    let named = std::env::var("FANFARE_TEST_REDIS").ok().filter(|program| !program.is_empty());
    named.unwrap_or_else(|| "redis-server".into())
}

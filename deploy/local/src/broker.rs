//! RabbitMQ: a private one, with the management plugin, on ports and in a folder of its own.
use crate::process::{POLL, Process, Usage};
use crate::root::{Root, is_root};
use crate::sandbox::Sandbox;
use crate::{client, ports};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const USER: &str = "rabbitmq";
/// Debian's own, without the wrapper in /usr/sbin, which wants to be root and writes to the system's folders.
const DEBIAN_SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const DEBIAN_CTL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
const READY_WITHIN: Duration = Duration::from_secs(60);
const STOPPED_WITHIN: Duration = Duration::from_secs(60);

/// A private RabbitMQ; killed when dropped.
#[derive(Debug)]
pub struct Broker {
    sandbox: Sandbox,
    root: Root,
    user: Option<&'static str>,
    folder: PathBuf,
    amqp_port: u16,
    management_port: u16,
    distribution_port: u16,
    epmd_port: u16,
    _epmd: Process,
    server: Option<Process>,
    http: reqwest::Client,
}

/// How full a queue is, as the management API reports it: up to about 2 s old.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct QueueDepth {
    /// The queue's name.
    pub name: String,
    /// Messages waiting.
    #[serde(default, rename = "messages_ready")]
    pub ready: u64,
    /// Messages with a consumer, not acked yet.
    #[serde(default, rename = "messages_unacknowledged")]
    pub unacked: u64,
}

impl Broker {
    /// Whether there is one to start.
    pub fn is_installed() -> bool {
        Root::from_env().is_ok_and(|root| server_program(&root).is_some())
    }

    /// Whether AMQP is spoken on a port of 127.0.0.1: a protocol header is answered with `Connection.Start`, a method
    /// frame (type 1).
    pub async fn answers_on(port: u16) -> bool {
        let mut first = [0];
        let asked = async {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
            stream.read_exact(&mut first).await
        };
        matches!(tokio::time::timeout(Duration::from_secs(5), asked).await, Ok(Ok(_))) && first == [1]
    }

    /// Starts one on free ports and waits until it takes connections: 3 to 6 s.
    pub async fn start(sandbox: &Sandbox) -> Result<Self> {
        Self::start_on(sandbox, ports::free_port()?, ports::free_port()?).await
    }

    /// The same on given ports.
    pub async fn start_on(sandbox: &Sandbox, amqp_port: u16, management_port: u16) -> Result<Self> {
        let root = Root::from_env()?;
        ensure!(server_program(&root).is_some(), "RabbitMQ is not installed: deploy/local/install says how");
        let user = (is_root() && root.has_user(USER)).then_some(USER);
        let folder = sandbox.state_folder(&root)?;
        let epmd_port = ports::free_port()?;
        write_config(&folder, amqp_port, management_port)?;
        if let Some(user) = user {
            root.give(&folder, user)?;
        }
        // Erlang's port mapper would start itself as a daemon and stay; as our child, in the foreground, it does not.
        let mut epmd = root.command(user, "epmd");
        epmd.args(["-port", &epmd_port.to_string(), "-address", "127.0.0.1"]);
        let mut broker = Self {
            _epmd: Process::start(sandbox, "epmd", &epmd)?,
            sandbox: sandbox.clone(),
            distribution_port: ports::free_port()?,
            http: client::http()?,
            server: None,
            root,
            user,
            folder,
            amqp_port,
            management_port,
            epmd_port,
        };
        broker.start_again().await?;
        Ok(broker)
    }

    /// Starts it after [`Broker::stop`] or [`Broker::kill`], with the state it had.
    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(self.server.is_none(), "the broker runs already");
        if let Some(holder) = ports::holder_of(self.amqp_port) {
            bail!("port {} is taken by {holder}", self.amqp_port);
        }
        let server = server_program(&self.root).context("RabbitMQ is not installed")?;
        let server = self.server.insert(Process::start(&self.sandbox, "rabbitmq", &self.command(&server))?);
        let deadline = Instant::now() + READY_WITHIN;
        while !Self::answers_on(self.amqp_port).await || !management_answers(&self.http, self.management_port).await {
            if let Some(status) = server.ended() {
                bail!("RabbitMQ ended with {status}; its log ends:\n{}", server.log_tail(30));
            }
            if Instant::now() > deadline {
                bail!("RabbitMQ is not ready after {READY_WITHIN:?}; its log ends:\n{}", server.log_tail(30));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Stops it in an orderly way: up to 4.0 several seconds (github.com/rabbitmq/rabbitmq-server/pull/11070).
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(server) = self.server.take() {
            server.terminate(STOPPED_WITHIN).await?;
        }
        Ok(())
    }

    /// Kills it with SIGKILL; all it has confirmed must be there again after [`Broker::start_again`].
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// The running server, to freeze it.
    pub fn process(&self) -> Option<&Process> {
        self.server.as_ref()
    }

    /// What it took since it was last started.
    pub fn usage(&self) -> Result<Usage> {
        self.server.as_ref().context("the broker is stopped")?.usage()
    }

    /// Where it takes AMQP connections on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.amqp_port
    }

    /// The AMQP URL of a vhost (`/` is there from the start).
    pub fn url(&self, vhost: &str) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/{}", self.amqp_port, client::escaped(vhost))
    }

    /// The URL of its management API.
    pub fn management_url(&self) -> String {
        format!("http://guest:guest@127.0.0.1:{}", self.management_port)
    }

    /// Makes a vhost, empty also where there was one of that name, and returns its AMQP URL.
    pub async fn vhost(&self, name: &str) -> Result<String> {
        let path = format!("vhosts/{}", client::escaped(name));
        let _ = self.management("DELETE", &path, None).await; // mostly there is none
        self.management("PUT", &path, Some(json!({}))).await?;
        let everything = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        self.management("PUT", &format!("permissions/{}/guest", client::escaped(name)), Some(everything)).await?;
        Ok(self.url(name))
    }

    /// Removes a vhost with all that is in it; its connections are closed.
    pub async fn delete_vhost(&self, name: &str) -> Result<()> {
        self.management("DELETE", &format!("vhosts/{}", client::escaped(name)), None).await.map(drop)
    }

    /// How full the queues of a vhost are.
    pub async fn depths(&self, vhost: &str) -> Result<Vec<QueueDepth>> {
        let queues = self.management("GET", &format!("queues/{}", client::escaped(vhost)), None).await?;
        Ok(serde_json::from_value(queues)?)
    }

    /// Messages waiting in a queue, as of now (a passive declare asks the queue's leader), not counting unacked ones.
    pub async fn ready(&self, vhost: &str, queue: &str) -> Result<u64> {
        let connection = lapin::Connection::connect(&self.url(vhost), lapin::ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let passive = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
        let found = channel.queue_declare(queue.into(), passive, lapin::types::FieldTable::default()).await?;
        connection.close(200, "done".into()).await?;
        Ok(found.message_count().into())
    }

    /// A vhost's counters (`publish`, `confirm`, `deliver`, `ack`, …): messages since it was made, up to 2 s old.
    pub async fn message_stats(&self, vhost: &str) -> Result<Value> {
        let mut found = self.management("GET", &format!("vhosts/{}", client::escaped(vhost)), None).await?;
        Ok(found["message_stats"].take())
    }

    /// Asks the management API: `path` is what follows `/api/`. `Null` where the answer has no body.
    pub async fn management(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
        let url = format!("http://127.0.0.1:{}/api/{path}", self.management_port);
        let mut request = self.http.request(method.parse()?, &url).basic_auth("guest", Some("guest"));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await.with_context(|| format!("{method} {url}"))?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "{method} {url}: {status} {text}");
        Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
    }

    /// Sets the share of memory above which it blocks publishers: 0.4 as it starts, 0.00001 raises the alarm at once.
    pub async fn set_memory_watermark(&self, share: f64) -> Result<()> {
        self.ctl(&["set_vm_memory_high_watermark", &share.to_string()]).await.map(drop)
    }

    /// Runs rabbitmqctl (about 1 s) and returns what it prints.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let program = if self.root.outside(DEBIAN_CTL.as_ref()).exists() { DEBIAN_CTL } else { "rabbitmqctl" };
        let mut command = tokio::process::Command::from(self.command(program));
        command.args(["--quiet", "--node", &self.node()]).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.context("starting rabbitmqctl")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    fn node(&self) -> String {
        format!("fanfare{}@localhost", self.amqp_port)
    }

    fn command(&self, program: &str) -> Command {
        let folder = self.root.inside(&self.folder);
        let mut command = self.root.command(self.user, program);
        command
            .env("HOME", &folder) // the cookie lies there
            .env("RABBITMQ_NODENAME", self.node())
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("empty")) // not the system's
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            // No busy waiting: two processors are shared with what is tested.
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1} \
                 -rabbit quorum_tick_interval 1000",
            )
            // The script then becomes the server, instead of waiting for it: our child is what signals go to.
            .env("RUNNING_UNDER_SYSTEMD", "true");
        command
    }
}

fn server_program(root: &Root) -> Option<String> {
    let debian = root.outside(DEBIAN_SERVER.as_ref()).exists();
    if debian { Some(DEBIAN_SERVER.into()) } else { root.find("rabbitmq-server") }
}

/// What is not here is as shipped, and what `advanced.config` says is asked of all: tests meet the broker that users have.
fn write_config(folder: &std::path::Path, amqp_port: u16, management_port: u16) -> Result<()> {
    let config = format!(
        "listeners.tcp.default = 127.0.0.1:{amqp_port}\n\
         management.tcp.ip = 127.0.0.1\n\
         management.tcp.port = {management_port}\n\
         collect_statistics_interval = 1000\n\
         log.console = true\n\
         log.console.level = info\n\
         log.file = false\n"
    );
    for (file, content) in [
        ("rabbitmq.conf", config.as_str()),
        ("advanced.config", include_str!("../advanced.config")),
        ("enabled_plugins", "[rabbitmq_management].\n"),
        ("empty", ""),
    ] {
        std::fs::write(folder.join(file), content).with_context(|| format!("writing the broker's {file}"))?;
    }
    Ok(())
}

/// Whether the management API answers.
async fn management_answers(http: &reqwest::Client, port: u16) -> bool {
    let overview = format!("http://127.0.0.1:{port}/api/overview");
    http.get(overview).basic_auth("guest", Some("guest")).send().await.is_ok_and(|answer| answer.status().is_success())
}

//! Redis, to one process: a connection that all scripts share, and a pool for the rest; scripts, and what failed in words one
//! can decide by.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fanfare_metrics::Histogram;
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, Value};
use tokio::sync::Mutex;

use crate::{
    metrics::METRICS,
    pool::{Lent, Pool},
    servers::{Connection, RedisSettings, Servers},
};

/// How long Redis may take for one answer: far above a slow disk's sync, below what a lease allows.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long Redis may take on a connection that follows a stream.
const STREAM_WITHIN: Duration = Duration::from_secs(15);
/// After a vain try to connect, who comes so soon gets the same error: a server that is away is not tried by each in turn.
const CONNECT_AGAIN: Duration = Duration::from_millis(100);
/// How long a replica may take to have a write that is waited for; who waits keeps those behind him waiting.
const REPLICATED_WITHIN: Duration = Duration::from_millis(200);

/// What can go wrong with Redis, by what follows from it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It is not there, or does not take writes: try again.
    #[error("Redis is away: {0}")]
    Away(String),
    /// It is there and has lost this tenant: nothing may be decided until it is restored.
    #[error("Redis has lost its data: delete nothing, restore it from its append-only file or a replica")]
    Lost,
    /// It holds, or answers, what this program does not understand.
    #[error("Redis answered what this version does not understand: {0}")]
    Odd(String),
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        let text = error.to_string();
        let error = match error.code() {
            Some("LOST") => Self::Lost,
            // A script's own mistake, or a key of another type.
            Some("WRONGTYPE") => Self::Odd(text),
            Some("ERR") => Self::Odd(text),
            _ if text.contains("LOST") => Self::Lost,
            _ if text.contains("WRONGTYPE") => Self::Odd(text), // within a transaction
            _ => Self::Away(text),
        };
        METRICS.failed(&error);
        error
    }
}

/// Asks again while Redis is away, and only then. An error means that it is there and that asking on is of no use: it has
/// lost the tenant, or holds what nobody here understands. What is at work has to leave then, so that others get their turn.
/// What waits stays unacked meanwhile; the wait ends with the process at the latest.
pub async fn while_away<T, F: Future<Output = Result<T, StoreError>>>(
    what: &str,
    ask: impl Fn() -> F,
) -> Result<T, StoreError> {
    let mut pause = Duration::from_millis(50);
    loop {
        match ask().await {
            Err(error @ StoreError::Away(_)) => tracing::warn!(what, %error, "asking Redis again"),
            answer => return answer,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// Redis, to one process. Connections are made again when they break.
#[derive(Clone)]
pub struct Redis {
    servers: Arc<Servers>,
    scripts: Link,
    rest: Arc<Pool>,
    /// There is a replica that keeps up.
    replicated: Arc<AtomicBool>,
    gone_after: Duration,
}

/// A connection that is made when first used, and again once it broke.
#[derive(Clone, Default)]
struct Link(Arc<Mutex<Made>>);

#[derive(Default)]
struct Made {
    connection: Option<Connection>,
    /// How many were made before it.
    number: u64,
    failed: Option<(Instant, StoreError)>,
}

impl Link {
    async fn connection(&self, servers: &Servers) -> Result<(u64, Connection), StoreError> {
        let mut made = self.0.lock().await;
        if let Some(connection) = &made.connection {
            return Ok((made.number, connection.clone()));
        }
        if let Some((_, error)) = made.failed.as_ref().filter(|(at, _)| at.elapsed() < CONNECT_AGAIN) {
            return Err(error.clone());
        }
        match servers.connect(ANSWER_WITHIN).await {
            Ok(connection) => {
                *made = Made { connection: Some(connection.clone()), number: made.number + 1, failed: None };
                Ok((made.number, connection))
            }
            Err(error) => {
                let error = StoreError::from(error);
                made.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// The connection of this number failed: the next call makes another.
    async fn drop(&self, number: u64) {
        let mut made = self.0.lock().await;
        if made.number == number {
            made.connection = None;
        }
    }
}

/// Whether a connection is of no use after this: it broke, or its server does not take writes (any more: a fail-over).
fn breaks(error: &RedisError) -> bool {
    match error.code() {
        None => true,
        Some(code) => {
            matches!(code, "READONLY" | "MASTERDOWN" | "LOADING" | "CLUSTERDOWN" | "NOREPLICAS" | "UNBLOCKED")
        }
    }
}

impl Redis {
    /// Checks the settings; connects when first used.
    pub fn new(settings: &RedisSettings) -> anyhow::Result<Self> {
        let servers = Servers::named(settings)?;
        Ok(Self {
            rest: Arc::new(Pool::new(&servers, ANSWER_WITHIN)?),
            servers: Arc::new(servers),
            scripts: Link::default(),
            replicated: Arc::default(),
            gone_after: settings.gone_after,
        })
    }

    /// After how long what Redis lacks is lost.
    pub(crate) fn gone_after(&self) -> Duration {
        self.gone_after
    }

    /// Refuses a Redis that would drop what it is trusted with; says what its durability costs.
    pub async fn check(&self) -> anyhow::Result<()> {
        for info in while_away("asking Redis how it is set up", || self.info("memory")).await? {
            let policy = field(&info, "maxmemory_policy").unwrap_or("noeviction");
            anyhow::ensure!(
                policy == "noeviction",
                "Redis drops keys when memory is short (maxmemory-policy `{policy}`): set it to `noeviction`"
            );
        }
        let persistence = while_away("asking Redis how it is set up", || self.info("persistence")).await?;
        if persistence.iter().any(|info| field(info, "aof_enabled") == Some("0")) {
            tracing::warn!(
                "Redis keeps no append-only file: what it loses at a restart is brought back only in part; set `appendonly yes`"
            );
        }
        Ok(())
    }

    /// A section of what the servers say of themselves, of each in a cluster.
    async fn info(&self, section: &str) -> Result<Vec<String>, StoreError> {
        let told: Value = self.run(redis::cmd("INFO").arg(section)).await?;
        let odd = |error: redis::ParsingError| StoreError::Odd(error.to_string());
        Ok(match told {
            told @ (Value::Map(_) | Value::Array(_)) => {
                redis::from_redis_value::<HashMap<String, String>>(told).map_err(odd)?.into_values().collect()
            }
            told => vec![redis::from_redis_value(told).map_err(odd)?],
        })
    }

    /// Looks whether there is a replica. To be asked again now and then: replicas come and go.
    pub(crate) async fn look_for_replica(&self) -> Result<(), StoreError> {
        let told = self.info("replication").await?;
        let replicas = |info: &String| field(info, "connected_slaves").is_some_and(|count| count != "0");
        let replicated = told.iter().any(replicas);
        if self.replicated.swap(replicated, Ordering::Relaxed) != replicated {
            tracing::info!(replicated, "whether a replica of Redis keeps up");
        }
        Ok(())
    }

    /// Waits until a replica has what scripts wrote for this tenant, where there is one. A replica that does not keep up is
    /// not waited for again until it is looked for again.
    pub(crate) async fn replicated(&self, tenant: &str) {
        if !self.replicated.load(Ordering::Relaxed) {
            return;
        }
        // Boxed: its kilobytes would else lie in every future that may have to ask, and be moved with it.
        Box::pin(self.wait_for_replica(tenant)).await;
    }

    async fn wait_for_replica(&self, tenant: &str) {
        let Ok((number, mut connection)) = self.scripts.connection(&self.servers).await else { return };
        match connection.wait(&prefix(tenant), REPLICATED_WITHIN).await {
            Ok(replicas) if replicas > 0 => {}
            Ok(_) => {
                self.replicated.store(false, Ordering::Relaxed);
                tracing::warn!("no replica of Redis had a write in time: a fail-over now could lose it");
            }
            Err(error) => {
                if breaks(&error) {
                    self.scripts.drop(number).await;
                }
                tracing::warn!(%error, "whether a replica of Redis has a write is not known");
            }
        }
    }

    /// Runs one command. Boxed, as above.
    pub(crate) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let run = async {
            let mut lent = self.rest.lend().await?;
            let answer = in_time(command.query_async(&mut lent)).await;
            settled(lent, answer)
        };
        Box::pin(run).await
    }

    /// Runs several commands, of keys of one tenant. Boxed, as above.
    pub(crate) async fn run_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, StoreError> {
        let run = async {
            let mut lent = self.rest.lend().await?;
            let answer = in_time(commands.query_async(&mut lent)).await;
            settled(lent, answer)
        };
        Box::pin(run).await
    }

    /// Runs a script for one tenant. Boxed, as above.
    pub(crate) async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        tenant: &str,
        args: &[&[u8]],
    ) -> Result<T, StoreError> {
        let mut answers = Box::pin(self.scripts(vec![(script, script.call(tenant, args.iter().copied()))])).await?;
        let answer = answers.pop().unwrap_or(Ok(Value::Nil))?;
        redis::from_redis_value(answer).map_err(|error| StoreError::Odd(error.to_string()))
    }

    /// Runs scripts; each run has an answer or an error of its own.
    pub(crate) async fn scripts(
        &self,
        runs: Vec<(&Script, Cmd)>,
    ) -> Result<Vec<Result<Value, RedisError>>, StoreError> {
        let (scripts, calls): (Vec<&Script>, Vec<Cmd>) = runs.into_iter().unzip();
        let (number, mut connection) = self.scripts.connection(&self.servers).await?;
        let asked = Instant::now();
        let answers = scripts_over(&mut connection, &scripts, &pipeline(calls)).await;
        for script in distinct(scripts) {
            script.took.observe(asked.elapsed().as_secs_f64());
        }
        let broken = match &answers {
            Ok(answers) => answers.iter().any(|answer| answer.as_ref().is_err_and(breaks)),
            Err(error) => breaks(error),
        };
        if broken {
            self.scripts.drop(number).await;
        }
        Ok(answers?)
    }

    /// A connection of one's own that may wait for its answers, for following a stream.
    pub(crate) async fn patient(&self) -> Result<Connection, StoreError> {
        Ok(self.servers.connect(STREAM_WITHIN).await?)
    }
}

async fn scripts_over(
    connection: &mut Connection,
    scripts: &[&Script],
    calls: &Pipeline,
) -> Result<Vec<Result<Value, RedisError>>, RedisError> {
    let mut answers = connection.each(calls).await?;
    // A server was restarted, or never knew them. Those calls did not run: told once more, they run now, and only they.
    let unknown: Vec<usize> = (0..answers.len()).filter(|at| answers[*at].as_ref().is_err_and(is_noscript)).collect();
    if !unknown.is_empty() {
        let again = calls.cmd_iter().enumerate().filter(|(at, _)| unknown.contains(at)).map(|(_, call)| call.clone());
        let scripts = distinct(unknown.iter().map(|at| scripts[*at]));
        // The others have run, whatever becomes of these.
        let told = told_again(connection, &scripts, &pipeline(again)).await;
        for (nth, at) in unknown.into_iter().enumerate() {
            answers[at] = match &told {
                Ok(told) => told.get(nth).cloned().unwrap_or(Ok(Value::Nil)),
                Err(error) => Err(error.clone()),
            };
        }
    }
    Ok(answers)
}

async fn told_again(
    connection: &mut Connection,
    scripts: &[&Script],
    calls: &Pipeline,
) -> Result<Vec<Result<Value, RedisError>>, RedisError> {
    for script in scripts {
        redis::cmd("SCRIPT").arg("LOAD").arg(script.text.as_str()).query_async::<Value>(connection).await?;
    }
    connection.each(calls).await
}

/// Each script once: they are few.
fn distinct<'s>(scripts: impl IntoIterator<Item = &'s Script>) -> Vec<&'s Script> {
    let mut known: Vec<&Script> = Vec::new();
    for script in scripts {
        if known.iter().all(|other| other.sha != script.sha) {
            known.push(script);
        }
    }
    known
}

/// A cluster's pooled connections have no patience of their own.
async fn in_time<T>(answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, RedisError> {
    match tokio::time::timeout(ANSWER_WITHIN, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

/// Gives a lent connection back, or up where it is of no use any more.
fn settled<T>(lent: Lent, answer: Result<T, RedisError>) -> Result<T, StoreError> {
    if answer.as_ref().is_err_and(breaks) {
        lent.give_up();
    }
    Ok(answer?)
}

/// Commands that go out together, each with its own answer or error.
fn pipeline(commands: impl IntoIterator<Item = Cmd>) -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    for command in commands {
        pipeline.add_command(command);
    }
    pipeline
}

fn is_noscript(error: &RedisError) -> bool {
    error.code() == Some("NOSCRIPT")
}

fn field<'i>(info: &'i str, name: &str) -> Option<&'i str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// A Lua script, with the prelude that every script shares.
pub(crate) struct Script {
    text: String,
    sha: String,
    took: Histogram,
}

impl Script {
    /// A script off the hot path.
    pub(crate) fn new(body: &str) -> Self {
        Self::named("other", body)
    }

    /// A script whose calls are timed under its own name.
    pub(crate) fn named(name: &str, body: &str) -> Self {
        let text = format!("{}\n{body}", include_str!("scripts/prelude.lua"));
        let sha = redis::Script::new(&text).get_hash().to_owned();
        Self { text, sha, took: METRICS.calls.with_label_values(&[name]) }
    }

    /// A call of it for one tenant.
    pub(crate) fn call<'a>(&self, tenant: &str, args: impl Iterator<Item = &'a [u8]>) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.sha).arg(1).arg(prefix(tenant));
        for arg in args {
            command.arg(arg);
        }
        command
    }
}

/// What all of a tenant's keys begin with: the braces keep them in one slot of a cluster.
pub(crate) fn prefix(tenant: &str) -> String {
    format!("f:{{{tenant}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_given_up_where_its_server_is_gone_or_takes_no_writes() {
        let said = |line: &str| redis::parse_redis_value(line.as_bytes()).unwrap().extract_error().unwrap_err();
        for (line, gives_up) in [
            ("-READONLY You can't write against a read only replica.\r\n", true),
            ("-LOADING Redis is loading the dataset in memory\r\n", true),
            ("-MASTERDOWN Link with MASTER is down\r\n", true),
            ("-NOSCRIPT No matching script.\r\n", false),
            ("-WRONGTYPE Operation against a key holding the wrong kind of value\r\n", false),
            ("-LOST the tenant is not in Redis\r\n", false),
        ] {
            assert_eq!(breaks(&said(line)), gives_up, "{line}");
        }
        assert!(breaks(&std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()));
        assert!(matches!(said("-LOST the tenant is not in Redis\r\n").into(), StoreError::Lost));
        assert!(matches!(said("-READONLY You can't write\r\n").into(), StoreError::Away(_)));
    }
}

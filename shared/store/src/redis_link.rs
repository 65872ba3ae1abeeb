//! The connection to Redis: one that everyone shares for scripts, a pool for the rest; what failed, in words one can
//! decide by.

use std::{future::Future, sync::Arc, time::Duration};

use deadpool_redis::{Manager, Pool};
use redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, IntoConnectionInfo, Pipeline, RedisError, Value,
    aio::MultiplexedConnection,
};
use tokio::sync::Mutex;

/// How long Redis may take for one answer: far above a slow disk's sync, below what a lease allows.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Connections for what is not a script on the hot path.
const POOL: usize = 8;

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://` or `rediss://` with host, port and database.
    pub url: String,
    /// Goes over the URL's user.
    pub username: Option<String>,
    /// Goes over the URL's password.
    pub password: Option<String>,
}

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
        match error.code() {
            Some("LOST") => Self::Lost,
            // A script's own mistake, or a key of another type.
            Some("WRONGTYPE") => Self::Odd(text),
            Some("ERR") => Self::Odd(text),
            _ if text.contains("LOST") => Self::Lost,
            _ if text.contains("WRONGTYPE") => Self::Odd(text), // within a transaction
            _ => Self::Away(text),
        }
    }
}

/// Asks again until Redis answers. What is at work stays unacked meanwhile; the wait ends with the process at the latest.
pub async fn surely<T, F: Future<Output = Result<T, StoreError>>>(what: &str, ask: impl Fn() -> F) -> T {
    let mut pause = Duration::from_millis(50);
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => tracing::warn!(what, %error, "asking Redis again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// Asks again while Redis is away, and only then. An error means that it is there and that asking on is of no use: it has
/// lost the tenant, or holds what nobody here understands. What is at work has to leave then, so that others get their turn.
pub async fn while_away<T, F: Future<Output = Result<T, StoreError>>>(
    what: &str,
    ask: impl Fn() -> F,
) -> Result<T, StoreError> {
    surely(what, || async {
        match ask().await {
            Err(error @ StoreError::Away(_)) => Err(error),
            answer => Ok(answer),
        }
    })
    .await
}

/// Redis, to one process. Connections are made again when they break.
#[derive(Clone)]
pub struct Redis {
    pool: Pool,
    client: redis::Client,
    shared: Arc<Mutex<Option<MultiplexedConnection>>>,
}

impl Redis {
    /// Checks the settings; connects when first used.
    pub fn new(settings: &RedisSettings) -> anyhow::Result<Self> {
        let mut info = settings
            .url
            .as_str()
            .into_connection_info()
            .map_err(|error| anyhow::anyhow!("is no Redis URL: {error}"))?;
        let mut redis = info.redis_settings().clone();
        if let Some(username) = &settings.username {
            redis = redis.set_username(username);
        }
        if let Some(password) = &settings.password {
            redis = redis.set_password(password);
        }
        info = info.set_redis_settings(redis);
        let manager = Manager::new_with_config(info.clone(), config())?;
        let pool = Pool::builder(manager).max_size(POOL).build()?;
        Ok(Self { pool, client: redis::Client::open(info)?, shared: Arc::default() })
    }

    /// Refuses a Redis that would drop what it is trusted with; says what its durability costs.
    pub async fn check(&self) -> anyhow::Result<()> {
        let info: String = self.run(redis::cmd("INFO").arg("memory")).await?;
        let policy = field(&info, "maxmemory_policy").unwrap_or("noeviction");
        anyhow::ensure!(
            policy == "noeviction",
            "Redis drops keys when memory is short (maxmemory-policy `{policy}`): set it to `noeviction`"
        );
        let info: String = self.run(redis::cmd("INFO").arg("persistence")).await?;
        if field(&info, "aof_enabled") == Some("0") {
            tracing::warn!(
                "Redis keeps no append-only file: what it loses at a restart is brought back only in part; set `appendonly yes`"
            );
        }
        Ok(())
    }

    /// Runs one command on a pooled connection.
    pub(crate) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let mut connection = self.pool.get().await.map_err(|error| StoreError::Away(error.to_string()))?;
        Ok(command.query_async(&mut connection).await?)
    }

    /// Runs several commands on a pooled connection.
    pub(crate) async fn run_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, StoreError> {
        let mut connection = self.pool.get().await.map_err(|error| StoreError::Away(error.to_string()))?;
        Ok(commands.query_async(&mut connection).await?)
    }

    /// Runs a script for one tenant.
    pub(crate) async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        tenant: &str,
        args: &[&[u8]],
    ) -> Result<T, StoreError> {
        let mut pipeline = redis::pipe();
        script.add_to(&mut pipeline, tenant, args.iter().copied());
        let mut answers = self.scripts(script, pipeline).await?;
        let answer = answers.pop().unwrap_or(Value::Nil).extract_error()?;
        redis::from_redis_value(answer).map_err(|error| StoreError::Odd(error.to_string()))
    }

    /// Runs a pipeline of calls of one script on the shared connection; an answer may be an error of its own.
    pub(crate) async fn scripts(&self, script: &Script, mut pipeline: Pipeline) -> Result<Vec<Value>, StoreError> {
        pipeline.ignore_errors();
        let mut connection = self.shared().await?;
        for attempt in 0..2 {
            let answers: Result<Vec<Value>, RedisError> = pipeline.query_async(&mut connection).await;
            match answers {
                // Redis was restarted, or never knew it: told once more, the calls that ran are those after it.
                Ok(answers) if attempt == 0 && answers.iter().all(is_noscript) => {
                    let load = redis::cmd("SCRIPT")
                        .arg("LOAD")
                        .arg(script.text.as_str())
                        .query_async::<String>(&mut connection)
                        .await;
                    if let Err(error) = load {
                        return Err(self.broken(error).await);
                    }
                }
                Ok(answers) => return Ok(answers),
                Err(error) => return Err(self.broken(error).await),
            }
        }
        Err(StoreError::Odd("it forgets scripts as soon as they are loaded".to_owned()))
    }

    async fn shared(&self) -> Result<MultiplexedConnection, StoreError> {
        let mut shared = self.shared.lock().await;
        if let Some(connection) = shared.as_ref() {
            return Ok(connection.clone());
        }
        let connection = self.client.get_multiplexed_async_connection_with_config(&config()).await?;
        *shared = Some(connection.clone());
        Ok(connection)
    }

    /// The shared connection failed: the next call makes another.
    async fn broken(&self, error: RedisError) -> StoreError {
        *self.shared.lock().await = None;
        error.into()
    }

    /// A connection of one's own that may wait for its answers, for following a stream.
    pub(crate) async fn patient(&self) -> Result<MultiplexedConnection, StoreError> {
        let config = config().set_response_timeout(Some(Duration::from_secs(15)));
        Ok(self.client.get_multiplexed_async_connection_with_config(&config).await?)
    }
}

fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(2)))
        .set_response_timeout(Some(ANSWER_WITHIN))
}

fn is_noscript(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

fn field<'i>(info: &'i str, name: &str) -> Option<&'i str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// A Lua script, with the prelude that every script shares.
pub(crate) struct Script {
    text: String,
    sha: String,
}

impl Script {
    pub(crate) fn new(body: &str) -> Self {
        let text = format!("{}\n{body}", include_str!("scripts/prelude.lua"));
        let sha = redis::Script::new(&text).get_hash().to_owned();
        Self { text, sha }
    }

    pub(crate) fn add_to<'a>(&self, pipeline: &mut Pipeline, tenant: &str, args: impl Iterator<Item = &'a [u8]>) {
        let command = pipeline.cmd("EVALSHA").arg(&self.sha).arg(1).arg(prefix(tenant));
        for arg in args {
            command.arg(arg);
        }
    }
}

/// What all of a tenant's keys begin with: the braces keep them in one slot of a cluster.
pub(crate) fn prefix(tenant: &str) -> String {
    format!("f:{{{tenant}}}")
}

//! Which Redis servers a URL names, and how a connection to them is made: to one server, to whichever Sentinel says is the
//! primary now, or to a cluster.

use std::time::Duration;

use deadpool_redis::sentinel::{SentinelNodeConnectionInfo, TlsMode};
use futures::{FutureExt, future::join_all};
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisError, RedisFuture, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
    cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr},
    sentinel::{SentinelClient, SentinelServerType},
};
use tokio::sync::Mutex;

/// How long a server may take to be connected to.
pub(crate) const CONNECTED_WITHIN: Duration = Duration::from_secs(2);
/// How long the Sentinels may take, all together, to name a primary that answers.
pub(crate) const NAMED_WITHIN: Duration = Duration::from_secs(10);

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://[user:password@]host:port/db`, `redis+sentinel://[user:password@]host:port,…/primary's name[/db]` or
    /// `redis+cluster://[user:password@]host:port,…`; with TLS `rediss…`. User and password are the servers', not Sentinel's.
    pub url: String,
    /// Goes over the URL's user.
    pub username: Option<String>,
    /// Goes over the URL's password.
    pub password: Option<String>,
    /// After how long a configuration that Redis had, and lacks, is lost; longer than a fail-over may take.
    pub gone_after: Duration,
}

/// The servers that the settings name.
pub(crate) enum Servers {
    One(redis::Client),
    Sentinel { client: Mutex<SentinelClient>, names: Box<SentinelNames> },
    Cluster(Vec<ConnectionInfo>),
}

/// Who is asked for the primary, what it is called, and how to log in to it.
#[derive(Clone)]
pub(crate) struct SentinelNames {
    pub(crate) sentinels: Vec<ConnectionInfo>,
    pub(crate) primary: String,
    pub(crate) node: SentinelNodeConnectionInfo,
}

impl Servers {
    /// Checks the settings; nothing is connected to. The error never shows the URL: it may hold a password.
    pub(crate) fn named(settings: &RedisSettings) -> anyhow::Result<Self> {
        let wrong = |why: &str| {
            anyhow::anyhow!(
                "is no Redis URL: {why}; write `redis://host:port/0`, `redis+sentinel://host:port,host:port/primary` or \
                 `redis+cluster://host:port,host:port`, with TLS `rediss…`"
            )
        };
        let (scheme, rest) = settings.url.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        let (scheme, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        if kind.is_empty() {
            let info = info(&settings.url, settings).map_err(|_| wrong("it cannot be read"))?;
            return Ok(Self::One(redis::Client::open(info)?));
        }
        if !matches!(scheme, "redis" | "rediss") {
            return Err(wrong("its scheme is neither `redis` nor `rediss`"));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = authority.rsplit_once('@').map_or(("", authority), |(login, hosts)| (login, hosts));
        let login = if login.is_empty() { String::new() } else { format!("{login}@") };
        let hosts: Vec<&str> = hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).collect();
        if hosts.is_empty() {
            return Err(wrong("it names no host"));
        }
        let (path, database) =
            if kind == "sentinel" { path.split_once('/').unwrap_or((path, "0")) } else { (path, "0") };
        let with_login = hosts
            .iter()
            .map(|host| info(&format!("{scheme}://{login}{host}/{database}"), settings))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| wrong("a host cannot be read"))?;
        match (kind, path) {
            ("cluster", "" | "0") => {
                ClusterClient::new(with_login.clone())?; // says what is wrong while it can be mended
                Ok(Self::Cluster(with_login))
            }
            ("cluster", _) => Err(wrong("a cluster has only database 0")),
            ("sentinel", "") => Err(wrong("it names no primary")),
            ("sentinel", name) => {
                let sentinels = hosts
                    .iter()
                    .map(|host| {
                        // Sentinel's own port, where the URL leaves it out.
                        let port = if host.contains(':') { "" } else { ":26379" };
                        format!("{scheme}://{host}{port}").into_connection_info()
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                let node = SentinelNodeConnectionInfo {
                    tls_mode: (scheme == "rediss").then_some(TlsMode::Secure),
                    redis_connection_info: Some(with_login[0].redis_settings().clone().into()),
                };
                let names = SentinelNames { sentinels, primary: name.to_owned(), node };
                let SentinelNames { sentinels, primary, node } = names.clone();
                let client = SentinelClient::build(sentinels, primary, Some(node.into()), SentinelServerType::Master)?;
                Ok(Self::Sentinel { client: Mutex::new(client), names: Box::new(names) })
            }
            _ => Err(wrong("its scheme says neither `sentinel` nor `cluster`")),
        }
    }

    /// Makes a connection that waits so long for an answer.
    pub(crate) async fn connect(&self, patience: Duration) -> Result<Connection, RedisError> {
        let config = patient(patience);
        let connecting = async {
            match self {
                Self::One(client) => {
                    client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::One)
                }
                Self::Sentinel { client, .. } => {
                    let primary = client.lock().await.async_get_client().await?;
                    primary.get_multiplexed_async_connection_with_config(&config).await.map(Connection::One)
                }
                Self::Cluster(nodes) => {
                    let client = ClusterClientBuilder::new(nodes.clone())
                        .connection_timeout(CONNECTED_WITHIN)
                        .response_timeout(patience)
                        .retries(3)
                        .build()?;
                    client.get_async_connection().await.map(Connection::Cluster)
                }
            }
        };
        match tokio::time::timeout(NAMED_WITHIN, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }
}

/// How a connection to one server waits.
pub(crate) fn patient(patience: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECTED_WITHIN)).set_response_timeout(Some(patience))
}

fn info(url: &str, settings: &RedisSettings) -> Result<ConnectionInfo, RedisError> {
    let info = url.into_connection_info()?;
    let mut redis = info.redis_settings().clone();
    if let Some(username) = &settings.username {
        redis = redis.set_username(username);
    }
    if let Some(password) = &settings.password {
        redis = redis.set_password(password);
    }
    Ok(info.set_redis_settings(redis))
}

/// A connection that many share.
#[derive(Clone)]
pub(crate) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Runs commands side by side, each with an answer or an error of its own. In a cluster each goes to its own server.
    pub(crate) async fn each(&mut self, commands: &Pipeline) -> Result<Vec<Result<Value, RedisError>>, RedisError> {
        match self {
            Self::One(connection) => {
                let answers: Vec<Value> = commands.query_async(connection).await?;
                Ok(answers.into_iter().map(Value::extract_error).collect())
            }
            Self::Cluster(connection) => {
                let each = commands.cmd_iter().map(|command| {
                    let mut connection = connection.clone();
                    async move { connection.req_packed_command(command).await.and_then(Value::extract_error) }
                });
                Ok(join_all(each).await)
            }
        }
    }

    /// How many replicas have, within `patience`, what this connection has written to the server of `key`.
    pub(crate) async fn wait(&mut self, key: &str, patience: Duration) -> Result<u32, RedisError> {
        let mut wait = redis::cmd("WAIT");
        wait.arg(1).arg(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
        let answer = match self {
            Self::One(connection) => connection.req_packed_command(&wait).await?,
            Self::Cluster(connection) => {
                let server = SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master));
                connection.route_command(wait, RoutingInfo::SingleNode(server)).await?
            }
        };
        Ok(redis::from_redis_value(answer.extract_error()?)?)
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(command).boxed(),
            Self::Cluster(connection) => connection.req_packed_command(command).boxed(),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(commands, offset, count).boxed(),
            Self::Cluster(connection) => connection.req_packed_commands(commands, offset, count).boxed(),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(url: &str) -> Result<&'static str, String> {
        let settings = RedisSettings {
            url: url.to_owned(),
            username: None,
            password: Some("s3cret".to_owned()),
            gone_after: Duration::ZERO,
        };
        match Servers::named(&settings) {
            Ok(Servers::One(_)) => Ok("one"),
            Ok(Servers::Sentinel { .. }) => Ok("sentinel"),
            Ok(Servers::Cluster(_)) => Ok("cluster"),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    #[test]
    fn a_urls_scheme_says_which_servers_it_names() {
        for (url, kind) in [
            ("redis://127.0.0.1:6379/0", "one"),
            ("rediss://user:pass@redis.example:6380/2", "one"),
            ("redis+sentinel://a:26379,b:26379,c/primary", "sentinel"),
            ("rediss+sentinel://user:p%40ss@a,b,c/primary/3", "sentinel"),
            ("redis+cluster://a:7000,b:7001", "cluster"),
            ("rediss+cluster://user:pass@a:7000/", "cluster"),
        ] {
            assert_eq!(named(url), Ok(kind), "{url}");
        }
        for (url, why) in [
            ("amqp://redis", "cannot be read"),
            ("redis+sentinel://a:26379", "names no primary"),
            ("redis+sentinel:///primary", "names no host"),
            ("redis+cluster://a:7000/1", "only database 0"),
            ("redis+magic://a:7000", "neither `sentinel` nor `cluster`"),
            ("amqp+cluster://a", "neither `redis` nor `rediss`"),
            ("s3cret", "no scheme"),
            ("redis://user:s3cret@:a", "cannot be read"),
        ] {
            let error = named(url).unwrap_err();
            assert!(error.contains(why) && !error.contains("s3cret"), "{url}: {error}");
        }
    }
}

//! A pool of connections for what is no script on the hot path: each is lent to one at a time, and asked whether it still
//! answers before it is lent again.

use std::time::Duration;

use deadpool_redis::{Runtime, Timeouts, cluster, sentinel};
use redis::{Cmd, Pipeline, RedisFuture, Value, aio::ConnectionLike};

use crate::{
    redis_link::StoreError,
    servers::{CONNECTED_WITHIN, NAMED_WITHIN, Servers, patient},
};

/// Connections in a process: as many can ask at once.
const CONNECTIONS: usize = 16;

/// The pool of the servers' kind.
pub(crate) enum Pool {
    One(deadpool_redis::Pool),
    Sentinel(sentinel::Pool),
    Cluster(cluster::Pool),
}

/// A connection that is lent.
pub(crate) enum Lent {
    One(deadpool_redis::Connection),
    Sentinel(sentinel::Connection),
    Cluster(cluster::Connection),
}

impl Pool {
    /// Of these servers, whose answers may take so long. Connects when first used.
    pub(crate) fn new(servers: &Servers, patience: Duration) -> anyhow::Result<Self> {
        let timeouts = Timeouts { wait: Some(patience), create: Some(NAMED_WITHIN), recycle: Some(CONNECTED_WITHIN) };
        Ok(match servers {
            Servers::One(client) => {
                let info = client.get_connection_info().clone();
                let manager = deadpool_redis::Manager::new_with_config(info, patient(patience))?;
                let pool = deadpool_redis::Pool::builder(manager).max_size(CONNECTIONS).timeouts(timeouts);
                Self::One(pool.runtime(Runtime::Tokio1).build()?)
            }
            Servers::Sentinel { names, .. } => {
                let names = names.as_ref().clone();
                let manager = sentinel::Manager::new(
                    names.sentinels,
                    names.primary,
                    Some(names.node),
                    sentinel::SentinelServerType::Master,
                )?;
                // Made with the client's half a second for an answer, which a slow disk exceeds.
                let patience = sentinel::Hook::sync_fn(move |connection, _| {
                    connection.set_response_timeout(patience);
                    Ok(())
                });
                let pool = sentinel::Pool::builder(manager).max_size(CONNECTIONS).timeouts(timeouts);
                Self::Sentinel(pool.post_create(patience).runtime(Runtime::Tokio1).build()?)
            }
            Servers::Cluster(nodes) => {
                let manager = cluster::Manager::new(nodes.clone(), false)?;
                let pool = cluster::Pool::builder(manager).max_size(CONNECTIONS).timeouts(timeouts);
                Self::Cluster(pool.runtime(Runtime::Tokio1).build()?)
            }
        })
    }

    /// One that answers.
    pub(crate) async fn lend(&self) -> Result<Lent, StoreError> {
        match self {
            Self::One(pool) => pool.get().await.map(Lent::One),
            Self::Sentinel(pool) => pool.get().await.map(Lent::Sentinel),
            Self::Cluster(pool) => pool.get().await.map(Lent::Cluster),
        }
        .map_err(|error| match error {
            deadpool_redis::PoolError::Backend(error) => StoreError::from(error),
            error => StoreError::Away(error.to_string()),
        })
    }
}

impl Lent {
    /// Not to be lent again: it broke, or its server takes no writes, which asking whether it answers does not tell.
    pub(crate) fn give_up(self) {
        match self {
            Self::One(connection) => drop(deadpool_redis::Connection::take(connection)),
            Self::Sentinel(connection) => drop(sentinel::Connection::take(connection)),
            Self::Cluster(connection) => drop(cluster::Connection::take(connection)),
        }
    }

    fn connection(&mut self) -> &mut (dyn ConnectionLike + Send) {
        match self {
            Self::One(connection) => connection,
            Self::Sentinel(connection) => connection,
            Self::Cluster(connection) => connection,
        }
    }
}

impl ConnectionLike for Lent {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.connection().req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.connection().req_packed_commands(commands, offset, count)
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Sentinel(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

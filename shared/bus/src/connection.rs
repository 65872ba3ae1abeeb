//! A process's two connections to the broker, made again when lost: one publishes, the other consumes and acks. A memory
//! alarm blocks every connection that publishes, its acks too; work that is done could then never leave the queue.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties, Event, options::QueueDeclareOptions, types::FieldTable, uri::AMQPUri,
};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::{metrics::METRICS, publish::Publisher, topology};

/// How to reach the broker.
#[derive(Debug, Clone)]
pub struct AmqpSettings {
    /// Tried in turn.
    pub uris: Vec<AMQPUri>,
}

impl AmqpSettings {
    /// Parses a comma-separated list of URLs; the other arguments go over their parts.
    pub fn parse(
        urls: &str,
        username: Option<&str>,
        password: Option<&str>,
        vhost: Option<&str>,
    ) -> Result<Self, String> {
        let mut uris = Vec::new();
        for url in urls.split(',').map(str::trim).filter(|url| !url.is_empty()) {
            let mut uri: AMQPUri = url.parse().map_err(|why| format!("is no AMQP URL: {why}"))?;
            // The RabbitMQ operator's connection strings end in `/`, which is the vhost "" to the letter.
            if uri.vhost.is_empty() {
                "/".clone_into(&mut uri.vhost);
            }
            if let Some(username) = username {
                username.clone_into(&mut uri.authority.userinfo.username);
            }
            if let Some(password) = password {
                password.clone_into(&mut uri.authority.userinfo.password);
            }
            if let Some(vhost) = vhost {
                vhost.clone_into(&mut uri.vhost);
            }
            // A broker that is gone without a word is noticed within two heartbeats.
            uri.query.heartbeat = uri.query.heartbeat.or(Some(10));
            uris.push(uri);
        }
        if uris.is_empty() { Err("names no URL".to_owned()) } else { Ok(Self { uris }) }
    }
}

/// Why the bus could not start.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The topology is not what it must be.
    #[error(transparent)]
    Topology(#[from] topology::TopologyError),
    /// The broker refused or went away.
    #[error("the broker refused: {0}")]
    Broker(lapin::Error),
    /// The process was told to stop while it waited for the broker.
    #[error("stopped before the broker was there")]
    Stopped,
}

/// How often preparing the broker is tried again, and after which pause.
const DECLARE_TRIES: u32 = 20;
const DECLARE_AGAIN: Duration = Duration::from_millis(500);

/// Declares the topology over a channel of its own.
async fn prepare(connection: &Connection) -> Result<(), BusError> {
    let channel = connection.create_channel().await.map_err(BusError::Broker)?;
    topology::declare(&channel).await?;
    let _ = channel.close(200, "declared".into()).await; // a channel that does not close is gone with its connection
    Ok(())
}

/// A broker that does not answer a single question within this is gone, whatever its connection says.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long what is given up may take to close.
pub(crate) const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Not there; being made again.
    Away,
    /// There, and the broker takes no publishes (a memory or disk alarm).
    Blocked,
    /// There.
    Up,
}

/// The broker, to one process.
#[derive(Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

struct Inner {
    dialer: Dialer,
    consuming: Mutex<Option<Connection>>,
    publisher: Publisher,
}

impl Bus {
    /// Waits for the broker, declares the topology, and keeps both connections up until `stop`.
    pub async fn connect(
        settings: AmqpSettings,
        service: &'static str,
        stop: CancellationToken,
    ) -> Result<Self, BusError> {
        std::sync::LazyLock::force(&METRICS); // there from the start, at 0
        let dialer = Dialer { settings, service, stop };
        let mut tries = 0;
        let connection = loop {
            let connection = dialer.dial("publish").await.ok_or(BusError::Stopped)?;
            match prepare(&connection).await {
                Ok(()) => break connection,
                // Not what waiting mends: somebody has to decide what becomes of what is there.
                Err(BusError::Topology(differs @ topology::TopologyError::Differs { .. })) => {
                    return Err(differs.into());
                }
                Err(error) if tries == DECLARE_TRIES => return Err(error),
                // All services declare at once: a broker that has just started may be busy with another's same wish.
                Err(error) => tracing::warn!(%error, "the broker is not prepared yet: trying again"),
            }
            tries += 1;
            tokio::time::sleep(DECLARE_AGAIN).await;
        };
        let publisher = Publisher::start(dialer.clone(), connection);
        Ok(Self { inner: Arc::new(Inner { dialer, consuming: Mutex::default(), publisher }) })
    }

    /// Publishes, batched and confirmed.
    pub fn publisher(&self) -> &Publisher {
        &self.inner.publisher
    }

    /// How the publishing connection stands.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.inner.publisher.link()
    }

    /// Every queue of ours with the messages ready in it; `None` where the broker does not say.
    pub async fn depths(&self) -> Option<Vec<(String, u32)>> {
        let channel = self.consuming_channel().await?;
        let mut depths = Vec::new();
        for name in topology::queues() {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let told = channel.queue_declare(name.as_str().into(), options, FieldTable::default());
            match tokio::time::timeout(ANSWER_WITHIN, told).await {
                Ok(Ok(queue)) => depths.push((name, queue.message_count())),
                Ok(Err(error)) => {
                    tracing::warn!(queue = name, %error, "how deep a queue is is not known");
                    return None; // the broker has closed the channel
                }
                Err(_) => return None,
            }
        }
        let _ = channel.close(200, "told".into()).await; // a channel that does not close is gone with its connection
        Some(depths)
    }

    /// A channel of the consuming connection, which is made where it is not there; `None` once stopped.
    pub(crate) async fn consuming_channel(&self) -> Option<Channel> {
        loop {
            let mut consuming = self.inner.consuming.lock().await;
            let connection = match consuming.take() {
                Some(connection) if connection.status().connected() => connection,
                Some(_) => self.inner.dialer.dial_again("consume").await?,
                None => self.inner.dialer.dial("consume").await?,
            };
            match tokio::time::timeout(ANSWER_WITHIN, connection.create_channel()).await {
                Ok(Ok(channel)) => {
                    *consuming = Some(connection);
                    return Some(channel);
                }
                Ok(Err(error)) => tracing::warn!(%error, "the broker gave no channel: connecting again"),
                Err(_) => tracing::warn!("no answer to a wish for a channel: connecting again"),
            }
        }
    }
}

/// Makes connections, patiently.
#[derive(Clone)]
pub(crate) struct Dialer {
    settings: AmqpSettings,
    service: &'static str,
    pub(crate) stop: CancellationToken,
}

impl Dialer {
    /// A connection in place of one that was lost.
    pub(crate) async fn dial_again(&self, role: &str) -> Option<Connection> {
        METRICS.reconnects.inc();
        self.dial(role).await
    }

    /// A connection, however long it takes; `None` once stopped. `role` names it in the broker's console.
    pub(crate) async fn dial(&self, role: &str) -> Option<Connection> {
        let mut pause = Duration::from_millis(100);
        loop {
            for uri in &self.settings.uris {
                let name = format!("fanfare-{} {role}", self.service);
                let properties = ConnectionProperties::default().with_connection_name(name.into());
                let dialled =
                    tokio::time::timeout(Duration::from_secs(10), Connection::connect_uri(uri.clone(), properties));
                tokio::select! {
                    () = self.stop.cancelled() => return None,
                    dialled = dialled => match dialled {
                        Ok(Ok(connection)) => return Some(connection),
                        Ok(Err(error)) => {
                            tracing::warn!(host = %uri.authority.host, port = uri.authority.port, %error, "the broker is away: trying again");
                        }
                        Err(_) => tracing::warn!(host = %uri.authority.host, port = uri.authority.port, "no connection within 10 s: trying again; is the name resolved, and does the broker answer?"),
                    },
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }
}

/// Follows what the broker says of a connection; cancels `gone` when it is lost, also while nothing is published.
pub(crate) fn follow(
    connection: &Connection,
    link: watch::Sender<Link>,
    gone: CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let mut events = Box::pin(connection.events_listener());
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Event::ConnectionBlocked(reason) => {
                    tracing::warn!(reason, "the broker takes no publishes");
                    METRICS.blocked.set(1);
                    link.send_replace(Link::Blocked);
                }
                Event::ConnectionUnblocked => {
                    tracing::info!("the broker takes publishes again");
                    METRICS.blocked.set(0);
                    link.send_replace(Link::Up);
                }
                Event::Error(error) => {
                    tracing::warn!(%error, "the connection that publishes is lost");
                    gone.cancel();
                }
                _ => {}
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_parts_go_over_the_urls() {
        let parse = |url| AmqpSettings::parse(url, Some("u"), Some("p"), None).unwrap().uris.remove(0);
        for (url, vhost) in
            [("amqp://a:b@h:5672/%2f", "/"), ("amqp://h/", "/"), ("amqp://h", "/"), ("amqp://h/fan", "fan")]
        {
            let uri = parse(url);
            assert_eq!(uri.vhost, vhost, "{url}");
            assert_eq!(
                (uri.authority.userinfo.username.as_str(), uri.authority.userinfo.password.as_str()),
                ("u", "p")
            );
        }
        assert_eq!(AmqpSettings::parse("amqp://a, amqp://b", None, None, None).unwrap().uris.len(), 2);
        assert!(AmqpSettings::parse("http://a", None, None, None).is_err());
        assert!(AmqpSettings::parse("", None, None, None).is_err());
    }
}
